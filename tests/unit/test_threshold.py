"""Errors of normal data to a calibration: 1.0 is the alert budget."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detector.core import threshold
from detector.core.series import Float32
from detector.core.threshold import TAIL, Calibration

NAN = math.nan
MINUTE = 60_000
SLOTS_PER_WEEK = 7 * 24 * 60
BASE = -math.log(TAIL)


def _calibrate(errors: Float32, budget: float = 1.0) -> Calibration:
    return threshold.calibrate(errors, alert_budget_per_week=budget, step=MINUTE)


def _noise(entities: int, slots: int, *, seed: int) -> Float32:
    """Errors whose tail is exponential with mean 1, (E, N, 1)."""
    return np.random.default_rng(seed).exponential(size=(entities, slots, 1)).astype(np.float32)


def _threshold(calibration: Calibration, entity: int) -> float:
    """The error that has score 1.0, by bisection."""
    low, high = 0.0, 1e6
    for _ in range(80):
        middle = (low + high) / 2
        score = calibration.score(np.array([[[middle]]], dtype=np.float32), np.array([entity]))[0, 0]
        low, high = (low, middle) if score >= 1.0 else (middle, high)
    return high


def _expected_per_week(calibration: Calibration) -> float:
    """How often exponential errors reach score 1.0 in a week over all entities: P(error ≥ x) = e^−x."""
    entities = range(len(calibration.start))
    return SLOTS_PER_WEEK * sum(math.exp(-_threshold(calibration, entity)) for entity in entities)


def _surprise(error: float, *, start: float = 3.0, decay: float = 0.5) -> float:
    return float(threshold.surprise(*(np.array([value], dtype=np.float32) for value in (error, start, decay)))[0])


def test_surprise_at_the_start_of_the_tail_is_that_of_its_share() -> None:
    assert _surprise(3.0) == pytest.approx(-math.log(TAIL))


@pytest.mark.parametrize("part", [0.0, 0.25, 0.5, 1.0])
def test_surprise_below_the_tail_grows_in_proportion_to_the_error(part: float) -> None:
    assert _surprise(part * 3.0) == pytest.approx(part * -math.log(TAIL))


def test_surprise_grows_all_the_way() -> None:
    surprises = [_surprise(error) for error in np.linspace(0, 30, 200)]

    assert surprises == sorted(surprises)
    assert len(set(surprises)) == len(surprises)


def test_the_slower_the_tail_falls_the_less_an_error_surprises() -> None:
    assert _surprise(6.0, decay=1.0) < _surprise(6.0, decay=0.5)


@pytest.mark.parametrize("error", [0.0, 1e-30, 1.0, 1e6])
@pytest.mark.parametrize("start", [0.0, 1e-9, 1.0, 1e6])
def test_surprise_is_always_a_number(error: float, start: float) -> None:
    assert not math.isnan(_surprise(error, start=start))


def _by_hand() -> Calibration:
    return Calibration(
        start=np.array([[1.0, 2.0]], dtype=np.float32),
        decay=np.array([[0.5, 1.0]], dtype=np.float32),
        fleet_start=np.array([4.0, 4.0], dtype=np.float32),
        fleet_decay=np.array([1.0, 1.0], dtype=np.float32),
        level=2 * BASE,
    )


def test_the_score_is_that_of_the_strangest_span() -> None:
    errors = np.array([[[1.0, 1.0]], [[0.5, 0.4]]], dtype=np.float32)  # (B, 1, S)

    scores = _by_hand().score(errors, np.array([0, 0]))

    np.testing.assert_allclose(scores[:, 0], [0.5, 0.25], rtol=1e-6)


def test_an_entity_that_appears_is_scored_by_the_fleet() -> None:
    errors = np.array([[[4.0, 0.0]]], dtype=np.float32)

    assert _by_hand().score(errors, np.array([-1]))[0, 0] == pytest.approx(0.5)


def test_scoring_new_entities_leaves_the_calibration_as_it_was() -> None:
    calibration = _by_hand()

    calibration.score(np.ones((1, 1, 2), np.float32), np.array([-1]))

    assert calibration.start.tolist() == [[1.0, 2.0]]


def test_an_unknown_error_has_an_unknown_score() -> None:
    errors = np.array([[[NAN, NAN], [1.0, 1.0]]], dtype=np.float32)

    assert np.isnan(_by_hand().score(errors, np.array([0]))).tolist() == [[True, False]]


def test_without_one_known_error_there_is_nothing_to_calibrate() -> None:
    with pytest.raises(ValueError, match="at least one known value"):
        _calibrate(np.full((2, 5, 1), NAN, dtype=np.float32))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("budget", [0.1, 1.0, 20.0, 200.0])
@pytest.mark.parametrize(("entities", "slots"), [(20, SLOTS_PER_WEEK), (1, SLOTS_PER_WEEK), (3, 1500)])
def test_the_alert_budget_is_not_exceeded_on_noise(entities: int, slots: int, budget: float, seed: int) -> None:
    calibration = _calibrate(_noise(entities, slots, seed=seed), budget)

    # fitted to some tens of excesses a tail is off by one in five, which is a factor of two or three in its rate
    assert _expected_per_week(calibration) < 3 * budget


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("entities", "slots"), [(20, SLOTS_PER_WEEK), (1, SLOTS_PER_WEEK), (3, 1500)])
def test_the_threshold_is_not_deaf(entities: int, slots: int, seed: int) -> None:
    errors = _noise(entities, slots, seed=seed)

    calibration = _calibrate(errors, budget=1.0)

    assert all(_threshold(calibration, entity) < 5 * errors.max() for entity in range(entities))


def test_a_larger_budget_never_raises_the_threshold() -> None:
    errors = _noise(5, SLOTS_PER_WEEK, seed=3)

    levels = [_calibrate(errors, budget).level for budget in (0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0, 1e6)]

    assert levels == sorted(levels, reverse=True)


def test_the_threshold_does_not_depend_on_the_unit_of_errors() -> None:
    errors = _noise(3, 5000, seed=4)

    in_units, in_thousandths = _calibrate(errors), _calibrate(1000 * errors)

    assert _threshold(in_thousandths, 0) == pytest.approx(1000 * _threshold(in_units, 0), rel=1e-2)


def test_a_noisier_entity_has_its_own_higher_threshold() -> None:
    errors = _noise(3, 20_000, seed=5)
    errors[1] *= 10

    calibration = _calibrate(errors)

    assert _threshold(calibration, 1) > 5 * _threshold(calibration, 0)


@pytest.mark.parametrize("known", [0, 1, 49])
def test_an_entity_with_too_few_errors_of_its_own_takes_the_tail_of_the_fleet(known: int) -> None:
    errors = _noise(3, 5000, seed=6)
    errors[2, known:] = NAN

    calibration = _calibrate(errors)

    np.testing.assert_allclose(calibration.start[2], calibration.fleet_start, rtol=1e-6)
    np.testing.assert_allclose(calibration.decay[2], calibration.fleet_decay, rtol=1e-6)


def test_the_more_evidence_an_entity_has_the_nearer_it_is_to_its_own_tail() -> None:
    errors = _noise(4, 20_000, seed=7)
    errors[2:] *= 10
    errors[2, 500:] = NAN

    calibration = _calibrate(errors)

    own = np.quantile(errors[3].astype(np.float64), 1 - TAIL)
    assert calibration.start[0, 0] < calibration.start[2, 0] < calibration.start[3, 0]
    assert calibration.start[3, 0] == pytest.approx(own, rel=0.1)


def test_errors_that_are_all_alike_make_a_difference_of_a_hundredth_no_alert() -> None:
    calibration = _calibrate(np.full((2, 1000, 1), 2.0, dtype=np.float32))

    scores = calibration.score(np.array([[[2.02]], [[20.0]]], dtype=np.float32), np.array([0, 1]))

    assert scores[0, 0] < 1.0 < scores[1, 0]


def test_missing_errors_do_not_spoil_the_calibration() -> None:
    errors = _noise(2, 20_000, seed=8)
    holed = errors.copy()
    holed[:, ::2] = NAN

    assert _threshold(_calibrate(holed), 0) == pytest.approx(_threshold(_calibrate(errors), 0), rel=0.2)


_ERRORS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 80), st.just(2)),
    elements=st.one_of(st.just(NAN), st.sampled_from([0.0, 1.0]), st.floats(0, 20, width=32)),
)


@settings(deadline=None)
@given(_ERRORS, st.floats(1e-3, 1e6))
def test_no_calibration_is_ever_zero_infinite_or_unknown(errors: Float32, budget: float) -> None:
    errors[0, 0] = 0.5

    calibration = _calibrate(errors, budget)

    assert 0.0 < calibration.level < math.inf
    for start in (calibration.start, calibration.fleet_start):
        assert np.isfinite(start).all()
        assert (start >= 0).all()
    for decay in (calibration.decay, calibration.fleet_decay):
        assert np.isfinite(decay).all()
        assert (decay > 0).all()


@settings(deadline=None)
@given(_ERRORS, st.floats(1e-3, 1e6))
def test_every_known_error_gets_a_finite_score(errors: Float32, budget: float) -> None:
    errors[0, 0] = 0.5

    scores = _calibrate(errors, budget).score(errors, np.arange(len(errors)))

    np.testing.assert_array_equal(np.isnan(scores), np.isnan(errors).any(axis=2))
    assert not np.isinf(scores).any()


def test_scores_are_relative_to_the_level() -> None:
    errors = np.array([[[3.0, 5.0]]], dtype=np.float32)
    calibration = _by_hand()

    doubled = replace(calibration, level=2 * calibration.level).score(errors, np.array([0]))

    np.testing.assert_allclose(2 * doubled, calibration.score(errors, np.array([0])), rtol=1e-6)
