"""The daemon's life: start, schedule, signals, watchdog, ordered shutdown."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobExecutionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from detector.config import values
from detector.config.sections import Config, MonitorSection
from detector.daemon import health
from detector.daemon.messengers import Messenger
from detector.daemon.systemd import notify_systemd
from detector.daemon.tasks import MonitorRun, Services, Task, Tasks
from detector.detect import explain_slot, promise
from detector.detect.tick import Monitor
from detector.errors import ConfigError, SourceError
from detector.export.prometheus import Exporter, MonitorView
from detector.times import milliseconds
from detector.train.division import Plan
from detector.web.live import Status
from detector.web.server import Endpoint

logger = logging.getLogger(__name__)

STOP_SECONDS = 4.0
"""A stop waits this long for running ticks, then abandons them; what they had not committed is rolled back."""

_PRUNE_EVERY = timedelta(hours=1)
_LOOK_SECONDS = 0.2  # between two looks at signals and the clock: a stop begins within it
_STEP_SECONDS = 1.0  # a wall clock that moves by more against the monotonic one was set; NTP slews by far less


def _reloading() -> str:
    """What systemd is told before the daemon begins anew; the next READY=1 ends it."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


class CronTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Fires as a cron line says; APScheduler's own trigger counts weekdays from Monday and joins days by "and"."""

    def __init__(self, cron: str, zone: str) -> None:
        self._cron, self._zone = cron, zone

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """The first time after the previous one, or after now; None if there is none."""
        after = round((previous_fire_time or now).timestamp() * 1000)
        following = values.next_firings(self._cron, after, 1, self._zone)
        return datetime.fromtimestamp(following[0] / 1000, UTC) if following else None


class GridTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Fires at every multiple of an interval, plus an offset; APScheduler's own counts from the run before."""

    def __init__(self, every: int, offset: int) -> None:
        """Both in milliseconds."""
        self._every, self._offset = every, offset

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """The first such time after now, and after the previous one."""
        after = max(now, previous_fire_time or now)
        passed = round(after.timestamp() * 1000) - self._offset
        return datetime.fromtimestamp(((passed // self._every + 1) * self._every + self._offset) / 1000, UTC)


class Worker:
    """Runs every monitor of a configuration until it is asked to stop."""

    def __init__(
        self, config: Config, services: Services, exporter: Exporter, *, clock: Callable[[], float] = time.time
    ) -> None:
        """clock: epoch seconds; a replay has one of its own."""
        self.begins_anew = False  # whether it has stopped only to read its configuration again
        self._clock = clock
        self._config = config
        self._services = services
        self._exporter = exporter
        self._stop = threading.Event()
        self._signals: list[int] = []  # received, not handled yet
        self._offset = clock() - time.monotonic()  # of the wall clock; it changes when the clock is set
        self._ping = health.Ping(services.ping)
        self._scheduler: BackgroundScheduler | None = None
        self._triggers: dict[
            str, Callable[[], BaseTrigger]
        ] = {}  # of each scheduled job, made anew when the clock is set
        self._messengers = [Messenger(sender, exporter, clock=clock, stop=self._stop) for sender in services.senders]
        self._tasks = Tasks(
            services,
            exporter,
            clock=clock,
            stop=self._stop,
            on_tick=self._wake_messengers,
            train_now=self._train_now,
        )
        self._runs = {section.name: self._run_of(section) for section in config.monitors}
        for monitor in config.monitors:
            view = MonitorView(
                monitor=monitor.name,
                metrics=monitor.metrics,
                step=monitor.step_ms,
                alert_budget_per_week=monitor.threshold.alert_budget_per_week,
            )
            exporter.show(view)

    def _run_of(self, section: MonitorSection) -> MonitorRun:
        services, plan = self._services, Plan.of(section)
        notifiers = self._config.notified(section.name)
        monitor = Monitor(plan.horizon, services.sources[section.name], services.store, notifiers)
        return MonitorRun(section, monitor, plan)

    # -- life ---------------------------------------------------------------------------------------------------------

    def run(self, *, on_ready: Callable[[int], None] = lambda port: None) -> None:
        """Serves until a signal or `stop`; returns after an orderly shutdown.

        on_ready: called with the endpoint's port once everything runs
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # only noted: an event's lock may be held by the very thread that the handler interrupts
            signal.signal(number, lambda received, _frame: self._signals.append(received))
        endpoint = self._services.endpoint(self, self.problem)
        scheduler = self._scheduler = self._make_scheduler()
        endpoint.start()  # first: a port that is taken ends the start
        scheduler.start()
        threads = [messenger.start() for messenger in self._messengers]
        notify_systemd(f"READY=1\nSTATUS=watching {len(self._runs)} monitors")
        logger.info("event=started monitors=%d listen_port=%d", len(self._runs), endpoint.port)
        on_ready(endpoint.port)
        self._wait()
        self._shut_down(endpoint, scheduler, threads)

    def stop(self) -> None:
        """Asks the worker to stop; safe from any thread, but not from a signal handler."""
        self._stop.set()
        self._wake_messengers()

    def run_task(self, task: Task, monitor: str) -> None:
        """Runs one task of a monitor now, without the scheduler: for a replay under its own clock."""
        self._tasks.run(task, self._runs[monitor])

    def problem(self) -> str | None:
        """Why this daemon does not do its work, None if it does."""
        return self._ping.problem() or health.problem(self._runs.values(), time.monotonic())

    # -- what pages and API ask ---------------------------------------------------------------------------------------

    def now(self) -> int:
        """The time, epoch milliseconds."""
        return round(self._clock() * 1000)

    def views(self) -> Mapping[str, MonitorView]:
        """The newest state of every monitor, by its name."""
        return self._exporter.views()

    def status(self, monitor: str) -> Status:
        """How a monitor's work goes."""
        run = self._runs[monitor]
        return Status(
            has_ticked=run.succeeded is not None,
            failure=run.failure,
            slots=run.waits[0],
            needed=run.waits[1],
            training=None if run.training is None else run.training[1],
            trained=0.0 if run.training is None else run.training[0],
            next_tick=self._next(f"tick:{monitor}"),
            next_training=self._next(f"retrain:{monitor}"),
            promise=None if run.good is None else promise.shortfall(run.good),
            missed_training=run.missed_training,
        )

    def _next(self, job: str) -> int | None:
        """When a job runs next, epoch milliseconds."""
        found = None if self._scheduler is None else self._scheduler.get_job(job)
        return None if found is None or found.next_run_time is None else round(found.next_run_time.timestamp() * 1000)

    def explained(self, monitor: str, entity: str) -> Mapping[str, Any] | None:
        """The newest slot of an entity, explained as alerts are; None if there is nothing to explain."""
        run = self._runs[monitor]
        memory = run.memory  # a tick may take it away meanwhile
        if memory is not None:
            return explain_slot.newest(run.plan.horizon, memory, entity)
        if run.good is not None:  # after a tick that failed: the next one brings it back
            return None
        try:
            return explain_slot.observed(run.plan.horizon, run.monitor.source, entity, self.now())
        except SourceError:
            return None

    # -- life, within -------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Sleeps until the stop; looks after signals and the clock, and feeds systemd's watchdog."""
        microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
        interval = microseconds / 3e6 if microseconds else math.inf  # three times within what systemd allows
        fed = time.monotonic() - interval
        while not self._stop.wait(_LOOK_SECONDS):
            self._handle_signals()
            self._follow_clock()
            if time.monotonic() - fed >= interval:
                fed = time.monotonic()
                self._feed_watchdog()

    def _handle_signals(self) -> None:
        while self._signals:
            if self._signals.pop(0) == signal.SIGHUP:
                self._reload()
            else:
                self.stop()

    def _reload(self) -> None:
        """Stops in order to begin anew with the configuration as it is now; one that is wrong changes nothing."""
        try:
            self._services.check_config()
        except ConfigError as exc:
            self._exporter.reloaded = False
            for line in str(exc).splitlines():
                logger.error("event=reload_refused reason=%r; the configuration in force stays", line)
        else:
            self.begins_anew = True
            self.stop()

    def _feed_watchdog(self) -> None:
        stuck = health.stuck(self._runs.values())
        if stuck is None:
            notify_systemd("WATCHDOG=1")
        else:
            logger.error("event=watchdog_withheld monitor=%s", stuck)

    def _follow_clock(self) -> None:
        """Schedules every job anew when the wall clock was set: the next tick still comes within its period."""
        offset = self._clock() - time.monotonic()
        moved = offset - self._offset
        if abs(moved) < _STEP_SECONDS or self._scheduler is None:
            return
        self._offset = offset
        logger.warning("event=clock_set seconds=%.1f; jobs are scheduled anew", moved)
        for job, trigger in self._triggers.items():
            self._scheduler.reschedule_job(job, trigger=trigger())
        for run in self._runs.values():
            self._scheduler.modify_job(f"tick:{run.section.name}", next_run_time=datetime.now(UTC))

    def _shut_down(
        self, endpoint: Endpoint, scheduler: BackgroundScheduler, messengers: Sequence[threading.Thread]
    ) -> None:
        """Stops everything in this order, with `STOP_SECONDS` for steps 2 to 4 together."""
        # 1. Say so. From here on no task begins: `stop` has set the event that each of them looks at.
        logger.info("event=%s", "reloading" if self.begins_anew else "stopping")
        notify_systemd(_reloading() if self.begins_anew else "STOPPING=1")
        deadline = time.monotonic() + STOP_SECONDS
        # 2. End trainings. They take hours; what they have not stored, the next one trains again.
        self._tasks.children.terminate()
        # 3. Let running tasks finish. On a thread, for the scheduler waits for them without a limit.
        finishing = threading.Thread(target=scheduler.shutdown, kwargs={"wait": True}, daemon=True)
        finishing.start()
        # 4. Let messages on their way arrive. What is not sent by then waits in the outbox.
        threads = (finishing, *messengers)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        is_clean = not any(thread.is_alive() for thread in threads)
        # 5. Close the endpoint last: until now it has shown what goes on.
        endpoint.stop()
        logger.info("event=stopped clean=%s", is_clean)
        # 6. Leave. A read that hangs would hold the interpreter until its timeout; beginning anew ends it, too.
        if not is_clean and not self.begins_anew:
            logging.shutdown()
            os._exit(0)

    def _wake_messengers(self) -> None:
        for messenger in self._messengers:
            messenger.wake()

    # -- schedule -----------------------------------------------------------------------------------------------------

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
            self._every(scheduler, "tick", run, every=monitor.score_interval, offset=monitor.delay, first=now)
            self._every(scheduler, "prune", run, every=_PRUNE_EVERY)
            if monitor.name in self._services.collectors:
                self._every(scheduler, "collect", run, every=monitor.step)
            self._at(scheduler, "retrain", run, cron=monitor.retrain)
        return scheduler

    def _every(
        self,
        scheduler: BackgroundScheduler,
        task: Task,
        run: MonitorRun,
        *,
        every: timedelta,
        offset: timedelta = timedelta(0),
        first: datetime | None = None,
    ) -> None:
        """Adds a job that runs at every multiple of its interval, plus an offset, and once at `first`."""
        self._exporter.task(task, run.section.name)

        def trigger() -> BaseTrigger:
            return GridTrigger(milliseconds(every), milliseconds(offset))

        job, options = f"{task}:{run.section.name}", {} if first is None else {"next_run_time": first}
        self._triggers[job] = trigger
        scheduler.add_job(self._tasks.run, trigger(), args=[task, run], id=job, **options)

    def _at(self, scheduler: BackgroundScheduler, task: Task, run: MonitorRun, *, cron: str) -> None:
        """Adds a training job that runs when a crontab expression says so, unless it is "off"."""
        if cron == "off":
            return
        self._exporter.task(task, run.section.name)
        job = f"{task}:{run.section.name}"
        self._triggers[job] = lambda: CronTrigger(cron, run.section.schedule_zone)
        scheduler.add_job(self._tasks.run, self._triggers[job](), args=[task, run], id=job, executor="training")

    def _train_now(self, run: MonitorRun) -> None:
        """Queues a first training."""
        assert self._scheduler is not None
        self._scheduler.add_job(
            self._tasks.run,
            args=["retrain", run],
            id=f"retrain:{run.section.name}:first",
            executor="training",
            replace_existing=True,
        )

    def _on_skipped(self, event: JobExecutionEvent) -> None:
        task, monitor = event.job_id.split(":")[:2]
        self._exporter.job_runs.labels(task, monitor, "skipped").inc()
        logger.warning("event=job_skipped task=%s monitor=%s; the run before it has not ended", task, monitor)
