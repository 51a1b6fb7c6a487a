"""Late samples and alerts: states as they were, episodes as they should have been, and what that changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detector.core.decide import LONG_AGO, AlertStates, Change, Episode, Event, Severity


@dataclass(frozen=True)
class Checkpoint:
    """The states of alerts after all slots before `slot`, of those entities that have had one lately."""

    slot: int  # epoch milliseconds
    rows: dict[str, int]
    states: AlertStates  # (A,)

    @staticmethod
    def of(slot: int, entities: Sequence[str], states: AlertStates, *, since: int) -> Checkpoint:
        """Keeps the states (E,) of those whose alert is open or closed at `since` or later."""
        kept = np.flatnonzero(states.is_open | (states.closed_slot >= since))
        return Checkpoint(slot, {entities[row]: k for k, row in enumerate(kept.tolist())}, states.rows(kept))

    def at(self, entities: Sequence[str]) -> AlertStates:
        """The states of some entities, (len(entities),)."""
        rows = np.array([self.rows.get(name, -1) for name in entities], dtype=np.int64)
        known = rows >= 0
        return AlertStates.none_open(len(entities)).with_rows(known, self.states.rows(rows[known]))

    def with_states(self, entities: Sequence[str], states: AlertStates) -> Checkpoint:
        """The same with other states (len(entities),) of some entities."""
        changed = set(entities)
        others = [name for name in self.rows if name not in changed]
        names = [*others, *entities]
        merged = AlertStates.none_open(len(names)).with_rows(np.arange(len(others)), self.at(others))
        merged = merged.with_rows(np.arange(len(others), len(names)), states)
        return Checkpoint.of(self.slot, names, merged, since=LONG_AGO + 1)


def episodes(before: AlertStates, events: Sequence[Event], after: AlertStates, *, row: int) -> list[Episode]:
    """The last episode of one entity before some slots, if there was one, and all that began in them, in order.

    before, after: (E,) states before and after those slots; events: what was decided in them
    """
    found = [before.episode(row)] if before.is_open[row] or before.closed_slot[row] > LONG_AGO else []
    for event in events:
        if event.entity == row and event.change is Change.OPENED:
            found.append(event.episode)
        elif event.entity == row:
            found[-1] = event.episode
    if after.is_open[row]:
        found[-1] = after.episode(row)
    return found


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
    """The change that makes a stored episode the rightful one; None if they are the same."""
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
