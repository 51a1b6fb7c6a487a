"""Surprises of recordings from residuals that are computed once: to compare noises, calibrations and spans."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detector.config.sections import MonitorSection
from detector.core import grid, score, window
from detector.core.series import Float32, Float64, Int64, Reason
from detector.core.threshold import Calibration
from detector.detect.history import read_history
from detector.detect.horizon import Horizon
from detector.detect.residuals import Selection, model_rows
from detector.detect.residuals import residuals as model_residuals
from detector.ports import ModelVersion
from detector.progress import silent
from detector.replay import groups, results
from detector.replay.groups import Group, MakeSource
from detector.replay.recordings import Recording


@dataclass(frozen=True)
class EntityResiduals:
    """One recording after its history, as far as residuals."""

    recording: Recording
    row: Int64  # (1,) in the model's per-entity arrays, −1 if the model has not seen the entity
    slots: Int64  # (K,) epoch milliseconds
    residuals: Float32  # (1, K, F) scaled units, NaN = unknown


def residuals(
    monitor: MonitorSection, recording: Recording, model: ModelVersion, *, make: MakeSource
) -> EntityResiduals | None:
    """Residuals of the slots that a replay would score, and of those it looks back on; None if it has no rows."""
    times, horizon = recording.time[groups.to_replay(recording)], Horizon.of(monitor)
    if not times.size:
        return None
    source = groups.source_of(Group(monitor, (recording,)), [groups.to_show(recording, horizon)], make)
    start = grid.floor(int(times.min()), horizon.step) - horizon.slots * horizon.step
    end = grid.floor(int(times.max()), horizon.step) + horizon.step
    history = read_history(horizon, source, start=start, end=end, progress=silent)
    row = model_rows(model, (recording.entity,))
    known = window.reasons(history.values, model.timesteps, max_missing=horizon.max_missing) == Reason.KNOWN
    found = model_residuals(
        model.network,
        Selection(history.values, row, history.slots, known),
        timesteps=model.timesteps,
        scales=model.artifact.scaling,
        rules=horizon.metric_rules,
    )
    return EntityResiduals(recording, row, history.slots[model.timesteps - 1 :], found)


def scores(
    monitor: MonitorSection,
    entity: EntityResiduals,
    *,
    noise: Float32,
    fleet_noise: Float32,
    calibration: Calibration,
) -> Float64:
    """Surprise of each row after the history, (R,), NaN = unknown; noise: (E, F), fleet_noise: (F,), as of a model."""
    row = entity.row
    errors, _ = score.error(entity.residuals, noise[row[0]] if row[0] >= 0 else fleet_noise)  # (1, K)
    found = calibration.surprise(calibration.smoothed(errors, row), row)[0].astype(np.float64)
    slots = entity.slots[-len(found) :]
    return results.result(entity.recording, monitor, slots=slots, scores=found, surprises=found, alerts=[]).surprise
