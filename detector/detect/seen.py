"""The newest rows of each entity: what a slot without a row has, and when an entity is gone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from detector.core import fill
from detector.core.decide import LONG_AGO
from detector.core.fill import LastRows
from detector.core.series import Bool, Float32, Int64, any_metric
from detector.detect.horizon import Horizon


@dataclass(frozen=True)
class Seen:
    """The newest rows up to each of J slots: those that late samples may change, and one before."""

    slot: Int64  # (E, J) of any metric, epoch milliseconds; LONG_AGO: there was none
    rows: LastRows | None  # (E, J, F) of each metric, where values hold

    @staticmethod
    def none(horizon: Horizon, entities: int) -> Seen:
        """No row of any entity."""
        shape = (entities, horizon.late + 1)
        rows = LastRows.none((*shape, len(horizon.metrics))) if horizon.filled == "last" else None
        return Seen(np.full(shape, LONG_AGO, dtype=np.int64), rows)

    def since(self, slot: Int64) -> Seen:
        """The same with other slots of entities' newest rows, (E,)."""
        return replace(self, slot=np.repeat(slot[:, None], self.slot.shape[1], axis=1))

    def of(self, horizon: Horizon, positions: Int64) -> Seen:
        """The same for other entities (R,), by their positions among these; −1 for one that is new."""
        known = positions >= 0
        result = Seen.none(horizon, len(positions))
        result.slot[known] = self.slot[positions[known]]
        if self.rows is not None and result.rows is not None:
            result.rows.slot[known] = self.rows.slot[positions[known]]
            result.rows.value[known] = self.rows.value[positions[known]]
        return result

    def after(self, slot: Int64, rows: LastRows | None, *, late: int) -> Seen:
        """Those up to L more slots (E, L), of which the first `late` ones replace the newest of these."""
        kept = slice(None, self.slot.shape[1] - late)
        size = self.slot.shape[1]
        slots = np.concatenate([self.slot[:, kept], slot], axis=1)[:, -size:]
        if rows is None or self.rows is None:
            return Seen(slots, None)
        pairs = ((self.rows.slot, rows.slot), (self.rows.value, rows.value))
        return Seen(slots, LastRows(*(np.concatenate([old[:, kept], new], axis=1)[:, -size:] for old, new in pairs)))


@dataclass(frozen=True)
class Filled:
    """Slots with a value where there is no row but ought to be one."""

    values: Float32  # (E, L, F)
    last: Int64  # (E, L) slot of the newest row up to each one
    seen: Seen  # after them


def filled(horizon: Horizon, values: Float32, *, start: int, seen: Seen, late: int = 0) -> Filled:
    """Fills slots (E, L, F) from a time on, epoch milliseconds, as the monitor wants it.

    seen: before the slots, or before the first `late` of them were read again
    """
    slots = start + horizon.step * np.arange(values.shape[1], dtype=np.int64)
    before = -1 - late
    present = any_metric(~np.isnan(values))  # (E, L)
    newest = np.maximum.accumulate(np.where(present, slots, LONG_AGO), axis=1)
    known = seen.slot[:, before, None]
    last = np.maximum(newest, np.where(known <= slots, known, LONG_AGO))
    rows = None
    if horizon.filled == "zero":
        values = fill.zeros(values, slots, last, limit=horizon.forget)
    elif seen.rows is not None:
        rows = fill.last_rows(values, slots, seen.rows.at(before))
        values = fill.held(values, slots, rows, limit=horizon.hold)
    return Filled(values, last, seen.after(last, rows, late=late))


def gone(horizon: Horizon, last: Int64, slots: Int64) -> Bool:
    """Where entities had rows, but none for so long that they are gone, (E, K); last: (E, K); slots: (K,)."""
    return np.asarray((last > LONG_AGO) & (slots - last >= horizon.forget))
