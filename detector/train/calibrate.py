"""A fitted model to a calibrated version: usual residuals, their tails, and what entities have shown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core import frozen, score, threshold
from detector.core.series import Bool, Float32
from detector.detect import residuals
from detector.detect.residuals import Selection
from detector.ports import Artifact, Fitted, Model, ModelVersion
from detector.train import habits
from detector.train.division import Division, too_short

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
    slots = np.full(history.values.shape[:2], np.nan, dtype=np.float32)
    slots[:, fitted.spec.timesteps - 1 :] = errors
    usual, experience = habits.fit(data, slots)
    artifact = Artifact(
        spec=fitted.spec,
        weights=fitted.weights,
        entities=history.entities,
        scaling=data.scales,
        noise=own,
        fleet_noise=fleet,
        calibration=threshold.calibrate(threshold.smoothed(errors), spans=score.SPANS),
        habits=usual,
        experience=experience,
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
