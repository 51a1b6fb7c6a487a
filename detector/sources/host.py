"""The metrics of the machine this process runs on, read with psutil."""

from __future__ import annotations

import math
from dataclasses import dataclass

import psutil

from detector.config.sections import HOST_METRICS

METRICS = HOST_METRICS
"""Every metric this source knows, in the order of the tuple `HostSampler.sample` returns."""


@dataclass(frozen=True)
class _Counters:
    """Totals since boot; rates are differences of two of these."""

    at: float
    cpu_total: float
    cpu_idle: float
    cpu_iowait: float
    disk_read: float
    disk_write: float
    network_receive: float
    network_transmit: float


class HostSampler:
    """Reads this machine's metrics; rates are means since the previous call."""

    def __init__(self) -> None:
        self._previous: _Counters | None = None

    def sample(self, at: float) -> tuple[float, ...]:
        """One value per name in `METRICS`; NaN where a rate has no predecessor yet or a counter was reset.

        at: time of this sample in seconds.
        """
        now = _read_counters(at)
        before, self._previous = self._previous, now
        return (
            _cpu_percent(before, now),
            _iowait_percent(before, now),
            psutil.getloadavg()[0],
            psutil.virtual_memory().percent,
            psutil.swap_memory().percent,
            _rate(before, now, "disk_read"),
            _rate(before, now, "disk_write"),
            psutil.disk_usage("/").percent,
            _rate(before, now, "network_receive"),
            _rate(before, now, "network_transmit"),
            float(len(psutil.pids())),
        )


def _read_counters(at: float) -> _Counters:
    cpu = psutil.cpu_times()
    disk = psutil.disk_io_counters(nowrap=True)
    network = [counters for name, counters in psutil.net_io_counters(pernic=True, nowrap=True).items() if name != "lo"]
    return _Counters(
        at=at,
        # guest time is already contained in user and nice
        cpu_total=sum(cpu) - getattr(cpu, "guest", 0.0) - getattr(cpu, "guest_nice", 0.0),
        cpu_idle=cpu.idle,
        cpu_iowait=getattr(cpu, "iowait", 0.0),
        disk_read=float(disk.read_bytes) if disk else math.nan,
        disk_write=float(disk.write_bytes) if disk else math.nan,
        network_receive=float(sum(counters.bytes_recv for counters in network)),
        network_transmit=float(sum(counters.bytes_sent for counters in network)),
    )


def _cpu_percent(before: _Counters | None, now: _Counters) -> float:
    if before is None or now.cpu_total <= before.cpu_total:
        return math.nan
    idle = now.cpu_idle + now.cpu_iowait - before.cpu_idle - before.cpu_iowait
    return 100.0 * (1.0 - idle / (now.cpu_total - before.cpu_total))


def _iowait_percent(before: _Counters | None, now: _Counters) -> float:
    if before is None or now.cpu_total <= before.cpu_total:
        return math.nan
    return 100.0 * (now.cpu_iowait - before.cpu_iowait) / (now.cpu_total - before.cpu_total)


def _rate(before: _Counters | None, now: _Counters, counter: str) -> float:
    """Increase of one counter per second; NaN if it went backwards: an interface vanished, or the machine restarted."""
    if before is None or now.at <= before.at:
        return math.nan
    increase = getattr(now, counter) - getattr(before, counter)
    return increase / (now.at - before.at) if increase >= 0.0 else math.nan
