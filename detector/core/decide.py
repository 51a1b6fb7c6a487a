"""Scores to alerts: k of n slots to open, hysteresis to close, reopened instead of opened anew soon after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    REOPENED = "reopened"
    ESCALATED = "escalated"
    CLOSED = "closed"
    # not decided by scores alone
    REVISED = "revised"  # late samples changed what it says
    WITHDRAWN = "withdrawn"  # late samples left nothing of it
    ACKNOWLEDGED = "acknowledged"
    UNMUTED = "unmuted"  # the exclusion that silenced it has ended


class Ended(StrEnum):
    """Why an alert closed."""

    NORMAL = "normal"
    UNKNOWN = "unknown"  # nothing was known of its entity for too long


@dataclass(frozen=True)
class Rules:
    """When an alert opens, escalates and closes; all levels are scores, all counts are slots."""

    open_slots: int
    open_of: int
    open_at_once: float
    close_below: float
    close_slots: int
    close_unknown_slots: int  # an open alert whose entity was unknown for so long closes
    critical_at: float
    critical_slots: int  # an alert open for so long is critical whatever its peak
    reopen_slots: int  # so soon after it closed, an alert opens again instead of a new one
    flapping_reopenings: int  # one that opened again so often is flapping, and …
    flapping_slots: int  # … closes after so many quiet slots, if these are more than `close_slots`

    @property
    def memory(self) -> int:
        """Scores before the first slot that a decision looks at."""
        return self.open_of - 1

    @property
    def reach(self) -> int:
        """Scores that tell for how long an open alert has been quiet or unknown."""
        return max(self.close_slots, self.flapping_slots, self.close_unknown_slots)


@dataclass(frozen=True)
class AlertStates:
    """The open alert of each entity, if any, or its last one, as columns over entities. Slots in epoch milliseconds."""

    is_open: Bool  # (E,)
    opened_slot: Int64  # (E,) the first strange slot
    decided_slot: Int64  # (E,) the slot that opened it
    is_critical: Bool  # (E,)
    peak_score: Float32  # (E,)
    peak_slot: Int64  # (E,)
    reopenings: Int64  # (E,) how often it was opened again
    restless_slot: (
        Int64  # (E,) the last slot that was not quiet, of an open alert, moved on by every unknown one after it
    )
    known_slot: Int64  # (E,) the last slot with a known score, of an open alert
    closed_slot: Int64  # (E,) the slot that closed the last alert; long ago if there was none

    @staticmethod
    def none_open(entities: int) -> AlertStates:
        """No entity has an open alert."""
        return AlertStates(
            is_open=np.zeros(entities, dtype=np.bool_),
            opened_slot=np.zeros(entities, dtype=np.int64),
            decided_slot=np.zeros(entities, dtype=np.int64),
            is_critical=np.zeros(entities, dtype=np.bool_),
            peak_score=np.zeros(entities, dtype=np.float32),
            peak_slot=np.zeros(entities, dtype=np.int64),
            reopenings=np.zeros(entities, dtype=np.int64),
            restless_slot=np.zeros(entities, dtype=np.int64),
            known_slot=np.zeros(entities, dtype=np.int64),
            closed_slot=np.full(entities, LONG_AGO, dtype=np.int64),
        )

    def copy(self) -> AlertStates:
        """Columns of their own, to write into."""
        return self.rows(slice(None))

    def rows(self, rows: Int64 | slice) -> AlertStates:
        """A copy of some entities' columns."""
        return AlertStates(**{name: getattr(self, name)[rows].copy() for name in AlertStates.__dataclass_fields__})

    def put(self, rows: Int64 | Bool, states: AlertStates) -> None:
        """Writes the columns of some entities in place."""
        for name in AlertStates.__dataclass_fields__:
            getattr(self, name)[rows] = getattr(states, name)


