"""One tick: everything since the cursor is read, gridded, windowed, scored, decided and committed.

Scores depend on the data of a bounded span and on the model version, never on what the process did before: so a daemon
that was killed, one that catches up and a replay all arrive at the same numbers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from detector import reading, scoring
from detector.config import MonitorSection, milliseconds
from detector.core import decide, grid, score, threshold, window
from detector.core.decide import AlertStates, Event, Severity
from detector.core.scaling import Scaling
from detector.core.series import Bool, Float32, History, Int8, Int64, Reason, Samples, Windows
from detector.core.threshold import Calibration
from detector.ports import AlertChange, Commit, ModelVersion, OpenAlert, ScoreRows, Source, Store

logger = logging.getLogger(__name__)

_BLOCK = 4096  # entities whose remembered slots are scored at a time
_STALE_SLOTS = 5  # with no data of any entity for this long it is the source that has stopped
_TOP_METRICS = 5  # named in an alert's explanation


NO_MODEL = 0
"""Version of the stand-in for a model that only knows which values are valid."""


@dataclass(frozen=True)
class Snapshot:
    """The newest slot of a monitor, for export."""

    entities: tuple[str, ...]
    score: Float32  # (E,) without what a closed alert has told already, NaN = unknown
    reason: Int8  # (E,) Reason
    states: AlertStates  # (E,)
    share: Float32  # (E, F) NaN = unknown


@dataclass(frozen=True)
class Memory:
    """What a monitor keeps between ticks; all of it can be rebuilt from the database."""

    model: ModelVersion
    cursor: int | None  # as stored
    history: History  # (E, L, F)
    errors: Float32  # (E, L) combined residual of the newest slot of the window that ends there, NaN = unknown
    scores: Float32  # (E, L)
    states: AlertStates  # (E,)
    snapshot: Snapshot


@dataclass(frozen=True)
class Report:
    """What one tick did; times are epoch milliseconds."""

    cursor: int | None
    newest_sample: int | None
    samples: int
    windows: int
    opened: tuple[Severity, ...]
    snapshot: Snapshot


@dataclass(frozen=True)
class _Scored:
    """Errors and shares of some slots before they become scores."""

    errors: Float32  # (E, K)
    reason: Int8  # (E, K)
    share: Float32  # (E, K, F)
    windows: int


def memory_slots(monitor: MonitorSection) -> int:
    """Slots before the newest that a tick looks back on: windows, smoothing, decisions, late samples."""
    return (
        monitor.timesteps - 1 + max(score.SPANS) - 1 + scoring.decision_rules(monitor).memory + lateness_slots(monitor)
    )


def lateness_slots(monitor: MonitorSection) -> int:
    """Slots behind the cursor that are read again for late samples."""
    return -(-milliseconds(monitor.lateness) // monitor.step_ms)


class _NoNetwork:
    def residuals(self, windows: Windows) -> Float32:
        return np.full((len(windows), windows.values.shape[2]), np.nan, dtype=np.float32)


def no_model(monitor: MonitorSection, now: int) -> ModelVersion:
    """What stands in for a model where there is none: nothing is expected, only invalid values have a score."""
    metrics, spans = len(monitor.metrics), len(score.SPANS)
    one, one_span = np.ones(metrics, dtype=np.float32), np.ones(spans, dtype=np.float32)
    nobody, no_span = one[None], one_span[None]  # a row that nobody has
    return ModelVersion(
        version=NO_MODEL,
        kind="none",
        timesteps=1,
        trained_from=now,
        trained_until=now - monitor.step_ms,
        network=_NoNetwork(),
        entities=(),
        scaling=Scaling(nobody, nobody, one),
        noise=nobody,
        fleet_noise=one,
        calibration=Calibration(no_span, no_span, one_span, one_span, 1.0),
    )


def has_ranges(monitor: MonitorSection) -> bool:
    """Whether some values of the monitor's metrics are never valid."""
    return scoring.metric_rules(monitor).has_range


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
        share=np.full((count, len(monitor.metrics)), np.nan, dtype=np.float32),
    )
    return Report(None, _newest(samples), len(samples), 0, (), snapshot)


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
    open_alerts = store.open_alerts(monitor.name)
    closed = store.closed_since(monitor.name, cursor - max(score.SPANS) * step)
    start = cursor - memory_slots(monitor) * step
    read = reading.read_history(monitor, source, start, cursor, lambda _done, _what: None)
    entities = _entities(read, read.entities, model, [*closed, *(alert.entity for alert in open_alerts)])
    history = read if entities == read.entities else grid.cover(read, entities=entities, start=start, end=cursor)
    blank = np.full(history.values.shape[:2], np.nan, dtype=np.float32)
    first = monitor.timesteps - 1
    scored = _errors_in_blocks(monitor, model, history, first)
    errors = blank.copy()
    errors[:, first:] = scored.errors
    first += max(score.SPANS) - 1
    by_span, _ = _by_span(monitor, model, history, errors, first)
    scores = blank
    scores[:, first:] = threshold.worst(by_span)
    states = _states(entities, open_alerts, closed)
    newest = _untold(by_span, states, history)
    return Memory(model, stored, history, errors, scores, states, _snapshot(history, newest, states, scored))


