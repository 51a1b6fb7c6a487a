"""Return periods of a memory's slots: of the new ones, and again of those that late samples changed."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from detector.core.news import BEFORE, Experience
from detector.core.series import Float32, any_metric
from detector.detect import news
from detector.detect.horizon import Horizon
from detector.detect.memory import Late, Memory, Point
from detector.detect.news import LOOK_BACK, Slots
from detector.ports import ModelVersion


def advanced(horizon: Horizon, memory: Memory, new: int) -> Memory:
    """The memory with the return periods of its newest K slots, and what entities have shown after them."""
    if not new:
        return memory
    slots, end = _slots(memory, new, until=0), memory.history.end
    # a point that lies before what late samples may change, and before the scores that a restart needs again
    cut = max(0, new - horizon.scores - horizon.late)
    return_periods, experience = memory.return_periods.copy(), memory.experience
    points = memory.points or (Point(end - new * horizon.step, experience),)
    for begin, until in ((0, cut), (cut, new)):
        if begin < until:
            experience, found = _advance(horizon, memory.model, experience, slots.part(begin, until))
            last = return_periods.shape[1] - (new - until)
            kept = min(until - begin, last)
            return_periods[:, last - kept : last] = found[:, until - begin - kept :]
            points = _pointed(points, Point(end - (new - until) * horizon.step, experience), horizon, end=end)
    return replace(memory, return_periods=return_periods, experience=experience, points=points)


def _pointed(points: tuple[Point, ...], newest: Point, horizon: Horizon, *, end: int) -> tuple[Point, ...]:
    """The points that are needed from now on: one before the late slots, and the next to take its place."""
    late_from = end - horizon.late * horizon.step
    if newest.slot <= late_from:
        return (newest,)
    if len(points) < 2:  # the one in use, and the next
        return (*points, newest)
    return (points[1], newest) if points[1].slot <= late_from else points


def again(horizon: Horizon, memory: Memory, late: Late) -> Memory:
    """The memory with the return periods of committed slots that late samples changed, and what follows from them.

    The new slots at its end have no return periods yet.
    """
    step, committed = horizon.step, memory.history.end - late.new * horizon.step
    changed = committed - late.slots * step
    earlier = [n for n, point in enumerate(memory.points) if point.slot <= changed]
    if not memory.points:
        return memory
    at = earlier[-1] if earlier else 0
    points, return_periods = list(memory.points), memory.return_periods.copy()
    experience, slot = points[at].experience.rows(late.rows), points[at].slot
    ends = [point.slot for point in points[at + 1 :]]
    for n, until in enumerate([*ends, committed], start=at + 1):
        behind, count = late.new + (committed - until) // step, (until - slot) // step
        if count:
            mine = _slots(memory, count, until=behind).of(late.rows)
            experience, found = _advance(horizon, memory.model, experience, mine)
            last = return_periods.shape[1] - behind
            kept = min(count, last)
            return_periods[late.rows, last - kept : last] = found[:, count - kept :]
        if n < len(points):
            points[n] = replace(points[n], experience=points[n].experience.with_rows(late.rows, experience))
        slot = until
    after = memory.experience.with_rows(late.rows, experience)
    return replace(memory, return_periods=return_periods, experience=after, points=tuple(points))


def _advance(horizon: Horizon, model: ModelVersion, experience: Experience, slots: Slots) -> tuple[Experience, Float32]:
    """As `news.advance`; an entity that nothing was known of for too long begins anew with its first value.

    Memory drops what it has no value of. So what it holds after a gap must not depend on when it did.
    """
    norm, step = news.norm_of(model, horizon.metric_rules, horizon.step), horizon.step
    forgotten = {"none": horizon.forget, "last": horizon.forget - horizon.hold, "zero": horizon.values * step}
    longest = np.where(slots.rows < 0, horizon.values * step, forgotten[horizon.filled])  # (E,)
    has_value = any_metric(~np.isnan(slots.values[:, LOOK_BACK:]))  # (E, K)
    known = np.where(has_value, slots.slots, experience.last[:, None])
    before = np.maximum.accumulate(np.concatenate([experience.last[:, None], known[:, :-1]], axis=1), axis=1)
    is_anew = has_value & (slots.slots - before >= longest[:, None])
    cuts = np.flatnonzero(is_anew.any(axis=0)).tolist()
    parts = []
    for begin, until in pairwise([0, *cuts, len(slots.slots)]):
        anew = np.flatnonzero(is_anew[:, begin]) if begin in cuts else np.zeros(0, dtype=np.int64)
        if anew.size:
            experience = experience.with_rows(anew, news.first(model, slots.rows[anew], step=step))
        if begin < until:
            experience, found = news.advance(norm, experience, slots.part(begin, until))
            parts.append(found)
    return experience, np.concatenate(parts, axis=1)


def _slots(memory: Memory, count: int, *, until: int) -> Slots:
    """`count` slots of a memory that end `until` slots before its end, with what is looked at before them."""
    history = memory.history
    last = history.values.shape[1] - until
    values = history.values[:, last - count - LOOK_BACK : last]
    end = memory.errors.shape[1] - until
    return Slots(
        slots=history.slots[last - count : last],
        rows=memory.rows,
        values=values,
        errors=memory.errors[:, end - count - BEFORE : end],
    )
