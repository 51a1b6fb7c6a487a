"""What the daemon makes of one entity at one time, whether or not there was an alert, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detector.config.sections import MonitorSection
from detector.core import decide, grid, score
from detector.core.decide import LONG_AGO
from detector.core.series import Reason, Samples
from detector.detect import exclusions, horizon, recall
from detector.detect import explanations as explaining
from detector.detect import memory as remembering
from detector.errors import ModelError
from detector.ports import Commit, Exclusion, ModelVersion, Source, StoredAlert
from detector.times import milliseconds

_SHORT = 1  # of the spans, the one that tells whether an episode goes on


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


class _At:
    """A store whose cursor stands at a time, so that everything before it is recalled; nothing is ever written."""

    def __init__(self, cursor: int) -> None:
        self._cursor = cursor

    def cursor(self, monitor: str) -> int | None:
        return self._cursor

    def alerts_since(self, monitor: str, slot: int) -> list[StoredAlert]:
        return []

    def exclusions(self, monitor: str) -> list[Exclusion]:
        return []

    def commit(self, commit: Commit) -> None:
        raise NotImplementedError


class _Only:
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

    def extent(self) -> tuple[int, int] | None:
        return self._source.extent()


_COLUMNS = ("entity", "metric", "time", "value")


def look(
    monitor: MonitorSection,
    source: Source,
    model: ModelVersion,
    entity: str,
    at: int,
    *,
    excluded: Sequence[Exclusion],
    alerts: Sequence[tuple[int, int, int | None]],
) -> Answer:
    """The slot that holds a time, judged by the model.

    alerts: (id, opened slot, closed slot) of the entity's alerts

    Raises: SourceError; ModelError if the source has nothing of the entity before that time.
    """
    step = monitor.step_ms
    slot, delay = grid.floor(at, step), milliseconds(monitor.delay)
    memory = recall.recall(monitor, _Only(source, entity), _At(slot + step), model, slot + step + delay)
    if entity not in memory.history.entities or np.isnan(memory.history.values).all():
        msg = f"monitor {monitor.name!r} has no data of entity {entity!r} in the {memory.history.values.shape[1]} slots"
        raise ModelError(f"{msg} before that time; see: detector check")
    row = memory.history.entities.index(entity)
    by_span, settled = remembering.scores_by_span(monitor, memory, monitor.decision.open_of, np.array([row]))
    times = slot - step * np.arange(monitor.decision.open_of - 1, -1, -1)
    told = max((closed for _, _, closed in alerts if closed is not None and closed < slot), default=LONG_AGO)
    news = decide.untold(by_span, np.array([told]), times, spans=score.SPANS, step=step)[0]
    is_told = decide.told(np.array([told]), times[-1:], spans=score.SPANS, step=step)[0, 0]
    parts = np.where(is_told, np.float32(np.nan), by_span[0, -1])
    recent = [None if np.isnan(value) else float(value) for value in news.tolist()]
    explained = explaining.explain(
        monitor,
        model,
        memory.history,
        [(row, slot)],
        remembering.scores_of_history(memory),
        lambda _row, _slot: parts,
    )
    answer = Answer(
        entity=entity,
        slot=slot,
        score=recent[-1],
        reason=Reason(int(memory.snapshot.reason[row])).label if recent[-1] is None else None,
        recent=recent,
        explanation=json.loads(explained[row, slot]),
        why=[],
    )
    return replace(answer, why=list(_why(monitor, answer, bool(settled[0, -1]), excluded, alerts)))


def _why(
    monitor: MonitorSection,
    answer: Answer,
    is_settled: bool,
    excluded: Sequence[Exclusion],
    alerts: Sequence[tuple[int, int, int | None]],
) -> Iterator[str]:
    rules, slot = horizon.decision_rules(monitor), answer.slot
    for identity, opened, closed in alerts:
        if opened <= slot and (closed is None or slot <= closed):
            yield f"alert {identity} was open"
        elif closed is not None and closed < slot <= closed + max(score.SPANS) * monitor.step_ms:
            yield f"alert {identity} closed not long before; spans that reach back to it do not count"
    if answer.score is None:
        yield f"unknown ({answer.reason}): {_UNKNOWN[answer.reason or '']}"
    elif answer.score < decide.THRESHOLD:
        yield f"the score {answer.score:.2f} is below the threshold of {decide.THRESHOLD:g}"
    else:
        strange = sum(value is not None and value >= decide.THRESHOLD for value in answer.recent)
        enough = strange >= rules.open_slots or answer.score >= rules.open_at_once
        needed = f"{rules.open_slots} of {rules.open_of} open an alert, or one of {rules.open_at_once:g}"
        yield f"{strange} of the last {rules.open_of} scores reach the threshold; {needed}"
        if enough and is_settled:
            yield f"the newest {score.SPANS[_SHORT]} slots are ordinary again: only longer spans still remember"
    if exclusions.mutes(excluded, answer.entity, explaining.shares(json.dumps(answer.explanation)), slot):
        yield "an exclusion mutes it; see: detector exclude list"


_UNKNOWN = {
    Reason.NO_DATA.label: "nothing in the newest slot",
    Reason.GAP.label: "too much of the window is missing",
    Reason.WARMING_UP.label: "its window is not full yet",
    Reason.NO_MODEL.label: "there is no model",
    Reason.STALE_DATA.label: "the whole source has stopped",
}
