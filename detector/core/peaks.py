"""Return periods: how long ago, and how often, was something this large last seen?

Of each stream of numbers a dozen peaks are remembered, the largest of each run of slots that belong together. They
count less the older they are. A value's return period is the known time, aged in the same way, over the number of
remembered peaks that reach it, softly counted. So a repetition is no news, and a further step is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from detector.core.series import Bool, Float32, Float64, Int16, Int64
from detector.times import HOUR_MS, WEEK_MS

# What chose these stands in tests/benchmarks/README.md, "Return periods".
PEAKS = 12
ANY = -1
"""Metric of what is said of all metrics together."""

HALF_LIFE = 4 * WEEK_MS
"""Time until a peak, or known time, counts half."""

_CLUSTER, _LONGEST, _FEWEST = HOUR_MS // 2, 6 * HOUR_MS, 6  # one peak: without a gap so long, at most so long; slots
_COMPARABLE = 0.7  # below its top, a value of the same run
_BANDWIDTH = 0.3  # of a scale, over which a peak that is not reached counts less by a factor e
_OTHER = 0.2  # that a peak of another metric counts
_BEYOND = 0.2  # peaks that are taken to lie just beyond the largest
_COMMON = 4.0  # what so many peaks reach is no news at any budget …
NO_NEWS = -9.0
"""… and has this return period: the logarithm of weeks."""

_TAIL = 0.98  # quantile where the tail begins
_PRIOR_SCALE, _PRIOR_WEIGHT, _LEAST_SCALE = 0.4, 30.0, 0.15
_FIRST = 2.0  # scales above the start of the tail, of a peak that stands for what was not seen yet
_LEAST_WEEKS = 1e-9
_NONE = -np.inf
_CELLS = 100_000  # comparisons at a time: they fit into a processor's cache


@dataclass(frozen=True)
class Tails:
    """Where the tail of each stream begins, and how fast it falls; of logarithms, (E, S) each or (S,) of the fleet."""

    start: Float32
    scale: Float32
    fleet_start: Float32
    fleet_scale: Float32

    @staticmethod
    def fit(values: Float32) -> Tails:
        """Tails of normal logarithms (E, N, S) with NaN: mean excess over a quantile, drawn to the fleet's."""
        start, total, count = (np.empty((len(values), values.shape[2])) for _ in range(3))
        for row, one in enumerate(values):  # (N, S)
            ordered = np.sort(one.astype(np.float64), axis=0)  # NaN last
            known = (~np.isnan(ordered)).sum(axis=0)
            at = _TAIL * np.maximum(known - 1, 0)
            low, high = np.floor(at).astype(np.int64), np.ceil(at).astype(np.int64)
            lower, upper = (np.take_along_axis(ordered, index[None], axis=0)[0] for index in (low, high))
            start[row] = lower + (at - low) * (upper - lower)
            above = one > start[row]
            total[row], count[row] = np.where(above, one - start[row], 0.0).sum(axis=0), above.sum(axis=0)
        usual = (total.sum(axis=0) + _PRIOR_WEIGHT * _PRIOR_SCALE) / (count.sum(axis=0) + _PRIOR_WEIGHT)  # (S,)
        scale = (total + _PRIOR_WEIGHT * usual) / (count + _PRIOR_WEIGHT)
        has: Bool = np.any(~np.isnan(start), axis=0)
        fleet = np.zeros(start.shape[1])
        fleet[has] = np.nanmedian(start[:, has], axis=0)
        return Tails(
            start=np.where(np.isnan(start), fleet, start).astype(np.float32),
            scale=np.maximum(scale, _LEAST_SCALE).astype(np.float32),
            fleet_start=fleet.astype(np.float32),
            fleet_scale=np.maximum(usual, _LEAST_SCALE).astype(np.float32),
        )

    def at(self, row: Int64) -> tuple[Float32, Float32]:
        """Start and scale (B, S) of some entities; row: (B,), −1 for one that was not there."""
        is_new = (row < 0)[:, None]
        if not len(self.start):
            shape = (len(row), len(self.fleet_start))
            return np.broadcast_to(self.fleet_start, shape), np.broadcast_to(self.fleet_scale, shape)
        start, scale = (np.where(is_new, fleet, own[row]) for fleet, own in self._parts)
        return start, scale

    @property
    def _parts(self) -> tuple[tuple[Float32, Float32], tuple[Float32, Float32]]:
        return (self.fleet_start, self.start), (self.fleet_scale, self.scale)


