"""Frozen metrics: how long each one ever stayed on one value, and where it stays for much longer."""

from __future__ import annotations

import numpy as np

from detector.core.series import Bool, Float32, Int64

NEVER = 1 << 30
"""A limit no metric reaches: it never counts as frozen."""

# None of these was varied on the labelled recordings, which hold no frozen metric: they are set for what people accept.
_LEAST = 15  # slots, however lively a metric was: a quarter of an hour at the usual step
_TIMES = 3  # as long as it ever stayed: once as long is expected after a while, three times is not
_EVIDENCE = 500  # slots that must be known of a metric: some hours at the usual step
_MOVING = 0.8  # share of these in which it must have moved, so that counters and on/off metrics take no part
_BLOCK = 64  # entities at a time


def limits(values: Float32) -> Int64:
    """Freeze limits: the slots each metric must stay exactly the same for to count as frozen, from normal history.

    (E, L, F) -> (E, F); `NEVER` for a metric that is not known for long enough or often stays the same.
    """
    found = np.full((len(values), values.shape[2]), NEVER, dtype=np.int64)
    for begin in range(0, len(values), _BLOCK):
        part = values[begin : begin + _BLOCK]
        known = (~np.isnan(part)).sum(axis=1)  # (B, F)
        stayed = _unchanged(part, np.zeros_like(known))
        moves = (stayed == 0).sum(axis=1) - np.isnan(part).sum(axis=1)
        is_lively = (known >= _EVIDENCE) & (moves >= _MOVING * known)
        longest = np.maximum(_LEAST, _TIMES * stayed.max(axis=1, initial=0))
        found[begin : begin + _BLOCK] = np.where(is_lively, longest, NEVER)
    return found


def is_frozen(values: Float32, limit: Int64, slots: int, *, rested: Int64) -> Bool:
    """True where a metric has stayed the same for its limit (E, F), in the newest K slots of (E, L, F): (E, K, F).

    rested: (E, F) slots for which the first value had stayed the same
    """
    result = np.zeros((len(values), slots, values.shape[2]), dtype=np.bool_)
    recent = values[:, -slots - 1 :]
    stays: Bool = np.any(recent[:, 1:] == recent[:, :-1], axis=1)  # (E, F)
    entity, metric = np.nonzero(stays & (limit < values.shape[1] + rested))
    if entity.size:
        long = _unchanged(values[entity, :, metric][..., None], rested[entity, metric, None])[:, -slots:, 0]  # (P, K)
        result[entity, :, metric] = long >= limit[entity, metric, None]
    return result


def rest(values: Float32, before: Int64) -> Int64:
    """Slots since the newest value of (E, L, F) changed, (E, F): 0 where it has just changed or is missing.

    before: (E, F) the same of the first value
    """
    moved = (values[:, 1:] != values[:, :-1])[:, ::-1]  # (E, L − 1, F), newest first; NaN differs from everything
    if not moved.shape[1]:
        return np.asarray(np.where(np.isnan(values[:, 0]), 0, before))
    so_far = moved.shape[1] + before
    return np.asarray(np.where(moved.any(axis=1), moved.argmax(axis=1), so_far), dtype=np.int64)


def _unchanged(values: Float32, rested: Int64) -> Int64:
    """Slots since each value of (E, L, F) changed: 0 where it has just changed or is missing.

    rested: (E, F) slots for which the first value had stayed the same
    """
    position = np.arange(values.shape[1])[None, :, None]
    moved = np.ones(values.shape, dtype=np.bool_)
    moved[:, 1:] = values[:, 1:] != values[:, :-1]  # NaN differs from everything
    last = np.maximum.accumulate(np.where(moved, position, 0), axis=1)
    before = np.where((last == 0) & ~np.isnan(values[:, :1]), rested[:, None], 0)
    return np.asarray(position - last + before, dtype=np.int64)
