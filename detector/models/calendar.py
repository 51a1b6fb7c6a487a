"""Hour of the day and day of the week in a monitor's time zone, as numbers a network can read."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np

from detector.core.series import Float32, Int64
from detector.times import DAY_MS, WEEK_MS

# Days of history from which a rhythm is used: it must have been seen three times. Not varied.
DAILY_FROM_DAYS = 3.0
WEEKLY_FROM_DAYS = 21.0
_MONDAY_MS = 4 * DAY_MS  # 1970-01-01 was a Thursday
_QUARTER_MS = 900_000  # clocks change at quarters of an hour


def channels_for(days: float) -> int:
    """Number of calendar channels that some days of history support: 4 with a weekly rhythm, 2 with a daily one, 0."""
    return 4 if days >= WEEKLY_FROM_DAYS else 2 if days >= DAILY_FROM_DAYS else 0


def local(slots: Int64, time_zone: str) -> Int64:
    """Local time at some slots, (N,) epoch milliseconds -> (N,) milliseconds since Monday, 1969-12-29 00:00."""
    quarters, index = np.unique(slots // _QUARTER_MS, return_inverse=True)
    if time_zone == "UTC":
        offsets = np.zeros(len(quarters), dtype=np.int64)
    else:
        zone = ZoneInfo(time_zone)
        offsets = np.fromiter((_offset(quarter * _QUARTER_MS, zone) for quarter in quarters.tolist()), np.int64)
    return np.asarray(slots + offsets[index] + (WEEK_MS - _MONDAY_MS), dtype=np.int64)


def _offset(at: int, zone: ZoneInfo) -> int:
    moment = datetime.fromtimestamp(at / 1000, UTC).astimezone(zone)
    difference = moment.utcoffset()
    return 0 if difference is None else round(difference.total_seconds() * 1000)


def before(slots: Int64, count: int, *, step: int, time_zone: str, channels: int) -> Float32:
    """Calendar channels of the `count` slots before each of some slots, oldest first: (B,) -> (B, count, channels).

    channels: 2 = sine and cosine of the time of day, 4 = also those of the time of the week
    """
    newest, index = np.unique(slots, return_inverse=True)
    times = newest[:, None] - step * np.arange(count, 0, -1)  # (N, count)
    clock = local(times.ravel(), time_zone)
    angles = [2.0 * np.pi * (clock % period) / period for period in (DAY_MS, WEEK_MS)[: channels // 2]]
    read = np.stack([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1)
    return read.reshape(*times.shape, channels).astype(np.float32)[index]
