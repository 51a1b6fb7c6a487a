"""Errors of normal data to a calibration and surprises; return periods to scores: 1.0 is the alert budget."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detector.core import score, threshold
from detector.core.series import Float32
from detector.core.threshold import TAIL, Calibration

NAN = math.nan
SLOTS_PER_WEEK = 7 * 24 * 60
BASE = -math.log(TAIL)

SPANS = (1, 10)


def _spans(errors: Float32) -> Float32:
    """Errors (E, N) over both spans, (E, N, 2)."""
    before = np.pad(errors, ((0, 0), (max(SPANS) - 1, 0)), constant_values=NAN)
    return np.stack([score.smooth(before, span)[:, -errors.shape[1] :] for span in SPANS], axis=2)


def _calibrate(errors: Float32) -> Calibration:
    return threshold.calibrate(errors, spans=SPANS)


def _noise(entities: int, slots: int, *, seed: int) -> Float32:
    """Errors whose tail is exponential with mean 1, (E, N)."""
    return np.random.default_rng(seed).exponential(size=(entities, slots)).astype(np.float32)


def _threshold(calibration: Calibration, entity: int, surprise: float = 2 * BASE) -> float:
    """The error of one slot that surprises so much, by bisection."""
    low, high = 0.0, 1e6
    for _ in range(80):
        middle = (low + high) / 2
        errors = np.array([[[middle, 0.0]]], dtype=np.float32)
        reaches = calibration.surprise(errors, np.array([entity]))[0, 0] >= surprise
        low, high = (low, middle) if reaches else (middle, high)
    return high


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
    )


def test_the_most_surprising_span_counts() -> None:
    errors = np.array([[[1.0, 1.0]], [[0.5, 0.4]], [[0.5, 2.0 * math.e]]], dtype=np.float32)  # (B, 1, S)

    surprises = _by_hand().surprise(errors, np.array([0, 0, 0]))

    np.testing.assert_allclose(surprises[:, 0], [BASE, 0.5 * BASE, BASE + 1.0], rtol=1e-6)


def test_an_entity_that_appears_is_measured_by_the_fleet() -> None:
    errors = np.array([[[4.0, 0.0]]], dtype=np.float32)

    assert _by_hand().surprise(errors, np.array([-1]))[0, 0] == pytest.approx(BASE)


def test_new_entities_leave_the_calibration_as_it_was() -> None:
    calibration = _by_hand()

    calibration.surprise(np.ones((1, 1, 2), np.float32), np.array([-1]))

    assert calibration.start.tolist() == [[1.0, 2.0]]


def test_an_unknown_error_has_an_unknown_surprise() -> None:
    errors = np.array([[[NAN, NAN], [1.0, NAN], [1.0, 1.0]]], dtype=np.float32)

    assert np.isnan(_by_hand().surprise(errors, np.array([0]))).tolist() == [[True, False, False]]


def test_one_slot_counts_in_a_longer_span_as_no_more_than_a_multiple_of_the_start_of_its_tail() -> None:
    errors = np.zeros((2, max(score.SPANS)), dtype=np.float32)
    errors[:, -1] = 100.0

    smoothed = _by_hand().smoothed(errors, np.array([0, -1]))

    limits = threshold.LIMIT * np.array([1.0, 4.0])  # starts of the entity and of the fleet
    expected = np.stack([[100.0, 100.0], limits / 10, limits / 60, limits / 120], axis=1)
    np.testing.assert_allclose(smoothed[:, 0], expected, rtol=1e-6)


def test_errors_to_calibrate_with_are_smoothed_from_the_first_slot_on() -> None:
    errors = np.full((1, 151), 2.0, dtype=np.float32)
    errors[0, -1] = 1000.0

    smoothed = threshold.smoothed(errors)[0]

    assert (~np.isnan(smoothed)).argmax(axis=0).tolist() == [0, 4, 29, 59]  # half of each span
    more = threshold.LIMIT * 2.0 - 2.0  # by which the last slot counts more than the others in the longer spans
    np.testing.assert_allclose(smoothed[-1], [1000.0, 2 + more / 10, 2 + more / 60, 2 + more / 120], rtol=1e-6)


def test_a_calibration_smooths_as_the_errors_it_comes_from_were_smoothed() -> None:
    errors = np.exp(_noise(3, 400, seed=1))
    calibration = threshold.calibrate(threshold.smoothed(errors), spans=score.SPANS)

    before = np.pad(errors, ((0, 0), (max(score.SPANS) - 1, 0)), constant_values=NAN)
    smoothed = calibration.smoothed(before, np.arange(3))

    np.testing.assert_allclose(smoothed, threshold.smoothed(errors), rtol=1e-6)


@pytest.mark.parametrize(
    ("ordinary", "large", "decay"), [(50, 1, 2.0), (197, 4, 1.5), (785, 16, 1.25)], ids=["one", "four", "sixteen"]
)
def test_the_tail_of_an_entity_is_the_mean_logarithm_above_its_start_and_two_standard_errors_wide(
    ordinary: int, large: int, decay: float
) -> None:
    # 1 is the 98th percentile and the tail lies at e: the logarithm is 1, its standard error 1/√n
    errors = np.array([[1.0] * ordinary + [math.e] * large], dtype=np.float32)

    calibration = _calibrate(np.stack([errors, errors], axis=2))

    assert calibration.start[0, 0] == pytest.approx(1.0)
    assert calibration.decay[0, 0] == pytest.approx(decay)


def test_a_longer_span_that_hardly_moves_is_not_taken_to_fall_much_faster_than_the_newest_slot() -> None:
    newest = np.array([[1.0] * 197 + [math.e] * 4], dtype=np.float32)  # decay 1.5, as above

    calibration = _calibrate(np.stack([newest, np.ones_like(newest)], axis=2))

    apart = TAIL * 201 / 10  # excesses that have no slot in common
    assert calibration.decay[0, 1] == pytest.approx((apart * 0.15 + 3.0 * 1.5) / (apart + 3.0))


def test_without_one_known_error_there_is_nothing_to_calibrate() -> None:
    with pytest.raises(ValueError, match="at least one known value"):
        _calibrate(np.full((2, 5, 2), NAN, dtype=np.float32))


def test_one_known_error_gives_a_wide_tail() -> None:
    calibration = _calibrate(np.array([[[NAN, NAN], [0.5, 0.5]]], dtype=np.float32))

    assert calibration.start.tolist() == [[0.5, 0.5]]
    assert calibration.decay.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("entities", "slots"), [(20, SLOTS_PER_WEEK), (1, SLOTS_PER_WEEK), (3, 1500)])
def test_the_threshold_is_not_deaf(entities: int, slots: int, seed: int) -> None:
    errors = _noise(entities, slots, seed=seed)

    calibration = _calibrate(_spans(errors))

    assert all(_threshold(calibration, entity) < 5 * errors.max() for entity in range(entities))


@pytest.mark.parametrize("seed", range(3))
def test_hardly_any_data_give_a_wider_threshold(seed: int) -> None:
    errors = _spans(_noise(3, 20_000, seed=seed))

    *few, many = [_threshold(_calibrate(errors[:, :slots]), 0) for slots in (50, 100, 20_000)]

    assert min(few) > many


def test_the_threshold_does_not_depend_on_the_unit_of_errors() -> None:
    errors = _spans(_noise(3, 5000, seed=4))

    in_units, in_thousandths = _calibrate(errors), _calibrate(1000 * errors)

    assert _threshold(in_thousandths, 0) == pytest.approx(1000 * _threshold(in_units, 0), rel=1e-2)


def test_a_noisier_entity_has_its_own_higher_threshold() -> None:
    errors = _noise(3, 20_000, seed=5)
    errors[1] *= 10

    calibration = _calibrate(_spans(errors))

    assert _threshold(calibration, 1) > 5 * _threshold(calibration, 0)


@pytest.mark.parametrize("known", [0, 1, 49])
def test_an_entity_with_too_few_errors_of_its_own_takes_the_tail_of_the_fleet(known: int) -> None:
    errors = _noise(3, 5000, seed=6)
    errors[2, known:] = NAN

    calibration = _calibrate(_spans(errors))

    np.testing.assert_allclose(calibration.start[2], calibration.fleet_start, rtol=1e-6)
    np.testing.assert_allclose(calibration.decay[2], calibration.fleet_decay, rtol=1e-6)


def test_one_restless_entity_does_not_deafen_those_that_appear() -> None:
    errors = _noise(5, 5000, seed=6)
    errors[0] *= 100

    with_it, without_it = _calibrate(_spans(errors)), _calibrate(_spans(errors[1:]))

    np.testing.assert_allclose(with_it.fleet_start, without_it.fleet_start, rtol=0.1)


def test_the_more_evidence_an_entity_has_the_nearer_it_is_to_its_own_tail() -> None:
    errors = _noise(4, 20_000, seed=7)
    errors[2:] *= 10
    errors[2, 500:] = NAN

    calibration = _calibrate(_spans(errors))

    own = np.quantile(errors[3].astype(np.float64), 1 - TAIL)
    assert calibration.start[0, 0] < calibration.start[2, 0] < calibration.start[3, 0]
    assert calibration.start[3, 0] == pytest.approx(own, rel=0.1)


def test_an_entity_leans_on_the_fleet_as_much_as_five_excesses_weigh() -> None:
    errors = np.ones((3, 2000, 2), dtype=np.float32)
    errors[2] *= 9.0
    errors[2, 250:] = NAN  # 5 excesses: half its own, half the fleet's

    calibration = _calibrate(errors)

    np.testing.assert_allclose(calibration.fleet_start, [1.0, 1.0])
    np.testing.assert_allclose(calibration.start[2], [(9.0 + 1.0) / 2] * 2)


def test_errors_that_are_all_alike_make_a_difference_of_a_hundredth_no_great_surprise() -> None:
    calibration = _calibrate(np.full((2, 1000, 2), 2.0, dtype=np.float32))

    surprises = calibration.surprise(np.array([[[2.02, 2.0]], [[20.0, 3.8]]], dtype=np.float32), np.array([0, 1]))

    # they fall by a factor e in .15 at the fastest
    np.testing.assert_allclose(surprises[:, 0], [BASE + math.log(1.01) / 0.15, BASE + math.log(10.0) / 0.15], rtol=1e-5)


def test_missing_errors_do_not_spoil_the_calibration() -> None:
    errors = _noise(2, 20_000, seed=8)
    holed = errors.copy()
    holed[:, 10_000:] = NAN

    assert _threshold(_calibrate(_spans(holed)), 0) == pytest.approx(_threshold(_calibrate(_spans(errors)), 0), rel=0.2)


_ERRORS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 80), st.just(2)),
    elements=st.one_of(st.just(NAN), st.sampled_from([0.0, 1.0]), st.floats(0, 20, width=32)),
)


@pytest.mark.slow
@given(_ERRORS)
def test_no_calibration_is_ever_zero_infinite_or_unknown(errors: Float32) -> None:
    errors[0, 0] = 0.5

    calibration = _calibrate(errors)

    for start in (calibration.start, calibration.fleet_start):
        assert np.isfinite(start).all()
        assert (start >= 0).all()
    for decay in (calibration.decay, calibration.fleet_decay):
        assert np.isfinite(decay).all()
        assert (decay > 0).all()


@given(_ERRORS)
def test_every_known_error_gets_a_finite_surprise(errors: Float32) -> None:
    errors[0, 0] = 0.5

    surprises = _calibrate(errors).surprise(errors, np.arange(len(errors)))

    np.testing.assert_array_equal(np.isnan(surprises), np.isnan(errors).all(axis=2))
    assert not np.isinf(surprises).any()


def test_a_calibration_of_nobody_measures_whoever_appears() -> None:
    errors = np.array([[[2.0, 0.5, NAN, NAN], [NAN, NAN, NAN, NAN]]], dtype=np.float32)

    surprises = Calibration.none().surprise(errors, np.array([-1]))

    np.testing.assert_allclose(surprises, [[BASE + math.log(2.0), NAN]], rtol=1e-6)


@pytest.mark.parametrize(
    ("budget", "entities", "weeks"),
    [(1.0, 1, 1.0), (1.0, 10_000, 10_000.0), (0.2, 20, 100.0), (5.0, 1, 0.2), (2.0, 0, 0.5)],
)
def test_the_level_is_the_weeks_in_which_one_entity_may_have_one_alert(
    budget: float, entities: int, weeks: float
) -> None:
    assert threshold.level(budget, entities) == pytest.approx(math.log(weeks))


@pytest.mark.parametrize(
    ("beyond", "score"), [(0.0, 1.0), (4.0, 2.0), (8.0, 3.0), (-2.0, 0.5), (-4.0, 0.0), (-20.0, 0.0), (NAN, NAN)]
)
def test_a_score_is_one_at_the_level_and_one_more_for_every_four_nats(beyond: float, score: float) -> None:
    periods = np.array([[2.5 + beyond]], dtype=np.float32)

    np.testing.assert_allclose(threshold.scores(periods, 2.5), [[score]], rtol=1e-6)


def test_scores_are_single_precision() -> None:
    assert threshold.scores(np.zeros((2, 3), dtype=np.float32), math.log(7.0)).dtype == np.float32


@given(st.floats(1e-3, 1e3), st.integers(1, 100_000), st.floats(-30, 30), st.floats(0.01, 10))
def test_rarer_slots_and_larger_budgets_never_score_less(
    budget: float, entities: int, period: float, more: float
) -> None:
    periods = np.array([period, period + more], dtype=np.float32)

    strict, generous = (threshold.scores(periods, threshold.level(b, entities)) for b in (budget, 2 * budget))

    assert strict[0] <= strict[1]
    assert (strict <= generous).all()
