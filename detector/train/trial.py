"""Trial of a model version: the share it finds of faults injected into held-out history."""

from __future__ import annotations

import numpy as np

from detector.core import faults, score, threshold, window
from detector.core.faults import Fault
from detector.core.series import Bool, Float32, Int64, Reason
from detector.detect import residuals
from detector.detect.residuals import Selection
from detector.ports import ModelVersion
from detector.train.division import Division

FAULTS_PER_KIND = 64
FAULT_SLOTS = 30
FAULT_SIZES = (2.0, 4.0, 8.0)  # scaled units
FAULT_SHARE = 0.25  # of the metrics that a fault shows in at most; at least one


def finds_faults(data: Division, model: ModelVersion, rng: np.random.Generator) -> Bool:
    """Which faults put into the calibration part would open an alert: kind after kind, `FAULTS_PER_KIND` of each.

    What would have opened one without the fault is not found. The same `rng` puts the same faults. Empty if no entity
    has enough history for a fault and what is looked back on before it.
    """
    horizon, history = data.plan.horizon, data.history
    before = horizon.timesteps - 1 + max(score.SPANS) - 1 + horizon.rules.before
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
    opens, would_open = (_opens(data, model, values, rows=rows, starts=starts) for values in (faulty, clean))
    return opens & ~would_open


def shares(found: Bool) -> dict[str, float]:
    """Share of the faults of `finds_faults` that was found, by kind and in "all"."""
    by_kind = zip(Fault, found.reshape(len(Fault), -1).mean(axis=1).tolist(), strict=True)
    return {kind.value: round(share, 3) for kind, share in by_kind} | {"all": round(float(found.mean()), 3)}


def _opens(data: Division, model: ModelVersion, values: Float32, *, rows: Int64, starts: Int64) -> Bool:
    """Whether each of some pieces of history (C, length, F) opens an alert in its last `FAULT_SLOTS`."""
    horizon, timesteps = data.plan.horizon, model.timesteps
    known = window.reasons(values, timesteps, max_missing=horizon.max_missing) == Reason.KNOWN
    errors = np.full(known.shape, np.nan, dtype=np.float32)
    for begin in np.unique(starts).tolist():  # pieces that begin together have their slots in common
        same = starts == begin
        slots = data.history.slots[begin : begin + values.shape[1]]
        selection = Selection(values[same], rows[same], slots, known[same])
        errors[same], _ = residuals.errors(model, selection, horizon.metric_rules)
    calibration = model.artifact.calibration
    smoothed = calibration.smoothed(errors, rows)
    scores, recovered = calibration.by_span(smoothed, rows), calibration.recovered(smoothed, rows)
    opens = threshold.openings(scores, recovered, horizon.rules)[:, -FAULT_SLOTS:]
    return np.asarray((opens >= 1.0).any(axis=(1, 2)))
