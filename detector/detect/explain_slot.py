"""One entity at one time as the live model sees it, and why there was an alert or none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detector.core import grid, threshold
from detector.core.decide import THRESHOLD
from detector.core.rejects import Reject
from detector.core.series import Reason, Samples
from detector.detect import checkpoints, exclusions, explanations, recall, scores
from detector.detect.history import gridded
from detector.detect.horizon import Horizon
from detector.detect.memory import Memory
from detector.detect.packed import pack
from detector.detect.recall import Stored
from detector.errors import ModelError
from detector.ports import Exclusion, ModelVersion, Precedent, Source, StoredExperience


@dataclass(frozen=True)
class Answer:
    """One slot of one entity; times in epoch milliseconds."""

    entity: str
    slot: int
    score: float | None
    reason: str | None  # why the score is unknown
    recent: list[float | None]  # the scores an alert opens on, the newest last
    explanation: dict[str, Any]  # as stored with alerts
    why: list[str]  # sentences: why there was an alert or none


@dataclass(frozen=True)
class PastAlert:
    """An alert of the entity; slots in epoch milliseconds."""

    id: int
    opened_slot: int
    closed_slot: int | None


class OnlyEntity:
    """The samples of one entity of a source."""

    def __init__(self, source: Source, entity: str) -> None:
        self._source, self._entity = source, entity

    def read(self, start: int, end: int) -> Samples:
        samples = self._source.read(start, end)
        if self._entity not in samples.entities:
            return replace(samples, entities=(), **{name: getattr(samples, name)[:0] for name in _COLUMNS})
        mine = samples.entity == samples.entities.index(self._entity)
        columns = {name: getattr(samples, name)[mine] for name in _COLUMNS}
        return replace(samples, entities=(self._entity,), **columns | {"entity": 0 * columns["entity"]})

    def extent(self, now: int) -> tuple[int, int] | None:
        return self._source.extent(now)

    def rejects(self, now: int) -> tuple[Reject, ...]:
        return self._source.rejects(now)


_COLUMNS = ("entity", "metric", "time", "value")


class NoDataOfEntity(ModelError):
    """There is nothing to explain."""


def explain_slot(
    horizon: Horizon,
    source: Source,
    model: ModelVersion,
    *,
    entity: str,
    at: int,
    excluded: Sequence[Exclusion],
    past: Sequence[PastAlert],
    remembered: Sequence[StoredExperience],
    precedents: Sequence[Precedent] = (),
) -> Answer:
    """The slot that holds a time (epoch milliseconds), judged by the model.

    past: the entity's alerts; remembered: what entities have shown, the newest first; precedents: alerts that people
    have judged

    Raises: SourceError; ModelError if the source has nothing of the entity before that time.
    """
    step, rules = horizon.step, horizon.rules
    slot = grid.floor(at, step)
    end = slot + step
    mine = tuple(filter(None, (checkpoints.of_entity(one, entity) for one in remembered)))
    stored = Stored(end, remembered=mine, precedents=precedents)
    only = OnlyEntity(source, entity)
    memory = recall.recall(horizon, only, model, stored=stored, now=end + horizon.delay, scored=1)
    if entity not in memory.entities or np.isnan(memory.history.values).all():
        slots = memory.history.values.shape[1]
        msg = f"monitor {horizon.monitor!r} has no data of entity {entity!r} in the {slots} slots before that time"
        raise NoDataOfEntity(msg)
    row = memory.entities.index(entity)
    parts = scores.scores_by_mechanism(horizon, memory, rules.open_of, only=np.array([row]))[0]  # (n, M)
    recent = [None if np.isnan(value) else float(value) for value in threshold.worst(parts).tolist()]
    explained = explanations.explain(horizon, memory, [(row, slot)], parts=lambda _row, _slot: parts[-1])
    answer = Answer(
        entity=entity,
        slot=slot,
        score=recent[-1],
        reason=Reason(int(memory.snapshot.reason[row])).label if recent[-1] is None else None,
        recent=recent,
        explanation=json.loads(explained[row, slot]),
        why=[],
    )
    why = [*_of_alerts(past, slot), *_of_score(horizon, answer)]
    share = explanations.shares(json.dumps(answer.explanation))
    if exclusions.mutes(excluded, entity, share=share, at=slot):
        why.append("an exclusion mutes it; see: detector exclude list")
    return replace(answer, why=why)


def newest(horizon: Horizon, memory: Memory, entity: str) -> dict[str, Any] | None:
    """The explanation of an entity's newest slot in memory, as stored with alerts; None if nothing of it is known."""
    if entity not in memory.entities:
        return None
    return next(iter(newest_of(horizon, memory, [memory.entities.index(entity)]).values()), None)


