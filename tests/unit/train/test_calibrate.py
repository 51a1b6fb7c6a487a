"""Usual residuals and thresholds of a trained version."""

from __future__ import annotations

import numpy as np
import pytest
from untrained import START, STEP, ExpectsTheMedian, FakeFit, IsDeaf, monitor_of, noise_history, trained_version

from detector.config.sections import ModelSection
from detector.core import score
from detector.core.news import STREAMS
from detector.core.series import History
from detector.core.threshold import TAIL
from detector.detect import residuals
from detector.detect.residuals import Selection
from detector.ports import ModelVersion
from detector.times import WEEK_MS
from detector.train import calibrate
from detector.train.division import Plan

PLAN = Plan.of(monitor_of())


@pytest.mark.slow
def test_noise_is_a_high_quantile_of_residuals_and_never_next_to_nothing() -> None:
    monitor = monitor_of(model=ModelSection(kind="baseline"))

    usual, deaf = (
        trained_version(monitor, noise_history(5000, 1), FakeFit(baseline_model=model()))
        for model in (ExpectsTheMedian, IsDeaf)
    )

    # |normal| has its 98th percentile at 2.326; of 1500 residuals two standard errors more is the 98.72nd, at 2.49
    np.testing.assert_allclose(usual.artifact.noise, [[2.49, 2.49]], rtol=0.1)
    np.testing.assert_allclose(usual.artifact.fleet_noise, usual.artifact.noise[0])
    np.testing.assert_allclose(deaf.artifact.noise, [[0.1, 0.1]])


def _twins() -> tuple[ModelVersion, History]:
    """A trained baseline and the part of its history that it was calibrated on."""
    history = noise_history(1000)
    trained = trained_version(monitor_of(model=ModelSection(kind="baseline")), history, FakeFit())
    first = 700  # the newest 30 %
    recent = History(history.entities, START + first * STEP, STEP, history.values[:, first:].copy())
    return trained, recent


def test_errors_of_the_calibration_part_surprise_as_often_as_the_tails_that_come_from_them_say() -> None:
    trained, recent = _twins()
    calibration, rows = trained.artifact.calibration, np.arange(2)

    everything = np.ones(recent.values.shape[:2], dtype=np.bool_)
    selection = Selection(recent.values, rows, recent.slots, everything)
    errors, _ = residuals.errors(trained, selection, PLAN.horizon.metric_rules)
    surprises = calibration.surprise(calibration.smoothed(errors, rows), rows)

    # of each span TAIL of all slots lie in the tail; the longest spans know only what comes after the first two hours
    share = float((surprises >= -np.log(TAIL)).mean())
    assert 0.5 * TAIL < share <= len(score.SPANS) * TAIL


def test_a_version_knows_what_is_usual_and_what_its_entities_have_shown_until_the_end_of_its_history() -> None:
    trained, recent = _twins()
    artifact = trained.artifact

    assert artifact.habits.usual.center.shape == (2, 2)
    assert artifact.experience.known.tolist() == [1000, 1000]
    assert (artifact.experience.peaks.aged == recent.end - STEP).all()
    net = artifact.experience.peaks.weeks[:, STREAMS.index("net1")]
    np.testing.assert_allclose(net, 300 * STEP / WEEK_MS, rtol=0.01)  # the newest 30 %; nothing has aged much


def test_a_metric_counts_as_had_if_it_usually_comes_beside_the_others() -> None:
    values = np.full((2, 240, 4), np.nan, dtype=np.float32)  # the newer slots are the last 60
    values[0, :, 0] = 1.0
    values[0, ::60, 1] = 1.0  # once an hour
    values[0, :170, 2] = 1.0  # given up before the newer slots
    values[0, 200:, 3] = 1.0  # since a while: 40 of 60
    values[1, :100, 2] = 1.0  # an entity that has been silent since

    assert calibrate.metrics_seen(values).tolist() == [[True, False, False, True], [False, False, True, False]]
