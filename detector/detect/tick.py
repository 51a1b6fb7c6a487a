"""One tick: everything since the cursor is read, gridded, windowed, scored, decided and committed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from detector.config.sections import MonitorSection
from detector.core import decide, grid, threshold
from detector.core.decide import AlertStates, Change, Severity
from detector.core.series import Float32, History, Int64, Reason, Samples
from detector.detect import alerts as alerting
from detector.detect import history as reading
from detector.detect import horizon
from detector.detect import memory as remembering
from detector.detect.memory import Memory, Snapshot
from detector.detect.revisions import redecided
from detector.ports import AlertChange, Commit, ScoreRows, Source, Store
from detector.times import milliseconds

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What one tick did; times are epoch milliseconds."""

    cursor: int | None
    newest_sample: int | None
    samples: int
    windows: int
    opened: tuple[Severity, ...]
    snapshot: Snapshot


def observe(monitor: MonitorSection, source: Source, now: int) -> Report:
    """A tick without a model: every entity with data in the newest window is unknown."""
    step = monitor.step_ms
    end = grid.complete_until(now, step, milliseconds(monitor.delay))
    samples = source.read(end - monitor.timesteps * step, end)
    count = len(samples.entities)
    snapshot = Snapshot(
        entities=samples.entities,
        score=np.full(count, np.nan, dtype=np.float32),
        reason=np.full(count, Reason.NO_MODEL, dtype=np.int8),
        states=AlertStates.none_open(count),
        is_silent=np.zeros(count, dtype=np.bool_),
        share=np.full((count, len(monitor.metrics)), np.nan, dtype=np.float32),
    )
    return Report(None, _newest(samples), len(samples), 0, (), snapshot)


def tick(
    monitor: MonitorSection,
    source: Source,
    store: Store,
    memory: Memory,
    now: int,
    *,
    notifiers: Sequence[str] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Memory, Report]:
    """Scores and commits every complete slot since the cursor in bounded chunks; again with the same `now`: nothing.

    notifiers: who is told of what happens to alerts, from the store's outbox

    Raises: SourceError, StoreError; what was committed before stays committed, and memory must be recalled.
    """
    step = monitor.step_ms
    complete = grid.complete_until(now, step, milliseconds(monitor.delay))
    newest = None
    if complete - memory.history.end > step * _chunk_slots(memory.history):
        extent = source.extent()
        newest = extent[1] if extent else 0
    samples = windows = 0
    opened: list[Severity] = []
    snapshot = memory.snapshot
    late_slots = horizon.lateness_slots(monitor)
    while memory.history.end < complete and not should_stop():
        end = min(complete, memory.history.end + step * _chunk_slots(memory.history))
        if newest is not None and newest < memory.history.end - step * late_slots:
            end = complete  # nothing more to come: all slots up to now are empty
        memory, part = _chunk(monitor, source, store, memory, end, now, notifiers, late_slots=late_slots)
        late_slots = 0  # what comes before the next chunk has just been read
        samples, windows, snapshot = samples + part.samples, windows + part.windows, part.snapshot
        opened.extend(part.opened)
        newest = max(newest or 0, part.newest_sample or 0) or None
    return memory, Report(memory.cursor, newest, samples, windows, tuple(opened), snapshot)


