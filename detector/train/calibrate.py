"""A fitted model to a calibrated version: usual residuals, threshold, and both again on more recent history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detector.core import frozen, grid, score, threshold
from detector.core.series import Bool, Float32, History, Reason, Spans
from detector.core.threshold import Calibration
from detector.detect import residuals
from detector.detect.residuals import Selection
from detector.errors import ModelError
from detector.ports import Artifact, Fitted, Model, ModelVersion
from detector.times import WEEK_MS
from detector.train.division import BASELINE_SLOTS, Division, Plan, too_short

MOST_DRIFT = 2.0
"""A recalibration may multiply or divide an entity's usual errors by this much: a slow fault must not become the norm.
Not varied."""

_NOISE_QUANTILE = 0.98  # ranks .523; the .75 quantile .469, no noise at all .467 (benchmarks, ablations)
_NOISE_FLOOR = 0.1  # scaled units; a metric rebuilt better than this is as good as perfectly rebuilt. Not varied


def calibrated(data: Division, fitted: Fitted) -> ModelVersion:
    """The fitted model with each entity's usual residuals and the threshold, from the calibration part.

    Raises: ModelError if no window of that part can be scored.
    """
    plan, history = data.plan, data.history
    found = calibration_residuals(data, fitted.model, fitted.spec.timesteps)
    own, fleet = noise(found)
    errors, _ = score.error(found, own[:, None])
    artifact = Artifact(
        spec=fitted.spec,
        weights=fitted.weights,
        entities=history.entities,
        scaling=data.scales,
        noise=own,
        fleet_noise=fleet,
        calibration=fit_threshold(plan, errors),
        freeze_limits=frozen.limits(history.values),
        seen=metrics_seen(history.values),
        provenance={
            **fitted.facts,
            "kind": fitted.kind,
            "fingerprint": plan.fingerprint,
            "trained_from": history.start,
            "trained_until": history.end,
            "seed": plan.seed,
            "entities": len(history.entities),
            "calibration_windows": int(data.calibration(fitted.spec.timesteps).sum()),
        },
    )
    return ModelVersion(0, artifact, fitted.model)


def metrics_seen(values: Float32) -> Bool:
    """Metrics that an entity is expected to have, (E, F), from its history (E, L, F).

    A metric counts that has a value in half of the newer slots in which its entity has any: one that comes once an hour
    beside others of every minute is not gone for 59 minutes, and one that an entity has given up is not missed.
    """
    newer = ~np.isnan(values[:, -max(1, values.shape[1] // 4) :])
    alive = newer.any(axis=2).sum(axis=1)
    return np.asarray((2 * newer.sum(axis=1) >= alive[:, None]) & np.any(~np.isnan(values), axis=1), dtype=np.bool_)


def calibration_residuals(data: Division, model: Model, timesteps: int) -> Float32:
    """Residuals of the windows to calibrate on, (E, K, F) in scaled units; NaN where a window is not one of them.

    Raises: ModelError if there is none.
    """
    chosen = data.calibration(timesteps)
    if not chosen.any():
        raise too_short(data.plan, data.history)
    selection = Selection(data.history.values, data.rows, data.history.slots, chosen)
    rules = data.plan.horizon.metric_rules
    return residuals.residuals(model, selection, timesteps=timesteps, scales=data.scales, rules=rules)


def noise(found: Float32) -> tuple[Float32, Float32]:
    """Usual size of each metric's residuals (E, K, F), per entity (E, F) and in the fleet (F,); never next to nothing.

    An entity without residuals of a metric takes the fleet's; a metric without any has noise 1.
    """
    sizes = np.abs(found)
    fleet = upper_quantile(sizes.reshape(-1, sizes.shape[2]))
    fleet = np.maximum(np.nan_to_num(fleet, nan=1.0), _NOISE_FLOOR)
    own = np.stack([upper_quantile(entity) for entity in sizes])
    own = np.where(np.isnan(own), fleet, np.maximum(own, _NOISE_FLOOR))
    return own.astype(np.float32), fleet.astype(np.float32)


def upper_quantile(sizes: Float32) -> NDArray[np.float64]:
    """High quantile of each column of (N, F), as high as N values leave possible: (F,); NaN where all are NaN.

    It is the quantile two standard errors (binomial) above `_NOISE_QUANTILE`: a metric that was seen for a short time
    may have habits that were not seen. Without that ranking falls from .523 to .515 (benchmarks, ablations).
    """
    result = np.full(sizes.shape[1], np.nan)
    for f in range(sizes.shape[1]):
        known = sizes[~np.isnan(sizes[:, f]), f]
        if known.size:
            error = np.sqrt(_NOISE_QUANTILE * (1.0 - _NOISE_QUANTILE) / known.size)
            result[f] = np.quantile(known, min(1.0, _NOISE_QUANTILE + 2.0 * error))
    return result


def fit_threshold(plan: Plan, errors: Float32) -> Calibration:
    """Calibration from errors (E, K) of normal data at consecutive slots, NaN = unknown."""
    return threshold.calibrate(
        threshold.smoothed(errors),
        spans=score.SPANS,
        rules=plan.horizon.rules,
        alert_budget_per_week=plan.alert_budget_per_week,
        step=plan.horizon.step,
    )


# -- again, on recent data --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alerted:
    """An alert of an entity, as far as a calibration needs it: [start, end) in epoch milliseconds."""

    entity: str
    start: int
    end: int
    peak_score: float
    verdict: str | None = None  # real, false; None: nobody has judged it


def unpromised(alerts: Sequence[Alerted], promised: float) -> list[Alerted]:
    """Alerts that are not normal: those judged real, and all unjudged ones but the weakest.

    promised: false alerts that the budget allows in this time

    As many alerts as the budget promises are what normal data do at their worst: those judged false, and if these are
    fewer, the weakest of the unjudged. Were they left out too, normal data would look calmer after each recalibration
    and the threshold would sink: in stationary noise until two to three times as many alerts opened as were promised
    (`quality.py --parts budget --recalibrate 7`).
    """
    judged_false = sum(alert.verdict == "false" for alert in alerts)
    unjudged = sorted((alert for alert in alerts if alert.verdict is None), key=lambda alert: alert.peak_score)
    real = [alert for alert in alerts if alert.verdict == "real"]
    return real + unjudged[max(0, int(promised + 0.5) - judged_false) :]


def not_normal(plan: Plan, history: History, alerts: Sequence[Alerted]) -> Spans:
    """Spans of each entity that a recalibration on a history leaves out."""
    weeks = (history.end - history.start) / WEEK_MS
    inside = [alert for alert in alerts if history.start < alert.end and alert.start < history.end]
    return spans_of(unpromised(inside, plan.alert_budget_per_week * weeks))


def spans_of(alerts: Iterable[Alerted]) -> Spans:
    """Spans of these alerts by entity."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for alert in alerts:
        spans.setdefault(alert.entity, []).append((alert.start, alert.end))
    return spans


