"""Memory of a monitor rebuilt from the database, up to its cursor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detector.core import grid, threshold
from detector.core.news import BEFORE
from detector.detect import alerts, checkpoints, history, judged, memory, precedents, return_periods, scores, seen
from detector.detect.checkpoints import NOTHING_KEPT, Kept, Remembered
from detector.detect.horizon import Horizon
from detector.detect.memory import Memory
from detector.ports import (
    NO_SCORES,
    NOTHING_JUDGED,
    JudgedRanges,
    ModelVersion,
    Precedent,
    ScoreRows,
    Source,
    Store,
    StoredAlert,
    StoredExperience,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """Stored state of a monitor that its memory goes on from."""

    cursor: int | None  # epoch milliseconds
    alerts: Sequence[StoredAlert] = ()  # whose episode goes on or whose closing may still matter, oldest first
    judged: JudgedRanges = NOTHING_JUDGED  # of the slots that memory keeps the values of
    scores: ScoreRows = NO_SCORES  # by the live model version, of the slots that late rows may change
    kept: Kept = NOTHING_KEPT
    remembered: Sequence[StoredExperience] = ()  # by the live model version, the newest first
    precedents: Sequence[Precedent] = ()


def stored_state(horizon: Horizon, store: Store, *, version: int) -> Stored:
    """A monitor's cursor, and what is stored of the slots before it that still matters; version: of its model."""
    name, cursor = horizon.monitor, store.cursor(horizon.monitor)
    if cursor is None:
        return Stored(None, store.alerts_since(name, 0), precedents=store.precedents(name))
    end = grid.floor(cursor, horizon.step)
    return Stored(
        cursor,
        store.alerts_since(name, end - horizon.reopening),
        store.judged_since(name, end - horizon.look_back),
        store.scores_since(name, end - horizon.late * horizon.step, version=version),
        checkpoints.read(store.checkpoint(name)),
        store.experiences(name, version=version),
        store.precedents(name),
    )


