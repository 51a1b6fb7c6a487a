"""A counter as exporters give it: `detector check` notices it, and as a rate an ordinary day is quiet (case c14)."""

from __future__ import annotations

import json
import math
import random
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from in_process import detector, ended_in
from running import configure

pytestmark = pytest.mark.slow

BEGIN = datetime(2026, 11, 20, tzinfo=UTC)
ANEW = 2 * 1440 + 360  # the program restarts at 06:00 of the third day


def _monitor(folder: Path, *, stops: int = 3 * 1440, **settings: object) -> Path:
    """A monitor of three ordinary days of a counter and a gauge; stops: minute from which on nothing is counted."""
    rng, total, rows = random.Random(14), 5e6, []
    for minute in range(3 * 1440):
        daily = math.sin(2 * math.pi * minute / 1440)
        counted = max(0.0, rng.gauss(600 + 200 * daily, 30)) if minute < stops else 0.0
        total = (0.0 if minute == ANEW else total) + counted
        at = (BEGIN + timedelta(minutes=minute)).strftime("%Y-%m-%d %H:%M:%S")
        rows.append((at, "web-1", total, 30 + 5 * daily + rng.gauss(0, 1)))
    with closing(sqlite3.connect(folder / "app.db")) as connection:
        connection.execute("CREATE TABLE usage (time TEXT, host TEXT, requests_total REAL, cpu REAL)")
        connection.executemany("INSERT INTO usage VALUES (?, ?, ?, ?)", rows)
        connection.commit()
    source = {"type": "sql", "url": f"sqlite:///{folder}/app.db", "table": "usage", "entity": "host"}
    monitor = {"name": "web", "metrics": ["requests_total", "cpu"], "source": source, "model": {"kind": "baseline"}}
    return configure(folder, monitor | settings)


def _check(config: Path) -> dict[str, object]:
    done = ended_in(config.parent, "check", "--json", "--config", config)
    return next(row for row in json.loads(done.output) if "monitor" in row)


def test_a_raw_counter_is_noticed_with_the_key_to_write(tmp_path: Path) -> None:
    row = _check(_monitor(tmp_path))

    assert row["counters"] == (
        "requests_total looks like a counter, which only grows; to watch rates per second write"
        ' rates = ["requests_total"]'
    )
    (tmp_path / "app.db").unlink()
    assert "counters" not in _check(_monitor(tmp_path, rates=["requests_total"]))


def test_an_ordinary_day_of_a_counter_that_begins_anew_is_quiet(tmp_path: Path) -> None:
    config = _monitor(tmp_path, rates=["requests_total"])
    detector("db", "upgrade", "--config", config)
    detector("retrain", "--to", "2026-11-22T00:00Z", "--config", config)
    for hour in (1, 6, 7, 12, 23):
        detector("score", "web", "--at", f"2026-11-22T{hour:02d}:59Z", "--config", config)

    assert json.loads(detector("alerts", "list", "--json", "--config", config).output) == []


def test_a_counter_that_stands_still_opens_an_alert_that_tells_its_rate(tmp_path: Path) -> None:
    config = _monitor(tmp_path, stops=2 * 1440 + 720, rates=["requests_total"])
    detector("db", "upgrade", "--config", config)
    detector("retrain", "--to", "2026-11-22T00:00Z", "--config", config)
    for hour in (11, 12):
        detector("score", "web", "--at", f"2026-11-22T{hour:02d}:59Z", "--config", config)

    (alert,) = json.loads(detector("alerts", "list", "--json", "--config", config).output)
    assert alert["opened"].startswith("2026-11-22T12:0")
    assert "requests_total 0/s, expected" in detector("alerts", "show", str(alert["id"]), "--config", config).output
