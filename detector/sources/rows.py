"""Rows as a database driver returns them, to the columns of `Samples`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from detector.core.series import Float64, Int64, Samples

BAD_TIME = np.iinfo(np.int64).min
"""Stands for a time that cannot be read; its row is left out."""


def samples(
    entity: Sequence[str | None],
    metric: np.ndarray[tuple[int], np.dtype[np.int32]],
    time: Int64,
    value: Float64,
) -> Samples:
    """Columns of equal length as `Samples`; rows with no entity, metric −1 or `BAD_TIME` are left out."""
    index: dict[str, int] = {}
    row = np.fromiter(
        (-1 if name is None else index.setdefault(name, len(index)) for name in entity), np.int32, len(entity)
    )
    keep = (row >= 0) & (metric >= 0) & (time != BAD_TIME)
    return Samples(tuple(index), row[keep], metric[keep], time[keep], value[keep])


def concatenate(parts: Sequence[Samples]) -> Samples:
    """Several readings as one, in order."""
    index: dict[str, int] = {}
    rows = []
    for part in parts:
        map_ = np.array([index.setdefault(name, len(index)) for name in part.entities], dtype=np.int32)
        rows.append(map_[part.entity] if len(part) else part.entity)
    if not parts:
        return samples([], np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float64))
    return Samples(
        tuple(index),
        np.concatenate(rows),
        np.concatenate([part.metric for part in parts]),
        np.concatenate([part.time for part in parts]),
        np.concatenate([part.value for part in parts]),
    )


def to_values(column: Sequence[Any]) -> Float64:
    """Numbers as float64; NULL, and text that is no number, as NaN."""
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
    """Times as epoch milliseconds; `BAD_TIME` where there is none. `zone` is that of timestamps without one."""
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
