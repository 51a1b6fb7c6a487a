"""History to a model version: scale, train, calibrate on later data than was trained on."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from detector.config.sections import MonitorSection
from detector.core import scaling
from detector.core.series import Bool, History, Windows
from detector.detect import residuals as scoring
from detector.errors import ModelError
from detector.ports import Fit, Fitted, TrainedVersion
from detector.progress import Progress
from detector.times import DAY_MS
from detector.train.calibrate import calibrated
from detector.train.division import VALIDATION, Division, divide, slots_with_data, too_short
from detector.train.trial import finds_faults, shares

logger = logging.getLogger(__name__)
_CLEARLY = 1.2  # times as many faults as the network a baseline must find to take its place


def train(monitor: MonitorSection, history: History, fit: Fit, *, seed: int, progress: Progress) -> TrainedVersion:
    """A model version from history: the older part trains, the newer part calibrates.

    Each entity's own span is divided, so that entities which live at different times all take part in both. With
    `model.kind = "auto"` a baseline is fitted beside the network; both look for the same faults put into the newer
    part, at the same alert budget, and the network becomes the version unless the baseline finds clearly more.

    Raises: ModelError if there is too little history.
    """
    data = divide(monitor, history)
    enough_for_network = int(slots_with_data(data.history).max()) >= monitor.minimum_slots
    kind = monitor.model.kind
    found = []
    if kind != "baseline" and enough_for_network:
        try:
            fitted = _fit_network(data, fit, seed, lambda done, what: progress(0.85 * done, what))
            found.append(calibrated(data, fitted))
        except ModelError as exc:
            if kind == "network":
                raise
            logger.warning("event=network_not_trained monitor=%s reason=%r", monitor.name, str(exc))
    if kind != "network":
        progress(0.85, "fitting the baseline")
        found.append(calibrated(data, _fit_baseline(data, fit)))
    progress(0.9, "comparing models on injected faults" if len(found) > 1 else "calibrating")
    finds = [finds_faults(data, model, np.random.default_rng(seed)) for model, _ in found] if len(found) > 1 else []
    model, fitted = found[1 if len(finds) > 1 and finds[1].sum() > _CLEARLY * finds[0].sum() else 0]
    progress(1.0, f"calibrated a {fitted.kind}")
    provenance = fitted.facts | {
        "kind": fitted.kind,
        "fingerprint": monitor.fingerprint,
        "trained_from": data.history.start,
        "trained_until": data.history.end,
        "seed": seed,
        "entities": len(data.history.entities),
        "calibration_windows": int(data.calibration(fitted.timesteps).sum()),
        "detectability": {f.kind: shares(find) for (_, f), find in zip(found, finds, strict=False) if find.size},
    }
    return TrainedVersion(model, fitted, provenance)


def _fit_network(data: Division, fit: Fit, seed: int, progress: Progress) -> Fitted:
    monitor, timesteps = data.monitor, data.monitor.timesteps
    known, newest = data.known(timesteps), data.newest(timesteps)
    last_training = data.divide - ((data.divide - data.first) * VALIDATION).astype(np.int64)  # (E,)
    in_training = known & (newest < last_training[:, None])
    in_validation = known & (newest >= last_training[:, None]) & (newest < data.divide[:, None])
    if not (in_training.any() and in_validation.any() and data.calibration(timesteps).any()):
        raise too_short(monitor, data.history)
    rng, most = np.random.default_rng(seed), monitor.training.max_windows
    windows = _draw(data, in_training, most, rng)
    validation = _draw(data, in_validation, max(1, most // 5), rng)
    days = float((data.divide - data.first).max()) * monitor.step_ms / DAY_MS
    fitted = fit.network(windows, validation, days=days, seed=seed, progress=progress)
    return replace(fitted, facts=fitted.facts | {"training_windows": len(windows)})


def _draw(data: Division, chosen: Bool, most: int, rng: np.random.Generator) -> Windows:
    """The chosen windows, at most `most` of them drawn at random."""
    indices = np.flatnonzero(chosen)
    if len(indices) > most:
        chosen = np.zeros_like(chosen)
        chosen.flat[np.sort(rng.choice(indices, most, replace=False))] = True
    history = data.history
    return scoring.gather(history.values, data.rows, history.slots, chosen, data.monitor.timesteps, data.scales)


def _fit_baseline(data: Division, fit: Fit) -> Fitted:
    history = data.history
    scaled = scaling.transform(history.values, data.rows, data.scales)
    chosen = np.arange(scaled.shape[1]) < data.divide[:, None]
    return fit.baseline(replace(history, values=scaled), chosen)
