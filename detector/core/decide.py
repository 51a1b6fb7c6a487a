"""Scores to alerts: k of n slots to open, hysteresis to close, reopened instead of opened anew soon after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.series import Bool, Float32, Int64, read_only

THRESHOLD = 1.0

LONG_AGO = -(1 << 62)
"""Epoch milliseconds before any data."""


class Severity(StrEnum):
    """Severity of an alert."""

    WARNING = "warning"
    CRITICAL = "critical"


class Change(StrEnum):
    """Change of an alert: the kind of an event."""

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
    """Reason an alert closed."""

    NORMAL = "normal"
    UNKNOWN = "unknown"  # nothing was known of its entity for too long
    GONE = "gone"  # its entity has had no row for so long that nobody expects one


@dataclass(frozen=True)
class Rules:
    """Rules by which an alert opens, escalates and closes; all levels are scores, all counts are slots."""

    open_slots: int
    open_of: int
    score_at_once: float
    score_calm: float  # below, a slot counts towards closing
    close_slots: int
    close_unknown_slots: int  # an open alert whose entity was unknown for so long closes
    score_critical: float
    critical_slots: int  # an alert open for so long is critical whatever its peak
    reopen_slots: int  # so soon after it closed, an alert opens again instead of a new one
    flapping_reopenings: int  # one that opened again so often is flapping, and …
    flapping_slots: int  # … closes after so many calm slots, if these are more than `close_slots`

    @property
    def before(self) -> int:
        """Slots before the first one decided that the decision looks at."""
        return self.open_of - 1

    @property
    def reach(self) -> int:
        """Newest slots that decide for how long an open alert has been calm or unknown."""
        return max(self.close_slots, self.flapping_slots, self.close_unknown_slots)


@dataclass(frozen=True)
class Episode:
    """An alert as scores make it. Slots in epoch milliseconds."""

    opened_slot: int  # the first slot that reached the threshold
    decided_slot: int  # the slot that opened it
    severity: Severity
    peak_score: float
    peak_slot: int
    reopenings: int = 0  # how often it was opened again
    closed_slot: int | None = None  # None: it goes on

    def overlaps(self, other: Episode) -> bool:
        """Whether some slot is in both."""
        begins = max(self.opened_slot, other.opened_slot)
        return all(begins <= end for end in (self.closed_slot, other.closed_slot) if end is not None)


@dataclass(frozen=True, slots=True)
class AlertStates:
    """The open alert of each entity, if any, or its last one, as read-only columns. Slots in epoch milliseconds."""

    is_open: Bool  # (E,)
    opened_slot: Int64  # (E,)
    decided_slot: Int64  # (E,)
    is_critical: Bool  # (E,)
    peak_score: Float32  # (E,)
    peak_slot: Int64  # (E,)
    reopenings: Int64  # (E,)
    active_slot: Int64  # (E,) the last active slot of an open alert, moved on by every unknown slot after it
    known_slot: Int64  # (E,) the last slot with a known score of an open alert
    closed_slot: Int64  # (E,) the slot that closed the last alert; LONG_AGO if there was none

    def __post_init__(self) -> None:
        for name in self.__slots__:
            read_only(getattr(self, name))

    @staticmethod
    def none_open(entities: int) -> AlertStates:
        """No entity has an open alert."""
        no, zero = np.zeros(entities, dtype=np.bool_), np.zeros(entities, dtype=np.int64)
        return AlertStates(
            is_open=no,
            opened_slot=zero,
            decided_slot=zero,
            is_critical=no,
            peak_score=np.zeros(entities, dtype=np.float32),
            peak_slot=zero,
            reopenings=zero,
            active_slot=zero,
            known_slot=zero,
            closed_slot=np.full(entities, LONG_AGO, dtype=np.int64),
        )

    def rows(self, rows: Int64 | Bool) -> AlertStates:
        """The columns (R,) of some entities."""
        return AlertStates(**{column.name: getattr(self, column.name)[rows] for column in fields(self)})

    def with_rows(self, rows: Int64 | Bool, states: AlertStates) -> AlertStates:
        """The same states with those of some entities (R,) replaced."""
        columns = self.columns()
        for name, values in columns.items():
            values[rows] = getattr(states, name)
        return AlertStates(**columns)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Copies of all columns, (E,) each, to write into and make other states of."""
        return {column.name: getattr(self, column.name).copy() for column in fields(self)}

    def episode(self, row: int) -> Episode:
        """The open alert of one entity, or its last one."""
        return Episode(
            opened_slot=int(self.opened_slot[row]),
            decided_slot=int(self.decided_slot[row]),
            severity=Severity.CRITICAL if self.is_critical[row] else Severity.WARNING,
            peak_score=float(self.peak_score[row]),
            peak_slot=int(self.peak_slot[row]),
            reopenings=int(self.reopenings[row]),
            closed_slot=None if self.is_open[row] else int(self.closed_slot[row]),
        )


@dataclass(frozen=True)
class Event:
    """One change of one entity's alert, decided at the end of a slot."""

    change: Change
    entity: int  # row
    slot: int  # epoch milliseconds of the slot that decided it
    episode: Episode  # as it was after the change
    ended: Ended | None = None  # why it closed


