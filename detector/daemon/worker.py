"""The daemon: scheduled ticks, collection, training, pruning, notifying; signals, systemd, stop. Reads the clock."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobExecutionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from detector.config.sections import Config, MonitorSection
from detector.core import grid
from detector.daemon.systemd import notify_systemd
from detector.detect import horizon, recall
from detector.detect import memory as remembering
from detector.detect import tick as pipeline
from detector.errors import DetectorError, StaleState
from detector.export.http import Endpoint
from detector.export.prometheus import Exporter, MonitorView
from detector.notify.sender import Sender
from detector.ports import AlertCounts, Source, Store, Versions
from detector.times import WEEK_MS, milliseconds
from detector.train import division

logger = logging.getLogger(__name__)

STOP_SECONDS = 4.0
"""How long a stop waits for running ticks before it abandons them; what they had not committed is rolled back."""

_RETRY_TRAINING = timedelta(minutes=10)
_STUCK = timedelta(minutes=10)
_PRUNE_EVERY = timedelta(hours=1)
_PRUNE_PAUSE = 0.05  # seconds in which others get at the database
_NOTIFY_SECONDS = 5.0  # between looks into the outbox, beside one after each tick

Task = Literal["tick", "collect", "retrain", "recalibrate", "prune"]


class Outcome(Exception):
    """Ends a task with an outcome other than success or error."""


class Timeout(Outcome):
    """The task took too long and was ended."""


class Collector(Protocol):
    """Records the samples of one slot."""

    def collect(self, slot: int, at: float) -> None:
        """slot: epoch milliseconds; at: epoch seconds of this very moment."""


@dataclass(frozen=True)
class Services:
    """What the worker needs beside configuration; made by `wiring`."""

    store: Store
    sources: Mapping[str, Source]
    versions: Mapping[str, Versions]
    collectors: Mapping[str, Collector]
    prune: Callable[[str, int], int]  # some scores of a monitor from before a time; 0: none is left
    alert_counts: Callable[[str, int], AlertCounts]
    ping: Callable[[], None]
    config_path: Path
    senders: Sequence[Sender] = ()


@dataclass
class MonitorRun:
    """One monitor's working state; touched only by its own tick, which never runs twice at a time."""

    section: MonitorSection
    source: Source
    memory: remembering.Memory | None = None
    refused_version: int | None = None
    failures: int = 0
    train_not_before: float = 0.0
    finished: float = field(default_factory=time.monotonic)


