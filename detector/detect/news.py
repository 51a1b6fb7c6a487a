"""Values and errors of slots to what of them is news, some hundred entities at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from detector.core import news, rhythm, scaling, shape, window
from detector.core.news import BEFORE, MECHANISMS, MOST_LONG, Experience, Habits, Observed, Seen, long_slots
from detector.core.rules import MetricRules
from detector.core.scaling import Scaling
from detector.core.series import Bool, Float32, Int64, any_metric
from detector.cores import cores
from detector.ports import ModelVersion

LOOK_BACK = max(shape.SLOTS - 1, MOST_LONG)
"""Slots before a new one whose values are looked at."""

_LEAST = 1e-6

_CELLS = 200_000  # values at a time: what is made of them fits into a processor's cache


@dataclass(frozen=True)
class Norm:
    """What the slots of a monitor are compared with."""

    habits: Habits
    scales: Scaling
    rules: MetricRules
    step: int


@dataclass(frozen=True)
class Slots:
    """Values and errors of the newest slots, and of enough before them."""

    slots: Int64  # (K,) epoch milliseconds; (E, K) where entities are seen at times of their own
    rows: Int64  # (E,) each entity's row in the model's per-entity arrays, −1 for one the model has not seen
    values: Float32  # (E, LOOK_BACK + K, F) own units
    errors: Float32  # (E, BEFORE + K)

    def part(self, begin: int, end: int) -> Slots:
        """Some of the slots, [begin, end)."""
        values, errors = self.values[:, begin : LOOK_BACK + end], self.errors[:, begin : BEFORE + end]
        return Slots(self.slots[begin:end], self.rows, values, errors)

    def of(self, rows: Int64 | slice) -> Slots:
        """Those of some entities."""
        return Slots(self.slots, self.rows[rows], self.values[rows], self.errors[rows])


def blocks(slots: Slots, *, cells: int = _CELLS) -> Iterator[slice]:
    """Rows of entities that are judged at a time, with so many values."""
    entities, length, metrics = slots.values.shape
    at_a_time = max(1, cells // (length * metrics))
    for begin in range(0, entities, at_a_time):
        yield slice(begin, min(begin + at_a_time, entities))


def advance(norm: Norm, experience: Experience, slots: Slots) -> tuple[Experience, Float32]:
    """The experience after K slots, and ln of their return periods in weeks by mechanism, (E, K, M)."""
    found = np.empty((len(slots.rows), len(slots.slots), len(MECHANISMS)), dtype=np.float32)

    def judged(rows: slice) -> Experience:
        is_everybody = rows.stop - rows.start == len(slots.rows)
        mine = slots if is_everybody else slots.of(rows)
        seen, observed = observe(norm, experience if is_everybody else experience.rows(rows), mine)
        scale = norm.habits.tails.at(mine.rows)[1]
        after, found[rows] = news.judge(
            seen, observed, slots=slots.slots, scale=scale, step=norm.step, metrics=slots.values.shape[2]
        )
        return after

    parts = list(blocks(slots))
    if len(parts) < 2:
        return (judged(parts[0]) if parts else experience), found
    with ThreadPoolExecutor(cores()) as threads:  # NumPy lets go of the interpreter
        return Experience.joined(list(threads.map(judged, parts))), found


def observe(norm: Norm, experience: Experience, slots: Slots) -> tuple[Experience, Observed]:
    """What the mechanisms see of K slots, and the experience after them."""
    usual, count = norm.habits.usual, slots.slots.shape[-1]
    deviations = usual.deviations(slots.values[:, -count:], slots.slots, slots.rows, norm.rules)
    daily = rhythm.Norm(usual, norm.habits.jobs, norm.rules, norm.step)
    lasting = slots.values[:, -count - rhythm.LASTS + 1 :]
    bins, missed = experience.bins.follow(daily, lasting, slots.slots, slots.rows)
    seen = Seen(
        slots=slots.slots,
        values=slots.values[:, -count - long_slots(norm.step) :],
        errors=slots.errors,
        deviations=deviations,
        shape=np.where(
            has_shape(slots), norm.habits.shapes.distance(statistics(norm, slots), slots.rows), np.float32(np.nan)
        ),
        missed=missed,
    )
    spread = np.full(slots.values[:, 0].shape, np.inf, dtype=np.float32)  # of one that is not known nothing is a record
    if len(usual.spread):
        known = slots.rows >= 0
        spread[known] = usual.spread[slots.rows[known]]
    return news.observe(replace(experience, bins=bins), seen, spread=spread, rules=norm.rules, step=norm.step)


def has_shape(slots: Slots) -> Bool:
    """Whether the window that ends with each slot, (E, K), has a value in this slot and in half of all."""
    count = slots.slots.shape[-1]
    has_value = np.ascontiguousarray(any_metric(~np.isnan(slots.values[:, -count - shape.SLOTS + 1 :])).T)  # (L, E)
    is_enough = 2 * window.rolling_sum(has_value, shape.SLOTS) >= shape.SLOTS
    return np.asarray((has_value[-count:] & is_enough).T, dtype=np.bool_)


def statistics(norm: Norm, slots: Slots) -> Float32:
    """Statistics (E, K, D) of the window that ends with each slot; what the rules do not count is as usual."""
    values = slots.values[:, -slots.slots.shape[-1] - shape.SLOTS + 1 :]
    scale = norm.scales.scale[slots.rows]
    scaled = scaling.apply(values, norm.scales.center[slots.rows], scale)
    return shape.statistics(norm.rules.counted(scaled, values, scale[:, None]))


# -- of a model version -----------------------------------------------------------------------------------------------


def norm_of(model: ModelVersion, rules: MetricRules, step: int) -> Norm:
    """What slots are compared with under a model version."""
    return Norm(model.artifact.habits, model.artifact.scaling, rules, step)


def first(model: ModelVersion, rows: Int64, *, step: int) -> Experience:
    """The experience of entities (E,) that nothing is remembered of: what training left behind, if anything.

    rows: (E,) as in `Slots`
    """
    artifact, slot = model.artifact, model.trained_until
    tails = artifact.habits.tails.at(rows)
    fresh = Experience.none(*tails, metrics=len(artifact.fleet_noise), slot=slot, step=step)
    known = np.flatnonzero(rows >= 0)
    return fresh.with_rows(known, artifact.experience.at_step(step).rows(rows[known])) if known.size else fresh
