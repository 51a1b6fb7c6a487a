"""Composition root: which adapter serves which port, for a given configuration."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Engine

from detector import __version__, database, times
from detector.config import loading, values
from detector.config import sections as configuration
from detector.config.sections import Config, MonitorSection
from detector.detect import exclusions
from detector.errors import ArtifactError, ConfigError, ModelError
from detector.ports import ModelVersion, Source
from detector.store import models as model_store
from detector.store import schema
from detector.store.state import StateStore
from detector.train import calibrate, division

if TYPE_CHECKING:
    from detector.core.threshold import Calibration
    from detector.daemon.worker import Worker
    from detector.detect.explain_slot import Answer
    from detector.export.prometheus import Exporter
    from detector.models.artifact import Artifact
    from detector.notify.sender import Sender
    from detector.ports import Model, Notifier
    from detector.progress import Progress
    from detector.replay.recordings import Recording
    from detector.replay.results import Alert, Outcome
    from detector.report.content import Rows
    from detector.sources.embedded import EmbeddedSource
    from detector.store.alerts import AlertRow
    from detector.train.calibrate import Alerted
    from detector.train.fit import Trained
from detector.daemon.collector import HostCollector
from detector.models.fitting import MonitorFit

logger = logging.getLogger(__name__)

_ALL = 1 << 30  # rows
_ALWAYS = 1 << 62  # epoch milliseconds after everything


@dataclass(frozen=True)
class Parts:
    """A configuration and what it needs to run."""

    config: Config
    engine: Engine
    store: StateStore
    sources: dict[str, Source]


def assemble(config: Config, *, upgrade: bool = False) -> Parts:
    """Connects everything; with `upgrade` the schema is brought up to date, else an outdated one is refused."""
    engine = database.connect(loading.secret(config.database))
    if upgrade:
        schema.upgrade(engine)
    else:
        schema.check(engine)
    return Parts(
        config=config,
        engine=engine,
        store=StateStore(engine),
        sources={monitor.name: source(config, monitor, engine) for monitor in config.monitors},
    )


def source(config: Config, monitor: MonitorSection, engine: Engine) -> Source:
    """The source of a monitor."""
    section = monitor.source
    if isinstance(section, configuration.SqlSource):
        from detector.sources.sql import SqlSource, TableSpec

        url = loading.secret(section)
        own = database.connect(url, timeout=section.timeout) if url else engine
        settings = section.model_dump(exclude={"type", "url", "url_file"})
        return SqlSource(own, TableSpec(metrics=monitor.metrics, only_entity=monitor.name, **settings))
    return embedded(monitor, engine)


def embedded(monitor: MonitorSection, engine: Engine) -> EmbeddedSource:
    """The monitor's samples in the detector's own database."""
    from detector.sources.embedded import EmbeddedSource

    return EmbeddedSource(engine, monitor.name, monitor.metrics)


def live_model(engine: Engine, monitor: MonitorSection) -> tuple[ModelVersion, int] | None:
    """The monitor's live model version and when it was made; None if it has none that fits its configuration."""
    version = model_store.live_version(engine, monitor.name)
    if version is None:
        return None
    from detector.models import artifact as artifacts

    try:
        artifact = artifacts.load(model_store.load(engine, version))
        if artifact.provenance["fingerprint"] != monitor.fingerprint:
            msg = f"model version {version} was trained for other settings of monitor {monitor.name!r}"
            raise ArtifactError(msg)
        network = _model(artifact)
    except ArtifactError as exc:
        logger.warning("event=model_refused monitor=%s version=%d reason=%r", monitor.name, version, str(exc))
        return None
    model = ModelVersion(
        version=version,
        kind=artifact.provenance["kind"],
        timesteps=artifact.spec.timesteps,
        trained_from=int(artifact.provenance["trained_from"]),
        trained_until=int(artifact.provenance["trained_until"]),
        network=network,
        entities=artifact.entities,
        scaling=artifact.scaling,
        noise=artifact.noise,
        fleet_noise=artifact.fleet_noise,
        calibration=artifact.calibration,
        rest=artifact.rest,
        drift=artifact.provenance.get("drift"),
        detectability={kind: shares["all"] for kind, shares in artifact.provenance["detectability"].items()},
    )
    return model, int(artifact.provenance["created_at"])


