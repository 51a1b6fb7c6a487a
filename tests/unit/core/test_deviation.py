"""Values to deviations: the median of the part of the day, the robust deviation around it, and what counts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from detector.core.deviation import MOST, Usual, part_of_day
from detector.core.rules import MetricRules
from detector.core.series import Bool, Float32, Float64, Int64

NAN = math.nan
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MIDNIGHT = 19_700 * DAY


def _slots(count: int, step: int = MINUTE, start: int = MIDNIGHT) -> Int64:
    return start + step * np.arange(count, dtype=np.int64)


def _one(*values: float) -> Float32:
    """Values (1, L, 1) of one entity and metric."""
    return np.array(values, dtype=np.float32)[None, :, None]


def _fit_one(*values: float, step: int = MINUTE) -> Usual:
    return Usual.fit(_one(*values), _slots(len(values), step), step=step)


def _deviations(usual: Usual, values: Float32, rules: MetricRules | None = None, slots: Int64 | None = None) -> Float32:
    """Of the rows of a model."""
    rows = np.arange(len(values))
    counted = rules or MetricRules.none(values.shape[2])
    return usual.deviations(values, _slots(values.shape[1]) if slots is None else slots, rows, counted)


def test_the_center_is_the_median_and_the_spread_the_median_distance_in_standard_deviations() -> None:
    usual = _fit_one(1.0, 2.0, 3.0, 4.0, 9.0)  # distances from 3: 2, 1, 0, 1, 6

    assert usual.center.tolist() == [[3.0]]
    assert usual.spread[0, 0] == pytest.approx(1.4826)
    assert usual.offset.tolist() == [[[0.0]]]


def test_of_two_values_in_the_middle_the_median_is_between_them() -> None:
    usual = _fit_one(1.0, 2.0, 5.0, 9.0)  # distances from 3.5: 2.5, 1.5, 1.5, 5.5

    assert (usual.center[0, 0], usual.spread[0, 0]) == (3.5, pytest.approx(2.0 * 1.4826))


def test_missing_values_are_no_values() -> None:
    holed, whole = _fit_one(NAN, 1.0, 2.0, NAN, 3.0, 4.0, 9.0, NAN), _fit_one(1.0, 2.0, 3.0, 4.0, 9.0)

    np.testing.assert_array_equal(holed.center, whole.center)
    np.testing.assert_array_equal(holed.spread, whole.spread)


def test_a_metric_that_rarely_moves_has_at_least_a_tenth_of_its_standard_deviation() -> None:
    usual = _fit_one(*[0.0] * 9, 10.0)  # its mean is 1, its variance (9 · 1 + 81) / 10

    assert usual.spread[0, 0] == pytest.approx(0.1 * 3.0)


@pytest.mark.parametrize("level", [500.0, -500.0])
def test_a_metric_that_never_moves_has_a_thousandth_of_its_level(level: float) -> None:
    assert _fit_one(*[level] * 10).spread[0, 0] == pytest.approx(0.5)


def test_a_metric_that_is_always_nought_has_next_to_no_spread_but_some() -> None:
    usual = _fit_one(*[0.0] * 10)

    assert 0.0 < usual.spread[0, 0] < 1e-6
    assert _deviations(usual, _one(0.0, 1e-3)).tolist() == [[[0.0], [MOST]]]


def test_deviations_are_distances_from_the_center_in_spreads_up_to_a_thousand() -> None:
    usual = _fit_one(1.0, 2.0, 3.0, 4.0, 9.0)

    found = _deviations(usual, _one(3.0, 3.0 + 2 * 1.4826, 3.0 - 5 * 1.4826, 1e9, -1e9, NAN))

    np.testing.assert_allclose(found[0, :, 0], [0.0, 2.0, 5.0, 1000.0, 1000.0, NAN], rtol=1e-5)
    assert found.dtype == np.float32


def test_of_an_entity_that_was_not_there_nothing_is_known() -> None:
    usual = _fit_one(1.0, 2.0, 3.0, 4.0, 9.0)
    values = np.full((3, 2, 1), 9.0, dtype=np.float32)

    found = usual.deviations(values, _slots(2), np.array([-1, 0, -1]), MetricRules.none(1))

    assert np.isnan(found).all(axis=(1, 2)).tolist() == [True, False, True]


def test_without_any_entity_nothing_is_known() -> None:
    found = Usual.none(2).deviations(np.zeros((3, 4, 2), np.float32), _slots(4), np.array([-1, 0, 1]), _rules(2))

    assert found.shape == (3, 4, 2)
    assert np.isnan(found).all()


def test_of_a_metric_that_an_entity_never_had_nothing_is_known() -> None:
    values = np.array([[[1.0, NAN], [2.0, NAN], [3.0, NAN]]], dtype=np.float32)
    usual = Usual.fit(values, _slots(3), step=MINUTE)

    found = _deviations(usual, np.array([[[2.0, 7.0]]], dtype=np.float32))

    assert found[0, 0, 0] == 0.0
    assert np.isnan(found[0, 0, 1])
    assert np.isfinite(usual.offset).all()
    assert usual.spread[0, 1] == pytest.approx(1e30)  # lest its first values are a record


# -- the part of the day


@pytest.mark.parametrize(
    ("hour", "parts", "part"), [(0, 48, 0), (0.49, 48, 0), (0.5, 48, 1), (12, 48, 24), (23.99, 48, 47), (23.99, 1, 0)]
)
def test_a_day_is_divided_from_midnight_on(hour: float, parts: int, part: int) -> None:
    assert part_of_day(np.array([MIDNIGHT + round(hour * HOUR)]), parts).tolist() == [part]


def test_parts_of_the_day_need_not_divide_it_by_whole_milliseconds() -> None:
    parts = part_of_day(MIDNIGHT + np.arange(0, DAY, 997, dtype=np.int64), 7)

    assert (np.diff(parts) >= 0).all()
    assert np.bincount(parts).tolist() == pytest.approx([DAY / 997 / 7] * 7, abs=1.0)


@pytest.mark.parametrize(
    ("days", "step", "parts"),
    [
        (2.9, MINUTE, 1),
        (3.0, MINUTE, 48),  # 60 values are 20 minutes a day
        (10.0, MINUTE, 48),  # more than half-hours are not told apart
        (3.0, 5 * MINUTE, 14),  # 20 slots of 288
        (30.0, 5 * MINUTE, 48),
        (10.0, HOUR, 8),  # 6 of 24 slots for 60 values, but no more than an eighth of the day
        (30.0, HOUR, 12),  # 2 of 24
        (30.0, DAY, 1),
        (30.0, 7 * DAY, 1),
    ],
)
def test_a_part_of_the_day_has_sixty_values_in_as_many_days_as_are_known(days: float, step: int, parts: int) -> None:
    count = round(days * DAY / step) if step <= DAY else 30

    assert Usual.fit(_one(*[1.0] * count), _slots(count, step), step=step).offset.shape == (1, parts, 1)


def _of_two_halves(days: float, morning: float, evening: float) -> tuple[Float32, Int64]:
    """Values (1, L, 1) of every ten minutes, around one level before noon and another after it."""
    slots = _slots(round(days * 144), 10 * MINUTE)
    levels = np.where(slots % DAY < DAY // 2, morning, evening)
    return (levels + np.random.default_rng(0).normal(0, 1, len(slots))).astype(np.float32)[None, :, None], slots


def test_after_three_days_each_part_of_the_day_has_a_median_of_its_own() -> None:
    values, slots = _of_two_halves(7, 100.0, 200.0)
    usual = Usual.fit(values, slots, step=10 * MINUTE)

    evening_in_the_morning = _deviations(usual, _one(200.0, 100.0, 200.0, 100.0), slots=MIDNIGHT + HOUR * np.arange(4))
    at_noon = _deviations(usual, _one(200.0, 100.0), slots=MIDNIGHT + DAY // 2 + HOUR * np.arange(2))

    assert usual.spread[0, 0] < 1.5
    assert (evening_in_the_morning[0, :, 0] > 50).tolist() == [True, False, True, False]
    assert (at_noon[0, :, 0] > 50).tolist() == [False, True]


def test_before_three_days_all_of_the_day_has_one_median() -> None:
    values, slots = _of_two_halves(2, 100.0, 200.0)
    usual = Usual.fit(values, slots, step=10 * MINUTE)

    assert usual.offset.shape == (1, 1, 1)
    assert (_deviations(usual, _one(100.0, 200.0), slots=MIDNIGHT + DAY // 2 * np.arange(2)) < 2.0).all()


def test_an_entity_without_three_days_of_its_own_has_one_median_beside_others_that_have_more() -> None:
    values, slots = _of_two_halves(7, 100.0, 200.0)
    young = values.copy()
    young[:, : round(4.5 * 144)] = NAN

    usual = Usual.fit(np.concatenate([values, young]), slots, step=10 * MINUTE)

    assert usual.offset.shape[1] > 1
    assert (usual.offset[1] == 0.0).all()
    assert np.ptp(usual.offset[0]) > 50.0
    np.testing.assert_allclose(usual.center[1], Usual.fit(young, slots, step=10 * MINUTE).center[0])


def test_a_part_of_the_day_without_values_has_the_median_of_all() -> None:
    values, slots = _of_two_halves(7, 100.0, 200.0)
    is_night = slots % DAY < 6 * HOUR
    values[:, is_night] = NAN

    usual = Usual.fit(values, slots, step=10 * MINUTE)

    assert (usual.offset[0, np.unique(part_of_day(slots[is_night], usual.offset.shape[1]))[:-1]] == 0.0).all()


def _slow(values: Float32, slots: Int64, parts: int, has_own: Bool) -> tuple[Float64, Float64, Float64]:
    """Center, spread and the median of each part of the day (own units), by definition."""
    entities, _, metrics = values.shape
    center, spread = np.zeros((2, entities, metrics))
    around = np.zeros((entities, parts, metrics))
    for e in range(entities):
        for f in range(metrics):
            known = [(float(v), int(t)) for v, t in zip(values[e, :, f], slots, strict=True) if not math.isnan(v)]
            center[e, f] = np.median([value for value, _ in known])
            around[e, :, f] = center[e, f]
            for p in range(parts):
                own = [value for value, slot in known if (slot % DAY) * parts // DAY == p]
                if own and has_own[e]:
                    around[e, p, f] = np.median(own)
            off = [value - around[e, (slot % DAY) * parts // DAY, f] for value, slot in known]
            robust = 1.4826 * float(np.median(np.abs(off)))
            spread[e, f] = max(robust, 0.1 * float(np.std(off)), 1e-3 * abs(center[e, f])) + 1e-9
    return center, spread, around


def test_medians_and_deviations_are_those_of_a_slow_loop() -> None:
    rng = np.random.default_rng(5)
    step, length = 20 * MINUTE, 72 * 4
    values = rng.normal([0.0, 50.0, 1e6], [1.0, 5.0, 10.0], (3, length, 3)).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = NAN
    values[2, :100] = NAN  # less than three days are left
    slots = _slots(length, step, start=MIDNIGHT + 7 * HOUR)

    usual = Usual.fit(values, slots, step=step)
    found = _deviations(usual, values, slots=slots)

    parts = usual.offset.shape[1]
    center, spread, around = _slow(values, slots, parts, np.array([True, True, False]))
    assert parts == 72 // 9  # a part has 16 slots for 60 values in four days, but no more than an eighth of a day
    np.testing.assert_allclose(usual.center, center, rtol=1e-6)
    np.testing.assert_allclose(usual.spread, spread, rtol=1e-5)
    expected = np.abs(values - around[:, (slots % DAY) * parts // DAY]) / spread[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-2)


def test_entities_are_fitted_and_measured_apart() -> None:
    rng = np.random.default_rng(6)
    values = rng.normal(50, 5, (70, 60, 2)).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = NAN
    slots = _slots(60, 3 * HOUR)

    together = Usual.fit(values, slots, step=3 * HOUR)
    found = _deviations(together, values, slots=slots)

    for row in (0, 63, 64, 69):
        alone = Usual.fit(values[[row]], slots, step=3 * HOUR)
        np.testing.assert_array_equal(alone.center, together.center[[row]])
        np.testing.assert_array_equal(alone.spread, together.spread[[row]])
        np.testing.assert_array_equal(alone.offset, together.offset[[row]])
        np.testing.assert_array_equal(_deviations(alone, values[[row]], slots=slots), found[[row]])


# -- rules


def _rules(
    metrics: int, *, up: bool = True, down: bool = True, least: float = 0.0, least_share: float = 0.0
) -> MetricRules:
    return replace(
        MetricRules.none(metrics),
        counts_up=np.full(metrics, up),
        counts_down=np.full(metrics, down),
        least=np.full(metrics, least, dtype=np.float32),
        least_share=np.full(metrics, least_share, dtype=np.float32),
    )


def _by_hand(*, offset: float = 0.0) -> Usual:
    """100 is usual, and spreads of 2; at this time of day some more."""
    return Usual(*(np.array(column, dtype=np.float32) for column in ([[100.0]], [[2.0]], [[[offset]]])))


@pytest.mark.parametrize(("up", "down", "kept"), [(True, False, [5.0, 0.0]), (False, True, [0.0, 5.0])], ids=str)
def test_a_direction_that_does_not_count_is_no_deviation(up: bool, down: bool, kept: list[float]) -> None:
    found = _deviations(_by_hand(), _one(110.0, 90.0), _rules(1, up=up, down=down))

    assert found[0, :, 0].tolist() == kept


def test_the_direction_is_that_from_the_median_of_the_time_of_day() -> None:
    usual = _by_hand(offset=10.0)  # 120 at this time

    found = _deviations(usual, _one(110.0, 130.0), _rules(1, up=False))

    assert found[0, :, 0].tolist() == [5.0, 0.0]


def test_deviations_below_the_least_one_are_none() -> None:
    found = _deviations(_by_hand(), _one(106.0, 107.0, 94.0, 93.0), _rules(1, least=7.0))

    assert found[0, :, 0].tolist() == [0.0, 3.5, 0.0, 3.5]


def test_the_least_share_is_of_what_is_usual_at_that_time() -> None:
    usual = _by_hand(offset=50.0)  # 200 at this time

    found = _deviations(usual, _one(219.0, 221.0), _rules(1, least_share=0.1))

    assert found[0, :, 0].tolist() == [0.0, 10.5]


def test_what_is_missing_stays_missing_whatever_the_rules() -> None:
    assert np.isnan(_deviations(_by_hand(), _one(NAN), _rules(1, up=False, down=False))).all()
