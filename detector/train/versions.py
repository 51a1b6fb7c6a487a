"""New model versions: trained, recalibrated, and what a recalibration would change about past alerts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from detector.config.sections import MonitorSection
from detector.core import threshold
from detector.core.threshold import Calibration
from detector.detect import exclusions
from detector.detect import history as reading
from detector.errors import ModelError
from detector.ports import Fit, Source, Store, TrainedVersion, Versions
from detector.progress import Progress, part
from detector.train import calibrate, division
from detector.train import fit as training
from detector.train.calibrate import Alerted

_READING_SHARE = 0.1  # of a training's progress bar
_BY_SCORE = {"spike", "drift"}  # kinds of explanation whose score comes from a calibration


@dataclass(frozen=True)
class Inputs:
    """Everything that new versions of one monitor are made from."""

    monitor: MonitorSection
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
    monitor, began = inputs.monitor, time.monotonic()
    with inputs.versions.hold(now):
        first, last = division.span(monitor, inputs.source, now=now, start=span.start, end=span.end)
        history = reading.read_history(monitor, inputs.source, first, last, part(progress, 0.0, _READING_SHARE))
        real = calibrate.spans_of(alert for alert in inputs.alerts() if alert.verdict == "real")
        history = exclusions.without(history, monitor.metrics, inputs.store.exclusions(monitor.name), real)
        trained = training.train(
            monitor,
            history,
            inputs.fit,
            seed=monitor.training.seed,
            progress=part(progress, _READING_SHARE, 1.0 - _READING_SHARE),
        )
        provenance = {**trained.provenance, "seconds": round(time.monotonic() - began, 1)}
        return inputs.versions.save(replace(trained, provenance=provenance), now), provenance


def recalibrate(inputs: Inputs, *, now: int, progress: Progress) -> tuple[int, float]:
    """Fits the live version's threshold to recent history; returns the new version's number and the drift it found.

    History with alerts is left out. Only two versions of a network stay: as trained, and the newest recalibration.

    Raises: ModelError if there is no live version, too little history, or another process trains this monitor now.
    """
    with inputs.versions.hold(now):
        fresh = _fresh_calibration(inputs, now, progress)
        trained = fresh.trained
        provenance = {
            **trained.provenance,
            "recalibrated_from": trained.model.version,
            "recalibrated_at": now,
            "calibrated_from": fresh.start,
            "calibrated_until": fresh.end,
            "drift": round(fresh.drift, 4),
        }
        model = replace(trained.model, calibration=fresh.calibration)
        number = inputs.versions.save(replace(trained, model=model, provenance=provenance), now)
        live = fresh.live.model.version
        if live != trained.model.version:
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
    live = fresh.live.model
    row_of = {name: row for row, name in enumerate(live.entities)}
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
        again = threshold.worst(threshold.rescored(scores, row, live.calibration, fresh.calibration))
        judged.append((alert.id, float(again[0, 0])))
    return Reconsidered(judged, unjudged)


@dataclass(frozen=True)
class _Fresh:
    """A calibration on recent data, not stored yet."""

    live: TrainedVersion
    trained: TrainedVersion  # the version that training made, of which the live one may be a recalibration
    calibration: Calibration
    drift: float
    start: int  # of its data, epoch milliseconds
    end: int


def _fresh_calibration(inputs: Inputs, now: int, progress: Progress) -> _Fresh:
    monitor, source, versions = inputs.monitor, inputs.source, inputs.versions
    live = versions.live()
    if live is None:
        msg = f"monitor {monitor.name!r} has no live model to recalibrate; run: detector retrain {monitor.name}"
        raise ModelError(msg)
    first, last = division.recent(monitor, source, now=now, trained_until=live.model.trained_until)
    history = reading.read_history(monitor, source, first, last, progress)
    history = exclusions.without(history, monitor.metrics, inputs.store.exclusions(monitor.name), {})
    # always against what training found, or small drifts would add up day by day
    trained = versions.load(int(live.provenance.get("recalibrated_from", live.model.version)))
    alerted = calibrate.not_normal(monitor, history, inputs.alerts())
    calibration, drift = calibrate.recalibrated(monitor, trained.model, history, alerted)
    return _Fresh(live, trained, calibration, drift, history.start, history.end)
