"""Readiness and the watchdog, from what monitors' ticks have done."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any, cast

import pytest

from detector.config.sections import EmbeddedSource, MonitorSection
from detector.daemon import health
from detector.daemon.tasks import MonitorRun
from detector.detect.tick import Monitor
from detector.sources.memory import MemorySource
from detector.train.division import Plan

NOW = 1_700_000_000.0


def _run(name: str = "web", **changes: object) -> MonitorRun:
    section = MonitorSection(name=name, source=EmbeddedSource(type="embedded"), metrics=("load",))
    plan, unused = Plan.of(section), cast(Any, None)
    return MonitorRun(section.model_copy(update=changes), Monitor(plan.horizon, _nothing(), unused), plan)


def _nothing() -> MemorySource:
    import numpy as np

    empty = np.empty(0, dtype=np.int64)
    return MemorySource.of([], empty.astype(np.int32), empty, np.empty((0, 1)))


def _problem(last: float | None) -> str | None:
    run = _run()
    run.succeeded = last
    return health.problem([run], NOW)


def test_a_daemon_whose_ticks_succeed_has_no_problem() -> None:
    assert _problem(NOW - 5) is None


def test_before_the_first_good_tick_a_daemon_is_not_ready() -> None:
    assert _problem(None) == "monitor web: no tick has succeeded yet"


@pytest.mark.parametrize(("age", "is_ready"), [(239, True), (241, False)])
def test_three_intervals_and_a_minute_without_a_good_tick_are_a_problem(age: float, is_ready: bool) -> None:
    expected = None if is_ready else f"monitor web: the last successful tick was {age:.0f} s ago"

    assert _problem(NOW - age) == expected


def test_a_database_that_does_not_answer_is_a_problem() -> None:
    def ping() -> None:
        raise ConnectionRefusedError

    assert health.Ping(ping).problem() == "database: ConnectionRefusedError"


def test_a_database_that_answers_again_is_no_problem() -> None:
    answers = iter([ConnectionRefusedError(), None])

    def ping() -> None:
        if (found := next(answers)) is not None:
            raise found

    asked = health.Ping(ping)

    assert [asked.problem(), asked.problem()] == ["database: ConnectionRefusedError", None]


def test_a_database_that_hangs_delays_no_answer_and_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_PING_SECONDS", 0.05)
    goes_on, asked = threading.Event(), []

    def ping() -> None:
        asked.append(1)
        goes_on.wait(30)

    hangs = health.Ping(ping)
    found = [hangs.problem() for _ in range(3)]
    goes_on.set()

    assert found == ["database: no answer for 0.05 s"] * 3
    assert len(asked) == 1


@pytest.mark.parametrize(("minutes", "is_stuck"), [(9, False), (11, True)])
def test_a_tick_that_does_not_end_for_ten_minutes_is_stuck(minutes: int, is_stuck: bool) -> None:
    run = _run(delay=timedelta(0))
    run.finished = time.monotonic() - 60 * minutes

    assert health.stuck([run]) == ("web" if is_stuck else None)


def test_a_delay_is_time_in_which_a_tick_need_not_end() -> None:
    run = _run(delay=timedelta(minutes=5))
    run.finished = time.monotonic() - 60 * 11

    assert health.stuck([run]) is None
