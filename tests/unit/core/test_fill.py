"""Slots without a row: zero while an entity lives, or the last value while it holds."""

from __future__ import annotations

import numpy as np

from detector.core import fill
from detector.core.decide import LONG_AGO
from detector.core.fill import LastRows

NAN = np.nan
SLOTS = np.array([10, 20, 30, 40, 50])
# one entity, two metrics
VALUES = np.array([[[NAN, NAN], [3.0, NAN], [NAN, 7.0], [NAN, NAN], [NAN, NAN]]], dtype=np.float32)


def test_the_newest_rows_are_those_of_each_metric_and_go_on_from_the_ones_before() -> None:
    before = LastRows(np.array([[0, LONG_AGO]]), np.array([[1.5, NAN]], dtype=np.float32))

    last = fill.last_rows(VALUES, SLOTS, before)

    assert last.slot[0, :, 0].tolist() == [0, 20, 20, 20, 20]
    assert last.slot[0, :, 1].tolist() == [LONG_AGO, LONG_AGO, 30, 30, 30]
    np.testing.assert_array_equal(last.value[0, :, 0], [1.5, 3.0, 3.0, 3.0, 3.0])
    np.testing.assert_array_equal(last.value[0, :, 1], [NAN, NAN, 7.0, 7.0, 7.0])


def test_a_value_holds_for_as_long_as_it_may() -> None:
    last = fill.last_rows(VALUES, SLOTS, LastRows.none((1, 2)))

    held = fill.held(VALUES, SLOTS, last, limit=10)

    np.testing.assert_array_equal(held[0, :, 0], [NAN, 3.0, 3.0, NAN, NAN])
    np.testing.assert_array_equal(held[0, :, 1], [NAN, NAN, 7.0, 7.0, NAN])


def test_none_is_zero_from_the_first_row_of_any_metric_until_the_entity_is_gone() -> None:
    last = np.array([[LONG_AGO, 20, 30, 30, 30]])

    zeros = fill.zeros(VALUES, SLOTS, last, limit=20)

    np.testing.assert_array_equal(zeros[0, :, 0], [NAN, 3.0, 0.0, 0.0, NAN])
    np.testing.assert_array_equal(zeros[0, :, 1], [NAN, 0.0, 7.0, 0.0, NAN])
