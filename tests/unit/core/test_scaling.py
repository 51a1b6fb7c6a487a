"""Per-entity robust scaling."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detector.core import scaling
from detector.core.scaling import CLIP, Scaling
from detector.core.series import Float32, Int64

NAN = math.nan
IQR_OF_NORMAL = 1.349


def _values(*rows: list[float]) -> Float32:
    """Entities with one metric each, (E, L, 1)."""
    return np.array(rows, dtype=np.float32)[..., None]


def _known(center: float = 0.0, scale: float = 1.0, fleet_scale: float = 1.0) -> Scaling:
    return Scaling(
        center=np.array([[center]], dtype=np.float32),
        scale=np.array([[scale]], dtype=np.float32),
        fleet_scale=np.array([fleet_scale], dtype=np.float32),
    )


def _rows(*rows: int) -> Int64:
    return np.array(rows, dtype=np.int64)


def _evenly(low: float, high: float) -> list[float]:
    return [float(value) for value in np.linspace(low, high, 101)]


def test_center_is_the_median_and_scale_the_interquartile_range_of_a_normal() -> None:
    fitted = scaling.fit(_values(_evenly(0, 100)))

    assert fitted.center[0, 0] == pytest.approx(50.0)
    assert fitted.scale[0, 0] == pytest.approx((75.0 - 25.0) / IQR_OF_NORMAL)


def test_normal_data_get_their_mean_and_standard_deviation() -> None:
    values = np.random.default_rng(7).normal(30.0, 4.0, (1, 100_000, 1)).astype(np.float32)

    fitted = scaling.fit(values)

    assert fitted.center[0, 0] == pytest.approx(30.0, abs=0.1)
    assert fitted.scale[0, 0] == pytest.approx(4.0, rel=0.02)


def test_missing_values_change_nothing() -> None:
    holed = [value for pair in zip(_evenly(0, 100), [NAN] * 101, strict=True) for value in pair]

    assert scaling.fit(_values(holed)).scale == scaling.fit(_values(_evenly(0, 100))).scale


def test_outliers_hardly_move_center_and_scale() -> None:
    fitted = scaling.fit(_values([*_evenly(0, 100), 1e9]))

    assert fitted.center[0, 0] == pytest.approx(50.0, abs=1.0)
    assert fitted.scale[0, 0] == pytest.approx(50.0 / IQR_OF_NORMAL, rel=0.05)


def test_a_metric_that_mostly_rests_is_scaled_by_its_rare_movements() -> None:
    # 10 % of the time at 100: quartiles 0, 1st and 99th percentile 0 and 100
    fitted = scaling.fit(_values([0.0] * 900 + [100.0] * 100))

    assert fitted.scale[0, 0] == pytest.approx(0.5 * 100.0 / 4.653)


def test_a_metric_that_moved_less_than_once_in_a_hundred_is_scaled_by_its_standard_deviation() -> None:
    fitted = scaling.fit(_values([0.0] * 999 + [100.0]))

    share = 1 / 1000
    assert fitted.scale[0, 0] == pytest.approx(100.0 * math.sqrt(share * (1 - share)), rel=1e-5)


def test_a_metric_constant_in_one_entity_takes_the_scale_of_the_fleet() -> None:
    fitted = scaling.fit(_values([5.0] * 101, _evenly(0, 100), _evenly(0, 100)))

    assert fitted.scale[0, 0] == fitted.scale[1, 0] == fitted.fleet_scale[0]
    assert fitted.center[0, 0] == 5.0


def test_a_metric_constant_everywhere_takes_five_percent_of_its_value() -> None:
    fitted = scaling.fit(_values([40.0] * 10, [-40.0] * 10))

    np.testing.assert_allclose(fitted.scale[:, 0], 2.0)
    np.testing.assert_allclose(fitted.fleet_scale, 2.0)


def test_a_metric_that_is_always_zero_takes_one() -> None:
    assert scaling.fit(_values([0.0] * 10)).scale[0, 0] == 1.0


def test_the_rounding_of_float32_does_not_count_as_movement() -> None:
    level = np.float32(1e6)
    fitted = scaling.fit(_values([float(level), float(np.nextafter(level, np.float32(2e6)))] * 50))

    assert fitted.scale[0, 0] == pytest.approx(0.05 * 1e6, rel=1e-3)


def test_a_metric_without_any_value_is_centered_on_zero_with_scale_one() -> None:
    fitted = scaling.fit(_values([NAN] * 5))

    assert (fitted.center[0, 0], fitted.scale[0, 0], fitted.fleet_scale[0]) == (0.0, 1.0, 1.0)


def test_metrics_are_scaled_apart() -> None:
    values = np.stack([np.linspace(0, 100, 101), np.linspace(0, 1, 101)], axis=1)[None].astype(np.float32)

    fitted = scaling.fit(values)

    assert fitted.scale[0, 0] == pytest.approx(100 * fitted.scale[0, 1], rel=1e-5)


_ELEMENTS = st.one_of(st.just(NAN), st.just(0.0), st.floats(-(2.0**100), 2.0**100, width=32))


@given(arrays.arrays(np.float32, (3, 6, 2), elements=_ELEMENTS))
def test_every_fit_is_finite_and_every_scale_positive(values: Float32) -> None:
    fitted = scaling.fit(values)

    assert np.isfinite(fitted.center).all()
    for scale in (fitted.scale, fitted.fleet_scale):
        assert np.isfinite(scale).all()
        assert (scale > 0).all()


def test_a_known_entity_is_measured_from_its_center_in_its_scale() -> None:
    scaled = scaling.transform(_values([10.0, 14.0, NAN]), _rows(0), _known(center=10.0, scale=2.0))

    np.testing.assert_array_equal(scaled[0, :, 0], [0.0, 2.0, NAN])


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_values_far_out_are_clipped(sign: float) -> None:
    assert scaling.transform(_values([sign * 1e6]), _rows(0), _known())[0, 0, 0] == sign * CLIP


def test_an_entity_that_appears_is_centered_on_its_own_window() -> None:
    window = [1000.0 + value for value in _evenly(-1, 1)]

    scaled = scaling.transform(_values(window), _rows(-1), _known(fleet_scale=2.0))

    np.testing.assert_allclose(scaled[0, :, 0], np.linspace(-0.5, 0.5, 101), atol=1e-3)


def test_an_entity_that_appears_and_moves_more_than_the_fleet_takes_its_own_scale() -> None:
    scaled = scaling.transform(_values(_evenly(0, 100)), _rows(-1), _known(fleet_scale=2.0))

    assert scaled[0, 100, 0] == pytest.approx(50.0 / (50.0 / IQR_OF_NORMAL))


def test_known_and_new_entities_may_be_mixed_in_one_batch() -> None:
    scaled = scaling.transform(_values([7.0, 7.0], [3.0, 3.0]), _rows(-1, 0), _known(center=1.0, scale=2.0))

    np.testing.assert_allclose(scaled[..., 0], [[0.0, 0.0], [1.0, 1.0]])


def test_values_scaled_by_the_factors_are_the_same_as_transformed() -> None:
    windows, rows = _values([7.0, 9.0, NAN], [3.0, 5.0, 4.0]), _rows(-1, 0)
    known = _known(center=1.0, scale=2.0, fleet_scale=0.5)

    center, scale = scaling.factors(windows, rows, known)

    # the new one: median 8, quartiles 7.5 and 8.5
    np.testing.assert_allclose(center, [[8.0], [1.0]])
    np.testing.assert_allclose(scale, [[1.0 / IQR_OF_NORMAL], [2.0]], rtol=1e-6)
    scaled = (windows - center[:, None]) / scale[:, None]
    np.testing.assert_allclose(scaling.transform(windows, rows, known), scaled, rtol=1e-6)


def test_far_out_begins_at_a_thousand_usual_spreads() -> None:
    scaled = scaling.transform(_values([1998.0, 2002.0, -2002.0]), _rows(0), _known(scale=2.0))

    np.testing.assert_array_equal(scaled[0, :, 0], [999.0, 1000.0, -1000.0])


def test_windows_passed_in_stay_as_they_were() -> None:
    windows = _values([10.0, 14.0])

    scaling.transform(windows, _rows(0), _known(center=10.0))

    np.testing.assert_array_equal(windows[0, :, 0], [10.0, 14.0])


def test_the_scaling_itself_is_not_changed_by_new_entities() -> None:
    known = _known(center=1.0, scale=2.0)

    scaling.transform(_values([7.0, 9.0]), _rows(-1), known)

    assert (known.center[0, 0], known.scale[0, 0]) == (1.0, 2.0)


@given(arrays.arrays(np.float32, (2, 5, 1), elements=_ELEMENTS), st.tuples(*[st.integers(-1, 0)] * 2))
def test_scaled_values_stay_within_the_clip_and_missing_where_they_were(
    windows: Float32, rows: tuple[int, int]
) -> None:
    scaled = scaling.transform(windows, _rows(*rows), _known(scale=0.5))

    np.testing.assert_array_equal(np.isnan(scaled), np.isnan(windows))
    assert (np.abs(scaled[~np.isnan(scaled)]) <= CLIP).all()


@pytest.mark.parametrize("cells", [1, 100, 1_000_000])
@pytest.mark.parametrize("slots", [1, 2, 3, 60, 101])
def test_quantiles_are_those_of_numpy(slots: int, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "_CELLS", cells)
    rng = np.random.default_rng(slots)
    values = rng.normal(size=(5, slots, 3)).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = NAN
    values[2, :, 1] = NAN
    shares = [0.01, 0.25, 0.5, 0.75, 0.99]

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.nanquantile(values, shares, axis=1)

    np.testing.assert_array_equal(scaling._quantiles(values, shares), expected)