def tick(
    monitor: MonitorSection,
    source: Source,
    store: Store,
    memory: Memory,
    now: int,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Memory, Report]:
    """Scores and commits every complete slot since the cursor in bounded chunks; again with the same `now`: nothing.

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
    while memory.history.end < complete and not should_stop():
        end = min(complete, memory.history.end + step * _chunk_slots(memory.history))
        if newest is not None and newest < memory.history.end:
            end = complete  # nothing more to come: all slots up to now are empty
        memory, part = _chunk(monitor, source, store, memory, end, now)
        samples, windows, snapshot = samples + part.samples, windows + part.windows, part.snapshot
        opened.extend(part.opened)
        newest = max(newest or 0, part.newest_sample or 0) or None
    return memory, Report(memory.cursor, newest, samples, windows, tuple(opened), snapshot)


def _chunk(
    monitor: MonitorSection, source: Source, store: Store, memory: Memory, end: int, now: int
) -> tuple[Memory, Report]:
    """Takes the monitor from its cursor to `end` in one transaction."""
    step, model = monitor.step_ms, memory.model
    begin = memory.history.end
    # a jump over empty slots may leave everything remembered behind
    start = end - step * (memory_slots(monitor) + min((end - begin) // step, _chunk_slots(memory.history)))
    read_from = max(begin - step * lateness_slots(monitor), start)
    samples = source.read(read_from, end)
    is_open = memory.states.is_open
    still_open = [name for name, open_ in zip(memory.history.entities, is_open.tolist(), strict=True) if open_]
    entities = _entities(memory.history, samples.entities, model, still_open)
    before = _follow(memory, entities, start, end)

    history, errors, scores = before.history, before.errors, before.scores  # copies: may be written into
    new = memory_slots(monitor)  # index of the first slot not committed yet
    read_slots = (end - read_from) // step
    first_read = history.values.shape[1] - read_slots
    was = history.values[:, first_read:new].copy()
    history.values[:, first_read:] = reading.gridded(monitor, samples, entities, read_from, read_slots)
    scored = _errors(monitor, model, history, np.arange(len(entities)), new)
    errors[:, new:] = scored.errors
    late, late_from = _late(was, history.values[:, first_read:new], first_read)
    if late.size:
        errors[late, late_from:new] = _errors(monitor, model, history, late, late_from).errors[:, : new - late_from]
    first = min(new, late_from)
    old_scores = scores[:, first:new].copy()
    rules = scoring.decision_rules(monitor)
    looked_at = new - rules.memory
    begin_at = min(first, looked_at)
    by_span, settled = _by_span(monitor, model, history, errors, begin_at)
    scores[:, first:] = threshold.worst(by_span[:, first - begin_at :])
    if late.size:  # entities without late samples keep their scores to the last bit
        others = np.setdiff1d(np.arange(len(entities)), late)
        scores[others, first:new] = old_scores[others]

    slots = history.slots[new:]
    recent = slice(looked_at - begin_at, None)
    decided = _for_decisions(model, history.values[:, looked_at:], by_span[:, recent])
    states, events = decide.decide(
        before.states, decided, settled[:, recent], slots, rules, spans=score.SPANS, step=step
    )
    commit = Commit(
        monitor=monitor.name,
        expected_cursor=memory.cursor,
        cursor=end,
        now=now,
        model_version=model.version,
        scores=_score_rows(entities, history.slots, scores, np.arange(len(entities)), new, None),
        replaced=_score_rows(entities, history.slots, scores, late, first, new),
        changes=_changes(monitor, entities, states, events, slots, scored.share, history.values[:, new:]),
    )
    store.commit(commit)

    snapshot = _snapshot(history, _untold(by_span, states, history), states, scored)
    kept = slice(-memory_slots(monitor), None)  # views: the next tick copies what it goes on with
    remembered = replace(history, start=end - memory_slots(monitor) * step, values=history.values[:, kept])
    after = Memory(model, end, remembered, errors[:, kept], scores[:, kept], states, snapshot)
    opened = tuple(event.severity for event in events if event.change is decide.Change.OPENED)
    return after, Report(end, _newest(samples), len(samples), scored.windows, opened, snapshot)


def _chunk_slots(history: History) -> int:
    entities, _, metrics = history.values.shape
    return reading.slots_at_a_time(entities, metrics)


def _entities(
    history: History, sampled: Iterable[str], model: ModelVersion, still_open: Iterable[str]
) -> tuple[str, ...]:
    """Who is watched: whoever the model knows, has recent data or an open alert; those already there first."""
    has_data: Bool = np.any(~np.isnan(history.values), axis=(1, 2))
    alive = {*model.entities, *sampled, *still_open}
    alive.update(name for name, has in zip(history.entities, has_data.tolist(), strict=True) if has)
    staying = [name for name in history.entities if name in alive]
    return tuple(staying) + tuple(sorted(alive.difference(staying)))


def _follow(memory: Memory, entities: tuple[str, ...], start: int, end: int) -> Memory:
    """The same memory for other entities and another span; copies, so that the caller may write into it."""
    old = memory.history
    history = grid.cover(old, entities=entities, start=start, end=end)

    def moved(values: Float32) -> Float32:
        as_history = History(old.entities, old.start, old.step, values[:, :, None])
        return grid.cover(as_history, entities=entities, start=start, end=end).values[:, :, 0]

    states = memory.states
    if entities != old.entities:
        row = {name: index for index, name in enumerate(old.entities)}
        source = np.array([row.get(name, -1) for name in entities], dtype=np.int64)
        states = AlertStates.none_open(len(entities))
        known = source >= 0
        for name in AlertStates.__dataclass_fields__:
            getattr(states, name)[known] = getattr(memory.states, name)[source[known]]
    return replace(memory, history=history, errors=moved(memory.errors), scores=moved(memory.scores), states=states)


def _late(before: Float32, after: Float32, first: int) -> tuple[Int64, int]:
    """Entities with committed slots (E, K, F) that late samples changed, and the index of the first such slot.

    first: index of the first of the K slots; what is returned if nothing changed is the index behind the last
    """
    differs = (before != after) & ~(np.isnan(before) & np.isnan(after))
    changed = differs.any(axis=2)  # (E, K)
    rows = np.flatnonzero(changed.any(axis=1))
    return rows, first + (int(np.flatnonzero(changed.any(axis=0))[0]) if rows.size else before.shape[1])


def _errors(monitor: MonitorSection, model: ModelVersion, history: History, rows: Int64, first: int) -> _Scored:
    """Combined residual of each slot from index `first` on, for some entities."""
    begin = first - model.timesteps + 1
    values = history.values[rows, begin:]
    rules = scoring.metric_rules(monitor)
    reason = window.reasons(values, model.timesteps, max_missing=monitor.max_missing)  # (E, K)
    errors, share = scoring.errors(
        model,
        rules,
        values=values,
        rows=_model_rows(model, tuple(history.entities[row] for row in rows.tolist())),
        slots=history.slots[begin:],
        chosen=reason == Reason.KNOWN,
    )
    windows = int((reason == Reason.KNOWN).sum())
    is_invalid = rules.outside(values[:, model.timesteps - 1 :])  # (E, K, F)
    if is_invalid.any():
        count = is_invalid.sum(axis=2, keepdims=True)
        share = np.where(count > 0, is_invalid / np.maximum(count, 1), share).astype(np.float32)
    if model.version == NO_MODEL:
        reason[reason != Reason.NO_DATA] = Reason.NO_MODEL
    return _Scored(errors, reason, share, windows)


def _errors_in_blocks(monitor: MonitorSection, model: ModelVersion, history: History, first: int) -> _Scored:
    """As `_errors` of all entities, with reason and share of the newest slot alone: those of all slots are too many."""
    count = len(history.entities)
    blocks = [np.arange(begin, min(begin + _BLOCK, count)) for begin in range(0, max(count, 1), _BLOCK)]
    parts = []
    for rows in blocks:
        part = _errors(monitor, model, history, rows, first)
        parts.append(replace(part, reason=part.reason[:, -1:].copy(), share=part.share[:, -1:].copy()))
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("errors", "reason", "share")}
    return _Scored(**arrays, windows=sum(part.windows for part in parts))


def _model_rows(model: ModelVersion, entities: tuple[str, ...]) -> Int64:
    """Row of each entity in the model's per-entity arrays, −1 for one the model has not seen."""
    index = {name: row for row, name in enumerate(model.entities)}
    return np.array([index.get(name, -1) for name in entities], dtype=np.int64)