def _model(artifact: Artifact) -> Model:
    """What scores with the weights of an artifact.

    Raises: ArtifactError if they do not fit.
    """
    from detector.models.artifact import NetworkSpec
    from detector.models.baseline import SeasonalBaseline
    from detector.models.inference import Autoencoder

    if isinstance(artifact.spec, NetworkSpec):
        return Autoencoder(artifact.spec, artifact.weights)
    return SeasonalBaseline(artifact.spec, artifact.weights)


def retrain(
    parts: Parts, monitor: MonitorSection, now: int, start: int | None, end: int | None, progress: Progress
) -> tuple[int, dict[str, Any]]:
    """Trains a monitor and makes the new version the live one; its number and provenance. Times: epoch milliseconds.

    Raises: ModelError if there is too little history or another process trains this monitor now.
    """
    from detector.detect import history as reading
    from detector.train import fit as training

    began = time.monotonic()
    with _lease(parts.engine, monitor, now):
        reader = parts.sources[monitor.name]
        first, last = division.span(monitor, reader, now, start, end)
        history = reading.read_history(monitor, reader, first, last, lambda done, what: progress(0.1 * done, what))
        real = calibrate.spans_of(alert for alert in _alerted(parts.engine, monitor) if alert.verdict == "real")
        history = exclusions.without(history, monitor.metrics, parts.store.exclusions(monitor.name), real)
        trained = training.train(
            monitor,
            history,
            MonitorFit(monitor),
            seed=monitor.training.seed,
            progress=lambda done, what: progress(0.1 + 0.9 * done, what),
        )
        facts = trained.provenance | {"seconds": round(time.monotonic() - began, 1)}
        return _save(parts.engine, monitor, trained, facts, now), facts


@contextmanager
def _lease(engine: Engine, monitor: MonitorSection, now: int) -> Iterator[None]:
    """Holds the right to make model versions of a monitor, so that no two processes do at once.

    Raises: ModelError if another process holds it.
    """
    holder, name = f"{socket.gethostname()}:{os.getpid()}", f"retrain:{monitor.name}"
    expires = now + times.milliseconds(monitor.training.timeout)
    if not model_store.acquire_lease(engine, name, holder, now=now, expires_at=expires):
        msg = f"monitor {monitor.name!r} is being trained by another process; wait for it to end"
        raise ModelError(msg)
    try:
        yield
    finally:
        model_store.release_lease(engine, name, holder)


def recalibrate(parts: Parts, monitor: MonitorSection, now: int, progress: Progress) -> tuple[int, float]:
    """Fits the live model's threshold to recent history without alerts; the new version and the drift it found.

    Raises: ModelError if there is no live model, too little history, or another process trains this monitor now.
    """
    with _lease(parts.engine, monitor, now):
        return _recalibrate(parts, monitor, now, progress)


def _recalibrate(parts: Parts, monitor: MonitorSection, now: int, progress: Progress) -> tuple[int, float]:
    from detector.models import artifact as artifacts

    fresh = _fresh_calibration(parts, monitor, now, progress)
    provenance = {
        **fresh.artifact.provenance,
        "recalibrated_from": fresh.trained,
        "recalibrated_at": now,
        "calibrated_from": fresh.start,
        "calibrated_until": fresh.end,
        "drift": round(fresh.drift, 4),
    }
    stored = artifacts.dump(replace(fresh.artifact, calibration=fresh.calibration, provenance=provenance))
    version = model_store.save(parts.engine, monitor=monitor.name, artifact=stored, header=provenance, now=now)
    if fresh.trained != fresh.live.version:
        model_store.delete(parts.engine, fresh.live.version)  # one recalibration of a network is kept, and the network
    return version, fresh.drift


@dataclass(frozen=True)
class _Fresh:
    """A calibration to recent data, of the model version that training made."""

    live: ModelVersion
    trained: int
    artifact: Artifact
    calibration: Calibration
    drift: float
    start: int  # the data it comes from, epoch milliseconds
    end: int


