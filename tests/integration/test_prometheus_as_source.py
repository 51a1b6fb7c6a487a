"""A daemon whose source is a Prometheus: it starts, scores, and outlives a server that hangs."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from in_process import detector
from query_servers import SERVERS, Series, process_of
from running import EVERY_SECOND, Daemon, configure, daemon, labelled, until

pytestmark = pytest.mark.slow

MOST_MEGABYTES = 160.0


def _series() -> Iterator[Series]:
    """Two hosts, a sample a second: an hour before now, and ten minutes that are still to come."""
    now = int(time.time())
    for phase, host in enumerate(["web-1", "web-2"]):
        samples = [(1000 * (now + s), math.sin(s / 60 + phase) + math.sin(s * 12.9898) / 10) for s in range(-3600, 600)]
        yield Series("load", samples, {"instance": host})


def _ticks(running: Daemon, outcome: str) -> float:
    return labelled(running.metrics()["detector_job_runs_total"], task="tick", monitor="web", outcome=outcome)


@pytest.mark.parametrize("kind", sorted(SERVERS))
def test_a_daemon_outlives_a_server_that_hangs_and_leaves_no_slot_out(kind: str, tmp_path: Path) -> None:
    with SERVERS[kind](tmp_path, list(_series())) as url:
        source = {"type": "prometheus", "url": url, "entity": "instance", "timeout": "1s"}
        monitor = {**EVERY_SECOND, "name": "web", "metrics": ["load"], "timesteps": 10, "source": source}
        config = configure(tmp_path, {**monitor, "retrain": "off", "model": {"kind": "baseline"}})
        detector("db", "upgrade", "--config", config)
        detector("retrain", "web", "--config", config)

        with daemon(config) as running:
            until(lambda: _ticks(running, "success") >= 2, "two good ticks")
            process_of(url).suspend()
            until(lambda: _ticks(running, "error") >= 2, "two failed ticks")
            assert running.get("/healthz") == (200, "ok\n")
            process_of(url).resume()
            good = _ticks(running, "success")
            until(lambda: _ticks(running, "success") >= good + 3, "three good ticks")
            assert "did not answer: no answer within 1 s" in running.log
            assert "Traceback" not in running.log
            assert running.megabytes("VmHWM") < MOST_MEGABYTES

    with closing(sqlite3.connect(tmp_path / "detector.db")) as connection:
        query = "SELECT slot FROM detector_score WHERE entity = 'web-1' ORDER BY slot"
        slots = [row[0] for row in connection.execute(query)]
    assert len(slots) > 5
    assert slots == list(range(slots[0], slots[-1] + 1, 1000))