def _by_span(
    monitor: MonitorSection, model: ModelVersion, history: History, errors: Float32, first: int
) -> tuple[Float32, Bool]:
    """Scores by span (E, K, S) of slots from index `first` on, and where they are ordinary again (E, K).

    A value that is never valid needs no model to be critical.
    """
    rows = _model_rows(model, history.entities)
    smoothed = model.calibration.smoothed(errors[:, first - max(score.SPANS) + 1 :], rows)
    scores, settled = model.calibration.by_span(smoothed, rows), model.calibration.settled(smoothed, rows)
    is_invalid = scoring.metric_rules(monitor).outside(history.values[:, first:]).any(axis=2)
    invalid_score = max(monitor.decision.critical_at, monitor.decision.open_at_once)
    scores[is_invalid] = np.fmax(scores[is_invalid], np.float32(invalid_score))
    return scores, settled & ~is_invalid


def _for_decisions(model: ModelVersion, values: Float32, by_span: Float32) -> Float32:
    """Scores (E, K, S) as alerts see them: without a model, a slot (E, K, F) that has data lets an alert close."""
    if model.version != NO_MODEL:
        return by_span
    has_data: Bool = np.any(~np.isnan(values), axis=2)
    return np.where(np.isnan(by_span) & has_data[..., None], np.float32(0.0), by_span)


