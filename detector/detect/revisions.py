"""Late samples and stored alerts: decides again what they changed, and makes the stored alerts the rightful ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detector.core import revise, threshold
from detector.core.decide import LONG_AGO, AlertStates, Change, Episode
from detector.core.revise import Checkpoint
from detector.core.series import Float32, Int64
from detector.detect import alerts, explanations, return_periods, scores, seen
from detector.detect.alerts import Decisions
from detector.detect.horizon import Horizon
from detector.detect.memory import Extended, Late, Memory
from detector.ports import AlertChange, Store, StoredAlert


@dataclass(frozen=True)
class Revised:
    """A memory whose scores, states and checkpoints are right again before the new slots, and what that changes."""

    memory: Memory
    changes: list[AlertChange]


def revised(horizon: Horizon, store: Store, extended: Extended, *, now: int) -> Revised:
    """Scores and decides again the committed slots that late samples changed; now: epoch milliseconds."""
    memory, late = extended.memory, extended.late
    if not late.rows.size:
        return Revised(memory, [])
    memory = return_periods.again(horizon, memory, late)
    parts = scores.scores_by_mechanism(horizon, memory, late.new + late.slots, only=late.rows)
    corrected = memory.scores.copy()
    corrected[late.rows, -late.new - late.slots : -late.new] = threshold.worst(parts[:, : late.slots])
    memory = replace(memory, scores=corrected)
    then = _checkpoint_before(horizon, memory, late)
    return Revised(memory, []) if then is None else _redecided(horizon, store, memory, late=late, then=then, now=now)


def _checkpoint_before(horizon: Horizon, memory: Memory, late: Late) -> Checkpoint | None:
    """The newest checkpoint before the changed slots, else the oldest after them; None if none can be used."""
    slots, new = memory.history.slots, memory.history.values.shape[1] - late.new  # index of the first new slot
    first = max(0, new - horizon.scores) + horizon.rules.before  # scores of as many slots can be made again
    usable = [point for point in memory.past if slots[first] <= point.slot < slots[new]]
    earlier = [point for point in usable if point.slot <= slots[new - late.slots]]
    return earlier[-1] if earlier else next(iter(usable), None)


@dataclass(frozen=True)
class _Again:
    """Decisions of the entities with late samples from a checkpoint on."""

    start: AlertStates  # (R,) at the checkpoint
    decided: Decisions  # of their R rows
    last: int  # the last slot decided, epoch milliseconds


def _decided_again(horizon: Horizon, memory: Memory, late: Late, *, then: Checkpoint) -> _Again:
    history, before = memory.history, horizon.rules.before
    slots = history.values.shape[1]
    first, new = (then.slot - history.start) // history.step, slots - late.new
    names = [history.entities[row] for row in late.rows.tolist()]
    again_from = memory.scores.shape[1] - slots + first - before
    committed = slice(0, new - first + before)
    start = then.at(names)
    values, again = history.values[late.rows, :new], history.slots[first:new]
    last = np.maximum.accumulate(np.where(np.isnan(values).all(axis=2), LONG_AGO, history.slots[:new]), axis=1)
    gone = seen.gone(horizon, last[:, first:], again)
    decided = scores.for_decisions(
        memory.scores[late.rows, again_from:][:, committed],
        horizon=horizon,
        model=memory.model,
        rows=memory.rows[late.rows],
        values=values,
        is_open=start.is_open,
        gone=gone,
    )
    found = alerts.decide_slots(horizon, start, decided, slots=again, entities=names, gone=gone)
    return _Again(start, found, int(again[-1]))


def _redecided(horizon: Horizon, store: Store, memory: Memory, *, late: Late, then: Checkpoint, now: int) -> Revised:
    names = [memory.entities[row] for row in late.rows.tolist()]
    again = _decided_again(horizon, memory, late, then=then)
    corrected = {point.slot: point.at(names) for point in again.decided.checkpoints}
    past = tuple(
        point.with_states(names, corrected[point.slot]) if point.slot in corrected else point for point in memory.past
    )
    stored: dict[str, list[StoredAlert]] = {}
    for alert in store.alerts_since(horizon.monitor, then.slot - horizon.step * horizon.rules.reopen_slots):
        stored.setdefault(alert.entity, []).append(alert)
    found = [
        (row, change)
        for k, (row, name) in enumerate(zip(late.rows.tolist(), names, strict=True))
        for change in _revisions(
            name,
            stored.get(name, []),
            revise.episodes(again.start, again.decided.events, again.decided.states, row=k),
            since=then.slot,
            last=again.last,
            now=now,
        )
    ]
    changes = _explained(horizon, memory, found, again=again, rows=late.rows)
    order = {Change.WITHDRAWN: 0, Change.CLOSED: 1}  # an entity has one open alert at most, at any time
    changes.sort(key=lambda change: order.get(change.change or Change.REVISED, 2))
    states = memory.states.with_rows(late.rows, again.decided.states)
    return Revised(replace(memory, states=states, past=past), changes)


def _explained(
    horizon: Horizon, memory: Memory, found: Sequence[tuple[int, AlertChange]], *, again: _Again, rows: Int64
) -> list[AlertChange]:
    """Changes of rows with explanations of their peaks; a withdrawn alert keeps its own. rows: (R,) decided again."""
    history, step = memory.history, horizon.step
    # of peaks further back there is no whole window any more, and their explanations stay
    first_window = history.slots[memory.model.timesteps - 1]
    earliest = max(first_window, history.end - step * memory.return_periods.shape[1])

    def parts(row: int, slot: int) -> Float32:
        slots = (history.end - slot) // step
        return np.asarray(scores.scores_by_mechanism(horizon, memory, slots, only=np.array([row]))[0, 0])

    wanted = [
        (row, change.episode.peak_slot)
        for row, change in found
        if change.episode.peak_slot >= earliest and change.change is not Change.WITHDRAWN
    ]
    explained = explanations.explain(horizon, memory, wanted, parts=parts)
    return [replace(change, explanation=explained.get((row, change.episode.peak_slot))) for row, change in found]


def _revisions(
    entity: str, stored: Sequence[StoredAlert], rightful: Sequence[Episode], *, since: int, last: int, now: int
) -> list[AlertChange]:
    """Changes that make the stored alerts of an entity the rightful ones.

    since: slot before which nothing has changed; last: the last slot decided; both in epoch milliseconds
    """

    def revision(change: Change, episode: Episode, alert: int | None) -> AlertChange:
        slot = last if episode.closed_slot is None else episode.closed_slot
        return AlertChange(change, entity, slot, episode, detected_at=now, explanation=None, alert=alert)

    changes = []
    for index, episode in revise.match([alert.episode for alert in stored], rightful):
        identity = None if index is None else stored[index].id
        if index is None or episode is None:
            lone, change = (episode, Change.OPENED) if index is None else (stored[index].episode, Change.WITHDRAWN)
            if lone is not None and (lone.closed_slot is None or lone.closed_slot >= since):
                changes.append(revision(change, lone, identity))
        elif (differs := revise.change(stored[index].episode, episode)) is not None:
            changes.append(revision(differs, episode, identity))
    return changes
