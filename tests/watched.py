"""A small fleet that was watched for hours: a real worker over a real database, under a clock of its own."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt
import numpy as np
from running import configure

from detector import wiring
from detector.config import loading
from detector.daemon import serve
from detector.daemon.worker import Worker
from detector.export.prometheus import Exporter
from detector.progress import silent
from detector.train import versions
from detector.train.versions import Span
from detector.web.server import Endpoint
from detector.wiring import Parts

STEP = 60_000
T0 = 1_767_261_600_000  # 2026-01-01 10:00 UTC
TRAINED, WATCHED = 480, 40  # slots
FAULT = TRAINED + 25  # slot from which web-01 is far off

STRANGE = ("<script>alert(1)</script>", 'a/b "c"\nd?&=#', "\u202eשלום")
"""Names that a page, a link or a log could be made to misread."""
ENTITIES = ("web-01", "web-02", *STRANGE)
METRICS = ("cpu_percent", "latency_ms")


@dataclass
class Clock:
    """A clock that is set, epoch seconds."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Fleet:
    """The parts of a daemon that has watched a fault."""

    parts: Parts
    worker: Worker
    exporter: Exporter
    clock: Clock
    config: Path

    @contextmanager
    def endpoint(self, problem: Callable[[], str | None] = lambda: None) -> Iterator[Site]:
        """Its endpoint, answering."""
        found = serve.serving(self.parts, self.exporter, self.worker, problem)
        found.start()
        try:
            yield Site(found)
        finally:
            found.stop()


@dataclass(frozen=True)
class Site:
    """An endpoint seen from outside."""

    endpoint: Endpoint

    def ask(
        self, path: str, method: str = "GET", *, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request and its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.endpoint.port, timeout=60)
        try:
            sent = None if body is None else json.dumps(body)
            kind = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, body=sent, headers={**kind, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        """What the API answers, which must be good."""
        found = self.ask(f"/api/v1{path}")
        assert found.status == 200, found.body
        return json.loads(found.body)


@dataclass(frozen=True)
class Answer:
    """The answer to a request."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body."""
        return self.body.decode()


ANA = {"Authorization": f"Basic {base64.b64encode(b'ana:right').decode()}"}


@dataclass(frozen=True)
class Acting:
    """A fleet whose alerts can be answered."""

    fleet: Fleet
    site: Site

    def ask(self, path: str, method: str = "GET", *, body: object = None, **headers: str) -> Answer:
        """A request of ana's."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.site.ask(path, method, body=body, headers=ANA | named)

    def act(self, path: str, method: str = "POST", *, body: object = None) -> Answer:
        """A request of ana's that changes something."""
        return self.ask(f"/api/v1{path}", method, body=body, X_Detector_Request="test")


def fleet(folder: Path) -> Fleet:
    """A fleet in a folder, trained on a baseline, watched until its fault is an open alert."""
    path = _configured(folder)
    config = loading.load(path)
    parts = wiring.assemble(config, upgrade=True)
    section = config.monitors[0]
    entities, metrics, times, values = zip(*samples(), strict=True)
    wiring.embedded(section, parts.engine).write(entities, metrics, time=times, value=values)
    trained = T0 + TRAINED * STEP
    made = wiring.training_inputs(parts, section)
    versions.retrain(made, now=trained, span=Span(end=trained), progress=silent)
    exporter, clock = Exporter(config.export.max_entities), Clock()
    worker = serve.worker(parts, path, exporter, clock=clock)
    for slot in range(TRAINED + 1, TRAINED + WATCHED + 1):
        clock.now = (T0 + slot * STEP) / 1000
        worker.run_task("tick", "web")
    return Fleet(parts, worker, exporter, clock, path)


def young(folder: Path, slots: int) -> Fleet:
    """A fleet with so many slots of history, too few to train on, after its first tick."""
    path = configure(folder, {"name": "web", "metrics": METRICS, "delay": "0s", "lateness": "0s"})
    config = loading.load(path)
    parts = wiring.assemble(config, upgrade=True)
    rows = [row for row in samples() if row[2] < T0 + slots * STEP]
    if rows:
        entities, metrics, times, values = zip(*rows, strict=True)
        wiring.embedded(config.monitors[0], parts.engine).write(entities, metrics, time=times, value=values)
    exporter, clock = Exporter(config.export.max_entities), Clock((T0 + slots * STEP) / 1000)
    worker = serve.worker(parts, path, exporter, clock=clock)
    worker.run_task("tick", "web")
    return Fleet(parts, worker, exporter, clock, path)


@contextmanager
def acting(fleet: Fleet, folder: Path, excluded: str = "") -> Iterator[Acting]:
    """The same fleet, not ticked yet, in another folder and with a user: ana. excluded: a path that needs none"""
    hashed = bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()
    (folder / "web.yml").write_text(f"basic_auth_users:\n  ana: {hashed}\nauth_excluded_paths: ['{excluded}']\n")
    mine = _copied(fleet, folder, str(folder / "web.yml"))
    with mine.endpoint() as found:
        yield Acting(mine, found)


def _copied(fleet: Fleet, folder: Path, web_config: str) -> Fleet:
    with sqlite3.connect(fleet.config.with_name("detector.db")) as old, sqlite3.connect(folder / "detector.db") as new:
        old.backup(new)
    path = _configured(folder)
    path.write_text(path.read_text().replace("export = {", f'export = {{web_config = "{web_config}", '))
    parts, exporter = wiring.assemble(loading.load(path)), Exporter(10)
    worker = serve.worker(parts, path, exporter, clock=fleet.clock)
    return Fleet(parts, worker, exporter, fleet.clock, path)


def _configured(folder: Path) -> Path:
    quick = {"delay": "0s", "lateness": "0s", "retrain": "off", "model": {"kind": "baseline"}}
    return configure(folder, {"name": "web", "metrics": METRICS, **quick})


def samples() -> list[tuple[str, str, int, float]]:
    """Entity, metric, time and value of every sample."""
    rng = np.random.default_rng(7)
    found = []
    for entity in ENTITIES:
        for metric, level in zip(METRICS, (30.0, 120.0), strict=True):
            values = level + level / 20 * rng.standard_normal(TRAINED + WATCHED)
            if entity == "web-01":
                values[FAULT:] *= 3.0
            found += [(entity, metric, T0 + slot * STEP, value) for slot, value in enumerate(values.tolist())]
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def in_threads(count: int, work: Callable[[], object]) -> None:
    """Does the same work in so many threads at once."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
