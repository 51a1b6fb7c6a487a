"""Samples to slots, and the history the slots are kept in. Steps are 10 ms, so that times stay readable."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.core import grid
from detector.core.grid import Aggregate
from detector.core.series import Float32, History, Samples

NAN = math.nan
STEP = 10

Row = tuple[str, int, int, float]  # entity, metric, time, value


def _samples(*rows: Row) -> Samples:
    entities = tuple(dict.fromkeys(row[0] for row in rows))
    return Samples(
        entities=entities,
        entity=np.array([entities.index(row[0]) for row in rows], dtype=np.int32),
        metric=np.array([row[1] for row in rows], dtype=np.int32),
        time=np.array([row[2] for row in rows], dtype=np.int64),
        value=np.array([row[3] for row in rows], dtype=np.float64),
    )


def _of_one(*timed: tuple[int, float], aggregate: Aggregate = "mean", slots: int = 3) -> list[float]:
    """Slots from 100 on of one entity with one metric."""
    samples = _samples(*(("a", 0, time, value) for time, value in timed))
    values = grid.grid(samples, entities=("a",), metrics=1, start=100, slots=slots, step=STEP, aggregate=aggregate)
    return [float(value) for value in values[0, :, 0]]


def _history(entities: tuple[str, ...], start: int, *rows: list[float]) -> History:
    return History(entities, start, STEP, np.array(rows, dtype=np.float32)[..., None])


@pytest.mark.parametrize(("time", "start"), [(100, 100), (109, 100), (110, 110), (0, 0), (-1, -10)], ids=str)
def test_a_slot_holds_its_start_but_not_its_end(time: int, start: int) -> None:
    assert grid.floor(time, STEP) == start


@pytest.mark.parametrize(("now", "end"), [(123, 120), (122, 110), (113, 110), (112, 100)])
def test_a_slot_is_complete_once_its_end_and_the_delay_have_passed(now: int, end: int) -> None:
    assert grid.complete_until(now, STEP, delay=3) == end


def test_every_sample_lands_in_the_slot_its_time_lies_in() -> None:
    np.testing.assert_array_equal(_of_one((100, 1.0), (119, 2.0), (120, 3.0)), [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [("mean", 3.0), ("last", 1.0), ("min", 1.0), ("max", 6.0), ("sum", 9.0), ("count", 3.0)],
)
def test_samples_of_one_slot_are_aggregated(aggregate: Aggregate, expected: float) -> None:
    assert _of_one((101, 2.0), (103, 6.0), (107, 1.0), aggregate=aggregate)[0] == expected


@pytest.mark.parametrize("aggregate", ["mean", "last", "min", "max", "sum", "count"])
def test_a_slot_without_samples_is_missing_under_every_aggregate(aggregate: Aggregate) -> None:
    assert math.isnan(_of_one((101, 2.0), aggregate=aggregate)[1])


@pytest.mark.parametrize(
    ("aggregate", "expected"), [("mean", 4.0), ("last", 3.0), ("min", 3.0), ("max", 5.0), ("sum", 8.0), ("count", 2.0)]
)
def test_of_duplicates_only_the_one_read_last_counts(aggregate: Aggregate, expected: float) -> None:
    assert _of_one((101, 9.0), (102, 3.0), (101, 5.0), aggregate=aggregate)[0] == expected


def test_last_goes_by_time_and_not_by_reading_order() -> None:
    assert _of_one((108, 8.0), (101, 1.0), (105, 5.0), aggregate="last")[0] == 8.0


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf, 1e39, -1e308])
def test_values_that_are_no_float32_are_left_out(bad: float) -> None:
    np.testing.assert_array_equal(_of_one((101, bad), (102, 4.0), (111, bad)), [4.0, NAN, NAN])


def test_an_unusable_repetition_does_not_replace_a_value() -> None:
    assert _of_one((101, 4.0), (101, NAN))[0] == 4.0


def test_a_sum_beyond_float32_stays_finite() -> None:
    largest = float(np.finfo(np.float32).max)

    assert _of_one((101, largest), (102, largest), aggregate="sum")[0] == largest


@pytest.mark.parametrize("time", [99, 130, 0, -(10**15), 10**15, 4_102_444_800_000], ids=str)
def test_samples_outside_the_range_are_left_out(time: int) -> None:
    np.testing.assert_array_equal(_of_one((105, 1.0), (time, 7.0)), [1.0, NAN, NAN])


def test_entities_and_metrics_keep_to_their_own_cells() -> None:
    samples = _samples(("b", 1, 100, 1.0), ("a", 0, 100, 2.0), ("b", 0, 110, 3.0))

    values = grid.grid(samples, entities=("a", "b"), metrics=2, start=100, slots=2, step=STEP)

    expected = [[[2.0, NAN], [NAN, NAN]], [[NAN, 1.0], [3.0, NAN]]]
    np.testing.assert_array_equal(values, np.array(expected, dtype=np.float32))


def test_entities_not_named_are_left_out_and_silent_ones_are_missing() -> None:
    values = grid.grid(
        _samples(("new", 0, 100, 1.0), ("a", 0, 100, 2.0)),
        entities=("a", "gone"),
        metrics=1,
        start=100,
        slots=1,
        step=STEP,
    )

    np.testing.assert_array_equal(values[:, 0, 0], [2.0, NAN])


def test_no_samples_give_a_grid_of_missing_values() -> None:
    values = grid.grid(_samples(), entities=("a", "b"), metrics=3, start=100, slots=4, step=STEP)

    assert values.shape == (2, 4, 3)
    assert values.dtype == np.float32
    assert np.isnan(values).all()


_ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 1),
        st.integers(80, 150),
        st.floats(allow_nan=True, allow_infinity=True, width=32),
    ),
    unique_by=lambda row: row[:3],
    max_size=40,
)


def _gridded(rows: list[Row], aggregate: Aggregate) -> Float32:
    return grid.grid(
        _samples(*rows), entities=("a", "b"), metrics=2, start=100, slots=4, step=STEP, aggregate=aggregate
    )


@given(_ROWS, st.sampled_from(["last", "min", "max", "count"]), st.randoms(use_true_random=False))
def test_reading_order_does_not_matter_where_no_time_repeats(
    rows: list[Row], aggregate: Aggregate, random: Random
) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)

    np.testing.assert_array_equal(_gridded(rows, aggregate), _gridded(shuffled, aggregate))


@given(_ROWS, st.sampled_from(["mean", "last", "min", "max", "sum", "count"]))
def test_a_grid_never_holds_an_infinity(rows: list[Row], aggregate: Aggregate) -> None:
    assert not np.isinf(_gridded(rows, aggregate)).any()


def test_history_names_its_slots_and_its_end() -> None:
    history = _history(("a",), 100, [1.0, 2.0, 3.0])

    assert history.slots.tolist() == [100, 110, 120]
    assert history.end == 130


def test_cover_moves_on_and_keeps_what_is_known() -> None:
    history = _history(("a",), 100, [1.0, 2.0, 3.0])

    moved = grid.cover(history, entities=["a"], start=110, end=140)

    np.testing.assert_array_equal(moved[0, :, 0], [2.0, 3.0, NAN])


def test_cover_reaches_back_before_the_history() -> None:
    moved = grid.cover(_history(("a",), 100, [1.0, 2.0]), entities=["a"], start=80, end=110)

    np.testing.assert_array_equal(moved[0, :, 0], [NAN, NAN, 1.0])


@pytest.mark.parametrize("start", [0, 130, 10_000_000], ids=["long before", "just after", "long after"])
def test_cover_after_a_clock_jump_knows_nothing(start: int) -> None:
    moved = grid.cover(_history(("a",), 100, [1.0, 2.0, 3.0]), entities=["a"], start=start, end=start + 20)

    assert moved.shape == (1, 2, 1)
    assert np.isnan(moved).all()


def test_cover_adds_entities_that_appear_and_drops_those_that_vanish() -> None:
    history = _history(("a", "b", "c"), 100, [1.0, 2.0], [3.0, 4.0], [5.0, 6.0])

    moved = grid.cover(history, entities=["c", "new", "a"], start=100, end=120)

    np.testing.assert_array_equal(moved[..., 0], [[5.0, 6.0], [NAN, NAN], [1.0, 2.0]])


def test_cover_of_other_entities_altogether_knows_nothing() -> None:
    moved = grid.cover(_history(("a",), 100, [1.0]), entities=["b"], start=100, end=110)

    assert np.isnan(moved).all()


def test_cover_copies_so_that_the_old_history_stays_as_it_was() -> None:
    history = _history(("a",), 100, [1.0])

    grid.cover(history, entities=["a"], start=100, end=110)[:] = 9.0

    assert history.values[0, 0, 0] == 1.0
