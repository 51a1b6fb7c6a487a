"""Scores to changes of stored alerts: decisions, what late samples revise, explanations, and what is muted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from detector.config.sections import MonitorSection
from detector.core import decide, score, window
from detector.core.decide import LONG_AGO, AlertStates, Change, Event, Severity
from detector.core.revise import Checkpoint
from detector.core.series import Bool, Float32, Int64
from detector.detect import exclusions, horizon
from detector.detect import explanations as explaining
from detector.detect import memory as remembering
from detector.detect.memory import NO_MODEL, Memory
from detector.ports import AlertChange, Exclusion, ModelVersion, StoredAlert
from detector.times import milliseconds


def states_of(monitor: MonitorSection, memory: Memory, alerts: Sequence[StoredAlert]) -> AlertStates:
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
        again = horizon.scored_again(monitor)
        by_span, settled = remembering.scores_by_span(monitor, memory, again, rows)
        slots = history.slots[-again:]
        decided = for_decisions(monitor, memory.model, history.values[rows], states.is_open[rows], by_span)
        told = decide.untold(decided, states.closed_slot[rows], slots, spans=score.SPANS, step=history.step)
        is_known = ~np.isnan(told)
        is_restless = is_known & ~((told < monitor.decision.close_below) | settled)
        earliest = np.maximum(states.decided_slot[rows], slots[0] - history.step)
        last_restless, last_known = (
            np.maximum(np.where(seen, slots, LONG_AGO).max(axis=1), earliest) for seen in (is_restless, is_known)
        )
        unknown = (~is_known & (slots > last_restless[:, None])).sum(axis=1)
        states.restless_slot[rows], states.known_slot[rows] = last_restless + history.step * unknown, last_known
    return states


def silent(entities: Sequence[str], alerts: Sequence[StoredAlert]) -> Bool:
    """Whose open alert nobody wants to hear of, (E,)."""
    return _among(entities, {a.entity for a in alerts if a.closed_slot is None and (a.is_muted or a.is_dismissed)})


def dismissed(entities: Sequence[str], alerts: Sequence[StoredAlert]) -> Bool:
    """Whose open alert somebody has closed, (E,)."""
    return _among(entities, {alert.entity for alert in alerts if alert.is_dismissed})


def _among(entities: Sequence[str], names: set[str]) -> Bool:
    if not names:
        return np.zeros(len(entities), dtype=np.bool_)
    return np.array([name in names for name in entities], dtype=np.bool_)


def for_decisions(
    monitor: MonitorSection, model: ModelVersion, values: Float32, is_open: Bool, by_span: Float32
) -> Float32:
    """Scores (E, K, S) as alerts see them, of the newest K of values (E, L, F).

    Without a model, a slot that has data lets an alert close. If so configured, an entity that had data and falls
    silent opens one, which lasts until it has data again; is_open: (E,) has an alert that nobody has closed
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


def checkpoint(monitor: MonitorSection, slot: int, entities: Sequence[str], states: AlertStates) -> Checkpoint:
    """The states before a slot, of alerts that are open or whose closing still matters."""
    reach = monitor.step_ms * max(monitor.decision.reopen_slots, *score.SPANS)
    return Checkpoint.of(slot, entities, states, slot - reach)


def decide_slots(
    monitor: MonitorSection,
    entities: Sequence[str],
    states: AlertStates,
    by_span: Float32,
    settled: Bool,
    slots: Int64,
) -> tuple[AlertStates, list[Event], list[Checkpoint]]:
    """As `decide.decide`, with checkpoints after those of the slots that late samples may still change."""
    rules = horizon.decision_rules(monitor)
    events: list[Event] = []
    checkpoints: list[Checkpoint] = []
    done = 0
    for until in [len(slots) - k for k in range(min(len(slots), horizon.lateness_slots(monitor) + 1) - 1, -1, -1)]:
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
        checkpoints.append(checkpoint(monitor, int(slots[until - 1]) + monitor.step_ms, entities, states))
        done = until
    return states, events, checkpoints


def explanations(
    monitor: MonitorSection,
    memory: Memory,
    states: AlertStates,
    events: Sequence[Event],
    by_span: Float32,
    first: int,
) -> dict[tuple[int, int], str]:
    """Explanations of new peaks by row and slot.

    memory: with the states before the new slots; states: those after
    by_span: (E, K, S) of the newest slots; first: the first new one, epoch milliseconds
    """
    history = memory.history
    raised = np.flatnonzero(states.is_open & (states.peak_slot >= first)).tolist()
    wanted = [(row, int(states.peak_slot[row])) for row in raised]
    wanted += [(event.entity, event.peak_slot) for event in events if event.peak_slot >= first]
    closings = _closings(memory.states, events)

    def parts(row: int, slot: int) -> Float32:
        return _news(by_span[row, (slot - history.end) // history.step], closings(row, slot), slot, history.step)

    scores = remembering.scores_of_history(memory)
    return explaining.explain(monitor, memory.model, history, list(dict.fromkeys(wanted)), scores, parts)


def _closings(before: AlertStates, events: Sequence[Event]) -> Callable[[int, int], int]:
    """Which slot closed the last alert of a row before a slot; long ago if none did."""
    closed: dict[int, list[int]] = {}
    for event in events:
        if event.change is Change.CLOSED:
            closed.setdefault(event.entity, []).append(event.slot)

    def last(row: int, slot: int) -> int:
        found = [int(before.closed_slot[row]), *closed.get(row, [])]
        return max((closing for closing in found if closing < slot), default=LONG_AGO)

    return last


def _news(by_span: Float32, closed_slot: int, slot: int, step: int) -> Float32:
    """Scores (S,) of one slot, NaN where a span reaches back to the alert that closed last: it has no part in this."""
    is_told = decide.told(np.array([closed_slot]), np.array([slot]), spans=score.SPANS, step=step)[0, 0]
    return np.where(is_told, np.float32(np.nan), by_span)


def _parts_at(monitor: MonitorSection, memory: Memory, row: int, slot: int) -> Float32:
    slots = (memory.history.end - slot) // memory.history.step
    by_span, _ = remembering.scores_by_span(monitor, memory, slots, np.array([row]))
    return np.asarray(by_span[0, 0], dtype=np.float32)


def changes_of(
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


_MUTABLE = {Change.OPENED, Change.REOPENED, Change.ESCALATED}


def muted(excluded: Sequence[Exclusion], change: AlertChange) -> AlertChange:
    """What would be told of an alert, muted if an exclusion covers it."""
    if change.change not in _MUTABLE or not excluded:
        return change
    share = explaining.shares(change.explanation)
    at = change.decided_slot if change.change is Change.OPENED else change.slot
    return replace(change, is_muted=exclusions.mutes(excluded, change.entity, share, at))


def unmuted(
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
        if states.is_open[row := row_of[alert.entity]]
        and states.decided_slot[row] == alert.decided_slot
        and not exclusions.mutes(excluded, alert.entity, None, slot)
    ]
