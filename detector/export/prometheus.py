"""Every exported metric in one table, and the collector that fills it from the monitors' newest snapshots."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from detector import __version__
from detector.core.decide import AlertStates, Severity
from detector.core.rejects import REASONS
from detector.core.series import Bool, Float32, Int8, Reason
from detector.ports import AlertCounts

GAUGES = {
    "detector_score": (
        "Newest score; 1 is the threshold, each more is some 55 times rarer; absent while unknown",
        ("monitor", "entity"),
    ),
    "detector_surprise": (
        "How strange the newest slot is, told before or not; absent while unknown",
        ("monitor", "entity"),
    ),
    "detector_entities": ("Entities by state, unknown ones by reason", ("monitor", "state", "reason")),
    "detector_entities_dropped": ("Entities whose score or alert `export.max_entities` leaves out", ("monitor",)),
    "detector_alert_active": ("1 for every open alert that is not muted", ("monitor", "entity", "severity")),
    "detector_alert_budget_per_week": ("False alerts a week that the operator accepts", ("monitor",)),
    "detector_alerts_observed_per_week": ("Alerts of the last seven days that nobody has marked real", ("monitor",)),
    "detector_alerts_judged": ("Alerts that people have marked real or false", ("monitor", "verdict")),
    "detector_metric_missing_ratio": (
        "Share of the entities with data that have lost a metric for a whole window",
        ("monitor", "metric"),
    ),
    "detector_metrics_blind_ratio": (
        "Share of all entities' metrics that no alert can come from, by their values alone",
        ("monitor",),
    ),
    "detector_metric_observed": ("Newest value of a metric that an open alert names", ("monitor", "entity", "metric")),
    "detector_metric_expected": ("Value that was expected of it", ("monitor", "entity", "metric")),
    "detector_metric_lower": ("Lower end of what was expected of it", ("monitor", "entity", "metric")),
    "detector_metric_upper": ("Upper end of what was expected of it", ("monitor", "entity", "metric")),
    "detector_residual_share": (
        "Share of a metric in the newest score, for open alerts",
        ("monitor", "entity", "metric"),
    ),
    "detector_model_info": ("1, labelled with the live model version", ("monitor", "version", "kind")),
    "detector_model_detectability_ratio": ("Share of the injected faults that a model found", ("monitor", "kind")),
    "detector_model_created_timestamp_seconds": ("Time when the live model version was trained", ("monitor",)),
    "detector_last_success_timestamp_seconds": ("Time when a task last succeeded", ("task", "monitor")),
    "detector_newest_sample_timestamp_seconds": ("Time of the newest sample read", ("monitor",)),
    "detector_cursor_timestamp_seconds": ("End of the newest slot scored and committed", ("monitor",)),
    "detector_step_seconds": ("Length of a slot", ("monitor",)),
    "detector_notification_oldest_unsent_timestamp_seconds": (
        "Time of the oldest event that waits for a notifier; absent if none waits",
        ("notifier",),
    ),
    "detector_notifications_dead": ("Events given up after `give_up_after`", ("notifier",)),
    "detector_config_last_reload_successful": ("0 after a reload that was refused: the configuration is wrong", ()),
    "detector_build_info": ("1, labelled with the version of the program", ("version",)),
}
COUNTERS = {
    "detector_alerts_total": (
        "Alerts by the severities they have had; one that got worse counts under both",
        ("monitor", "severity"),
    ),
    "detector_job_runs_total": ("Runs of scheduled tasks by outcome", ("task", "monitor", "outcome")),
    "detector_notifications_total": ("Messages to notifiers by outcome; `dead` counts events", ("notifier", "outcome")),
    "detector_samples_read_total": ("Samples read from the source", ("monitor",)),
    "detector_source_rows_rejected_total": ("Rows of the source that could not be read", ("monitor", "reason")),
    "detector_windows_scored_total": ("Windows scored", ("monitor",)),
    "detector_cursor_rewinds_total": ("Cursors that ran ahead of the clock and were moved back", ("monitor",)),
}
HISTOGRAMS = {"detector_job_duration_seconds": ("Duration of scheduled tasks", ("task", "monitor"))}

OUTCOMES = ("success", "error", "skipped", "timeout")
NOTIFICATION_OUTCOMES = ("sent", "failed", "dead")
_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0)


@dataclass(frozen=True)
class NamedMetric:
    """A metric that an open alert names, in its entity's newest slot, own units; None: not known."""

    entity: str
    metric: str
    observed: float | None
    expected: float | None
    lower: float | None
    upper: float | None


