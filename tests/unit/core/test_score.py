"""Residuals to one error per entity and slot, and its smoothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detector.core import score
from detector.core.series import Float32

NAN = math.nan


def _row(*values: float) -> Float32:
    return np.array([values], dtype=np.float32)


def test_error_is_the_root_mean_square_of_residuals_in_units_of_their_noise() -> None:
    error, _ = score.error(_row(3.0, 8.0), _row(1.0, 2.0))

    assert error[0] == pytest.approx(math.sqrt((3.0**2 + 4.0**2) / 2))


def test_error_and_shares_do_not_depend_on_the_sign_of_residuals() -> None:
    error, share = score.error(_row(-3.0, 8.0), _row(1.0, 2.0))

    assert error[0] == pytest.approx(math.sqrt((3.0**2 + 4.0**2) / 2))
    np.testing.assert_allclose(share, [[9 / 25, 16 / 25]], rtol=1e-6)


def test_error_reads_the_last_axis_whatever_stands_before_it() -> None:
    residuals = np.array([[[3.0, 4.0], [NAN, NAN]], [[0.0, 0.0], [-2.0, NAN]]], dtype=np.float32)  # (E, K, F)

    error, share = score.error(residuals, np.array([[[1.0, 1.0]], [[1.0, 4.0]]], dtype=np.float32))

    np.testing.assert_allclose(error, [[math.sqrt(12.5), NAN], [0.0, 2.0]], rtol=1e-6)
    np.testing.assert_allclose(share, [[[0.36, 0.64], [NAN, NAN]], [[0.0, 0.0], [1.0, 0.0]]], rtol=1e-6)


def test_shares_are_parts_of_the_sum_of_squares() -> None:
    _, share = score.error(_row(3.0, 8.0), _row(1.0, 2.0))

    np.testing.assert_allclose(share, [[9 / 25, 16 / 25]], rtol=1e-6)


def test_a_missing_metric_neither_counts_nor_shares() -> None:
    error, share = score.error(_row(3.0, NAN, 1.0), _row(1.0, 1.0, 1.0))

    assert error[0] == pytest.approx(math.sqrt((9 + 1) / 2))
    np.testing.assert_allclose(share, [[0.9, 0.0, 0.1]], rtol=1e-6)


def test_where_every_metric_is_missing_error_and_shares_are_unknown() -> None:
    error, share = score.error(_row(NAN, NAN), _row(1.0, 1.0))

    assert np.isnan(error).all()
    assert np.isnan(share).all()


def test_a_perfect_reconstruction_has_no_error_and_nothing_to_share() -> None:
    error, share = score.error(_row(0.0, 0.0), _row(1.0, 1.0))

    assert error.tolist() == [0.0]
    assert share.tolist() == [[0.0, 0.0]]


def test_one_metric_gone_mad_counts_no_more_than_far_out() -> None:
    mad, far_out = score.error(_row(-math.inf, 1.0), _row(1.0, 1.0)), score.error(_row(1e6, 1.0), _row(1.0, 1.0))

    assert mad[0] == far_out[0] < 1e3
    assert mad[1][0, 1] > 0.0


def test_no_windows_give_no_errors() -> None:
    error, share = score.error(np.empty((0, 2), np.float32), np.empty((0, 2), np.float32))

    assert error.shape == (0,)
    assert share.shape == (0, 2)


@given(arrays.arrays(np.float32, (4, 3), elements=st.sampled_from([NAN, 0.0, 1e-30, -0.5, 3.0, -1e20])))
def test_shares_sum_to_one_wherever_there_is_an_error(residuals: Float32) -> None:
    error, share = score.error(residuals, np.ones((4, 3), dtype=np.float32))

    np.testing.assert_allclose(share[error > 0].sum(axis=1), 1.0, rtol=1e-5)


def test_smoothing_over_one_slot_changes_nothing() -> None:
    errors = _row(1.0, NAN, 3.0)

    np.testing.assert_array_equal(score.smooth(errors, 1), errors)


def test_smoothing_is_the_mean_of_the_last_slots() -> None:
    np.testing.assert_allclose(score.smooth(_row(1.0, 2.0, 6.0, 4.0), 3), [[3.0, 4.0]])


def test_smoothing_leaves_unknown_slots_out_of_the_mean() -> None:
    np.testing.assert_allclose(score.smooth(_row(1.0, NAN, 6.0), 3), [[3.5]])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([1.0, NAN, NAN, 3.0], 2.0),
        ([NAN, NAN, NAN, 3.0], NAN),
        ([NAN, NAN, 1.0, NAN, 3.0], NAN),
        ([NAN, 1.0, 2.0, NAN, 6.0], 3.0),
    ],
    ids=["half of four", "a quarter", "two of five", "three of five"],
)
def test_smoothing_is_unknown_where_more_than_half_of_the_span_is(row: list[float], expected: float) -> None:
    np.testing.assert_allclose(score.smooth(_row(*row), len(row)), [[expected]])


def test_smoothing_is_unknown_where_the_newest_slot_is() -> None:
    assert np.isnan(score.smooth(_row(1.0, 2.0, NAN), 3)).all()


def test_smoothing_keeps_entities_apart() -> None:
    errors = np.array([[1.0, 3.0], [10.0, 30.0]], dtype=np.float32)

    np.testing.assert_allclose(score.smooth(errors, 2), [[2.0], [20.0]])


def test_all_spans_end_at_the_same_slot() -> None:
    errors = np.arange(1, 123, dtype=np.float32)[None]  # 1 … 122

    smoothed = score.smoothed(errors)

    # the mean of the last n of consecutive numbers lies (n − 1) / 2 below the last one
    assert score.SPANS == (1, 10, 60, 120)
    newest = np.array([120.0, 121.0, 122.0])[:, None]
    np.testing.assert_allclose(smoothed, [newest - [0.0, 4.5, 29.5, 59.5]])


def test_one_slot_counts_in_the_longer_spans_as_no_more_than_its_limit() -> None:
    errors = np.zeros((2, 120), dtype=np.float32)
    errors[:, -1] = 30.0

    smoothed = score.smoothed(errors, np.array([6.0, 60.0], dtype=np.float32))

    np.testing.assert_allclose(smoothed[0, 0], [30.0, 0.6, 0.1, 0.05], rtol=1e-6)
    np.testing.assert_allclose(smoothed[1, 0], [30.0, 3.0, 0.5, 0.25], rtol=1e-6)


def test_a_span_is_known_as_soon_as_half_of_it_is() -> None:
    errors = np.full((1, 119 + 62), NAN, dtype=np.float32)
    errors[0, 119:] = 1.0  # 62 slots, and room for the longest span before them

    known = ~np.isnan(score.smoothed(errors))[0]  # (62, S)

    assert known.argmax(axis=0).tolist() == [0, 4, 29, 59]


@given(arrays.arrays(np.float32, (2, 125), elements=st.sampled_from([NAN, 0.0, 1.0, 2.0, 400.0])))
def test_smoothed_errors_depend_on_no_more_than_the_longest_span(errors: Float32) -> None:
    longest = max(score.SPANS)

    np.testing.assert_array_equal(score.smoothed(errors)[:, -1:], score.smoothed(errors[:, -longest:]))
