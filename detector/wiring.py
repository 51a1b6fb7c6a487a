"""Composition root: the adapter of each port, for a given configuration."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import Engine

from detector import __version__, database, times
from detector.config import loading, values
from detector.config import sections as configuration
from detector.config.sections import Config, MonitorSection
from detector.detect.rates import Rates
from detector.errors import ArtifactError, ConfigError
from detector.models.fitting import MonitorFit
from detector.ports import ModelVersion, Source
from detector.store import models as model_store
from detector.store import schema
from detector.store.lease import Lease, right_to_train
from detector.store.state import StateStore

if TYPE_CHECKING:
    from detector.notify.sender import Sender
    from detector.ports import Notifier
    from detector.progress import Progress
    from detector.replay.live import Judged
    from detector.replay.recordings import Recording
    from detector.replay.results import Alert, Outcome
    from detector.sources.embedded import EmbeddedSource
    from detector.sources.prometheus import PrometheusSource
    from detector.store.alerts import AlertRow
    from detector.store.replayed import ReplayedHistory
    from detector.train.versions import Inputs

logger = logging.getLogger(__name__)

_ALL = 1 << 30  # rows


@dataclass(frozen=True)
class Parts:
    """A configuration, connected: the assembled whole."""

    config: Config
    engine: Engine
    store: StateStore
    sources: dict[str, Source]  # by monitor
    versions: dict[str, StoredVersions]  # by monitor


def assemble(config: Config, *, upgrade: bool = False) -> Parts:
    """The parts of a configuration. An outdated schema is refused, or with `upgrade` brought up to date."""
    engine = database.connect(loading.secret(config.database), creates=upgrade)
    if upgrade:
        schema.upgrade(engine)
    else:
        schema.check(engine)
    return Parts(
        config=config,
        engine=engine,
        store=StateStore(engine),
        sources={monitor.name: source(config, monitor, engine) for monitor in config.monitors},
        versions={monitor.name: StoredVersions(engine, monitor) for monitor in config.monitors},
    )


def source(config: Config, monitor: MonitorSection, engine: Engine) -> Source:
    """The source of a monitor, whose counters are rates."""
    found = _source(config, monitor, engine)
    return Rates(found, monitor) if monitor.rates else found


def _source(config: Config, monitor: MonitorSection, engine: Engine) -> Source:
    section = monitor.source
    if isinstance(section, configuration.SqlSource):
        from detector.sources.sql import SqlSource, TableSpec

        # one of its own also where it inherits the detector's database: with its own limit, and unable to write
        url = loading.secret(section) or loading.secret(config.database)
        own = database.connect(url, timeout=section.timeout, reads_only=True)
        settings = section.model_dump(exclude={"type", "url", "url_file"})
        return SqlSource(own, TableSpec(metrics=monitor.metrics, only_entity=monitor.name, **settings))
    if isinstance(section, configuration.PrometheusSource):
        return prometheus(monitor, section)
    return embedded(monitor, engine)


def prometheus(monitor: MonitorSection, section: configuration.PrometheusSource) -> PrometheusSource:
    """The source of a monitor whose samples are in a Prometheus. Raises: ConfigError if a file is missing or wrong."""
    from detector.sources import prometheus_api
    from detector.sources.prometheus import PrometheusSource, QuerySpec

    spec = QuerySpec(
        metrics=monitor.metrics,
        queries=tuple(section.expression(metric) for metric in monitor.metrics),
        aggregates=tuple("last" if metric in monitor.rates else monitor.aggregate for metric in monitor.metrics),
        entity=section.entity,
        step=monitor.step_ms,
        only_entity=monitor.name,
    )
    return PrometheusSource(prometheus_api.of(section, monitor.name), spec)


def embedded(monitor: MonitorSection, engine: Engine) -> EmbeddedSource:
    """The monitor's samples in the detector's own database."""
    from detector.sources.embedded import EmbeddedSource

    return EmbeddedSource(engine, monitor.name, monitor.metrics)


class StoredVersions:
    """The port `Versions`: artifacts of one monitor in the detector's own database."""

    def __init__(self, engine: Engine, monitor: MonitorSection) -> None:
        self._engine = engine
        self._monitor = monitor
        self._held: Lease | None = None

    def newest_number(self) -> int | None:
        """Number of the newest version, None if there is none."""
        return model_store.newest_version(self._engine, self._monitor.name)

    def live_number(self) -> int | None:
        """Number of the live version, None if there is none."""
        return model_store.live_version(self._engine, self._monitor.name)

    def live(self) -> ModelVersion | None:
        """The live version, or the newest one before it if it is damaged; None if none fits the monitor (logged)."""
        number = self.live_number()
        if number is None:
            return None
        for candidate in self._from(number):
            try:
                version = self.load(candidate)
            except ArtifactError as exc:
                self._refused(candidate, str(exc))
                continue
            if version.artifact.provenance["fingerprint"] == self._monitor.fingerprint:
                return version
            self._refused(candidate, f"it was trained for other settings of monitor {self._monitor.name!r}")
            return None
        return None

    def _from(self, number: int) -> Iterator[int]:
        """The live version and, only if somebody asks for them, those before it, newest first."""
        yield number
        stored = model_store.listing(self._engine, self._monitor.name)
        yield from (row.version for row in stored if row.version < number)

    def _refused(self, number: int, reason: str) -> None:
        logger.warning("event=model_refused monitor=%s version=%d reason=%r", self._monitor.name, number, reason)

    def load(self, number: int) -> ModelVersion:
        """Any stored version, ready to score.

        Raises: ArtifactError if it is missing, damaged or of an unknown format.
        """
        from detector.models import versions

        return versions.load(model_store.load(self._engine, number), number)

    def save(self, version: ModelVersion, now: int) -> int:
        """Stores a version and makes it the live one; its number. now: epoch milliseconds.

        Raises: ModelError if the right to make versions was lost meanwhile.
        """
        from detector.models import artifact as artifacts

        if self._held is not None:
            self._held.check()
        made = {"created_at": now, "detector": __version__, "numpy": np.__version__}
        header = {**made, **version.artifact.provenance}
        stored = artifacts.dump(replace(version.artifact, provenance=header))
        return model_store.save(self._engine, monitor=self._monitor.name, artifact=stored, header=header, now=now)

    @contextmanager
    def hold(self, now: int) -> Iterator[None]:
        """Holds the right to make versions of the monitor: while this process lives, and 90 seconds longer at most.

        Raises: ModelError if another process holds it.
        """
        try:
            with right_to_train(self._engine, self._monitor.name, now) as self._held:
                yield
        finally:
            self._held = None