def _untold(by_span: Float32, states: AlertStates, history: History) -> Float32:
    """Newest score of each entity without what a closed alert has told already, (E,); NaN = unknown."""
    newest = history.slots[-1:]
    step = history.step
    return decide.untold(by_span[:, -1:], states.closed_slot, newest, spans=score.SPANS, step=step)[:, 0]


def _states(entities: tuple[str, ...], open_alerts: list[OpenAlert], closed: Mapping[str, int]) -> AlertStates:
    states = AlertStates.none_open(len(entities))
    row = {name: index for index, name in enumerate(entities)}
    for entity, slot in closed.items():
        states.closed_slot[row[entity]] = slot
    for alert in open_alerts:
        index = row[alert.entity]
        states.is_open[index] = True
        states.opened_slot[index] = alert.opened_slot
        states.is_critical[index] = alert.severity is Severity.CRITICAL
        states.peak_score[index] = alert.peak_score
        states.peak_slot[index] = alert.peak_slot
    return states


def _score_rows(
    entities: tuple[str, ...], slots: Int64, scores: Float32, rows: Int64, first: int, last: int | None
) -> ScoreRows:
    """The known scores of some entities in [first, last) as columns, slot after slot."""
    part = scores[rows, first:last].T  # (K, E)
    slot, entity = np.nonzero(~np.isnan(part))
    return ScoreRows(
        entity=[entities[row] for row in rows[entity].tolist()],
        slot=slots[first:last][slot].tolist(),
        score=part[slot, entity].astype(np.float64).tolist(),
    )


