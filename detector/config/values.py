"""Values that several keys share: durations, time zones, cron lines, URLs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BeforeValidator

_LONGEST_MS = 1000 * 366 * 86_400_000
_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


def duration(written: str) -> timedelta:
    """The duration of a text such as `90s`, `5m` or `1h30m`.

    Raises: ValueError if it is not a duration.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhdw])", written)
    if not parts or "".join(number + unit for number, unit in parts) != written.replace(" ", ""):
        msg = 'must be a duration such as "30s", "5m", "1h30m" or "7d"'
        raise ValueError(msg)
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if total > _LONGEST_MS:
        msg = "must not be longer than a thousand years"
        raise ValueError(msg)
    return timedelta(milliseconds=total)


def parse_duration(value: object) -> object:
    """A duration from text; anything else is left for pydantic to refuse."""
    return duration(value) if isinstance(value, str) else value


def more_than_nothing(value: timedelta) -> timedelta:
    """A duration that is more than nothing.

    Raises: ValueError if it is not.
    """
    if value <= timedelta(0):
        msg = "must be more than 0s"
        raise ValueError(msg)
    return value


def _refuse_number(value: object) -> object:
    if isinstance(value, int | float):
        msg = f'must be a duration with a unit, such as "{value}s"'
        raise ValueError(msg)
    return value


def _known_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError) as exc:
        msg = "must be a time zone such as Europe/Berlin or UTC"
        raise ValueError(msg) from exc
    return value


Zone = Annotated[str, AfterValidator(_known_zone)]
Duration = Annotated[timedelta, BeforeValidator(parse_duration), BeforeValidator(_refuse_number)]


def http_url(value: str) -> str:
    """The URL of a server or of one of its pages.

    Raises: ValueError if it is not a URL, without showing it.
    """
    try:
        parts = urlsplit(value)
        is_good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or not value.isprintable() or " " in value:
        msg = "must be a URL such as https://host:9093 (not shown: secrets)"
        raise ValueError(msg)
    return value


def server_url(value: str) -> str:
    """The URL of a server, to which paths are added.

    Raises: ValueError if it is not one, without showing it.
    """
    if set(value) & set("?#"):
        msg = "must be a URL without ? and #, such as https://host:9090 (not shown: secrets)"
        raise ValueError(msg)
    return http_url(value)


def cron_line(value: str) -> str:
    """A line of five fields as crontab(5) has them, or "off".

    Raises: ValueError if it is neither.
    """
    if value == "off":
        return value
    try:
        if len(value.split()) != 5:
            raise CronSimError("five fields expected")
        CronSim(value, datetime(2000, 1, 1, tzinfo=UTC))
    except (CronSimError, ValueError) as exc:
        msg = f'must be "off" or a cron line such as "0 3 * * sun" ({exc})'
        raise ValueError(msg) from exc
    return value


CronLine = Annotated[str, AfterValidator(cron_line)]


def next_firings(cron: str, now: int, count: int, zone: str = "UTC") -> list[int]:
    """The next times a cron line (not "off") fires after now; fewer if it fires less often. Epoch milliseconds."""
    return list(islice(firing_times(cron, now, now + _LONGEST_MS, zone), count))


def firing_times(cron: str, start: int, end: int, zone: str = "UTC") -> Iterator[int]:
    """Times between two others, both exclusive, when a cron line (not "off") fires; all epoch milliseconds.

    As Debian's cron: 0 and 7 are Sunday; day of the month and weekday are alternatives where both are given; a line of
    fixed hours that falls into an hour that is left out fires right after it, and once in an hour that comes twice.
    """
    begin = datetime.fromtimestamp(start / 1000, UTC if zone == "UTC" else ZoneInfo(zone))
    for moment in CronSim(cron, begin):
        fires = round(moment.timestamp() * 1000)
        if fires >= end:
            return
        if fires > start:  # in the second pass of an hour that comes twice, the first one's times come up again
            yield fires
