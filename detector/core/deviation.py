"""Values to deviations: how far each metric is from its median at this time of day, in robust deviations of training.

A network that rebuilds windows forgives what a window has shown before, and its residuals are combined over all
metrics. A deviation is of one metric, and forgives nothing but the time of day.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from detector.core.rules import MetricRules
from detector.core.series import Bool, Float32, Float64, Int64
from detector.times import DAY_MS, MINUTE_MS

MOST = 1000.0
"""Robust deviations that one metric counts at most: beyond, `core.beyond` tells more from less."""

_FEWEST_DAYS = 3.0  # of training, for a time of day to have a median of its own
_SAMPLES, _SHORTEST, _PARTS = 60, 5 * MINUTE_MS, 48  # that a part of the day needs; its length; parts at most
_MAD_TO_SIGMA = 1.4826
_OF_STANDARD, _OF_CENTER, _TINY = 0.1, 1e-3, 1e-9  # least robust deviation: of the standard one, of the median
_ENDLESS = 1e30  # spread of a metric that had no value: nothing is far from it
_BLOCK = 64  # entities at a time


@dataclass(frozen=True)
class Usual:
    """Median by part of the day, and robust deviation from it, of every metric of every entity."""

    center: Float32  # (E, F), NaN: no value was known
    spread: Float32  # (E, F), > 0
    offset: Float32  # (E, P, F) of each part of the day from the centre, in spreads

    @staticmethod
    def none(metrics: int) -> Usual:
        """Nothing is known of any entity."""
        nobody = np.ones((0, metrics), dtype=np.float32)
        return Usual(nobody, nobody, nobody[:, None])

    @staticmethod
    def fit(values: Float32, slots: Int64, *, step: int) -> Usual:
        """From training values (E, L, F) with NaN, at slots (L,) in epoch milliseconds."""
        entities, _, metrics = values.shape
        a_day = max(1, round(DAY_MS / step))
        days = (~np.isnan(values)).any(axis=2).sum(axis=1) / a_day  # (E,)
        parts = _parts(float(days.max(initial=0.0)), a_day, step)
        part = part_of_day(slots, parts)
        center, spread = np.zeros((2, entities, metrics))
        offset = np.zeros((entities, parts, metrics))
        for begin in range(0, entities, _BLOCK):
            block = slice(begin, begin + _BLOCK)
            mine = values[block].astype(np.float64)
            center[block] = median(mine)
            around = np.broadcast_to(center[block, None], (len(mine), parts, metrics)).copy()
            if parts > 1:
                for p in range(parts):
                    own = median(mine[:, part == p])
                    has = ~np.isnan(own) & (days[block, None] >= _FEWEST_DAYS)
                    around[:, p] = np.where(has, own, around[:, p])
            off = mine - around[:, part]
            spread[block] = np.where(np.isnan(center[block]), _ENDLESS, _spread(off, np.nan_to_num(center[block])))
            offset[block] = np.nan_to_num((around - center[block, None]) / spread[block, None])
        return Usual(center.astype(np.float32), spread.astype(np.float32), offset.astype(np.float32))

    def medians(self, slots: Int64, row: Int64) -> Float32:
        """Median (B, K, F) of every metric at the time of day of slots (K,), own units, NaN where none was known.

        row: (B,) as in `deviations`
        """
        if not len(self.center):
            return np.full((len(row), len(slots), self.center.shape[1]), np.nan, dtype=np.float32)
        part = part_of_day(slots, self.offset.shape[1])
        found = self.center[row][:, None] + self.offset[row][:, part] * self.spread[row][:, None]
        found[row < 0] = np.nan
        return np.asarray(found, dtype=np.float32)

    def deviations(self, values: Float32, slots: Int64, row: Int64, rules: MetricRules) -> Float32:
        """Robust deviations (B, K, F) ≥ 0 of values, NaN where one is missing or none was known; 0 where the
        rules do not count it.

        slots: (K,) or (B, K); row: (B,) each entity's row, −1 for one that was not there: NaN
        """
        if not len(self.center):
            return np.full(values.shape, np.nan, dtype=np.float32)
        part = np.broadcast_to(part_of_day(slots, self.offset.shape[1]), values.shape[:2])
        spread = self.spread[row][:, None]
        off = (values - self.center[row][:, None]) / spread - self.offset[row[:, None], part]
        counted = rules.counted(off, values, np.broadcast_to(spread, off.shape))
        found = np.minimum(np.abs(counted), np.float32(MOST))
        found[row < 0] = np.nan
        return np.asarray(found, dtype=np.float32)


def part_of_day(slots: Int64, parts: int) -> Int64:
    """Part of the day (UTC) of each slot, 0 … parts − 1, of any shape."""
    return np.asarray((slots % DAY_MS) * parts // DAY_MS)


def _parts(days: float, a_day: int, step: int) -> int:
    """Parts of equal length that a day is divided into, each with enough slots in so many days."""
    if days < _FEWEST_DAYS:
        return 1
    width = max(1, math.ceil(_SAMPLES / days), round(_SHORTEST / step))
    return max(1, min(_PARTS, a_day // min(width, max(1, a_day // 8))))


def median(values: Float64) -> Float64:
    """Median over the slots of (B, L, F) with NaN, (B, F); NaN where there is no value."""
    if not values.shape[1]:
        return np.full((len(values), values.shape[2]), np.nan)
    ordered = np.sort(values, axis=1)  # NaN last
    known = (~np.isnan(values)).sum(axis=1)[:, None]  # (B, 1, F)
    middle = (np.maximum(known - 1, 0) // 2, np.minimum(known // 2, values.shape[1] - 1))
    low, high = (np.take_along_axis(ordered, at, axis=1)[:, 0] for at in middle)
    return np.asarray(low + (high - low) / 2.0)


def _spread(off: Float64, center: Float64) -> Float64:
    """Robust deviation (B, F) of distances (B, L, F) from the median, never next to nothing."""
    known: Bool = ~np.isnan(off)
    count = np.maximum(known.sum(axis=1), 1)
    mean = np.where(known, off, 0.0).sum(axis=1) / count
    standard = np.sqrt((np.where(known, off - mean[:, None], 0.0) ** 2).sum(axis=1) / count)
    robust = np.nan_to_num(_MAD_TO_SIGMA * median(np.abs(off)))
    return np.asarray(np.maximum.reduce([robust, _OF_STANDARD * standard, _OF_CENTER * np.abs(center)]) + _TINY)