def _changes(
    monitor: MonitorSection,
    entities: tuple[str, ...],
    states: AlertStates,
    events: list[Event],
    slots: Int64,
    share: Float32,
    values: Float32,
) -> list[AlertChange]:
    """Events in order, then the new peaks of alerts that stay open."""

    def explain(row: int, peak_slot: int) -> str | None:
        if peak_slot < slots[0]:
            return None
        k = (peak_slot - int(slots[0])) // monitor.step_ms
        return _explanation(monitor, share[row, k], values[row, k])

    changes = [
        AlertChange(
            change=event.change,
            entity=entities[event.entity],
            slot=event.slot,
            opened_slot=event.opened_slot,
            detected_at=event.slot + monitor.step_ms + milliseconds(monitor.delay),
            severity=event.severity,
            peak_score=event.peak_score,
            peak_slot=event.peak_slot,
            explanation=explain(event.entity, event.peak_slot),
        )
        for event in events
    ]
    raised = np.flatnonzero(states.is_open & (states.peak_slot >= slots[0]))
    for row in raised.tolist():
        peak_slot = int(states.peak_slot[row])
        changes.append(
            AlertChange(
                change=None,
                entity=entities[row],
                slot=peak_slot,
                opened_slot=int(states.opened_slot[row]),
                detected_at=0,
                severity=Severity.CRITICAL if states.is_critical[row] else Severity.WARNING,
                peak_score=float(states.peak_score[row]),
                peak_slot=peak_slot,
                explanation=explain(row, peak_slot),
            )
        )
    return changes


def _explanation(monitor: MonitorSection, share: Float32, values: Float32) -> str:
    """The metrics that made the score, largest share first, with what was observed, as JSON."""
    order = np.argsort(-np.nan_to_num(share), kind="stable")[:_TOP_METRICS].tolist()
    top = [
        {"metric": monitor.metrics[f], "share": round(float(share[f]), 4), "observed": float(values[f])}
        for f in order
        if share[f] > 0
    ]
    return json.dumps({"metrics": top})


def _snapshot(history: History, newest: Float32, states: AlertStates, scored: _Scored) -> Snapshot:
    reason = scored.reason[:, -1].copy()
    reason[~np.isnan(newest)] = Reason.KNOWN  # an invalid value is known to be
    if np.isnan(history.values[:, -_STALE_SLOTS:]).all():
        reason[reason == Reason.NO_DATA] = Reason.STALE_DATA
    return Snapshot(history.entities, newest, reason, states, scored.share[:, -1])


def _newest(samples: Samples) -> int | None:
    return int(samples.time.max()) if len(samples) else None
