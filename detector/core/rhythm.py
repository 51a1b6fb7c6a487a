"""Rhythm: what metrics do at the same time of every day, and whether they did it today.

A nightly job that does not run leaves every metric as usual, slot by slot. So the day is divided into bins, and each
bin's largest move away from the centre is compared with what it was on the days before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from detector.core.deviation import Usual, median
from detector.core.rules import MetricRules
from detector.core.series import Bool, Float32, Float64, Int64
from detector.times import DAY_MS, MINUTE_MS

BIN = 15 * MINUTE_MS
BINS = DAY_MS // BIN
"""Bins of a day, in UTC."""

MOST_STEP = BIN // 3
"""Longest step with enough slots in a bin."""

LASTS = 3
"""Slots that a move lasts at least: one slot is no job."""

# What chose these stands in tests/benchmarks/README.md, "Return periods".
MOST_JOBS = 48  # of an entity: 24 bytes each
_FEWEST_DAYS = 4
_EXCEPTIONS = 14  # one day of so many may be without it: fewer than there are Sundays
_LEAST_GAP = 4.0  # spreads, between a job and what is around it
_OF_GAP = 0.5  # that the middle day has in the bin itself, lest a job is expected a bin before or after its own
_AROUND = 4  # bins on each side: what is higher than on one side alone is a step, or part of a slow wave
_KNOWN = 2 / 3  # of a bin's slots
_FADES = 1.0 - 0.5 ** (1 / 4)  # of what is around, for each bin: half-life of an hour
_SATURDAY, _EPOCH = 5, 3  # weekdays from Monday on; 1970 began on a Thursday
_BLOCK = 16  # entities at a time


@dataclass(frozen=True)
class Jobs:
    """Moves that are seen every day, J at most of each entity, the clearest first; all (E, J)."""

    bin: Int64  # of the day, −1: there is none
    column: Int64  # metric of a rise; F more, of a fall
    level: Float32  # move that is reached every day, in the bin or next to it
    gap: Float32  # what of it lies beyond what is around it

    @staticmethod
    def none(entities: int = 0) -> Jobs:
        """Nothing is expected of any entity."""
        nothing, no_number = np.zeros((entities, 0), dtype=np.int64), np.zeros((entities, 0), dtype=np.float32)
        return Jobs(nothing, nothing, no_number, no_number)

    @staticmethod
    def fit(values: Float32, slots: Int64, usual: Usual, *, step: int) -> Jobs:
        """From training values (E, L, F) with NaN, at slots (L,) in epoch milliseconds without a gap."""
        if step > MOST_STEP or not len(values):
            return Jobs.none(len(values))
        of_blocks = []
        for begin in range(0, len(values), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            move = _largest(values[block], slots, usual.center[block], usual.spread[block], step=step)
            entity, *columns = _daily(*move)
            of_blocks.append((entity + begin, *columns))
        entity, bin_, column, level, gap = (np.concatenate(part) for part in zip(*of_blocks, strict=True))
        order = np.lexsort((-gap, entity))
        rank = np.arange(len(order)) - np.searchsorted(entity[order], entity[order])
        order, rank = order[rank < MOST_JOBS], rank[rank < MOST_JOBS]
        shape = (len(values), int(rank.max(initial=-1)) + 1)
        found = Jobs(
            np.full(shape, -1, dtype=np.int64),
            np.zeros(shape, dtype=np.int64),
            np.zeros(shape, dtype=np.float32),
            np.ones(shape, dtype=np.float32),
        )
        at = entity[order], rank
        found.bin[at], found.column[at], found.level[at], found.gap[at] = (
            part[order] for part in (bin_, column, level, gap)
        )
        return found

    def due(self, row: Int64, now: Int64) -> tuple[Int64, Int64]:
        """Entities and jobs, (N,) each, that must have run when a bin begins: those of the last bin but one.

        row: (B,) each entity's row, −1 for one that was not there; now: (B,) the bin, counted from 1970
        """
        if not self.bin.size:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        is_due = (self.bin[row] == ((now - 2) % BINS)[:, None]) & (row >= 0)[:, None]
        entity, job = np.nonzero(is_due)
        return entity, job


@dataclass(frozen=True, slots=True)
class Bins:
    """The largest moves in the newest bins, 2F columns: above the centre, and below it. NaN: too little is known."""

    bin: Int64  # (E,) the one that goes on, counted from 1970
    now: Float32  # (E, 2F) in it so far
    values: Float32  # (E, F) of each metric in it so far, a number of slots
    before: Float32  # (E, 2, 2F) in the two before it, the newest first
    around: Float32  # (E, 2F) mean over those before these, the older the less
    missed: Float32  # (E,) share of its gap that a job lacked, the largest of those due when this bin began

    @staticmethod
    def none(entities: int, metrics: int, *, slot: int) -> Bins:
        """Nothing has been seen before a slot, epoch milliseconds."""
        unknown = np.full((entities, 2 * metrics), np.nan, dtype=np.float32)
        return Bins(
            bin=np.full(entities, slot // BIN, dtype=np.int64),
            now=unknown,
            values=np.zeros((entities, metrics), dtype=np.float32),
            before=np.stack([unknown, unknown], axis=1),
            around=unknown,
            missed=np.zeros(entities, dtype=np.float32),
        )

    def follow(self, norm: Norm, values: Float32, slots: Int64, row: Int64) -> tuple[Bins, Float32]:
        """What is known after K slots, and `missed` at each, (E, K).

        values: (E, LASTS − 1 + K, F); slots: (K,) or (E, K) epoch milliseconds; row: (E,) as in `Jobs.due`
        """
        count = slots.shape[-1]
        missed = np.zeros((len(row), count), dtype=np.float32)
        if not norm.jobs.bin.size:
            return self, missed
        bins = np.broadcast_to(slots // BIN, missed.shape)
        cuts = np.flatnonzero((bins[:, 1:] != bins[:, :-1]).any(axis=0)) + 1
        center, spread = (part[row] for part in (norm.usual.center, norm.usual.spread))
        move, has_value = moves(values, center, spread), ~np.isnan(values[:, LASTS - 1 :])
        state = self
        for begin, end in pairwise([0, *cuts.tolist(), count]):
            state = state._at(norm, bins[:, begin], row)
            now = np.fmax(state.now, np.fmax.reduce(move[:, begin:end], axis=1))
            known = state.values + has_value[:, begin:end].sum(axis=1, dtype=np.float32)
            state = replace(state, now=now, values=known)
            missed[:, begin:end] = state.missed[:, None]
        return state, missed

    def _at(self, norm: Norm, now: Int64, row: Int64) -> Bins:
        """The same when a bin has begun, (E,) counted from 1970."""
        new = np.flatnonzero(now != self.bin)
        if not new.size:
            return self
        is_next = (now[new] == self.bin[new] + 1)[:, None]
        enough = np.tile(self.values[new] >= _KNOWN * BIN / norm.step, 2)
        nothing = np.float32(np.nan)
        last = np.where(is_next & enough, self.now[new], nothing)
        before = np.where(is_next[:, None], self.before[new], nothing)
        around = np.where(is_next, self.around[new], nothing)
        leaving = before[:, 1]
        faded = np.where(np.isnan(around), leaving, around + np.float32(_FADES) * (leaving - around))
        kept = {name: getattr(self, name).copy() for name in ("bin", "now", "values", "before", "around", "missed")}
        kept["bin"][new], kept["now"][new], kept["values"][new] = now[new], np.nan, 0.0
        kept["missed"][new] = _missed(norm, row[new], now[new], np.maximum(last, before.max(axis=1)), around)
        kept["before"][new, 0], kept["before"][new, 1] = last, before[:, 0]
        kept["around"][new] = np.where(np.isnan(leaving), around, faded)
        return Bins(**kept)


@dataclass(frozen=True)
class Norm:
    """What moves are compared with."""

    usual: Usual
    jobs: Jobs
    rules: MetricRules
    step: int


def moves(values: Float32, center: Float32, spread: Float32) -> Float32:
    """How far above the centre, and below it, LASTS slots all lie, in spreads: (E, K, 2F), NaN where one is missing.

    values: (E, LASTS − 1 + K, F); center, spread: (E, F)
    """
    off = (values - center[:, None]) / spread[:, None]
    parts = [off[:, n : off.shape[1] - LASTS + 1 + n] for n in range(LASTS)]
    return np.concatenate([np.minimum.reduce(parts), -np.maximum.reduce(parts)], axis=2)


def lacking(jobs: Jobs, entity: Int64, job: Int64, reached: Float32, around: Float32) -> Float32:
    """Share of its gap that each of N jobs lacks, NaN where too little is known.

    entity, job: (N,) of `jobs`; reached, around: (N,) the largest move in its bins, and that around them

    A metric whose level changes reaches what it did, or rises as far. Only what does neither has not run.
    """
    level, gap = jobs.level[entity, job], jobs.gap[entity, job]
    return np.asarray(np.minimum(level - reached, gap - (reached - around)) / gap)


def _missed(norm: Norm, row: Int64, now: Int64, reached: Float32, around: Float32) -> Float32:
    """The largest share (B,) that a job lacks of those due in a bin, 0 where none does or it does not count.

    reached, around: (B, 2F)
    """
    found = np.zeros(len(row), dtype=np.float32)
    entity, job = norm.jobs.due(row, now)
    if not entity.size:
        return found
    of, rules = row[entity], norm.rules
    column, gap = norm.jobs.column[of, job], norm.jobs.gap[of, job]
    share = lacking(norm.jobs, of, job, reached[entity, column], around[entity, column])
    is_fall, metric = np.divmod(column, norm.usual.center.shape[1])
    # a rise that is not there is less than expected
    counts = np.where(is_fall, rules.counts_up[metric], rules.counts_down[metric])
    expected, spread = expected_value(norm, of, job), norm.usual.spread[of, metric]
    least = np.maximum(rules.least[metric], rules.least_share[metric] * np.abs(expected))
    np.maximum.at(found, entity, np.where(counts & (share * gap * spread >= least), share, np.float32(0.0)))
    return found


def expected_value(norm: Norm, row: Int64, job: Int64) -> Float32:
    """The value (N,) that each of some jobs reaches every day, own units; row, job: (N,) of `Norm.jobs`."""
    is_fall, metric = np.divmod(norm.jobs.column[row, job], norm.usual.center.shape[1])
    off = np.where(is_fall, -1, 1) * norm.jobs.level[row, job] * norm.usual.spread[row, metric]
    return np.asarray(norm.usual.center[row, metric] + off, dtype=np.float32)


def _largest(values: Float32, slots: Int64, center: Float32, spread: Float32, *, step: int) -> tuple[Float32, Int64]:
    """The largest moves (B, D, BINS, 2F) in each bin of each day, NaN where too little is known; and the days (D,)."""
    padded = np.pad(values, ((0, 0), (LASTS - 1, 0), (0, 0)), constant_values=np.nan)
    bins = slots // BIN
    starts = np.flatnonzero(np.diff(bins, prepend=bins[0] - 1))
    move = np.fmax.reduceat(moves(padded, center, spread), starts, axis=1)
    known = np.add.reduceat(~np.isnan(values), starts, axis=1, dtype=np.int64)
    move[np.tile(known < _KNOWN * BIN / step, 2)] = np.nan
    days = np.arange(bins[0] // BINS, bins[-1] // BINS + 1)
    found = np.full((len(values), len(days) * BINS, move.shape[2]), np.nan, dtype=np.float32)
    found[:, bins[starts] - days[0] * BINS] = move
    return found.reshape(len(values), len(days), BINS, -1), days


def _daily(move: Float32, days: Int64) -> tuple[Int64, Int64, Int64, Float32, Float32]:
    """Entity, bin, column, level and gap, (N,) each, of moves that are seen every day; as `_largest` gives them."""
    entities, many, _, columns = move.shape
    whole = np.pad(move.reshape(entities, -1, columns), ((0, 0), (1, 1), (0, 0)), constant_values=np.nan)
    near = np.maximum.reduce([whole[:, n : n + many * BINS] for n in range(3)]).reshape(move.shape)
    known: Bool = ~np.isnan(near)
    count = known.sum(axis=1)  # (B, BINS, 2F)
    is_free = (days + _EPOCH) % 7 >= _SATURDAY
    # working days alone do not tell what weekends are like
    is_enough = (count >= _FEWEST_DAYS) & known[:, is_free].any(axis=1)
    least = np.take_along_axis(np.sort(near, axis=1), (count // _EXCEPTIONS)[:, None], axis=1)[:, 0]
    middle = median(move.reshape(entities, many, -1).astype(np.float64)).reshape(entities, BINS, columns)
    sides = (range(2, _AROUND + 1), range(-_AROUND, -1))
    gap = least - np.maximum(*(_median_of_bins(middle, side) for side in sides))
    entity, bin_, column = np.nonzero(is_enough & (gap >= _LEAST_GAP) & (middle >= least - (1.0 - _OF_GAP) * gap))
    at = (entity, bin_, column)
    return (*at, least[at], gap[at].astype(np.float32))


def _median_of_bins(middle: Float64, offsets: range) -> Float64:
    """Median (B, BINS, 2F) of some bins before or after each one, across midnight too."""
    some = np.stack([np.roll(middle, n, axis=1) for n in offsets], axis=1)
    return median(some.reshape(*some.shape[:2], -1)).reshape(middle.shape)
