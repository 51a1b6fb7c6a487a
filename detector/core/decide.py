"""Scores to alerts: k of n slots to open, hysteresis to close."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from detector.core.series import Bool, Float32, Int64

THRESHOLD = 1.0

LONG_AGO = -(1 << 62)
"""Epoch milliseconds before any data."""


class Severity(StrEnum):
    """How bad an alert is."""

    WARNING = "warning"
    CRITICAL = "critical"


class Change(StrEnum):
    """What happened to an alert."""

    OPENED = "opened"
    ESCALATED = "escalated"
    CLOSED = "closed"


@dataclass(frozen=True)
class Rules:
    """When an alert opens, escalates and closes; all levels are scores, all counts are slots."""

    open_slots: int
    open_of: int
    open_at_once: float
    close_below: float
    close_slots: int
    critical_at: float

    @property
    def memory(self) -> int:
        """Scores before the first slot that a decision looks at."""
        return max(self.open_of, self.close_slots) - 1


@dataclass(frozen=True)
class AlertStates:
    """The open alert of each entity, if any, and the end of its last one, as columns over entities."""

    is_open: Bool  # (E,)
    opened_slot: Int64  # (E,) epoch ms of the first strange slot
    is_critical: Bool  # (E,)
    peak_score: Float32  # (E,)
    peak_slot: Int64  # (E,) epoch ms
    closed_slot: Int64  # (E,) epoch ms of the slot that closed the last alert; long ago if there was none

    @staticmethod
    def none_open(entities: int) -> AlertStates:
        """No entity has an open alert."""
        return AlertStates(
            is_open=np.zeros(entities, dtype=np.bool_),
            opened_slot=np.zeros(entities, dtype=np.int64),
            is_critical=np.zeros(entities, dtype=np.bool_),
            peak_score=np.zeros(entities, dtype=np.float32),
            peak_slot=np.zeros(entities, dtype=np.int64),
            closed_slot=np.full(entities, LONG_AGO, dtype=np.int64),
        )


@dataclass(frozen=True)
class Event:
    """One change of one entity's alert, decided at the end of a slot."""

    change: Change
    entity: int  # row
    slot: int  # epoch ms of the slot that decided it
    opened_slot: int
    severity: Severity
    peak_score: float
    peak_slot: int


def decide(
    states: AlertStates,
    scores: Float32,
    settled: Bool,
    slots: Int64,
    rules: Rules,
    *,
    spans: Sequence[int],
    step: int,
) -> tuple[AlertStates, list[Event]]:
    """States and events after K more slots.

    scores: (E, rules.memory + K, S) by span, the newest K belong to `slots` (K,); NaN = unknown: no change
    settled: (E, rules.memory + K) where the newest slots are ordinary, whatever the longer spans still remember
    spans: (S,) slots each score looks back over

    A slot's score is the highest of its spans, of which those that reach back to a closed alert do not count: it is
    told already. An alert opens when `open_slots` of the last `open_of` scores reach 1.0, the newest among them, or at
    once at `open_at_once`; it is dated to the first of these. It closes after `close_slots` known scores in a row that
    are below `close_below` or settled.
    """
    states = replace(states, **{name: getattr(states, name).copy() for name in AlertStates.__dataclass_fields__})
    events: list[Event] = []
    for k, slot in enumerate(slots.tolist()):
        seen = slice(k, rules.memory + k + 1)
        times = slot - step * np.arange(rules.memory, -1, -1)  # (M,)
        news = untold(scores[:, seen], states.closed_slot, times, spans=spans, step=step)
        _decide_slot(states, news, settled[:, seen], slot, rules, step, events)
    return states, events


def untold(scores: Float32, closed_slot: Int64, times: Int64, *, spans: Sequence[int], step: int) -> Float32:
    """Scores (E, M) at some slots (M,) without the spans, of (E, M, S), that reach back to a closed alert.

    closed_slot: (E,); NaN where the newest slot alone, the first span, is unknown
    """
    reach = step * np.asarray(spans, dtype=np.int64)
    is_told = times[:, None] - reach < closed_slot[:, None, None]  # (E, M, S)
    highest = np.fmax.reduce(np.where(is_told, np.float32(0.0), scores), axis=2)
    return np.where(np.isnan(scores[:, :, 0]), np.float32(np.nan), highest)


def _decide_slot(
    states: AlertStates, scores: Float32, settled: Bool, slot: int, rules: Rules, step: int, events: list[Event]
) -> None:
    newest = scores[:, -1]
    strange = scores[:, -rules.open_of :] >= THRESHOLD  # (E, n); NaN compares False
    enough = (strange.sum(axis=1) >= rules.open_slots) | (newest >= rules.open_at_once)
    opens = ~states.is_open & strange[:, -1] & enough & ~settled[:, -1]
    if opens.any():
        first = strange.shape[1] - 1 - strange[opens].argmax(axis=1)  # slots before this one
        states.is_open[opens] = True
        states.is_critical[opens] = False
        states.opened_slot[opens] = slot - step * first
        states.peak_score[opens] = 0.0

    is_peak = states.is_open & (newest > states.peak_score)
    states.peak_score[is_peak] = newest[is_peak]
    states.peak_slot[is_peak] = slot
    escalates = states.is_open & ~states.is_critical & (states.peak_score >= rules.critical_at)
    states.is_critical[escalates] = True

    recent = slice(-rules.close_slots, None)
    quiet = (scores[:, recent] < rules.close_below) | settled[:, recent]
    closes = states.is_open & ~opens & quiet.all(axis=1)
    for change, rows in ((Change.OPENED, opens), (Change.ESCALATED, escalates & ~opens), (Change.CLOSED, closes)):
        events.extend(_event(change, row, slot, states) for row in np.flatnonzero(rows).tolist())
    states.is_open[closes] = False
    states.closed_slot[closes] = slot


def _event(change: Change, row: int, slot: int, states: AlertStates) -> Event:
    return Event(
        change=change,
        entity=row,
        slot=slot,
        opened_slot=int(states.opened_slot[row]),
        severity=Severity.CRITICAL if states.is_critical[row] else Severity.WARNING,
        peak_score=float(states.peak_score[row]),
        peak_slot=int(states.peak_slot[row]),
    )
