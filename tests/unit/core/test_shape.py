"""Windows to statistics, and their distance from normal windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.core import shape
from detector.core.series import Float32, Float64, Int64
from detector.core.shape import CENTRES, SLOTS, STATISTICS, Shapes

NAN = math.nan


def _window(*values: float, before: float = 0.0) -> Float32:
    """One window (1, SLOTS, 1) that ends with some values."""
    return np.array([before] * (SLOTS - len(values)) + list(values), dtype=np.float32)[None, :, None]


def _slow(scaled: Float32) -> Float64:
    """Statistics (B, K, D) of every window, one by one."""
    entities, length, metrics = scaled.shape
    found = np.zeros((entities, length - SLOTS + 1, STATISTICS, metrics))
    for b in range(entities):
        for k in range(found.shape[1]):
            for f in range(metrics):
                values, last = [], 0.0
                for value in scaled[b, k : k + SLOTS, f].astype(float).tolist():
                    last = last if math.isnan(value) else value
                    values.append(math.copysign(math.log(1.0 + abs(last)), last))
                mean = sum(values) / SLOTS
                middle = (SLOTS - 1) / 2
                slope = sum(value * (n - middle) for n, value in enumerate(values))
                found[b, k, :, f] = (
                    mean,
                    math.sqrt(sum((value - mean) ** 2 for value in values) / SLOTS),
                    max(values),
                    min(values),
                    math.sqrt(sum((values[n + 1] - values[n]) ** 2 for n in range(SLOTS - 1)) / (SLOTS - 1)),
                    slope / math.sqrt(SLOTS * sum((n - middle) ** 2 for n in range(SLOTS))),
                )
    return found.reshape(entities, -1, STATISTICS * metrics)


def _noise(entities: int, length: int, metrics: int, *, missing: float = 0.0, seed: int = 0) -> Float32:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 2, (entities, length, metrics)).astype(np.float32)
    values[rng.random(values.shape) < missing] = NAN
    return values


# -- statistics


def test_a_window_that_rests_has_its_level_as_mean_and_extremes_and_nothing_else() -> None:
    found = shape.statistics(np.full((1, SLOTS, 1), -(math.e - 1.0), dtype=np.float32))

    np.testing.assert_allclose(found[0, 0], [-1.0, 0.0, -1.0, -1.0, 0.0, 0.0], atol=1e-3)


def test_a_window_that_jumps_every_slot_is_rough_and_does_not_slope() -> None:
    values = (math.e - 1.0) * np.array([-1.0, 1.0] * (SLOTS // 2), dtype=np.float32)

    found = shape.statistics(values[None, :, None])[0, 0]

    around = np.arange(SLOTS) - 14.5
    slope = 15.0 / math.sqrt(SLOTS * (around**2).sum())  # each of 15 pairs rises by 2 over half a slot on either side
    np.testing.assert_allclose(found, [0.0, 1.0, 1.0, -1.0, 2.0, slope], atol=1e-6)


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_a_window_that_rises_evenly_slopes_by_its_deviation(direction: float) -> None:
    squeezed = direction * np.linspace(-1.0, 1.0, SLOTS)
    values = np.sign(squeezed) * np.expm1(np.abs(squeezed))

    found = shape.statistics(values.astype(np.float32)[None, :, None])[0, 0]

    deviation = math.sqrt((squeezed**2).mean())
    np.testing.assert_allclose(found, [0.0, deviation, 1.0, -1.0, 2.0 / 29, direction * deviation], atol=1e-6)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_statistics_are_those_of_a_slow_loop(missing: float) -> None:
    scaled = _noise(2, SLOTS + 12, 3, missing=missing)

    np.testing.assert_allclose(shape.statistics(scaled), _slow(scaled), atol=2e-5)


def test_a_missing_value_repeats_the_last_one() -> None:
    np.testing.assert_array_equal(
        shape.statistics(_window(1.0, NAN, NAN, 3.0)), shape.statistics(_window(1.0, 1.0, 1.0, 3.0))
    )


def test_a_window_of_which_nothing_is_known_rests_at_the_median() -> None:
    assert (shape.statistics(np.full((1, SLOTS, 2), NAN, dtype=np.float32)) == 0.0).all()


def test_before_the_first_value_of_a_window_is_the_median_whatever_was_before_the_window() -> None:
    gap = [NAN] * (SLOTS - 1)
    after_a_peak = np.array([50.0, *gap, 2.0], dtype=np.float32)[None, :, None]

    newest = shape.statistics(after_a_peak)[:, -1]

    np.testing.assert_array_equal(newest, shape.statistics(_window(2.0))[:, 0])


def test_metrics_have_statistics_of_their_own_side_by_side() -> None:
    scaled = _noise(1, SLOTS + 3, 4, missing=0.2)

    together = shape.statistics(scaled).reshape(4, STATISTICS, 4)

    for f in range(4):
        alone = shape.statistics(scaled[..., [f]]).reshape(4, STATISTICS)
        np.testing.assert_allclose(together[..., f], alone, atol=1e-6)


@given(st.integers(0, 1000), st.integers(1, 5), st.sampled_from([0.0, 0.1, 0.9]), st.booleans())
@settings(max_examples=25)
def test_statistics_do_not_depend_on_what_else_is_asked_for(
    seed: int, metrics: int, missing: float, has_gap: bool
) -> None:
    scaled = _noise(3, SLOTS + 50, metrics, missing=missing, seed=seed)
    if has_gap:
        scaled[1, 5:60, 0] = NAN

    at_once = shape.statistics(scaled)

    for k in range(0, at_once.shape[1], 7):
        np.testing.assert_array_equal(shape.statistics(scaled[:, k : k + SLOTS])[:, 0], at_once[:, k])
    for b in range(3):
        np.testing.assert_array_equal(shape.statistics(scaled[[b]])[0], at_once[b])


def test_values_passed_in_stay_as_they_were() -> None:
    scaled = _noise(1, SLOTS + 5, 2, missing=0.3)
    before = scaled.copy()

    shape.statistics(scaled)

    np.testing.assert_array_equal(scaled, before)


# -- distance


def _shapes(centres: list[list[float]], unit: list[float]) -> Shapes:
    """Those of one entity; the last centre stands for all that are not needed."""
    rows = np.array(centres + [centres[-1]] * (CENTRES - len(centres)), dtype=np.float32)
    return Shapes(rows[None], np.array([unit], dtype=np.float32))


def _distance(shapes: Shapes, *windows: list[float]) -> list[float]:
    return [float(d) for d in shapes.distance(np.array([windows], dtype=np.float32), np.array([0]))[0]]


def test_the_distance_is_the_mean_one_from_the_nearest_center_in_units_and_a_little() -> None:
    shapes = _shapes([[0.0] * 6, [10.0, 0.0, 0.0, 0.0, 0.0, 0.0]], unit=[1.0, 1.0, 1.0, 1.0, 1.0, 2.0])

    found = _distance(shapes, [0.0] * 6, [3.0, 4.0, 0.0, 0.0, 0.0, 0.0], [10.0, 0, 0, 0, 0, 24.0], [6.0, 0, 0, 0, 0, 0])

    assert found == pytest.approx(
        [0.02, 5.0 / math.sqrt(6) + 0.02, 12.0 / math.sqrt(6) + 0.02, 4 / math.sqrt(6) + 0.02]
    )


def test_a_window_that_equals_a_center_far_from_nought_has_no_distance() -> None:
    center = [130.0 + n / 7 for n in range(6)]

    assert _distance(_shapes([[0.0] * 6, center], [1.0] * 6), center) == [pytest.approx(0.02, abs=1e-7)]


def test_of_an_entity_that_was_not_there_no_distance_is_known() -> None:
    shapes = _shapes([[0.0] * 6], [1.0] * 6)

    found = shapes.distance(np.zeros((3, 2, 6), dtype=np.float32), np.array([-1, 0, -1]))

    assert np.isnan(found).tolist() == [[True, True], [False, False], [True, True]]


def test_without_any_entity_no_distance_is_known() -> None:
    found = Shapes.none(0, 2).distance(np.zeros((2, 3, 12), dtype=np.float32), np.array([-1, 0]))

    assert found.shape == (2, 3)
    assert np.isnan(found).all()


def test_of_an_entity_without_normal_windows_no_distance_is_known() -> None:
    found = Shapes.none(1, 2).distance(np.zeros((1, 3, 12), dtype=np.float32), np.array([0]))

    assert np.isnan(found).all()


def _fitted(statistics: Float32) -> Shapes:
    centres, unit = zip(*(Shapes.fit(entity) for entity in statistics), strict=True)
    return Shapes(np.stack(centres), np.stack(unit))


def _slow_distance(shapes: Shapes, statistics: Float32, row: Int64) -> Float64:
    found = np.full(statistics.shape[:2], NAN)
    for b, r in enumerate(row.tolist()):
        for k in range(statistics.shape[1]):
            if r >= 0:
                own = statistics[b, k].astype(float) / shapes.unit[r]
                off = [math.sqrt(float(((own - centre) ** 2).mean())) for centre in shapes.centres[r].astype(float)]
                found[b, k] = min(off) + 0.02
    return found


def test_distances_are_those_of_a_slow_loop_and_do_not_depend_on_what_else_is_asked_for() -> None:
    statistics = shape.statistics(_noise(4, 250, 3))
    shapes = _fitted(statistics[:3, :120])
    row = np.array([2, -1, 0, 1])

    at_once = shapes.distance(statistics, row)

    np.testing.assert_allclose(at_once, _slow_distance(shapes, statistics, row), rtol=1e-4, atol=1e-5)
    one_by_one = [shapes.distance(statistics[:, k : k + 1], row) for k in range(at_once.shape[1])]
    np.testing.assert_array_equal(np.concatenate(one_by_one, axis=1), at_once)
    for b in range(4):
        np.testing.assert_array_equal(shapes.distance(statistics[[b]], row[[b]])[0], at_once[b])


def test_the_shares_of_metrics_are_their_parts_of_the_squared_distance() -> None:
    shapes = _shapes([[9.0] * 12, [0.0] * 12], unit=[1.0] * 12)
    # statistics lie side by side for both metrics: 1 and 2 of the first, 2 of the second
    window = np.array([1.0, 0.0, 2.0, 2.0, *[0.0] * 8], dtype=np.float32)

    np.testing.assert_allclose(shapes.shares(window, 0), [5 / 9, 4 / 9], rtol=1e-6)


def test_a_window_like_a_center_has_no_shares() -> None:
    shapes = _shapes([[1.0] * 12], unit=[1.0] * 12)

    assert shapes.shares(np.ones(12, dtype=np.float32), 0).tolist() == [0.0, 0.0]


# -- normal windows


def test_the_unit_is_the_deviation_of_each_statistic_and_a_little() -> None:
    statistics = np.array([[1.0, 5.0], [3.0, 5.0]] * 10, dtype=np.float32)

    _, unit = Shapes.fit(statistics)

    np.testing.assert_allclose(unit, [1.05, 0.05], rtol=1e-5)


def test_as_many_kinds_of_windows_as_centres_are_all_found() -> None:
    kinds = np.arange(CENTRES, dtype=np.float32)[:, None] * np.array([[1.0, -2.0]], dtype=np.float32)
    centres, unit = Shapes.fit(kinds.repeat(20, axis=0))

    found = np.array(sorted(centres.tolist()))
    np.testing.assert_allclose(found, kinds / unit, rtol=1e-3, atol=1e-3)


def test_centres_are_means_of_the_windows_that_are_nearest_to_them() -> None:
    statistics = shape.statistics(_noise(1, 800, 1))[0]
    centres, unit = Shapes.fit(statistics)

    own = statistics.astype(float) / unit
    some = [0, *range(len(own) // (CENTRES - 1), len(own), len(own) // (CENTRES - 1))]
    before = _mean_square(own, own[some])
    assert centres.shape == (CENTRES, 6)
    assert _mean_square(own, centres.astype(float)) < 0.7 * before


def _mean_square(own: Float64, centres: Float64) -> float:
    return float(((own[:, None] - centres) ** 2).sum(axis=2).min(axis=1).mean())


def test_fewer_windows_than_centres_are_centres_themselves() -> None:
    statistics = np.array([[0.0, 0.0], [4.0, 1.0], [8.0, 0.0]], dtype=np.float32)

    centres, unit = Shapes.fit(statistics)

    np.testing.assert_allclose(centres, statistics / unit, rtol=1e-3)


def test_normal_windows_are_found_the_same_way_each_time_and_are_as_they_are_stored() -> None:
    statistics = shape.statistics(_noise(1, 2500, 2))[0]

    first, again = Shapes.fit(statistics), Shapes.fit(statistics)

    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first[0], first[0].astype(np.float16))


def test_normal_windows_are_near_and_windows_of_another_rhythm_are_far() -> None:
    time = np.arange(600)
    calm = np.sin(time / 20) + np.random.default_rng(1).normal(0, 0.1, 600)
    frozen, lively = np.full(60, 0.5), 1.5 * np.sin(np.arange(60) * 2.0)
    shapes = _fitted(shape.statistics(calm.astype(np.float32)[None, :, None]))

    usual, strange = (
        [shapes.distance(shape.statistics(values.astype(np.float32)[None, :, None]), np.array([0])) for values in kind]
        for kind in ((calm[300:],), (frozen, lively))
    )

    assert min(float(found.min()) for found in strange) > 2 * np.quantile(usual[0], 0.99)
