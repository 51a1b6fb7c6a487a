"""What of a slot is news: its return period by each of several mechanisms, from what an entity has shown before.

Data flow: values and errors → `observe` (a number for each mechanism, larger the stranger) → `judge` (its return
period). Both go on from an entity's `Experience` and return the next one; nothing else is remembered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core import score
from detector.core.deviation import Usual
from detector.core.peaks import ANY, NO_NEWS, Peaks, Tails
from detector.core.rhythm import Bins, Jobs
from detector.core.rules import MetricRules
from detector.core.series import Bool, Float32, Int16, Int64, any_metric
from detector.core.shape import Shapes
from detector.core.threshold import Calibration
from detector.times import HOUR_MS, MINUTE_MS, WEEK_MS

SHARES = {
    # mean error of the network over so many slots
    "net1": 0.15,
    "net3": 0.2,
    "net10": 0.15,
    "shape": 0.1,
    # mean deviation over all metrics, of a slot and of three
    "far1": 0.3,
    "far3": 0.3,
    # least deviation of the worst metric, over three slots and over ten minutes
    "one3": 0.6,
    "one10": 0.25,
    # share of its usual rise that a daily job lacks
    "missed": 0.3,
}
"""Mechanisms whose peaks are remembered, and the share of the alert budget that each may use."""

STREAMS = tuple(SHARES)
GROSS, RECORD, POOL, PRECEDENT = "gross", "record", "pool", "precedent"
MECHANISMS = (*STREAMS, GROSS, RECORD, POOL, PRECEDENT)
"""`gross` is a fixed fence around all metrics at once, `record` a value beyond everything seen. Neither has a share:
what opens an alert by them is no matter of a budget. `pool` is several entities at once, of which `core.pool` says
more: one of them alone knows nothing of it. `precedent` is an alert that people called real (`core.precedents`)."""

POOLED = "one10"
"""Mechanism that entities must share for a pool."""

BEFORE = 9
"""Slots before a new one that `observe` takes errors of: those of the longest mean."""

RECENT = 3
"""Slots that must all lie beyond everything older than `long_slots`."""

MOST_LONG = 30
"""Slots that `long_slots` is at most."""

# What chose these stands in tests/benchmarks/README.md, "Return periods".
_LATELY = 6 * HOUR_MS  # half-life of what a metric has shown lately
_FEWEST_LATELY = 6  # slots of that half-life
_MOST_IN_MEAN = 100.0  # deviations of one metric in a mean over all: one slot of one metric must not carry it
_LONG = 10 * MINUTE_MS  # that the worst metric lasts, and that what came before a record is older than
_FENCE = 0.12  # of the logarithm of a deviation, for one nat
# no reason, however rare: so many deviations; of `missed` the share that a job lacks
_FLOOR = {"far1": 3.0, "far3": 3.0, "one3": 6.0, "one10": 6.0, "missed": 0.4}
_GROSS = 5.0  # mean deviation over all metrics
_WEEKLY, _MOST_TOLD = 7.0, 2.5  # one that is told once a week, and more often with its square; times a week at most
_BROAD, _BROAD_DEVIATIONS, _BROAD_SLOTS, _BROAD_COUNT = 3, 6.0, 2, 0.05  # metrics from which on it hardly counts
_TOLD_FROM = 1.0  # nats below the fence, from where on what was there counts
_RECORD_SCALE, _RECORD_SHARE = 0.1, 0.5  # of log(1 + how far outside, in units of the range), for one nat
_FALL = 0.4  # of the logarithm of how many times lower than everything seen, on top of how far outside
_LEAST_OF_LEVEL = 0.01  # of the largest |value|, of a range
_LEAST_UNIT = 1e-9
_LEAST_STREAM, _LEAST_MISSED = 1e-6, 0.02
NOT_MISSED = np.float32(np.log(np.float32(_LEAST_MISSED)))
"""What the stream `missed` says where no daily job lacks anything."""
_SPAN_OF = {"net1": 0, "net3": 0, "net10": 1}  # index of the span whose tail of errors stands for a stream's


@dataclass(frozen=True, slots=True)
class Experience:
    """What entities have shown so far, as far as it matters; all arrays (E, …)."""

    peaks: Peaks  # of STREAMS
    told: Peaks  # of what was gross, one stream
    lately: Float32  # (E, F) ln(1 + deviation), as it has been for some hours
    recent: Float32  # (E, R, F) discounted deviations of the newest slots, NaN = unknown
    lowest: Float32  # (E, F) of all slots but the newest `long_slots`, NaN: none was known
    highest: Float32  # (E, F)
    known: Int64  # (E,) slots with any value
    last: Int64  # (E,) the newest of them, epoch milliseconds
    bins: Bins  # what metrics did in the newest quarters of an hour

    @staticmethod
    def none(start: Float32, scale: Float32, *, metrics: int, slot: int, step: int) -> Experience:
        """Nothing has been seen before a slot; start, scale: (E, STREAMS) of the tails."""
        entities = len(start)
        unknown = np.full((entities, metrics), np.nan, dtype=np.float32)
        return Experience(
            peaks=Peaks.first(start, scale, slot=slot),
            told=Peaks.none(entities, 1, slot=slot),
            lately=np.zeros((entities, metrics), dtype=np.float32),
            recent=np.full((entities, long_slots(step) - 1, metrics), np.nan, dtype=np.float32),
            lowest=unknown,
            highest=unknown,
            known=np.zeros(entities, dtype=np.int64),
            last=np.full(entities, slot, dtype=np.int64),
            bins=Bins.none(entities, metrics, slot=slot),
        )

    @staticmethod
    def normal(habits: Habits, entities: int, *, metrics: int, slot: int, step: int, weeks: float) -> Experience:
        """That of entities of which nothing is known but that they were normal for some weeks before a slot."""
        tails = habits.tails.at(np.arange(entities))
        none = Experience.none(*tails, metrics=metrics, slot=slot, step=step)
        return replace(none, peaks=Peaks.normal(*tails, slot=slot, weeks=weeks))

    @staticmethod
    def of(columns: Mapping[str, NDArray[Any]]) -> Experience:
        """From what `columns` gives."""
        own: dict[str, Any] = {c.name: columns[c.name] for c in fields(Experience) if c.name not in _PARTS}
        for name, kind in _PARTS.items():
            own[name] = kind(**{c.name: columns[f"{name}/{c.name}"] for c in fields(kind)})
        return Experience(**own)

    def at_step(self, step: int) -> Experience:
        """The same, to go on from at another step: what the newest slots were is not known then."""
        slots, (entities, kept, metrics) = long_slots(step) - 1, self.recent.shape
        if kept == slots:
            return self
        return replace(self, recent=np.full((entities, slots, metrics), np.nan, dtype=np.float32))

    @staticmethod
    def joined(parts: Sequence[Experience]) -> Experience:
        """That of the entities of all parts."""
        columns = [part.columns() for part in parts]
        return Experience.of({name: np.concatenate([part[name] for part in columns]) for name in columns[0]})

    def columns(self) -> dict[str, NDArray[Any]]:
        """All arrays, (E, …) each, by name."""
        found: dict[str, NDArray[Any]] = {}
        for column in fields(self):
            part = getattr(self, column.name)
            if column.name in _PARTS:
                found |= {f"{column.name}/{inner.name}": getattr(part, inner.name) for inner in fields(part)}
            else:
                found[column.name] = part
        return found

    def rows(self, rows: Int64 | slice) -> Experience:
        """That of some entities."""
        return Experience.of({name: values[rows] for name, values in self.columns().items()})

    def with_rows(self, rows: Int64, others: Experience) -> Experience:
        """The same with that of some entities replaced."""
        mine = {name: values.copy() for name, values in self.columns().items()}
        for name, values in others.columns().items():
            mine[name][rows] = values
        return Experience.of(mine)


_PARTS: dict[str, type[Peaks] | type[Bins]] = {"peaks": Peaks, "told": Peaks, "bins": Bins}


@dataclass(frozen=True)
class Habits:
    """What is usual for the entities of a model."""

    usual: Usual
    shapes: Shapes
    jobs: Jobs
    tails: Tails  # of STREAMS

    @staticmethod
    def of_errors(calibration: Calibration, *, metrics: int) -> Habits:
        """Of entities of which only the tails of their errors are known: other mechanisms say nothing."""
        start = np.zeros((len(calibration.start), len(STREAMS)), np.float32)
        scale = np.ones_like(start)
        fleet_start, fleet_scale = np.zeros(len(STREAMS), np.float32), np.ones(len(STREAMS), np.float32)
        for name, span in _SPAN_OF.items():
            at, least = STREAMS.index(name), np.float32(_LEAST_STREAM)
            start[:, at], scale[:, at] = (
                np.log(np.maximum(calibration.start[:, span], least)),
                calibration.decay[:, span],
            )
            fleet_start[at] = np.log(np.maximum(calibration.fleet_start[span], least))
            fleet_scale[at] = calibration.fleet_decay[span]
        tails = Tails(start, scale, fleet_start, fleet_scale)
        return Habits(Usual.none(metrics), Shapes.none(0, metrics), Jobs.none(), tails)


@dataclass(frozen=True)
class Seen:
    """What is known of K new slots of E entities, and of some before them."""

    slots: Int64  # (K,) or (E, K) epoch milliseconds
    values: Float32  # (E, `long_slots` + K, F) own units, NaN = missing
    errors: Float32  # (E, BEFORE + K) of the network
    deviations: Float32  # (E, K, F) robust ones
    shape: Float32  # (E, K) distance from normal windows
    missed: Float32  # (E, K) share of its usual move that a daily job lacks


@dataclass(frozen=True)
class Observed:
    """How strange K slots are by each mechanism, NaN = unknown."""

    streams: Float32  # (E, K, STREAMS) logarithms
    metric: Int16  # (E, K, STREAMS) that a stream is of, ANY: of all
    gross: Float32  # (E, K) logarithm of the mean deviation of all metrics over RECENT slots
    broad: Bool  # (E, K) many metrics at once
    record: Float32  # (E, K) log(1 + how far outside of everything older than `long_slots`), 0 inside


def long_slots(step: int) -> int:
    """Slots that the worst metric must last for `one10`; the newest so many are not what was seen before a record."""
    return max(RECENT, min(MOST_LONG, round(_LONG / step)))


def observe(
    experience: Experience, seen: Seen, *, spread: Float32, rules: MetricRules, step: int
) -> tuple[Experience, Observed]:
    """Every mechanism's number at K more slots; spread: (E, F) robust deviation, own units; inf: not known."""
    found, lately = _discounted(experience.lately, seen.deviations, step=step)
    deep = np.concatenate([experience.recent, found], axis=1)  # (E, R + K, F)
    missing, slots = np.isnan(deep), found.shape[1]
    filled = np.where(missing, np.float32(0.0), deep)
    far = _mean_of_metrics(deep[:, -slots - RECENT + 1 :])
    is_known = any_metric(~missing[:, -slots:])
    metric = np.full((*is_known.shape, len(STREAMS)), ANY, dtype=np.int16)

    def worst(name: str, length: int) -> Float32:
        least = _over(np.minimum, filled[:, -slots - length + 1 :], length)
        metric[..., STREAMS.index(name)] = least.argmax(axis=2)
        return np.where(is_known, least.max(axis=2), np.float32(np.nan))

    columns = [score.smooth(seen.errors[:, BEFORE + 1 - span :], span) for span in (1, 3, 10)]
    columns += [seen.shape, far[:, RECENT - 1 :], score.smooth(far, RECENT)]
    columns += [worst("one3", RECENT), worst("one10", long_slots(step))]
    columns += [np.where(is_known, np.maximum(seen.missed, np.float32(_LEAST_MISSED)), np.float32(np.nan))]
    streams = np.log(np.maximum(np.stack(columns, axis=2), np.float32(_LEAST_STREAM)))
    least = _over(np.minimum, filled[:, -slots - _BROAD_SLOTS + 1 :], _BROAD_SLOTS)
    many = (least > _BROAD_DEVIATIONS).sum(axis=2)
    left = [seen.values[:, k] for k in range(slots)]  # the slots that are no longer among the newest `long_slots`
    lowest, highest = (
        np.stack(list(accumulate([before, *left], edge))[1:], axis=1)
        for edge, before in ((np.fmin, experience.lowest), (np.fmax, experience.highest))
    )
    has_value = any_metric(~np.isnan(seen.values[:, -slots:]))  # (E, K)
    last = np.where(has_value, seen.slots, experience.last[:, None]).max(axis=1)
    after = replace(
        experience, last=last, lately=lately, recent=deep[:, slots:], lowest=lowest[:, -1], highest=highest[:, -1]
    )
    record = _beyond(seen.values[:, -slots - RECENT + 1 :], lowest, highest, spread=spread, rules=rules)
    gross = streams[..., STREAMS.index("far3")]
    return after, Observed(streams.astype(np.float32), metric, gross.astype(np.float32), many >= _BROAD, record)