class Worker:
    """Runs every monitor of a configuration until told to stop."""

    def __init__(
        self, config: Config, services: Services, exporter: Exporter, clock: Callable[[], float] = time.time
    ) -> None:
        """clock: epoch seconds; a replay has one of its own."""
        self._clock = clock
        self._config = config
        self._services = services
        self._exporter = exporter
        self._stop = threading.Event()
        self._scheduler: BackgroundScheduler | None = None
        self._runs = {m.name: MonitorRun(m, services.sources[m.name]) for m in config.monitors}
        self._children: set[subprocess.Popen[bytes]] = set()
        self._children_lock = threading.Lock()
        self._wakes = [threading.Event() for _ in services.senders]
        self._rng = random.Random()  # noqa: S311 - spreads retries
        for sender in services.senders:
            exporter.notifier(sender.name)
            exporter.task("notify", "")
        for monitor in config.monitors:
            exporter.show(
                MonitorView(
                    monitor=monitor.name,
                    metrics=monitor.metrics,
                    step=monitor.step_ms,
                    alert_budget_per_week=monitor.threshold.alert_budget_per_week,
                )
            )

    # -- life ---------------------------------------------------------------------------------------------------------

    def run(self, *, on_ready: Callable[[int], None] = lambda port: None) -> None:
        """Serves until a signal or `stop`; returns after an orderly shutdown."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        endpoint = Endpoint(self._config.export.address, self._exporter.registry, self.problem)
        scheduler = self._scheduler = self._make_scheduler()
        endpoint.start()
        scheduler.start()
        tellers = [
            threading.Thread(target=self._tell, args=[sender, wake], name=f"notify:{sender.name}", daemon=True)
            for sender, wake in zip(self._services.senders, self._wakes, strict=True)
        ]
        for teller in tellers:
            teller.start()
        notify_systemd(f"READY=1\nSTATUS=watching {len(self._runs)} monitors")
        logger.info("event=started monitors=%d listen_port=%d", len(self._runs), endpoint.port)
        on_ready(endpoint.port)
        self._wait()
        logger.info("event=stopping")
        notify_systemd("STOPPING=1")
        is_clean = self._shut_down(scheduler, tellers)
        endpoint.stop()
        logger.info("event=stopped clean=%s", is_clean)
        if not is_clean:  # a read that hangs would hold the interpreter until its timeout
            logging.shutdown()
            os._exit(0)

    def stop(self) -> None:
        """Asks the worker to stop; safe from signal handlers and any thread."""
        self._stop.set()
        self._wake_tellers()

    def _wait(self) -> None:
        """Sleeps until the stop, telling systemd's watchdog that no tick is stuck."""
        microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
        interval = microseconds / 3e6 if microseconds else None
        while not self._stop.wait(interval):
            stuck = self.stuck()
            if stuck is None:
                notify_systemd("WATCHDOG=1")
            else:
                logger.error("event=watchdog_withheld monitor=%s", stuck)

    def _shut_down(self, scheduler: BackgroundScheduler, tellers: Sequence[threading.Thread]) -> bool:
        """Stops in reverse order of start: no new jobs, running ones finish, children end. False if one was left."""
        end = time.monotonic() + STOP_SECONDS
        with self._children_lock:
            for child in self._children:
                child.terminate()
        waiter = threading.Thread(target=scheduler.shutdown, kwargs={"wait": True}, daemon=True)
        waiter.start()
        # what a notifier has not been told by then waits in the outbox
        for thread in (waiter, *tellers):
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in (waiter, *tellers))

    def _make_scheduler(self) -> BackgroundScheduler:
        threads = 2 * len(self._runs) + 2
        scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(threads), "training": ThreadPoolExecutor(1)},
            # a late run still runs, several late ones run once: a tick handles everything since the cursor anyway
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
        )
        scheduler.add_listener(self._on_skipped, EVENT_JOB_MAX_INSTANCES)
        now = datetime.now(UTC)
        for run in self._runs.values():
            monitor = run.section
            self._add(scheduler, "tick", run, self.tick, monitor.score_interval, monitor.delay, now)
            self._add(scheduler, "prune", run, self.prune, _PRUNE_EVERY, timedelta(0), None)
            if monitor.name in self._services.collectors:
                self._add(scheduler, "collect", run, self.collect, monitor.step, timedelta(0), None)
            tasks: dict[Task, tuple[str, Callable[[MonitorRun], None]]] = {
                "retrain": (monitor.retrain, self.retrain),
                "recalibrate": (monitor.recalibrate, self.recalibrate),
            }
            for task, (cron, work) in tasks.items():
                if cron != "off":
                    self._exporter.task(task, monitor.name)
                    trigger = CronTrigger.from_crontab(cron, timezone=UTC)
                    job = f"{task}:{monitor.name}"
                    scheduler.add_job(self._in_task, trigger, args=[task, run, work], id=job, executor="training")
        return scheduler

    def _add(
        self,
        scheduler: BackgroundScheduler,
        task: Task,
        run: MonitorRun,
        work: Callable[[MonitorRun], None],
        every: timedelta,
        offset: timedelta,
        first: datetime | None,
    ) -> None:
        """Adds a job that runs at every multiple of its interval, plus an offset, and once at `first`."""
        self._exporter.task(task, run.section.name)
        seconds = every.total_seconds()
        aligned = datetime.fromtimestamp((time.time() // seconds + 1) * seconds, UTC) + offset
        options = {} if first is None else {"next_run_time": first}
        scheduler.add_job(
            self._in_task,
            IntervalTrigger(seconds=seconds, start_date=aligned, timezone=UTC),
            args=[task, run, work],
            id=f"{task}:{run.section.name}",
            **options,
        )

    def _on_skipped(self, event: JobExecutionEvent) -> None:
        task, monitor = event.job_id.split(":")[:2]
        self._exporter.job_runs.labels(task, monitor, "skipped").inc()
        logger.warning("event=job_skipped task=%s monitor=%s; the run before it has not ended", task, monitor)

    def _in_task(self, task: Task, run: MonitorRun, work: Callable[[MonitorRun], None]) -> None:
        """Runs one task, counts and logs its outcome; nothing it raises ends the daemon."""
        if self._stop.is_set():
            return
        monitor, began, outcome = run.section.name, time.monotonic(), "success"
        try:
            work(run)
        except Timeout as exc:
            outcome = "timeout"
            logger.error("event=%s_timeout monitor=%s reason=%r", task, monitor, str(exc))
        except DetectorError as exc:
            outcome = "error"
            if task == "tick":
                self._note_failure(run, exc)
            else:
                logger.error("event=%s_failed monitor=%s reason=%r", task, monitor, str(exc))
        except Exception:
            outcome = "error"
            run.memory = None
            logger.exception("event=%s_failed monitor=%s", task, monitor)
        else:
            if task == "tick":
                run.failures = 0
            self._exporter.succeeded(task, monitor, self._clock())
        if task == "tick":
            run.finished = time.monotonic()
        self._exporter.job_runs.labels(task, monitor, outcome).inc()
        self._exporter.job_duration.labels(task, monitor).observe(time.monotonic() - began)

    def _note_failure(self, run: MonitorRun, exc: DetectorError) -> None:
        """Drops the memory, which may be ahead of the store; logs the first failure and every tenth after it."""
        run.memory = None
        run.failures += 1
        if isinstance(exc, StaleState):
            logger.warning("event=cursor_moved_elsewhere monitor=%s", run.section.name)
        elif run.failures == 1 or run.failures % 10 == 0:
            logger.error("event=tick_failed monitor=%s failures=%d reason=%r", run.section.name, run.failures, str(exc))

    def tick_all(self) -> None:
        """One tick of every monitor now, without the scheduler: for a replay under its own clock."""
        for run in self._runs.values():
            self._in_task("tick", run, self.tick)

    # -- tasks --------------------------------------------------------------------------------------------------------

    def tick(self, run: MonitorRun) -> None:
        """Everything since the cursor, or what there is to see without a model."""
        began, now = time.monotonic(), round(self._clock() * 1000)
        monitor = run.section
        self._follow_live_version(run, now)
        if run.memory is None and horizon.has_ranges(monitor):
            stand_in = remembering.no_model(monitor, now)
            run.memory = recall.recall(monitor, run.source, self._services.store, stand_in, now)
        if run.memory is None or run.memory.model.kind != "network":
            self._train_if_ready(run, now)
        if run.memory is None:
            report = pipeline.observe(monitor, run.source, now)
        else:
            run.memory, report = pipeline.tick(
                monitor,
                run.source,
                self._services.store,
                run.memory,
                now,
                notifiers=self._config.told(monitor.name),
                should_stop=self._stop.is_set,
            )
        self._wake_tellers()
        self._export(run, report, now)
        seconds = time.monotonic() - began
        version = run.memory.model.version if run.memory else "none"
        known = report.snapshot.score[report.snapshot.reason == 0]
        logger.info(
            "event=tick_done monitor=%s entities=%d windows=%d samples=%d score_max=%s alerts_opened=%d seconds=%.3f"
            " model=%s",
            monitor.name,
            len(report.snapshot.entities),
            report.windows,
            report.samples,
            f"{known.max():.2f}" if known.size else "unknown",
            len(report.opened),
            seconds,
            version,
        )
        notify_systemd(f"STATUS={monitor.name}: {len(report.snapshot.entities)} entities, model {version}")

    def _follow_live_version(self, run: MonitorRun, now: int) -> None:
        """Loads the live model version if it is not the one in memory."""
        version = self._services.versions[run.section.name].live_number()
        current = run.memory.model.version if run.memory else None
        if version == current and version is not None:
            return
        if version is None or version == run.refused_version:
            if current != remembering.NO_MODEL:
                run.memory = None
            return
        live = self._services.versions[run.section.name].live()
        if live is None:
            run.refused_version, run.memory = version, None
            return
        model, created = live.model, int(live.provenance["created_at"])
        run.memory = recall.recall(run.section, run.source, self._services.store, model, now)
        changes = {"model_version": model.version, "model_kind": model.kind, "model_created": created}
        self._exporter.update(run.section.name, **changes, drift=model.drift, detectability=model.detectability)
        logger.info(
            "event=model_loaded monitor=%s version=%d kind=%s entities=%d finds=%r",
            run.section.name,
            version,
            model.kind,
            len(model.entities),
            dict(model.detectability),
        )

    def _export(self, run: MonitorRun, report: pipeline.Report, now: int) -> None:
        name, snapshot = run.section.name, report.snapshot
        counts = self._services.alert_counts(name, now - WEEK_MS)
        changes: dict[str, Any] = {"alerts": counts, "entities": snapshot.entities}
        changes |= {"score": snapshot.score, "reason": snapshot.reason}
        changes |= {"states": snapshot.states, "is_silent": snapshot.is_silent, "share": snapshot.share}
        if report.newest_sample is not None:
            changes["newest_sample"] = report.newest_sample
        if report.cursor is not None:
            changes["cursor"] = report.cursor
        if run.memory is None or run.memory.model.version == remembering.NO_MODEL:
            changes |= {"model_version": None, "model_kind": None, "model_created": None}
            changes |= {"drift": None, "detectability": {}}
        self._exporter.update(name, **changes)
        self._exporter.samples_read.labels(name).inc(report.samples)
        self._exporter.windows_scored.labels(name).inc(report.windows)

    def collect(self, run: MonitorRun) -> None:
        """Records the slot that has just ended."""
        at = self._clock()
        step = run.section.step_ms
        self._services.collectors[run.section.name].collect(grid.floor(int(at * 1000) - step // 2, step), at)

    def prune(self, run: MonitorRun) -> None:
        """Removes scores that are no longer kept, a little at a time."""
        monitor = run.section
        before, removed = round(self._clock() * 1000) - milliseconds(monitor.keep_scores), 0
        while (rows := self._services.prune(monitor.name, before)) and not self._stop.wait(_PRUNE_PAUSE):
            removed += rows
        if removed:
            logger.info("event=scores_pruned monitor=%s rows=%d", monitor.name, removed)

    def _train_if_ready(self, run: MonitorRun, now: int) -> None:
        """Starts a first training as soon as there is enough history; says how far it is otherwise.

        A baseline that was trained because there was too little history for a network is trained again whenever the
        history has doubled, until there is enough.
        """
        monitor = run.section
        if monitor.retrain == "off" or time.monotonic() < run.train_not_before:
            return
        needed = division.needed_slots(monitor)
        if run.memory is not None and run.memory.model.kind == "baseline":
            had = (run.memory.model.trained_until - run.memory.model.trained_from) // monitor.step_ms
            if had >= monitor.minimum_slots or monitor.model.kind == "baseline":
                return
            needed = min(2 * had, monitor.minimum_slots)
        extent = run.source.extent()
        have = 0 if extent is None else (min(extent[1], now) - extent[0]) // monitor.step_ms + 1
        if have < needed:
            logger.info("event=warming_up monitor=%s slots=%d needed=%d", monitor.name, have, needed)
            return
        run.train_not_before = time.monotonic() + _RETRY_TRAINING.total_seconds()
        assert self._scheduler is not None
        self._scheduler.add_job(
            self._in_task,
            args=["retrain", run, self.retrain],
            id=f"retrain:{monitor.name}:first",
            executor="training",
            replace_existing=True,
        )

    def retrain(self, run: MonitorRun) -> None:
        """Trains in a child process, so that TensorFlow never enters this one.

        Raises: Timeout; DetectorError with the child's last words.
        """
        self._in_child(run, "retrain")

    def recalibrate(self, run: MonitorRun) -> None:
        """Fits the threshold of a live model to recent history, in a child process; without a model there is nothing.

        Raises: as `retrain`.
        """
        if run.memory is not None and run.memory.model.version != remembering.NO_MODEL:
            self._in_child(run, "recalibrate", "--recalibrate")

    def _in_child(self, run: MonitorRun, task: Task, *options: str) -> None:
        monitor = run.section
        command = [
            sys.executable,
            "-m",
            "detector",
            "retrain",
            monitor.name,
            "--config",
            str(self._services.config_path),
            *options,
        ]
        logger.info("event=%s_started monitor=%s", task, monitor.name)
        limit = monitor.training.timeout.total_seconds()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:  # noqa: S603 - own command
            with self._children_lock:
                self._children.add(child)
                if self._stop.is_set():
                    child.terminate()
            try:
                _, errors = child.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                child.kill()
                msg = f"training ended after training.timeout = {limit:g} s; raise it or lower training.max_windows"
                raise Timeout(msg) from None
            finally:
                with self._children_lock:
                    self._children.discard(child)
        if child.returncode != 0 and not self._stop.is_set():
            lines = errors.decode(errors="replace").strip().splitlines()
            raise DetectorError(lines[-1] if lines else f"the training process ended with status {child.returncode}")
        logger.info("event=%s_done monitor=%s", task, monitor.name)

    # -- notifications ------------------------------------------------------------------------------------------------

    def _wake_tellers(self) -> None:
        for wake in self._wakes:
            wake.set()

    def _tell(self, sender: Sender, wake: threading.Event) -> None:
        """Tells one notifier, on a thread of its own, until the stop: a target that hangs holds up nothing else.

        Not a job of the scheduler, which would count a look that falls into a slow one as skipped.
        """
        while not self._stop.is_set():
            wake.clear()
            self.notify(sender)
            wake.wait(_NOTIFY_SECONDS)

    def notify(self, sender: Sender) -> None:
        """Tells one notifier all that is due; counts and logs as a task does."""
        began, outcome = time.monotonic(), "success"
        try:
            told = sender.run(lambda: round(self._clock() * 1000), self._rng, self._stop.is_set)
            for what, count in told.items():
                self._exporter.notifications.labels(sender.name, what).inc(count)
            self._exporter.show_unsent(sender.name, *sender.unsent())
        except DetectorError as exc:
            outcome = "error"
            logger.error("event=notify_failed notifier=%s reason=%r", sender.name, str(exc))
        except Exception:
            outcome = "error"
            logger.exception("event=notify_failed notifier=%s", sender.name)
        else:
            self._exporter.succeeded("notify", "", self._clock())
        self._exporter.job_runs.labels("notify", "", outcome).inc()
        self._exporter.job_duration.labels("notify", "").observe(time.monotonic() - began)

    # -- health -------------------------------------------------------------------------------------------------------

    def problem(self) -> str | None:
        """Why this daemon does not do its work, None if it does."""
        try:
            self._services.ping()
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is a reason
            return f"database: {type(exc).__name__}"
        for name, run in self._runs.items():
            last = self._exporter.last_success("tick", name)
            limit = 3 * run.section.score_interval.total_seconds() + 60
            if last is None:
                return f"monitor {name}: no tick has succeeded yet"
            if self._clock() - last > limit:
                return f"monitor {name}: the last successful tick was {self._clock() - last:.0f} s ago"
        return None

    def stuck(self) -> str | None:
        """A monitor whose ticks have not ended for far too long, None if there is none. A failed tick has ended."""
        for name, run in self._runs.items():
            limit = max(3 * run.section.score_interval, _STUCK).total_seconds() + run.section.delay.total_seconds()
            if time.monotonic() - run.finished > limit:
                return name
        return None
