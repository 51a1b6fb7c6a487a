"""Conversion of rows from a database driver into the columns of `Samples`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import compress, count
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from detector.core import grid, rejects
from detector.core.rejects import Reject
from detector.core.series import Bool, Float64, Int64, Samples

Int32 = NDArray[np.int32]

BAD_TIME = np.iinfo(np.int64).min
"""Stands for a time that cannot be read; its row is left out."""

FIRST = 31_536_000_000
"""1971-01-01, epoch milliseconds: what comes before it is no measurement, but a zero date or a small number."""

LAST = 7_258_118_400_000
"""2200-01-01, epoch milliseconds: what comes after it is no measurement, but infinity or another unit."""

AHEAD = 5 * 60_000
"""Milliseconds that a row may be ahead of the clock before it counts as one of the future."""

MOST_REJECTS = 1000
"""Counted at most of the rows that no read comes upon."""

LONGEST_NAME = 191  # characters, as the detector's own tables hold them

_MISSING = {"", "-", "na", "n/a", "nan", "null", "none"}  # text that says that there is no value

Part = tuple[Int32, Int32, Int64, Float64]
"""Some rows as columns, (N,) each: entity (index into the names, −1 = none), metric (−1 = not the monitor's), time,
value."""


class Noted:
    """Counts the rows of one read that are rejected."""

    def __init__(self) -> None:
        self._found: list[Reject] = []

    def note(self, reason: str, which: Bool, example: Callable[[int], object]) -> None:
        """Notes the rows (N,) that are true; example: what such a row holds."""
        if which.any():
            shown = rejects.printable(example(int(which.argmax())))
            self._found.append(Reject(reason, int(which.sum()), shown))

    @property
    def rejects(self) -> tuple[Reject, ...]:
        """All of them by reason."""
        return rejects.added(self._found)


class Names:
    """Numbers the entities of one read in the order they come in."""

    def __init__(self) -> None:
        self._index: dict[str | None, int] = {None: -1}
        self._entities: list[str] = []

    def rows(self, names: Sequence[str | None]) -> Int32:
        """Each name's number, −1 for none and for one that cannot be stored, (N,)."""
        index = self._index
        try:
            return np.fromiter(map(index.__getitem__, names), np.int32, len(names))
        except KeyError:  # some are new
            new = [name for name in dict.fromkeys(names) if name not in index]
            usable = [name for name in new if name is not None and _is_storable(name)]
            index.update(dict.fromkeys(new, -1))
            index.update(zip(usable, count(len(self._entities)), strict=False))
            self._entities += usable
            return np.fromiter(map(index.__getitem__, names), np.int32, len(names))

    @property
    def entities(self) -> tuple[str, ...]:
        """All names so far, by number."""
        return tuple(self._entities)


def _is_storable(name: str) -> bool:
    """Whether every database can hold a name, and tell it from others: to some "web" and "web " are the same."""
    if len(name) > LONGEST_NAME or "\0" in name or name.endswith(" "):
        return False
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def samples(entities: tuple[str, ...], parts: Sequence[Part], found: tuple[Reject, ...] = ()) -> Samples:
    """All parts of a read together; rows without entity, metric or time are left out."""
    kept = [_known(part) for part in parts]
    if not kept:
        nothing = np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float64)
        return Samples((), *nothing, rejects=found)
    entity, metric, time, value = map(np.concatenate, zip(*kept, strict=True))
    return Samples(entities, entity, metric, time, value, rejects=found)


def compact(found: Samples) -> Samples:
    """The same samples without the entities that have none."""
    is_here = np.zeros(len(found.entities), dtype=np.bool_)
    is_here[found.entity] = True
    if is_here.all():
        return found
    number = np.cumsum(is_here, dtype=np.int32) - 1
    entities = tuple(compress(found.entities, is_here.tolist()))
    return replace(found, entities=entities, entity=number[found.entity].astype(np.int32))


def _known(part: Part) -> Part:
    entity, metric, time, value = part
    keep = (entity >= 0) & (metric >= 0) & (time != BAD_TIME)
    if keep.all():
        return part
    return entity[keep], metric[keep], time[keep], value[keep]


def to_text(item: Any) -> str | None:
    """A name as a driver returns it; None for NULL. Bytes that are no UTF-8 become lone surrogates (PEP 383)."""
    if item is None or type(item) is str:
        return item
    return bytes(item).decode("utf-8", "surrogateescape") if _is_binary(item) else str(item)


def _is_binary(item: Any) -> bool:
    return isinstance(item, bytes | bytearray | memoryview)


def to_values(column: Sequence[Any]) -> Float64:
    """A column as float64, (N,); NULL, and text that is no number, as NaN."""
    try:
        return np.array(column, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.fromiter((_to_value(item) for item in column), np.float64, len(column))


def _to_value(item: Any) -> float:
    try:
        return float(item)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def without_padding(column: Sequence[Any]) -> list[Any]:
    """A column of type CHAR, which databases fill up with blanks, without them."""
    return [item.rstrip(" ") if isinstance(item, str) else item for item in column]


def from_bits(column: Sequence[Any]) -> list[int | None]:
    """A column of type BIT, which MySQL sends as bytes, as numbers."""
    return [int.from_bytes(item, "big") if isinstance(item, bytes) else item for item in column]


def usable(values: Float64) -> Bool:
    """Where a value is one that can be scored, (N,): neither missing nor infinite nor beyond single precision."""
    return np.asarray(np.abs(values) <= grid.LARGEST)


def unreadable(column: Sequence[Any], values: Float64) -> Bool:
    """Where something stands that is no usable number and does not say that there is none, (N,).

    values: of the column
    """
    is_bad = ~usable(values)
    for row in np.flatnonzero(np.isnan(values)).tolist():
        item = column[row]
        is_bad[row] = not (item is None or isinstance(item, float) or str(to_text(item)).strip().lower() in _MISSING)
    return is_bad


def to_milliseconds(column: Sequence[Any], time_format: str, zone: ZoneInfo) -> Int64:
    """A column as epoch milliseconds, (N,); `BAD_TIME` where there is none. zone: of timestamps without one."""
    if time_format != "timestamp":
        factor = 1000.0 if time_format == "epoch_seconds" else 1.0
        with np.errstate(over="ignore"):  # 1e308 is no time either way
            numbers = to_values(column) * factor
        usable = (numbers >= FIRST) & (numbers < LAST)
        return np.where(usable, np.round(np.where(usable, numbers, 0.0)), BAD_TIME).astype(np.int64)
    if all(type(item) is datetime for item in column):
        found = _from_datetimes(column, zone)
    else:
        found = _from_datetimes([parse_timestamp(item) for item in column], zone)
    return np.where((found >= FIRST) & (found < LAST), found, BAD_TIME)


def is_local(column: Sequence[Any]) -> Bool:
    """Where a timestamp has no offset, (N,)."""
    moments = map(parse_timestamp, column)
    return np.fromiter((moment is not None and moment.tzinfo is None for moment in moments), np.bool_, len(column))


def parse_timestamp(item: Any) -> datetime | None:
    """A timestamp as a driver returns it, or ISO 8601 text; None if it is neither."""
    if isinstance(item, datetime):
        return item
    try:
        return datetime.fromisoformat(str(to_text(item)).strip())
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
