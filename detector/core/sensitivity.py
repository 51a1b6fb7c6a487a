"""Sensitivity: the value from which on one metric alone would open an alert, held for some slots.

The memory of peaks asked the other way round. A metric is held at a distance from its usual value while all others are
as usual; `news` finds how rare that is, and the rules of alerts decide. The further, the rarer. So the least distance
that opens an alert is found by halving. Neither the network nor the shape of the window is asked: they can only make
a monitor more sensitive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from detector.core import news, threshold
from detector.core.decide import THRESHOLD, Rules
from detector.core.news import BEFORE, RECENT, Experience, Habits, Seen, long_slots
from detector.core.peaks import PEAKS
from detector.core.rules import MetricRules
from detector.core.series import Bool, Float32, Float64, Int64

# log2 of distances in spreads; what a metric always had may be 1e-9 of what it once had
_NEAREST, _FURTHEST = -10.0, 60.0
_HALVINGS = 17  # to a thousandth of the distance: 70 / 2¹⁷ of its log2
_CELLS = 20_000  # numbers of remembered peaks, or of values, at a time: what is made of them fits into a cache


@dataclass(frozen=True)
class Terms:
    """What values are compared with, and what opens an alert."""

    habits: Habits
    rules: MetricRules
    decision: Rules
    level: float  # ln of the return period in weeks that stands for score 1.0
    step: int


@dataclass(frozen=True)
class Sensitivity:
    """Values that open an alert when they are held, own units; all (E, F)."""

    usual: Float32  # median at the time of day, NaN: nothing is known of it
    above: Float32  # the lowest one above it; inf: no valid one does
    below: Float32  # the highest one below it; −inf: no valid one does


def sensitivity(terms: Terms, experience: Experience, rows: Int64, *, slot: int, held: int) -> Sensitivity:
    """From which values on an alert opens, if held from a slot on, epoch milliseconds, for so many slots.

    experience: (E, …) before the slot; rows: (E,) of the habits, −1 for an entity that they do not know
    """
    usual = terms.habits.usual.medians(np.array([slot]), rows)[:, 0]  # (E, F)
    above, below = np.full_like(usual, np.inf), np.full_like(usual, -np.inf)
    for entity, metric in _cells(~np.isnan(usual), long_slots(terms.step) + held):
        case = _Case.of(terms, experience, rows, (entity, metric), _held(terms, slot, held))
        above[entity, metric], below[entity, metric] = case.nearest(1.0), case.nearest(-1.0)
    return Sensitivity(usual, above, below)


def blind(terms: Terms, experience: Experience, rows: Int64, *, slot: int, held: int) -> Bool:
    """Metrics (E, F) that no alert can come from: nothing is known of them, or no valid value opens one.

    As `sensitivity` finds them, in less time: a metric whose values have no end leaves everything seen behind.
    """
    rules, usual = terms.rules, terms.habits.usual.medians(np.array([slot]), rows)[:, 0]
    has_end = (~rules.counts_up | np.isfinite(rules.highest)) & (~rules.counts_down | np.isfinite(rules.lowest))  # (F,)
    is_unknown = np.isnan(usual)
    found = is_unknown | has_end
    # most open one soon and upwards, so few are held for long
    for slots in sorted({min(RECENT + terms.decision.open_slots - 1, held), held}):
        for sign in (1.0, -1.0):
            for entity, metric in _cells(found & ~is_unknown, long_slots(terms.step) + slots):
                case = _Case.of(terms, experience, rows, (entity, metric), _held(terms, slot, slots))
                found[entity, metric] = ~case.opens(case.value(sign, _FURTHEST))
    return found


def _held(terms: Terms, slot: int, held: int) -> Int64:
    return slot + terms.step * np.arange(held, dtype=np.int64)


def _cells(chosen: Bool, slots: int) -> Iterator[tuple[Int64, Int64]]:
    """Entities and metrics where `chosen` (E, F) is true, as many at a time as may have so many slots each."""
    entity, metric = np.nonzero(chosen)
    at_a_time = max(1, _CELLS // max(chosen.shape[1] * slots, PEAKS))
    for begin in range(0, len(entity), at_a_time):
        part = slice(begin, begin + at_a_time)
        yield entity[part], metric[part]


@dataclass(frozen=True)
class _Case:
    """C metrics, each held alone: its entity stands in as many rows as it has metrics."""

    terms: Terms
    experience: Experience  # (C, …)
    rows: Int64  # (C,)
    metric: Int64  # (C,)
    slots: Int64  # (K,) held
    usual: Float32  # (C, `long_slots` + K, F) values of slots before and these
    spread: Float32  # (C, F)
    scale: Float32  # (C, STREAMS)

    @staticmethod
    def of(terms: Terms, experience: Experience, rows: Int64, cells: tuple[Int64, Int64], slots: Int64) -> _Case:
        """Before the slots everything was usual, and what is usual is no record; cells: entities and metrics (C,)."""
        entity, metric = cells
        experience, rows = experience.rows(entity), rows[entity]
        all_slots = slots[0] + terms.step * np.arange(-long_slots(terms.step), len(slots), dtype=np.int64)
        usual = terms.habits.usual.medians(all_slots, rows)
        calm = np.where(np.isnan(usual[:, :1]), np.float32(np.nan), np.float32(0.0))
        before = replace(
            experience,
            recent=np.broadcast_to(calm, experience.recent.shape),
            lowest=np.fmin(experience.lowest, np.fmin.reduce(usual, axis=1)),
            highest=np.fmax(experience.highest, np.fmax.reduce(usual, axis=1)),
        )
        spread, scale = terms.habits.usual.spread[rows], terms.habits.tails.at(rows)[1]
        return _Case(terms, before, rows, metric, slots, usual, spread, scale)

    def value(self, sign: float, distance: float | Float64) -> Float32:
        """The value (C,) at a distance from the usual one, log2 of spreads, on one side; the last valid one beyond."""
        cell = np.arange(len(self.metric))
        first = self.usual[:, -len(self.slots)]
        usual, spread = (part[cell, self.metric].astype(np.float64) for part in (first, self.spread))
        found = usual + sign * spread * np.exp2(distance)
        return np.clip(found, self.terms.rules.lowest[self.metric], self.terms.rules.highest[self.metric]).astype(
            np.float32
        )

    def nearest(self, sign: float) -> Float32:
        """The value (C,) next to the usual one that opens an alert on one side, ±inf if none does."""
        near, far = (np.full(len(self.metric), distance) for distance in (_NEAREST, _FURTHEST))
        some = self.opens(self.value(sign, far))
        for _ in range(_HALVINGS if some.any() else 0):
            middle = (near + far) / 2.0
            is_open = self.opens(self.value(sign, middle))
            near, far = np.where(is_open, near, middle), np.where(is_open, middle, far)
        return np.where(some, self.value(sign, far), np.float32(sign * np.inf)).astype(np.float32)

    def opens(self, value: Float32) -> Bool:
        """Whether an alert opens, (C,), while each metric is held at a value (C,)."""
        terms, count = self.terms, len(self.slots)
        values = self.usual.copy()
        values[np.arange(len(value)), -count:, self.metric] = value[:, None]
        unknown = np.full((len(value), BEFORE + count), np.nan, dtype=np.float32)
        seen = Seen(
            slots=self.slots,
            values=values,
            errors=unknown,
            deviations=terms.habits.usual.deviations(values[:, -count:], self.slots, self.rows, terms.rules),
            shape=unknown[:, BEFORE:],
            missed=unknown[:, BEFORE:],
        )
        after, observed = news.observe(self.experience, seen, spread=self.spread, rules=terms.rules, step=terms.step)
        _, found = news.judge(
            after, observed, slots=self.slots, scale=self.scale, step=terms.step, metrics=values.shape[2]
        )
        return _opens(threshold.worst(threshold.scores(found, terms.level)), terms.decision)


def _opens(scores: Float32, rules: Rules) -> Bool:
    """Whether an alert opens within slots with these scores (C, K), after slots that had none: as `decide` does."""
    reaches = scores >= THRESHOLD
    padded = np.pad(reaches, ((0, 0), (rules.open_of - 1, 0)))
    enough = np.lib.stride_tricks.sliding_window_view(padded, rules.open_of, axis=1).sum(axis=2) >= rules.open_slots
    return np.asarray((reaches & (enough | (scores >= rules.score_at_once))).any(axis=1))
