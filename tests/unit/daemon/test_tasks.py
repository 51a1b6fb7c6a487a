"""A task's outcome: what is counted, what is logged, and what becomes of the monitor's memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from detector.config.sections import EmbeddedSource, MonitorSection
from detector.core.series import Float64
from detector.daemon.tasks import MonitorRun, Services, Tasks, _blind_ratio
from detector.daemon.training_child import TrainingKilled, TrainingStopped, TrainingTimeout
from detector.detect import sensitivity
from detector.detect.memory import NO_MODEL
from detector.detect.tick import Monitor
from detector.errors import DetectorError, StaleState
from detector.export.prometheus import Exporter
from detector.sources.memory import MemorySource
from detector.train.division import Plan

NOW = 1_700_000_000.0


def _fails(error: Exception) -> Callable[[str, int], int]:
    def prune(_monitor: str, _before: int) -> int:
        raise error

    return prune


@pytest.fixture
def run() -> MonitorRun:
    section = MonitorSection(name="web", source=EmbeddedSource(type="embedded"), metrics=("load",))
    nothing = np.empty(0, dtype=np.int64)
    source = MemorySource.of([], nothing.astype(np.int32), nothing, np.empty((0, 1)))
    memory: Any = "what was kept"
    plan = Plan.of(section)
    unused: Any = None
    return MonitorRun(section, Monitor(plan.horizon, source, store=unused), plan, memory=memory)


class Stage:
    """Tasks of one monitor whose pruning does as a test wants, and what was counted."""

    def __init__(self, run: MonitorRun, prune: Callable[[str, int], int]) -> None:
        unused: Any = None
        self.exporter, self.stop, self.run_state = Exporter(10), threading.Event(), run
        services = Services(
            store=unused,
            sources={},
            versions={},
            collectors={},
            prune=prune,
            alert_counts=unused,
            ping=lambda: None,
            config_path=Path("config.toml"),
            check_config=unused,
            endpoint=unused,
        )
        self.tasks = Tasks(
            services,
            self.exporter,
            clock=lambda: NOW,
            stop=self.stop,
            on_tick=lambda: None,
            train_now=lambda _run: None,
        )

    def prune(self) -> dict[str, float]:
        """Runs the task; how often each outcome is counted."""
        self.tasks.run("prune", self.run_state)
        outcomes = ("success", "error", "timeout")
        found = {
            outcome: self.exporter.registry.get_sample_value(
                "detector_job_runs_total", {"task": "prune", "monitor": "web", "outcome": outcome}
            )
            for outcome in outcomes
        }
        return {outcome: count for outcome, count in found.items() if count}


def test_a_task_that_returns_is_a_success_with_its_time(run: MonitorRun) -> None:
    stage = Stage(run, lambda _monitor, _before: 0)

    assert stage.prune() == {"success": 1.0}
    assert stage.exporter.last_success("prune", "web") == NOW


def test_pruning_goes_on_until_nothing_is_left(run: MonitorRun, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    left = [500, 20, 0]

    Stage(run, lambda _monitor, _before: left.pop(0)).prune()

    assert "event=scores_pruned monitor=web rows=520" in caplog.text


def test_a_known_error_is_one_line_and_keeps_the_memory(run: MonitorRun, caplog: pytest.LogCaptureFixture) -> None:
    assert Stage(run, _fails(DetectorError("no"))).prune() == {"error": 1.0}
    assert "event=prune_failed monitor=web reason='no'" in caplog.text
    assert run.memory is not None


def test_an_unknown_error_drops_the_memory_and_shows_where(run: MonitorRun, caplog: pytest.LogCaptureFixture) -> None:
    assert Stage(run, _fails(ZeroDivisionError())).prune() == {"error": 1.0}
    assert "ZeroDivisionError" in caplog.text
    assert run.memory is None


def test_a_training_that_was_killed_is_a_timeout(run: MonitorRun) -> None:
    assert Stage(run, _fails(TrainingTimeout("too long"))).prune() == {"timeout": 1.0}


@pytest.mark.parametrize(
    ("end", "level", "line"),
    [
        (TrainingStopped("the daemon stops"), "WARNING", "event=prune_stopped monitor=web reason='the daemon stops'"),
        (TrainingKilled(9), "ERROR", "event=prune_killed monitor=web signal=9 reason="),
    ],
    ids=["stopped", "killed"],
)
def test_a_training_that_was_ended_is_logged_as_what_it_was(  # c18, x12
    run: MonitorRun, caplog: pytest.LogCaptureFixture, end: Exception, level: str, line: str
) -> None:
    counted = Stage(run, _fails(end)).prune()

    (record,) = caplog.records
    assert (record.levelname, record.getMessage()[: len(line)]) == (level, line)
    assert "success" not in counted


def test_no_task_begins_once_the_daemon_stops(run: MonitorRun) -> None:
    stage = Stage(run, _fails(DetectorError("no")))
    stage.stop.set()

    assert stage.prune() == {}


def _failing_ticks(run: MonitorRun, error: DetectorError, count: int) -> Stage:
    stage = Stage(run, lambda _monitor, _before: 0)
    stage.tasks._work["tick"] = lambda _run: (_ for _ in ()).throw(error)
    for _ in range(count):
        stage.tasks.run("tick", run)
    return stage


def test_of_failed_ticks_in_a_row_the_first_and_every_tenth_are_logged(
    run: MonitorRun, caplog: pytest.LogCaptureFixture
) -> None:
    _failing_ticks(run, DetectorError("gone"), 20)

    assert [record.getMessage() for record in caplog.records] == [
        f"event=tick_failed monitor=web failures={count} reason='gone'" for count in (1, 10, 20)
    ]
    assert run.memory is None


def test_a_cursor_that_another_daemon_moved_is_a_warning(run: MonitorRun, caplog: pytest.LogCaptureFixture) -> None:
    _failing_ticks(run, StaleState("moved"), 1)

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "event=cursor_moved_elsewhere monitor=web")
    ]


class _Versions:
    """Versions of which some cannot be used; `live` falls back to `fallback`."""

    number: int | None = None
    usable: tuple[int, ...] = ()
    fallback: int | None = None
    asked = 0

    def newest_number(self) -> int | None:
        return self.number

    def live_number(self) -> int | None:
        return self.number

    def live(self) -> Any:
        self.asked += 1
        found = self.number if self.number in self.usable else self.fallback
        return None if found is None else SimpleNamespace(**_VERSION, version=found)


_VERSION: dict[str, Any] = {
    "kind": "network",
    "detectability": {},
    "artifact": SimpleNamespace(provenance={"created_at": 1}, entities=()),
}


@dataclass
class _Following:
    """A monitor that follows its live version."""

    run: MonitorRun
    versions: _Versions
    follow: Callable[[], None]

    def in_memory(self) -> int | None:
        return None if self.run.memory is None else self.run.memory.model.version


@pytest.fixture
def following(run: MonitorRun, monkeypatch: pytest.MonkeyPatch) -> _Following:
    versions, stage = _Versions(), Stage(run, lambda _monitor, _before: 0)
    services: Any = SimpleNamespace(versions={"web": versions})
    monkeypatch.setattr(stage.tasks, "_services", services)
    monkeypatch.setattr(stage.tasks, "_recalled", lambda _run, model, _now: SimpleNamespace(model=model))
    monkeypatch.setattr(stage.exporter, "update", lambda *_args, **_changes: None)
    run.memory = None
    return _Following(run, versions, lambda: stage.tasks._follow_live_version(run, 0))


def test_a_damaged_new_live_version_leaves_the_good_one_in_memory(following: _Following) -> None:  # x11
    following.versions.number, following.versions.usable = 1, (1, 3)
    following.follow()
    following.versions.number = 2
    for _ in range(3):
        following.follow()
        assert following.in_memory() == 1
    assert following.versions.asked == 2  # a version that was refused is not loaded again

    following.run.memory = None  # as a failed tick leaves it
    following.follow()
    assert following.in_memory() == 1

    following.versions.number, following.run.missed_training = 3, "out of memory"
    following.follow()
    assert following.in_memory() == 3
    assert following.run.missed_training is None  # whoever trained it


@pytest.mark.parametrize(("newest", "is_trained"), [(2, True), (3, False)])
def test_a_short_baseline_is_trained_again_unless_somebody_went_back_to_it(
    run: MonitorRun, newest: int, is_trained: bool
) -> None:
    stage = Stage(run, lambda _monitor, _before: 0)
    trained: list[MonitorRun] = []
    stage.tasks._train_now = trained.append
    stage.tasks._services.versions["web"] = versions = _Versions()  # type: ignore[index]
    versions.number = newest
    step = run.plan.horizon.step
    model = SimpleNamespace(kind="baseline", version=2, trained_from=0, trained_until=100 * step)
    run.memory = SimpleNamespace(model=model)  # type: ignore[assignment]
    source = SimpleNamespace(extent=lambda _now: (0, 500 * step))  # twice as much, and more
    run.monitor = replace(run.monitor, source=source)

    stage.tasks._train_if_ready(run, 500 * step)

    assert trained == ([run] if is_trained else [])


def test_a_daemon_that_starts_with_a_damaged_live_version_takes_the_one_before(following: _Following) -> None:
    following.versions.number, following.versions.fallback = 2, 1

    for _ in range(3):
        following.follow()

    assert following.in_memory() == 1
    assert following.versions.asked == 1


def test_without_any_version_there_is_no_memory(following: _Following) -> None:
    following.versions.number, following.versions.usable = 1, (1,)
    following.follow()

    following.versions.number = None
    following.follow()

    assert following.in_memory() is None


def test_blind_metrics_are_looked_for_once_with_each_version(run: MonitorRun, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def shares(_horizon: object, model: Any) -> Float64:
        asked.append(model.version)
        return np.array([0.0, 0.5])

    monkeypatch.setattr(sensitivity, "blind_shares", shares)
    ratios = []
    for version, rows in ((1, [0, 1]), (1, [0, 1, -1]), (2, [1]), (NO_MODEL, [])):
        run.memory = SimpleNamespace(model=SimpleNamespace(version=version), rows=np.array(rows))  # type: ignore[assignment]
        ratios.append(_blind_ratio(run))

    assert ratios == [0.25, 0.5, 0.5, None]
    assert asked == [1, 2]