@dataclass(frozen=True, slots=True)
class Peaks:
    """What was largest in each stream, and when; of logarithms. Slots in epoch milliseconds."""

    peak: Float32  # (E, S, PEAKS), −inf: none
    when: Int64  # (E, S, PEAKS)
    count: Float32  # (E, S, PEAKS) how much each counts when it is new
    metric: Int16  # (E, S, PEAKS) it was of, ANY: of all together
    weeks: Float64  # (E, S) known time, aged to `aged`
    top: Float32  # (E, S) largest of the run that goes on, −inf: none
    top_count: Float32  # (E, S)
    top_slot: Int64  # (E, S)
    top_metric: Int16  # (E, S)
    seen: Int64  # (E, S) newest slot comparable to it
    began: Int64  # (E, S)
    aged: Int64  # (E,) slot that `weeks` is of

    @staticmethod
    def none(entities: int, streams: int, *, slot: int) -> Peaks:
        """Nothing is remembered at a slot."""
        shape, many = (entities, streams), (entities, streams, PEAKS)
        return Peaks(
            peak=np.full(many, _NONE, dtype=np.float32),
            when=np.full(many, slot, dtype=np.int64),
            count=np.ones(many, dtype=np.float32),
            metric=np.full(many, ANY, dtype=np.int16),
            weeks=np.zeros(shape),
            top=np.full(shape, _NONE, dtype=np.float32),
            top_count=np.ones(shape, dtype=np.float32),
            top_slot=np.full(shape, slot, dtype=np.int64),
            top_metric=np.full(shape, ANY, dtype=np.int16),
            seen=np.full(shape, slot, dtype=np.int64),
            began=np.full(shape, slot, dtype=np.int64),
            aged=np.full(entities, slot, dtype=np.int64),
        )

    @staticmethod
    def first(start: Float32, scale: Float32, *, slot: int) -> Peaks:
        """One peak in each stream stands for what was not seen yet; start, scale: (E, S) of the tails."""
        none = Peaks.none(*start.shape, slot=slot)
        peak = none.peak.copy()
        peak[..., 0] = start + _FIRST * scale
        return replace(none, peak=peak)

    @staticmethod
    def normal(start: Float32, scale: Float32, *, slot: int, weeks: float) -> Peaks:
        """As many peaks as are remembered, as if they had been seen in some weeks; start, scale: (E, S)."""
        none = Peaks.none(*start.shape, slot=slot)
        height = _FIRST * np.linspace(1.0, 0.0, PEAKS, dtype=np.float32)
        peak = start[..., None] + height * scale[..., None]
        return replace(none, peak=peak, weeks=np.full_like(none.weeks, weeks))

    def rate(
        self, x: Float32, scale: Float32, *, slot: int, of: Int16 | None = None, beyond: float = _BEYOND
    ) -> Float32:
        """Peaks that reach x (E, S) at a slot, softly counted by their age and metric; of: (E, S) metric of x [ANY]."""
        age = self.when - slot
        return _rate(x, scale, peak=self.peak, age=age, count=self.count, metric=self.metric, of=of, beyond=beyond)

    def rarity(self, x: Float32, scale: Float32, *, slot: int, step: int, of: Int16 | None = None) -> Float32:
        """Logarithm of the return period of x (E, S) at a slot, in weeks; NaN stays. of: as in `rate`"""
        return _rarity(self.rate(x, scale, slot=slot, of=of), self.weeks_at(slot), step)

    def follow(
        self, x: Float32, scale: Float32, *, slots: Int64, step: int, of: Int16 | None = None
    ) -> tuple[Peaks, Float32]:
        """What is remembered after K slots x (E, K, S), and the `rarity` of each by what was before it, (E, K, S).

        of: (E, K, S) metric of each [ANY]
        """
        rate, weeks = np.empty(x.shape, dtype=np.float32), np.empty(x.shape)
        most = max(1, _CELLS // max(1, self.peak.size))
        peaks, begin, last = self, 0, len(slots) - 1
        for k, slot in enumerate(slots.tolist()):
            weeks[:, k] = peaks.weeks_at(slot)
            after = peaks.learn(x[:, k], slot=slot, step=step, of=None if of is None else of[:, k])
            # most slots leave the peaks as they were: they are compared with them together
            if after.peak is not peaks.peak or k - begin + 1 == most or k == last:
                together = slice(begin, k + 1)
                age = peaks.when[:, None] - slots[together, None, None]
                rate[:, together] = _rate(
                    x[:, together],
                    scale[:, None],
                    peak=peaks.peak[:, None],
                    age=age,
                    count=peaks.count[:, None],
                    metric=peaks.metric[:, None],
                    of=None if of is None else of[:, together],
                )
                begin = k + 1
            peaks = after
        return peaks, _rarity(rate, weeks, step)

    def weeks_at(self, slot: int) -> Float64:
        """Known time (E, S), aged to a slot."""
        return np.asarray(np.maximum(self.weeks * self._aging(slot), _LEAST_WEEKS))

    def _aging(self, slot: int) -> Float64:
        return np.asarray(0.5 ** ((slot - self.aged) / HALF_LIFE))[:, None]

    def learn(
        self, x: Float32, *, slot: int, step: int, count: Float32 | None = None, of: Int16 | None = None
    ) -> Peaks:
        """Remembers a slot after the last one; x: (E, S) with NaN.

        count: (E, S) how much a peak of it counts [1]; of: (E, S) its metric [ANY]
        """
        cluster, longest = (max(_FEWEST * step, span) for span in (_CLUSTER, _LONGEST))
        known = ~np.isnan(x)
        is_higher, is_comparable = x > self.top, x >= self.top - np.float32(_COMPARABLE)  # NaN is neither
        began = np.where(known & (self.top == _NONE), slot, self.began)
        top = np.where(is_higher, x, self.top)
        top_slot = np.where(is_higher, slot, self.top_slot)
        top_count = self.top_count if count is None else np.where(is_higher, count, self.top_count)
        top_metric = self.top_metric if of is None else np.where(is_higher, of, self.top_metric)
        seen = np.where(is_comparable, slot, self.seen)
        is_over = np.isfinite(top) & ((seen < slot - cluster) | (began <= slot - longest))
        peak, when, counts, metric = self.peak, self.when, self.count, self.metric
        if is_over.any():
            peak, when, counts, metric = peak.copy(), when.copy(), counts.copy(), metric.copy()
            done = np.nonzero(is_over)
            least = peak[done].argmin(axis=-1)
            is_larger = peak[(*done, least)] < top[done]
            at = (*(index[is_larger] for index in done), least[is_larger])
            peak[at], when[at], counts[at], metric[at] = (
                part[done][is_larger] for part in (top, top_slot, top_count, top_metric)
            )
            top[done] = _NONE
        weeks = self.weeks * self._aging(slot) + known * (step / WEEK_MS)
        aged = np.full(self.aged.shape, slot, dtype=np.int64)
        return Peaks(peak, when, counts, metric, weeks, top, top_count, top_slot, top_metric, seen, began, aged)


def _rate(
    x: Float32,
    scale: Float32,
    *,
    peak: Float32,
    age: Int64,
    count: Float32,
    metric: Int16,
    of: Int16 | None,
    beyond: float = _BEYOND,
) -> Float32:
    """`Peaks.rate` of x (…, S); peak, age (milliseconds, ≤ 0), count and metric: (…, S, PEAKS)."""
    behind = peak - x[..., None]
    behind /= scale[..., None]
    np.minimum(behind, np.float32(0.0), out=behind)
    near = behind * np.float32(1.0 / _BANDWIDTH)
    near += (age * (np.log(2.0) / HALF_LIFE)).astype(np.float32)
    near = np.exp(near, out=near) * count
    nearest = np.exp(behind, out=behind)
    if of is not None:
        mine = of[..., None]
        is_own = (metric == mine) | (metric == ANY) | (mine == ANY)
        weight = is_own * np.float32(1.0 - _OTHER) + np.float32(_OTHER)
        near *= weight
        nearest *= weight
    # peak by peak: many times faster than `max` over an axis that is short
    largest = reduce(np.maximum, np.moveaxis(nearest, -1, 0))
    return np.asarray(near.sum(axis=-1) + np.float32(beyond) * largest)


def _rarity(rate: Float32, weeks: Float64, step: int) -> Float32:
    """Logarithm of return periods in weeks (…), from a rate and the known time."""
    known = np.log(np.maximum(weeks, step / WEEK_MS)).astype(np.float32)
    found = known - np.log(np.maximum(rate, np.float32(1e-12)))
    return np.where(rate > _COMMON, np.minimum(found, np.float32(NO_NEWS)), found)
