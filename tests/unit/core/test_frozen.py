"""A metric that always moved and stands still has got stuck; one that often rests has not."""

from __future__ import annotations

import numpy as np
import pytest

from detector.core import frozen
from detector.core.frozen import NEVER
from detector.core.series import Float32

NONE = np.zeros((1, 1), dtype=np.int64)  # slots the first value had stayed the same for


def _moving(slots: int = 1200) -> Float32:
    """One entity and metric that is never the same twice in a row."""
    return np.arange(slots, dtype=np.float32)[None, :, None]


def test_a_restless_metric_may_rest_for_a_quarter_of_an_hour_at_least() -> None:
    assert frozen.limits(_moving()).tolist() == [[15]]


def test_a_metric_may_rest_three_times_as_long_as_it_ever_did() -> None:
    values = _moving()
    values[0, 100:108] = 7.0  # eight alike: the last of them has been so for seven slots

    assert frozen.limits(values).tolist() == [[21]]


@pytest.mark.parametrize("values", [_moving(499), np.ones((1, 1200, 1), dtype=np.float32), _moving() // 2])
def test_a_metric_that_is_young_or_often_rests_is_never_frozen(values: Float32) -> None:
    assert frozen.limits(values).tolist() == [[NEVER]]


def test_missing_values_are_no_evidence_and_no_rest() -> None:
    values = _moving()
    values[0, 200:300] = np.nan

    assert frozen.limits(values).tolist() == [[15]]
    values[0, 200:1000] = np.nan  # leaves 400
    assert frozen.limits(values).tolist() == [[NEVER]]


def test_a_metric_is_frozen_from_the_slot_on_that_reaches_its_limit() -> None:
    values = np.stack([_moving(40)[0], _moving(40)[0]])
    values[0, 20:] = 5.0  # at index 20 it is new, at 35 it has been the same for 15 slots

    found = frozen.is_frozen(values, np.array([[15], [15]]), 6, rested=NONE.repeat(2, axis=0))

    assert found[0, :, 0].tolist() == [False, True, True, True, True, True]
    assert not found[1].any()


def test_a_gap_ends_a_rest() -> None:
    values = np.full((1, 40, 1), 5.0, dtype=np.float32)
    values[0, 30] = np.nan

    assert not frozen.is_frozen(values, np.array([[15]]), 1, rested=NONE).any()
    assert frozen.is_frozen(values, np.array([[8]]), 1, rested=NONE).all()


def test_a_metric_without_a_limit_is_never_frozen() -> None:
    values = np.full((1, 40, 2), 5.0, dtype=np.float32)
    rested = np.array([[10_000, 0]])

    assert frozen.is_frozen(values, np.array([[NEVER, 39]]), 1, rested=rested).tolist() == [[[False, True]]]


def test_a_rest_goes_on_from_before_the_first_slot_until_the_value_changes() -> None:
    values = np.full((3, 10, 1), 5.0, dtype=np.float32)
    values[1, 4:] = 6.0
    values[2, 0] = np.nan
    rested = np.array([[90], [90], [90]])

    # the first one has stayed the same for 99 slots in the end, the second for 5 since it changed
    assert frozen.rest(values, rested)[:, 0].tolist() == [99, 5, 8]
    assert frozen.rest(values[:, :1], rested)[:, 0].tolist() == [90, 90, 0]
    assert frozen.is_frozen(values, np.array([[99]] * 3), 2, rested=rested)[:, :, 0].tolist() == [
        [False, True],
        [False, False],
        [False, False],
    ]
