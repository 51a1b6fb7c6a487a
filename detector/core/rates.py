"""Counters, which only grow and begin anew, as rates per second; and what looks like one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from detector.core import grid
from detector.core.series import Bool, Float64, Int64, Samples

_LEAST_STEPS = 20  # between samples of a series, before it is called a counter
_RISING = 0.5  # share of them that rise, at least
_FALLING = 0.02  # share of them that fall, at most: a counter begins anew when its program does
_ANEW = 0.5  # of the value before, at most, is a counter's value when it begins anew


def per_second(series: Int64, time: Int64, value: Float64, longest: int) -> Float64:
    """Increase per second of each sample of a counter since the one before it in its series, (N,) each.

    A value that is less than the one before it is a counter that began anew: it is the increase itself. NaN where no
    sample of the `longest` milliseconds before is known, where the value is not usable, and for all but the last given
    of several samples with the same series and time.
    """
    rate = np.full(len(time), np.nan)
    usable = np.flatnonzero(np.abs(value) <= grid.LARGEST)
    order = usable[np.lexsort((time[usable], series[usable]))]  # stable: of one time the last given stays last
    of, at = series[order], time[order]
    is_last = np.append((of[1:] != of[:-1]) | (at[1:] != at[:-1]), True)[: len(order)]
    order, of, at = order[is_last], of[is_last], at[is_last]
    amount, apart = value[order], np.diff(at)
    increase = np.diff(amount)
    increase = np.where(increase < 0.0, amount[1:], increase)
    is_known = (of[1:] == of[:-1]) & (apart <= longest) & (increase >= 0.0)
    rate[order[1:][is_known]] = increase[is_known] / (apart[is_known] / 1000.0)
    return rate


def of_samples(before: Samples, samples: Samples, counters: Bool, longest: int) -> Samples:
    """Samples whose counters are rates per second; all else stays.

    before: samples of the `longest` milliseconds before; counters: (F,) metrics that are counters
    """
    rows, earlier = np.flatnonzero(counters[samples.metric]), np.flatnonzero(counters[before.metric])
    if not rows.size:
        return samples
    entity = grid.positions(before.entities, samples.entities)[before.entity[earlier]]
    series = np.concatenate([entity, samples.entity[rows]]) * len(counters)
    series += np.concatenate([before.metric[earlier], samples.metric[rows]])
    time = np.concatenate([before.time[earlier], samples.time[rows]])
    rate = per_second(series, time, np.concatenate([before.value[earlier], samples.value[rows]]), longest)
    value = samples.value.copy()
    value[rows] = rate[len(earlier) :]
    return replace(samples, value=value)


def like_counters(samples: Samples, metrics: int) -> Iterator[int]:
    """Indices of the metrics whose series all grow, at most of their steps, and never fall but to begin anew.

    A series that stays the same says nothing, nor does one of fewer than twenty steps.
    """
    usable = np.abs(samples.value) <= grid.LARGEST
    series = samples.entity[usable].astype(np.int64) * metrics + samples.metric[usable]
    order = np.lexsort((samples.time[usable], series))
    series, value = series[order], samples.value[usable][order]
    is_step = series[1:] == series[:-1]
    step, old, new, of = np.diff(value)[is_step], value[:-1][is_step], value[1:][is_step], series[1:][is_step]
    names, row = np.unique(of, return_inverse=True)
    steps = np.bincount(row, minlength=len(names))
    rising, falling = (np.bincount(row[which], minlength=len(names)) for which in (step > 0.0, step < 0.0))
    is_odd = (old < 0.0) | (new < 0.0) | ((step < 0.0) & (new > _ANEW * old))
    is_like = (np.bincount(row[is_odd], minlength=len(names)) == 0) & (rising >= _RISING * steps)
    is_like &= falling <= np.maximum(1, _FALLING * steps)
    says = (steps >= _LEAST_STEPS) & (rising + falling > 0)
    for metric in range(metrics):
        mine = says & (names % metrics == metric)
        if mine.any() and is_like[mine].all():
            yield metric
