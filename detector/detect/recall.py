"""Memory of a monitor rebuilt from the database, up to its cursor."""

from __future__ import annotations

import logging
from dataclasses import replace

from detector.config.sections import MonitorSection
from detector.core import grid, score, threshold
from detector.detect import alerts as alerting
from detector.detect import history as reading
from detector.detect import horizon
from detector.detect import memory as remembering
from detector.detect.memory import Memory
from detector.detect.tick import _chunk_slots
from detector.ports import ModelVersion, Source, Store
from detector.times import milliseconds

logger = logging.getLogger(__name__)


def recall(monitor: MonitorSection, source: Source, store: Store, model: ModelVersion, now: int) -> Memory:
    """Rebuilds from the database what the monitor needs to go on from its cursor.

    A monitor without a cursor starts where its model's training data ended. What lies further back than
    `max_catch_up` is skipped, with a warning.
    """
    step = monitor.step_ms
    complete = grid.complete_until(now, step, milliseconds(monitor.delay))
    stored = store.cursor(monitor.name)
    cursor = grid.floor(model.trained_until if stored is None else stored, step)
    earliest = complete - grid.floor(milliseconds(monitor.max_catch_up), step)
    if cursor < earliest:
        logger.warning(
            "event=catch_up_truncated monitor=%s skipped_slots=%d", monitor.name, (earliest - cursor) // step
        )
        cursor = earliest
    rules = horizon.decision_rules(monitor)
    alerts = store.alerts_since(monitor.name, cursor - max(rules.reopen_slots, *score.SPANS) * step)
    told = {alert.entity for alert in alerts}
    memory = remembering.nothing(monitor, model, stored, sorted(told), cursor - horizon.memory_slots(monitor) * step)
    first_error = cursor - horizon.error_slots(monitor) * step
    while (begin := memory.history.end) < cursor:  # in pieces: what is read is many times what is kept
        slots = min((cursor - begin) // step, _chunk_slots(memory.history))
        end = begin + slots * step
        samples = source.read(begin, end)
        entities = remembering.watched(memory, samples.entities, told)
        found = reading.gridded(monitor, samples, entities, begin, slots)
        del samples  # many times what remains of them
        unscored = min(slots, max(0, first_error - begin) // step)  # the windows of these have not been read
        extended = remembering.extend(monitor, memory, entities, found, end, slots=slots, unscored=unscored)
        memory, scored = remembering.newest_part(monitor, extended.memory), extended.scored
    entities, again = memory.history.entities, horizon.scored_again(monitor)
    for rows in remembering.blocks(len(entities)):
        by_span, _ = remembering.scores_by_span(monitor, memory, again, rows)
        memory.scores[rows, -again:] = threshold.worst(by_span)
    states = alerting.states_of(monitor, memory, alerts)
    by_span, _ = remembering.scores_by_span(monitor, memory, 1)
    newest = remembering.untold(by_span, states, memory.history)
    snapshot = remembering.snapshot_of(memory.history, newest, states, alerting.silent(entities, alerts), scored)
    return replace(
        memory, states=states, past=(alerting.checkpoint(monitor, cursor, entities, states),), snapshot=snapshot
    )
