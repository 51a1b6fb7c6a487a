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
from detector.core import decide, frozen, grid, revise, score, threshold, window
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
    history: History  # (E, V, F) values of the slots that windows may still be asked for
    rows: Int64  # (E,) each entity's row in the model's per-entity arrays, −1 for one the model has not seen
    errors: Float32  # (E, L) combined residual of the newest slot of the window that ends there, NaN = unknown
    scores: Float32  # (E, L) as the errors they end with the history, and begin before it
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


@dataclass(frozen=True)
class _Extended:
    """What is remembered, with samples of K more slots; scores have yet to be made."""

    memory: Memory  # arrays of its own, which may be written into
    scored: _Scored  # the K slots
    late: Int64  # rows of entities with committed slots that late samples changed
    late_slots: int  # slots from the oldest of these to the newest committed one


def memory_slots(monitor: MonitorSection) -> int:
    """Slots before the newest that a tick looks back on: windows, smoothing, decisions, late samples."""
    return monitor.timesteps - 1 + error_slots(monitor)


def value_slots(monitor: MonitorSection) -> int:
    """Slots whose values are kept: two windows back from the oldest slot that is decided on or corrected again."""
    rules = scoring.decision_rules(monitor)
    decided_again = rules.memory + lateness_slots(monitor)
    silent = monitor.no_data_slots + decided_again + 1 if monitor.no_data_slots else 0
    return max(2 * monitor.timesteps - 2 + decided_again, silent, _scored_again(monitor))


def error_slots(monitor: MonitorSection) -> int:
    """Slots whose errors are kept: smoothing, decisions, late samples; never fewer than those with values."""
    return max(max(score.SPANS) - 1 + _scored_again(monitor), value_slots(monitor))