def judge(
    experience: Experience, observed: Observed, *, slots: Int64, scale: Float32, step: int, metrics: int
) -> tuple[Experience, Float32]:
    """ln of the return period in weeks by MECHANISMS, (E, K, M), NaN = unknown; slots: (K,); scale: (E, STREAMS)."""
    peaks, told, known = experience.peaks, experience.told, experience.known
    share = np.log(np.array(list(SHARES.values()), dtype=np.float32))
    floor = np.log(np.array([_FLOOR.get(name, _LEAST_STREAM) for name in STREAMS], dtype=np.float32))
    width = np.full((len(scale), 1), 0.3, dtype=np.float32)
    fence = np.float32(np.log(_GROSS))
    found = np.full((*observed.streams.shape[:2], len(MECHANISMS)), np.nan, dtype=np.float32)
    peaks, rare = peaks.follow(observed.streams, scale, slots=slots, step=step, of=observed.metric)
    found[..., : len(STREAMS)] = np.minimum(rare + share, (observed.streams - floor) / np.float32(_FENCE))
    for k, slot in enumerate(slots.tolist()):
        gross = observed.gross[:, k, None]  # (E, 1)
        rate = np.maximum(told.rate(gross, width, slot=slot, beyond=0.0), np.float32(1e-3))
        often = np.log(rate) - np.log(told.weeks_at(slot)).astype(np.float32)
        may = np.minimum(2.0 * (gross - np.float32(np.log(_WEEKLY))), np.float32(np.log(_MOST_TOLD)))
        above = np.minimum((gross - fence) / np.float32(_FENCE), may - often)
        found[:, k, len(STREAMS)] = above[:, 0]
        counts = np.where(observed.broad[:, k], np.float32(_BROAD_COUNT), np.float32(1.0))[:, None]
        matters = np.isnan(gross) | (gross >= fence - np.float32(_TOLD_FROM))
        told = told.learn(np.where(matters, gross, np.float32(NO_NEWS)), slot=slot, step=step, count=counts)

        beyond = observed.record[:, k]
        known = known + ~np.isnan(beyond)
        weeks = np.log(np.maximum(known * (step / WEEK_MS), 1e-9) * (_RECORD_SHARE / (2 * metrics)))
        record = weeks.astype(np.float32) + beyond / np.float32(_RECORD_SCALE)
        found[:, k, len(STREAMS) + 1] = np.where(beyond > 0, record, np.float32(np.nan))
    return replace(experience, peaks=peaks, told=told, known=known), found


