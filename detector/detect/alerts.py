"""Scores to changes of stored alerts: states, decisions, explanations of new peaks, and what exclusions mute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detector.core import decide
from detector.core.decide import LONG_AGO, AlertStates, Change, Event, Severity
from detector.core.revise import Checkpoint
from detector.core.series import Bool, Float32, Int64
from detector.detect import exclusions, explanations, scores
from detector.detect.horizon import Horizon
from detector.detect.memory import Memory
from detector.ports import AlertChange, Exclusion, StoredAlert


def states_of(horizon: Horizon, memory: Memory, alerts: Sequence[StoredAlert]) -> AlertStates:
    """Alert states (E,) from the store; how long each has been calm or unknown is recomputed from the newest scores.

    alerts: oldest first
    """
    states = _as_stored(memory.entities, alerts)
    rows = np.flatnonzero(states.is_open)
    if not rows.size:
        return states
    opened = states.rows(rows)
    slots = memory.history.slots[-horizon.scores :]
    decided = scores.for_decisions(
        memory.scores[rows, -horizon.scores :],
        horizon=horizon,
        model=memory.model,
        rows=memory.rows[rows],
        values=memory.history.values[rows],
        is_open=opened.is_open,
    )
    is_known = ~np.isnan(decided)
    is_active = is_known & (decided >= horizon.rules.score_calm)
    earliest = np.maximum(opened.decided_slot, slots[0] - horizon.step)
    last_active, last_known = (
        np.maximum(np.where(seen, slots, LONG_AGO).max(axis=1), earliest) for seen in (is_active, is_known)
    )
    unknown = (~is_known & (slots > last_active[:, None])).sum(axis=1)
    active_slot = last_active + horizon.step * unknown
    return states.with_rows(rows, replace(opened, active_slot=active_slot, known_slot=last_known))


def _as_stored(entities: Sequence[str], alerts: Sequence[StoredAlert]) -> AlertStates:
    """The last alert of each entity, (E,); of several the newest counts."""
    columns = AlertStates.none_open(len(entities)).columns()
    row = {name: index for index, name in enumerate(entities)}
    for alert in alerts:
        index, episode = row[alert.entity], alert.episode
        for name in ("opened_slot", "decided_slot", "peak_score", "peak_slot", "reopenings"):
            columns[name][index] = getattr(episode, name)
        columns["is_open"][index] = episode.closed_slot is None
        columns["is_critical"][index] = episode.severity is Severity.CRITICAL
        if episode.closed_slot is not None:
            columns["closed_slot"][index] = episode.closed_slot
    return AlertStates(**columns)


def silent(entities: Sequence[str], alerts: Sequence[StoredAlert]) -> Bool:
    """True where the open alert is muted or was closed by hand: (E,)."""
    return _among(entities, {alert.entity for alert in alerts if alert.is_silent})


def dismissed(entities: Sequence[str], alerts: Sequence[StoredAlert]) -> Bool:
    """True where somebody has closed the open alert: (E,)."""
    return _among(entities, {alert.entity for alert in alerts if alert.is_dismissed})


def _among(entities: Sequence[str], names: set[str]) -> Bool:
    if not names:
        return np.zeros(len(entities), dtype=np.bool_)
    return np.array([name in names for name in entities], dtype=np.bool_)


def checkpoint(horizon: Horizon, slot: int, *, entities: Sequence[str], states: AlertStates) -> Checkpoint:
    """The states before a slot, of alerts that are open or whose closing still matters."""
    return Checkpoint.of(slot, entities, states, since=slot - horizon.reopening)


@dataclass(frozen=True)
class Decisions:
    """Decisions about K slots."""

    states: AlertStates  # (E,) after them
    events: list[Event]
    checkpoints: list[Checkpoint]  # after those slots that late samples may still change


def decide_slots(
    horizon: Horizon,
    states: AlertStates,
    taken: Float32,
    *,
    slots: Int64,
    entities: Sequence[str],
    gone: Bool | None = None,
) -> Decisions:
    """As `decide.decide` of slots (K,), with checkpoints.

    taken: (E, rules.before + K) scores; gone: (E, K)
    """
    rules, events, checkpoints = horizon.rules, list[Event](), list[Checkpoint]()
    done = 0
    last = min(len(slots), horizon.late + 1)
    for until in range(len(slots) - last + 1, len(slots) + 1):
        seen = slice(done, until + rules.before)
        states, found = decide.decide(
            states,
            taken[:, seen],
            slots=slots[done:until],
            rules=rules,
            step=horizon.step,
            gone=None if gone is None else gone[:, done:until],
        )
        events += found
        after = int(slots[until - 1]) + horizon.step
        checkpoints.append(checkpoint(horizon, after, entities=entities, states=states))
        done = until
    return Decisions(states, events, checkpoints)


def explained(
    horizon: Horizon, memory: Memory, decided: Decisions, *, parts: Float32, first: int
) -> dict[tuple[int, int], str]:
    """Explanations of new peaks as JSON, by row and slot.

    memory: with the states before the new slots; parts: (E, K, M) scores of the newest slots by mechanism
    first: the first new slot, epoch milliseconds
    """
    history, states = memory.history, decided.states
    raised = np.flatnonzero(states.is_open & (states.peak_slot >= first)).tolist()
    wanted = [(row, int(states.peak_slot[row])) for row in raised]
    peaks = [(event.entity, event.episode.peak_slot) for event in decided.events]
    wanted += [(row, slot) for row, slot in peaks if slot >= first]

    def parts_of(row: int, slot: int) -> Float32:
        return np.asarray(parts[row, (slot - history.end) // history.step])

    return explanations.explain(horizon, memory, list(dict.fromkeys(wanted)), parts=parts_of)


def changes_of(
    horizon: Horizon,
    decided: Decisions,
    explained: dict[tuple[int, int], str],
    *,
    entities: tuple[str, ...],
    first: int,
) -> list[AlertChange]:
    """Events in order, then the new peaks of alerts that stay open; first: the first new slot, epoch milliseconds."""
    states = decided.states
    changes = [
        AlertChange(
            change=event.change,
            entity=entities[event.entity],
            slot=event.slot,
            episode=event.episode,
            detected_at=event.slot + horizon.step + horizon.delay,
            explanation=explained.get((event.entity, event.episode.peak_slot)),
            ended=event.ended,
        )
        for event in decided.events
    ]
    raised = np.flatnonzero(states.is_open & (states.peak_slot >= first))
    return changes + [_peak(states, row, entities[row], explained=explained) for row in raised.tolist()]


def _peak(states: AlertStates, row: int, entity: str, *, explained: dict[tuple[int, int], str]) -> AlertChange:
    """The new peak of an open alert."""
    episode = states.episode(row)
    explanation = explained.get((row, episode.peak_slot))
    return AlertChange(None, entity, episode.peak_slot, episode, detected_at=0, explanation=explanation)


_MUTABLE = {Change.OPENED, Change.REOPENED, Change.ESCALATED}


def muted(excluded: Sequence[Exclusion], change: AlertChange) -> AlertChange:
    """The change of an alert, muted if an exclusion covers it."""
    if change.change not in _MUTABLE or not excluded:
        return change
    share = explanations.shares(change.explanation)
    at = change.episode.decided_slot if change.change is Change.OPENED else change.slot
    return replace(change, is_muted=exclusions.mutes(excluded, change.entity, share=share, at=at))


def unmuted(
    excluded: Sequence[Exclusion],
    stored: Sequence[StoredAlert],
    states: AlertStates,
    *,
    entities: tuple[str, ...],
    slot: int,
) -> list[AlertChange]:
    """Open alerts that no exclusion covers any more at a slot, epoch milliseconds; states: (E,)."""
    row_of = {name: row for row, name in enumerate(entities)}
    muted = [alert for alert in stored if alert.is_muted and alert.is_silent and not alert.is_dismissed]
    return [
        replace(_peak(states, row, alert.entity, explained={}), change=Change.UNMUTED, slot=slot)
        for alert in muted
        if states.is_open[row := row_of[alert.entity]]
        and states.decided_slot[row] == alert.episode.decided_slot
        and not exclusions.mutes(excluded, alert.entity, share=None, at=slot)
    ]