def _scored_again(monitor: MonitorSection) -> int:
    """Newest slots whose scores are needed to go on: for alerts that are open, for decisions and late samples."""
    rules = scoring.decision_rules(monitor)
    return max(1, rules.reach, rules.memory + lateness_slots(monitor))


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
    told = {alert.entity for alert in alerts}
    memory = _nothing(monitor, model, stored, sorted(told), cursor - memory_slots(monitor) * step)
    first_error = cursor - error_slots(monitor) * step
    while (begin := memory.history.end) < cursor:  # in pieces: what is read is many times what is kept
        slots = min((cursor - begin) // step, _chunk_slots(memory.history))
        end = begin + slots * step
        samples = source.read(begin, end)
        entities = _entities(memory, samples.entities, told)
        found = reading.gridded(monitor, samples, entities, begin, slots)
        del samples  # many times what remains of them
        unscored = min(slots, max(0, first_error - begin) // step)  # the windows of these have not been read
        extended = _extend(monitor, memory, entities, found, end, slots=slots, unscored=unscored)
        memory, scored = _newest_part(monitor, extended.memory), extended.scored
    entities, again = memory.history.entities, _scored_again(monitor)
    for rows in _blocks(len(entities)):
        by_span, _ = scores_by_span(monitor, memory, again, rows)
        memory.scores[rows, -again:] = threshold.worst(by_span)
    states = _states(monitor, memory, alerts)
    by_span, _ = scores_by_span(monitor, memory, 1)
    newest = _untold(by_span, states, memory.history)
    snapshot = _snapshot(memory.history, newest, states, _silent(entities, alerts), scored)
    return replace(memory, states=states, past=(Checkpoint.of(cursor, entities, states),), snapshot=snapshot)


def _nothing(
    monitor: MonitorSection, model: ModelVersion, cursor: int | None, others: Iterable[str], start: int
) -> Memory:
    """A memory of no slots, of the entities the model knows and some others."""
    known = set(model.entities)
    entities = (*model.entities, *(name for name in others if name not in known))
    count, metrics = len(entities), len(monitor.metrics)
    share = np.empty((count, metrics), dtype=np.float32)
    states = AlertStates.none_open(count)
    return Memory(
        model=model,
        cursor=cursor,
        history=History(entities, start, monitor.step_ms, np.empty((count, 0, metrics), dtype=np.float32)),
        rows=scoring.model_rows(model, entities),
        errors=np.empty((count, 0), dtype=np.float32),
        scores=np.empty((count, 0), dtype=np.float32),
        states=states,
        past=(),
        snapshot=Snapshot(entities, share[:, 0], np.empty(count, np.int8), states, states.is_open, share),
    )


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
    late_slots = lateness_slots(monitor)
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
    entities = _entities(memory, samples.entities, still_open)
    found = reading.gridded(monitor, samples, entities, read_from, new + late_slots)
    newest_sample, sample_count = _newest(samples), len(samples)
    del samples  # many times what remains of them

    extended = _extend(monitor, memory, entities, found, end, slots=new)
    before, scored, late, late_slots = extended.memory, extended.scored, extended.late, extended.late_slots
    history, scores = before.history, before.scores
    corrected = slice(-new - late_slots, -new)
    revisions: list[AlertChange] = []
    past = memory.past
    if late.size:
        late_by_span, _ = scores_by_span(monitor, before, new + late_slots, late)
        scores[late, corrected] = threshold.worst(late_by_span[:, :late_slots])
        past, revisions = _redecide(monitor, store, before, late, late_slots, new, now)

    recent = slice(-new - scoring.decision_rules(monitor).memory, None)
    by_span, settled = scores_by_span(monitor, before, -recent.start)
    scores[:, -new:] = threshold.worst(by_span[:, -new:])
    slots = history.slots[-new:]
    decided = _for_decisions(monitor, model, history.values, before.states.is_open, by_span)
    states, events, checkpoints = _decide(monitor, entities, before.states, decided, settled, slots)

    excluded = store.exclusions(monitor.name)
    stored = store.alerts_since(monitor.name, end) if before.states.is_open.any() or revisions else []
    explanations = _explanations(monitor, before, states, events, by_span, int(slots[0]))
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
        scores=_score_rows(entities, slots, _stored(monitor, scores[:, -new:])),
        replaced=_replaced(monitor, entities, history.slots[corrected], scores[:, corrected], late),
        changes=changes,
        notifiers=notifiers,
        incident_span=monitor.decision.incident_slots * step,
    )
    store.commit(commit)

    silent = _silent(entities, store.alerts_since(monitor.name, end)) if states.is_open.any() else ~states.is_open
    snapshot = _snapshot(history, _untold(by_span, states, history), states, silent & states.is_open, scored)
    past = (*past, *checkpoints)[-lateness_slots(monitor) - 1 :]
    after = replace(_newest_part(monitor, before), cursor=end, states=states, past=past, snapshot=snapshot)
    opened = tuple(event.severity for event in events if event.change is Change.OPENED)
    return after, Report(end, newest_sample, sample_count, scored.windows, opened, snapshot)


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
    late: Int64,
    late_slots: int,
    slots: int,
    now: int,
) -> tuple[tuple[Checkpoint, ...], list[AlertChange]]:
    """Decides again what late samples changed, before the new slots: checkpoints and what becomes of stored alerts.

    late: rows of the entities with other scores in the `late_slots` before the new ones
    slots: how many are new; the states before them are written into `before`
    """
    history, model, step = before.history, before.model, monitor.step_ms
    memory = scoring.decision_rules(monitor).memory
    new = history.values.shape[1] - slots  # index of the first new slot
    usable = [c for c in before.past if history.slots[memory] <= c.slot < history.slots[new]]
    if not usable:
        return before.past, []
    earlier = [c for c in usable if c.slot <= history.slots[new - late_slots]]
    checkpoint = earlier[-1] if earlier else usable[0]
    first = (checkpoint.slot - history.start) // step
    names = [history.entities[row] for row in late.tolist()]
    by_span, settled = scores_by_span(monitor, before, history.values.shape[1] - first + memory, late)
    begin = slice(0, new - first + memory)
    again = history.slots[first:new]
    start = checkpoint.at(names)
    decided = _for_decisions(monitor, model, history.values[late, :new], start.is_open, by_span[:, begin])
    states, events, checkpoints = _decide(monitor, names, start, decided, settled[:, begin], again)
    before.states.put(late, states)
    corrected = {point.slot: point.at(names) for point in checkpoints}
    past = tuple(c.with_states(names, corrected[c.slot]) if c.slot in corrected else c for c in before.past)

    stored: dict[str, list[StoredAlert]] = {}
    for alert in store.alerts_since(monitor.name, checkpoint.slot - step * monitor.decision.reopen_slots):
        stored.setdefault(alert.entity, []).append(alert)
    found = [
        (row, change)
        for k, (row, name) in enumerate(zip(late.tolist(), names, strict=True))
        for change in _revisions(
            name, stored.get(name, []), revise.episodes(start, events, states, k), checkpoint.slot, int(again[-1]), now
        )
    ]
    # of peaks further back there is no whole window any more, and their explanations stay
    earliest = max(history.slots[model.timesteps - 1], history.end - step * (before.errors.shape[1] - max(score.SPANS)))
    explanations = explaining.explain(
        monitor,
        model,
        history,
        [(row, change.peak_slot) for row, change in found if change.peak_slot >= earliest],
        scores_of_history(before),
        lambda row, slot: _parts_at(monitor, before, row, slot),
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
        elif (differs := revise.change(stored[index], episode)) is not None:
            changes.append(_revision(differs, entity, episode, identity, last, now))
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


def _entities(memory: Memory, sampled: Iterable[str], needed: Iterable[str]) -> tuple[str, ...]:
    """Who is watched: whoever the model knows, has recent data or an open alert; those already there first."""
    here = memory.history.entities
    alive = {*memory.model.entities, *sampled, *needed}
    silent = sorted(set(here).difference(alive))
    if silent:
        rows = grid.positions(silent, here)
        has_values = ~np.all(np.isnan(memory.history.values[rows]), axis=(1, 2))
        is_known: Bool = has_values | ~np.all(np.isnan(memory.errors[rows]), axis=1)
        alive.update(name for name, known in zip(silent, is_known.tolist(), strict=True) if known)
    staying = tuple(filter(alive.__contains__, here))
    return staying + tuple(sorted(alive.difference(staying)))


def _extend(
    monitor: MonitorSection,
    memory: Memory,
    entities: tuple[str, ...],
    found: Float32,
    end: int,
    *,
    slots: int,
    unscored: int = 0,
) -> _Extended:
    """Takes over gridded values (E, R, F) that go up to `end`, and makes the errors they change.

    slots: the newest K of the R; those before are committed already
    unscored: slots, the first of the K, without errors
    """
    after = _follow(monitor, memory, entities, end, slots)
    values, errors = after.history.values, after.errors
    again = slice(values.shape[1] - found.shape[1], values.shape[1] - slots)
    late, late_slots = _late(values[:, again], found[:, :-slots])
    values[:, again.start :] = found
    scored = _errors(monitor, after, np.arange(len(entities)), slots - unscored)
    errors[:, errors.shape[1] - slots + unscored :] = scored.errors
    if late.size:
        changed = _errors(monitor, after, late, slots + late_slots).errors
        errors[late, -slots - late_slots : -slots] = changed[:, :late_slots]
    return _Extended(after, scored, late, late_slots)


def _follow(monitor: MonitorSection, memory: Memory, entities: tuple[str, ...], end: int, slots: int) -> Memory:
    """The same memory for other entities and up to `end`, with room for some slots beside what is kept; a copy."""
    old, step = memory.history, memory.history.step

    def moved(values: Float32, length: int) -> History:
        start = old.end - step * values.shape[1]
        return grid.cover(
            History(old.entities, start, step, values), entities=entities, start=end - step * length, end=end
        )

    errors, scores = (
        moved(values[:, :, None], error_slots(monitor) + slots).values[:, :, 0]
        for values in (memory.errors, memory.scores)
    )
    history = moved(old.values, value_slots(monitor) + slots)
    if entities == old.entities:
        return replace(memory, history=history, errors=errors, scores=scores, states=memory.states.copy())
    before = grid.positions(entities, old.entities)
    known = before >= 0
    states = AlertStates.none_open(len(entities))
    states.put(known, memory.states.rows(before[known]))
    rows = scoring.model_rows(memory.model, entities)
    return replace(memory, history=history, rows=rows, errors=errors, scores=scores, states=states)


def _newest_part(monitor: MonitorSection, memory: Memory) -> Memory:
    """What is kept of a memory; views, since the next tick copies what it goes on with."""
    old, errors = memory.history, slice(-error_slots(monitor), None)
    kept = value_slots(monitor)
    history = replace(old, start=old.end - kept * old.step, values=old.values[:, -kept:])
    return replace(memory, history=history, errors=memory.errors[:, errors], scores=memory.scores[:, errors])


def _late(before: Float32, after: Float32) -> tuple[Int64, int]:
    """Entities with committed slots (E, K, F) that late samples changed, and how many slots back the first such is."""
    differs = (before != after) & ~(np.isnan(before) & np.isnan(after))
    changed = differs.any(axis=2)  # (E, K)
    rows = np.flatnonzero(changed.any(axis=1))
    return rows, before.shape[1] - int(changed.any(axis=0).argmax()) if rows.size else 0


def _errors(monitor: MonitorSection, memory: Memory, rows: Int64, slots: int) -> _Scored:
    """Combined residual of the newest K slots of some entities, some thousand entities at a time."""
    model, history, rules = memory.model, memory.history, scoring.metric_rules(monitor)
    metrics = history.values.shape[2]
    begin = history.values.shape[1] - slots - model.timesteps + 1
    errors = np.empty((len(rows), slots), dtype=np.float32)
    reason = np.empty((len(rows), slots), dtype=np.int8)
    share = np.empty((len(rows), slots, metrics), dtype=np.float32)
    for part in _blocks(len(rows) if slots else 0):
        values = history.values[rows[part], begin:]
        reason[part] = window.reasons(values, model.timesteps, max_missing=monitor.max_missing)
        errors[part], share[part] = scoring.errors(
            model,
            rules,
            values=values,
            rows=memory.rows[rows[part]],
            slots=history.slots[begin:],
            chosen=reason[part] == Reason.KNOWN,
        )
        is_invalid = rules.outside(values[:, model.timesteps - 1 :])  # (B, K, F)
        if is_invalid.any():
            count = is_invalid.sum(axis=2, keepdims=True)
            share[part] = np.where(count > 0, is_invalid / np.maximum(count, 1), share[part])
    windows = int((reason == Reason.KNOWN).sum())
    if model.version == NO_MODEL:
        reason[reason != Reason.NO_DATA] = Reason.NO_MODEL
    return _Scored(errors, reason, share, windows)


def scores_by_span(
    monitor: MonitorSection, memory: Memory, slots: int, some: Int64 | None = None
) -> tuple[Float32, Bool]:
    """Scores by span (E, K, S) of the newest K slots, and where they are ordinary again (E, K).

    some: rows of the entities wanted [all]

    A value that is never valid needs no model to be critical; one that stays the same for too long opens an alert.
    """
    calibration, rules = memory.model.calibration, scoring.metric_rules(monitor)
    invalid_score = np.float32(max(monitor.decision.critical_at, monitor.decision.open_at_once))
    wanted = np.arange(len(memory.rows)) if some is None else some
    scores = np.empty((len(wanted), slots, len(score.SPANS)), dtype=np.float32)
    settled = np.empty((len(wanted), slots), dtype=np.bool_)
    for block in _blocks(len(wanted)):
        rows, at = memory.rows[wanted[block]], wanted[block]
        smoothed = calibration.smoothed(memory.errors[at, -slots - max(score.SPANS) + 1 :], rows)
        by_span = calibration.by_span(smoothed, rows)
        values = memory.history.values[at]
        is_invalid = rules.outside(values[:, -slots:]).any(axis=2)
        by_span[is_invalid] = np.fmax(by_span[is_invalid], invalid_score)
        is_frozen = frozen.is_frozen(values, scoring.rests(memory.model, rows), slots).any(axis=2)
        by_span[is_frozen] = np.fmax(by_span[is_frozen], np.float32(monitor.decision.open_at_once))
        scores[block] = by_span
        settled[block] = calibration.settled(smoothed, rows) & ~is_invalid & ~is_frozen
    return scores, settled


def _blocks(count: int) -> list[Int64]:
    """So many rows, some thousand at a time."""
    return [np.arange(begin, min(begin + _BLOCK, count)) for begin in range(0, count, _BLOCK)]


def _for_decisions(
    monitor: MonitorSection, model: ModelVersion, values: Float32, is_open: Bool, by_span: Float32
) -> Float32:
    """Scores (E, K, S) as alerts see them, of the newest K of values (E, L, F).

    Without a model, a slot that has data lets an alert close. If so configured, an entity that had data and falls
    silent opens one, which lasts (is_open) until it has data again.
    """
    slots = by_span.shape[1]
    if model.version == NO_MODEL:
        has_data: Bool = np.any(~np.isnan(values[:, -slots:]), axis=2)
        by_span = np.where(np.isnan(by_span) & has_data[..., None], np.float32(0.0), by_span)
    if monitor.no_data_slots:
        is_silent = window.silent(values, monitor.no_data_slots)[:, -slots:]  # (E, K)
        had_data = ~np.all(np.isnan(values), axis=(1, 2)) | is_open
        by_span = by_span.copy()
        by_span[is_silent & had_data[:, None], 0] = monitor.decision.open_at_once
    return by_span


def _untold(by_span: Float32, states: AlertStates, history: History) -> Float32:
    """Newest score of each entity without what a closed alert has told already, (E,); NaN = unknown."""
    newest = history.slots[-1:]
    step = history.step
    return decide.untold(by_span[:, -1:], states.closed_slot, newest, spans=score.SPANS, step=step)[:, 0]


def _states(monitor: MonitorSection, memory: Memory, alerts: Sequence[StoredAlert]) -> AlertStates:
    """States as stored, and for how long they are so as the newest scores tell."""
    entities, history = memory.history.entities, memory.history
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
        again = _scored_again(monitor)
        by_span, settled = scores_by_span(monitor, memory, again, rows)
        slots = history.slots[-again:]
        decided = _for_decisions(monitor, memory.model, history.values[rows], states.is_open[rows], by_span)
        told = decide.untold(decided, states.closed_slot[rows], slots, spans=score.SPANS, step=history.step)
        is_restless = ~((told < monitor.decision.close_below) | settled)
        earliest = np.maximum(states.decided_slot[rows], slots[0] - history.step)
        for column, seen in ((states.restless_slot, is_restless), (states.known_slot, ~np.isnan(told))):
            last = np.where(seen, slots, LONG_AGO).max(axis=1)
            column[rows] = np.maximum(last, earliest)
    return states


def _silent(entities: Sequence[str], alerts: Sequence[StoredAlert]) -> Bool:
    """Whose open alert nobody wants to hear of, (E,)."""
    silent = {alert.entity for alert in alerts if alert.is_muted or alert.is_dismissed}
    return np.array([name in silent for name in entities], dtype=np.bool_)


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


def _explanations(
    monitor: MonitorSection,
    memory: Memory,
    states: AlertStates,
    events: Sequence[Event],
    by_span: Float32,
    first: int,
) -> dict[tuple[int, int], str]:
    """Explanations of new peaks by row and slot.

    by_span: (E, K, S) of the newest slots; first: the first new one, epoch milliseconds
    """
    history = memory.history
    raised = np.flatnonzero(states.is_open & (states.peak_slot >= first)).tolist()
    wanted = [(row, int(states.peak_slot[row])) for row in raised]
    wanted += [(event.entity, event.peak_slot) for event in events if event.peak_slot >= first]

    def parts(row: int, slot: int) -> Float32:
        return np.asarray(by_span[row, (slot - history.end) // history.step], dtype=np.float32)

    scores = scores_of_history(memory)
    return explaining.explain(monitor, memory.model, history, list(dict.fromkeys(wanted)), scores, parts)


def scores_of_history(memory: Memory) -> Float32:
    """Scores (E, V) of the slots whose values are kept."""
    return memory.scores[:, -memory.history.values.shape[1] :]


def _parts_at(monitor: MonitorSection, memory: Memory, row: int, slot: int) -> Float32:
    slots = (memory.history.end - slot) // memory.history.step
    by_span, _ = scores_by_span(monitor, memory, slots, np.array([row]))
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
