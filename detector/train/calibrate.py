"""A fitted model to a calibrated version: usual residuals, threshold, and both again on more recent history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detector.core import frozen, grid, score, threshold, window
from detector.core.series import Float32, History, Reason, Spans
from detector.core.threshold import Calibration
from detector.detect import residuals
from detector.detect.residuals import Selection
from detector.errors import ModelError
from detector.ports import Artifact, Fitted, ModelVersion
from detector.times import WEEK_MS
from detector.train.division import BASELINE_SLOTS, Division, Plan, too_short

MOST_DRIFT = 2.0  # by which a recalibration may change usual errors

_NOISE_QUANTILE = 0.98
_NOISE_FLOOR = 0.1  # scaled units; a metric rebuilt better than this is as good as perfectly rebuilt


def calibrated(data: Division, fitted: Fitted) -> ModelVersion:
    """The fitted model with each entity's usual residuals and the threshold, from the calibration part."""
    plan, history, timesteps = data.plan, data.history, fitted.spec.timesteps
    chosen = data.calibration(timesteps)
    if not chosen.any():
        raise too_short(plan, history)
    selection = Selection(history.values, data.rows, history.slots, chosen)
    found = residuals.residuals(
        fitted.model, selection, timesteps=timesteps, scales=data.scales, rules=plan.horizon.metric_rules
    )  # (E, K, F)
    noise, fleet_noise = usual_sizes(found)
    errors, _ = score.error(found, noise[:, None])
    artifact = Artifact(
        spec=fitted.spec,
        weights=fitted.weights,
        entities=history.entities,
        scaling=data.scales,
        noise=noise,
        fleet_noise=fleet_noise,
        calibration=_threshold(plan, errors),
        freeze_limits=frozen.limits(history.values),
        provenance={
            **fitted.facts,
            "kind": fitted.kind,
            "fingerprint": plan.fingerprint,
            "trained_from": history.start,
            "trained_until": history.end,
            "seed": plan.seed,
            "entities": len(history.entities),
            "calibration_windows": int(chosen.sum()),
        },
    )
    return ModelVersion(0, artifact, fitted.model)


def _threshold(plan: Plan, errors: Float32) -> Calibration:
    """The calibration of errors (E, N) of normal data."""
    return threshold.calibrate(
        threshold.smoothed(errors),
        spans=score.SPANS,
        rules=plan.horizon.rules,
        alert_budget_per_week=plan.alert_budget_per_week,
        step=plan.horizon.step,
    )


@dataclass(frozen=True)
class Alerted:
    """When an entity had an alert, [start, end) in epoch milliseconds, how high its score went, and what people say."""

    entity: str
    start: int
    end: int
    peak_score: float
    verdict: str | None = None


def unpromised(alerts: Sequence[Alerted], promised: float) -> list[Alerted]:
    """Alerts that are not normal: the real ones, and of those nobody judged all but the weakest.

    As many as are promised to be false, by what people say or else the weakest, are what normal data do at their worst.
    Without them normal data would look tamer after each recalibration, and the threshold sink: in stationary noise by
    so much that two to three times as many alerts opened as were promised (`quality.py --parts budget`).
    """
    judged_false = sum(alert.verdict == "false" for alert in alerts)
    unjudged = sorted((alert for alert in alerts if alert.verdict is None), key=lambda alert: alert.peak_score)
    real = [alert for alert in alerts if alert.verdict == "real"]
    return real + unjudged[max(0, int(promised + 0.5) - judged_false) :]


def not_normal(plan: Plan, history: History, alerts: Sequence[Alerted]) -> Spans:
    """What a recalibration on a history leaves out, by entity."""
    weeks = (history.end - history.start) / WEEK_MS
    inside = [alert for alert in alerts if history.start < alert.end and alert.start < history.end]
    return spans_of(unpromised(inside, plan.alert_budget_per_week * weeks))


def spans_of(alerts: Iterable[Alerted]) -> Spans:
    """When each entity had these alerts."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for alert in alerts:
        spans.setdefault(alert.entity, []).append((alert.start, alert.end))
    return spans


def recalibrated(plan: Plan, model: ModelVersion, history: History, *, alerted: Spans) -> tuple[Calibration, float]:
    """The model's calibration to its errors in more recent history, and how far the usual errors have drifted.

    alerted: spans of each entity that are not normal, [start, end) in epoch milliseconds; they are left out, together
    with the windows that still hold them. Drift is the ratio of usual errors now and at calibration, of the middle
    entity; no entity's may more than double or halve what training found, lest a slow fault becomes the norm.

    Raises: ModelError if there is too little history.
    """
    horizon, entities = plan.horizon, model.artifact.entities
    values = grid.cover(history, entities=entities, start=history.start, end=history.end)
    chosen = window.reasons(values, model.timesteps, max_missing=horizon.max_missing) == Reason.KNOWN
    slots = history.slots[model.timesteps - 1 :]
    echo = model.timesteps * horizon.step
    for row, name in enumerate(entities):
        for start, end in alerted.get(name, ()):
            chosen[row, (slots >= start) & (slots < end + echo)] = False
    if chosen.sum(axis=1).max(initial=0) < BASELINE_SLOTS:
        name = horizon.monitor
        msg = f"monitor {name!r}: recalibration needs {BASELINE_SLOTS} slots without alerts in recent history"
        raise ModelError(msg)
    selection = Selection(values, np.arange(len(values)), history.slots, chosen)
    errors, _ = residuals.errors(model, selection, horizon.metric_rules)
    fresh, before = _threshold(plan, errors), model.artifact.calibration
    drift = float(np.median(fresh.start[:, 0] / before.start[:, 0]))
    return bounded(fresh, before), drift


def bounded(fresh: Calibration, before: Calibration) -> Calibration:
    """A recalibration no entity's usual errors of which are far from what training found."""
    start = np.clip(fresh.start, before.start / MOST_DRIFT, before.start * MOST_DRIFT)
    fleet_start = np.clip(fresh.fleet_start, before.fleet_start / MOST_DRIFT, before.fleet_start * MOST_DRIFT)
    return replace(fresh, start=start, fleet_start=fleet_start)


def usual_sizes(residuals: Float32) -> tuple[Float32, Float32]:
    """Usual size of each metric's residual per entity and in the fleet: a high quantile, never next to nothing.

    Of the quantile the upper limit of what so many residuals leave possible is taken: a metric that was seen for a
    short time may have habits that were not seen.
    """
    sizes = np.abs(residuals)
    fleet = _upper_quantile(sizes.reshape(-1, sizes.shape[2]))
    fleet = np.maximum(np.nan_to_num(fleet, nan=1.0), _NOISE_FLOOR)
    own = np.stack([_upper_quantile(entity) for entity in sizes])
    own = np.where(np.isnan(own), fleet, np.maximum(own, _NOISE_FLOOR))
    return own.astype(np.float32), fleet.astype(np.float32)


def _upper_quantile(sizes: Float32) -> NDArray[np.float64]:
    """Two standard errors (binomial) above the `_NOISE_QUANTILE` of each column of (N, F), NaN where it is empty."""
    result = np.full(sizes.shape[1], np.nan)
    for f in range(sizes.shape[1]):
        known = sizes[~np.isnan(sizes[:, f]), f]
        if known.size:
            error = np.sqrt(_NOISE_QUANTILE * (1.0 - _NOISE_QUANTILE) / known.size)
            result[f] = np.quantile(known, min(1.0, _NOISE_QUANTILE + 2.0 * error))
    return result