@dataclass(frozen=True)
class MonitorView:
    """Exported state of one monitor; replaced as a whole, never changed in place. Times: epoch milliseconds."""

    monitor: str
    metrics: tuple[str, ...]
    step: int
    alert_budget_per_week: float
    entities: tuple[str, ...] = ()
    score: Float32 | None = None  # (E,)
    surprise: Float32 | None = None  # (E,) as the score
    reason: Int8 | None = None  # (E,)
    states: AlertStates | None = None
    is_silent: Bool | None = None  # (E,) the open alert is muted, or a person closed it
    share: Float32 | None = None  # (E, F)
    named: Sequence[NamedMetric] = ()  # of open alerts
    missing: Float32 | None = None  # (F,) share of entities with data that have lost a metric
    blind: float | None = None  # share of all metrics that no alert can come from
    cursor: int | None = None
    newest_sample: int | None = None
    model_version: int | None = None
    model_kind: str | None = None
    model_created: int | None = None
    detectability: Mapping[str, float] = field(default_factory=dict)  # by kind of model
    alerts: AlertCounts = field(default_factory=lambda: AlertCounts({}, {}, 0))  # recent: of the last seven days


class Exporter(Collector):
    """Owner of the registry that /metrics serves. Scrapes read an immutable snapshot and never wait for a tick."""

    def __init__(self, max_entities: int) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.reloaded = True  # False: the configuration in force is not the one in the file
        self._max_entities = max_entities
        self._views: dict[str, MonitorView] = {}
        self._successes: dict[tuple[str, str], float] = {}
        self._unsent: dict[str, tuple[int | None, int]] = {}
        self._lock = threading.Lock()
        self.notifications = self._counter("detector_notifications_total")
        self.job_runs = self._counter("detector_job_runs_total")
        self.samples_read = self._counter("detector_samples_read_total")
        self.windows_scored = self._counter("detector_windows_scored_total")
        self.rows_rejected = self._counter("detector_source_rows_rejected_total")
        self.rewinds = self._counter("detector_cursor_rewinds_total")
        help_, labels = HISTOGRAMS["detector_job_duration_seconds"]
        self.job_duration = Histogram(
            "detector_job_duration_seconds", help_, labels, buckets=_BUCKETS, registry=self.registry
        )
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def _counter(self, name: str) -> Counter:
        help_, labels = COUNTERS[name]
        return Counter(name, help_, labels, registry=self.registry)

    def show(self, view: MonitorView) -> None:
        """Replaces the view of a monitor; entities that are gone vanish with the old one."""
        with self._lock:
            if view.monitor not in self._views:
                self.samples_read.labels(view.monitor)
                self.windows_scored.labels(view.monitor)
                self.rewinds.labels(view.monitor)
                for reason in REASONS:
                    self.rows_rejected.labels(view.monitor, reason)
            self._views = self._views | {view.monitor: view}

    def update(self, monitor: str, **changes: object) -> None:
        """Changes fields of a monitor's view."""
        self.show(replace(self._views[monitor], **changes))  # type: ignore[arg-type]

    def views(self) -> Mapping[str, MonitorView]:
        """The newest view of every monitor, by its name."""
        return self._views

    def task(self, task: str, monitor: str) -> None:
        """Announces a task, so that its counters start at 0 instead of appearing with the first run."""
        self.job_duration.labels(task, monitor)
        for outcome in OUTCOMES:
            self.job_runs.labels(task, monitor, outcome)

    def notifier(self, name: str) -> None:
        """Announces a notifier, so that its counters start at 0."""
        for outcome in NOTIFICATION_OUTCOMES:
            self.notifications.labels(name, outcome)

    def show_unsent(self, notifier: str, oldest: int | None, dead: int) -> None:
        """Replaces the state of a notifier's outbox; oldest: epoch milliseconds."""
        with self._lock:
            self._unsent = self._unsent | {notifier: (oldest, dead)}

    def succeeded(self, task: str, monitor: str, at: float) -> None:
        """Notes the time of a success, epoch seconds."""
        with self._lock:
            self._successes[task, monitor] = at

    def last_success(self, task: str, monitor: str) -> float | None:
        """Time when a task last succeeded, epoch seconds; None if it never did."""
        return self._successes.get((task, monitor))

    def describe(self) -> Iterator[Metric]:
        """Nothing: the collected series depend on the monitors."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All gauges of all monitors."""
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {
            name: GaugeMetricFamily(name, help_, labels=labels) for name, (help_, labels) in GAUGES.items()
        }
        help_, labels = COUNTERS["detector_alerts_total"]
        families["detector_alerts_total"] = CounterMetricFamily("detector_alerts", help_, labels=labels)
        families["detector_config_last_reload_successful"].add_metric([], int(self.reloaded))
        families["detector_build_info"].add_metric([__version__], 1)
        with self._lock:
            views, successes, unsent = list(self._views.values()), dict(self._successes), dict(self._unsent)
        for notifier, (oldest, dead) in unsent.items():
            families["detector_notifications_dead"].add_metric([notifier], dead)
            if oldest is not None:
                families["detector_notification_oldest_unsent_timestamp_seconds"].add_metric([notifier], oldest / 1000)
        for (task, monitor), at in successes.items():
            families["detector_last_success_timestamp_seconds"].add_metric([task, monitor], at)
        for view in views:
            _add_monitor(families, view)
            _add_entities(families, view, self._max_entities)
        return iter(families.values())


