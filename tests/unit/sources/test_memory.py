"""Samples in memory: read like any source, and never further than they may be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from detector.core.series import Samples
from detector.sources.memory import MemorySource

MINUTE = 60_000
DAY = 24 * 60 * MINUTE
WEEK = 7 * DAY


def _source(*rows: tuple[str, int, float]) -> MemorySource:
    """Rows of one metric: entity, time, value."""
    names = sorted({name for name, _, _ in rows})
    return MemorySource.of(
        names,
        np.array([names.index(name) for name, _, _ in rows], dtype=np.int32),
        np.array([time for _, time, _ in rows], dtype=np.int64),
        np.array([[value] for _, _, value in rows], dtype=np.float64).reshape(-1, 1),
    )


def _rows(samples: Samples) -> list[tuple[str, int, int, float]]:
    entities = [samples.entities[index] for index in samples.entity.tolist()]
    return list(zip(entities, samples.metric.tolist(), samples.time.tolist(), samples.value.tolist(), strict=True))


def test_every_metric_of_a_row_is_a_sample() -> None:
    source = MemorySource.of(["a"], np.zeros(2, np.int32), np.array([5, 9]), np.array([[1.0, 2.0], [3.0, 4.0]]))

    assert _rows(source.read(0, 10)) == [("a", 0, 5, 1.0), ("a", 1, 5, 2.0), ("a", 0, 9, 3.0), ("a", 1, 9, 4.0)]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, 10, [0]), (0, 11, [0, 10]), (1, 20, [10]), (10, 10, []), (-10, 0, []), (30, 20, [])],
)
def test_a_read_holds_its_start_but_not_its_end(start: int, end: int, expected: list[int]) -> None:
    source = _source(("a", 0, 1.0), ("a", 10, 2.0), ("a", 20, 3.0))

    assert source.read(start, end).time.tolist() == expected


def test_a_read_names_only_the_entities_it_has_samples_of() -> None:
    source = _source(("a", 0, 1.0), ("b", 5, 2.0), ("c", 5, 3.0))

    assert _rows(source.read(5, 6)) == [("b", 0, 5, 2.0), ("c", 0, 5, 3.0)]
    assert source.read(5, 6).entities == ("b", "c")


def test_rows_may_be_given_in_any_order_and_those_of_one_time_keep_theirs() -> None:
    source = _source(("a", 20, 1.0), ("a", 0, 2.0), ("a", 20, 3.0), ("b", 10, 4.0))

    assert [row[3] for row in _rows(source.read(0, 30))] == [2.0, 4.0, 1.0, 3.0]


def test_values_that_are_no_numbers_come_through() -> None:
    values = _source(("a", 0, math.nan), ("a", 1, math.inf)).read(0, 2).value.tolist()

    assert math.isnan(values[0])
    assert values[1] == math.inf


def test_extent_is_from_the_oldest_to_the_newest_sample() -> None:
    assert _source(("a", 20, 1.0), ("b", -5, 2.0)).extent(20) == (-5, 20)
    assert _source().extent(100) is None
    assert len(_source().read(0, 10)) == 0


def test_a_part_knows_nothing_of_the_rest() -> None:
    part = _source(("a", 0, 1.0), ("a", 10, 2.0), ("a", 20, 3.0)).between(5, 20)

    assert part.extent(100) == (10, 10)
    assert part.read(0, 100).time.tolist() == [10]


def test_long_times_without_a_row_are_closed_up_by_whole_weeks() -> None:
    source = _source(("a", 0, 1.0), ("a", MINUTE, 2.0), ("b", 20 * DAY, 3.0), ("b", 21 * DAY, 4.0))

    closed = source.closed_up(MINUTE, 30 * MINUTE)

    # two of almost three weeks go; the newest row stays where it is
    assert closed.time.tolist() == [14 * DAY, 14 * DAY + MINUTE, 20 * DAY, 21 * DAY]
    assert closed.entity.tolist() == source.entity.tolist()


@pytest.mark.parametrize("gap", [WEEK - MINUTE, WEEK])
def test_so_much_of_a_gap_stays_as_was_asked_for(gap: int) -> None:
    source = _source(("a", 0, 1.0), ("a", 2 * WEEK - MINUTE, 2.0))

    assert np.diff(source.closed_up(MINUTE, gap).time)[0] >= gap


def test_closing_up_keeps_the_place_of_a_row_in_its_slot() -> None:
    step = 7_000  # does not divide a week
    source = _source(("a", 3_000, 1.0), ("a", 100 * WEEK, 2.0))

    closed = source.closed_up(step, step)

    assert closed.time[0] > 3_000
    assert closed.time[0] % step == 3_000


def test_nothing_is_closed_up_where_there_is_no_long_gap() -> None:
    source = _source(("a", 0, 1.0), ("a", MINUTE, 2.0))

    assert source.closed_up(MINUTE, MINUTE).time.tolist() == [0, MINUTE]
    assert _source().closed_up(MINUTE, MINUTE).extent(100) is None
