"""Usual residuals and thresholds, as trained and again on recent history."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from untrained import START, STEP, ExpectsTheMedian, FakeFit, IsDeaf, monitor_of, noise_history, trained_version

from detector.config.sections import ModelSection
from detector.core import threshold
from detector.core.series import History
from detector.detect import residuals
from detector.detect.residuals import Selection
from detector.errors import ModelError
from detector.ports import ModelVersion
from detector.train import calibrate
from detector.train.calibrate import Alerted
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


def _moved_further(history: History, trained: ModelVersion, factor: float) -> History:
    """The same history with every deviation from the median so many times as large."""
    center = trained.artifact.scaling.center[:, None]
    return replace(history, values=center + np.float32(factor) * (history.values - center))


@pytest.mark.parametrize("factor", [0.75, 1.0, 1.5, 10.0])
def test_drift_is_how_many_times_larger_usual_errors_have_become(factor: float) -> None:
    trained, recent = _twins()

    _, drift = calibrate.recalibrated(PLAN, trained, _moved_further(recent, trained, factor), left_out={})

    assert drift == pytest.approx(factor, rel=0.02)


@pytest.mark.parametrize(("factor", "followed"), [(0.75, 0.75), (1.5, 1.5), (10.0, 2.0), (0.01, 0.5)])
def test_a_recalibration_follows_the_drift_but_no_further_than_twice_or_half(factor: float, followed: float) -> None:
    trained, recent = _twins()

    calibration, _ = calibrate.recalibrated(PLAN, trained, _moved_further(recent, trained, factor), left_out={})

    np.testing.assert_allclose(calibration.start[:, 0], followed * trained.artifact.calibration.start[:, 0], rtol=0.02)
    np.testing.assert_allclose(
        calibration.fleet_start[0], followed * trained.artifact.calibration.fleet_start[0], rtol=0.02
    )


def test_what_was_alerted_does_not_count_in_a_recalibration() -> None:
    trained, recent = _twins()
    values = recent.values.copy()
    values[:, 100:200] += 1000.0
    recent = replace(recent, values=values)
    span = (recent.start + 100 * STEP, recent.start + 200 * STEP)

    left_out, counted = (
        calibrate.recalibrated(PLAN, trained, recent, left_out=spans)[1]
        for spans in ({name: [span] for name in recent.entities}, {})
    )

    assert left_out == pytest.approx(1.0, rel=0.1)
    assert counted > 2.0


def _alerts(*peaks_and_verdicts: tuple[float, str | None]) -> list[Alerted]:
    return [Alerted("web-1", n, n + 1, *what) for n, what in enumerate(peaks_and_verdicts)]


@pytest.mark.parametrize(
    ("promised", "left_out"),
    [
        (0.2, [1.2, 1.4, 3.0]),  # none of them is to be expected
        (0.5, [1.4, 3.0]),
        (1.4, [1.4, 3.0]),
        (2.0, [3.0]),
        (9.0, []),
    ],
)
def test_the_weakest_of_the_alerts_are_normal_as_many_as_are_promised(promised: float, left_out: list[float]) -> None:
    alerts = _alerts((3.0, None), (1.2, None), (1.4, None))

    assert sorted(alert.peak_score for alert in calibrate.unpromised(alerts, promised)) == left_out


def test_what_people_say_of_an_alert_goes_before_what_is_promised() -> None:
    alerts = _alerts((1.1, "real"), (3.0, "false"), (1.2, None), (1.4, None))

    assert {alert.peak_score for alert in calibrate.unpromised(alerts, 1.0)} == {1.1, 1.2, 1.4}
    assert {alert.peak_score for alert in calibrate.unpromised(alerts, 2.0)} == {1.1, 1.4}
    assert {alert.peak_score for alert in calibrate.unpromised(alerts, 0.0)} == {1.1, 1.2, 1.4}


def test_only_alerts_of_the_history_are_promised_in_it() -> None:
    _, recent = _twins()
    monitor = monitor_of()  # one alert a week
    weeks = (recent.end - recent.start) / (7 * 24 * 3_600_000)
    assert weeks < 0.5  # so that none is promised
    before = Alerted("web-1", recent.start - 10 * STEP, recent.start - STEP, 1.1)
    within = Alerted("web-2", recent.start - STEP, recent.start + STEP, 2.0)

    assert calibrate.not_normal(Plan.of(monitor), recent, [before, within]) == {"web-2": [(within.start, within.end)]}


def test_an_entity_without_recent_history_is_recalibrated_by_the_fleet() -> None:
    trained, recent = _twins()
    alone = replace(recent, entities=("web-1", "new"))

    calibration, _ = calibrate.recalibrated(PLAN, trained, alone, left_out={})

    assert calibration.start.shape == (2, 4)
    np.testing.assert_allclose(calibration.start[0], calibration.fleet_start, rtol=1e-6)


def test_a_recalibration_needs_an_hour_without_alerts() -> None:
    trained, recent = _twins()
    end = recent.start + 230 * STEP

    with pytest.raises(ModelError, match="recalibration needs 60 slots without alerts"):
        calibrate.recalibrated(
            PLAN,
            trained,
            recent,
            left_out={name: [(recent.start, end + 10 * STEP)] for name in recent.entities},
        )


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


@pytest.mark.parametrize("slots", [0, 1000], ids=["no slot", "slots of nobody"])
def test_a_history_of_no_entity_is_too_little_to_recalibrate_on(slots: int) -> None:
    trained, _ = _twins()
    nobody = History((), START, STEP, np.empty((0, slots, 2), dtype=np.float32))

    with pytest.raises(ModelError, match="recalibration needs"):
        calibrate.recalibrated(PLAN, trained, nobody, left_out={})


def test_a_metric_counts_as_had_if_it_usually_comes_beside_the_others() -> None:
    values = np.full((2, 240, 4), np.nan, dtype=np.float32)  # the newer slots are the last 60
    values[0, :, 0] = 1.0
    values[0, ::60, 1] = 1.0  # once an hour
    values[0, :170, 2] = 1.0  # given up before the newer slots
    values[0, 200:, 3] = 1.0  # since a while: 40 of 60
    values[1, :100, 2] = 1.0  # an entity that has been silent since

    assert calibrate.metrics_seen(values).tolist() == [[True, False, False, True], [False, False, True, False]]
