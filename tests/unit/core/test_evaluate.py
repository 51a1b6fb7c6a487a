"""Scores and alerts against labels: rows ranked, events found, and the floors any model must beat."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.core import evaluate
from detector.core.evaluate import Alerts, Judgement
from detector.core.series import Bool, Float64

NAN = math.nan
MINUTE = 60_000

Measure = Callable[[Float64, Bool], float]
Floor = Callable[[Float64, Float64], Float64]


def _label(marks: str) -> Bool:
    """One row a character, # where labelled."""
    return np.array([mark == "#" for mark in marks], dtype=np.bool_)


def _score(*values: float) -> Float64:
    return np.array(values, dtype=np.float64)


def _vus_pr_up_to_4(score: Float64, label: Bool) -> float:
    return evaluate.vus_pr(score, label, 4)


BOTH = pytest.mark.parametrize("measure", [evaluate.average_precision, _vus_pr_up_to_4])


def test_average_precision_is_the_mean_precision_at_the_positives() -> None:
    # falling: hit, miss, hit, miss; precision 1/1 at the first positive and 2/3 at the second
    assert evaluate.average_precision(_score(0.1, 0.4, 0.35, 0.8), _label("..##")) == pytest.approx((1 + 2 / 3) / 2)


def test_average_precision_flags_rows_of_equal_score_together() -> None:
    # two rows at once hold one positive, precision 1/2; the third row holds the other, 2/3
    assert evaluate.average_precision(_score(2, 2, 1, 0), _label("#.#.")) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_average_precision_of_a_score_that_says_nothing_is_the_share_of_positives() -> None:
    assert evaluate.average_precision(np.zeros(8), _label("..#.....")) == pytest.approx(1 / 8)


@BOTH
def test_a_score_that_equals_the_label_is_perfect(measure: Measure) -> None:
    label = _label("..###....#.....##")

    assert measure(label.astype(np.float64), label) == pytest.approx(1.0)


@BOTH
def test_if_all_rows_are_positive_any_score_is_perfect(measure: Measure) -> None:
    assert measure(_score(3, 1, 2), _label("###")) == pytest.approx(1.0)


@BOTH
@pytest.mark.parametrize("marks", ["", "....."], ids=["no rows", "normal rows"])
def test_without_a_positive_there_is_nothing_to_judge(measure: Measure, marks: str) -> None:
    assert math.isnan(measure(np.arange(float(len(marks))), _label(marks)))


@BOTH
@pytest.mark.parametrize("score", [_score(1, NAN), _score(1, 2, 3)], ids=["unknown score", "other length"])
def test_every_label_needs_a_score(measure: Measure, score: Float64) -> None:
    with pytest.raises(ValueError, match="a number for each"):
        measure(score, _label("#."))


@BOTH
@given(st.lists(st.tuples(st.integers(-50, 50), st.booleans()), min_size=1, max_size=40))
def test_only_the_order_of_scores_counts(measure: Measure, rows: list[tuple[int, bool]]) -> None:
    score, label = np.array([row[0] for row in rows], dtype=np.float64), np.array([row[1] for row in rows])

    assert measure(score, label) == pytest.approx(measure(np.exp(score / 10), label), nan_ok=True)


def test_without_a_buffer_the_volume_is_the_area_under_precision_and_recall() -> None:
    # of the falling scores the second one flags the only event: precision 1/2 at recall 1
    assert evaluate.vus_pr(_score(0.1, 0.5, 0.9, 0.2), _label(".#.."), 0) == pytest.approx(1 / 2)


def test_a_row_beside_an_event_earns_by_its_distance() -> None:
    volume = evaluate.vus_pr(_score(0.1, 0.5, 0.9, 0.2), _label(".#.."), 2)

    # buffers 0 and 1 reach no row. Buffer 2 reaches one: the row beside the event earns √(1 − 1/2), so that the first
    # threshold has precision √½ at recall √½ / (1 + √½/2); the second has (1 + √½)/2 at recall 1
    beside = math.sqrt(1 / 2)
    recall = beside / (1 + beside / 2)
    area = recall * beside + (1 - recall) * (1 + beside) / 2
    assert volume == pytest.approx((1 / 2 + 1 / 2 + area) / 3)


def test_an_event_of_which_nothing_is_flagged_costs_recall() -> None:
    # flagging the longer event gives row recall 3/4 but half the events: 3/8 at precision 1, the rest at 4/5
    volume = evaluate.vus_pr(_score(3, 3, 3, 2, 1), _label("###.#"), 0)

    assert volume == pytest.approx(3 / 8 * 1 + (1 - 3 / 8) * 4 / 5)