def recalibrated(plan: Plan, model: ModelVersion, history: History, *, left_out: Spans) -> tuple[Calibration, float]:
    """The model's calibration on more recent history, and the drift: usual errors now over those at calibration.

    The drift is that of the middle entity. No entity's usual errors may more than double or halve, lest a slow fault
    becomes the norm.

    left_out: spans of each entity that are not normal, [start, end) in epoch milliseconds; windows that still hold
    them are left out with them

    Raises: ModelError if there is too little history.
    """
    horizon, entities = plan.horizon, model.artifact.entities
    if len(history.slots) < model.timesteps:
        raise _too_recent(horizon.monitor)
    values = grid.cover(history, entities=entities, start=history.start, end=history.end)
    rows = np.arange(len(values))
    chosen = residuals.reasons(model, values, rows, max_missing=horizon.max_missing) == Reason.KNOWN
    slots = history.slots[model.timesteps - 1 :]
    echo = model.timesteps * horizon.step
    for row, name in enumerate(entities):
        for start, end in left_out.get(name, ()):
            chosen[row, (slots >= start) & (slots < end + echo)] = False
    if chosen.sum(axis=1).max(initial=0) < BASELINE_SLOTS:
        raise _too_recent(horizon.monitor)
    selection = Selection(values, rows, history.slots, chosen)
    errors, _ = residuals.errors(model, selection, horizon.metric_rules)
    fresh, before = fit_threshold(plan, errors), model.artifact.calibration
    drift = float(np.median(fresh.start[:, 0] / before.start[:, 0]))
    return bounded(fresh, before), drift


def _too_recent(monitor: str) -> ModelError:
    return ModelError(
        f"monitor {monitor!r}: recalibration needs {BASELINE_SLOTS} slots without alerts in recent history"
    )


def bounded(fresh: Calibration, before: Calibration) -> Calibration:
    """The recalibration with each entity's usual error clipped to half..twice what training found."""
    start = np.clip(fresh.start, before.start / MOST_DRIFT, before.start * MOST_DRIFT)
    fleet_start = np.clip(fresh.fleet_start, before.fleet_start / MOST_DRIFT, before.fleet_start * MOST_DRIFT)
    return replace(fresh, start=start, fleet_start=fleet_start)
