"""Old scores go: when the daemon's task runs, and when an operator asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from migrated import migrate
from running import configure, detector
from sqlalchemy import Engine, insert, select

from detector import database, wiring
from detector.commands.shared import now_ms
from detector.config import loading
from detector.daemon import serve
from detector.export.prometheus import Exporter
from detector.tables import score

pytestmark = pytest.mark.slow

DAY = 86_400_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    short = {"name": "short", "metrics": ["cpu"], "keep_scores": "2d"}
    return configure(tmp_path, short, {"name": "long", "metrics": ["cpu"]})


@pytest.fixture
def engine(tmp_path: Path, path: Path) -> Iterator[Engine]:
    """A database with a score of every monitor and day for forty days."""
    engine = database.connect(f"sqlite:///{tmp_path}/detector.db")
    migrate(engine)
    now = now_ms()
    rows = [
        {"monitor": monitor, "slot": now - day * DAY - DAY // 2, "entity": "a", "score": 0.5, "model_version": 1}
        for monitor in ("short", "long")
        for day in range(40)
    ]
    with engine.begin() as connection:
        connection.execute(insert(score), rows)
    yield engine
    engine.dispose()


def _left(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        monitors = [row.monitor for row in connection.execute(select(score.c.monitor))]
    return {name: monitors.count(name) for name in ("short", "long")}


def test_the_operator_removes_the_scores_that_are_no_longer_kept(path: Path, engine: Engine) -> None:
    done = detector("db", "prune", "--config", path)

    removed = [line.split(" from before ")[0] for line in done.output.splitlines()]
    assert removed == ["short: 38 scores", "long: 10 scores"]
    assert _left(engine) == {"short": 2, "long": 30}


def test_the_daemon_removes_the_scores_that_are_no_longer_kept(path: Path, engine: Engine) -> None:
    settings = loading.load(path)
    worker = serve.worker(wiring.assemble(settings), path, Exporter(10))

    worker.run_task("prune", "short")

    assert _left(engine) == {"short": 2, "long": 40}
