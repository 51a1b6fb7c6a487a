"""Shape of a window: how far its statistics are from those of every normal window.

Metrics that each look ordinary, slot by slot, may still move as they never did: too calm, too lively, at once. Mean,
deviation, extremes, roughness and slope of each metric over half an hour of slots say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from detector.core.series import Float32, Int64

SLOTS = 30
"""Slots of a window."""

CENTRES = 48
"""Normal windows that are kept of each entity."""

STATISTICS = 6
_ROUNDS = 6  # of Lloyd's algorithm; it starts from evenly spaced windows, so nothing is drawn
_WINDOWS = 1000  # that the centres are found from, evenly spaced
_LEAST_UNIT, _LEAST = 0.05, 0.02
_BLOCK = 256  # entities at a time


@dataclass(frozen=True)
class Shapes:
    """Statistics of normal windows of each entity."""

    centres: Float32  # (E, C, D) in units, D = STATISTICS · F; float16 when stored
    unit: Float32  # (E, D)

    @staticmethod
    def none(entities: int, metrics: int) -> Shapes:
        """Nothing is known of any entity, yet."""
        width = STATISTICS * metrics
        empty = np.full((entities, CENTRES, width), np.nan, dtype=np.float32)
        return Shapes(empty, np.ones((entities, width), dtype=np.float32))

    @staticmethod
    def fit(statistics: Float32) -> tuple[Float32, Float32]:
        """Centres (C, D) and unit (D,) of one entity from the statistics of its normal windows, (N, D)."""
        unit = statistics.std(axis=0, dtype=np.float64) + _LEAST_UNIT
        some = statistics[np.linspace(0, len(statistics) - 1, min(len(statistics), _WINDOWS)).astype(np.int64)] / unit
        centres = some[np.linspace(0, len(some) - 1, min(len(some), CENTRES)).astype(np.int64)]
        for _ in range(_ROUNDS):
            nearest = _squares(some, centres).argmin(axis=1)
            total = np.zeros_like(centres)
            np.add.at(total, nearest, some)
            count = np.bincount(nearest, minlength=len(centres))[:, None]
            centres = np.where(count > 0, total / np.maximum(count, 1), centres)
        # as they are when they have been stored
        return centres.astype(np.float16).astype(np.float32), unit.astype(np.float32)

    @cached_property
    def _norms(self) -> Float32:
        """Squared length of each centre, (E, C)."""
        return np.asarray(np.einsum("ecd,ecd->ec", self.centres, self.centres))

    def distance(self, statistics: Float32, row: Int64) -> Float32:
        """Distance (B, K) of windows (B, K, D) from the nearest normal one; NaN of entities that are not known.

        row: (B,) each entity's row, −1 for one that was not there
        """
        result = np.full(statistics.shape[:2], np.nan, dtype=np.float32)
        known = np.flatnonzero(row >= 0) if len(self.unit) else np.zeros(0, dtype=np.int64)
        for begin in range(0, len(known), _BLOCK):
            at = known[begin : begin + _BLOCK]
            of = _as_slice(row[at])
            own, centres = statistics[at] / self.unit[of][:, None], self.centres[of]
            # not by matrix products, whose rounding depends on how many windows there are
            products = np.einsum("bkd,bcd->bkc", own, centres)
            squares = (own**2).sum(axis=2)[..., None] + self._norms[of][:, None] - np.float32(2.0) * products
            result[at] = np.sqrt(np.maximum(squares.min(axis=2), np.float32(0.0)))
        return result / np.float32(np.sqrt(statistics.shape[2])) + np.float32(_LEAST)

    def shares(self, statistics: Float32, row: int) -> Float32:
        """Each metric's share (F,) of a window's distance from the nearest normal one; statistics: (D,)."""
        own = statistics / self.unit[row]
        nearest = self.centres[row][_squares(own[None], self.centres[row])[0].argmin()]
        squares = ((own - nearest) ** 2).reshape(STATISTICS, -1).sum(axis=0)
        return np.asarray(squares / max(float(squares.sum()), 1e-12), dtype=np.float32)


def _squares(some: Float32, centres: Float32) -> Float32:
    """Squared distances (N, C)."""
    return np.asarray((some**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2.0 * some @ centres.T)


def _as_slice(rows: Int64) -> slice | Int64:
    """Rows that follow one another as a slice, which copies nothing."""
    is_run = bool((np.diff(rows) == 1).all())
    return slice(int(rows[0]), int(rows[-1]) + 1) if is_run else rows


def statistics(scaled: Float32) -> Float32:
    """Statistics (B, L − SLOTS + 1, D) of every window of scaled values (B, L, F) with NaN, which repeat the last one.

    A value of which nothing is known in a window is taken to be the median, 0: a window does not depend on what was
    before it.
    """
    scaled = np.ascontiguousarray(scaled.transpose(1, 2, 0))  # (L, F, B): each slot is one piece of memory
    missing = np.isnan(scaled)
    has_gaps = bool(missing.any())
    if has_gaps:
        at = np.maximum.accumulate(np.where(missing, 0, np.arange(len(scaled))[:, None, None]), axis=0)
        scaled = np.nan_to_num(np.take_along_axis(scaled, at, axis=0))
    squeezed = np.copysign(np.log1p(np.abs(scaled)), scaled)
    count = len(squeezed) - SLOTS + 1
    around = (np.arange(SLOTS) - (SLOTS - 1) / 2).astype(np.float32)
    total, squares, slope, steps = (np.zeros_like(squeezed[:count]) for _ in range(4))
    highest = lowest = before = np.zeros_like(total)
    is_known = np.zeros_like(missing[:count])
    # slot by slot, so that rounding does not depend on how many windows there are
    for offset, weight in enumerate(around):
        now = squeezed[offset : offset + count]
        if has_gaps:
            is_known = is_known | ~missing[offset : offset + count]
            now = np.where(is_known, now, np.float32(0.0))
        total += now
        squares += now**2
        slope += weight * now
        highest, lowest = (now, now) if not offset else (np.maximum(highest, now), np.minimum(lowest, now))
        steps += (now - before) ** 2 if offset else np.float32(0.0)
        before = now
    mean = total / np.float32(SLOTS)
    parts = [
        mean,
        np.sqrt(np.maximum(squares / np.float32(SLOTS) - mean**2, np.float32(0.0))),
        highest,
        lowest,
        np.sqrt(steps / np.float32(SLOTS - 1)),
        slope / np.float32(np.sqrt((around**2).sum() * SLOTS)),
    ]
    return np.ascontiguousarray(np.concatenate(parts, axis=1).transpose(2, 0, 1))
