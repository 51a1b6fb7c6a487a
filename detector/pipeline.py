"""One tick: everything since the cursor is read, gridded, windowed, scored, decided and committed.

Scores depend on the data of a bounded span and on the model version, never on what the process did before: so a daemon
that was killed, one that catches up and a replay all arrive at the same numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from detector import exclusions, explaining, reading, scoring
from detector.config import MonitorSection, milliseconds
from detector.core import decide, grid, revise, score, threshold, window
from detector.core.decide import LONG_AGO, AlertStates, Change, Event, Severity
from detector.core.revise import Checkpoint, Episode
from detector.core.scaling import Scaling
from detector.core.series import Bool, Float32, History, Int8, Int64, Reason, Samples, Windows
from detector.core.threshold import Calibration
from detector.ports import AlertChange, Commit, Exclusion, ModelVersion, ScoreRows, Source, Store, StoredAlert

logger = logging.getLogger(__name__)

_BLOCK = 4096  # entities whose remembered slots are scored at a time
_STALE_SLOTS = 5  # with no data of any entity for this long it is the source that has stopped

NO_MODEL = 0
"""Version of the stand-in for a model that only knows which values are valid."""


@dataclass(frozen=True)
class Snapshot:
    """The newest slot of a monitor, for export."""

    entities: tuple[str, ...]
    score: Float32  # (E,) without what a closed alert has told already, NaN = unknown
    reason: Int8  # (E,) Reason
    states: AlertStates  # (E,)
    is_silent: Bool  # (E,) the open alert is muted, or somebody closed it
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
    past: tuple[Checkpoint, ...]  # the states before slots that late samples may still change, oldest first
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
    rules = scoring.decision_rules(monitor)
    return monitor.timesteps - 1 + max(score.SPANS) - 1 + max(rules.reach, rules.memory + lateness_slots(monitor))


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
        is_silent=np.zeros(count, dtype=np.bool_),
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
    rules = scoring.decision_rules(monitor)
    alerts = store.alerts_since(monitor.name, cursor - max(rules.reopen_slots, *score.SPANS) * step)
    start = cursor - memory_slots(monitor) * step
    read = reading.read_history(monitor, source, start, cursor, lambda _done, _what: None)
    entities = _entities(read, read.entities, model, [alert.entity for alert in alerts])
    history = read if entities == read.entities else grid.cover(read, entities=entities, start=start, end=cursor)
    blank = np.full(history.values.shape[:2], np.nan, dtype=np.float32)
    first = monitor.timesteps - 1
    scored = _errors_in_blocks(monitor, model, history, first)
    errors = blank.copy()
    errors[:, first:] = scored.errors
    first += max(score.SPANS) - 1
    by_span, settled = _by_span(monitor, model, history, errors, first)
    scores = blank
    scores[:, first:] = threshold.worst(by_span)
    states = _states(monitor, model, entities, alerts, history, by_span, settled, first)
    newest = _untold(by_span, states, history)
    snapshot = _snapshot(history, newest, states, _silent(entities, alerts), scored)
    past = (Checkpoint.of(cursor, entities, states),)
    return Memory(model, stored, history, errors, scores, states, past, snapshot)


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
    while memory.history.end < complete and not should_stop():
        end = min(complete, memory.history.end + step * _chunk_slots(memory.history))
        if newest is not None and newest < memory.history.end:
            end = complete  # nothing more to come: all slots up to now are empty
        memory, part = _chunk(monitor, source, store, memory, end, now, notifiers)
        samples, windows, snapshot = samples + part.samples, windows + part.windows, part.snapshot
        opened.extend(part.opened)
        newest = max(newest or 0, part.newest_sample or 0) or None
    return memory, Report(memory.cursor, newest, samples, windows, tuple(opened), snapshot)


def _chunk(
    monitor: MonitorSection, source: Source, store: Store, memory: Memory, end: int, now: int, notifiers: Sequence[str]
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
    revisions: list[AlertChange] = []
    past = memory.past
    if late.size:
        errors[late, late_from:new] = _errors(monitor, model, history, late, late_from).errors[:, : new - late_from]
        late_by_span, _ = _by_span(monitor, model, history, errors, late_from, late)
        scores[late, late_from:new] = threshold.worst(late_by_span[:, : new - late_from])
        past, revisions = _redecide(monitor, store, before, errors, scores, late, late_from, new, now)

    looked_at = new - scoring.decision_rules(monitor).memory
    by_span, settled = _by_span(monitor, model, history, errors, looked_at)
    scores[:, new:] = threshold.worst(by_span[:, new - looked_at :])
    slots = history.slots[new:]
    decided = _for_decisions(model, history.values[:, looked_at:], by_span)
    states, events, checkpoints = _decide(monitor, entities, before.states, decided, settled, slots)

    excluded = store.exclusions(monitor.name)
    stored = store.alerts_since(monitor.name, end) if before.states.is_open.any() or revisions else []
    explanations = _explanations(monitor, model, history, scores, states, events, by_span, looked_at, new)
    changes = [
        *revisions,
        *_unmuted(monitor, excluded, stored, states, entities, int(slots[-1])),
        *_changes(monitor, entities, states, events, slots, explanations),
    ]
    changes = [_muted(excluded, change) for change in changes]
    commit = Commit(
        monitor=monitor.name,
        expected_cursor=memory.cursor,
        cursor=end,
        now=now,
        model_version=model.version,
        scores=_score_rows(entities, history.slots, scores, np.arange(len(entities)), new, None),
        replaced=_score_rows(entities, history.slots, scores, late, late_from, new),
        changes=changes,
        notifiers=notifiers,
        incident_span=monitor.decision.incident_slots * step,
    )
    store.commit(commit)

    silent = _silent(entities, store.alerts_since(monitor.name, end)) if states.is_open.any() else ~states.is_open
    snapshot = _snapshot(history, _untold(by_span, states, history), states, silent & states.is_open, scored)
    kept = slice(-memory_slots(monitor), None)  # views: the next tick copies what it goes on with
    remembered = replace(history, start=end - memory_slots(monitor) * step, values=history.values[:, kept])
    past = (*past, *checkpoints)[-lateness_slots(monitor) - 1 :]
    after = Memory(model, end, remembered, errors[:, kept], scores[:, kept], states, past, snapshot)
    opened = tuple(event.severity for event in events if event.change is Change.OPENED)
    return after, Report(end, _newest(samples), len(samples), scored.windows, opened, snapshot)


def _decide(
    monitor: MonitorSection,
    entities: Sequence[str],
    states: AlertStates,
    by_span: Float32,
    settled: Bool,
    slots: Int64,
) -> tuple[AlertStates, list[Event], list[Checkpoint]]:
    """As `decide.decide`, with checkpoints after those of the slots that late samples may still change."""
    rules = scoring.decision_rules(monitor)
    events: list[Event] = []
    checkpoints: list[Checkpoint] = []
    done = 0
    for until in [len(slots) - k for k in range(min(len(slots), lateness_slots(monitor) + 1) - 1, -1, -1)]:
        seen = slice(done, until + rules.memory)
        states, found = decide.decide(
            states,
            by_span[:, seen],
            settled[:, seen],
            slots[done:until],
            rules,
            spans=score.SPANS,
            step=monitor.step_ms,
        )
        events += found
        checkpoints.append(Checkpoint.of(int(slots[until - 1]) + monitor.step_ms, entities, states))
        done = until
    return states, events, checkpoints


def _redecide(
    monitor: MonitorSection,
    store: Store,
    before: Memory,
    errors: Float32,
    scores: Float32,
    late: Int64,
    late_from: int,
    new: int,
    now: int,
) -> tuple[tuple[Checkpoint, ...], list[AlertChange]]:
    """Decides again what late samples changed, before the new slots: checkpoints and what becomes of stored alerts.

    late: rows of the entities whose slots from index `late_from` on have other scores now; their states before the
    slot at index `new` are written into `before`.
    """
    history, model, step = before.history, before.model, monitor.step_ms
    memory = scoring.decision_rules(monitor).memory
    earliest = history.start + step * (max(score.SPANS) - 1 + memory)
    usable = [c for c in before.past if earliest <= c.slot < history.slots[0] + step * new]
    if not usable:
        return before.past, []
    earlier = [c for c in usable if c.slot <= history.slots[late_from]]
    checkpoint = earlier[-1] if earlier else usable[0]
    first = (checkpoint.slot - history.start) // step
    names = [history.entities[row] for row in late.tolist()]
    by_span, settled = _by_span(monitor, model, history, errors, first - memory, late)
    begin = slice(0, new - first + memory)
    decided = _for_decisions(model, history.values[late, first - memory : new], by_span[:, begin])
    slots = history.slots[first:new]
    start = checkpoint.at(names)
    states, events, checkpoints = _decide(monitor, names, start, decided, settled[:, begin], slots)
    before.states.put(late, states)
    again = {point.slot: point.at(names) for point in checkpoints}
    past = tuple(c.with_states(names, again[c.slot]) if c.slot in again else c for c in before.past)

    stored: dict[str, list[StoredAlert]] = {}
    for alert in store.alerts_since(monitor.name, checkpoint.slot - step * monitor.decision.reopen_slots):
        stored.setdefault(alert.entity, []).append(alert)
    found = [
        (row, change)
        for k, (row, name) in enumerate(zip(late.tolist(), names, strict=True))
        for change in _revisions(
            name, stored.get(name, []), revise.episodes(start, events, states, k), checkpoint.slot, int(slots[-1]), now
        )
    ]
    explanations = explaining.explain(
        monitor,
        model,
        history,
        [(row, change.peak_slot) for row, change in found if change.peak_slot >= earliest],
        scores,
        lambda row, slot: _parts_at(monitor, model, history, errors, row, slot),
    )
    changes = [replace(change, explanation=explanations.get((row, change.peak_slot))) for row, change in found]
    order = {Change.WITHDRAWN: 0, Change.CLOSED: 1}  # an entity has one open alert at most, at any time
    return past, sorted(changes, key=lambda change: order.get(change.change or Change.REVISED, 2))


def _revisions(
    entity: str, alerts: Sequence[StoredAlert], rightful: Sequence[Episode], since: int, last: int, now: int
) -> list[AlertChange]:
    """What makes the stored alerts of an entity the rightful ones.

    since: slot before which nothing has changed; last: the last slot decided; both in epoch milliseconds
    """
    changes = []
    stored = [_episode(alert) for alert in alerts]
    for index, episode in revise.match(stored, rightful):
        identity = None if index is None else alerts[index].id
        if index is None or episode is None:
            lone, change = (episode, Change.OPENED) if index is None else (stored[index], Change.WITHDRAWN)
            if lone is not None and (lone.closed_slot is None or lone.closed_slot >= since):
                changes.append(_revision(change, entity, lone, identity, last, now))
        elif change := revise.change(stored[index], episode):
            changes.append(_revision(change, entity, episode, identity, last, now))
    return changes


def _episode(alert: StoredAlert) -> Episode:
    names = Episode.__dataclass_fields__
    return Episode(**{name: getattr(alert, name) for name in names})


def _revision(change: Change, entity: str, episode: Episode, alert: int | None, slot: int, now: int) -> AlertChange:
    return AlertChange(
        change=change,
        entity=entity,
        slot=slot if episode.closed_slot is None else episode.closed_slot,
        opened_slot=episode.opened_slot,
        decided_slot=episode.decided_slot,
        detected_at=now,
        severity=episode.severity,
        peak_score=episode.peak_score,
        peak_slot=episode.peak_slot,
        explanation=None,
        reopenings=episode.reopenings,
        alert=alert,
        closed_slot=episode.closed_slot,
    )


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

    states = memory.states.copy()
    if entities != old.entities:
        row = {name: index for index, name in enumerate(old.entities)}
        source = np.array([row.get(name, -1) for name in entities], dtype=np.int64)
        states = AlertStates.none_open(len(entities))
        known = source >= 0
        states.put(known, memory.states.rows(source[known]))
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
        rows=scoring.model_rows(model, [history.entities[row] for row in rows.tolist()]),
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


def _by_span(
    monitor: MonitorSection,
    model: ModelVersion,
    history: History,
    errors: Float32,
    first: int,
    some: Int64 | None = None,
) -> tuple[Float32, Bool]:
    """Scores by span (E, K, S) of slots from index `first` on, and where they are ordinary again (E, K).

    some: rows of the entities wanted [all]

    A value that is never valid needs no model to be critical.
    """
    rows = scoring.model_rows(model, history.entities)
    back = first - max(score.SPANS) + 1
    if some is None:
        seen, values = errors[:, back:], history.values[:, first:]
    else:
        rows, seen, values = rows[some], errors[some, back:], history.values[some, first:]
    smoothed = model.calibration.smoothed(seen, rows)
    scores, settled = model.calibration.by_span(smoothed, rows), model.calibration.settled(smoothed, rows)
    is_invalid = scoring.metric_rules(monitor).outside(values).any(axis=2)
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


def _states(
    monitor: MonitorSection,
    model: ModelVersion,
    entities: tuple[str, ...],
    alerts: Sequence[StoredAlert],
    history: History,
    by_span: Float32,
    settled: Bool,
    first: int,
) -> AlertStates:
    """States as stored, and as scores by span (E, K, S) of the slots from index `first` on tell for how long."""
    states = AlertStates.none_open(len(entities))
    row = {name: index for index, name in enumerate(entities)}
    for alert in alerts:  # oldest first: the last one counts
        index = row[alert.entity]
        states.is_open[index] = alert.closed_slot is None
        states.opened_slot[index], states.decided_slot[index] = alert.opened_slot, alert.decided_slot
        states.is_critical[index] = alert.severity is Severity.CRITICAL
        states.peak_score[index], states.peak_slot[index] = alert.peak_score, alert.peak_slot
        states.reopenings[index] = alert.reopenings
        if alert.closed_slot is not None:
            states.closed_slot[index] = alert.closed_slot
    rows = np.flatnonzero(states.is_open)
    if rows.size:
        slots = history.slots[first:]
        decided = _for_decisions(model, history.values[rows, first:], by_span[rows])
        told = decide.untold(decided, states.closed_slot[rows], slots, spans=score.SPANS, step=history.step)
        is_restless = ~((told < monitor.decision.close_below) | settled[rows])
        earliest = np.maximum(states.decided_slot[rows], slots[0] - history.step)
        for column, seen in ((states.restless_slot, is_restless), (states.known_slot, ~np.isnan(told))):
            last = np.where(seen, slots, LONG_AGO).max(axis=1)
            column[rows] = np.maximum(last, earliest)
    return states


def _silent(entities: Sequence[str], alerts: Sequence[StoredAlert]) -> Bool:
    """Whose open alert nobody wants to hear of, (E,)."""
    silent = {alert.entity for alert in alerts if alert.is_muted or alert.is_dismissed}
    return np.array([name in silent for name in entities], dtype=np.bool_)


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


def _explanations(
    monitor: MonitorSection,
    model: ModelVersion,
    history: History,
    scores: Float32,
    states: AlertStates,
    events: Sequence[Event],
    by_span: Float32,
    looked_at: int,
    new: int,
) -> dict[tuple[int, int], str]:
    """Explanations of new peaks by row and slot."""
    first = int(history.slots[new])
    raised = np.flatnonzero(states.is_open & (states.peak_slot >= first)).tolist()
    wanted = [(row, int(states.peak_slot[row])) for row in raised]
    wanted += [(event.entity, event.peak_slot) for event in events if event.peak_slot >= first]
    begin = int(history.slots[looked_at])

    def parts(row: int, slot: int) -> Float32:
        return np.asarray(by_span[row, (slot - begin) // history.step], dtype=np.float32)

    return explaining.explain(monitor, model, history, list(dict.fromkeys(wanted)), scores, parts)


def _parts_at(
    monitor: MonitorSection, model: ModelVersion, history: History, errors: Float32, row: int, slot: int
) -> Float32:
    index = (slot - history.start) // history.step
    by_span, _ = _by_span(monitor, model, history, errors, index, np.array([row]))
    return np.asarray(by_span[0, 0], dtype=np.float32)


def _changes(
    monitor: MonitorSection,
    entities: tuple[str, ...],
    states: AlertStates,
    events: list[Event],
    slots: Int64,
    explanations: dict[tuple[int, int], str],
) -> list[AlertChange]:
    """Events in order, then the new peaks of alerts that stay open."""
    changes = [
        AlertChange(
            change=event.change,
            entity=entities[event.entity],
            slot=event.slot,
            opened_slot=event.opened_slot,
            decided_slot=event.decided_slot,
            detected_at=event.slot + monitor.step_ms + milliseconds(monitor.delay),
            severity=event.severity,
            peak_score=event.peak_score,
            peak_slot=event.peak_slot,
            explanation=explanations.get((event.entity, event.peak_slot)),
            reopenings=event.reopenings,
            ended=event.ended,
        )
        for event in events
    ]
    raised = np.flatnonzero(states.is_open & (states.peak_slot >= slots[0]))
    return changes + [_peak(states, row, entities[row], explanations) for row in raised.tolist()]


def _peak(
    states: AlertStates, row: int, entity: str, explanations: dict[tuple[int, int], str], change: Change | None = None
) -> AlertChange:
    """An open alert as it stands."""
    peak_slot = int(states.peak_slot[row])
    return AlertChange(
        change=change,
        entity=entity,
        slot=peak_slot,
        opened_slot=int(states.opened_slot[row]),
        decided_slot=int(states.decided_slot[row]),
        detected_at=0,
        severity=Severity.CRITICAL if states.is_critical[row] else Severity.WARNING,
        peak_score=float(states.peak_score[row]),
        peak_slot=peak_slot,
        explanation=explanations.get((row, peak_slot)),
        reopenings=int(states.reopenings[row]),
    )


def _muted(excluded: Sequence[Exclusion], change: AlertChange) -> AlertChange:
    """A new alert, muted if an exclusion covers it."""
    if change.change is not Change.OPENED or not excluded:
        return change
    share = explaining.shares(change.explanation)
    return replace(change, is_muted=exclusions.mutes(excluded, change.entity, share, change.decided_slot))


def _unmuted(
    monitor: MonitorSection,
    excluded: Sequence[Exclusion],
    stored: Sequence[StoredAlert],
    states: AlertStates,
    entities: tuple[str, ...],
    slot: int,
) -> list[AlertChange]:
    """Open alerts that no exclusion covers any more."""
    row_of = {name: row for row, name in enumerate(entities)}
    muted = [alert for alert in stored if alert.is_muted and alert.closed_slot is None and not alert.is_dismissed]
    return [
        replace(_peak(states, row_of[alert.entity], alert.entity, {}, Change.UNMUTED), slot=slot)
        for alert in muted
        if states.is_open[row_of[alert.entity]] and not exclusions.mutes(excluded, alert.entity, None, slot)
    ]


def _snapshot(history: History, newest: Float32, states: AlertStates, silent: Bool, scored: _Scored) -> Snapshot:
    reason = scored.reason[:, -1].copy()
    reason[~np.isnan(newest)] = Reason.KNOWN  # an invalid value is known to be
    if np.isnan(history.values[:, -_STALE_SLOTS:]).all():
        reason[reason == Reason.NO_DATA] = Reason.STALE_DATA
    return Snapshot(history.entities, newest, reason, states, silent, scored.share[:, -1])


def _newest(samples: Samples) -> int | None:
    return int(samples.time.max()) if len(samples) else None
