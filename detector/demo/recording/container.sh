#!/bin/bash
# Runs record.py in a container with its own CPU, memory, process and network accounting (lxcfs, cgroup v1), so that
# whatever else the machine does stays out of the recording; its clients run outside, at the other end of a veth pair.
# Disk counters are the machine's. Needs root and lxcfs.  Usage: container.sh PYTHON FOLDER [record.py options]
set -eu
python=$1 out=$2; shift 2
here=$(cd "$(dirname "$0")" && pwd)
procfs=/var/lib/lxcfs/proc
mountpoint -q /var/lib/lxcfs || { mkdir -p /var/lib/lxcfs; lxcfs --enable-loadavg /var/lib/lxcfs & sleep 1; }
mkdir -p "$out"
ip netns add recorded
trap 'ip netns del recorded; kill $(jobs -p) 2>/dev/null' EXIT
ip link add clients type veth peer name eth0 netns recorded
ip addr add 10.77.0.1/24 dev clients && ip link set clients up
ip -n recorded addr add 10.77.0.2/24 dev eth0 && ip -n recorded link set eth0 up && ip -n recorded link set lo up
"$python" "$here/workload.py" request --url http://10.77.0.2:8080/ &
for controller in cpu cpuacct memory pids; do mkdir -p /sys/fs/cgroup/$controller/recorded; done
echo 4G > /sys/fs/cgroup/memory/recorded/memory.limit_in_bytes
echo 8192 > /sys/fs/cgroup/cpu/recorded/cpu.shares
cpuset=/sys/fs/cgroup/cpuset/recorded  # a processor of its own: the last one; keep other work off it with taskset
mkdir -p $cpuset
echo $(($(nproc --all) - 1)) > $cpuset/cpuset.cpus
cat /sys/fs/cgroup/cpuset/cpuset.mems > $cpuset/cpuset.mems
(
  for controller in cpuset cpu cpuacct memory pids; do sh -c 'echo $PPID' > /sys/fs/cgroup/$controller/recorded/cgroup.procs; done
  PYTHONPATH="$here/../../.." exec ip netns exec recorded unshare --mount --pid --fork --mount-proc bash -ec '
    mount --make-rprivate /
    for file in stat meminfo loadavg swaps uptime; do mount --bind '"$procfs"'/$file /proc/$file; done
    exec "$@"' recorded "$python" "$here/record.py" --out "$out" "$@"
)