def _vus_pr_by_definition(score: Float64, label: Bool, window: int) -> float:
    """Row by row, threshold by threshold; compared with TSB-AD 1.5 on labelled files of five public data sets."""
    rows = range(len(label))
    events: list[list[int]] = []
    for row in rows:
        if label[row]:
            if row and label[row - 1]:
                events[-1].append(row)
            else:
                events.append([row])
    thresholds = sorted(score, reverse=True)
    volume = 0.0
    for width in range(window + 1):
        weight = [1.0 if label[row] else _weight_beside(row, events, width) for row in rows]
        regions = _regions(events, width // 2)
        before = 0.0
        for rank in np.linspace(0, len(score) - 1, 250).astype(int):
            flagged = {row for row in rows if score[row] >= thresholds[rank]}
            earned = sum(weight[row] for row in flagged)
            beside = sum(weight[row] for row in flagged if not label[row])
            recall = min(earned / ((label.sum() + label.sum() + beside) / 2), 1.0)
            recall *= sum(bool(flagged & region) for region in regions) / len(regions)
            volume += (recall - before) * earned / len(flagged)
            before = recall
    return volume / (window + 1)


def _weight_beside(row: int, events: list[list[int]], width: int) -> float:
    distances = [min(abs(row - other) for other in event) for event in events]
    return min(sum(math.sqrt(1 - distance / width) for distance in distances if distance <= width // 2), 1.0)


def _regions(events: list[list[int]], reach: int) -> list[set[int]]:
    regions: list[set[int]] = []
    for event in events:
        region = set(range(event[0] - reach, event[-1] + reach + 1))
        if regions and regions[-1] & region:
            regions[-1] |= region
        else:
            regions.append(region)
    return regions


@pytest.mark.parametrize(
    "marks",
    [
        ".....###..........#.......",
        "##..............######....",
        "....................#####",
        "#.#.#....##.#.........#..#",
        "...#..#...#....#.....#....",
    ],
    ids=["apart", "at the start", "at the end", "crowded", "buffers meet one after the other"],
)
@pytest.mark.parametrize("levels", [1000, 4], ids=["distinct scores", "ties"])
@pytest.mark.parametrize("window", [1, 6, 15])
def test_the_volume_is_what_its_definition_says(marks: str, levels: int, window: int) -> None:
    label = _label(marks)
    score = np.random.default_rng(len(marks) + window).integers(levels, size=len(label)).astype(np.float64)

    assert evaluate.vus_pr(score, label, window) == pytest.approx(_vus_pr_by_definition(score, label, window), rel=1e-9)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=20), st.integers(0, 8))
def test_the_volume_of_any_few_rows_is_what_its_definition_says(rows: list[tuple[int, bool]], window: int) -> None:
    score, label = np.array([row[0] for row in rows], dtype=np.float64), np.array([row[1] for row in rows])
    label[0] = True

    assert evaluate.vus_pr(score, label, window) == pytest.approx(_vus_pr_by_definition(score, label, window), rel=1e-9)


@pytest.mark.parametrize(
    ("window", "distinct", "ties"),
    [
        # generate_curve(label, score, window, "opt", 250)[-1] of TSB-AD 1.5
        (0, 0.5136945241474333, 0.49300243922739323),
        (40, 0.6046028095194173, 0.5731772507664888),
        (100, 0.7053551702369469, 0.6665202401191651),
    ],
)
def test_the_volume_is_that_of_tsb_ad(window: int, distinct: float, ties: float) -> None:
    row = np.arange(1000)
    label = (row % 250 >= 230) | (row % 333 < 4)
    score = (row * 7919 % 1009) / 1009 + label * 0.4 * (row % 3)

    assert evaluate.vus_pr(score, label, window) == pytest.approx(distinct, abs=1e-9)
    assert evaluate.vus_pr(np.floor(score * 8), label, window) == pytest.approx(ties, abs=1e-9)


def _wave(period: float, rows: int = 6000) -> Float64:
    return np.sin(2 * np.pi * np.arange(rows, dtype=np.float64) / period, dtype=np.float64)


@pytest.mark.parametrize("period", [6, 7, 50, 288, 303])
def test_the_period_of_a_wave_is_its_own(period: int) -> None:
    assert evaluate.dominant_period(_wave(period)) == period


def test_the_period_shows_through_noise_at_any_level() -> None:
    noise = np.random.default_rng(0).normal(size=6000)

    assert evaluate.dominant_period(1e4 + _wave(60) + 0.02 * noise) == 60


@pytest.mark.parametrize(
    "values",
    [
        np.empty(0),
        np.ones(1),
        np.full(1000, 0.1),
        np.arange(1000.0),
        np.append(_wave(50), NAN),
        np.append(_wave(50), math.inf),
        _wave(5),  # a shorter period is not looked for, nor its multiples
        _wave(304),
        _wave(60) + 3 * _wave(360),  # a shorter one does not count if a longer one is stronger
    ],
    ids=["empty", "one row", "constant", "trend", "unknown", "infinite", "too short", "too long", "longer is stronger"],
)
def test_what_has_no_period_gets_the_usual_one(values: Float64) -> None:
    assert evaluate.dominant_period(values) == 125


def test_rows_after_the_first_20_000_have_no_say_in_the_period() -> None:
    values = np.concatenate([_wave(50, 20_000), 100 * _wave(70, 20_000)])

    assert evaluate.dominant_period(values) == 50


def _alerts(*spans: tuple[float, float, float]) -> Alerts:
    """Alerts opened, detected and closed so many minutes after the first row."""
    columns = np.array(spans, dtype=np.float64).reshape(-1, 3).T * MINUTE
    opened, detected_at, closed = np.minimum(columns, 2.0**62).astype(np.int64)  # no time is later than 2⁶²
    return Alerts(opened=opened, detected_at=detected_at, closed=closed)


def _judge(marks: str, *spans: tuple[float, float, float], grace: float = 2) -> Judgement:
    """Rows a minute apart against alerts; times in minutes."""
    label = _label(marks)
    times = np.arange(len(label), dtype=np.int64) * MINUTE
    return evaluate.judge(label, times, _alerts(*spans), step_ms=MINUTE, grace_ms=int(grace * MINUTE))


@pytest.mark.parametrize(
    ("span", "is_found", "is_true"),
    [
        # the event lasts from minute 5 to the end of its last row, minute 7; grace until minute 9
        ((2, 3, 4.9), False, False),
        ((2, 3, 5), True, True),
        ((5, 6, 8), True, True),
        ((2, 3, math.inf), True, True),
        ((6.9, 8.9, 9), True, True),
        ((6.9, 9, 9), False, True),
        ((7, 8, 9), False, True),
        ((8.9, 8.9, 9), False, True),
        ((9, 9, 10), False, False),
    ],
    ids=[
        "closed before",
        "closed at the first moment",
        "opened within",
        "open all the time",
        "detected in the grace",
        "detected too late",
        "opened at the end",
        "opened in the grace",
        "opened after the grace",
    ],
)
def test_an_alert_finds_an_event_it_overlaps_and_is_true_within_the_grace(
    span: tuple[float, float, float], is_found: bool, is_true: bool
) -> None:
    judgement = _judge(".....##.....", span)

    assert (judgement.events_found, judgement.true_alerts, judgement.false_alerts) == (is_found, is_true, not is_true)


def test_an_event_is_a_run_of_labelled_rows_also_at_both_ends() -> None:
    judgement = _judge("##..#..##", (0, 1, 1), (8, 8, 8))

    assert (judgement.events, judgement.events_found) == (3, 2)


def test_the_delay_runs_from_the_start_of_the_event_to_the_first_alert_that_found_it() -> None:
    assert _judge(".....####...", (7, 8, 8.5), (6, 6.5, 7)).delays == (90.0,)


def test_what_is_detected_before_the_event_began_is_not_late() -> None:
    assert _judge(".....####...", (3, 4, 6)).delays == (0.0,)


def test_one_alert_may_find_several_events() -> None:
    judgement = _judge(".....#...#..", (4, 6, 10))

    assert (judgement.events_found, judgement.true_alerts, judgement.delays) == (2, 1, (60.0, 0.0))


def test_every_alert_of_a_torn_event_is_true_and_the_event_is_found_once() -> None:
    judgement = _judge("..#######..", (2, 3, 3), (5, 6, 6), (7, 8, 8))

    assert (judgement.alerts, judgement.true_alerts, judgement.events_found) == (3, 3, 1)


@pytest.mark.parametrize(
    ("marks", "quiet_rows"),
    [("..........", 10), ("..##......", 6), ("..#.#.....", 5), ("........##", 8), ("##########", 0)],
    ids=["no event", "two rows of grace", "graces that overlap", "grace after the last row", "all event"],
)
def test_time_is_quiet_outside_events_and_their_grace(marks: str, quiet_rows: int) -> None:
    assert _judge(marks).quiet_seconds == 60 * quiet_rows


def test_a_gap_between_rows_is_no_quiet_time() -> None:
    times = np.array([0, 1, 1000, 1001], dtype=np.int64) * MINUTE

    judgement = evaluate.judge(_label("...#"), times, _alerts(), step_ms=MINUTE, grace_ms=0)

    assert judgement.quiet_seconds == 3 * 60


def test_events_that_nobody_saw_are_counted() -> None:
    assert _judge("..#..#....") == Judgement(
        events=2, events_found=0, alerts=0, true_alerts=0, delays=(), quiet_seconds=60 * 4
    )


def test_without_rows_there_is_nothing() -> None:
    assert _judge("") == Judgement(events=0, events_found=0, alerts=0, true_alerts=0, delays=(), quiet_seconds=0.0)


def test_entities_are_pooled_by_their_counts() -> None:
    week = 7 * 24 * 3600.0
    busy = Judgement(events=3, events_found=2, alerts=5, true_alerts=4, delays=(60.0, 600.0), quiet_seconds=week)
    calm = Judgement(events=1, events_found=1, alerts=3, true_alerts=1, delays=(0.0,), quiet_seconds=3 * week)

    summary = evaluate.summarise([busy, calm])

    assert (summary.events, summary.events_found, summary.alerts, summary.false_alerts) == (4, 3, 8, 3)
    assert summary.precision == pytest.approx(5 / 8)
    assert summary.recall == pytest.approx(3 / 4)
    assert summary.median_delay_seconds == pytest.approx(60)
    assert summary.false_alerts_per_week == pytest.approx(3 / 4)
    assert summary.alerts_per_found_event == pytest.approx(5 / 3)


def test_a_ratio_of_nothing_is_unknown() -> None:
    summary = evaluate.summarise([])

    ratios = (summary.precision, summary.recall, summary.false_alerts_per_week, summary.alerts_per_found_event)
    assert np.isnan([*ratios, summary.median_delay_seconds]).all()


TRAIN = np.array([[0.0, 10.0], [2.0, 10.0]])  # mean 1 and standard deviation 1; constant


def test_mean_abs_z_is_the_mean_distance_from_the_training_mean_in_standard_deviations() -> None:
    train = np.array([[0.0, 10.0], [2.0, 30.0]])  # means 1 and 20, standard deviations 1 and 10

    np.testing.assert_allclose(evaluate.mean_abs_z(np.array([[4.0, 0.0], [1.0, 20.0]]), train), [(3 + 2) / 2, 0.0])


@pytest.mark.parametrize("odd", [10.0, 99.0, NAN, math.inf], ids=["at rest", "moved", "missing", "infinite"])
def test_a_metric_constant_in_training_says_nothing(odd: float) -> None:
    np.testing.assert_allclose(evaluate.mean_abs_z(np.array([[4.0, odd]]), TRAIN), [3 / 2])
    np.testing.assert_allclose(evaluate.pca_reconstruction(np.array([[4.0, odd]]), TRAIN), [0.0], atol=1e-12)


def test_the_rounding_of_a_mean_is_no_spread() -> None:
    train = np.full((1001, 2), 0.1)
    assert train.mean(axis=0)[0] != 0.1

    assert evaluate.mean_abs_z(np.array([[0.3, 0.1]]), train).tolist() == [0.0]


@pytest.mark.parametrize("floor", [evaluate.mean_abs_z, evaluate.pca_reconstruction])
def test_missing_values_count_as_the_mean(floor: Floor) -> None:
    train = np.array([[-1.0, -1.0], [1.0, 1.0], [NAN, NAN]])

    np.testing.assert_allclose(floor(np.array([[2.0, NAN]]), train), floor(np.array([[2.0, 0.0]]), train))


@pytest.mark.parametrize("floor", [evaluate.mean_abs_z, evaluate.pca_reconstruction])
def test_a_floor_without_training_values_is_zero(floor: Floor) -> None:
    assert floor(np.ones((2, 3)), np.full((4, 3), NAN)).tolist() == [0.0, 0.0]


def test_pca_reconstruction_is_the_squared_distance_from_what_metrics_did_together() -> None:
    train = np.array([[-1.0, -1.0], [1.0, 1.0]])  # always equal

    # (2, 0) is √2 away from the diagonal, (5, 5) lies on it
    np.testing.assert_allclose(
        evaluate.pca_reconstruction(np.array([[2.0, 0.0], [5.0, 5.0]]), train), [2.0, 0.0], atol=1e-12
    )


@pytest.mark.parametrize(("variance", "error"), [(0.6, 9.0), (0.9, 0.0)])
def test_pca_keeps_the_fewest_components_that_hold_the_variance(variance: float, error: float) -> None:
    # two metrics always equal hold 2/3 of the variance in one component, a third one of its own the rest
    train = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, 1.0], [-1.0, -1.0, -1.0]])

    errors = evaluate.pca_reconstruction(np.array([[0.0, 0.0, 3.0]]), train, variance=variance)

    np.testing.assert_allclose(errors, [error], atol=1e-12)
