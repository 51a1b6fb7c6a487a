"""Training history: the span that is read, who takes part, and the slot that divides training from calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from detector.config.sections import MonitorSection
from detector.core import grid, scaling, window
from detector.core.scaling import Scaling
from detector.core.series import Bool, History, Int64, Reason
from detector.errors import ModelError
from detector.ports import Source
from detector.times import milliseconds

VALIDATION = 0.15  # of the training windows' time, its newest part, decides when training stops
BASELINE_SLOTS = 60  # of history that the first baseline waits for: an hour at the usual step


@dataclass(frozen=True)
class Division:
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


def recent(monitor: MonitorSection, source: Source, *, now: int, trained_until: int) -> tuple[int, int]:
    """What to recalibrate on: the newest `training.span`, of which no model has learned; epoch milliseconds.

    trained_until: end of what the model was trained on; the last part of that was held out

    Raises: ModelError if the source is empty.
    """
    first, last = span(monitor, source, now=now)
    held_out = round(milliseconds(monitor.training.span) * monitor.training.holdout)
    return max(first, min(last, trained_until) - held_out), last


def divide(monitor: MonitorSection, history: History) -> Division:
    """Entities with enough data, the first slot of each, and the slot that divides its training from calibration."""
    slots = slots_with_data(history)
    needed = needed_slots(monitor)
    enough = np.flatnonzero(slots >= min(needed, max(int(slots.max(initial=0)), 1)))
    if not enough.size or slots.max() < needed:
        raise too_short(monitor, history)
    entities = tuple(history.entities[row] for row in enough.tolist())
    kept = replace(history, entities=entities, values=history.values[enough])
    has_data: Bool = np.any(~np.isnan(kept.values), axis=2)  # (E, L)
    seen = np.cumsum(has_data, axis=1)
    divide = (seen < (1.0 - monitor.training.holdout) * seen[:, -1:]).sum(axis=1)
    in_training = np.arange(has_data.shape[1]) < divide[:, None]
    scales = scaling.fit(np.where(in_training[:, :, None], kept.values, np.float32(np.nan)))
    return Division(monitor, kept, scales, has_data.argmax(axis=1), divide)


def slots_with_data(history: History) -> Int64:
    return np.asarray(np.any(~np.isnan(history.values), axis=2).sum(axis=1))


def needed_slots(monitor: MonitorSection) -> int:
    """Slots of history without which nothing is trained: a baseline needs few."""
    return monitor.minimum_slots if monitor.model.kind == "network" else min(BASELINE_SLOTS, monitor.minimum_slots)


def too_short(monitor: MonitorSection, history: History) -> ModelError:
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


def span(
    monitor: MonitorSection, source: Source, *, now: int, start: int | None = None, end: int | None = None
) -> tuple[int, int]:
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
