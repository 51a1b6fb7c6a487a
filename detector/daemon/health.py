"""Health of a running daemon: whether it does its work, for /readyz, and whether it hangs, for systemd's watchdog.

Measured by the monotonic clock: a wall clock that is set must not make a daemon look alive or dead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import timedelta

from detector.daemon.tasks import MonitorRun

_STUCK_AFTER = timedelta(minutes=10)  # longer than any tick should take; a catch-up is done in chunks
_READY_INTERVALS = 3  # ticks that may be missed, and
_READY_GRACE_SECONDS = 60.0  # the time a slow one may take, before the daemon is not ready
_PING_SECONDS = 1.5  # /readyz answers within two seconds, whatever hangs


class Ping:
    """Asks the database for a sign of life; a question that hangs delays nobody, and no second one is asked then."""

    def __init__(self, ping: Callable[[], None]) -> None:
        """ping: raises if the database does not answer."""
        self._ping = ping
        self._asking: threading.Thread | None = None
        self._lock = threading.Lock()
        self._failure: str | None = None

    def problem(self) -> str | None:
        """Why the database does not answer; None if it does."""
        with self._lock:
            if self._asking is None or not self._asking.is_alive():
                self._asking = threading.Thread(target=self._ask, name="ping", daemon=True)
                self._asking.start()
            asking = self._asking
        asking.join(_PING_SECONDS)
        return f"database: no answer for {_PING_SECONDS:g} s" if asking.is_alive() else self._failure

    def _ask(self) -> None:
        try:
            self._ping()
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is a reason
            self._failure = f"database: {type(exc).__name__}"
        else:
            self._failure = None


def problem(runs: Iterable[MonitorRun], now: float) -> str | None:
    """Why some monitor is not watched; None if all are. now: of the monotonic clock."""
    for run in runs:
        name = run.section.name
        if run.succeeded is None:
            return f"monitor {name}: no tick has succeeded yet"
        if now - run.succeeded > _READY_INTERVALS * run.section.score_interval.total_seconds() + _READY_GRACE_SECONDS:
            return f"monitor {name}: the last successful tick was {now - run.succeeded:.0f} s ago"
    return None


def stuck(runs: Iterable[MonitorRun]) -> str | None:
    """A monitor whose ticks have not ended for far too long, None if there is none. A failed tick has ended."""
    for run in runs:
        limit = max(3 * run.section.score_interval, _STUCK_AFTER) + run.section.delay
        if time.monotonic() - run.finished > limit.total_seconds():
            return run.section.name
    return None
