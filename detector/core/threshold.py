"""Return periods to scores, with 1.0 at the alert budget; and errors to their surprise, which ranks slots.

Two numbers, two purposes. A `score` decides: it says how much rarer a slot is than the budget allows. A `surprise`
ranks how strange slots are, repeated or not: −ln of the share of normal errors that are larger, from an exponential
tail of their logarithms, and what is news on top of it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detector.core import score
from detector.core.series import Float32, Float64, Int64

NATS = 4.0
"""Logarithm of a return period that one unit of score stands for: e⁴, some 55 times rarer."""

# "Ablation" is VUS-PR on the shared recordings (`quality.py --parts ablation`, tests/benchmarks/README.md).

TAIL = 0.02
"""Share of normal data above the quantile where the exponential tail begins. Not varied."""

_PRIOR = 5.0  # excesses of its own an entity needs before its calibration counts as much as the fleet's; not varied

_SPAN_PRIOR = 3.0
"""Excesses that lie apart, without which a longer span's tail is taken to fall no faster than the short one's.

Ablation: without it the mean of the five sets falls from .523 to .486.
"""

LIMIT = 10.0
"""Starts of the tail that one slot's error counts at most in a mean over a longer span.

Ablation: 5, 20 and no limit at all have .521–.526, against .523; it is kept for what one huge error would do to hours.
"""

_LEAST_DECAY = 0.15  # normal errors that are all alike would make any difference infinitely surprising; not varied
_WIDE_DECAY = 1.0  # where nothing is known of a tail: errors fall by a factor e for each unit; not varied


def level(alert_budget_per_week: float, entities: int) -> float:
    """ln of the return period in weeks at which a budget over so many entities is used up: score 1.0."""
    return math.log(max(1, entities) / alert_budget_per_week)


def scores(return_periods: Float32, level: float) -> Float32:
    """Scores ≥ 0 of logarithms of return periods in weeks, (…): 1.0 at the level; NaN stays."""
    relative = (return_periods - np.float32(level)) / np.float32(NATS)
    return np.asarray(np.maximum(relative + np.float32(1.0), np.float32(0.0)))


@dataclass(frozen=True)
class Calibration:
    """Tail of normal errors per entity and span: where it begins, how fast it falls."""

    start: Float32  # (E, S) error with TAIL above it
    decay: Float32  # (E, S) mean excess over start, > 0
    fleet_start: Float32  # (S,) for entities that were not there
    fleet_decay: Float32  # (S,)

    @staticmethod
    def none() -> Calibration:
        """Of no entities, where nothing is known of errors."""
        nobody, spans = np.ones((1, len(score.SPANS)), dtype=np.float32), np.ones(len(score.SPANS), dtype=np.float32)
        return Calibration(nobody, nobody, spans, spans)

    def smoothed(self, errors: Float32, row: Int64) -> Float32:
        """Errors (B, L) over all spans, (B, L − max(SPANS) + 1, S); row: (B,) as in `by_span`."""
        start = np.where(row < 0, self.fleet_start[0], self.start[row, 0])
        return score.smoothed(errors, (LIMIT * start).astype(np.float32))

    def surprise(self, errors: Float32, row: Int64) -> Float32:
        """Surprise (B, K) of smoothed errors (B, K, S): that of the most surprising span.

        row: (B,) the entity's row, −1 if it was not there
        """
        start, decay = self.start[row], self.decay[row]
        start[row < 0], decay[row < 0] = self.fleet_start, self.fleet_decay
        return worst(surprise(errors, start[:, None], decay[:, None]))


def worst(values: Float32) -> Float32:
    """The largest of what is known, (…, S) -> (…,); NaN where nothing is."""
    return np.asarray(np.fmax.reduce(values, axis=-1), dtype=np.float32)


def surprise(error: Float32, start: Float32, decay: Float32) -> Float32:
    """−ln of the share of normal errors that are larger, (B, K, S); below the tail it is proportional to the error.

    error: (B, K, S) ≥ 0, NaN stays; start, decay: (B, 1, S) of the tail
    """
    base = -np.log(TAIL)
    below: Float32 = base * error / np.maximum(start, 1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = base + np.log(error / start) / decay
    return np.asarray(np.where(error > start, above, below), dtype=np.float32)


def smoothed(errors: Float32) -> Float32:
    """Errors (E, N) of normal data over all spans, as the calibration that comes from them will smooth: (E, N, S)."""
    starts = _tails(errors[:, :, None], np.ones(1))[0][:, 0]
    padded = np.pad(errors, ((0, 0), (max(score.SPANS) - 1, 0)), constant_values=np.nan)
    return score.smoothed(padded, (LIMIT * starts).astype(np.float32))


def calibrate(errors: Float32, *, spans: Sequence[int]) -> Calibration:
    """Calibration from held-out smoothed errors (E, N, S) of normal data at consecutive slots, NaN = unknown.

    spans: (S,) slots each was smoothed over, the shortest first

    Entities lean on the fleet until they have evidence of their own.

    Raises: ValueError if nothing is known.
    """
    start, decay, fleet_start, fleet_decay = _tails(errors, np.asarray(spans, dtype=np.float64))
    return Calibration(start, decay, fleet_start.astype(np.float32), fleet_decay.astype(np.float32))


def _tails(errors: Float32, spans: Float64) -> tuple[Float32, Float32, Float64, Float64]:
    """Start and decay of each entity's tails, (E, S) each, and of the fleet's, (S,) each; errors: (E, N, S).

    Raises: ValueError if nothing is known.
    """
    pooled = errors.reshape(-1, errors.shape[2]).astype(np.float64)  # (M, S)
    if np.isnan(pooled[:, 0]).all():
        msg = "errors must hold at least one known value"
        raise ValueError(msg)
    own = [_tail(entity.astype(np.float64), spans) for entity in errors]
    fleet_start, fleet_decay = _fleet(own, pooled, spans)
    return *_shrink(errors, own, (fleet_start, fleet_decay)), fleet_start, fleet_decay


def _tail(values: Float64, spans: Float64) -> tuple[Float64, Float64]:
    """Start and decay of the tail of each column of (M, S); NaN where too few values are known."""
    start, decay = np.full((2, len(spans)), np.nan)
    for s, span in enumerate(spans.tolist()):
        known = values[~np.isnan(values[:, s]), s]
        if len(known) * TAIL >= 1.0:
            start[s], decay[s] = _tail_of(known)
            # means over a long span hardly differ from slot to slot: there are only so many that are independent
            apart, slowest = TAIL * len(known) / span, max(decay[s], decay[0])
            decay[s] = max((apart * decay[s] + _SPAN_PRIOR * slowest) / (apart + _SPAN_PRIOR), _LEAST_DECAY)
    return start, decay


def _tail_of(known: Float64) -> tuple[float, float]:
    start = max(float(np.quantile(known, 1.0 - TAIL)), 1e-3)
    above = known[known > start]
    decay = float(np.log(above / start).mean()) * (1.0 + 1.0 / np.sqrt(len(above))) if len(above) else 0.0
    return start, max(decay, _LEAST_DECAY)


def _fleet(own: list[tuple[Float64, Float64]], pooled: Float64, spans: Float64) -> tuple[Float64, Float64]:
    """The tail of the middle entity, so that a few noisy ones do not raise it for the others; else of the pool.

    A span that nothing is known of is taken to be like the next shorter one, whose errors are larger.
    """
    parts = [np.array(part) for part in zip(*own, strict=True)]  # start and decay, (E, S) each
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a span that no entity knows: NaN, replaced below
        start, decay = (np.nanmedian(part, axis=0) for part in parts)
    pool_start, pool_decay = _tail(pooled, spans)
    start, decay = np.where(np.isnan(start), pool_start, start), np.where(np.isnan(decay), pool_decay, decay)
    if np.isnan(start[0]):  # hardly anything: the largest there was is the start
        start[0], decay[0] = max(float(np.nanmax(pooled[:, 0])), 1e-3), _WIDE_DECAY
    for s in range(1, len(start)):
        if np.isnan(start[s]):
            start[s], decay[s] = start[s - 1], decay[s - 1]
    return start, decay


def _shrink(
    errors: Float32, own: list[tuple[Float64, Float64]], fleet: tuple[Float64, Float64]
) -> tuple[Float32, Float32]:
    """Each entity's tail, drawn towards the fleet's by how little evidence it has."""
    excesses = TAIL * (~np.isnan(errors)).sum(axis=1)  # (E, S)
    start, decay = (np.array(part) for part in zip(*own, strict=True))  # (E, S) each
    weight = np.where(np.isnan(start), 0.0, excesses / (excesses + _PRIOR))
    start = weight * np.nan_to_num(start) + (1.0 - weight) * fleet[0]
    decay = weight * np.nan_to_num(decay) + (1.0 - weight) * fleet[1]
    return start.astype(np.float32), decay.astype(np.float32)