def recall(
    horizon: Horizon,
    source: Source,
    model: ModelVersion,
    *,
    stored: Stored,
    now: int,
    begin: int | None = None,
    scored: int = 0,
) -> Memory:
    """Rebuilds from the source what the monitor needs to go on from its cursor.

    A monitor without a cursor starts at `begin`, or where its model's training data ended. Slots further back than
    `max_catch_up` are skipped, with a warning.

    begin, now: epoch milliseconds; scored: slots before the cursor that have scores also where the model, or what is
    remembered, has seen them already
    """
    first = model.trained_until if begin is None else begin
    # a cursor of another step may lie within a slot, which is judged already, if only in part
    stored_cursor = None if stored.cursor is None else -grid.floor(-stored.cursor, horizon.step)
    cursor = _start(horizon, first if stored_cursor is None else stored_cursor, now)
    relevant = [
        alert
        for alert in stored.alerts
        if alert.episode.closed_slot is None or alert.episode.closed_slot >= cursor - horizon.reopening
    ]
    alerted = {alert.entity for alert in relevant}
    gone = judged.departed(stored.judged)
    others = sorted(alerted | judged.filled_ones(horizon, stored.judged))
    last = _remembered(horizon, stored, cursor)
    judge_from = _judge_from(horizon, model, last, cursor, scored=scored)
    start = cursor - horizon.look_back
    known = (*others, *(name for name in last.entities if name not in gone)) if last else others
    recalled = memory.empty(horizon, model, cursor=stored.cursor, others=known, start=start, gone=gone)
    recalled = _with_experience(recalled, last, stored)
    recalled = replace(recalled, precedents=precedents.of(horizon, model, stored.precedents))
    recalled = replace(recalled, seen=recalled.seen.since(judged.last_rows(horizon, recalled, stored.judged)))
    while recalled.history.end < cursor:  # in pieces: what is read is many times what is kept
        extended = _next_piece(horizon, source, recalled, needed=known, cursor=cursor, judge_from=judge_from)
        new = min(extended.late.new, max(0, extended.memory.history.end - judge_from) // horizon.step)
        recalled = memory.newest_part(horizon, return_periods.advanced(horizon, extended.memory, new))
    if cursor == stored.cursor:
        recalled = checkpoints.with_rests(recalled, stored.kept, begin=start)
    again = recalled.scores.copy()
    for rows in memory.blocks(len(recalled.entities)):
        only = np.arange(rows.start, rows.stop)
        parts = scores.scores_by_mechanism(horizon, recalled, horizon.scores, only=only)
        again[rows, -horizon.scores :] = threshold.worst(parts)
    recalled = replace(recalled, scores=again)
    states = alerts.states_of(horizon, recalled, relevant)
    snapshot = scores.snapshot_of(
        horizon,
        recalled,
        extended,
        surprise=scores.surprises(recalled, 1)[:, 0],
        states=states,
        is_silent=alerts.silent(recalled.entities, relevant),
    )
    is_gone = seen.gone(horizon, recalled.seen.slot[:, -1:], recalled.history.slots[-1:])[:, 0]
    snapshot = snapshot.without(is_gone) if is_gone.any() else snapshot
    newest = alerts.checkpoint(horizon, cursor, entities=recalled.entities, states=states)
    past = (*(point for point in stored.kept.past if point.slot < newest.slot), newest)
    return _as_judged(horizon, replace(recalled, states=states, past=past, snapshot=snapshot), stored)


def _remembered(horizon: Horizon, stored: Stored, cursor: int) -> Remembered | None:
    """The newest stored experience from which all scores that are needed again can be made, else the newest."""
    step, found = horizon.step, [found for found in stored.remembered if found.slot <= cursor]
    enough = [one for one in found if horizon.scores <= (cursor - one.slot) // step <= horizon.replayed]
    return next(filter(None, map(checkpoints.unpacked, [*enough, *found])), None)


def _judge_from(horizon: Horizon, model: ModelVersion, last: Remembered | None, cursor: int, *, scored: int) -> int:
    """The slot from which return periods are made again: where the experience ends, unless that is long ago."""
    begin = grid.floor(model.trained_until, horizon.step) if last is None else last.slot
    is_near = scored * horizon.step <= cursor - begin <= horizon.replayed * horizon.step
    return begin if is_near else cursor - horizon.scores * horizon.step


def _with_experience(recalled: Memory, last: Remembered | None, stored: Stored) -> Memory:
    """The memory with what its entities had shown."""
    if last is None:
        return recalled
    before = grid.positions(recalled.entities, last.entities)
    known = np.flatnonzero(before >= 0)
    own = last.experience.at_step(recalled.history.step).rows(before[known])
    experience = recalled.experience.with_rows(known, own)
    return replace(recalled, experience=experience, written=stored.remembered[0].slot)


def _as_judged(horizon: Horizon, recalled: Memory, stored: Stored) -> Memory:
    """A memory that knows what is on record of its slots, and which of them rows have changed since."""
    if stored.cursor is None:
        return recalled
    end = grid.floor(stored.cursor, horizon.step)
    slots = end - horizon.step * np.arange(horizon.late + 1, 0, -1)
    newest = replace(recalled, judged=judged.newest_codes(recalled, stored.judged, slots), told=stored.kept.told)
    if end != recalled.history.end:  # what came while too much was missed is too late for all of it
        return newest
    found = judged.compared(horizon, newest, stored.judged)
    changed = judged.changed(horizon, newest, found, stored.scores)
    return replace(newest, changed=changed, told=judged.tell_too_late(horizon, newest, found, stored.judged))


def _start(horizon: Horizon, cursor: int, now: int) -> int:
    """The slot to go on from, epoch milliseconds: the cursor, but none further back than is caught up."""
    complete = grid.complete_until(now, horizon.step, horizon.delay)
    cursor = grid.floor(cursor, horizon.step)
    earliest = complete - grid.floor(horizon.max_catch_up, horizon.step)
    if cursor >= earliest:
        return cursor
    skipped = (earliest - cursor) // horizon.step
    logger.warning("event=catch_up_truncated monitor=%s skipped_slots=%d", horizon.monitor, skipped)
    return earliest


def _next_piece(
    horizon: Horizon, source: Source, recalled: Memory, *, needed: Sequence[str], cursor: int, judge_from: int
) -> memory.Extended:
    """A memory extended by the slots of one read; only those that errors are needed of have any."""
    step, begin = horizon.step, recalled.history.end
    most = history.slots_at_a_time(len(recalled.entities), len(horizon.metrics))
    slots = min((cursor - begin) // step, most)
    end = begin + slots * step
    samples = source.read(begin, end)
    entities = memory.members(recalled, samples.entities, needed)
    values = history.gridded(horizon, samples, entities, start=begin, slots=slots)
    del samples  # many times what remains of them
    first_error = min(cursor - horizon.errors * step, judge_from - BEFORE * step)
    unscored = min(slots, max(0, first_error - begin) // step)  # the windows of these have not been read
    gridded = memory.gridded(horizon, recalled, entities, values=values, end=end, late=0)
    return memory.extend(horizon, recalled, gridded, unscored=unscored)
