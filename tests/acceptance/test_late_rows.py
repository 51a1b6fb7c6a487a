"""Rows that come late, with a command for each tick: judged as if they had come in time (cases c39, c42)."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from in_process import detector, ended_in
from running import configure, usage_table

DAY = datetime(2026, 11, 20, tzinfo=UTC)
BASELINE = {"kind": "baseline"}


def _at(day: int, minute: int) -> str:
    return f"{DAY + timedelta(days=day, minutes=minute):%Y-%m-%dT%H:%M:%SZ}"


def _scored(database: Path, since: str, until: str) -> int:
    first, last = (int(datetime.fromisoformat(text).timestamp() * 1000) for text in (since, until))
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT count(*) FROM detector_score WHERE slot >= ? AND slot < ?"
        return int(connection.execute(query, (first, last)).fetchone()[0])


# -- a file every morning ---------------------------------------------------------------------------------------------


def _write_day(path: Path, day: int, *, fault: bool = False) -> None:
    """Five-minute readings of a day; a faulty one has nine times the usual from ten to three."""
    rng = np.random.default_rng(day + 10)
    with path.open("w") as file:
        file.write("timestamp,entity,kwh,volt\n")
        for minute in range(0, 1_440, 5):
            kwh = (9 if fault and 600 <= minute < 900 else 1) + rng.normal(0, 0.1)
            file.write(f"{_at(day, minute)},meter-1,{kwh:.3f},{230 + rng.normal():.2f}\n")


@pytest.fixture
def meters(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A monitor whose rows of a day come with the next morning's file, after a night without any."""
    monitor = {"name": "meters", "metrics": ["kwh", "volt"], "step": "5m", "lateness": request.param}
    config = configure(tmp_path, {**monitor, "model": BASELINE})
    for day in range(-4, 1):
        _write_day(tmp_path / f"day{day}.csv", day, fault=day == 0)
        if day < 0:
            detector("import", tmp_path / f"day{day}.csv", "--monitor", "meters", "--config", config)
    detector("retrain", "--to", _at(0, 0), "--config", config)
    for minute in (5, 720, 1_795):
        detector("score", "meters", "--at", _at(0, minute), "--config", config)
    return config


def _import_last_day(config: Path) -> str:
    file = config.parent / "day0.csv"
    return detector("import", file, "--monitor", "meters", "--config", config).errors


@pytest.mark.slow
@pytest.mark.parametrize("meters", ["36h"], indirect=True)
def test_a_day_that_comes_within_lateness_is_judged_whole(meters: Path) -> None:
    assert "too late" not in _import_last_day(meters)
    detector("score", "meters", "--at", _at(0, 1_800), "--config", meters)

    assert _scored(meters.parent / "detector.db", _at(0, 0), _at(1, 0)) == 288
    (alert,) = json.loads(detector("alerts", "list", "--json", "--config", meters).output)
    assert (alert["opened"], alert["severity"], alert["top_metrics"]) == (_at(0, 600), "critical", ["kwh"])


@pytest.mark.slow
@pytest.mark.parametrize("meters", ["5m"], indirect=True)
def test_a_day_that_comes_too_late_is_told_with_the_command_that_judges_it(meters: Path) -> None:
    told = _import_last_day(meters)

    assert "576 samples came too late for monitor 'meters'" in told  # 288 rows of two metrics
    command = f"detector db rewind meters --to {_at(0, 0)}"
    assert command in told

    refused = ended_in(meters.parent, "db", "rewind", "meters", "--to", _at(-9, 0), "--config", meters)
    assert (refused.status, "raise max_catch_up first" in refused.errors) == (2, True)

    detector(*command.split()[1:], "--config", meters)
    detector("score", "meters", "--at", _at(0, 1_800), "--config", meters)

    assert _scored(meters.parent / "detector.db", _at(0, 0), _at(1, 0)) == 288
    (alert,) = json.loads(detector("alerts", "list", "--json", "--config", meters).output)
    assert (alert["opened"], alert["severity"]) == (_at(0, 600), "critical")


# -- rows two minutes late --------------------------------------------------------------------------------------------


def _arrive(database: Path, until: datetime) -> None:
    """Lets the rows be seen that have arrived: each comes two and a half minutes after its time."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE clock SET now = ?", (int(until.timestamp()) - 150,))
        connection.commit()


@pytest.mark.slow
def test_score_from_cron_judges_rows_that_come_two_minutes_late(tmp_path: Path) -> None:
    database, fault = tmp_path / "source.db", 1_440 + 20
    rng = np.random.default_rng(42)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE rows (time INTEGER, host TEXT, cpu REAL)")
        begin = int(DAY.timestamp())
        values = [(begin + 60 * i, "web", (95 if i >= fault else 30) + rng.normal()) for i in range(1_500)]
        connection.executemany("INSERT INTO rows VALUES (?, ?, ?)", values)
        connection.execute("CREATE TABLE clock (now INTEGER)")
        connection.execute("INSERT INTO clock VALUES (0)")
        connection.execute("CREATE VIEW usage AS SELECT * FROM rows WHERE time <= (SELECT now FROM clock)")
        connection.commit()
    _arrive(database, DAY + timedelta(days=1))
    config = configure(
        tmp_path, {"name": "web", "metrics": ["cpu"], "source": usage_table(database), "model": BASELINE}
    )
    detector("db", "upgrade", "--config", config)
    detector("retrain", "--to", _at(0, 1_430), "--config", config)

    for minute in range(1, 42, 2):  # every other minute a command of its own
        now = DAY + timedelta(days=1, minutes=minute, seconds=20)
        _arrive(database, now)
        detector("score", "web", "--at", f"{now:%Y-%m-%dT%H:%M:%SZ}", "--config", config)

    assert _scored(tmp_path / "detector.db", _at(1, 5), _at(1, 35)) == 30
    (alert,) = json.loads(detector("alerts", "list", "--json", "--config", config).output)
    assert (alert["opened"], alert["severity"], alert["state"]) == (_at(1, 20), "critical", "open")
