"""Models that need no training, and monitors and histories to train them on; TensorFlow is not loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from made_versions import OneSlot

from detector.config.sections import EmbeddedSource, ModelSection, MonitorSection
from detector.core.series import Bool, Float32, History, Windows
from detector.errors import ArtifactError, ModelError
from detector.ports import Fitted, Model, ModelVersion
from detector.progress import Progress, silent
from detector.train.division import Plan
from detector.train.fit import train

STEP, TIMESTEPS, START = 60_000, 10, 1_700_000_040_000


class ExpectsTheMedian:
    """What is left is the newest slot itself, in scaled units: finds whatever is large enough."""

    def __init__(self) -> None:
        self.asked: list[Windows] = []

    def residuals(self, windows: Windows) -> Float32:
        self.asked.append(windows)
        return windows.values[:, -1]


class IsDeaf(ExpectsTheMedian):
    """Leaves nothing, whatever happens."""

    def residuals(self, windows: Windows) -> Float32:
        return np.zeros_like(super().residuals(windows))


class CriesWolf(ExpectsTheMedian):
    """Is calm where it is calibrated and shown what is usual, the first two times, and beside itself ever after."""

    def residuals(self, windows: Windows) -> Float32:
        return super().residuals(windows) * (1.0 if len(self.asked) <= 2 else 1000.0)


@dataclass
class FakeFit:
    """Hands out models and remembers what they were to be fitted to."""

    network_model: Model = field(default_factory=ExpectsTheMedian)
    baseline_model: Model = field(default_factory=ExpectsTheMedian)
    trained_on: Windows | None = None
    validated_on: Windows | None = None
    days: float | None = None
    fitted_to: tuple[History, Bool] | None = None

    def network(self, windows: Windows, validation: Windows, *, days: float, seed: int, progress: Progress) -> Fitted:
        self.trained_on, self.validated_on, self.days = windows, validation, days
        return Fitted("network", self.network_model, OneSlot(TIMESTEPS), {}, {})

    def baseline(self, history: History, chosen: Bool) -> Fitted:
        self.fitted_to = history, chosen
        return Fitted("baseline", self.baseline_model, OneSlot(), {}, {})


def monitor_of(**changes: Any) -> MonitorSection:
    monitor = MonitorSection(
        name="web", source=EmbeddedSource(type="embedded"), metrics=("load", "errors"), timesteps=TIMESTEPS
    )
    return monitor.model_copy(update=changes)


Hole = tuple[slice | int, slice]
"""Entities and slots that are missing."""


def noise_history(slots: int, entities: int = 2, seed: int = 1, holes: Sequence[Hole] = ()) -> History:
    """Noise around 50, a standard deviation of 2."""
    values = np.random.default_rng(seed).normal(50.0, 2.0, (entities, slots, 2)).astype(np.float32)
    for hole in holes:
        values[hole] = np.nan
    return History(tuple(f"web-{row}" for row in range(entities)), START, STEP, values)


def trained_version(monitor: MonitorSection, history: History, fit: FakeFit, seed: int = 0) -> ModelVersion:
    """A version of a monitor, trained on a history."""
    return train(replace(Plan.of(monitor), seed=seed), history, fit, progress=silent)


def network_version(monitor: MonitorSection, history: History, model: Model | None = None) -> ModelVersion:
    """A version with such a network, which was not compared with a baseline; that takes most of a training."""
    alone = monitor.model_copy(update={"model": ModelSection(kind="network")})
    return trained_version(alone, history, FakeFit(model or ExpectsTheMedian()))


def found_by(trained: ModelVersion, kind: str) -> dict[str, float]:
    """Shares of the injected faults that a kind of model found."""
    return dict(trained.artifact.provenance["detectability"][kind])


class MemoryVersions:
    """The port `Versions` in memory; passes the same contract as the one on a database."""

    class Shared:
        """The memory that the versions of all monitors live in."""

        def __init__(self) -> None:
            self.saved: dict[int, tuple[str, ModelVersion]] = {}
            self.live: dict[str, int] = {}
            self.held_until: dict[str, int] = {}

    def __init__(self, shared: Shared, monitor: MonitorSection) -> None:
        self.shared = shared
        self._monitor = monitor

    def newest_number(self) -> int | None:
        return max((n for n, (name, _) in self.shared.saved.items() if name == self._monitor.name), default=None)

    def live_number(self) -> int | None:
        return self.shared.live.get(self._monitor.name)

    def live(self) -> ModelVersion | None:
        number = self.live_number()
        found = None if number is None else self.load(number)
        return found if found and found.artifact.provenance["fingerprint"] == self._monitor.fingerprint else None

    def load(self, number: int) -> ModelVersion:
        if number not in self.shared.saved:
            msg = f"no model version {number}"
            raise ArtifactError(msg)
        return self.shared.saved[number][1]

    def save(self, version: ModelVersion, now: int) -> int:
        number = 1 + max(self.shared.saved, default=0)
        provenance = {"created_at": now, **version.artifact.provenance}
        stored = replace(version, version=number, artifact=replace(version.artifact, provenance=provenance))
        self.shared.saved[number] = self._monitor.name, stored
        self.shared.live[self._monitor.name] = number
        return number

    @contextmanager
    def hold(self, now: int) -> Iterator[None]:
        name = self._monitor.name
        if self.shared.held_until.get(name, 0) > now:
            msg = f"monitor {name!r} is being trained by another process"
            raise ModelError(msg)
        self.shared.held_until[name] = now + 90_000
        try:
            yield
        finally:
            self.shared.held_until[name] = 0
