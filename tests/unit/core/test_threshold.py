"""Errors of normal data to a calibration: 1.0 is the alert budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detector.core import decide, score, threshold
from detector.core.decide import AlertStates, Change, Rules
from detector.core.series import Bool, Float32, Float64
from detector.core.threshold import TAIL, Calibration

NAN = math.nan
MINUTE = 60_000
SLOTS_PER_WEEK = 7 * 24 * 60
BASE = -math.log(TAIL)

RULES = Rules(
    open_slots=2,
    open_of=3,
    open_at_once=1.5,
    close_below=0.8,
    close_slots=5,
    close_unknown_slots=10_000,
    critical_at=2.0,
    critical_slots=10_000,
    reopen_slots=0,
    flapping_reopenings=10_000,
    flapping_slots=1,
)
SPANS = (1, 10)


def _spans(errors: Float32) -> Float32:
    """Errors (E, N) over both spans, (E, N, 2)."""
    before = np.pad(errors, ((0, 0), (max(SPANS) - 1, 0)), constant_values=NAN)
    return np.stack([score.smooth(before, span)[:, -errors.shape[1] :] for span in SPANS], axis=2)


def _calibrate(errors: Float32, budget: float = 1.0) -> Calibration:
    return threshold.calibrate(errors, spans=SPANS, rules=RULES, alert_budget_per_week=budget, step=MINUTE)


def _noise(entities: int, slots: int, *, seed: int) -> Float32:
    """Errors whose tail is exponential with mean 1, (E, N)."""
    return np.random.default_rng(seed).exponential(size=(entities, slots)).astype(np.float32)


def _threshold(calibration: Calibration, entity: int) -> float:
    """The error of one slot that has score 1.0, by bisection."""
    low, high = 0.0, 1e6
    for _ in range(80):
        middle = (low + high) / 2
        errors = np.array([[[middle, 0.0]]], dtype=np.float32)
        low, high = (low, middle) if calibration.score(errors, np.array([entity]))[0, 0] >= 1.0 else (middle, high)
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
    errors = np.array([[[NAN, NAN], [1.0, NAN], [1.0, 1.0]]], dtype=np.float32)

    assert np.isnan(_by_hand().score(errors, np.array([0]))).tolist() == [[True, False, False]]


def test_slots_are_settled_where_the_second_span_is_well_below_its_tail() -> None:
    errors = np.array([[[9.0, 1.5], [0.0, 1.7], [NAN, NAN]], [[9.0, 3.1], [0.0, 3.3], [0.0, NAN]]], dtype=np.float32)

    recovered = _by_hand().recovered(errors, np.array([0, -1]))

    # ⅘ of the starts, which are 2 and, of the fleet, 4
    assert recovered.tolist() == [[True, False, False], [True, False, False]]


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
    calibration = threshold.calibrate(
        threshold.smoothed(errors), spans=score.SPANS, rules=RULES, alert_budget_per_week=1.0, step=MINUTE
    )

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


def test_one_known_error_gives_a_wide_finite_level() -> None:
    calibration = _calibrate(np.array([[[NAN, NAN], [0.5, 0.5]]], dtype=np.float32), budget=2.0)

    # no peak: a mean excess of 1, widened by a quarter of it, over what one slot in a week and the budget of 2 ask for
    assert calibration.level == pytest.approx(BASE + 1.25 * math.log(SLOTS_PER_WEEK / 2.0))
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

    thresholds = [_threshold(_calibrate(errors[:, :slots]), 0) for slots in (50, 100, 20_000)]

    assert thresholds == sorted(thresholds, reverse=True)


def test_a_larger_budget_never_raises_the_threshold() -> None:
    errors = _spans(_noise(5, SLOTS_PER_WEEK, seed=3))

    levels = [_calibrate(errors, budget).level for budget in (0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0, 1e6)]

    assert levels == sorted(levels, reverse=True)
    assert levels[0] > levels[1] > levels[2] > levels[3]


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


def test_errors_that_are_all_alike_make_a_difference_of_a_hundredth_no_alert() -> None:
    calibration = _calibrate(np.full((2, 1000, 2), 2.0, dtype=np.float32))

    scores = calibration.score(np.array([[[2.02, 2.0]], [[20.0, 3.8]]], dtype=np.float32), np.array([0, 1]))

    assert scores[0, 0] < 1.0 < scores[1, 0]


def test_missing_errors_do_not_spoil_the_calibration() -> None:
    errors = _noise(2, 20_000, seed=8)
    holed = errors.copy()
    holed[:, 10_000:] = NAN

    assert _threshold(_calibrate(_spans(holed)), 0) == pytest.approx(_threshold(_calibrate(_spans(errors)), 0), rel=0.2)


HALF_OF_ONE = replace(RULES, open_at_once=2.0)


def _openings(row: list[float], recovered: tuple[int, ...] = (), rules: Rules = HALF_OF_ONE) -> list[float]:
    """The levels at which slots of one entity and span would open an alert."""
    is_recovered = np.zeros((1, len(row)), dtype=np.bool_)
    is_recovered[0, list(recovered)] = True
    opens = threshold.openings(np.array([row], dtype=np.float32)[..., None], is_recovered, rules)
    return [float(value) for value in opens[0, :, 0]]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([4.0], [2.0]),
        ([4.0, 6.0, 5.0], [2.0, 4.0, 5.0]),
        ([6.0, 1.0, 6.0, 1.0], [3.0, 1.0, 6.0, 1.0]),
        ([6.0, 1.0, 1.0, 6.0], [3.0, 1.0, 1.0, 3.0]),
        ([1.0, 9.0, 1.0], [0.5, 4.5, 1.0]),
        ([6.0, NAN, 5.0, NAN], [3.0, NAN, 5.0, NAN]),
        ([6.0, NAN, NAN, 5.0], [3.0, NAN, NAN, 2.5]),
    ],
)
def test_two_of_three_slots_open_at_the_lower_of_them_and_one_alone_at_half_of_it(
    row: list[float], expected: list[float]
) -> None:
    np.testing.assert_allclose(_openings(row), expected)


def test_all_of_three_slots_open_at_the_lowest() -> None:
    assert _openings([5.0, 4.0, 6.0, 7.0], rules=replace(RULES, open_slots=3, open_at_once=1e9))[2:] == [4.0, 4.0]


def test_a_settled_slot_opens_at_no_level_but_counts_for_the_next() -> None:
    assert _openings([4.0, 4.0, 4.0], recovered=(1,)) == [2.0, 0.0, 4.0]


def test_spans_open_apart() -> None:
    by_span = np.array([[[4.0, 1.0], [1.0, 4.0]]], dtype=np.float32)

    opens = threshold.openings(by_span, np.zeros((1, 2), dtype=np.bool_), HALF_OF_ONE)

    np.testing.assert_allclose(opens, [[[2.0, 0.5], [1.0, 2.0]]])


def _peaks(opens: list[list[float]], calm: list[int], spans: tuple[int, ...], reopen_slots: int = 0) -> list[float]:
    """Episode peaks at level 2 of one entity; one row for each span, calm slots by position."""
    is_calm = np.zeros((1, len(opens[0])), dtype=np.bool_)
    is_calm[0, calm] = True
    by_slot = np.array(opens, dtype=np.float32).T[None]
    rules = replace(RULES, close_slots=2, reopen_slots=reopen_slots)
    return sorted(threshold.episode_peaks(by_slot, is_calm, spans=spans, level=2.0, rules=rules).tolist())


def test_slots_of_one_episode_count_once_with_their_highest() -> None:
    assert _peaks([[0.0, 3.0, 1.0, 5.0, 2.5, 0.0, 0.0]], calm=[0, 2, 5, 6], spans=(1,)) == [5.0]


def test_after_enough_quiet_slots_a_new_episode_begins() -> None:
    assert _peaks([[3.0, 0.0, 0.0, 4.0, 0.0, 0.0]], calm=[1, 2, 4, 5], spans=(1,)) == [3.0, 4.0]


@pytest.mark.parametrize(("reopen_slots", "expected"), [(1, [3.0, 4.0]), (2, [4.0])])
def test_what_opens_again_soon_after_is_the_same_episode(reopen_slots: int, expected: list[float]) -> None:
    # closes at position 2, opens at 4
    assert _peaks([[3.0, 0.0, 0.0, 0.0, 4.0, 0.0]], [1, 2, 3, 5], (1,), reopen_slots) == expected


def test_an_episode_that_does_not_end_counts_too() -> None:
    assert _peaks([[1.9, 3.0, NAN, NAN, NAN]], calm=[], spans=(1,)) == [3.0]


def test_where_no_level_is_reached_there_is_no_episode() -> None:
    assert _peaks([[1.9, 1.9, NAN]], calm=[], spans=(1,)) == []


def test_a_span_that_reaches_back_to_a_closed_episode_begins_none() -> None:
    newest = [3.0] + [0.0] * 7
    remembers = [0.0, 3.5, 9.0, 9.0, 9.0, 9.0, 0.0, 0.0]  # closed at 2: told until 5, the first slot after is 6
    begins = [0.0, 3.5, 9.0, 9.0, 9.0, 9.0, 8.0, 0.0]

    assert _peaks([newest, remembers], calm=[1, 2], spans=(1, 4)) == [9.0]
    assert _peaks([newest, begins], calm=[1, 2], spans=(1, 4)) == [8.0, 9.0]


def test_entities_have_episodes_of_their_own() -> None:
    opens = np.array([[3.0, 0.0], [0.0, 4.0]], dtype=np.float32)[..., None]

    rules = replace(RULES, close_slots=2, reopen_slots=0)
    peaks = threshold.episode_peaks(opens, np.zeros((2, 2), dtype=np.bool_), spans=(1,), level=2.0, rules=rules)

    assert sorted(peaks.tolist()) == [3.0, 4.0]


@st.composite
def _scores(draw: st.DrawFn) -> tuple[Rules, Float32]:
    open_of = draw(st.integers(1, 4))
    rules = Rules(
        open_slots=draw(st.integers(1, open_of)),
        open_of=open_of,
        open_at_once=draw(st.sampled_from([1.0, 1.5, 6.0])),
        close_below=draw(st.sampled_from([0.5, 0.8, 1.0])),
        close_slots=draw(st.integers(max(1, open_of - 1), 5)),
        close_unknown_slots=10_000,
        critical_at=2.0,
        critical_slots=10_000,
        reopen_slots=draw(st.integers(0, 5)),
        flapping_reopenings=10_000,
        flapping_slots=1,
    )
    elements = st.sampled_from([NAN, 0.0, 0.5, 0.79, 0.8, 0.99, 1.0, 1.2, 1.7, 6.0])
    return rules, draw(arrays.arrays(np.float32, (2, draw(st.integers(1, 25)), 1), elements=elements))


@given(_scores())
def test_episodes_are_the_alerts_that_open(case: tuple[Rules, Float32]) -> None:
    rules, scores = case
    recovered: Bool = np.zeros(scores.shape[:2], dtype=np.bool_)

    calm = scores[..., 0] < rules.close_below
    opens = threshold.openings(scores, recovered, rules)
    peaks = threshold.episode_peaks(opens, calm, spans=(1,), level=decide.THRESHOLD, rules=rules)

    assert len(peaks) == _opened(scores, recovered, rules, spans=(1,)).sum()
    assert (peaks >= decide.THRESHOLD).all()


def _opened(scores: Float32, recovered: Bool, rules: Rules, *, spans: tuple[int, ...]) -> Float64:
    """Alerts of each entity that `decide` opens on scores (E, N, S)."""
    slots = MINUTE * np.arange(scores.shape[1], dtype=np.int64)
    before = ((0, 0), (rules.before, 0))
    _, events = decide.decide(
        AlertStates.none_open(len(scores)),
        np.pad(scores, (*before, (0, 0)), constant_values=NAN),
        np.pad(recovered, before),
        slots=slots,
        rules=rules,
        spans=spans,
        step=MINUTE,
    )
    entities = [event.entity for event in events if event.change is Change.OPENED]
    return np.bincount(np.array(entities, dtype=np.int64), minlength=len(scores)).astype(np.float64)


def _generalised_pareto(shape: float, count: int) -> Float64:
    """Quantiles of the law with scale 1.7, shuffled: x = scale · ((1 − p)^−shape − 1) / shape."""
    upper = 1.0 - (np.arange(1, count + 1) - 0.35) / count
    excess = -1.7 * np.log(upper) if shape == 0.0 else 1.7 * (upper**-shape - 1.0) / shape
    return np.random.default_rng(1).permutation(excess)


@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.3])
def test_the_shape_of_a_tail_is_found_again(shape: float) -> None:
    assert threshold._shape(_generalised_pareto(shape, 2000)) == pytest.approx(shape, abs=0.02)


def test_two_values_have_the_shape_of_their_first_two_moments() -> None:
    # weighted by 1 − 0.325 and 1 − 0.825: (1 · 0.675 + 3 · 0.175) / 2 = 0.6; mean 2
    assert threshold._shape(np.array([3.0, 1.0])) == pytest.approx(2.0 - 2.0 / (2.0 - 2 * 0.6))


@pytest.mark.parametrize("excess", [[], [1.0], [0.0, 0.0, 0.0]], ids=["none", "one", "all zero"])
def test_a_tail_that_tells_nothing_is_exponential(excess: list[float]) -> None:
    assert threshold._shape(np.array(excess)) == 0.0


@pytest.mark.parametrize(
    ("excess", "mean"),
    [([], 0.5 * 1.25), ([2.0], (2.0 + 3 * 0.5) / 4.0 * (1.0 + 0.25 / math.sqrt(2.0)))],
    ids=["no peak", "one peak"],
)
def test_few_peaks_lean_on_single_slots_and_are_widened(excess: list[float], mean: float) -> None:
    assert threshold._return_excess(np.array(excess), 0.5, 20.0) == pytest.approx(mean * math.log(20.0))


def test_many_peaks_speak_for_themselves() -> None:
    excess = _generalised_pareto(-0.2, 2000)

    # two thousand peaks are hardly moved by 3 of mean 1 and 15 of shape 0
    expected = 1.7 * (1000.0**-0.2 - 1.0) / -0.2
    assert threshold._return_excess(excess, 1.0, 1000.0) == pytest.approx(expected, rel=0.03)


def test_a_peak_far_beyond_the_others_is_taken_for_an_anomaly_and_shortened() -> None:
    usual = [2.0] * 9

    with_anomaly = threshold._return_excess(np.array([*usual, 1e6]), 1.0, 50.0)

    shortened = threshold._return_excess(np.array([*usual, 10.0 * 2.0 / math.log(2.0)]), 1.0, 50.0)
    assert with_anomaly == pytest.approx(shortened)


def test_a_budget_above_all_peaks_needs_no_excess() -> None:
    assert threshold._return_excess(np.array([1.0, 2.0]), 1.0, 0.5) == 0.0


_ERRORS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 80), st.just(2)),
    elements=st.one_of(st.just(NAN), st.sampled_from([0.0, 1.0]), st.floats(0, 20, width=32)),
)


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


@given(_ERRORS, st.floats(1e-3, 1e6))
def test_every_known_error_gets_a_finite_score(errors: Float32, budget: float) -> None:
    errors[0, 0] = 0.5

    scores = _calibrate(errors, budget).score(errors, np.arange(len(errors)))

    np.testing.assert_array_equal(np.isnan(scores), np.isnan(errors).all(axis=2))
    assert not np.isinf(scores).any()


def test_scores_are_relative_to_the_level() -> None:
    errors = np.array([[[3.0, 5.0]]], dtype=np.float32)
    calibration = _by_hand()

    doubled = replace(calibration, level=2 * calibration.level).score(errors, np.array([0]))

    np.testing.assert_allclose(2 * doubled, calibration.score(errors, np.array([0])), rtol=1e-6)


def _root_mean_square(residuals: Float64) -> Float64:
    return np.asarray(np.sqrt((residuals**2).mean(axis=2)))


Draw = Callable[[np.random.Generator, tuple[int, int]], Float64]
LAWS: dict[str, Draw] = {
    "absolute normal": lambda rng, shape: np.abs(rng.normal(size=shape)),
    "exponential": lambda rng, shape: rng.exponential(size=shape),
    "four Laplace metrics": lambda rng, shape: _root_mean_square(rng.laplace(size=(*shape, 4))),
    "four lognormal metrics": lambda rng, shape: _root_mean_square(rng.lognormal(size=(*shape, 4))),
    "four normal metrics": lambda rng, shape: _root_mean_square(rng.normal(size=(*shape, 4))),
}


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
def test_a_fleet_of_noise_opens_about_as_many_alerts_a_week_as_the_budget_says(law: str) -> None:
    entities, seeds, slots, budget = 10, 12, 30_000, 5.0
    everyone = np.arange(entities)
    scores, recovered = [], []

    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        before = threshold.smoothed(LAWS[law](rng, (entities, 4000)).astype(np.float32))
        after = LAWS[law](rng, (entities, slots + max(score.SPANS) - 1)).astype(np.float32)
        calibration = threshold.calibrate(
            before, spans=score.SPANS, rules=RULES, alert_budget_per_week=budget, step=MINUTE
        )
        errors = calibration.smoothed(after, everyone)
        scores.append(calibration.by_span(errors, everyone))
        recovered.append(calibration.recovered(errors, everyone))
    opened = _opened(np.concatenate(scores), np.concatenate(recovered), RULES, spans=score.SPANS)  # (seeds · entities,)

    per_week = opened.reshape(seeds, entities).sum(axis=1) * SLOTS_PER_WEEK / slots
    assert budget / 2 < np.median(per_week) < 2 * budget
