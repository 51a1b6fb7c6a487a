"""Records this machine's metrics under `workload.py` while real faults are provoked at known times.

    record.py --out FOLDER [--minutes 107]

Writes FOLDER/host.csv (one row every 5 seconds) and FOLDER/faults.json as it goes. Run it as root in the container that
`container.sh` makes: the last fault covers /proc/meminfo with a copy of itself.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from detector.sources import host

STEP_SECONDS = 5
WORKLOAD = Path(__file__).with_name("workload.py")


class Machine:
    """The service and batch job that run on the recorded machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batch = self._start("batch")
        self.service = self._start("serve")

    def _start(self, part: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, WORKLOAD, part, "--dir", str(self.folder)])

    def runaway_process(self, seconds: float) -> None:
        """Two processes spin."""
        spin = "while True: pass"
        processes = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(2)]
        time.sleep(seconds)
        for process in processes:
            process.kill()
            process.wait()

    def memory_leak(self, seconds: float) -> None:
        """One process takes 6 MB more every second."""
        leak = "import os, time\nheap = []\nwhile True: heap.append(os.urandom(4096) * 1536); time.sleep(1)"
        process = subprocess.Popen([sys.executable, "-c", leak])
        time.sleep(seconds)
        process.kill()
        process.wait()

    def disk_write_storm(self, seconds: float) -> None:
        """25 MB a second are written and synced."""
        end = time.monotonic() + seconds
        path = self.folder / "storm"
        while time.monotonic() < end:
            with path.open("wb") as out:
                out.write(os.urandom(1 << 20) * 25)
                os.fsync(out.fileno())
            time.sleep(1.0)
        path.unlink()

    def service_dies(self, seconds: float) -> None:
        """The service is killed and comes back only after a while: its clients get no answer."""
        self.service.kill()
        self.service.wait()
        time.sleep(seconds)
        self.service = self._start("serve")

    def frozen_sensor(self, seconds: float) -> None:
        """/proc/meminfo says the same thing for a while: whoever reads memory use gets the old value."""
        with tempfile.NamedTemporaryFile() as copy:
            copy.write(Path("/proc/meminfo").read_bytes())
            copy.flush()
            subprocess.run(["mount", "--bind", copy.name, "/proc/meminfo"], check=True)
            time.sleep(seconds)
            subprocess.run(["umount", "/proc/meminfo"], check=True)


SCHEDULE: tuple[tuple[float, float, Callable[[Machine, float], None], tuple[str, ...]], ...] = (
    # minute, minutes, fault, metrics it shows in
    (62.0, 3.0, Machine.runaway_process, ("cpu_percent", "load_1m", "processes")),
    (70.0, 4.0, Machine.memory_leak, ("memory_used_percent", "processes")),
    (79.0, 3.0, Machine.disk_write_storm, ("disk_write_bytes_per_second", "cpu_iowait_percent", "disk_used_percent")),
    (
        87.5,
        3.0,
        Machine.service_dies,
        (
            "network_receive_bytes_per_second",
            "network_transmit_bytes_per_second",
            "cpu_percent",
            "memory_used_percent",
            "processes",
        ),
    ),
    (96.0, 5.0, Machine.frozen_sensor, ("memory_used_percent",)),
)


def provoke(machine: Machine, out: Path, started: float, stop: threading.Event) -> None:
    """Provokes every fault at its time and notes when it really began and ended."""
    noted: list[dict[str, object]] = []
    for minute, minutes, fault, metrics in SCHEDULE:
        if stop.wait(max(0.0, started + 60.0 * minute - time.time())):
            return
        begin = time.time()
        fault(machine, 60.0 * minutes)
        noted.append({"name": fault.__name__, "start": iso(begin), "end": iso(time.time()), "metrics": metrics})
        (out / "faults.json").write_text(json.dumps(noted, indent=1) + "\n")


def iso(at: float) -> str:
    """RFC 3339, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=107.0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    machine, sampler, stop = Machine(args.out), host.HostSampler(), threading.Event()
    time.sleep(30.0)  # the service has filled its cache
    started = time.time()
    faults = threading.Thread(target=provoke, args=(machine, args.out, started, stop), daemon=True)
    faults.start()
    with (args.out / "host.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["timestamp", *host.METRICS])
        sampler.sample(time.time())
        while time.time() < started + 60.0 * args.minutes:
            time.sleep(STEP_SECONDS - time.time() % STEP_SECONDS)
            values = sampler.sample(time.time())
            rows.writerow([iso(time.time()), *("" if math.isnan(value) else f"{value:.5g}" for value in values)])
            file.flush()
    stop.set()
    machine.service.kill()
    machine.batch.kill()


if __name__ == "__main__":
    main()
