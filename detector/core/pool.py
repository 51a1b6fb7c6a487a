"""Evidence of several entities at once: what each has shown before may be rare where it shows in many together.

If entities were independent, m of E with a return period of T weeks or more would meet within a time w as often as a
Poisson law with mean E·w/T says. They are not: one load moves them all. So a meeting counts only for a share of what
independence would make of it, and only those take part whose own return period is nearly a week: what all of them do
every day, each has seen often.
"""

from __future__ import annotations

import numpy as np

from detector.core.series import Float32
from detector.times import MINUTE_MS, WEEK_MS

FEWEST = 3
"""Entities that are several."""

# What chose these stands in tests/benchmarks/README.md, "Return periods".
_TOGETHER, _FEWEST_SLOTS = 30 * MINUTE_MS, 3  # what happens within it happens at once; slots at least
_OWN = -1.0  # ln of the return period in weeks that an entity must have itself
_SHARE = 0.4  # of the evidence that independent entities would give
_MOST = 30.0  # of that logarithm, that counts


def together(own: Float32, *, step: int) -> Float32:
    """ln of the return period in weeks of so many entities at once, (E, K), NaN for those that do not take part.

    own: (E, K) that of each entity alone, NaN = unknown; step: milliseconds
    """
    result = np.full(own.shape, np.nan, dtype=np.float32)
    takes_part = own > np.float32(_OWN)
    most = int(takes_part.sum(axis=0).max(initial=0))
    if most < FEWEST:
        return result
    fleet = np.maximum((~np.isnan(own)).sum(axis=0), 1)  # (K,)
    order = np.argsort(np.where(takes_part, -own, np.float32(np.inf)), axis=0, kind="stable")[:most]  # (m, K)
    ranked = np.take_along_axis(own, order, axis=0).astype(np.float64)
    is_one = np.take_along_axis(takes_part, order, axis=0)
    count = np.arange(1, most + 1)[:, None]
    span = max(_TOGETHER, _FEWEST_SLOTS * step) / WEEK_MS
    mean = np.minimum(fleet * span * np.exp(-np.minimum(np.where(is_one, ranked, 0.0), _MOST)), count)
    # Chernoff's bound of the Poisson tail
    chance = _SHARE * (count * np.log(mean / count) - mean + count)
    period = np.log(span) - chance + np.log(fleet / count)  # each of them opens an alert: of the budget it takes m
    period = np.where(is_one & (count >= FEWEST), period, -np.inf)
    # the largest group that an entity belongs to may be rarer than the smallest
    best = np.maximum.accumulate(period[::-1], axis=0)[::-1]
    np.put_along_axis(result, order, np.where(is_one & np.isfinite(best), best, np.nan).astype(np.float32), axis=0)
    return result
