"""The values that flow through the program: samples, history, windows, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.rejects import Reject

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Int32 = NDArray[np.int32]
Int16 = NDArray[np.int16]
Int8 = NDArray[np.int8]
Bool = NDArray[np.bool_]
Spans = Mapping[str, Sequence[tuple[int, int]]]
"""Times of each entity, [start, end) in epoch milliseconds."""


def read_only(array: NDArray[Any]) -> None:
    """Makes an array (…) of a frozen value refuse to be written into; one that shares its memory still may be."""
    array.flags.writeable = False


def any_metric(values: Bool) -> Bool:
    """Whether something is true of any metric, (…, F) -> (…)."""
    # the sum of truth values; several times faster than `any` over an axis that is short
    return np.asarray(np.einsum("...f->...", values), dtype=np.bool_)


class Reason(IntEnum):
    """Why an entity has no score at a slot; `KNOWN` where it has one. Kept as int8 in arrays."""

    KNOWN = 0
    NO_DATA = 1
    GAP = 2
    WARMING_UP = 3
    NO_MODEL = 4
    STALE_DATA = 5
    NO_METRIC = 6

    @property
    def label(self) -> str:
        """The word used in metrics, tables and logs."""
        return self.name.lower()


@dataclass(frozen=True)
class Samples:
    """Rows of a source as columns: row i says that `metrics[metric[i]]` of `entities[entity[i]]` was `value[i]`."""

    entities: tuple[str, ...]
    entity: NDArray[np.int32]  # (N,) index into entities
    metric: NDArray[np.int32]  # (N,) index into the monitor's metrics
    time: Int64  # (N,) epoch milliseconds, UTC
    value: Float64  # (N,) NaN = NULL or not a number
    rejects: tuple[Reject, ...] = ()  # rows that could not be read

    def __len__(self) -> int:
        return len(self.time)


@dataclass(frozen=True)
class History:
    """The newest gridded values of all entities; slot l spans [start + l·step, start + (l+1)·step)."""

    entities: tuple[str, ...]
    start: int  # epoch milliseconds of the first slot
    step: int  # milliseconds
    values: Float32  # (E, L, F), NaN = missing; read-only

    def __post_init__(self) -> None:
        read_only(self.values)

    @property
    def slots(self) -> Int64:
        """Start of every slot in epoch milliseconds, (L,)."""
        return self.start + self.step * np.arange(self.values.shape[1], dtype=np.int64)

    @property
    def end(self) -> int:
        """End of the last slot in epoch milliseconds."""
        return self.start + self.step * int(self.values.shape[1])


@dataclass(frozen=True)
class Windows:
    """A batch of windows of any entities and times, in scaled units."""

    values: Float32  # (B, T, F), oldest slot first, NaN = missing
    rows: Int64  # (B,) each entity's row in the model's per-entity arrays, −1 for one the model has not seen
    slots: Int64  # (B,) start of the newest slot, epoch milliseconds

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice | Int64) -> Windows:
        return Windows(self.values[part], self.rows[part], self.slots[part])
