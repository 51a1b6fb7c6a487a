"""The daemon's schedule follows a wall clock that is set; signals are only noted by their handlers."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette

from detector.config.sections import Config, DatabaseSection, EmbeddedSource, MonitorSection
from detector.daemon.tasks import Services
from detector.daemon.worker import CronTrigger, GridTrigger, Worker
from detector.errors import ConfigError
from detector.export.prometheus import Exporter
from detector.sources.memory import MemorySource
from detector.store.memory import MemoryStore
from detector.web.access import Access
from detector.web.server import Endpoint


class SetClock:
    """A wall clock that can be set."""

    moved = 0.0

    def __call__(self) -> float:
        return time.time() + self.moved


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def checks() -> list[Callable[[], None]]:
    """What the next look at the configuration does."""
    return []


@pytest.fixture
def worker(clock: SetClock, checks: list[Callable[[], None]]) -> Iterator[Worker]:
    section = MonitorSection(name="web", source=EmbeddedSource(type="embedded"), metrics=("load",))
    nothing = np.empty(0, dtype=np.int64)
    unused: Any = None

    def check() -> None:
        for one in checks:
            one()

    services = Services(
        store=MemoryStore(),
        sources={"web": MemorySource.of([], nothing.astype(np.int32), nothing, np.empty((0, 1)))},
        versions={},
        collectors={},
        prune=unused,
        alert_counts=unused,
        ping=lambda: None,
        config_path=Path("config.toml"),
        check_config=check,
        endpoint=lambda _daemon, _problem: Endpoint(("127.0.0.1", 0), Starlette(), Access()),
    )
    found = Worker(
        Config(database=DatabaseSection(url="sqlite://"), monitors=(section,)), services, Exporter(10), clock=clock
    )
    found._scheduler = found._make_scheduler()
    found._scheduler.start(paused=True)
    yield found
    found._scheduler.shutdown()


def _next_run(worker: Worker, job: str) -> datetime:
    assert worker._scheduler is not None
    found: datetime = worker._scheduler.get_job(job).next_run_time
    return found


@pytest.mark.parametrize("moved", [-3600.0, -2.0, 2.0, 5400.0])
def test_after_the_clock_was_set_the_next_tick_comes_at_once(worker: Worker, clock: SetClock, moved: float) -> None:
    assert worker._scheduler is not None
    for job in ("tick:web", "prune:web"):  # where a clock that ran ahead has left them
        worker._scheduler.modify_job(job, next_run_time=datetime.now(UTC) + timedelta(days=9))

    clock.moved += moved
    worker._follow_clock()

    assert _next_run(worker, "tick:web") <= datetime.now(UTC)
    assert _next_run(worker, "prune:web") <= datetime.now(UTC) + timedelta(hours=1)


@pytest.mark.parametrize("moved", [0.0, 0.5, -0.5])
def test_a_clock_that_is_slewed_changes_no_schedule(worker: Worker, clock: SetClock, moved: float) -> None:
    assert worker._scheduler is not None
    later = datetime.now(UTC) + timedelta(minutes=9)
    worker._scheduler.modify_job("tick:web", next_run_time=later)

    clock.moved += moved
    worker._follow_clock()

    assert _next_run(worker, "tick:web") == later


def test_a_hangup_with_a_wrong_configuration_is_a_line_for_each_mistake_and_no_stop(
    worker: Worker, checks: list[Callable[[], None]], caplog: pytest.LogCaptureFixture
) -> None:
    def wrong() -> None:
        raise ConfigError("config.toml: a: unknown key\nconfig.toml: b: must be set")

    checks.append(wrong)
    worker._signals = [signal.SIGHUP]

    with caplog.at_level(logging.ERROR):
        worker._handle_signals()

    assert [record.getMessage() for record in caplog.records] == [
        f"event=reload_refused reason='config.toml: {mistake}'; the configuration in force stays"
        for mistake in ("a: unknown key", "b: must be set")
    ]
    assert not worker._stop.is_set()
    assert worker._exporter.registry.get_sample_value("detector_config_last_reload_successful") == 0


def test_a_hangup_stops_to_begin_anew(worker: Worker, checks: list[Callable[[], None]]) -> None:
    checks.append(lambda: None)
    worker._signals = [signal.SIGHUP]

    worker._handle_signals()

    assert worker._stop.is_set()
    assert worker.begins_anew


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_stop_stops(worker: Worker, number: signal.Signals) -> None:
    worker._signals = [number]

    worker._handle_signals()

    assert worker._stop.is_set()


def test_a_signal_within_the_wait_for_the_stop_does_not_wait_for_itself(
    worker: Worker, checks: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    checks.append(lambda: None)
    handlers: dict[int, Callable[[int, None], object]] = {}  # bug 22
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    worker._scheduler, scheduler = None, worker._scheduler
    worker.run(on_ready=lambda _port: worker.stop())
    worker._scheduler = scheduler
    worker._stop.clear()

    event: Any = worker._stop
    with event._cond:  # the thread that is interrupted holds this lock for moments of each wait
        for number, handler in handlers.items():
            handler(number, None)

    assert sorted(worker._signals) == sorted([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    worker._handle_signals()
    assert worker._stop.is_set()


@pytest.mark.parametrize(
    ("now", "previous", "expected"),
    [  # ticks of a minute, ten seconds after its end: whenever the daemon has started
        ("10:00:26", None, "10:01:10"),
        ("10:00:26.5", "10:00:26", "10:01:10"),
        ("10:01:10.001", "10:01:10", "10:02:10"),
        ("10:01:10", "10:01:10", "10:02:10"),
        ("10:07:00", "10:01:10", "10:07:10"),
        ("10:00:05", None, "10:00:10"),
    ],
)
def test_a_tick_comes_as_soon_as_its_slot_is_complete(now: str, previous: str | None, expected: str) -> None:
    def at(clock: str) -> datetime:
        return datetime.fromisoformat(f"2026-01-01T{clock}+00:00")

    found = GridTrigger(60_000, 10_000).get_next_fire_time(None if previous is None else at(previous), at(now))

    assert found == at(expected)


def test_the_daemon_trains_when_the_cron_line_says_so_in_its_zone() -> None:
    trigger = CronTrigger("0 3 * * 0", "Europe/Berlin")  # c05
    now = datetime(2026, 10, 24, 12, tzinfo=UTC)

    first = trigger.get_next_fire_time(None, now)
    second = trigger.get_next_fire_time(first, now)

    assert (first, second) == (datetime(2026, 10, 25, 2, tzinfo=UTC), datetime(2026, 11, 1, 2, tzinfo=UTC))