def sight(parts: Parts, monitor: str, version: int) -> dict[str, float | None]:
    """What it takes to open an alert under a version; nothing where nobody can know."""
    from detector.detect import sensitivity
    from detector.detect.horizon import Horizon

    try:
        model = parts.versions[monitor].load(version)
    except (KeyError, ArtifactError):
        return {}
    return sensitivity.summary(Horizon.of(parts.config.monitor(monitor)), model)


def training_inputs(parts: Parts, monitor: MonitorSection) -> Inputs:
    """Everything that new model versions of a monitor are made from."""
    from detector.store import alerts
    from detector.train.division import Plan
    from detector.train.versions import Inputs

    return Inputs(
        plan=Plan.of(monitor),
        source=parts.sources[monitor.name],
        store=parts.store,
        versions=parts.versions[monitor.name],
        fit=MonitorFit(monitor),
        real=lambda: alerts.real(parts.engine, monitor.name),
    )


def backtest(
    recordings: Sequence[Recording], settings: MonitorSection, *, name: str, per_entity: bool, progress: Progress
) -> Outcome:
    """Replays recordings on a temporary database of their own; trains in this process."""
    from detector.replay import replay
    from detector.sources.memory import MemorySource
    from detector.store import alerts, scores

    with tempfile.TemporaryDirectory(prefix="detector-backtest-") as folder:
        engine = database.connect(f"sqlite:///{folder}/detector.db")
        workspace = replay.Workspace(
            store=StateStore(engine),
            source=MemorySource.of,
            fit=MonitorFit,
            scores=lambda monitor: scores.by_entity(engine, monitor),
            alerts=lambda monitor: [_alert(row) for row in alerts.listing(engine, monitor=monitor, most=_ALL)],
        )
        try:
            schema.upgrade(engine)
            return replay.run(recordings, settings, workspace, name=name, per_entity=per_entity, progress=progress)
        finally:
            engine.dispose()


def replayed(
    parts: Parts, section: MonitorSection, model: ModelVersion, *, start: int, end: int, progress: Progress
) -> tuple[ReplayedHistory, Judged]:
    """What a model would have found in the stored history of a monitor's source; nothing is stored.

    start, end: slots, epoch milliseconds
    """
    from detector.detect.horizon import Horizon
    from detector.replay import live
    from detector.store.replayed import ReplayedHistory, ReplayStore

    store, source = ReplayStore(parts.store.exclusions(section.name)), parts.sources[section.name]
    judged = live.run(Horizon.of(section), source, store, model, start=start, end=end, progress=progress)
    return ReplayedHistory(store, start), judged


def _alert(row: AlertRow) -> Alert:
    from detector.replay.results import Alert

    return Alert(
        entity=row.entity,
        opened=row.episode.opened_slot,
        detected_at=row.detected_at,
        closed=row.episode.closed_slot,
        severity=row.episode.severity,
        peak_score=row.episode.peak_score,
        top_metrics=tuple(metric["metric"] for metric in row.explanation.get("metrics", [])),
    )


def notifier(section: configuration.AlertmanagerNotifier | configuration.WebhookNotifier) -> Notifier:
    """The notifier of a configuration section.

    Raises: ConfigError if a file with a secret is missing or holds no URL.
    """
    url, timeout = loading.secret(section), section.timeout.total_seconds()
    try:
        values.http_url(url)
    except ValueError as exc:
        msg = f"notifier {section.name!r}: url_file {exc}"
        raise ConfigError(msg) from None
    if isinstance(section, configuration.AlertmanagerNotifier):
        from detector.notify.alertmanager import Alertmanager

        return Alertmanager(url, timeout=timeout)
    from detector.notify.webhook import Webhook

    return Webhook(section.name, url, secret=loading.secret(section, key="secret"), timeout=timeout)


def senders(config: Config, engine: Engine) -> list[Sender]:
    """One sender for each notifier of a configuration."""
    if not config.notifiers:
        return []
    from detector.notify.alertmanager import REPEAT_MS
    from detector.notify.sender import Limits, Sender
    from detector.store.outbox import OutboxStore

    outbox = OutboxStore(engine)
    found = []
    for section in config.notifiers:
        common = {key: times.milliseconds(getattr(section, key)) for key in ("timeout", "give_up_after")}
        if isinstance(section, configuration.AlertmanagerNotifier):
            limits = Limits(**common, repeat=REPEAT_MS, max_alerts=section.max_alerts)
        else:
            span = times.milliseconds(section.rate_span)
            limits = Limits(**common, max_messages=section.max_messages, rate_span=span)
        monitors = section.monitors or [monitor.name for monitor in config.monitors]
        found.append(Sender(section.name, notifier(section), outbox, monitors=monitors, limits=limits))
    return found
