"""Conversion of rows from a database driver into the columns of `Samples`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count, repeat
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from detector.core.series import Float64, Int64, Samples

Int32 = NDArray[np.int32]

BAD_TIME = np.iinfo(np.int64).min
"""Stands for a time that cannot be read; its row is left out."""


Part = tuple[Int32, Int32, Int64, Float64]
"""Some rows as columns, (N,) each: entity (index into the names, −1 = none), metric (−1 = not the monitor's), time,
value."""


class Names:
    """Numbers the entities of one read in the order they come in."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {}

    def rows(self, names: Sequence[str | None]) -> Int32:
        """Each name's number, −1 for none, (N,)."""
        index = self._index
        try:
            return np.fromiter(map(index.__getitem__, names), np.int32, len(names))  # type: ignore[arg-type]  # None: KeyError
        except KeyError:  # some are new
            new = [name for name in dict.fromkeys(names) if name is not None and name not in index]
            index.update(zip(new, count(len(index)), strict=False))
            return np.fromiter(map(index.get, names, repeat(-1)), np.int32, len(names))  # type: ignore[arg-type]

    @property
    def entities(self) -> tuple[str, ...]:
        """All names so far, by number."""
        return tuple(self._index)


def samples(entities: tuple[str, ...], parts: Sequence[Part]) -> Samples:
    """All parts of a read together; rows without entity, metric or time are left out."""
    kept = [_known(part) for part in parts]
    if not kept:
        return Samples((), np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float64))
    entity, metric, time, value = zip(*kept, strict=True)
    return Samples(
        entities, np.concatenate(entity), np.concatenate(metric), np.concatenate(time), np.concatenate(value)
    )


def _known(part: Part) -> Part:
    entity, metric, time, value = part
    keep = (entity >= 0) & (metric >= 0) & (time != BAD_TIME)
    if keep.all():
        return part
    return entity[keep], metric[keep], time[keep], value[keep]


def to_values(column: Sequence[Any]) -> Float64:
    """A column as float64, (N,); NULL, and text that is no number, as NaN."""
    try:
        return np.array(column, dtype=np.float64)
    except (TypeError, ValueError):
        return np.fromiter((_to_value(item) for item in column), np.float64, len(column))


def _to_value(item: Any) -> float:
    try:
        return float(item)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def to_milliseconds(column: Sequence[Any], time_format: str, zone: ZoneInfo) -> Int64:
    """A column as epoch milliseconds, (N,); `BAD_TIME` where there is none. zone: of timestamps without one."""
    if time_format != "timestamp":
        factor = 1000.0 if time_format == "epoch_seconds" else 1.0
        numbers = to_values(column) * factor
        # beyond the year 9999 or before 0001 a number is no time
        usable = np.abs(numbers) < 253_402_300_800_000
        return np.where(usable, np.round(np.where(usable, numbers, 0.0)), BAD_TIME).astype(np.int64)
    if all(type(item) is datetime for item in column):
        return _from_datetimes(column, zone)
    return _from_datetimes([parse_timestamp(item) for item in column], zone)


def parse_timestamp(item: Any) -> datetime | None:
    """A timestamp as a driver returns it, or ISO 8601 text; None if it is neither."""
    if isinstance(item, datetime):
        return item
    try:
        return datetime.fromisoformat(str(item).strip())
    except ValueError:
        return None


def _from_datetimes(column: Sequence[datetime | None], zone: ZoneInfo) -> Int64:
    return np.fromiter((_from_datetime(item, zone) for item in column), np.int64, len(column))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)


def _from_datetime(item: datetime | None, zone: ZoneInfo) -> int:
    if item is None:
        return BAD_TIME
    if item.tzinfo is None:
        if zone.key == "UTC":
            difference = item - _NAIVE_EPOCH  # several times faster than going through a zone
            return difference.days * 86_400_000 + difference.seconds * 1000 + difference.microseconds // 1000
        item = item.replace(tzinfo=zone)
    difference = item - _EPOCH
    return difference.days * 86_400_000 + difference.seconds * 1000 + difference.microseconds // 1000