def newest_of(horizon: Horizon, memory: Memory, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The explanations of the newest slot of some entities' rows, by row; without those that nothing is known of."""
    history = memory.history
    known = [row for row in rows if history.values.shape[1] and not np.isnan(history.values[row, -1]).all()]
    if not known:
        return {}
    parts = scores.scores_by_mechanism(horizon, memory, 1, only=np.array(known))[:, -1]  # (R, M)
    of, slot = dict(zip(known, parts, strict=True)), int(history.slots[-1])
    explained = explanations.explain(horizon, memory, [(row, slot) for row in known], parts=lambda row, _slot: of[row])
    return {row: json.loads(explained[row, slot]) for row in known}


def observed(horizon: Horizon, source: Source, entity: str, now: int) -> dict[str, Any] | None:
    """The newest window of an entity as explanations give it, without a model: nothing is expected, no share known.

    None if the source has nothing of it; now: epoch milliseconds. Raises: SourceError.
    """
    end = grid.complete_until(now, horizon.step, horizon.delay)
    start = end - horizon.timesteps * horizon.step
    samples = OnlyEntity(source, entity).read(start, end)
    if not samples.entities:
        return None
    values = gridded(horizon, samples, (entity,), start=start, slots=horizon.timesteps)[0]
    metrics = list(horizon.metrics)
    unknown = pack(np.full_like(values, np.nan))
    window = {"start": start, "step": horizon.step, "metrics": metrics, "values": pack(values)}
    return {
        "metrics": [
            {"metric": name, "share": None, "observed": None if np.isnan(value) else float(value)}
            for name, value in zip(metrics, values[-1], strict=True)
        ],
        "window": window | {"named": metrics, "expected": unknown, "band": unknown},
    }


def _of_alerts(past: Sequence[PastAlert], slot: int) -> Iterator[str]:
    for alert in past:
        if alert.opened_slot <= slot and (alert.closed_slot is None or slot <= alert.closed_slot):
            yield f"alert {alert.id} was open"


def _of_score(horizon: Horizon, answer: Answer) -> Iterator[str]:
    rules = horizon.rules
    if answer.score is None:
        yield f"unknown ({answer.reason}): {_UNKNOWN[answer.reason or '']}"
    elif answer.score < THRESHOLD:
        yield f"the score {answer.score:.2f} is below the threshold of {THRESHOLD:g}"
    else:
        reached = sum(value is not None and value >= THRESHOLD for value in answer.recent)
        needed = f"{rules.open_slots} of {rules.open_of} open an alert, or one of {rules.score_at_once:g}"
        yield f"{reached} of the last {rules.open_of} scores reach the threshold; {needed}"


_UNKNOWN = {
    Reason.NO_DATA.label: "nothing in the newest slot",
    Reason.GAP.label: "too much of the window is missing",
    Reason.WARMING_UP.label: "its window is not full yet",
    Reason.NO_MODEL.label: "there is no model that knows it",
    Reason.NO_METRIC.label: "a metric it was trained with is missing, and the others alone look normal",
    Reason.STALE_DATA.label: "the whole source has stopped",
}
