"""Local times that occur twice, since clocks are set back: which of the two a row without offset means.

Rows come in the order in which they were written, or the other way round. Where the times of one entity and metric step
back by half of the hour or more, its second time around has begun. If none does so, since rows come in order of time,
but nearly every time occurs twice, the first of two rows is the first time around. If nothing tells, since a table
keeps one row for each entity and local time, a row counts for both: it may be of either, and an hour without any would
look as if everything had fallen silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from detector.core.series import Bool, Float64, Int64
from detector.sources.rows import Part
from detector.times import DAY_MS, milliseconds

_NEARLY_ALL = 0.9  # of the times so far; rows that are sent again, or events of one second, are fewer
_IN_ORDER = 1.5  # steps of time in one direction for each one in the other; two rows an hour have two for one


@dataclass(frozen=True)
class RepeatedHour:
    """A span of local time that occurs twice, mostly an hour; epoch milliseconds."""

    start: int  # of the first time around
    length: int

    @property
    def turn(self) -> int:
        """Start of the second time around."""
        return self.start + self.length

    @property
    def end(self) -> int:
        """End of the second time around."""
        return self.turn + self.length


def between(zone: ZoneInfo, start: int, end: int) -> list[RepeatedHour]:
    """The repeated hours of which one time around or the other lies in [start, end), epoch milliseconds."""
    found = []
    for day in range(start - DAY_MS, end + DAY_MS, DAY_MS):
        length = _offset(zone, day) - _offset(zone, day + DAY_MS)
        if length > 0:
            hour = RepeatedHour(_turn(zone, day) - length, length)
            found += [hour] if hour.start < end and start < hour.end else []
    return found


def _offset(zone: ZoneInfo, at: int) -> int:
    """Milliseconds that a zone's clocks are ahead of UTC."""
    return milliseconds(datetime.fromtimestamp(at / 1000, zone).utcoffset() or timedelta(0))


def _turn(zone: ZoneInfo, day: int) -> int:
    """The time within a day at which clocks are set back."""
    low, high, before = day, day + DAY_MS, _offset(zone, day)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _offset(zone, middle) == before else (low, middle)
    return high


def dated(parts: Sequence[Part], local: Sequence[Bool], hours: Sequence[RepeatedHour], *, start: int, end: int) -> Part:
    """Samples of [start, end) at the time around that they mean, (N,) each; one that may mean either comes twice.

    parts: one or more, in the order of reading; times without offset are taken for the first time around
    local: whether a row's time has no offset, (R,) for each part; a row has one sample or several
    start, end: epoch milliseconds
    """
    entity, metric, time, value = map(np.concatenate, zip(*parts, strict=True))
    is_local = np.concatenate(local)
    is_known = is_local.repeat(len(time) // len(is_local)) & (entity >= 0) & (metric >= 0)
    rows, times = [np.arange(len(time))], [time.copy()]
    for hour in hours:
        found = np.flatnonzero(is_known & (time >= hour.start) & (time < hour.turn))
        series = np.unique(entity[found].astype(np.int64) << 32 | metric[found], return_inverse=True)[1]
        is_second = _second(series, time[found] - hour.start, value[found], length=hour.length)
        if is_second is None:
            rows.append(found)
            times.append(time[found] + hour.length)
        else:
            times[0][found[is_second]] += hour.length
    row, time = np.concatenate(rows), np.concatenate(times)
    is_inside = (time >= start) & (time < end)
    row = row[is_inside]
    return entity[row], metric[row], time[is_inside], value[row]


def _second(series: Int64, clock: Int64, value: Float64, *, length: int) -> Bool | None:
    """Whether each sample, (N,) in the order of reading, is of the second time around; None if nothing tells.

    series: number of its entity and metric, from 0; clock: milliseconds since the hour began
    """
    found = np.zeros(len(series), dtype=np.bool_)
    order = np.argsort(series, kind="stable")
    number, at = series[order], clock[order]
    steps = np.diff(at)[np.diff(number) == 0]
    rising, falling = (steps > 0).sum(), (steps < 0).sum()
    if falling > _IN_ORDER * rising:  # newest first
        told = _second(series[::-1], clock[::-1], value[::-1], length=length)
        return None if told is None else told[::-1]
    newest = np.maximum.accumulate(number * 2 * length + at) - number * 2 * length  # of the series so far
    is_back = newest - at >= length / 2
    if rising > _IN_ORDER * falling and is_back.any():
        found[order] = np.maximum.accumulate(np.where(is_back, number + 1, 0)) == number + 1  # from there on
        return found
    rows = np.flatnonzero(np.isfinite(value))
    rows = rows[np.lexsort((clock[rows], series[rows]))]
    is_again = np.diff(series[rows] * length + clock[rows], prepend=-1) == 0
    so_far = clock[rows] <= clock[rows][is_again].max(initial=-1)
    if not is_again.any() or is_again.sum() < _NEARLY_ALL * (so_far & ~is_again).sum():
        return None
    found[rows[is_again]] = True
    return found
