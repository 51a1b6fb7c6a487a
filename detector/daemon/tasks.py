"""The daemon's tasks for one monitor: tick, collect, retrain, prune; and how each outcome is counted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from detector.config.sections import MonitorSection
from detector.core import grid
from detector.core.series import Float64
from detector.daemon.rejected_rows import RejectedRows
from detector.daemon.systemd import notify_systemd
from detector.daemon.training_child import TrainingChildren, TrainingKilled, TrainingStopped, TrainingTimeout
from detector.detect import explain_slot, memory, sensitivity
from detector.detect import tick as ticks
from detector.detect.memory import NO_MODEL, Memory
from detector.detect.recall import recall, stored_state
from detector.detect.rewind import rewound
from detector.errors import DetectorError, StaleState
from detector.export.prometheus import Exporter, NamedMetric
from detector.notify.sender import Sender
from detector.ports import AlertCounts, ModelVersion, Source, Store, Versions
from detector.times import WEEK_MS, milliseconds
from detector.train.division import Plan
from detector.web.live import Daemon
from detector.web.server import Endpoint

logger = logging.getLogger(__name__)

_RETRY_TRAINING = timedelta(minutes=10)  # after a first training was started, whatever became of it
_PRUNE_PAUSE = 0.05  # seconds between two deletions, in which others get at the database
_EXPLAINED = 20  # open alerts whose metrics are exported
_LOGGED_FAILURES = 10  # the first failed tick in a row is logged, and every tenth after it

Task = Literal["tick", "collect", "retrain", "prune"]


class Collector(Protocol):
    """Records the samples of one slot."""

    def collect(self, slot: int, at: float) -> None:
        """slot: epoch milliseconds; at: epoch seconds of this very moment."""


@dataclass(frozen=True)
class Services:
    """Everything the daemon works with beside its configuration. Mappings are by monitor."""

    store: Store
    sources: Mapping[str, Source]
    versions: Mapping[str, Versions]
    collectors: Mapping[str, Collector]
    prune: Callable[[str, int], int]  # removes some of a monitor's scores from before a time; 0: none is left
    alert_counts: Callable[[str, int], AlertCounts]  # of a monitor; `recent` counts from a time on
    ping: Callable[[], None]  # raises if the database does not answer
    config_path: Path  # for training processes
    check_config: Callable[[], None]  # raises ConfigError if the configuration, as it is now, is wrong
    endpoint: Callable[[Daemon, Callable[[], str | None]], Endpoint]  # serves a daemon, with its problem if it has one
    senders: Sequence[Sender] = ()


@dataclass
class MonitorRun:
    """One monitor's working state.

    Its tick, which never runs twice at a time, is what changes it; any task that fails without a known reason drops
    the memory, which the next tick then rebuilds.
    """

    section: MonitorSection
    monitor: ticks.Monitor
    plan: Plan
    memory: Memory | None = None
    refused_version: int | None = None
    good: ModelVersion | None = None  # the last version that could be used
    blind: tuple[int, Float64] | None = None  # a version, and shares of its entities' metrics that no alert comes from
    rejected: RejectedRows | None = None  # None before the first tick
    failures: int = 0  # failed ticks in a row
    failure: str | None = None  # why the newest tick failed
    waits: tuple[int, int] = (0, 0)  # slots of history that the source has, and that the next training needs
    training: tuple[float, str] | None = None  # share that is done of the training that runs, and what it does
    missed_training: str | None = None  # why the newest training failed
    train_not_before: float = 0.0  # of the monotonic clock
    finished: float = field(default_factory=time.monotonic)  # when the last tick ended, failed or not
    succeeded: float | None = None  # when the last good tick ended, of the monotonic clock


class Tasks:
    """Runs tasks of monitors; nothing that a task raises ends the daemon."""

    def __init__(
        self,
        services: Services,
        exporter: Exporter,
        *,
        clock: Callable[[], float],
        stop: threading.Event,
        on_tick: Callable[[], None],
        train_now: Callable[[MonitorRun], None],
    ) -> None:
        """clock: epoch seconds; stop: set when the daemon stops.

        on_tick: called when a tick has committed
        train_now: queues a training of a monitor that has no network yet
        """
        self._services = services
        self._exporter = exporter
        self._clock = clock
        self._stop = stop
        self._on_tick = on_tick
        self._train_now = train_now
        self.children = TrainingChildren(services.config_path, stop=stop)
        self._work: dict[Task, Callable[[MonitorRun], None]] = {
            "tick": self.tick,
            "collect": self.collect,
            "retrain": self.retrain,
            "prune": self.prune,
        }

    # -- outcome ------------------------------------------------------------------------------------------------------

    def run(self, task: Task, run: MonitorRun) -> None:
        """Runs one task; counts and logs its outcome. Does nothing once the daemon stops."""
        if self._stop.is_set():
            return
        monitor, began = run.section.name, time.monotonic()
        outcome = self._outcome(task, run)
        if outcome == "success":
            self._exporter.succeeded(task, monitor, self._clock())
        if task == "tick":
            run.finished = time.monotonic()
            if outcome == "success":
                run.failures, run.failure, run.succeeded = 0, None, run.finished
        self._exporter.job_runs.labels(task, monitor, outcome).inc()
        self._exporter.job_duration.labels(task, monitor).observe(time.monotonic() - began)

    def _outcome(self, task: Task, run: MonitorRun) -> str:
        monitor = run.section.name
        try:
            self._work[task](run)
        except TrainingTimeout as exc:
            run.missed_training = str(exc)
            logger.error("event=%s_timeout monitor=%s reason=%r", task, monitor, str(exc))
            return "timeout"
        except TrainingStopped as exc:
            logger.warning("event=%s_stopped monitor=%s reason=%r", task, monitor, str(exc))
            return "skipped"
        except TrainingKilled as exc:
            run.missed_training = str(exc)
            logger.error("event=%s_killed monitor=%s signal=%d reason=%r", task, monitor, exc.signal, str(exc))
            return "error"
        except DetectorError as exc:
            if task == "tick":
                self._note_failed_tick(run, exc)
            else:
                run.missed_training = str(exc) if task == "retrain" else run.missed_training
                logger.error("event=%s_failed monitor=%s reason=%r", task, monitor, str(exc))
            return "error"
        except Exception as exc:
            run.memory = None
            run.failure = f"unexpected {type(exc).__name__}; see the log" if task == "tick" else run.failure
            logger.exception("event=%s_failed monitor=%s", task, monitor)
            return "error"
        return "success"

    def _note_failed_tick(self, run: MonitorRun, exc: DetectorError) -> None:
        """Drops the memory, which may be ahead of the store; logs the first failure and every tenth after it."""
        run.memory = None
        run.failures += 1
        run.failure = str(exc)
        if isinstance(exc, StaleState):
            logger.warning("event=cursor_moved_elsewhere monitor=%s", run.section.name)
        elif run.failures == 1 or run.failures % _LOGGED_FAILURES == 0:
            logger.error("event=tick_failed monitor=%s failures=%d reason=%r", run.section.name, run.failures, str(exc))

    # -- tick ---------------------------------------------------------------------------------------------------------

    def tick(self, run: MonitorRun) -> None:
        """Scores everything since the cursor; without a model, only reports which entities have data."""
        began, now = time.monotonic(), round(self._clock() * 1000)
        if rewound(run.monitor.horizon, run.monitor.store, now):
            run.memory = None
            self._exporter.rewinds.labels(run.section.name).inc()
        self._follow_live_version(run, now)
        if run.memory is None and run.monitor.horizon.metric_rules.has_range:
            run.memory = self._recalled(run, memory.no_model(run.monitor.horizon, now), now)
        if run.memory is None or run.memory.model.kind != "network":
            self._train_if_ready(run, now)
        report = self._score(run, now)
        self._on_tick()
        self._note_rejects(run, report, now)
        self._export(run, report, now)
        self._log_tick(run, report, time.monotonic() - began)

    def _recalled(self, run: MonitorRun, model: ModelVersion, now: int) -> Memory:
        monitor = run.monitor
        stored = stored_state(monitor.horizon, monitor.store, version=model.version)
        return recall(monitor.horizon, monitor.source, model, stored=stored, now=now)

    def _score(self, run: MonitorRun, now: int) -> ticks.Report:
        if run.memory is None:
            return ticks.observe(run.monitor.horizon, run.monitor.source, now)
        run.memory, report = ticks.tick(run.monitor, run.memory, now, should_stop=self._stop.is_set)
        return report

    def _note_rejects(self, run: MonitorRun, report: ticks.Report, now: int) -> None:
        if run.rejected is None:
            name = run.section.name
            run.rejected = RejectedRows(
                name, lambda why, rows: self._exporter.rows_rejected.labels(name, why).inc(rows)
            )
        run.rejected.note(report.rejects)
        run.rejected.look_outside(run.monitor.source, now)

    def _follow_live_version(self, run: MonitorRun, now: int) -> None:
        """Loads the live model version if it is not in memory; while it cannot be used, the last good one stays."""
        versions = self._services.versions[run.section.name]
        number = versions.live_number()
        current = run.memory.model.version if run.memory else None
        if number is None:
            run.good = None
            run.memory = run.memory if current == NO_MODEL else None
            return
        if number == current:
            return
        live = None if number == run.refused_version else versions.live()
        if live is None or live.version != number:
            run.refused_version = number
        live = live or run.good
        if live is None or live.version == current:
            return
        run.good, run.missed_training = live, None
        run.memory = self._recalled(run, live, now)
        created = int(live.artifact.provenance["created_at"])
        changes = {"model_version": live.version, "model_kind": live.kind, "model_created": created}
        self._exporter.update(run.section.name, **changes, detectability=live.detectability)
        logger.info(
            "event=model_loaded monitor=%s version=%d kind=%s entities=%d finds=%r",
            run.section.name,
            live.version,
            live.kind,
            len(live.artifact.entities),
            live.detectability,
        )

    def _train_if_ready(self, run: MonitorRun, now: int) -> None:
        """Starts a first training as soon as there is enough history; logs how much there is otherwise.

        A baseline that was trained because there was too little history for a network is trained again whenever the
        history has doubled, until there is enough.
        """
        plan, step = run.plan, run.plan.horizon.step
        if run.section.retrain == "off" or time.monotonic() < run.train_not_before:
            return
        run.waits = (0, 0)
        needed = plan.needed_slots
        if run.memory is not None and run.memory.model.kind == "baseline":
            had = (run.memory.model.trained_until - run.memory.model.trained_from) // step
            if had >= plan.minimum_slots or plan.kind == "baseline":
                return
            needed = min(2 * had, plan.minimum_slots)
            if self._services.versions[run.section.name].newest_number() != run.memory.model.version:
                return  # somebody has gone back to this one
        extent = run.monitor.source.extent(now)
        have = 0 if extent is None else (min(extent[1], now) - extent[0]) // step + 1
        if have < needed:
            run.waits = (have, needed)
            logger.info("event=warming_up monitor=%s slots=%d needed=%d", plan.horizon.monitor, have, needed)
            return
        run.train_not_before = time.monotonic() + _RETRY_TRAINING.total_seconds()
        self._train_now(run)

    def _export(self, run: MonitorRun, report: ticks.Report, now: int) -> None:
        name, snapshot = run.section.name, report.snapshot
        counts = self._services.alert_counts(name, now - WEEK_MS)
        changes: dict[str, Any] = {"alerts": counts, "entities": snapshot.entities}
        changes |= {"score": snapshot.score, "surprise": snapshot.surprise, "reason": snapshot.reason}
        changes |= {"states": snapshot.states, "is_silent": snapshot.is_silent, "share": snapshot.share}
        changes |= {"missing": snapshot.missing, "blind": _blind_ratio(run), "named": _named(run)}
        if report.newest_sample is not None:
            changes["newest_sample"] = report.newest_sample
        if report.cursor is not None:
            changes["cursor"] = report.cursor
        if run.memory is None or run.memory.model.version == NO_MODEL:
            changes |= {"model_version": None, "model_kind": None, "model_created": None, "detectability": {}}
        self._exporter.update(name, **changes)
        self._exporter.samples_read.labels(name).inc(report.samples)
        self._exporter.windows_scored.labels(name).inc(report.windows)

    def _log_tick(self, run: MonitorRun, report: ticks.Report, seconds: float) -> None:
        """The canonical line of a tick, and systemd's status."""
        version = run.memory.model.version if run.memory else "none"
        known = report.snapshot.score[report.snapshot.reason == 0]
        logger.info(
            "event=tick_done monitor=%s entities=%d windows=%d samples=%d score_max=%s alerts_opened=%d seconds=%.3f"
            " model=%s",
            run.section.name,
            len(report.snapshot.entities),
            report.windows,
            report.samples,
            f"{known.max():.2f}" if known.size else "unknown",
            len(report.opened),
            seconds,
            version,
        )
        notify_systemd(f"STATUS={run.section.name}: {len(report.snapshot.entities)} entities, model {version}")

    # -- the others ---------------------------------------------------------------------------------------------------

    def collect(self, run: MonitorRun) -> None:
        """Records the slot that has just ended."""
        at, step = self._clock(), run.section.step_ms
        # half a step back: the job runs at the slot's very end, and a clock may be a little early
        slot = grid.floor(int(at * 1000) - step // 2, step)
        self._services.collectors[run.section.name].collect(slot, at)

    def prune(self, run: MonitorRun) -> None:
        """Removes scores older than `keep_scores`, a little at a time."""
        monitor = run.section
        before, removed = round(self._clock() * 1000) - milliseconds(monitor.keep_scores), 0
        while (rows := self._services.prune(monitor.name, before)) and not self._stop.wait(_PRUNE_PAUSE):
            removed += rows
        if removed:
            logger.info("event=scores_pruned monitor=%s rows=%d", monitor.name, removed)

    def retrain(self, run: MonitorRun) -> None:
        """Trains a new version in a child process.

        Raises: TrainingTimeout, TrainingStopped, TrainingKilled; DetectorError with the child's last words.
        """
        monitor = run.section
        logger.info("event=retrain_started monitor=%s", monitor.name)
        run.training, run.waits = (0.0, ""), (0, 0)

        def progress(done: float, doing: str) -> None:
            run.training = done, doing

        try:
            self.children.run(monitor.name, timeout=monitor.training.timeout.total_seconds(), progress=progress)
        finally:
            run.training = None
        run.missed_training = None
        logger.info("event=retrain_done monitor=%s", monitor.name)


def _named(run: MonitorRun) -> list[NamedMetric]:
    """The metrics that explain the newest slot of entities with open alerts, the worst of these."""
    if run.memory is None or run.memory.model.version == NO_MODEL:
        return []
    snapshot = run.memory.snapshot
    is_open = np.flatnonzero(snapshot.states.is_open & ~snapshot.is_silent)
    worst = is_open[np.argsort(-snapshot.states.peak_score[is_open], kind="stable")[:_EXPLAINED]]
    rows = [run.memory.entities.index(snapshot.entities[row]) for row in worst.tolist()]
    return [
        NamedMetric(
            run.memory.entities[row],
            metric["metric"],
            *(metric.get(key) for key in ("observed", "expected", "low", "high")),
        )
        for row, explained in explain_slot.newest_of(run.plan.horizon, run.memory, rows).items()
        for metric in explained["metrics"]
    ]


def _blind_ratio(run: MonitorRun) -> float | None:
    """Share of a monitor's metrics that no alert can come from; None without a model.

    What of a version's entities is blind is found once: at worst it takes as long as some ticks.
    """
    if run.memory is None or run.memory.model.version == NO_MODEL:
        return None
    model = run.memory.model
    if run.blind is None or run.blind[0] != model.version:
        run.blind = model.version, sensitivity.blind_shares(run.monitor.horizon, model)
    return sensitivity.blind_ratio(run.blind[1], run.memory.rows)
