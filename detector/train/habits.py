"""What is usual for each entity, and what it has shown: from the history that a model is trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from detector.core import news, shape
from detector.core.deviation import Usual
from detector.core.news import BEFORE, STREAMS, Experience, Habits, Observed
from detector.core.peaks import Tails
from detector.core.rhythm import Jobs
from detector.core.series import Bool, Float32, Int64
from detector.core.shape import Shapes
from detector.detect import news as slots_news
from detector.detect.news import LOOK_BACK, Norm, Slots, blocks
from detector.train.division import Division

_CELLS = 4_000_000
"""Values at a time: each time takes a pass over all slots, one by one, and some hundred bytes for each value."""


def fit(data: Division, errors: Float32) -> tuple[Habits, Experience]:
    """Habits from the training part; the experience that the calibration part leaves behind, at the history's end.

    errors: (E, L) of the calibration part, NaN elsewhere

    What a slot of the training part looks like says little of later ones, since habits come from it: its peaks are not
    remembered. What was gross there, and how far values went, is.
    """
    horizon, history = data.plan.horizon, data.history
    entities, _, metrics = history.values.shape
    is_training = _is_training(data, data.rows)
    training = np.where(is_training[..., None], history.values, np.float32(np.nan))
    usual = Usual.fit(training, history.slots, step=horizon.step)
    jobs = Jobs.fit(training, history.slots, usual, step=horizon.step)
    unknown = np.zeros(len(STREAMS), dtype=np.float32)
    none = Tails(unknown[None][:0], unknown[None][:0], unknown, unknown + 1)
    habits = Habits(usual, Shapes.none(entities, metrics), jobs, none)
    norm = Norm(habits, data.scales, horizon.metric_rules, horizon.step)
    slots = _slots(history.slots, data.rows, history.values, errors)
    observed, before = list[Observed](), list[Experience]()
    for rows in blocks(slots, cells=_CELLS):
        _fit_shapes(data, norm, slots.of(rows))
    for rows in blocks(slots, cells=_CELLS):
        seen, found = _observed(data, norm, slots.of(rows))
        observed.append(found)
        before.append(seen)
    streams = np.concatenate([found.streams for found in observed])
    # a job lacks nothing or nearly all: one that did not run is a peak, and tells nothing of how a tail falls
    missed = streams[..., STREAMS.index("missed")]
    np.minimum(missed, news.NOT_MISSED, out=missed)
    tails = Tails.fit(streams)
    habits = replace(habits, tails=tails)
    after = []
    for rows, found, seen in zip(blocks(slots, cells=_CELLS), observed, before, strict=True):
        first = replace(seen, peaks=_none(tails, data.rows[rows], data).peaks)
        after.append(_judged(data, habits, data.rows[rows], first, found))
    return habits, Experience.joined(after)


def shown(data: Division, habits: Habits, errors: Float32, *, rows: Int64, until: Int64) -> Experience:
    """What some entities have shown before a slot of each: as `fit` leaves it, if their history had ended there.

    rows: (R,) of the entities; until: (R,); errors: (R, L) as in `fit`
    """
    history = data.history
    norm = Norm(habits, data.scales, data.plan.horizon.metric_rules, history.step)
    is_later = np.arange(history.values.shape[1]) >= until[:, None]
    values = np.where(is_later[..., None], np.float32(np.nan), history.values[rows])
    slots = _slots(history.slots, rows, values, np.where(is_later, np.float32(np.nan), errors))
    after = []
    for some in blocks(slots, cells=_CELLS):
        mine = slots.of(some)
        after.append(_judged(data, habits, mine.rows, *_observed(data, norm, mine)))
    return Experience.joined(after)


def _slots(at: Int64, rows: Int64, values: Float32, errors: Float32) -> Slots:
    """All slots of a history; nothing is known before it."""
    return Slots(
        at,
        rows,
        np.pad(values, ((0, 0), (LOOK_BACK, 0), (0, 0)), constant_values=np.nan),
        np.pad(errors, ((0, 0), (BEFORE, 0)), constant_values=np.nan),
    )


def _observed(data: Division, norm: Norm, mine: Slots) -> tuple[Experience, Observed]:
    """What the mechanisms see of some entities' history, but for streams of the training part."""
    seen, found = slots_news.observe(norm, _none(norm.habits.tails, mine.rows, data), mine)
    streams = np.where(_is_training(data, mine.rows)[..., None], np.float32(np.nan), found.streams)
    return seen, replace(found, streams=streams)


def _is_training(data: Division, rows: Int64) -> Bool:
    """True for the slots of the training part of some entities, (R, L)."""
    return np.asarray(np.arange(data.history.values.shape[1]) < data.divide[rows, None])


def _judged(data: Division, habits: Habits, rows: Int64, seen: Experience, found: Observed) -> Experience:
    """What entities have shown after their history."""
    experience, _ = news.judge(
        seen,
        found,
        slots=data.history.slots,
        scale=habits.tails.at(rows)[1],
        step=data.history.step,
        metrics=data.history.values.shape[2],
    )
    return experience


def _none(tails: Tails, rows: Int64, data: Division) -> Experience:
    """Nothing has been seen before the history."""
    history = data.history
    return Experience.none(*tails.at(rows), metrics=history.values.shape[2], slot=history.start, step=history.step)


def _fit_shapes(data: Division, norm: Norm, mine: Slots) -> None:
    """Finds the normal windows of some entities, and writes them into the habits."""
    found, has_shape = slots_news.statistics(norm, mine), slots_news.has_shape(mine)  # (B, L, D), (B, L)
    shapes = norm.habits.shapes
    for row, statistics, is_known in zip(mine.rows.tolist(), found, has_shape, strict=True):
        begin, end = int(data.first[row]) + shape.SLOTS, int(data.divide[row])
        known = statistics[begin:end][is_known[begin:end]]
        if len(known):
            centres, shapes.unit[row] = Shapes.fit(known)
            shapes.centres[row, : len(centres)] = centres
            shapes.centres[row, len(centres) :] = centres[-1]
