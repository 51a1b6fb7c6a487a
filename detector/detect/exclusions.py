"""Exclusions in time: once or recurring, by the clock of a time zone; what they mute and what they mask."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from dateutil.rrule import rruleset, rrulestr

from detector.core.series import Bool, History, Spans
from detector.errors import ConfigError
from detector.ports import Exclusion

_LAST = 221_845_392_000_000  # the year 9000, epoch milliseconds
_MUTED_SHARE = 0.5  # of the score, on excluded metrics, that mutes an alert


def recurrence(rule: str, start: datetime) -> rruleset:
    """The occurrences of an RFC 5545 recurrence rule from a local time without zone on.

    Raises: ValueError saying what is wrong with the rule.
    """
    text = rule.strip().upper()
    if "SECONDLY" in text or "MINUTELY" in text:
        msg = "must not recur by the second or minute: FREQ is HOURLY, DAILY, WEEKLY, MONTHLY or YEARLY"
        raise ValueError(msg)
    if "DTSTART" in text:
        msg = "must not name DTSTART: the exclusion's own start is the first occurrence"
        raise ValueError(msg)
    if re.search(r"UNTIL=\d+T\d+Z", text):
        msg = "must give UNTIL by the clock of the time zone, without Z"
        raise ValueError(msg)
    found = rrulestr(text, dtstart=start, forceset=True, cache=True)
    assert isinstance(found, rruleset)
    return found


def ranges(exclusion: Exclusion, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The excluded times that overlap [start, end), all in epoch milliseconds.

    A recurring one begins at the same wall-clock time and takes as long by the wall clock every time, so that a window
    from 2 to 4 o'clock stays one where clocks change.
    """
    if exclusion.rule is None:
        last = end if exclusion.end is None else exclusion.end
        if exclusion.start < end and last > start:
            yield exclusion.start, last
        return
    zone = ZoneInfo(exclusion.time_zone)
    first = _local(exclusion.start, zone)
    length = _local(exclusion.end or exclusion.start, zone) - first
    # a day more on either side: local times are not in order of time where clocks change
    after = _local(start, zone) - length - timedelta(days=1)
    before = _local(end, zone) + timedelta(days=1)
    for begin in recurrence(exclusion.rule, first).between(after, before, inc=True):
        began, ended = _epoch(begin, zone), _epoch(begin + length, zone)
        if began < end and ended > start:
            yield began, ended


def _local(milliseconds: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, zone).replace(tzinfo=None)


def _epoch(local: datetime, zone: ZoneInfo) -> int:
    return int(local.replace(tzinfo=zone).astimezone(UTC).timestamp() * 1000)


def concerns(exclusion: Exclusion, entity: str) -> bool:
    """Whether an exclusion is about an entity."""
    return exclusion.entity is None or is_like(entity, exclusion.entity)


def is_like(name: str, glob: str) -> bool:
    """Whether a name fits a glob of * and ?; brackets are brackets."""
    return fnmatchcase(name, glob.replace("[", "[[]"))


@lru_cache(maxsize=10_000)
def in_force(exclusion: Exclusion, at: int) -> bool:
    """Whether a time in epoch milliseconds is excluded."""
    return any(True for _ in ranges(exclusion, at, at + 1))


def mutes(exclusions: Sequence[Exclusion], entity: str, *, share: Mapping[str, float] | None, at: int) -> bool:
    """Whether an alert of an entity is muted at a time in epoch milliseconds.

    share: each metric's share of its score; excluded metrics mute it if at least half of the score is theirs. None:
    whatever its metrics
    """
    muted: set[str] = set()
    for exclusion in exclusions:
        if exclusion.effect == "mask" or not concerns(exclusion, entity):
            continue
        if not in_force(exclusion, at):
            continue
        if exclusion.metric is None or share is None:
            return True
        muted.update(name for name in share if is_like(name, exclusion.metric))
    total = sum(share.values()) if share else 0.0
    return bool(share and muted and sum(share[name] for name in muted) >= _MUTED_SHARE * total)


def without(history: History, metrics: Sequence[str], exclusions: Sequence[Exclusion], *, real: Spans) -> History:
    """History to train and calibrate on: what is masked, and the real incidents of each entity, is missing.

    real: spans of each entity, [start, end) in epoch milliseconds
    """
    hidden = masked(exclusions, history, metrics)
    slots = history.slots
    for row, name in enumerate(history.entities):
        for begin, end in real.get(name, ()):
            hidden[row, (slots + history.step > begin) & (slots < end)] = True
    if not hidden.any():
        return history
    return replace(history, values=np.where(hidden, np.float32(np.nan), history.values))


def masked(exclusions: Sequence[Exclusion], history: History, metrics: Sequence[str]) -> Bool:
    """Values (E, L, F) that are kept out of training and calibration."""
    result = np.zeros(history.values.shape, dtype=np.bool_)
    slots = history.slots
    for exclusion in exclusions:
        if exclusion.effect == "mute":
            continue
        rows = [row for row, name in enumerate(history.entities) if concerns(exclusion, name)]
        columns = [f for f, name in enumerate(metrics) if exclusion.metric is None or is_like(name, exclusion.metric)]
        for begin, end in ranges(exclusion, history.start, history.end):
            inside = np.flatnonzero((slots + history.step > begin) & (slots < end))
            result[np.ix_(rows, inside.tolist(), columns)] = True
    return result


def check(exclusion: Exclusion, metrics: Sequence[str]) -> None:
    """Returns if an exclusion makes sense for a monitor's metrics.

    Raises: ConfigError saying what does not.
    """
    if exclusion.end is not None and exclusion.end <= exclusion.start:
        msg = "an exclusion must end after it begins"
        raise ConfigError(msg)
    if not all(0 <= at <= _LAST for at in (exclusion.start, exclusion.end or 0)):
        msg = "an exclusion must begin and end between 1970 and the year 9000; without an end it is open-ended"
        raise ConfigError(msg)
    if exclusion.metric is not None and not any(is_like(name, exclusion.metric) for name in metrics):
        msg = f"no metric of monitor {exclusion.monitor!r} is like {exclusion.metric!r}; there is: {', '.join(metrics)}"
        raise ConfigError(msg)
    try:
        zone = ZoneInfo(exclusion.time_zone)
    except (KeyError, ValueError, OSError) as exc:
        msg = f"the time zone must be one such as Europe/Berlin or UTC. Received: {exclusion.time_zone!r}"
        raise ConfigError(msg) from exc
    if exclusion.rule is not None:
        if exclusion.end is None:
            msg = "a recurring exclusion needs an end: --to or --for says how long it takes each time"
            raise ConfigError(msg)
        try:
            found = recurrence(exclusion.rule, _local(exclusion.start, zone))
        except (ValueError, KeyError, TypeError) as exc:
            msg = f"--rule must be an RFC 5545 rule such as FREQ=WEEKLY;BYDAY=SU ({exc}). Received: {exclusion.rule!r}"
            raise ConfigError(msg) from exc
        if next(iter(found), None) is None:
            msg = f"--rule never happens. Received: {exclusion.rule!r}"
            raise ConfigError(msg)