@dataclass(frozen=True)
class Event:
    """One change of one entity's alert, decided at the end of a slot."""

    change: Change
    entity: int  # row
    slot: int  # epoch ms of the slot that decided it
    opened_slot: int
    decided_slot: int
    severity: Severity
    peak_score: float
    peak_slot: int
    reopenings: int
    ended: Ended | None = None  # why it closed


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
    once at `open_at_once`; it is dated to the first of these. It closes after `close_slots` known scores that are below
    `close_below` or settled, with none between them that is not, or when nothing was known for `close_unknown_slots`.
    Within `reopen_slots` of its closing it opens again in place of a new one; one that does so too often closes after
    `flapping_slots`.
    """
    states = states.copy()
    events: list[Event] = []
    for k, slot in enumerate(slots.tolist()):
        seen = slice(k, rules.memory + k + 1)
        times = slot - step * np.arange(rules.memory, -1, -1)  # (M,)
        news = untold(scores[:, seen], states.closed_slot, times, spans=spans, step=step)
        _decide_slot(states, news, settled[:, seen], slot, rules, step, events)
    return states, events


def told(closed_slot: Int64, times: Int64, *, spans: Sequence[int], step: int) -> Bool:
    """Which spans at some slots (M,) reach back to the alert that closed last, (E, M, S); closed_slot: (E,)."""
    reach = step * np.asarray(spans, dtype=np.int64)
    return np.asarray(times[:, None] - reach < closed_slot[:, None, None])


def untold(scores: Float32, closed_slot: Int64, times: Int64, *, spans: Sequence[int], step: int) -> Float32:
    """Scores (E, M) at some slots (M,) without the spans, of (E, M, S), that reach back to a closed alert.

    closed_slot: (E,); NaN where the newest slot alone, the first span, is unknown
    """
    is_told = told(closed_slot, times, spans=spans, step=step)
    highest = np.fmax.reduce(np.where(is_told, np.float32(0.0), scores), axis=2)
    return np.where(np.isnan(scores[:, :, 0]), np.float32(np.nan), highest)


def _decide_slot(
    states: AlertStates, scores: Float32, settled: Bool, slot: int, rules: Rules, step: int, events: list[Event]
) -> None:
    newest, is_settled = scores[:, -1], settled[:, -1]
    is_known = ~np.isnan(newest)
    strange = scores[:, -rules.open_of :] >= THRESHOLD  # (E, n); NaN compares False
    enough = (strange.sum(axis=1) >= rules.open_slots) | (newest >= rules.open_at_once)
    begins = ~states.is_open & strange[:, -1] & enough & ~is_settled
    reopens = begins & (states.closed_slot >= slot - step * rules.reopen_slots)
    opens = begins & ~reopens
    if opens.any():
        first = strange.shape[1] - 1 - strange[opens].argmax(axis=1)  # slots before this one
        states.is_critical[opens] = False
        states.opened_slot[opens] = slot - step * first
        states.decided_slot[opens] = slot
        states.peak_score[opens] = 0.0
        states.reopenings[opens] = 0
    states.is_open[begins] = True
    states.reopenings[reopens] += 1

    is_peak = states.is_open & (newest > states.peak_score)
    states.peak_score[is_peak] = newest[is_peak]
    states.peak_slot[is_peak] = slot
    is_bad = (states.peak_score >= rules.critical_at) | (slot - states.opened_slot >= step * rules.critical_slots)
    escalates = states.is_open & ~states.is_critical & is_bad
    states.is_critical[escalates] = True

    is_quiet = (newest < rules.close_below) | is_settled
    states.restless_slot[(is_known & ~is_quiet) | begins] = slot
    states.restless_slot[~is_known & ~begins] += step  # what is unknown is neither quiet nor not
    states.known_slot[is_known | begins] = slot
    is_flapping = states.reopenings >= rules.flapping_reopenings
    needed = np.where(is_flapping, max(rules.flapping_slots, rules.close_slots), rules.close_slots)
    rests = states.is_open & (slot - states.restless_slot >= step * needed)
    vanishes = states.is_open & ~rests & (slot - states.known_slot >= step * rules.close_unknown_slots)
    for change, rows, ended in (
        (Change.OPENED, opens, None),
        (Change.REOPENED, reopens, None),
        (Change.ESCALATED, escalates & ~opens, None),
        (Change.CLOSED, rests, Ended.NORMAL),
        (Change.CLOSED, vanishes, Ended.UNKNOWN),
    ):
        events.extend(_event(change, row, slot, states, ended) for row in np.flatnonzero(rows).tolist())
    closes = rests | vanishes
    states.is_open[closes] = False
    states.closed_slot[closes] = slot


def _event(change: Change, row: int, slot: int, states: AlertStates, ended: Ended | None) -> Event:
    return Event(
        change=change,
        entity=row,
        slot=slot,
        opened_slot=int(states.opened_slot[row]),
        decided_slot=int(states.decided_slot[row]),
        severity=Severity.CRITICAL if states.is_critical[row] else Severity.WARNING,
        peak_score=float(states.peak_score[row]),
        peak_slot=int(states.peak_slot[row]),
        reopenings=int(states.reopenings[row]),
        ended=ended,
    )