Families = dict[str, GaugeMetricFamily | CounterMetricFamily]


def _add_monitor(families: Families, view: MonitorView) -> None:
    def add(name: str, value: float | None, *labels: str, scale: float = 1.0) -> None:
        if value is not None:
            families[name].add_metric([view.monitor, *labels], value * scale)

    add("detector_alert_budget_per_week", view.alert_budget_per_week)
    add("detector_alerts_observed_per_week", view.alerts.recent)
    add("detector_step_seconds", view.step, scale=1e-3)
    add("detector_cursor_timestamp_seconds", view.cursor, scale=1e-3)
    add("detector_newest_sample_timestamp_seconds", view.newest_sample, scale=1e-3)
    add("detector_model_created_timestamp_seconds", view.model_created, scale=1e-3)
    if view.model_version is not None:
        add("detector_model_info", 1, str(view.model_version), view.model_kind or "")
    for kind, share in view.detectability.items():
        add("detector_model_detectability_ratio", share, kind)
    add("detector_metrics_blind_ratio", view.blind)
    missing = [] if view.missing is None else view.missing.tolist()
    for metric, ratio in zip(view.metrics, missing, strict=False):
        add("detector_metric_missing_ratio", ratio, metric)
    for one in view.named:
        for end in ("observed", "expected", "lower", "upper"):
            add(f"detector_metric_{end}", getattr(one, end), one.entity, one.metric)
    for severity in Severity:
        add("detector_alerts_total", view.alerts.by_severity.get(severity.value, 0), severity.value)
    for verdict in ("real", "false"):
        add("detector_alerts_judged", view.alerts.by_verdict.get(verdict, 0), verdict)


def _add_entities(families: Families, view: MonitorView, most: int) -> None:
    if view.score is None or view.reason is None or view.states is None or view.share is None:
        return
    is_known = view.reason == Reason.KNOWN
    is_anomalous = is_known & ((view.score >= 1.0) | view.states.is_open)
    counts = {("anomalous", ""): is_anomalous.sum(), ("normal", ""): (is_known & ~is_anomalous).sum()}
    for reason in Reason:
        if reason is not Reason.KNOWN:
            counts["unknown", reason.label] = (view.reason == reason).sum()
    for (state, reason_label), count in counts.items():
        families["detector_entities"].add_metric([view.monitor, state, reason_label], int(count))

    known = np.flatnonzero(is_known)
    shown = known[np.argsort(-view.score[known], kind="stable")[:most]]
    for row in np.sort(shown).tolist():
        families["detector_score"].add_metric([view.monitor, view.entities[row]], float(view.score[row]))
        if view.surprise is not None and not np.isnan(view.surprise[row]):
            families["detector_surprise"].add_metric([view.monitor, view.entities[row]], float(view.surprise[row]))
    is_active = view.states.is_open if view.is_silent is None else view.states.is_open & ~view.is_silent
    active = np.flatnonzero(is_active)
    worst = np.lexsort((-view.states.peak_score[active], ~view.states.is_critical[active]))[:most]
    dropped = np.union1d(np.setdiff1d(known, shown), np.delete(active, worst))
    families["detector_entities_dropped"].add_metric([view.monitor], len(dropped))
    for row in np.sort(active[worst]).tolist():
        severity = Severity.CRITICAL if view.states.is_critical[row] else Severity.WARNING
        families["detector_alert_active"].add_metric([view.monitor, view.entities[row], severity.value], 1)
        for metric, share in zip(view.metrics, view.share[row].tolist(), strict=True):
            if share == share:  # noqa: PLR0124 - NaN: unknown, so absent
                families["detector_residual_share"].add_metric([view.monitor, view.entities[row], metric], share)
