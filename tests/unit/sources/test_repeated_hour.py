"""Which time around a row means whose local time occurs twice."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from detector.sources import repeated_hour
from detector.sources.repeated_hour import RepeatedHour

MINUTE = 60_000
HOUR = 60 * MINUTE
MIDNIGHT = 1_792_886_400_000  # 2026-10-25T00:00:00Z: in Berlin 02:00 for the first time, an hour later for the second
NIGHT = RepeatedHour(MIDNIGHT, HOUR)
FIVE = [*range(0, 60, 5)]


def _at(written: str) -> int:
    return round(datetime.fromisoformat(written).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("zone", "day", "expected"),
    [
        ("Europe/Berlin", "2026-10-25", ("2026-10-25T00:00", 60)),
        ("America/New_York", "2026-11-01", ("2026-11-01T05:00", 60)),
        ("Australia/Lord_Howe", "2026-04-04", ("2026-04-04T14:30", 30)),
        ("Europe/Berlin", "2026-03-29", None),  # clocks are set forward
        ("Asia/Tokyo", "2026-10-25", None),
    ],
)
def test_an_hour_repeats_where_clocks_are_set_back(zone: str, day: str, expected: tuple[str, int] | None) -> None:
    found = repeated_hour.between(ZoneInfo(zone), _at(day), _at(day) + 24 * HOUR)

    assert found == ([] if expected is None else [RepeatedHour(_at(expected[0]), expected[1] * MINUTE)])


@pytest.mark.parametrize(("minute", "is_near"), [(-1, False), (0, True), (119, True), (120, False)])
def test_it_is_found_from_any_minute_of_either_time_around(minute: int, is_near: bool) -> None:
    start = MIDNIGHT + minute * MINUTE

    assert repeated_hour.between(ZoneInfo("Europe/Berlin"), start, start + MINUTE) == [NIGHT] * is_near


def _dated(minutes: Sequence[int], entity: Sequence[int] = (), local: Sequence[bool] = ()) -> list[int]:
    """Minutes since midnight of rows that are read one after the other, taken for the first time around."""
    count = len(minutes)
    names = np.array(entity or [0] * count, np.int32)
    time = MIDNIGHT + MINUTE * np.array(minutes, np.int64)
    part = names, np.zeros(count, np.int32), time, np.ones(count)
    is_local = np.array(local or [True] * count, np.bool_)
    found = repeated_hour.dated([part], [is_local], [NIGHT], start=MIDNIGHT - HOUR, end=MIDNIGHT + 3 * HOUR)
    return ((found[2] - MIDNIGHT) // MINUTE).tolist()  # type: ignore[no-any-return]


def test_rows_are_of_the_second_time_around_from_where_time_steps_back() -> None:
    assert _dated([*FIVE, *FIVE]) == [*range(0, 120, 5)]


def test_rows_may_come_newest_first() -> None:
    assert _dated([*FIVE, *FIVE][::-1]) == [*range(0, 120, 5)][::-1]


def test_each_entity_steps_back_when_it_does() -> None:
    minutes = [0, 30, 0, 40, 10, 30, 10, 40]
    entity = [0, 0, 1, 1, 0, 0, 1, 1]  # 0: 0, 30, 10 (only 20 less), 30; 1: 0, 40, 10 (30 less), 40

    assert _dated(minutes, entity) == [0, 30, 0, 40, 10, 30, 70, 100]


def test_a_row_that_is_some_minutes_late_is_no_step_back() -> None:
    minutes = [0, 5, 10, 20, 25, 15, 30, 40, 35, 45, 50, 55]

    assert _dated([*minutes, *minutes]) == [*minutes, *(minute + 60 for minute in minutes)]


def test_of_two_rows_in_order_of_time_the_first_is_the_first_time_around() -> None:
    twice = sorted([*FIVE, *FIVE])

    assert _dated(twice) == [minute + 60 * (number % 2) for number, minute in enumerate(twice)]


def test_while_the_second_time_around_goes_on_the_rest_has_been_seen_once() -> None:
    assert _dated([0, 0, 5, 5, 10, 10, 15, 20, 25]) == [0, 60, 5, 65, 10, 70, 15, 20, 25]


def test_rows_of_which_there_is_one_for_each_time_count_for_both() -> None:
    assert _dated(FIVE) == [*range(0, 120, 5)]


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_shuffled_rows_tells_nothing(seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(60).tolist()

    assert _dated(shuffled) == [*shuffled, *(minute + 60 for minute in shuffled)]


def test_a_row_that_was_sent_again_is_not_the_second_time_around_of_all() -> None:
    assert _dated([0, 5, 5, 10, 15, 20]) == [0, 5, 5, 10, 15, 20, 60, 65, 65, 70, 75, 80]


def test_a_time_with_an_offset_means_what_it_says() -> None:
    assert _dated([0, 5, 10, 60, 65, 70], local=[False] * 6) == [0, 5, 10, 60, 65, 70]


def test_times_around_the_hour_are_left_alone() -> None:
    assert _dated([-10, -5, *FIVE, *FIVE, 120, 125]) == [-10, -5, *range(0, 120, 5), 120, 125]


def test_only_the_range_that_is_asked_for_is_kept() -> None:
    part = np.zeros(2, np.int32), np.zeros(2, np.int32), np.array([MIDNIGHT, MIDNIGHT]), np.array([1.0, 2.0])

    found = repeated_hour.dated(
        [part], [np.array([True, True])], [NIGHT], start=MIDNIGHT + HOUR, end=MIDNIGHT + 2 * HOUR
    )

    assert [column.tolist() for column in found] == [[0], [0], [MIDNIGHT + HOUR], [2.0]]