def _chunk(
    monitor: MonitorSection,
    source: Source,
    store: Store,
    memory: Memory,
    end: int,
    now: int,
    notifiers: Sequence[str],
    *,
    late_slots: int,
) -> tuple[Memory, Report]:
    """Takes the monitor from its cursor to `end` in one transaction.

    late_slots: slots before the cursor that are read again
    """
    step, model = monitor.step_ms, memory.model
    # a jump over empty slots is longer, and leaves those behind that nothing needs
    new = min((end - memory.history.end) // step, _chunk_slots(memory.history))
    read_from = end - step * (new + late_slots)
    samples = source.read(read_from, end)
    still_open = [memory.history.entities[row] for row in np.flatnonzero(memory.states.is_open).tolist()]
    entities = remembering.watched(memory, samples.entities, still_open)
    found = reading.gridded(monitor, samples, entities, read_from, new + late_slots)
    newest_sample, sample_count = _newest(samples), len(samples)
    del samples  # many times what remains of them

    extended = remembering.extend(monitor, memory, entities, found, end, slots=new)
    before, scored, late, late_slots = extended.memory, extended.scored, extended.late, extended.late_slots
    history, scores = before.history, before.scores
    corrected = slice(-new - late_slots, -new)
    revisions: list[AlertChange] = []
    past = memory.past
    if late.size:
        late_by_span, _ = remembering.scores_by_span(monitor, before, new + late_slots, late)
        scores[late, corrected] = threshold.worst(late_by_span[:, :late_slots])
        past, revisions = redecided(monitor, store, before, late, late_slots, new, now)

    recent = slice(-new - horizon.decision_rules(monitor).memory, None)
    by_span, settled = remembering.scores_by_span(monitor, before, -recent.start)
    scores[:, -new:] = threshold.worst(by_span[:, -new:])
    slots = history.slots[-new:]
    stored = store.alerts_since(monitor.name, end) if before.states.is_open.any() or revisions else []
    lasts = before.states.is_open & ~alerting.dismissed(entities, stored)
    decided = alerting.for_decisions(monitor, model, history.values, lasts, by_span)
    states, events, checkpoints = alerting.decide_slots(monitor, entities, before.states, decided, settled, slots)

    excluded = store.exclusions(monitor.name)
    explanations = alerting.explanations(monitor, before, states, events, by_span, int(slots[0]))
    changes = [
        *revisions,
        *alerting.unmuted(monitor, excluded, stored, states, entities, int(slots[-1])),
        *alerting.changes_of(monitor, entities, states, events, slots, explanations),
    ]
    changes = [alerting.muted(excluded, change) for change in changes]
    commit = Commit(
        monitor=monitor.name,
        expected_cursor=memory.cursor,
        cursor=end,
        now=now,
        model_version=model.version,
        scores=_score_rows(entities, slots, _stored(monitor, scores[:, -new:])),
        replaced=_replaced(monitor, entities, history.slots[corrected], scores[:, corrected], late),
        changes=changes,
        notifiers=notifiers,
        incident_span=monitor.decision.incident_slots * step,
    )
    store.commit(commit)

    silent = (
        alerting.silent(entities, store.alerts_since(monitor.name, end)) if states.is_open.any() else ~states.is_open
    )
    snapshot = remembering.snapshot_of(
        history, remembering.untold(by_span, states, history), states, silent & states.is_open, scored
    )
    past = (*past, *checkpoints)[-horizon.lateness_slots(monitor) - 1 :]
    after = replace(remembering.newest_part(monitor, before), cursor=end, states=states, past=past, snapshot=snapshot)
    opened = tuple(event.severity for event in events if event.change is Change.OPENED)
    return after, Report(end, newest_sample, sample_count, scored.windows, opened, snapshot)


def _chunk_slots(history: History) -> int:
    entities, _, metrics = history.values.shape
    return reading.slots_at_a_time(entities, metrics)


def _stored(monitor: MonitorSection, scores: Float32) -> Float32:
    """Scores without those that are not stored, which are NaN."""
    least = {"all": -np.inf, "anomalous": decide.THRESHOLD, "none": np.inf}[monitor.store_scores]
    return np.where(scores >= least, scores, np.float32(np.nan))


def _score_rows(entities: tuple[str, ...], slots: Int64, scores: Float32) -> ScoreRows:
    """The known scores (E, K) as columns, slot after slot."""
    slot, row = np.nonzero(~np.isnan(scores.T))
    return ScoreRows(
        entity=[entities[index] for index in row.tolist()],
        slot=slots[slot].tolist(),
        score=scores[row, slot].astype(np.float64).tolist(),
    )


def _replaced(
    monitor: MonitorSection, entities: tuple[str, ...], slots: Int64, scores: Float32, rows: Int64
) -> ScoreRows:
    """The known scores of some entities, NaN where they are no longer stored."""
    found = _score_rows(tuple(entities[row] for row in rows.tolist()), slots, scores[rows])
    return replace(found, score=_stored(monitor, np.array(found.score, dtype=np.float32)).astype(np.float64).tolist())


def _newest(samples: Samples) -> int | None:
    return int(samples.time.max()) if len(samples) else None
