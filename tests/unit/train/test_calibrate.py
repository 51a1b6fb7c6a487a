"""Usual residuals and thresholds of a trained version."""

from __future__ import annotations

import numpy as np
from untrained import START, STEP, ExpectsTheMedian, FakeFit, IsDeaf, monitor_of, noise_history, trained_version

from detector.config.sections import ModelSection
from detector.core import threshold
from detector.core.series import History
from detector.detect import residuals
from detector.detect.residuals import Selection
from detector.ports import ModelVersion
from detector.train import calibrate
from detector.train.division import Plan

PLAN = Plan.of(monitor_of())


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


def test_errors_of_the_calibration_part_have_scores_by_the_version_that_comes_from_it() -> None:
    trained, recent = _twins()
    calibration, rows = trained.artifact.calibration, np.arange(2)

    everything = np.ones(recent.values.shape[:2], dtype=np.bool_)
    selection = Selection(recent.values, rows, recent.slots, everything)
    errors, _ = residuals.errors(trained, selection, PLAN.horizon.metric_rules)
    scores = threshold.worst(calibration.by_span(calibration.smoothed(errors, rows), rows))

    # one alert a week in five hours of noise: nearly everything is below 1, and far from 0
    assert np.nanquantile(scores, 0.99) < 1.0
    assert np.nanmedian(scores) > 0.1


def test_a_metric_counts_as_had_if_it_usually_comes_beside_the_others() -> None:
    values = np.full((2, 240, 4), np.nan, dtype=np.float32)  # the newer slots are the last 60
    values[0, :, 0] = 1.0
    values[0, ::60, 1] = 1.0  # once an hour
    values[0, :170, 2] = 1.0  # given up before the newer slots
    values[0, 200:, 3] = 1.0  # since a while: 40 of 60
    values[1, :100, 2] = 1.0  # an entity that has been silent since

    assert calibrate.metrics_seen(values).tolist() == [[True, False, False, True], [False, False, True, False]]
