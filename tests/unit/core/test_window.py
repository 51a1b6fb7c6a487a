"""History to windows: which are scorable, why not, and what the network reads."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detector.core import window
from detector.core.series import Float32, Reason, any_metric

NAN = math.nan
KNOWN, NO_DATA, GAP, WARMING_UP = Reason.KNOWN, Reason.NO_DATA, Reason.GAP, Reason.WARMING_UP


def _values(*rows: list[float]) -> Float32:
    """Entities with one metric each, (E, L, 1)."""
    return np.array(rows, dtype=np.float32)[..., None]


def _reasons(row: list[float], timesteps: int, max_missing: float) -> list[Reason]:
    return [Reason(code) for code in window.reasons(_values(row), timesteps, max_missing=max_missing)[0]]


def test_windows_slide_by_one_slot_and_run_oldest_first() -> None:
    windows = window.slide(_values([1, 2, 3, 4], [5, 6, 7, 8]), timesteps=3)

    np.testing.assert_array_equal(windows[..., 0], [[[1, 2, 3], [2, 3, 4]], [[5, 6, 7], [6, 7, 8]]])


def test_windows_keep_metrics_apart() -> None:
    values = np.arange(8, dtype=np.float32).reshape(1, 4, 2)

    np.testing.assert_array_equal(window.slide(values, timesteps=2)[0, 1], [[2, 3], [4, 5]])


def test_windows_are_a_view_and_cost_no_memory() -> None:
    values = _values([1, 2, 3])

    assert np.shares_memory(window.slide(values, timesteps=2), values)


def test_a_history_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="window"):
        window.slide(_values([1, 2]), timesteps=3)


@pytest.mark.parametrize("slots", [0, 1, 28, 29])
def test_of_fewer_slots_than_a_window_has_there_is_no_window(slots: int) -> None:
    values = np.zeros((2, slots, 3), dtype=np.float32)

    assert window.reasons(values, 30, max_missing=0.2).shape == (2, 0)


def test_a_full_window_is_known() -> None:
    assert _reasons([1, 2, 3, 4, 5], 4, 0.0) == [KNOWN, KNOWN]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1, 2, 3, NAN], NO_DATA),
        ([NAN, NAN, NAN, NAN], NO_DATA),
        ([1, NAN, NAN, 4], GAP),
        ([NAN, NAN, 3, 4], WARMING_UP),
        ([NAN, NAN, NAN, 4], WARMING_UP),
        ([NAN, 2, NAN, 4], GAP),
        ([NAN, 2, 3, 4], KNOWN),
        ([1, NAN, 3, 4], KNOWN),
    ],
)
def test_reason_of_a_window_of_which_a_quarter_may_be_missing(row: list[float], reason: Reason) -> None:
    assert _reasons(row, 4, 0.25) == [reason]


def test_an_entity_that_appears_warms_up_until_its_window_is_full_enough() -> None:
    row = [NAN] * 4 + [1.0] * 5

    assert _reasons(row, 4, 0.25) == [NO_DATA, WARMING_UP, WARMING_UP, KNOWN, KNOWN, KNOWN]


def test_an_entity_that_vanishes_has_no_data_at_once() -> None:
    assert _reasons([1.0] * 4 + [NAN] * 2, 4, 0.5) == [KNOWN, NO_DATA, NO_DATA]


def test_a_slot_with_some_metrics_missing_still_has_data() -> None:
    values = np.array([[[1, 1], [1, 1], [1, 1], [1, NAN]]], dtype=np.float32)

    assert window.reasons(values, 4, max_missing=0.125).tolist() == [[KNOWN]]
    assert window.reasons(values, 4, max_missing=0.1).tolist() == [[GAP]]


def test_entities_are_judged_apart() -> None:
    values = _values([1, 2, 3, 4], [NAN, NAN, NAN, 4], [1, 2, 3, NAN])

    assert window.reasons(values, 4, max_missing=0.25).tolist() == [[KNOWN], [WARMING_UP], [NO_DATA]]


@pytest.mark.parametrize("percent", [1, 7, 28, 29, 30, 57, 58, 59])
@pytest.mark.parametrize("place", ["oldest", "middle"])
def test_exactly_the_share_that_may_be_missing_does_not_count_as_too_much(percent: int, place: str) -> None:
    before = 0 if place == "oldest" else 20
    row = [1.0] * before + [NAN] * percent + [1.0] * (100 - before - percent)

    assert _reasons(row, 100, percent / 100) == [KNOWN]


@given(
    arrays.arrays(np.float32, (2, 12, 2), elements=st.sampled_from([1.0, NAN])),
    st.integers(2, 12),
    st.floats(0.0, 0.99),
)
def test_a_window_is_known_exactly_if_enough_of_it_and_of_its_newest_slot_is_there(
    values: Float32, timesteps: int, max_missing: float
) -> None:
    known = window.reasons(values, timesteps, max_missing=max_missing) == KNOWN

    missing = np.isnan(window.slide(values, timesteps))  # (E, K, T, F)
    newest_is_there = ~missing[:, :, -1].all(axis=2)
    few_missing = missing.mean(axis=(2, 3)) <= max_missing + 1e-9
    # an entity whose oldest slots are all empty warms up, even if the share of all its metrics would do
    assert not (known & ~(newest_is_there & few_missing)).any()


def test_the_newest_slot_is_withheld_from_the_network() -> None:
    inputs = window.network_input(_values([1, 2, 3, 4]))

    np.testing.assert_array_equal(inputs[0, :, 0], [1, 2, 3])


def test_the_network_reads_a_missing_value_as_the_last_known_one() -> None:
    inputs = window.network_input(_values([1, NAN, NAN, 4, NAN, 9]))

    np.testing.assert_array_equal(inputs[0, :, 0], [1, 1, 1, 4, 4])


def test_the_network_reads_zero_before_the_first_known_value() -> None:
    inputs = window.network_input(_values([NAN, NAN, 3, NAN, 5]))

    np.testing.assert_array_equal(inputs[0, :, 0], [0, 0, 3, 3])


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_network_reads_no_value_that_would_saturate_it(sign: float) -> None:
    inputs = window.network_input(_values([sign * 9.5, sign * 11.0, sign * math.inf, 0.0]))

    np.testing.assert_array_equal(inputs[0, :, 0], [sign * 9.5, sign * window.INPUT_CLIP, sign * window.INPUT_CLIP])


def test_the_channel_after_the_metrics_is_the_share_of_those_missing() -> None:
    windows = np.array([[[1, 2], [NAN, 3], [NAN, NAN], [1, NAN]]], dtype=np.float32)

    np.testing.assert_array_equal(window.network_input(windows)[0, :, 2], [0.0, 0.5, 1.0])


def test_the_last_channels_are_the_calendar() -> None:
    windows = np.array([[[1, 2], [NAN, 3], [5, 6]]], dtype=np.float32)
    calendar = np.array([[[-0.5, 0.25], [20.0, 0.75]]], dtype=np.float32)

    inputs = window.network_input(windows, calendar)

    np.testing.assert_array_equal(inputs, [[[1, 2, 0, -0.5, 0.25], [1, 3, 0.5, 20.0, 0.75]]])


def test_full_windows_pass_unchanged_beside_holed_ones() -> None:
    inputs = window.network_input(_values([1, 2, 5], [3, NAN, 6]))

    np.testing.assert_array_equal(inputs, [[[1, 0], [2, 0]], [[3, 0], [3, 1]]])


@given(arrays.arrays(np.float32, (3, 5, 2), elements=st.sampled_from([-1.5, 0.0, 2.0, 1e3, NAN])))
def test_what_the_network_reads_has_no_nan_and_leaves_the_windows_as_they_were(windows: Float32) -> None:
    before = windows.copy()

    inputs = window.network_input(windows)

    assert np.isfinite(inputs).all()
    np.testing.assert_array_equal(windows, before)


@given(
    arrays.arrays(np.float32, (2, 5, 2), elements=st.sampled_from([-1.5, 0.0, 2.0, NAN])),
    arrays.arrays(np.float32, (2, 2), elements=st.sampled_from([-1.5, 7.0, NAN])),
)
def test_what_the_network_reads_does_not_depend_on_the_newest_slot(windows: Float32, newest: Float32) -> None:
    changed = windows.copy()
    changed[:, -1] = newest

    np.testing.assert_array_equal(window.network_input(windows), window.network_input(changed))


def test_slots_are_summed_over_a_span() -> None:
    values = np.array([[1, 0], [2, 0], [0, 5], [4, 1]], dtype=np.int32)

    np.testing.assert_array_equal(window.rolling_sum(values, 2), [[3, 0], [2, 5], [4, 6]])
    np.testing.assert_array_equal(window.rolling_sum(values > 0, 4), [[3, 2]])
    assert window.rolling_sum(values, 5).shape == (0, 2)


def test_one_metric_is_enough_of_however_many() -> None:
    values = np.zeros((3, 300), dtype=np.bool_)
    values[1, 7] = values[2] = True

    assert any_metric(values).tolist() == [False, True, True]
    assert any_metric(values[:, None, :8]).tolist() == [[False], [True], [True]]