def _discounted(lately: Float32, deviations: Float32, *, step: int) -> tuple[Float32, Float32]:
    """Deviations (E, K, F) less what each metric has shown lately, and that after them: a lasting change fades."""
    rate = np.float32(1.0 - 0.5 ** (1.0 / max(_FEWEST_LATELY, _LATELY / step)))
    found = np.empty_like(deviations)
    logs = np.log1p(np.nan_to_num(deviations))
    for k in range(deviations.shape[1]):
        found[:, k] = np.maximum(np.float32(0.0), deviations[:, k] - np.expm1(lately))
        lately = lately + rate * (logs[:, k] - lately)
    return found, lately


def _mean_of_metrics(deep: Float32) -> Float32:
    """Mean over the known metrics (E, K, F) -> (E, K); NaN where none is."""
    known = ~np.isnan(deep)
    total = np.where(known, np.minimum(deep, np.float32(_MOST_IN_MEAN)), np.float32(0.0)).sum(axis=2)
    count = known.sum(axis=2)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def _over(extreme: np.ufunc, values: Float32, length: int) -> Float32:
    """The least or the largest of the last `length` slots of (E, L, F), (E, L − length + 1, F)."""
    count = values.shape[1] - length + 1
    return np.asarray(reduce(extreme, [values[:, n : n + count] for n in range(length)]))


