"""Precedents: is what is seen like an alert that people have judged?

What repeats is no news, and a fault that comes back every day is told once or twice. Where somebody has said that such
an alert was real, it is told again. A pattern says how far each metric is from usual over three slots, less what it has
shown in the slots before; two are alike if they point the same way and are about as large. The verdict on the precedent
that is most alike counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detector.core.deviation import median
from detector.core.news import RECENT
from detector.core.series import Bool, Float32, Int64

SLOTS = 30
"""Slots that a pattern is taken from: the newest `RECENT`, and those before them."""

# What chose these stands in tests/benchmarks/README.md, "Verdicts".
_MOST = 100.0  # deviations of one metric that count
_TOLERATED = 1.0  # deviations of one metric that count for nothing
_LEAST = 6.0  # deviations of the worst metric, below which nothing is like anything
_ALIKE = 0.95  # cosine
_AS_LARGE = 0.7  # of the precedent's size, at least

NONE = -1
"""No precedent."""


@dataclass(frozen=True)
class Patterns:
    """How far metrics are from usual, by direction and size."""

    direction: Float32  # (N, F) of length 1, 0 where nothing is far from usual
    size: Float32  # (N,) mean over the metrics, in robust deviations

    @staticmethod
    def of(deviations: Float32) -> Patterns:
        """Those of the windows (N, L, F) of robust deviations, NaN where missing; L > `RECENT`."""
        known = np.minimum(deviations, np.float32(_MOST))
        before = np.nan_to_num(median(known[:, :-RECENT].astype(np.float64)))
        newest = np.nan_to_num(known[:, -RECENT:])
        excess = np.maximum(newest - before[:, None], 0.0).mean(axis=1)  # (N, F)
        logs = np.log1p(np.maximum(excess - _TOLERATED, 0.0)) * (excess.max(axis=1, keepdims=True) >= _LEAST)
        length = np.sqrt((logs**2).sum(axis=1, keepdims=True))
        direction = logs / np.maximum(length, np.float32(1e-9))
        return Patterns(direction.astype(np.float32), excess.mean(axis=1).astype(np.float32))


def padded(deviations: Float32, length: int = SLOTS) -> Float32:
    """Deviations (L, F) with unknown ones before them, (length, F)."""
    missing = max(0, length - len(deviations))
    return np.pad(deviations, ((missing, 0), (0, 0)), constant_values=np.nan)


def followed(seen: Patterns, precedents: Patterns, is_real: Bool, *, counts: Bool | None = None) -> Int64:
    """The real precedent (N,) that each pattern is like, `NONE` where there is none.

    is_real: (P,); counts: (N, P) whether a precedent counts for a pattern [all do]
    """
    if not is_real.any():
        return np.full(len(seen.size), NONE, dtype=np.int64)
    # not a product of matrices: its rounding depends on how many there are
    likeness = (seen.direction[:, None] * precedents.direction).sum(axis=2)  # (N, P)
    if counts is not None:
        likeness = np.where(counts, likeness, np.float32(-1.0))
    is_like = (likeness >= np.float32(_ALIKE)) & (seen.size[:, None] >= np.float32(_AS_LARGE) * precedents.size)
    real = np.where(is_like & is_real, likeness, np.float32(-1.0))
    false = np.where(is_real, np.float32(-1.0), likeness).max(axis=1)  # of any size: in doubt nothing is told
    nearest = real.argmax(axis=1)
    return np.where((real.max(axis=1) > 0) & (real.max(axis=1) > false), nearest, NONE).astype(np.int64)
