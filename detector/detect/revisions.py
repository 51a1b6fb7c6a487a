"""Late samples and stored alerts: decides again what they changed, and makes the stored alerts the rightful ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detector.config.sections import MonitorSection
from detector.core import revise, score
from detector.core.decide import Change
from detector.core.revise import Checkpoint, Episode
from detector.core.series import Int64
from detector.detect import explanations as explaining
from detector.detect import horizon
from detector.detect import memory as remembering
from detector.detect.alerts import _closings, _news, _parts_at, decide_slots, for_decisions
from detector.detect.memory import Memory
from detector.ports import AlertChange, Store, StoredAlert


def redecided(
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
    memory = horizon.decision_rules(monitor).memory
    new = history.values.shape[1] - slots  # index of the first new slot
    usable = [c for c in before.past if history.slots[memory] <= c.slot < history.slots[new]]
    if not usable:
        return before.past, []
    earlier = [c for c in usable if c.slot <= history.slots[new - late_slots]]
    then = earlier[-1] if earlier else usable[0]
    first = (then.slot - history.start) // step
    names = [history.entities[row] for row in late.tolist()]
    by_span, settled = remembering.scores_by_span(monitor, before, history.values.shape[1] - first + memory, late)
    begin = slice(0, new - first + memory)
    again = history.slots[first:new]
    start = then.at(names)
    decided = for_decisions(monitor, model, history.values[late, :new], start.is_open, by_span[:, begin])
    states, events, checkpoints = decide_slots(monitor, names, start, decided, settled[:, begin], again)
    before.states.put(late, states)
    corrected = {point.slot: point.at(names) for point in checkpoints}
    past = tuple(c.with_states(names, corrected[c.slot]) if c.slot in corrected else c for c in before.past)

    stored: dict[str, list[StoredAlert]] = {}
    for alert in store.alerts_since(monitor.name, then.slot - step * monitor.decision.reopen_slots):
        stored.setdefault(alert.entity, []).append(alert)
    found = [
        (row, change)
        for k, (row, name) in enumerate(zip(late.tolist(), names, strict=True))
        for change in _revisions(
            name, stored.get(name, []), revise.episodes(start, events, states, k), then.slot, int(again[-1]), now
        )
    ]
    # of peaks further back there is no whole window any more, and their explanations stay
    earliest = max(history.slots[model.timesteps - 1], history.end - step * (before.errors.shape[1] - max(score.SPANS)))
    closings = _closings(start, events)
    explanations = explaining.explain(
        monitor,
        model,
        history,
        [
            (row, change.peak_slot)
            for row, change in found
            if change.peak_slot >= earliest and change.change is not Change.WITHDRAWN  # which keeps its own
        ],
        remembering.scores_of_history(before),
        lambda row, slot: _news(
            _parts_at(monitor, before, row, slot), closings(int(np.searchsorted(late, row)), slot), slot, step
        ),
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
