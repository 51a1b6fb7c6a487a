"""Durations, epoch milliseconds and UTC text. Nothing here reads the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS


def milliseconds(duration: timedelta) -> int:
    """Whole milliseconds of a duration."""
    return duration // timedelta(milliseconds=1)


def local_zone() -> str:
    """Name of this machine's time zone, such as Europe/Berlin; UTC if the machine names none."""
    import tzlocal

    try:
        return (tzlocal.get_localzone_name() or "UTC").removeprefix("Etc/")
    except (KeyError, LookupError, ValueError, OSError):
        return "UTC"


def utc(at: int, precision: Literal["seconds", "milliseconds", "auto"] = "seconds") -> str:
    """A time in epoch milliseconds as ISO 8601 text, such as 2026-11-23T14:00:00Z."""
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec=precision).replace("+00:00", "Z")
