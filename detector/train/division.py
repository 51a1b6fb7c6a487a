"""Training history: the span that is read, who takes part, and the slot that divides training from calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from detector.config.sections import MonitorSection
from detector.core import grid, scaling, window
from detector.core.scaling import Scaling
from detector.core.series import Bool, History, Int64, Reason, Samples
from detector.detect import pace
from detector.detect.horizon import Horizon
from detector.errors import ModelError
from detector.ports import Source
from detector.times import milliseconds

VALIDATION = 0.15
"""Share of the training windows' time, its newest part, that decides when training stops. Not varied."""

BASELINE_SLOTS = 60
"""Slots of history that the first baseline waits for: an hour at the usual step. Not varied."""


@dataclass(frozen=True)
class Plan:
    """Training of one monitor, computed once from its section."""

    horizon: Horizon
    kind: str  # auto, network, baseline
    fingerprint: str  # of the settings that its versions must fit
    alert_budget_per_week: float
    span: int  # milliseconds of history
    minimum_slots: int  # of history that a network waits for
    holdout: float  # share of the history to calibrate on
    max_windows: int
    seed: int

    @staticmethod
    def of(section: MonitorSection) -> Plan:
        """The plan of a configured monitor."""
        training = section.training
        return Plan(
            horizon=Horizon.of(section),
            kind=section.model.kind,
            fingerprint=section.fingerprint,
            alert_budget_per_week=section.threshold.alert_budget_per_week,
            span=milliseconds(training.span),
            minimum_slots=section.minimum_slots,
            holdout=training.holdout,
            max_windows=training.max_windows,
            seed=training.seed,
        )

    @property
    def needed_slots(self) -> int:
        """Slots of history without which nothing is trained; a baseline needs few."""
        return self.minimum_slots if self.kind == "network" else min(BASELINE_SLOTS, self.minimum_slots)


@dataclass(frozen=True)
class Division:
    """History of the entities that take part, each divided into a part to train on and a later one to calibrate on.

    Each entity's own span is divided, so that entities which live at different times all take part in both.
    """

    plan: Plan
    history: History
    scales: Scaling
    first: Int64  # (E,) first slot with data
    divide: Int64  # (E,) first slot of the calibration part

    @property
    def end(self) -> Int64:
        """End of each entity's data, (E,): the slot after its last one with any."""
        has_data = _has_data(self.history)
        return np.asarray(has_data.shape[1] - has_data[:, ::-1].argmax(axis=1))

    @property
    def rows(self) -> Int64:
        """Each entity's row in `scales`, (E,)."""
        return np.arange(len(self.history.entities))

    def known(self, timesteps: int) -> Bool:
        """True for windows that can be scored, by newest slot: (E, L − timesteps + 1)."""
        missing = self.plan.horizon.max_missing
        values = self.history.values
        had = np.any(~np.isnan(values), axis=1)  # (E, F) a metric that an entity never had is no gap
        return np.asarray(window.reasons(values, timesteps, max_missing=missing, expected=had) == Reason.KNOWN)

    def newest(self, timesteps: int) -> Int64:
        """Index of each window's newest slot, (L − timesteps + 1,)."""
        return np.arange(self.history.values.shape[1] - timesteps + 1) + timesteps - 1

    def calibration(self, timesteps: int) -> Bool:
        """True for windows to calibrate on, (E, L − timesteps + 1); they share no slot with those trained on."""
        return self.known(timesteps) & (self.newest(timesteps) >= self.divide[:, None] + timesteps - 1)


def divide(plan: Plan, history: History) -> Division:
    """The entities with enough data, divided.

    Raises: ModelError if none has enough.
    """
    slots = slots_with_data(history)
    needed = plan.needed_slots
    enough = np.flatnonzero(slots >= needed)
    if not enough.size:
        raise too_short(plan, history)
    entities = tuple(history.entities[row] for row in enough.tolist())
    kept = replace(history, entities=entities, values=history.values[enough])
    has_data = _has_data(kept)
    seen = np.cumsum(has_data, axis=1)
    divide = (seen < (1.0 - plan.holdout) * seen[:, -1:]).sum(axis=1)
    in_training = np.arange(has_data.shape[1]) < divide[:, None]
    scales = scaling.fit(np.where(in_training[:, :, None], kept.values, np.float32(np.nan)))
    return Division(plan, kept, scales, has_data.argmax(axis=1), divide)


def slots_with_data(history: History) -> Int64:
    """Slots of each entity with at least one value, (E,)."""
    return np.asarray(_has_data(history).sum(axis=1))


def _has_data(history: History) -> Bool:
    """True for slots with at least one value, (E, L)."""
    return np.asarray(np.any(~np.isnan(history.values), axis=2))


def too_short(plan: Plan, history: History) -> ModelError:
    """The error that says which step fits, how much history is missing, or that its windows have gaps."""
    horizon = plan.horizon
    longest = int(slots_with_data(history).max(initial=0))
    missing = max(0, plan.needed_slots - longest)
    hours = math.ceil(missing * horizon.step / 360_000) / 10
    wait = f"wait {hours:.1f} h, or lower `training.minimum_slots` or `timesteps`"
    advice = wait if missing else "its windows have gaps: fill them, or raise `max_missing`"
    advice = pace.too_fine_a_step(horizon, _fullest(history)) or advice
    start, end = (datetime.fromtimestamp(at / 1000, UTC).strftime("%F %T") for at in (history.start, history.end))
    msg = (
        f"monitor {horizon.monitor!r}: training needs {plan.needed_slots} slots of {horizon.step / 1000:g} s"
        f" with data and windows of {horizon.timesteps} slots without large gaps; the longest entity has {longest}"
        f" between {start} and {end} UTC; {advice}"
    )
    return ModelError(msg)


def _fullest(history: History) -> Samples:
    """The values of the entity with the most slots, each at the start of its slot."""
    fullest = slots_with_data(history).argsort()[-1:]  # (1,), or (0,) without any entity
    row, slot, metric = (found.astype(np.int32) for found in np.nonzero(~np.isnan(history.values[fullest])))
    return Samples(("",), row, metric, history.slots[slot], np.ones(len(slot)))


def span(plan: Plan, source: Source, *, now: int, start: int | None = None, end: int | None = None) -> tuple[int, int]:
    """Span to train on, epoch milliseconds: the newest `training.span` that has data, unless given.

    Raises: ModelError if the source is empty.
    """
    if start is not None and end is not None:
        return start, end  # whatever the source says of its extent: that of a query ends with its last 30 days
    extent = source.extent(now)
    if extent is None:
        msg = f"monitor {plan.horizon.monitor!r}: its source has no samples at all; see: detector check"
        raise ModelError(msg)
    step = plan.horizon.step
    newest = min(grid.floor(extent[1], step) + step, grid.complete_until(now, step, plan.horizon.delay))
    end = newest if end is None else end
    start = max(extent[0], end - plan.span) if start is None else start
    return start, end
