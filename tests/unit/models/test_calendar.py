"""Hour of the day and day of the week in a time zone, as numbers a network can read."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest

from detector.core.series import Int64
from detector.models import calendar

HOUR = 3_600_000
DAY, WEEK = 24 * HOUR, 7 * 24 * HOUR
MONDAY = 4 * DAY  # 1970-01-05


def _slots(*times: str) -> Int64:
    return np.array([datetime.fromisoformat(time).timestamp() * 1000 for time in times], dtype=np.int64)


def _since_monday(time: str, zone: str) -> tuple[int, str]:
    """Day of the week, Monday = 0, and what the clock shows."""
    days, rest = divmod(int(calendar.local(_slots(time), zone)[0]) % WEEK, DAY)
    return days, f"{rest // HOUR:02}:{rest % HOUR // 60_000:02}"


@pytest.mark.parametrize(
    ("days", "channels"), [(0.0, 0), (2.9, 0), (3.0, 2), (20.9, 2), (21.0, 4), (400.0, 4)], ids=str
)
def test_a_rhythm_is_read_once_it_has_been_seen_three_times(days: float, channels: int) -> None:
    assert calendar.channels_for(days) == channels


@pytest.mark.parametrize("zone", ["UTC", "Etc/UTC"])
def test_weeks_begin_on_monday_at_midnight(zone: str) -> None:
    assert calendar.local(np.array([MONDAY, 0]), zone).tolist() == [WEEK, 3 * DAY]  # 1970-01-01 was a Thursday


@pytest.mark.parametrize(
    ("time", "zone", "expected"),
    [
        ("2024-07-01T00:00Z", "UTC", (0, "00:00")),
        ("2024-06-30T23:59Z", "UTC", (6, "23:59")),
        ("2024-06-30T22:00Z", "Europe/Berlin", (0, "00:00")),
        ("2024-07-01T03:59Z", "America/New_York", (6, "23:59")),
        ("2024-06-30T18:30Z", "Asia/Kolkata", (0, "00:00")),
        ("2024-06-30T18:15Z", "Asia/Kathmandu", (0, "00:00")),
        ("1969-12-28T23:00Z", "Europe/Berlin", (0, "00:00")),
    ],
)
def test_local_is_what_the_clocks_of_the_zone_show(time: str, zone: str, expected: tuple[int, str]) -> None:
    assert _since_monday(time, zone) == expected


@pytest.mark.parametrize(
    ("time", "zone", "expected"),
    [
        ("2024-03-31T00:59Z", "Europe/Berlin", (6, "01:59")),
        ("2024-03-31T01:00Z", "Europe/Berlin", (6, "03:00")),
        ("2024-10-27T00:59Z", "Europe/Berlin", (6, "02:59")),
        ("2024-10-27T01:00Z", "Europe/Berlin", (6, "02:00")),
        ("2024-04-06T14:59Z", "Australia/Lord_Howe", (6, "01:59")),
        ("2024-04-06T15:00Z", "Australia/Lord_Howe", (6, "01:30")),  # this island's clocks change by half an hour
    ],
)
def test_local_follows_clocks_that_are_changed(time: str, zone: str, expected: tuple[int, str]) -> None:
    assert _since_monday(time, zone) == expected


def test_times_of_any_order_may_be_asked_for_together() -> None:
    slots = _slots("2024-07-01T10:00Z", "2024-01-01T10:00Z", "2024-07-01T10:01Z", "2024-07-01T10:00Z")

    together = calendar.local(slots, "Europe/Berlin")

    assert together.tolist() == [int(calendar.local(slots[n : n + 1], "Europe/Berlin")[0]) for n in range(4)]


def test_no_times_have_no_local_time() -> None:
    assert calendar.local(np.empty(0, dtype=np.int64), "Europe/Berlin").shape == (0,)


def test_the_time_of_day_is_a_circle() -> None:
    read = calendar.before(np.array([MONDAY + 12 * HOUR]), 4, step=3 * HOUR, time_zone="UTC", channels=2)

    half = np.sqrt(0.5)
    np.testing.assert_allclose(read, [[[0, 1], [half, half], [1, 0], [half, -half]]], atol=1e-6)


def test_the_time_of_the_week_is_a_second_circle() -> None:
    read = calendar.before(
        np.array([MONDAY + WEEK]), 4, step=42 * HOUR, time_zone="UTC", channels=4
    )  # 42 hours are a quarter of a week

    np.testing.assert_allclose(read[0, :, 2:], [[0, 1], [1, 0], [0, -1], [-1, 0]], atol=1e-6)
    day = 2 * np.pi * np.array([0, 42, 84, 126]) / 24
    np.testing.assert_allclose(read[0, :, :2], np.stack([np.sin(day), np.cos(day)], axis=1), atol=1e-6)


def test_each_window_has_the_calendar_of_the_slots_before_its_newest() -> None:
    slots = np.array([MONDAY + 9 * HOUR, MONDAY, MONDAY + 9 * HOUR])

    read = calendar.before(slots, 5, step=60_000, time_zone="Europe/Berlin", channels=4)

    assert read.shape == (3, 5, 4)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read[0], read[2])
    one_slot_later = calendar.before(slots + 60_000, 5, step=60_000, time_zone="Europe/Berlin", channels=4)
    np.testing.assert_array_equal(read[:, 1:], one_slot_later[:, :-1])


def test_the_same_local_time_reads_the_same_before_and_after_clocks_are_changed() -> None:
    slots = _slots("2024-03-29T08:00+01:00", "2024-04-05T08:00+02:00")

    winter, summer = calendar.before(slots, 3, step=HOUR, time_zone="Europe/Berlin", channels=4)

    np.testing.assert_allclose(winter, summer, atol=1e-6)