def _fresh_calibration(parts: Parts, monitor: MonitorSection, now: int, progress: Progress) -> _Fresh:
    from detector.detect import history as reading
    from detector.models import artifact as artifacts

    live = live_model(parts.engine, monitor)
    if live is None:
        msg = f"monitor {monitor.name!r} has no live model to recalibrate; run: detector retrain {monitor.name}"
        raise ModelError(msg)
    model, _ = live
    reader = parts.sources[monitor.name]
    history = reading.read_history(
        monitor, reader, *division.recent(monitor, reader, now, model.trained_until), progress
    )
    history = exclusions.without(history, monitor.metrics, parts.store.exclusions(monitor.name), {})
    # always against what training found, or small drifts would add up day by day
    provenance = artifacts.load(model_store.load(parts.engine, model.version)).provenance
    trained = int(provenance.get("recalibrated_from", model.version))
    artifact = artifacts.load(model_store.load(parts.engine, trained))
    trained_model = replace(model, calibration=artifact.calibration)
    alerted = calibrate.not_normal(monitor, history, _alerted(parts.engine, monitor))
    calibration, drift = calibrate.recalibrated(monitor, trained_model, history, alerted)
    return _Fresh(model, trained, artifact, calibration, drift, history.start, history.end)


def _alerted(engine: Engine, monitor: MonitorSection) -> list[Alerted]:
    """All alerts of a monitor."""
    from detector.store import alerts
    from detector.train.calibrate import Alerted

    return [
        Alerted(entity, opened, _ALWAYS if closed is None else closed, peak_score, verdict)
        for entity, opened, closed, peak_score, verdict in alerts.marked(engine, monitor.name)
    ]


@dataclass(frozen=True)
class Reconsidered:
    """What the next recalibration would make of past alerts."""

    judged: list[tuple[int, float]]  # number of an alert, and the peak score it would have
    unjudged: int  # alerts that another model raised, or a rule without a model


_BY_SCORE = {"spike", "drift"}  # parts of an explanation that a calibration decides


def reconsidered(parts: Parts, monitor: MonitorSection, now: int, since: int, progress: Progress) -> Reconsidered:
    """Alerts since a time in epoch milliseconds as the next recalibration would see them.

    Raises: ModelError as `recalibrate`.
    """
    from detector.core import threshold
    from detector.store import alerts

    fresh = _fresh_calibration(parts, monitor, now, progress)
    row_of = {name: row for row, name in enumerate(fresh.live.entities)}
    judged, unjudged = [], 0
    for alert in alerts.listing(parts.engine, monitor=monitor.name, since=since, most=_ALL):
        part = alert.explanation.get("part") or {}
        if alert.state == "withdrawn":
            continue
        if alert.model_version != fresh.live.version or part.get("kind") not in _BY_SCORE:
            unjudged += 1
            continue
        by_span = [np.nan if value is None else value for value in part["scores"].values()]
        scores, row = np.array([[by_span]], dtype=np.float32), np.array([row_of.get(alert.entity, -1)])
        again = threshold.worst(threshold.rescored(scores, row, fresh.live.calibration, fresh.calibration))
        judged.append((alert.id, float(again[0, 0])))
    return Reconsidered(judged, unjudged)


def explain(parts: Parts, monitor: MonitorSection, entity: str, at: int) -> Answer:
    """What the live model makes of an entity at a time in epoch milliseconds.

    Raises: ModelError if there is no model or no data.
    """
    from detector.detect import explain_slot as lookback
    from detector.store import alerts

    live = live_model(parts.engine, monitor)
    if live is None:
        msg = f"monitor {monitor.name!r} has no model yet; see: detector check"
        raise ModelError(msg)
    known = alerts.listing(parts.engine, monitor=monitor.name, entity=entity, until=at + 1, most=100)
    spans = [(row.id, row.opened_slot, row.closed_slot) for row in known if row.state != "withdrawn"]
    excluded = parts.store.exclusions(monitor.name)
    return lookback.look(monitor, parts.sources[monitor.name], live[0], entity, at, excluded=excluded, alerts=spans)


def _save(engine: Engine, monitor: MonitorSection, trained: Trained, facts: dict[str, Any], now: int) -> int:
    from detector.models import artifact as artifacts

    provenance = facts | {"created_at": now, "detector": __version__, "numpy": np.__version__}
    model = trained.model
    artifact = artifacts.Artifact(
        spec=trained.fitted.spec,
        weights=trained.fitted.weights,
        entities=model.entities,
        scaling=model.scaling,
        noise=model.noise,
        fleet_noise=model.fleet_noise,
        calibration=model.calibration,
        rest=np.zeros((0, 0), dtype=np.int64) if model.rest is None else model.rest,
        provenance=provenance,
    )
    return model_store.save(engine, monitor=monitor.name, artifact=artifacts.dump(artifact), header=provenance, now=now)


