"""Memory of a monitor rebuilt from the database, up to its cursor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from detector.core import grid, threshold
from detector.detect import alerts, history, memory, scores
from detector.detect.horizon import Horizon
from detector.detect.memory import Gridded, Memory
from detector.ports import ModelVersion, Source, Store, StoredAlert

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """Stored state of a monitor that its memory goes on from."""

    cursor: int | None  # epoch milliseconds
    alerts: Sequence[StoredAlert] = ()  # whose episode goes on or whose closing may still matter, oldest first


def stored_state(horizon: Horizon, store: Store) -> Stored:
    """A monitor's cursor, and those of its alerts that still matter there."""
    cursor = store.cursor(horizon.monitor)
    since = 0 if cursor is None else grid.floor(cursor, horizon.step) - horizon.claim
    return Stored(cursor, store.alerts_since(horizon.monitor, since))


def recall(
    horizon: Horizon, source: Source, model: ModelVersion, *, stored: Stored, now: int, begin: int | None = None
) -> Memory:
    """Rebuilds from the source what the monitor needs to go on from its cursor.

    A monitor without a cursor starts at `begin`, or where its model's training data ended. Slots further back than
    `max_catch_up` are skipped, with a warning. begin, now: epoch milliseconds
    """
    first = model.trained_until if begin is None else begin
    cursor = _start(horizon, first if stored.cursor is None else stored.cursor, now)
    relevant = [
        alert
        for alert in stored.alerts
        if alert.episode.closed_slot is None or alert.episode.closed_slot >= cursor - horizon.claim
    ]
    alerted = {alert.entity for alert in relevant}
    start = cursor - horizon.slots * horizon.step
    recalled = memory.empty(horizon, model, cursor=stored.cursor, others=sorted(alerted), start=start)
    while recalled.history.end < cursor:  # in pieces: what is read is many times what is kept
        extended = _next_piece(horizon, source, recalled, alerted=alerted, cursor=cursor)
        recalled = memory.newest_part(horizon, extended.memory)
    again = recalled.scores.copy()
    for rows in memory.blocks(len(recalled.entities)):
        by_span, _ = scores.scores_by_span(horizon, recalled, horizon.scores, only=rows)
        again[rows, -horizon.scores :] = threshold.worst(by_span)
    recalled = replace(recalled, scores=again)
    states = alerts.states_of(horizon, recalled, relevant)
    by_span, _ = scores.scores_by_span(horizon, recalled, 1)
    snapshot = scores.snapshot_of(
        horizon,
        recalled,
        extended,
        newest=scores.newest_unclaimed(by_span, states, recalled.history),
        states=states,
        is_silent=alerts.silent(recalled.entities, relevant),
    )
    past = (alerts.checkpoint(horizon, cursor, entities=recalled.entities, states=states),)
    return replace(recalled, states=states, past=past, snapshot=snapshot)


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
    horizon: Horizon, source: Source, recalled: Memory, *, alerted: set[str], cursor: int
) -> memory.Extended:
    """A memory extended by the slots of one read; only those that errors are kept of are scored."""
    step, begin = horizon.step, recalled.history.end
    most = history.slots_at_a_time(len(recalled.entities), len(horizon.metrics))
    slots = min((cursor - begin) // step, most)
    end = begin + slots * step
    samples = source.read(begin, end)
    entities = memory.members(recalled, samples.entities, alerted)
    values = history.gridded(horizon, samples, entities, start=begin, slots=slots)
    del samples  # many times what remains of them
    first_error = cursor - horizon.errors * step
    unscored = min(slots, max(0, first_error - begin) // step)  # the windows of these have not been read
    return memory.extend(horizon, recalled, Gridded(entities, values, end, slots), unscored=unscored)
