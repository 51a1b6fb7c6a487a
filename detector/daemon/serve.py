"""Start of the daemon: its parts from a configuration."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from detector import database, times, wiring
from detector.config import loading
from detector.config import sections as configuration
from detector.config.sections import Config
from detector.daemon.collector import HostCollector
from detector.daemon.tasks import Services
from detector.daemon.worker import Worker
from detector.detect.horizon import Horizon
from detector.export.prometheus import Exporter
from detector.store import alerts, judged, schema, scores
from detector.store.state import StateStore
from detector.web import app
from detector.web.access import Access
from detector.web.live import Daemon
from detector.web.reader import Reader
from detector.web.server import Endpoint
from detector.wiring import Parts

logger = logging.getLogger(__name__)

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def serve(config_path: Path, config: Config) -> None:
    """Runs the daemon until a signal stops it; an empty database gets its tables, an outdated one is refused."""
    engine = database.connect(loading.secret(config.database))
    is_empty = schema.current(engine) is None
    engine.dispose()
    parts = wiring.assemble(config, upgrade=is_empty)
    daemon = worker(parts, config_path, Exporter(config.export.max_entities))
    daemon.run()
    if daemon.begins_anew:
        # this very process: its number, its standing with systemd and its credentials stay
        os.execv(sys.executable, [sys.executable, "-m", "detector", *sys.argv[1:]])  # noqa: S606 - itself


def check_config(path: Path) -> None:
    """Reads a configuration and the secrets it names. Raises: ConfigError if something is wrong or missing."""
    config = loading.load(path)
    Access(loading.web_config(config.export))
    for section in (config.database, *config.notifiers):
        loading.secret(section)
    for monitor in config.monitors:
        if isinstance(monitor.source, configuration.SqlSource | configuration.PrometheusSource):
            loading.secret(monitor.source)


def _prune(parts: Parts, monitor: str, before: int) -> int:
    """Removes some scores, and ranges of the record that nothing is compared with any more; how many."""
    look_back = Horizon.of(parts.config.monitor(monitor)).look_back
    return scores.prune(parts.engine, monitor, before) + judged.prune(parts.engine, monitor, before - look_back)


def serving(parts: Parts, exporter: Exporter, daemon: Daemon, problem: Callable[[], str | None]) -> Endpoint:
    """What serves pages, API and metrics of a daemon, bound but not answering yet.

    problem: why the daemon does not do its work, None if it does

    Raises: DetectorError if the address is taken; ConfigError if the web configuration is wrong.
    """
    config = parts.config
    access = Access(loading.web_config(config.export))
    if not access.is_read_only and not access.is_tls and config.export.address[0] not in _LOOPBACK:
        logger.warning("event=passwords_in_clear listen=%s; add tls_server_config", config.export.listen)
    engine = database.connect(loading.secret(config.database))  # its own: nobody's tick waits for a page
    versions = {monitor.name: wiring.StoredVersions(engine, monitor) for monitor in config.monitors}
    own = replace(parts, engine=engine, store=StateStore(engine), versions=versions)
    reader = Reader(
        config=config,
        engine=engine,
        store=own.store,
        daemon=daemon,
        problem=problem,
        zone=config.display.timezone or times.local_zone(),
        sight=lambda monitor, version: wiring.sight(own, monitor, version),
    )
    return Endpoint(config.export.address, app.create(exporter.registry, reader, access), access)


def worker(parts: Parts, config_path: Path, exporter: Exporter, *, clock: Callable[[], float] = time.time) -> Worker:
    """The daemon of a configuration, not yet running. clock: epoch seconds."""
    engine = parts.engine
    collectors = {
        monitor.name: HostCollector(monitor, wiring.embedded(monitor, engine))
        for monitor in parts.config.monitors
        if isinstance(monitor.source, configuration.HostSource)
    }
    services = Services(
        store=parts.store,
        sources=parts.sources,
        versions=parts.versions,
        collectors=collectors,
        prune=lambda monitor, before: _prune(parts, monitor, before),
        alert_counts=lambda monitor, since: alerts.counts(engine, monitor, since),
        ping=lambda: database.ping(engine),
        config_path=config_path,
        check_config=lambda: check_config(config_path),
        endpoint=lambda daemon, problem: serving(parts, exporter, daemon, problem),
        senders=wiring.senders(parts.config, engine),
    )
    return Worker(parts.config, services, exporter, clock=clock)
