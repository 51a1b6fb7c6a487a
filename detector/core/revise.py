"""Late samples and alerts: states as they were, episodes as they should have been, and what that changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detector.core.decide import LONG_AGO, AlertStates, Change, Event, Severity


@dataclass(frozen=True)
class Checkpoint:
    """The states of alerts after all slots before `slot`, of those entities that have had one lately."""

    slot: int  # epoch milliseconds
    rows: dict[str, int]
    states: AlertStates  # (A,)

    @staticmethod
    def of(slot: int, entities: Sequence[str], states: AlertStates, since: int) -> Checkpoint:
        """Keeps the states (E,) of those whose alert is open or closed at `since` or later."""
        kept = np.flatnonzero(states.is_open | (states.closed_slot >= since))
        return Checkpoint(slot, {entities[row]: k for k, row in enumerate(kept.tolist())}, states.rows(kept))

    def at(self, entities: Sequence[str]) -> AlertStates:
        """The states of some entities, (len(entities),)."""
        states = AlertStates.none_open(len(entities))
        rows = np.array([self.rows.get(name, -1) for name in entities], dtype=np.int64)
        known = rows >= 0
        states.put(known, self.states.rows(rows[known]))
        return states

    def with_states(self, entities: Sequence[str], states: AlertStates) -> Checkpoint:
        """The same with other states (len(entities),) of some entities."""
        others = list(self.rows.keys() - set(entities))
        merged = AlertStates.none_open(len(others) + len(entities))
        merged.put(np.arange(len(others)), self.at(others))
        merged.put(np.arange(len(others), len(others) + len(entities)), states)
        return Checkpoint.of(self.slot, [*others, *entities], merged, LONG_AGO + 1)


@dataclass(frozen=True)
class Episode:
    """An alert as scores say it is, or as it is stored. Slots in epoch milliseconds."""

    opened_slot: int
    decided_slot: int
    severity: Severity
    peak_score: float
    peak_slot: int
    reopenings: int
    closed_slot: int | None = None  # None: it goes on

    def overlaps(self, other: Episode) -> bool:
        """Whether some slot is in both."""
        begins = max(self.opened_slot, other.opened_slot)
        return all(begins <= end for end in (self.closed_slot, other.closed_slot) if end is not None)


def episodes(before: AlertStates, events: Sequence[Event], after: AlertStates, row: int) -> list[Episode]:
    """The last episode of one entity before some slots, if there was one, and all that began in them, in order.

    before, after: (E,) states before and after those slots; events: what was decided in them
    """
    found = [_episode(before, row)] if before.is_open[row] or before.closed_slot[row] > LONG_AGO else []
    for event in events:
        if event.entity == row:
            closed = event.slot if event.change is Change.CLOSED else None
            episode = Episode(
                event.opened_slot,
                event.decided_slot,
                event.severity,
                event.peak_score,
                event.peak_slot,
                event.reopenings,
                closed,
            )
            if event.change is Change.OPENED:
                found.append(episode)
            else:
                found[-1] = episode
    if after.is_open[row]:
        found[-1] = _episode(after, row)
    return found


def _episode(states: AlertStates, row: int) -> Episode:
    return Episode(
        opened_slot=int(states.opened_slot[row]),
        decided_slot=int(states.decided_slot[row]),
        severity=Severity.CRITICAL if states.is_critical[row] else Severity.WARNING,
        peak_score=float(states.peak_score[row]),
        peak_slot=int(states.peak_slot[row]),
        reopenings=int(states.reopenings[row]),
        closed_slot=None if states.is_open[row] else int(states.closed_slot[row]),
    )


def match(stored: Sequence[Episode], rightful: Sequence[Episode]) -> list[tuple[int | None, Episode | None]]:
    """Pairs what is stored with what should be, by overlap and in order: (index of the stored one, rightful one).

    A stored one without a partner should not be there (None), and neither is a rightful one without (index None) yet.
    """
    left = list(range(len(stored)))
    pairs: list[tuple[int | None, Episode | None]] = []
    for episode in rightful:
        same = [i for i in left if stored[i].decided_slot == episode.decided_slot]
        found = next(iter(same or [i for i in left if stored[i].overlaps(episode)]), None)
        if found is not None:
            left.remove(found)
        pairs.append((found, episode))
    return [*((i, None) for i in left), *pairs]


def change(stored: Episode, rightful: Episode) -> Change | None:
    """What happened to a stored alert that should be another one; None if it is the same."""
    if stored.closed_slot is None and rightful.closed_slot is not None:
        return Change.CLOSED
    if stored.closed_slot is not None and rightful.closed_slot is None:
        return Change.REOPENED
    if stored.severity is Severity.WARNING and rightful.severity is Severity.CRITICAL:
        return Change.ESCALATED
    # a score stored in the database may differ in its last bits from the one computed
    same_peak = abs(stored.peak_score - rightful.peak_score) <= 1e-3 * rightful.peak_score
    is_same = same_peak and replace(stored, peak_score=0.0) == replace(rightful, peak_score=0.0)
    return None if is_same else Change.REVISED
