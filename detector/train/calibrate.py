"""A fitted model to a calibrated version: usual residuals, threshold, and both again on more recent history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detector.config.sections import MonitorSection
from detector.core import frozen, score, threshold, window
from detector.core.series import Float32, History, Reason, Spans
from detector.core.threshold import Calibration
from detector.detect import horizon
from detector.detect import residuals as scoring
from detector.errors import ModelError
from detector.ports import Fitted, ModelVersion
from detector.times import WEEK_MS
from detector.train.division import BASELINE_SLOTS, Division, too_short

MOST_DRIFT = 2.0  # by which a recalibration may change usual errors

_NOISE_QUANTILE = 0.98
_NOISE_FLOOR = 0.1  # scaled units; a metric rebuilt better than this is as good as perfectly rebuilt


def calibrated(data: Division, fitted: Fitted) -> tuple[ModelVersion, Fitted]:
    """The fitted model with each entity's usual residuals and the threshold, from the calibration part."""
    monitor, history, timesteps = data.monitor, data.history, fitted.timesteps
    chosen = data.calibration(timesteps)
    if not chosen.any():
        raise too_short(monitor, history)
    residuals = scoring.residuals(
        fitted.model,
        timesteps,
        data.scales,
        horizon.metric_rules(monitor),
        values=history.values,
        rows=data.rows,
        slots=history.slots,
        chosen=chosen,
    )  # (E, K, F)
    noise, fleet_noise = _noise(residuals)
    errors, _ = score.error(residuals, noise[:, None])
    calibration = threshold.calibrate(
        threshold.smoothed(errors),
        spans=score.SPANS,
        rules=horizon.decision_rules(monitor),
        alert_budget_per_week=monitor.threshold.alert_budget_per_week,
        step=monitor.step_ms,
    )
    model = ModelVersion(
        version=0,
        kind=fitted.kind,
        timesteps=timesteps,
        trained_from=history.start,
        trained_until=history.end,
        network=fitted.model,
        entities=history.entities,
        scaling=data.scales,
        noise=noise,
        fleet_noise=fleet_noise,
        calibration=calibration,
        rest=frozen.limits(history.values),
    )
    return model, fitted


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


def not_normal(monitor: MonitorSection, history: History, alerts: Sequence[Alerted]) -> Spans:
    """What a recalibration on a history leaves out, by entity."""
    weeks = (history.end - history.start) / WEEK_MS
    inside = [alert for alert in alerts if history.start < alert.end and alert.start < history.end]
    return spans_of(unpromised(inside, monitor.threshold.alert_budget_per_week * weeks))


def spans_of(alerts: Iterable[Alerted]) -> Spans:
    """When each entity had these alerts."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for alert in alerts:
        spans.setdefault(alert.entity, []).append((alert.start, alert.end))
    return spans


def recalibrated(
    monitor: MonitorSection, model: ModelVersion, history: History, alerted: Spans
) -> tuple[Calibration, float]:
    """The model's calibration to its errors in more recent history, and how far the usual errors have drifted.

    alerted: spans of each entity that are not normal, [start, end) in epoch milliseconds; they are left out, together
    with the windows that still hold them. Drift is the ratio of usual errors now and at calibration, of the middle
    entity; no entity's may more than double or halve what training found, lest a slow fault becomes the norm.

    Raises: ModelError if there is too little history.
    """
    known = set(history.entities)
    values = np.stack(
        [
            history.values[history.entities.index(name)] if name in known else np.full_like(history.values[0], np.nan)
            for name in model.entities
        ]
    )
    chosen = window.reasons(values, model.timesteps, max_missing=monitor.max_missing) == Reason.KNOWN
    slots = history.slots[model.timesteps - 1 :]
    echo = model.timesteps * monitor.step_ms
    for row, name in enumerate(model.entities):
        for start, end in alerted.get(name, ()):
            chosen[row, (slots >= start) & (slots < end + echo)] = False
    if chosen.sum(axis=1).max(initial=0) < BASELINE_SLOTS:
        msg = f"monitor {monitor.name!r}: recalibration needs {BASELINE_SLOTS} slots without alerts in recent history"
        raise ModelError(msg)
    errors, _ = scoring.errors(
        model,
        horizon.metric_rules(monitor),
        values=values,
        rows=np.arange(len(values)),
        slots=history.slots,
        chosen=chosen,
    )
    fresh = threshold.calibrate(
        threshold.smoothed(errors),
        spans=score.SPANS,
        rules=horizon.decision_rules(monitor),
        alert_budget_per_week=monitor.threshold.alert_budget_per_week,
        step=monitor.step_ms,
    )
    before = model.calibration
    drift = float(np.median(fresh.start[:, 0] / before.start[:, 0]))
    return bounded(fresh, before), drift


def bounded(fresh: Calibration, before: Calibration) -> Calibration:
    """A recalibration no entity's usual errors of which are far from what training found."""
    start = np.clip(fresh.start, before.start / MOST_DRIFT, before.start * MOST_DRIFT)
    fleet_start = np.clip(fresh.fleet_start, before.fleet_start / MOST_DRIFT, before.fleet_start * MOST_DRIFT)
    return replace(fresh, start=start, fleet_start=fleet_start)


def _noise(residuals: Float32) -> tuple[Float32, Float32]:
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
