"""Sensors that got stuck: how long each metric ever rested on one value, and where it rests for much longer."""

from __future__ import annotations

import numpy as np

from detector.core.series import Bool, Float32, Int64

NEVER = 1 << 30
"""Slots no value stays the same for."""

_LEAST = 15  # slots, however restless a metric was
_TIMES = 3  # as long as it ever rested
_EVIDENCE = 500  # slots that must be known of a metric
_MOVING = 0.8  # share of these in which it must have moved
_BLOCK = 64  # entities at a time


def limits(values: Float32) -> Int64:
    """For how many slots each metric must stay exactly the same to count as frozen, (E, F), from normal (E, L, F).

    `NEVER` for a metric that is not known for long enough or often rests.
    """
    found = np.full((len(values), values.shape[2]), NEVER, dtype=np.int64)
    for begin in range(0, len(values), _BLOCK):
        part = values[begin : begin + _BLOCK]
        known = (~np.isnan(part)).sum(axis=1)  # (B, F)
        rests = _rests(part)
        moves = (rests == 0).sum(axis=1) - np.isnan(part).sum(axis=1)
        is_restless = (known >= _EVIDENCE) & (moves >= _MOVING * known)
        longest = np.maximum(_LEAST, _TIMES * rests.max(axis=1, initial=0))
        found[begin : begin + _BLOCK] = np.where(is_restless, longest, NEVER)
    return found


def is_frozen(values: Float32, limit: Int64, slots: int) -> Bool:
    """Where each metric has been the same for its limit (E, F), in the newest K slots of (E, L, F): (E, K, F)."""
    result = np.zeros((len(values), slots, values.shape[2]), dtype=np.bool_)
    recent = values[:, -slots - 1 :]
    rests: Bool = np.any(recent[:, 1:] == recent[:, :-1], axis=1)  # (E, F)
    entity, metric = np.nonzero(rests & (limit < values.shape[1]))
    if entity.size:
        long = _rests(values[entity, :, metric][..., None])[:, -slots:, 0]  # (P, K)
        result[entity, :, metric] = long >= limit[entity, metric, None]
    return result


def _rests(values: Float32) -> Int64:
    """For how many slots each value of (E, L, F) has been the same: 0 where it has changed or is missing."""
    position = np.arange(values.shape[1])[None, :, None]
    moved = np.ones(values.shape, dtype=np.bool_)
    moved[:, 1:] = values[:, 1:] != values[:, :-1]  # NaN differs from everything
    last = np.maximum.accumulate(np.where(moved, position, 0), axis=1)
    return np.asarray(position - last, dtype=np.int64)
