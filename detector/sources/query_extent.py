"""Oldest and newest sample of a query, which can only be found by asking it for ranges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from detector.core.series import Samples

_HOUR = 3_600_000
_DAY = 24 * _HOUR
_DAYS = 30  # that count


@dataclass(frozen=True)
class _Known:
    """What was found; times in epoch milliseconds."""

    oldest: int | None
    newest: int | None
    searched_at: int  # the last search through all days
    searched_until: int


class QueryExtent:
    """Remembers what it has found: a first question reads two days of samples at most, later ones what is new."""

    def __init__(self, read: Callable[[int, int], Samples]) -> None:
        self._read = read
        self._known: _Known | None = None

    def __call__(self, now: int, until: int) -> tuple[int, int] | None:
        """Times of the oldest and the newest sample of the last 30 days, before `until`; epoch milliseconds."""
        known = self._known
        if known is None or not 0 <= now - known.searched_at < _HOUR:
            known = self._searched(now, until)
        else:
            known = self._continued(known, until)
        self._known = known
        return None if known.oldest is None or known.newest is None else (known.oldest, known.newest)

    def _searched(self, now: int, until: int) -> _Known:
        begin = now - _DAYS * _DAY
        newest, high = None, until
        for low in (now - _HOUR, *(now - day * _DAY for day in range(1, _DAYS + 1))):
            samples = self._read(low, high)
            if len(samples):
                newest = int(samples.time.max())
                break
            high = low
        if newest is None:
            return _Known(None, None, now, until)
        for low in range(begin, newest + 1, _DAY):
            samples = self._read(low, min(low + _DAY, newest + 1))
            if len(samples):
                return _Known(int(samples.time.min()), newest, now, until)
        return _Known(newest, newest, now, until)

    def _continued(self, known: _Known, until: int) -> _Known:
        """Looks beyond the newest known sample; without one, at the last day."""
        low = known.searched_until - _DAY if known.newest is None else known.newest + 1
        samples = self._read(low, max(low, until))
        if not len(samples):
            return _Known(known.oldest, known.newest, known.searched_at, until)
        oldest = int(samples.time.min()) if known.oldest is None else known.oldest
        return _Known(oldest, int(samples.time.max()), known.searched_at, until)
