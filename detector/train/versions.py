"""New model versions by training."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from detector.core.series import Spans
from detector.detect import exclusions
from detector.detect.history import read_history
from detector.ports import Fit, Source, Store, Versions
from detector.progress import Progress, part
from detector.train import division
from detector.train.division import Plan
from detector.train.fit import train

_READING_SHARE = 0.1  # of a training's progress bar


@dataclass(frozen=True)
class Inputs:
    """Everything that new versions of one monitor are made from."""

    plan: Plan
    source: Source
    store: Store  # exclusions are read from it
    versions: Versions
    fit: Fit
    real: Callable[[], Spans]  # times of alerts that people judged real


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
        excluded = inputs.store.exclusions(horizon.monitor)
        history = exclusions.without(history, horizon.metrics, excluded, real=inputs.real())
        training = part(progress, _READING_SHARE, 1.0 - _READING_SHARE)
        trained = train(plan, history, inputs.fit, progress=training)
        provenance = {**trained.artifact.provenance, "seconds": round(time.monotonic() - began, 1)}
        stored = replace(trained, artifact=replace(trained.artifact, provenance=provenance))
        return inputs.versions.save(stored, now), provenance
