"""History to a model version: scale, train, calibrate on later data than was trained on."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from detector.core import scaling
from detector.core.series import Bool, History, Windows
from detector.detect import residuals
from detector.detect.residuals import Selection
from detector.errors import ModelError
from detector.ports import Fit, Fitted, ModelVersion
from detector.progress import Progress
from detector.times import DAY_MS
from detector.train.calibrate import calibrated
from detector.train.division import VALIDATION, Division, Plan, divide, slots_with_data, too_short
from detector.train.trial import finds_faults, shares

logger = logging.getLogger(__name__)
_CLEARLY = 1.2  # times as many faults as the network a baseline must find to take its place


def train(plan: Plan, history: History, fit: Fit, *, progress: Progress) -> ModelVersion:
    """A model version from history: the older part trains, the newer part calibrates.

    Each entity's own span is divided, so that entities which live at different times all take part in both. With
    `model.kind = "auto"` a baseline is fitted beside the network; both look for the same faults put into the newer
    part, at the same alert budget, and the network becomes the version unless the baseline finds clearly more.

    Raises: ModelError if there is too little history.
    """
    data = divide(plan, history)
    enough_for_network = int(slots_with_data(data.history).max()) >= plan.minimum_slots
    kind, found = plan.kind, list[ModelVersion]()
    if kind != "baseline" and enough_for_network:
        try:
            fitted = _fit_network(data, fit, lambda done, what: progress(0.85 * done, what))
            found.append(calibrated(data, fitted))
        except ModelError as exc:
            if kind == "network":
                raise
            logger.warning("event=network_not_trained monitor=%s reason=%r", plan.horizon.monitor, str(exc))
    if kind != "network":
        progress(0.85, "fitting the baseline")
        found.append(calibrated(data, _fit_baseline(data, fit)))
    progress(0.9, "comparing models on injected faults" if len(found) > 1 else "calibrating")
    rngs = [np.random.default_rng(plan.seed) for _ in found]  # the same faults for both
    finds = [finds_faults(data, *pair) for pair in zip(found, rngs, strict=True)] if len(found) > 1 else []
    version = found[1 if len(finds) > 1 and finds[1].sum() > _CLEARLY * finds[0].sum() else 0]
    progress(1.0, f"calibrated a {version.kind}")
    compared = {one.kind: shares(find) for one, find in zip(found, finds, strict=False) if find.size}
    provenance = {**version.artifact.provenance, "detectability": compared}
    return replace(version, artifact=replace(version.artifact, provenance=provenance))


def _fit_network(data: Division, fit: Fit, progress: Progress) -> Fitted:
    plan, timesteps = data.plan, data.plan.horizon.timesteps
    known, newest = data.known(timesteps), data.newest(timesteps)
    last_training = data.divide - ((data.divide - data.first) * VALIDATION).astype(np.int64)  # (E,)
    in_training = known & (newest < last_training[:, None])
    in_validation = known & (newest >= last_training[:, None]) & (newest < data.divide[:, None])
    if not (in_training.any() and in_validation.any() and data.calibration(timesteps).any()):
        raise too_short(plan, data.history)
    rng, most = np.random.default_rng(plan.seed), plan.max_windows
    windows = _draw(data, in_training, most=most, rng=rng)
    validation = _draw(data, in_validation, most=max(1, most // 5), rng=rng)
    days = float((data.divide - data.first).max()) * plan.horizon.step / DAY_MS
    fitted = fit.network(windows, validation, days=days, seed=plan.seed, progress=progress)
    return replace(fitted, facts=fitted.facts | {"training_windows": len(windows)})


def _draw(data: Division, chosen: Bool, *, most: int, rng: np.random.Generator) -> Windows:
    """The chosen windows, at most `most` of them drawn at random."""
    indices = np.flatnonzero(chosen)
    if len(indices) > most:
        chosen = np.zeros_like(chosen)
        chosen.flat[np.sort(rng.choice(indices, most, replace=False))] = True
    history = data.history
    selection = Selection(history.values, data.rows, history.slots, chosen)
    return residuals.gather(selection, data.plan.horizon.timesteps, data.scales)


def _fit_baseline(data: Division, fit: Fit) -> Fitted:
    history = data.history
    scaled = scaling.transform(history.values, data.rows, data.scales)
    chosen = np.arange(scaled.shape[1]) < data.divide[:, None]
    return fit.baseline(replace(history, values=scaled), chosen)
