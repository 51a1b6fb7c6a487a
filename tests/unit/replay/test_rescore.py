"""Scores from residuals that are computed once are those of a replay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from untrained import FakeFit

from detector.config.sections import MonitorSection
from detector.ports import ModelVersion
from detector.progress import silent
from detector.replay import groups, rescore
from detector.replay.groups import Group
from detector.replay.recordings import Recording
from detector.sources.memory import MemorySource
from detector.train.division import Plan
from detector.train.fit import train

MINUTE = 60_000
ROWS, HISTORY = 700, 400


@pytest.fixture
def recording() -> Recording:
    values = np.random.default_rng(0).normal(size=(ROWS, 2))
    return Recording(
        entity="web-1",
        metrics=("cpu", "load"),
        written=["" for _ in range(ROWS)],
        time=np.arange(ROWS) * MINUTE,
        values=values,
        label=None,
        train_rows=HISTORY,
        step_ms=MINUTE,
    )


@pytest.fixture
def monitor() -> MonitorSection:
    return groups.settings(None, ["step=60s", "timesteps=10", "model.kind=baseline"], ["cpu", "load"])


def _model(monitor: MonitorSection, recording: Recording) -> ModelVersion:
    """A baseline trained on the recording's history."""
    plan = Plan.of(monitor)
    rows = [groups.to_train_on(recording, monitor)]
    source = groups.source_of(Group(monitor, (recording,)), rows, MemorySource.of)
    return train(plan, groups.training_history(plan.horizon, source, silent), FakeFit(), progress=silent)


def test_every_row_after_the_history_gets_a_score(recording: Recording, monitor: MonitorSection) -> None:
    model = _model(monitor, recording)

    found = rescore.residuals(monitor, recording, model, make=MemorySource.of)

    assert found is not None
    artifact = model.artifact
    scores = rescore.scores(
        monitor, found, noise=artifact.noise, fleet_noise=artifact.fleet_noise, calibration=artifact.calibration
    )
    assert scores.shape == (ROWS - HISTORY,)
    assert not np.isnan(scores).any()
    louder = rescore.scores(
        monitor,
        found,
        noise=np.float32(0.5) * artifact.noise,
        fleet_noise=artifact.fleet_noise,
        calibration=artifact.calibration,
    )
    assert (louder > scores).all()


def test_a_recording_without_rows_after_its_history_has_no_residuals(
    recording: Recording, monitor: MonitorSection
) -> None:
    model = _model(monitor, recording)

    only_history = replace(recording, train_rows=ROWS)

    assert rescore.residuals(monitor, only_history, model, make=MemorySource.of) is None
