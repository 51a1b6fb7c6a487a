"""History to a model version: scale, train, calibrate on later data than was trained on."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from detector import scoring
from detector.config import MonitorSection, milliseconds
from detector.core import faults, frozen, grid, scaling, score, threshold, window
from detector.core.faults import Fault
from detector.core.scaling import Scaling
from detector.core.series import Bool, Float32, History, Int64, Reason, Spans, Windows
from detector.core.threshold import Calibration
from detector.errors import ModelError
from detector.ports import Model, ModelVersion, Source
from detector.reading import Progress

logger = logging.getLogger(__name__)

VALIDATION = 0.15  # of the training windows' time, its newest part, decides when training stops
BASELINE_SLOTS = 60  # of history that the first baseline waits for: an hour at the usual step

MOST_DRIFT = 2.0  # by which a recalibration may change usual errors

FAULTS_PER_KIND = 64
FAULT_SLOTS = 30
FAULT_SIZES = (2.0, 4.0, 8.0)  # scaled units
FAULT_SHARE = 0.25  # of the metrics that a fault shows in at most; at least one
_CLEARLY = 1.2  # times as many faults as the network a baseline must find to take its place

_NOISE_QUANTILE = 0.98
_NOISE_FLOOR = 0.1  # scaled units; a metric rebuilt better than this is as good as perfectly rebuilt
_DAY_MS = 86_400_000
_WEEK_MS = 7 * _DAY_MS


@dataclass(frozen=True)
class Fitted:
    """A model fitted to data, not calibrated yet."""

    kind: str
    model: Model
    timesteps: int  # slots of the windows it reads
    spec: Any  # what its artifact keeps beside the weights
    weights: dict[str, NDArray[Any]]
    facts: dict[str, Any]


class Fit(Protocol):
    """Fits the models of a monitor; made by `wiring`."""

    def network(self, windows: Windows, validation: Windows, *, days: float, seed: int, progress: Progress) -> Fitted:
        """A network trained on scaled windows from so many days."""

    def baseline(self, history: History, chosen: Bool) -> Fitted:
        """A seasonal baseline from scaled history (E, L, F) where `chosen` (E, L) is true."""


@dataclass(frozen=True)
class Trained:
    """A model version that is not stored yet."""

    model: ModelVersion
    fitted: Fitted
    provenance: dict[str, Any]


@dataclass(frozen=True)
class _Data:
    """History of the entities that take part, and how each one's is divided."""

    monitor: MonitorSection
    history: History
    scales: Scaling
    first: Int64  # (E,) first slot with data
    divide: Int64  # (E,) first slot of the calibration part

    @property
    def end(self) -> Int64:
        """End of each entity's data, (E,): the slot after its last one with any."""
        has_data: Bool = np.any(~np.isnan(self.history.values), axis=2)
        return np.asarray(has_data.shape[1] - has_data[:, ::-1].argmax(axis=1))

    @property
    def rows(self) -> Int64:
        return np.arange(len(self.history.entities))

    def known(self, timesteps: int) -> Bool:
        """Windows that can be scored, by newest slot: (E, L − timesteps + 1)."""
        missing = self.monitor.max_missing
        return np.asarray(window.reasons(self.history.values, timesteps, max_missing=missing) == Reason.KNOWN)

    def newest(self, timesteps: int) -> Int64:
        """Index of each window's newest slot."""
        return np.arange(self.history.values.shape[1] - timesteps + 1) + timesteps - 1

    def calibration(self, timesteps: int) -> Bool:
        """Windows to calibrate on, which share no slot with those trained on."""
        return self.known(timesteps) & (self.newest(timesteps) >= self.divide[:, None] + timesteps - 1)


def train(monitor: MonitorSection, history: History, fit: Fit, *, seed: int, progress: Progress) -> Trained:
    """A model version from history: the older part trains, the newer part calibrates.

    Each entity's own span is divided, so that entities which live at different times all take part in both. With
    `model.kind = "auto"` a baseline is fitted beside the network; both look for the same faults put into the newer
    part, at the same alert budget, and the network becomes the version unless the baseline finds clearly more.

    Raises: ModelError if there is too little history.
    """
    data = _divide(monitor, history)
    enough_for_network = int(_slots_with_data(data.history).max()) >= monitor.minimum_slots
    kind = monitor.model.kind
    found = []
    if kind != "baseline" and enough_for_network:
        try:
            fitted = _fit_network(data, fit, seed, lambda done, what: progress(0.85 * done, what))
            found.append(_calibrated(data, fitted))
        except ModelError as exc:
            if kind == "network":
                raise
            logger.warning("event=network_not_trained monitor=%s reason=%r", monitor.name, str(exc))
    if kind != "network":
        progress(0.85, "fitting the baseline")
        found.append(_calibrated(data, _fit_baseline(data, fit)))
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
    return Trained(model, fitted, provenance)


