"""Health of a running daemon: whether it does its work, for /readyz, and whether it hangs, for systemd's watchdog."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import timedelta

from detector.daemon.tasks import MonitorRun

_STUCK_AFTER = timedelta(minutes=10)  # longer than any tick should take; a catch-up is done in chunks
_READY_INTERVALS = 3  # ticks that may be missed, and
_READY_GRACE_SECONDS = 60.0  # the time a slow one may take, before the daemon is not ready


def problem(
    runs: Iterable[MonitorRun],
    *,
    ping: Callable[[], None],
    last_success: Callable[[str], float | None],
    now: float,
) -> str | None:
    """Why the daemon does not do its work; None if it does.

    ping: raises if the database does not answer
    last_success: of a monitor's ticks, epoch seconds; now: epoch seconds
    """
    try:
        ping()
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is a reason
        return f"database: {type(exc).__name__}"
    for run in runs:
        name, last = run.section.name, last_success(run.section.name)
        if last is None:
            return f"monitor {name}: no tick has succeeded yet"
        if now - last > _READY_INTERVALS * run.section.score_interval.total_seconds() + _READY_GRACE_SECONDS:
            return f"monitor {name}: the last successful tick was {now - last:.0f} s ago"
    return None


def stuck(runs: Iterable[MonitorRun]) -> str | None:
    """A monitor whose ticks have not ended for far too long, None if there is none. A failed tick has ended."""
    for run in runs:
        limit = max(3 * run.section.score_interval, _STUCK_AFTER) + run.section.delay
        if time.monotonic() - run.finished > limit.total_seconds():
            return run.section.name
    return None
