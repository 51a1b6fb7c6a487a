"""Slots without a row that have a value all the same: none is zero, and a value may hold until the next one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detector.core.decide import LONG_AGO
from detector.core.series import Bool, Float32, Int64


@dataclass(frozen=True)
class LastRows:
    """The slot and value of each metric's newest row up to some slots; `LONG_AGO` and NaN where there was none."""

    slot: Int64  # (E, F) or (E, L, F), epoch milliseconds
    value: Float32

    @staticmethod
    def none(shape: tuple[int, ...]) -> LastRows:
        """No row at all, of any shape."""
        return LastRows(np.full(shape, LONG_AGO, dtype=np.int64), np.full(shape, np.nan, dtype=np.float32))

    def at(self, index: int) -> LastRows:
        """Those up to one of the slots, (E, F)."""
        return LastRows(self.slot[:, index], self.value[:, index])


def last_rows(values: Float32, slots: Int64, before: LastRows) -> LastRows:
    """The newest rows up to each slot, (E, L, F); values: (E, L, F) with NaN where no row is; before: (E, F)."""
    shape = (len(values), 1, values.shape[2])
    all_slots = np.concatenate([[LONG_AGO], slots])
    index = np.where(np.isnan(values), 0, np.arange(1, len(slots) + 1)[None, :, None])
    newest = np.maximum.accumulate(index, axis=1)
    padded = np.concatenate([before.value.reshape(shape), values], axis=1)
    slot = np.where(newest == 0, before.slot.reshape(shape), all_slots[newest])
    return LastRows(slot, np.take_along_axis(padded, newest, axis=1))


def zeros(values: Float32, slots: Int64, last: Int64, *, limit: int) -> Float32:
    """Values (E, L, F) with 0 where no row is, for slots of an entity that had one less than `limit` ms before.

    last: (E, L) slot of the entity's newest row up to each slot, `LONG_AGO` where there was none
    """
    lives: Bool = slots - last < limit  # (E, L)
    return np.where(np.isnan(values) & lives[:, :, None], np.float32(0.0), values)


def held(values: Float32, slots: Int64, last: LastRows, *, limit: int) -> Float32:
    """Values (E, L, F) with each metric's last one where no row is, for at most `limit` ms after it."""
    holds: Bool = slots[:, None] - last.slot <= limit
    return np.where(np.isnan(values) & holds, last.value, values)
