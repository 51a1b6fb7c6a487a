"""Errors of normal data to a calibration that turns every error into a score with 1.0 at the alert budget.

The tail above a high quantile is taken as exponential: the generalised Pareto law of peaks over threshold with shape 0
(Siffer et al., "Anomaly Detection in Streams with Extreme Value Theory", KDD 2017). Fixing the shape costs accuracy on
heavy tails, but a few dozen excesses, which is what a young monitor has, do not support estimating one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from detector.core.series import Float32, Float64, Int64

TAIL = 0.02
"""Share of normal data above the quantile where the exponential tail begins."""

_PRIOR = 5.0  # excesses of its own an entity needs before its calibration counts as much as the fleet's
_WEEK_MS = 7 * 24 * 3_600_000


@dataclass(frozen=True)
class Calibration:
    """Where the tail of normal errors begins and how fast it falls, per entity and span; and the threshold."""

    start: Float32  # (E, S) error with TAIL above it
    decay: Float32  # (E, S) mean excess over start, > 0
    fleet_start: Float32  # (S,) for entities that were not there
    fleet_decay: Float32  # (S,)
    level: float  # surprise that stands for score 1.0

    def score(self, errors: Float32, row: Int64) -> Float32:
        """Scores (B, K) of smoothed errors (B, K, S); row (B,) is the entity's row, −1 if it was not there."""
        start, decay = self.start[row], self.decay[row]
        start[row < 0], decay[row < 0] = self.fleet_start, self.fleet_decay
        worst: Float32 = surprise(errors, start[:, None], decay[:, None]).max(axis=2)
        return (worst / self.level).astype(np.float32, copy=False)


def surprise(error: Float32, start: Float32, decay: Float32) -> Float32:
    """−ln of the share of normal errors that are larger; below the tail it grows in proportion to the error."""
    base = -np.log(TAIL)
    below: Float32 = base * error / np.maximum(start, 1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = base + np.log(error / start) / decay
    return np.asarray(np.where(error > start, above, below), dtype=np.float32)


def calibrate(errors: Float32, *, alert_budget_per_week: float, step: int) -> Calibration:
    """Calibration from held-out smoothed errors (E, N, S) of normal data, NaN = unknown.

    Entities lean on the fleet until they have evidence of their own. The level is the surprise that normal errors
    with such a tail exceed `alert_budget_per_week` times a week over all entities.

    Raises: ValueError if nothing is known.
    """
    pooled = errors.reshape(-1, errors.shape[2])
    pooled = pooled[~np.isnan(pooled).any(axis=1)]  # (M, S)
    if not len(pooled):
        msg = "errors must hold at least one known value"
        raise ValueError(msg)
    own = [_tail_or_nan(entity.astype(np.float64)) for entity in errors]
    fleet_start, fleet_decay = _fleet(own, pooled.astype(np.float64))
    start, decay = _shrink(errors, own, fleet_start, fleet_decay)
    calibration = Calibration(
        start=start,
        decay=decay,
        fleet_start=fleet_start.astype(np.float32),
        fleet_decay=fleet_decay.astype(np.float32),
        level=1.0,
    )
    slots_per_week = _WEEK_MS / step * len(errors)
    # each span has its share of the budget
    probability = min(alert_budget_per_week / slots_per_week, 1.0) / errors.shape[2]
    return replace(calibration, level=max(-float(np.log(probability)), -float(np.log(TAIL))))


def _tail(values: Float64) -> tuple[Float64, Float64]:
    """Start and decay of the tail of each column of (M, S)."""
    start = np.maximum(np.quantile(values, 1.0 - TAIL, axis=0), 1e-3)
    excess = np.log(np.maximum(values, start) / start)
    count = np.maximum((values > start).sum(axis=0), 1)
    decay = excess.sum(axis=0) / count * (1.0 + 1.0 / np.sqrt(count))
    # normal errors that are all alike would make any difference infinitely surprising
    return start, np.maximum(decay, 0.05)


def _fleet(own: list[tuple[Float64, Float64]], pooled: Float64) -> tuple[Float64, Float64]:
    """The tail of the middle entity, so that a few restless ones do not deafen the rest; else of the pool."""
    start, decay = (np.array(part) for part in zip(*own, strict=True))  # (E, S) each
    if np.isnan(start).all(axis=0).any():
        return _tail(pooled)
    return np.nanmedian(start, axis=0), np.nanmedian(decay, axis=0)


def _tail_or_nan(values: Float64) -> tuple[Float64, Float64]:
    known = values[~np.isnan(values).any(axis=1)]
    if len(known) * TAIL < 1.0:
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    return _tail(known)


def _shrink(
    errors: Float32, own: list[tuple[Float64, Float64]], fleet_start: Float64, fleet_decay: Float64
) -> tuple[Float32, Float32]:
    """Each entity's tail, drawn towards the fleet's by how little evidence it has."""
    excesses = TAIL * (~np.isnan(errors).any(axis=2)).sum(axis=1)  # (E,)
    weight = (excesses / (excesses + _PRIOR))[:, None]
    start = np.array([pair[0] for pair in own])
    decay = np.array([pair[1] for pair in own])
    weight = np.where(np.isnan(start), 0.0, weight)
    start = weight * np.nan_to_num(start) + (1.0 - weight) * fleet_start
    decay = weight * np.nan_to_num(decay) + (1.0 - weight) * fleet_decay
    return start.astype(np.float32), decay.astype(np.float32)