def _fit_network(data: _Data, fit: Fit, seed: int, progress: Progress) -> Fitted:
    monitor, timesteps = data.monitor, data.monitor.timesteps
    known, newest = data.known(timesteps), data.newest(timesteps)
    last_training = data.divide - ((data.divide - data.first) * VALIDATION).astype(np.int64)  # (E,)
    in_training = known & (newest < last_training[:, None])
    in_validation = known & (newest >= last_training[:, None]) & (newest < data.divide[:, None])
    if not (in_training.any() and in_validation.any() and data.calibration(timesteps).any()):
        raise _too_short(monitor, data.history)
    rng, most = np.random.default_rng(seed), monitor.training.max_windows
    windows = _draw(data, in_training, most, rng)
    validation = _draw(data, in_validation, max(1, most // 5), rng)
    days = float((data.divide - data.first).max()) * monitor.step_ms / _DAY_MS
    fitted = fit.network(windows, validation, days=days, seed=seed, progress=progress)
    return replace(fitted, facts=fitted.facts | {"training_windows": len(windows)})


def _draw(data: _Data, chosen: Bool, most: int, rng: np.random.Generator) -> Windows:
    """The chosen windows, at most `most` of them drawn at random."""
    indices = np.flatnonzero(chosen)
    if len(indices) > most:
        chosen = np.zeros_like(chosen)
        chosen.flat[np.sort(rng.choice(indices, most, replace=False))] = True
    history = data.history
    return scoring.gather(history.values, data.rows, history.slots, chosen, data.monitor.timesteps, data.scales)


def _fit_baseline(data: _Data, fit: Fit) -> Fitted:
    history = data.history
    scaled = scaling.transform(history.values, data.rows, data.scales)
    chosen = np.arange(scaled.shape[1]) < data.divide[:, None]
    return fit.baseline(replace(history, values=scaled), chosen)


def _calibrated(data: _Data, fitted: Fitted) -> tuple[ModelVersion, Fitted]:
    """The fitted model with each entity's usual residuals and the threshold, from the calibration part."""
    monitor, history, timesteps = data.monitor, data.history, fitted.timesteps
    chosen = data.calibration(timesteps)
    if not chosen.any():
        raise _too_short(monitor, history)
    residuals = scoring.residuals(
        fitted.model,
        timesteps,
        data.scales,
        scoring.metric_rules(monitor),
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
        rules=scoring.decision_rules(monitor),
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


def recent(monitor: MonitorSection, source: Source, now: int, trained_until: int) -> tuple[int, int]:
    """What to recalibrate on: the newest `training.span`, of which no model has learned; epoch milliseconds.

    trained_until: end of what the model was trained on; the last part of that was held out

    Raises: ModelError if the source is empty.
    """
    first, last = span(monitor, source, now, None, None)
    held_out = round(milliseconds(monitor.training.span) * monitor.training.holdout)
    return max(first, min(last, trained_until) - held_out), last


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
    weeks = (history.end - history.start) / _WEEK_MS
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
        scoring.metric_rules(monitor),
        values=values,
        rows=np.arange(len(values)),
        slots=history.slots,
        chosen=chosen,
    )
    fresh = threshold.calibrate(
        threshold.smoothed(errors),
        spans=score.SPANS,
        rules=scoring.decision_rules(monitor),
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


def finds_faults(data: _Data, model: ModelVersion, rng: np.random.Generator) -> Bool:
    """Which faults put into the calibration part would open an alert: kind after kind, `FAULTS_PER_KIND` of each.

    What would have opened one without the fault is not found. The same `rng` puts the same faults. Empty if no entity
    has enough history for a fault and what is looked back on before it.
    """
    monitor, history = data.monitor, data.history
    before = monitor.timesteps - 1 + max(score.SPANS) - 1 + scoring.decision_rules(monitor).memory
    length = before + FAULT_SLOTS
    able = np.flatnonzero(data.end - data.first >= length)
    if not able.size:
        return np.zeros(0, dtype=np.bool_)
    kinds = [kind for kind in Fault for _ in range(FAULTS_PER_KIND)]
    rows = rng.choice(able, len(kinds))
    latest = data.end[rows] - length
    earliest = np.minimum(np.maximum(data.divide[rows] - before, data.first[rows]), latest)
    starts = rng.integers(earliest, latest + 1)
    clean = np.stack([history.values[row, start : start + length] for row, start in zip(rows, starts, strict=True)])
    faulty = clean.copy()  # (C, length, F)
    metrics = clean.shape[2]
    for n, (kind, row) in enumerate(zip(kinds, rows.tolist(), strict=True)):
        count = int(rng.integers(1, max(1, int(FAULT_SHARE * metrics)) + 1))
        size = float(rng.choice(FAULT_SIZES))
        for metric in rng.choice(metrics, count, replace=False).tolist():
            strength = size * float(data.scales.scale[row, metric])
            faulty[n] = faults.inject(faulty[n], kind, begin=before, metric=metric, size=strength, rng=rng)
    return _opens(data, model, faulty, rows, starts) & ~_opens(data, model, clean, rows, starts)


def shares(found: Bool) -> dict[str, float]:
    """Share of the faults of `finds_faults` that was found, by kind and in "all"."""
    by_kind = zip(Fault, found.reshape(len(Fault), -1).mean(axis=1).tolist(), strict=True)
    return {kind.value: round(share, 3) for kind, share in by_kind} | {"all": round(float(found.mean()), 3)}


def _opens(data: _Data, model: ModelVersion, values: Float32, rows: Int64, starts: Int64) -> Bool:
    """Whether each of some pieces of history (C, length, F) opens an alert in its last `FAULT_SLOTS`."""
    monitor, timesteps = data.monitor, model.timesteps
    known = window.reasons(values, timesteps, max_missing=monitor.max_missing) == Reason.KNOWN
    errors = np.full(known.shape, np.nan, dtype=np.float32)
    for begin in np.unique(starts).tolist():  # pieces that begin together have their slots in common
        same = starts == begin
        slots = data.history.slots[begin : begin + values.shape[1]]
        errors[same], _ = scoring.errors(
            model, scoring.metric_rules(monitor), values=values[same], rows=rows[same], slots=slots, chosen=known[same]
        )
    smoothed = model.calibration.smoothed(errors, rows)
    scores, settled = model.calibration.by_span(smoothed, rows), model.calibration.settled(smoothed, rows)
    opens = threshold.openings(scores, settled, scoring.decision_rules(monitor))[:, -FAULT_SLOTS:]
    return np.asarray((opens >= 1.0).any(axis=(1, 2)))


def _divide(monitor: MonitorSection, history: History) -> _Data:
    """Entities with enough data, the first slot of each, and the slot that divides its training from calibration."""
    slots = _slots_with_data(history)
    needed = needed_slots(monitor)
    enough = np.flatnonzero(slots >= min(needed, max(int(slots.max(initial=0)), 1)))
    if not enough.size or slots.max() < needed:
        raise _too_short(monitor, history)
    entities = tuple(history.entities[row] for row in enough.tolist())
    kept = replace(history, entities=entities, values=history.values[enough])
    has_data: Bool = np.any(~np.isnan(kept.values), axis=2)  # (E, L)
    seen = np.cumsum(has_data, axis=1)
    divide = (seen < (1.0 - monitor.training.holdout) * seen[:, -1:]).sum(axis=1)
    in_training = np.arange(has_data.shape[1]) < divide[:, None]
    scales = scaling.fit(np.where(in_training[:, :, None], kept.values, np.float32(np.nan)))
    return _Data(monitor, kept, scales, has_data.argmax(axis=1), divide)


def _slots_with_data(history: History) -> Int64:
    return np.asarray(np.any(~np.isnan(history.values), axis=2).sum(axis=1))


def needed_slots(monitor: MonitorSection) -> int:
    """Slots of history without which nothing is trained: a baseline needs few."""
    return monitor.minimum_slots if monitor.model.kind == "network" else min(BASELINE_SLOTS, monitor.minimum_slots)


def _too_short(monitor: MonitorSection, history: History) -> ModelError:
    longest = int((~np.isnan(history.values).all(axis=2)).sum(axis=1).max(initial=0)) if history.entities else 0
    missing = max(0, needed_slots(monitor) - longest)
    hours = math.ceil(missing * monitor.step_ms / 360_000) / 10
    wait = f"wait {hours:.1f} h, or lower `training.minimum_slots` or `timesteps`"
    advice = wait if missing else "its windows have gaps: fill them, or raise `max_missing`"
    start, end = (datetime.fromtimestamp(at / 1000, UTC).strftime("%F %T") for at in (history.start, history.end))
    msg = (
        f"monitor {monitor.name!r}: training needs {needed_slots(monitor)} slots of {monitor.step_ms / 1000:g} s"
        f" with data and windows of {monitor.timesteps} slots without large gaps; the longest entity has {longest}"
        f" between {start} and {end} UTC; {advice}"
    )
    return ModelError(msg)


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
