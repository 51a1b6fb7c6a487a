"""Sensitivity of a monitor: what each metric of an entity must do to open an alert, and which metrics cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detector.core import grid, sensitivity
from detector.core.news import RECENT, Experience, long_slots
from detector.core.sensitivity import Sensitivity, Terms
from detector.core.series import Float32, Float64, Int64
from detector.detect import checkpoints, promise, recall
from detector.detect.explain_slot import OnlyEntity
from detector.detect.explanations import number
from detector.detect.horizon import Horizon
from detector.detect.recall import Stored
from detector.detect.scores import level_of
from detector.errors import ModelError
from detector.ports import ModelVersion, Source, StoredExperience

_MOST = 500  # metrics of which the median deviation is taken: it takes a millisecond or two for each


def terms_of(horizon: Horizon, model: ModelVersion) -> Terms:
    """What values are compared with under a model version, and what opens an alert."""
    return Terms(
        habits=model.artifact.habits,
        rules=horizon.metric_rules,
        decision=horizon.rules,
        level=level_of(horizon, model),
        step=horizon.step,
    )


def durations(horizon: Horizon) -> tuple[int, ...]:
    """Slots that a metric is held for: those that the worst metric needs at least, and ten minutes if that is more.

    The longer one leaves room for as many scores of 1 as open an alert.
    """
    longer = max(long_slots(horizon.step), RECENT + horizon.rules.open_slots - 1)
    return tuple(dict.fromkeys((RECENT, longer)))


# -- of an entity -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """Values on one side of the usual one; own units."""

    values: list[float | None]  # that open an alert, for each duration; None: none does
    why_not: str | None  # why none does, if it never does


@dataclass(frozen=True)
class MetricSensitivity:
    """What one metric must do to open an alert."""

    metric: str
    usual: float | None  # own units
    above: Side
    below: Side


@dataclass(frozen=True)
class Answer:
    """Sensitivity to each metric of one entity; times in epoch milliseconds."""

    entity: str
    slot: int  # from which on a metric is held
    seconds: list[float]  # for which it is, at most: its durations
    metrics: list[MetricSensitivity]


def of_entity(
    horizon: Horizon,
    source: Source,
    model: ModelVersion,
    *,
    entity: str,
    slot: int,
    remembered: Sequence[StoredExperience],
) -> Answer:
    """What each metric of an entity must do from a slot on (epoch milliseconds) to open an alert.

    remembered: what entities have shown, the newest first

    Raises: SourceError; ModelError if neither the model nor the source knows the entity.
    """
    mine = tuple(filter(None, (checkpoints.of_entity(one, entity) for one in remembered)))
    memory = recall.recall(
        horizon, OnlyEntity(source, entity), model, stored=Stored(slot, remembered=mine), now=slot + horizon.delay
    )
    if entity not in memory.entities:
        msg = f"monitor {horizon.monitor!r} knows no entity {entity!r}; see: detector check"
        raise ModelError(msg)
    row = np.array([memory.entities.index(entity)])
    terms, experience, held = terms_of(horizon, model), memory.experience.rows(row), durations(horizon)
    found = [sensitivity.sensitivity(terms, experience, memory.rows[row], slot=slot, held=slots) for slots in held]
    is_new = bool(memory.rows[row][0] < 0)
    return Answer(
        entity=entity,
        slot=slot,
        seconds=[slots * horizon.step / 1000 for slots in held],
        metrics=[_metric(horizon, found, f, is_new=is_new) for f in range(len(horizon.metrics))],
    )


def _metric(horizon: Horizon, found: list[Sensitivity], f: int, *, is_new: bool) -> MetricSensitivity:
    rules, usual = horizon.metric_rules, float(found[0].usual[0, f])
    unknown = "the model has not seen this entity yet" if is_new else "it had no value in training"

    def side(of: list[Float32], *, counts: bool, last: float) -> Side:
        values = [float(value[0, f]) for value in of]
        if any(map(np.isfinite, values)):
            return Side([number(value) for value in values], None)
        why = (
            unknown
            if np.isnan(usual)
            else "the rules do not count it"
            if not counts
            else f"no valid one does; one beyond {last:g} is an alert itself"
        )
        return Side([None] * len(values), why)

    return MetricSensitivity(
        metric=horizon.metrics[f],
        usual=number(usual),
        above=side([one.above for one in found], counts=bool(rules.counts_up[f]), last=float(rules.highest[f])),
        below=side([one.below for one in found], counts=bool(rules.counts_down[f]), last=float(rules.lowest[f])),
    )


# -- of a model version -----------------------------------------------------------------------------------------------


def blind_shares(horizon: Horizon, model: ModelVersion) -> Float64:
    """Share of the metrics of each entity that a model knows, (E,), that no alert can come from, however long held."""
    experience, rows, slot = _trained(horizon, model)
    if not rows.size:
        return np.zeros(0)
    held = long_slots(horizon.step) + horizon.rules.open_slots - 1
    found = sensitivity.blind(terms_of(horizon, model), experience, rows, slot=slot, held=held)
    return np.asarray(found.mean(axis=1))


def blind_ratio(shares: Float64, rows: Int64) -> float | None:
    """Share of all metrics that no alert can come from, None without an entity; rows: (E,) as in `Memory`.

    shares: as `blind_shares`; of an entity that the model has not seen it is all of them
    """
    known = rows[rows >= 0]
    return float(shares[known].sum() + (len(rows) - len(known))) / len(rows) if len(rows) else None


def median_deviation(horizon: Horizon, model: ModelVersion) -> float | None:
    """Robust deviations, held for the longest duration, from which on the middle one of a version's metrics opens an
    alert, on the nearer side; None if there is none. Of some hundred metrics if there are more.
    """
    experience, rows, slot = _trained(horizon, model)
    some = rows[:: max(1, -(-len(rows) * len(horizon.metrics) // _MOST))]
    found = sensitivity.sensitivity(
        terms_of(horizon, model), experience.rows(some), some, slot=slot, held=durations(horizon)[-1]
    )
    off = np.fmin(found.above - found.usual, found.usual - found.below)
    if not np.isfinite(off).any():
        return None
    return float(np.median((off / model.artifact.habits.usual.spread[some])[np.isfinite(off)]))


def _trained(horizon: Horizon, model: ModelVersion) -> tuple[Experience, Int64, int]:
    """What a version's entities had shown when it was trained, their rows, and the slot after that."""
    rows = np.arange(len(model.artifact.entities))
    return model.artifact.experience.at_step(horizon.step), rows, grid.floor(model.trained_until, horizon.step)


def summary(horizon: Horizon, model: ModelVersion) -> dict[str, float | None]:
    """What it takes to open an alert under a version, in two numbers; none for one of an earlier program."""
    if promise.is_of_an_earlier_program(model):
        return {}
    blind = blind_shares(horizon, model)
    return {
        "blind_ratio": float(blind.mean()) if blind.size else None,
        "deviations_to_alert": median_deviation(horizon, model),
    }
