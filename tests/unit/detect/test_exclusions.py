"""When an exclusion is in force, what it mutes, and what it keeps out of training."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from detector.core.series import History
from detector.detect import exclusions
from detector.errors import ConfigError
from detector.ports import Exclusion

HOUR = 3_600_000
DAY = 24 * HOUR


def _at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


ONCE = Exclusion(
    id=1,
    monitor="web",
    entity=None,
    metric=None,
    start=_at("2026-03-01T01:00"),
    end=_at("2026-03-01T03:00"),
    effect="both",
    rule=None,
    time_zone="UTC",
    comment=None,
    created_at=0,
    created_by=None,
)
# Sundays from 02:30 to 04:30 by the clocks of Berlin, which go forward on 29 March and back on 25 October 2026
SUNDAYS = replace(
    ONCE,
    start=_at("2026-03-01T01:30"),
    end=_at("2026-03-01T03:30"),
    rule="FREQ=WEEKLY;BYDAY=SU",
    time_zone="Europe/Berlin",
)


def _ranges(exclusion: Exclusion, start: str, end: str) -> list[tuple[str, str]]:
    found = exclusions.ranges(exclusion, _at(start), _at(end))
    return [tuple(datetime.fromtimestamp(t / 1000, UTC).strftime("%m-%dT%H:%M") for t in span) for span in found]  # type: ignore[misc]


def test_one_that_does_not_recur_is_in_force_once() -> None:
    assert _ranges(ONCE, "2026-02-01", "2026-04-01") == [("03-01T01:00", "03-01T03:00")]
    assert _ranges(ONCE, "2026-03-01T03:00", "2026-04-01") == []
    assert _ranges(ONCE, "2026-02-01", "2026-03-01T01:00") == []


def test_an_open_ended_one_is_in_force_up_to_whatever_is_asked() -> None:
    assert _ranges(replace(ONCE, end=None), "2026-05-01", "2026-05-02") == [("03-01T01:00", "05-02T00:00")]


def test_a_recurring_one_begins_at_the_same_time_by_the_wall_clock() -> None:
    # winter: UTC + 1; on the 29th 02:30 does not exist, and the clock shows 03:30 then; summer: UTC + 2
    assert _ranges(SUNDAYS, "2026-03-20", "2026-04-10") == [
        ("03-22T01:30", "03-22T03:30"),
        ("03-29T01:30", "03-29T02:30"),
        ("04-05T00:30", "04-05T02:30"),
    ]


def test_where_the_clock_goes_back_it_takes_an_hour_more() -> None:
    assert _ranges(SUNDAYS, "2026-10-24", "2026-10-27") == [("10-25T00:30", "10-25T03:30")]


def test_one_that_has_begun_before_the_time_asked_for_is_found() -> None:
    assert _ranges(SUNDAYS, "2026-03-08T02:00", "2026-03-08T02:01") == [("03-08T01:30", "03-08T03:30")]


@pytest.mark.parametrize(
    ("changes", "muted"),
    [
        ({}, True),
        ({"effect": "mute"}, True),
        ({"effect": "mask"}, False),
        ({"entity": "web-*"}, True),
        ({"entity": "db-*"}, False),
        ({"metric": "cpu*"}, True),
        ({"metric": "memory"}, False),
        ({"start": _at("2026-03-01T02:30")}, False),
    ],
)
def test_an_alert_is_muted_by_what_covers_its_time_its_entity_and_most_of_its_score(
    changes: dict[str, object], muted: bool
) -> None:
    exclusion = replace(ONCE, **changes)  # type: ignore[arg-type]

    assert (
        exclusions.mutes([exclusion], "web-1", share={"cpu": 0.6, "memory": 0.4}, at=_at("2026-03-01T02:00")) == muted
    )


def test_brackets_in_names_are_brackets() -> None:
    exclusion = replace(ONCE, entity="[2001:db8::1]:*")

    assert exclusions.mutes([exclusion], "[2001:db8::1]:9100", share={"cpu": 1.0}, at=ONCE.start)
    assert not exclusions.mutes([exclusion], "2:9100", share={"cpu": 1.0}, at=ONCE.start)


def test_several_exclusions_of_metrics_mute_together() -> None:
    both = [replace(ONCE, metric="cpu"), replace(ONCE, metric="disk")]
    share = {"cpu": 0.3, "disk": 0.3, "memory": 0.4}

    assert not exclusions.mutes(both[:1], "web-1", share=share, at=ONCE.start)
    assert exclusions.mutes(both, "web-1", share=share, at=ONCE.start)


def _history() -> History:
    """Two entities and metrics, a slot an hour from midnight on."""
    return History(("web-1", "db-1"), _at("2026-03-01"), HOUR, np.ones((2, 6, 2), dtype=np.float32))


@pytest.mark.parametrize("effect", ["mask", "both"])
def test_training_does_not_see_what_is_masked(effect: str) -> None:
    exclusion = replace(ONCE, effect=effect, entity="web-*", metric="cpu")

    seen = exclusions.without(_history(), ("cpu", "memory"), [exclusion], real={}).values

    missing = np.zeros((2, 6, 2), dtype=np.bool_)
    missing[0, 1:3, 0] = True
    np.testing.assert_array_equal(np.isnan(seen), missing)


def test_training_does_not_see_the_real_incidents_of_an_entity() -> None:
    real = {"db-1": [(_at("2026-03-01T03:30"), _at("2026-03-01T04:30"))]}

    seen = exclusions.without(_history(), ("cpu", "memory"), [replace(ONCE, effect="mute")], real=real).values

    assert np.isnan(seen).any(axis=2).tolist() == [[False] * 6, [False, False, False, True, True, False]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"end": ONCE.start}, "must end after it begins"),
        ({"metric": "cpv"}, "no metric of monitor 'web' is like 'cpv'; there is: cpu, memory"),
        ({"time_zone": "Mars"}, "such as Europe/Berlin or UTC. Received: 'Mars'"),
        ({"rule": "FREQ=WEEKLY", "end": None}, "needs an end"),
        ({"rule": "EVERY SUNDAY"}, "must be an RFC 5545 rule such as FREQ=WEEKLY;BYDAY=SU"),
        ({"rule": "FREQ=SOMETIMES"}, "must be an RFC 5545 rule"),
        ({"rule": "DTSTART:20260101T000000 RRULE:FREQ=DAILY"}, "must be an RFC 5545 rule"),
        ({"rule": "FREQ=YEARLY;UNTIL=20200101T000000"}, "never happens"),
        ({"rule": "FREQ=YEARLY;UNTIL=20270101T000000Z"}, "without Z"),
        ({"end": 10**15}, "between 1970 and the year 9000"),
    ],
)
def test_an_exclusion_that_makes_no_sense_is_refused_with_a_reason(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        exclusions.check(replace(ONCE, **changes), ("cpu", "memory"))  # type: ignore[arg-type]

    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("exclusion", [ONCE, SUNDAYS, replace(ONCE, end=None), replace(ONCE, metric="c*")])
def test_an_exclusion_that_makes_sense_is_taken(exclusion: Exclusion) -> None:
    exclusions.check(exclusion, ("cpu", "memory"))