def _beyond(values: Float32, lowest: Float32, highest: Float32, *, spread: Float32, rules: MetricRules) -> Float32:
    """log(1 + how far RECENT slots all lie outside what came before them), the largest of all metrics: (E, K).

    values: (E, RECENT − 1 + K, F); lowest, highest: (E, K, F); spread: (E, F). In units of the range. NaN where no
    metric has a value.
    """
    bottom, top = (_over(extreme, values, RECENT) for extreme in (np.minimum, np.maximum))  # (E, K, F)
    up, down = bottom - highest, lowest - top
    least_up, least_down = (np.maximum(rules.least, rules.least_share * np.abs(edge)) for edge in (highest, lowest))
    up = np.where(rules.counts_up & (up >= least_up), up, 0.0)
    down = np.where(rules.counts_down & (down >= least_down), down, 0.0)
    level = np.float32(_LEAST_OF_LEVEL) * np.maximum(np.abs(highest), np.abs(lowest))
    unit = np.maximum(np.maximum(highest - lowest, level), spread[:, None])
    # in double precision: a metric that was always 0 has next to no unit
    outside = np.maximum(np.fmax(up, down), 0.0) / np.maximum(unit.astype(np.float64), _LEAST_UNIT)
    # what was never negative has a floor: traffic that falls from its lowest to nothing moves by little of its range
    is_lower = (down > 0) & (lowest > 0) & np.isfinite(spread)[:, None]
    times = (lowest + level) / np.maximum(np.fmax(top, 0.0) + level, np.float32(_LEAST_UNIT))
    fall = np.log(np.where(is_lower, times, 1.0))
    found = (np.log1p(np.nan_to_num(outside)) + np.float32(_FALL) * fall).max(axis=2)
    known = any_metric(~np.isnan(values[:, RECENT - 1 :]))
    return np.where(known, found, np.nan).astype(np.float32)


def tolerated(mechanism: str) -> float:
    """Deviations of a metric that are no reason for an alert by a mechanism, however rare."""
    return _FLOOR[mechanism]
