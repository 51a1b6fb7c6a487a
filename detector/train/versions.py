"""New model versions: trained, recalibrated, and what a recalibration would change about past alerts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from detector.core import threshold
from detector.core.threshold import Calibration
from detector.detect import exclusions
from detector.detect.history import read_history
from detector.errors import ModelError
from detector.ports import Fit, ModelVersion, Source, Store, Versions
from detector.progress import Progress, part
from detector.train import calibrate, division
from detector.train.calibrate import Alerted
from detector.train.division import Plan
from detector.train.fit import train

_READING_SHARE = 0.1  # of a training's progress bar
_BY_SCORE = {"spike", "drift"}  # kinds of explanation whose score comes from a calibration


@dataclass(frozen=True)
class Inputs:
    """Everything that new versions of one monitor are made from."""

    plan: Plan
    source: Source
    store: Store  # exclusions are read from it
    versions: Versions
    fit: Fit
    alerts: Callable[[], Sequence[Alerted]]  # all alerts of the monitor


@dataclass(frozen=True)
class Span:
    """Start and end of the training data, epoch milliseconds; None: the newest `training.span` with data."""

    start: int | None = None
    end: int | None = None


def retrain(inputs: Inputs, *, now: int, span: Span, progress: Progress) -> tuple[int, Mapping[str, Any]]:
    """Trains a monitor and makes the new version the live one; returns its number and provenance.

    Raises: ModelError if there is too little history or another process trains this monitor now.
    """
    plan, began = inputs.plan, time.monotonic()
    horizon = plan.horizon
    with inputs.versions.hold(now):
        first, last = division.span(plan, inputs.source, now=now, start=span.start, end=span.end)
        reading = part(progress, 0.0, _READING_SHARE)
        history = read_history(horizon, inputs.source, start=first, end=last, progress=reading)
        real = calibrate.spans_of(alert for alert in inputs.alerts() if alert.verdict == "real")
        excluded = inputs.store.exclusions(horizon.monitor)
        history = exclusions.without(history, horizon.metrics, excluded, real=real)
        training = part(progress, _READING_SHARE, 1.0 - _READING_SHARE)
        trained = train(plan, history, inputs.fit, progress=training)
        provenance = {**trained.artifact.provenance, "seconds": round(time.monotonic() - began, 1)}
        stored = replace(trained, artifact=replace(trained.artifact, provenance=provenance))
        return inputs.versions.save(stored, now), provenance


def recalibrate(inputs: Inputs, *, now: int, progress: Progress) -> tuple[int, float]:
    """Fits the live version's threshold to recent history; returns the new version's number and the drift it found.

    History with alerts is left out. Only two versions of a network stay: as trained, and the newest recalibration.

    Raises: ModelError if there is no live version, too little history, or another process trains this monitor now.
    """
    with inputs.versions.hold(now):
        fresh = _fresh_calibration(inputs, now, progress)
        trained = fresh.trained
        provenance = {
            **trained.artifact.provenance,
            "recalibrated_from": trained.version,
            "recalibrated_at": now,
            "calibrated_from": fresh.start,
            "calibrated_until": fresh.end,
            "drift": round(fresh.drift, 4),
        }
        artifact = replace(trained.artifact, calibration=fresh.calibration, provenance=provenance)
        number = inputs.versions.save(replace(trained, artifact=artifact), now)
        live = fresh.live.version
        if live != trained.version:
            inputs.versions.delete(live)
        return number, fresh.drift


class RaisedAlert(Protocol):
    """A stored alert, as far as reconsidering it needs."""

    @property
    def id(self) -> int:
        """Its number."""

    @property
    def entity(self) -> str:
        """Its entity."""

    @property
    def state(self) -> str:
        """Its state now."""

    @property
    def model_version(self) -> int:
        """The version that raised it."""

    @property
    def explanation(self) -> Mapping[str, Any]:
        """Its stored explanation."""


@dataclass(frozen=True)
class Reconsidered:
    """Past alerts under the threshold of the next recalibration."""

    judged: list[tuple[int, float]]  # number of an alert, and the peak score it would have
    unjudged: int  # alerts that another version raised, or a rule without a model


def reconsidered(inputs: Inputs, alerts: Iterable[RaisedAlert], *, now: int, progress: Progress) -> Reconsidered:
    """Peak scores that some alerts would have after a recalibration now; withdrawn ones are left out.

    Raises: ModelError as `recalibrate`.
    """
    fresh = _fresh_calibration(inputs, now, progress)
    live, before = fresh.live, fresh.live.artifact.calibration
    row_of = {name: row for row, name in enumerate(live.artifact.entities)}
    judged, unjudged = [], 0
    for alert in alerts:
        cause = alert.explanation.get("part") or {}
        if alert.state == "withdrawn":
            continue
        if alert.model_version != live.version or cause.get("kind") not in _BY_SCORE:
            unjudged += 1
            continue
        by_span = [np.nan if value is None else value for value in cause["scores"].values()]
        scores, row = np.array([[by_span]], dtype=np.float32), np.array([row_of.get(alert.entity, -1)])
        again = threshold.worst(threshold.rescored(scores, row, old=before, new=fresh.calibration))
        judged.append((alert.id, float(again[0, 0])))
    return Reconsidered(judged, unjudged)


@dataclass(frozen=True)
class _Fresh:
    """A calibration on recent data, not stored yet."""

    live: ModelVersion
    trained: ModelVersion  # the version that training made, of which the live one may be a recalibration
    calibration: Calibration
    drift: float
    start: int  # of its data, epoch milliseconds
    end: int


def _fresh_calibration(inputs: Inputs, now: int, progress: Progress) -> _Fresh:
    plan, source, versions = inputs.plan, inputs.source, inputs.versions
    horizon, name = plan.horizon, plan.horizon.monitor
    live = versions.live()
    if live is None:
        msg = f"monitor {name!r} has no live model to recalibrate; run: detector retrain {name}"
        raise ModelError(msg)
    first, last = division.recent(plan, source, now=now, trained_until=live.trained_until)
    history = read_history(horizon, source, start=first, end=last, progress=progress)
    history = exclusions.without(history, horizon.metrics, inputs.store.exclusions(name), real={})
    # always against what training found, or small drifts would add up day by day
    trained = versions.load(int(live.artifact.provenance.get("recalibrated_from", live.version)))
    left_out = calibrate.not_normal(plan, history, inputs.alerts())
    calibration, drift = calibrate.recalibrated(plan, trained, history, left_out=left_out)
    return _Fresh(live, trained, calibration, drift, history.start, history.end)