def backtest(
    recordings: Sequence[Recording], settings: MonitorSection, *, name: str, per_entity: bool, progress: Progress
) -> Outcome:
    """Replays recordings on a database of their own, which does not outlive it; trains in this process."""
    from detector.replay import replay as backtesting
    from detector.sources.memory import MemorySource
    from detector.store import alerts, scores

    with tempfile.TemporaryDirectory(prefix="detector-backtest-") as folder:
        engine = database.connect(f"sqlite:///{folder}/detector.db")
        services = backtesting.Services(
            store=StateStore(engine),
            source=MemorySource.of,
            fit=MonitorFit,
            scores=lambda monitor: scores.by_entity(engine, monitor),
            alerts=lambda monitor: [_alert(row) for row in alerts.listing(engine, monitor=monitor, most=_ALL)],
        )
        try:
            schema.upgrade(engine)
            return backtesting.run(recordings, settings, services, name=name, per_entity=per_entity, progress=progress)
        finally:
            engine.dispose()


def _alert(row: AlertRow) -> Alert:
    from detector.replay.results import Alert

    return Alert(
        entity=row.entity,
        opened=row.opened_slot,
        detected_at=row.detected_at,
        closed=row.closed_slot,
        severity=row.severity,
        peak_score=row.peak_score,
        top_metrics=tuple(metric["metric"] for metric in row.explanation.get("metrics", [])),
    )


def report_rows(parts: Parts, monitor: MonitorSection, *, since: int, now: int, only: AlertRow | None = None) -> Rows:
    """What a report needs of a monitor's alerts that opened since a time or are still open, or of only one of them.

    Times: epoch milliseconds.
    """
    from detector.report import content
    from detector.store import alerts, scores

    engine, name = parts.engine, monitor.name
    if only is None:
        told = alerts.listing(engine, monitor=name, since=since, most=_ALL)
        told += alerts.listing(engine, monitor=name, only_open=True, until=since, most=_ALL)
    else:
        told = [only]
    until = parts.store.cursor(name) or now
    known = [row.created_at for row in model_store.listing(engine, name)] + [row.opened_slot for row in told]
    oldest_score = scores.first_slot(engine, name)
    first = min(known if oldest_score is None else [*known, oldest_score], default=until)
    return content.Rows(
        monitor=monitor,
        alerts=told,
        scores={
            row.id: scores.of_entity(engine, name, row.entity, content.plotted(monitor, row, until))
            for row in told[: content.TOLD]
        },
        exclusions=parts.store.exclusions(name),
        first=min(max(first, since), until),
        until=until,
    )


def notifier(section: configuration.AlertmanagerNotifier | configuration.WebhookNotifier) -> Notifier:
    """Who is told, as configured.

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
    """What tells each notifier of a configuration."""
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
        found.append(Sender(section.name, notifier(section), outbox, monitors, limits))
    return found


def worker(parts: Parts, config_path: Path, exporter: Exporter, clock: Callable[[], float] = time.time) -> Worker:
    """The daemon of a configuration, not yet running; clock in epoch seconds."""
    from detector.daemon.worker import Services, Worker
    from detector.store import alerts, scores

    engine = parts.engine
    collectors = {
        monitor.name: HostCollector(monitor, embedded(monitor, engine))
        for monitor in parts.config.monitors
        if isinstance(monitor.source, configuration.HostSource)
    }
    services = Services(
        store=parts.store,
        sources=parts.sources,
        collectors=dict(collectors),
        live_version=lambda monitor: model_store.live_version(engine, monitor.name),
        live_model=lambda monitor: live_model(engine, monitor),
        prune=lambda monitor, before: scores.prune(engine, monitor, before),
        alert_counts=lambda monitor, since: alerts.counts(engine, monitor, since),
        ping=lambda: database.ping(engine),
        config_path=config_path,
        senders=senders(parts.config, engine),
    )
    return Worker(parts.config, services, exporter, clock)


def serve(config_path: Path, config: Config) -> None:
    """Runs the daemon until it is told to stop; an empty database gets its tables, an outdated one is refused."""
    engine = database.connect(loading.secret(config.database))
    is_empty = schema.current(engine) is None
    engine.dispose()
    from detector.export.prometheus import Exporter

    parts = assemble(config, upgrade=is_empty)
    worker(parts, config_path, Exporter(config.export.max_entities)).run()


def now_ms() -> int:
    """The present, epoch milliseconds; for commands. The daemon has its own clock in `worker`."""
    return int(datetime.now(UTC).timestamp() * 1000)
