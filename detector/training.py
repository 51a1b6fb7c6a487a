"""History to a model version: scale, train, calibrate on later data than was trained on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.config import MonitorSection, milliseconds
from detector.core import grid, scaling, score, threshold, window
from detector.core.scaling import Scaling
from detector.core.series import Bool, Float32, History, Int64, Reason, Samples
from detector.errors import ModelError
from detector.ports import Model, ModelVersion, Source

logger = logging.getLogger(__name__)

Progress = Callable[[float, str], None]
"""Told the share that is done, 0 to 1, and what is being done."""

VALIDATION = 0.15  # of the training windows' time, its newest part, decides when training stops
_BLOCK = 4096
_READ_SLOTS = 2000
_NOISE_QUANTILE = 0.75
_NOISE_FLOOR = 0.05  # scaled units; a metric rebuilt better than this is as good as perfectly rebuilt


class Fit(Protocol):
    """Trains a network on scaled windows (B, T, F) and returns it ready to use, with facts to keep about it."""

    def __call__(
        self, windows: Float32, validation: Float32, seed: int, progress: Progress
    ) -> tuple[Model, dict[str, NDArray[Any]], dict[str, Any]]:
        """The network, its weights, and losses and epochs."""


@dataclass(frozen=True)
class Trained:
    """A model version that is not stored yet."""

    model: ModelVersion
    weights: dict[str, NDArray[Any]]
    provenance: dict[str, Any]


def needed_slots(monitor: MonitorSection) -> int:
    """Slots of history without which nothing is trained."""
    return monitor.minimum_slots


def read_history(monitor: MonitorSection, source: Source, start: int, end: int, progress: Progress) -> History:
    """All entities' slots in [start, end), read piece by piece."""
    step = monitor.step_ms
    start, end = grid.floor(start, step), grid.floor(end, step)
    slots = max(0, (end - start) // step)
    history = History((), start, step, np.empty((0, slots, len(monitor.metrics)), dtype=np.float32))
    for first in range(0, slots, _READ_SLOTS):
        count = min(_READ_SLOTS, slots - first)
        begin = start + first * step
        samples = source.read(begin, begin + count * step)
        history = _merge(monitor, history, samples, first, count)
        progress((first + count) / slots, f"reading history, {len(history.entities)} entities")
    return history


def _merge(monitor: MonitorSection, history: History, samples: Samples, first: int, count: int) -> History:
    entities = history.entities + tuple(sorted(set(samples.entities) - set(history.entities)))
    history = grid.cover(history, entities=entities, start=history.start, end=history.end)
    history.values[:, first : first + count] = grid.grid(
        samples,
        entities=entities,
        metrics=len(monitor.metrics),
        start=history.start + first * history.step,
        slots=count,
        step=history.step,
        aggregate=monitor.aggregate,
    )
    return history


def train(monitor: MonitorSection, history: History, fit: Fit, *, seed: int, progress: Progress) -> Trained:
    """A model version from history: the older part trains, the newer part calibrates.

    Each entity's own span is divided, so that entities which live at different times all take part in both.

    Raises: ModelError if there is too little history.
    """
    used, first, divide = _divide(monitor, history)
    train_values = _masked(used.values, lambda slot: slot < divide[:, None])
    scales = scaling.fit(train_values)
    rng = np.random.default_rng(seed)
    last_training = divide - ((divide - first) * VALIDATION).astype(np.int64)  # (E,)
    # newest slot of each window, by the part of the time it belongs to
    known = _known(monitor, used)
    slot = np.arange(known.shape[1]) + monitor.timesteps - 1  # (K,)
    in_training = known & (slot < last_training[:, None])
    in_validation = known & (slot >= last_training[:, None]) & (slot < divide[:, None])
    # calibration windows share no slot with training
    in_calibration = known & (slot >= divide[:, None] + monitor.timesteps - 1)
    if not (in_training.any() and in_validation.any() and in_calibration.any()):
        raise _too_short(monitor, used)
    most = monitor.training.max_windows
    windows = _gather(monitor, used, scales, in_training, most, rng)
    validation = _gather(monitor, used, scales, in_validation, max(1, most // 5), rng)
    network, weights, facts = fit(windows, validation, seed, lambda done, what: progress(0.9 * done, what))

    progress(0.9, "calibrating")
    residuals = _residuals(monitor, used, scales, in_calibration, network)  # (E, K, F)
    noise, fleet_noise = _noise(residuals)
    errors = np.full(in_calibration.shape, np.nan, dtype=np.float32)
    for row in range(len(used.entities)):
        errors[row] = score.error(residuals[row], np.broadcast_to(noise[row], residuals[row].shape))[0]
    calibration = threshold.calibrate(
        score.smoothed(_padded(errors)),
        alert_budget_per_week=monitor.threshold.alert_budget_per_week,
        step=monitor.step_ms,
    )
    progress(1.0, "calibrated")
    model = ModelVersion(
        version=0,
        timesteps=monitor.timesteps,
        trained_until=used.end,
        network=network,
        entities=used.entities,
        scaling=scales,
        noise=noise,
        fleet_noise=fleet_noise,
        calibration=calibration,
    )
    provenance = facts | {
        "fingerprint": monitor.fingerprint,
        "trained_from": used.start,
        "trained_until": used.end,
        "seed": seed,
        "entities": len(used.entities),
        "training_windows": len(windows),
        "calibration_windows": int(in_calibration.sum()),
    }
    return Trained(model, weights, provenance)


def _divide(monitor: MonitorSection, history: History) -> tuple[History, Int64, Int64]:
    """Entities with enough data, the first slot of each, and the slot that divides its training from calibration."""
    has_data: Bool = np.any(~np.isnan(history.values), axis=2)  # (E, L)
    slots = has_data.sum(axis=1)
    enough = np.flatnonzero(slots >= min(monitor.minimum_slots, max(int(slots.max(initial=0)), 1)))
    if not enough.size or slots.max() < needed_slots(monitor):
        raise _too_short(monitor, history)
    entities = tuple(history.entities[row] for row in enough.tolist())
    kept = History(entities, history.start, history.step, history.values[enough])
    has_data = has_data[enough]
    first = has_data.argmax(axis=1)
    seen = np.cumsum(has_data, axis=1)
    share = (1.0 - monitor.training.holdout) * seen[:, -1:]
    return kept, first, (seen < share).sum(axis=1)


def _too_short(monitor: MonitorSection, history: History) -> ModelError:
    longest = int((~np.isnan(history.values).all(axis=2)).sum(axis=1).max(initial=0)) if history.entities else 0
    missing = max(0, needed_slots(monitor) - longest)
    hours = missing * monitor.step_ms / 3_600_000
    start, end = (datetime.fromtimestamp(at / 1000, UTC).strftime("%F %T") for at in (history.start, history.end))
    msg = (
        f"monitor {monitor.name!r}: training needs {needed_slots(monitor)} slots of {monitor.step_ms / 1000:g} s"
        f" with data and windows of {monitor.timesteps} slots without large gaps; the longest entity has {longest}"
        f" between {start} and {end} UTC; wait {hours:.1f} h, or lower `training.minimum_slots` or `timesteps`"
    )
    return ModelError(msg)


def _masked(values: Float32, keep: Callable[[Int64], NDArray[np.bool_]]) -> Float32:
    """A copy with every slot outside `keep` missing."""
    mask = keep(np.arange(values.shape[1])[None, :])
    return np.where(mask[:, :, None], values, np.float32(np.nan))


def _known(monitor: MonitorSection, history: History) -> NDArray[np.bool_]:
    reasons = window.reasons(history.values, monitor.timesteps, max_missing=monitor.max_missing)
    return np.asarray(reasons == Reason.KNOWN)


def _gather(
    monitor: MonitorSection,
    history: History,
    scales: Scaling,
    chosen: NDArray[np.bool_],
    most: int,
    rng: np.random.Generator,
) -> Float32:
    """The chosen windows in scaled units, at most `most` of them drawn at random: (B, T, F)."""
    entity, slot = np.nonzero(chosen)
    if len(entity) > most:
        drawn = np.sort(rng.choice(len(entity), most, replace=False))
        entity, slot = entity[drawn], slot[drawn]
    windows = window.slide(history.values, monitor.timesteps)
    result = np.empty((len(entity), *windows.shape[2:]), dtype=np.float32)
    for block in range(0, len(entity), _BLOCK):
        e, k = entity[block : block + _BLOCK], slot[block : block + _BLOCK]
        result[block : block + _BLOCK] = scaling.transform(windows[e, k], e, scales)
    return result


def _residuals(
    monitor: MonitorSection, history: History, scales: Scaling, chosen: NDArray[np.bool_], network: Model
) -> Float32:
    """Residual of the newest slot of each chosen window, NaN elsewhere: (E, K, F)."""
    windows = window.slide(history.values, monitor.timesteps)
    result = np.full((*chosen.shape, windows.shape[-1]), np.nan, dtype=np.float32)
    entity, slot = np.nonzero(chosen)
    for block in range(0, len(entity), _BLOCK):
        e, k = entity[block : block + _BLOCK], slot[block : block + _BLOCK]
        result[e, k] = network.residuals(scaling.transform(windows[e, k], e, scales), 1)[:, 0]
    return result


def _noise(residuals: Float32) -> tuple[Float32, Float32]:
    """Usual size of each metric's residual per entity and in the fleet: an upper quartile, never next to nothing."""
    fleet = _quantile(residuals.reshape(-1, residuals.shape[2]))
    fleet = np.maximum(np.nan_to_num(fleet, nan=1.0), _NOISE_FLOOR)
    own = np.stack([_quantile(entity) for entity in residuals])
    own = np.where(np.isnan(own), fleet, np.maximum(own, _NOISE_FLOOR))
    return own.astype(np.float32), fleet.astype(np.float32)


def _quantile(residuals: Float32) -> NDArray[np.float64]:
    known = ~np.isnan(residuals)
    return np.array(
        [
            np.quantile(residuals[known[:, f], f], _NOISE_QUANTILE) if known[:, f].any() else np.nan
            for f in range(residuals.shape[1])
        ]
    )


def _padded(errors: Float32) -> Float32:
    """Room for the longest span before the first error."""
    return np.pad(errors, ((0, 0), (max(score.SPANS) - 1, 0)), constant_values=np.nan)


def span(monitor: MonitorSection, source: Source, now: int, start: int | None, end: int | None) -> tuple[int, int]:
    """What to train on: the newest `training.span` that has data, unless told otherwise; epoch milliseconds.

    Raises: ModelError if the source is empty.
    """
    extent = source.extent()
    if extent is None:
        msg = f"monitor {monitor.name!r}: its source has no samples at all; see: detector check"
        raise ModelError(msg)
    step = monitor.step_ms
    newest = min(grid.floor(extent[1], step) + step, grid.complete_until(now, step, milliseconds(monitor.delay)))
    end = newest if end is None else end
    start = max(extent[0], end - milliseconds(monitor.training.span)) if start is None else start
    return start, end