def decide(
    states: AlertStates,
    scores: Float32,
    *,
    slots: Int64,
    rules: Rules,
    step: int,
    gone: Bool | None = None,
) -> tuple[AlertStates, list[Event]]:
    """States and events after K more slots.

    scores: (E, rules.before + K), the newest K belong to `slots` (K,); NaN = unknown: no change
    gone: (E, K) the entity is not expected back [none is]

    An alert opens when `open_slots` of the last `open_of` scores reach 1.0, the newest among them, or at once at
    `score_at_once`; it is dated to the first of these. A known slot is calm if its score is below `score_calm`, else
    active. The alert closes after `close_slots` calm slots without an active one between them, or when nothing was
    known for `close_unknown_slots`, or when its entity is gone. Within `reopen_slots` of its closing it opens again in
    place of a new one; one that does so too often closes after `flapping_slots`.
    """
    events: list[Event] = []
    for k, slot in enumerate(slots.tolist()):
        recent = scores[:, k : rules.before + k + 1]
        states, decided = _decide_slot(states, recent, slot=slot, rules=rules, step=step)
        events += decided
        if gone is not None and (states.is_open & gone[:, k]).any():
            states, decided = _closed(states, states.is_open & gone[:, k], slot)
            events += decided
    return states, events


def _decide_slot(
    states: AlertStates, scores: Float32, *, slot: int, rules: Rules, step: int
) -> tuple[AlertStates, list[Event]]:
    """States and events after one more slot; scores: (E, n), the newest last."""
    newest = scores[:, -1]
    is_known = ~np.isnan(newest)
    begins, first = _beginnings(states, scores, slot=slot, rules=rules, step=step)
    reopens = begins & (states.closed_slot >= slot - step * rules.reopen_slots)
    opens = begins & ~reopens
    is_open = states.is_open | begins
    opened_slot = np.where(opens, slot - step * first, states.opened_slot)
    reopenings = np.where(opens, 0, states.reopenings + reopens)

    peak = np.where(opens, np.float32(0.0), states.peak_score)
    is_peak = is_open & (newest > peak)
    peak = np.where(is_peak, newest, peak)
    was_critical = states.is_critical & ~opens
    is_bad = (peak >= rules.score_critical) | (slot - opened_slot >= step * rules.critical_slots)
    escalates = is_open & ~was_critical & is_bad

    is_active = is_known & (newest >= rules.score_calm)
    unknown_for = np.where(is_known, 0, step)  # an unknown slot is neither calm nor active
    active_slot = np.where(is_active | begins, slot, states.active_slot + unknown_for)
    known_slot = np.where(is_known | begins, slot, states.known_slot)
    is_flapping = reopenings >= rules.flapping_reopenings
    needed = np.where(is_flapping, max(rules.flapping_slots, rules.close_slots), rules.close_slots)
    is_over = is_open & (slot - active_slot >= step * needed)
    is_lost = is_open & ~is_over & (slot - known_slot >= step * rules.close_unknown_slots)

    after = AlertStates(
        is_open=is_open & ~is_over & ~is_lost,
        opened_slot=opened_slot,
        decided_slot=np.where(opens, slot, states.decided_slot),
        is_critical=was_critical | escalates,
        peak_score=peak,
        peak_slot=np.where(is_peak, slot, states.peak_slot),
        reopenings=reopenings,
        active_slot=active_slot,
        known_slot=known_slot,
        closed_slot=np.where(is_over | is_lost, slot, states.closed_slot),
    )
    kinds = (
        (Change.OPENED, opens, None),
        (Change.REOPENED, reopens, None),
        (Change.ESCALATED, escalates & ~opens, None),
        (Change.CLOSED, is_over, Ended.NORMAL),
        (Change.CLOSED, is_lost, Ended.UNKNOWN),
    )
    return after, [event for kind in kinds for event in _events(after, slot, kind)]


def _closed(states: AlertStates, is_gone: Bool, slot: int) -> tuple[AlertStates, list[Event]]:
    """States and events after the alerts of entities that are gone (E,) have closed at a slot."""
    after = replace(states, is_open=states.is_open & ~is_gone, closed_slot=np.where(is_gone, slot, states.closed_slot))
    return after, list(_events(after, slot, (Change.CLOSED, is_gone, Ended.GONE)))


def _beginnings(states: AlertStates, scores: Float32, *, slot: int, rules: Rules, step: int) -> tuple[Bool, Int64]:
    """Entities whose alert opens or reopens with the newest score, and the slots since their first high one, (E,).

    Scores of an alert that has closed do not open the next one.
    """
    newest, slots = scores[:, -1], slot - step * np.arange(rules.open_of - 1, -1, -1)
    reaches = scores[:, -rules.open_of :] >= THRESHOLD  # (E, n); NaN compares False
    reaches &= slots > states.closed_slot[:, None]
    enough = (reaches.sum(axis=1) >= rules.open_slots) | (newest >= rules.score_at_once)
    return ~states.is_open & reaches[:, -1] & enough, reaches.shape[1] - 1 - reaches.argmax(axis=1)


def _events(after: AlertStates, slot: int, kind: tuple[Change, Bool, Ended | None]) -> Iterator[Event]:
    """Events of one kind; one that opens or escalates shows its episode as not closed, even if it closes at once."""
    change, rows, ended = kind
    for row in np.flatnonzero(rows).tolist():
        episode = after.episode(row)
        yield Event(change, row, slot, episode if ended else replace(episode, closed_slot=None), ended)
