"""`detector replay`: stored history judged again, as the daemon judged it, and nothing stored."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import detector, ended_in
from running import configure, usage_table
from sqlalchemy import select

from detector import wiring
from detector.config import loading
from detector.progress import silent
from detector.tables import score

pytestmark = pytest.mark.slow

BEGIN = datetime(2026, 11, 20, tzinfo=UTC)
STEP = 300  # seconds
SLOTS_A_DAY = 288
FAULTS = {"web-1": (2 * SLOTS_A_DAY + 60, 8.0), "web-2": (2 * SLOTS_A_DAY + 200, 30.0)}  # first slot, height
HOSTS = ("web-1", "web-2", "web-3")
COMPARED = ("entity", "severity", "opened", "detected", "closed", "peak_score", "top_metrics")


def _at(slot: int) -> str:
    return f"{BEGIN + timedelta(seconds=STEP * slot):%Y-%m-%dT%H:%M:%SZ}"


def _write_source(file: Path) -> None:
    """Three days of three hosts with two faults on the last; one host has a hole."""
    rng, begin = np.random.default_rng(3), int(BEGIN.timestamp())
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(
            "CREATE TABLE usage (time INTEGER, host TEXT, load REAL, errors REAL, PRIMARY KEY (time, host))"
        )
        for slot in range(3 * SLOTS_A_DAY):
            for host in HOSTS:
                load, errors = 50 + rng.normal(0, 1), 5 + rng.normal(0, 0.5)
                first, height = FAULTS.get(host, (1 << 30, 0.0))
                load += height if first <= slot < first + 12 else 0.0
                if host == "web-3" and slot % 100 == 0:
                    continue
                row = (begin + STEP * slot, host, load, errors)
                connection.execute("INSERT INTO usage VALUES (?, ?, ?, ?)", row)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days were trained on, the third was scored by four ticks."""
    folder = tmp_path_factory.mktemp("replay")
    _write_source(folder / "usage.db")
    monitor = {"name": "web", "metrics": ["load", "errors"], "step": "5m", "retrain": "off", "delay": "0s"}
    source = usage_table(folder / "usage.db")
    path = configure(folder, {**monitor, "model": {"kind": "baseline"}, "source": source})
    detector("db", "upgrade", "--config", path)
    detector("retrain", "--to", _at(2 * SLOTS_A_DAY), "--config", path)
    for slot in (2 * SLOTS_A_DAY + 64, 2 * SLOTS_A_DAY + 65, 2 * SLOTS_A_DAY + 210, 3 * SLOTS_A_DAY):
        detector("score", "--at", _at(slot), "--config", path)
    return path


def _replay(config: Path, *words: str, start: int = 2 * SLOTS_A_DAY) -> dict[str, Any]:
    arguments = ("--from", _at(start), "--to", _at(3 * SLOTS_A_DAY), "--json", "--config", config)
    return dict(json.loads(detector("replay", "web", *words, *arguments).output))


def _stored(config: Path) -> list[dict[str, Any]]:
    return list(json.loads(detector("alerts", "list", "--json", "--config", config).output))


def _compared(alerts: list[dict[str, Any]]) -> list[list[Any]]:
    return [[alert[name] for name in COMPARED] for alert in alerts]


def test_a_replay_finds_the_alerts_that_the_daemons_ticks_stored(config: Path) -> None:
    replayed = _replay(config)

    (budget,) = replayed["budgets"]
    assert {alert["entity"] for alert in budget["found"]} >= {"web-2"}
    assert _compared(budget["found"]) == _compared(_stored(config))
    assert budget["alerts"] == replayed["stored_alerts"] == len(_stored(config))
    # web-3 has no row in slots 600, 700 and 800 of 576 to 864
    assert replayed["entities"] == 3
    assert replayed["judged_share"] == pytest.approx((3 * SLOTS_A_DAY - 3) / (3 * SLOTS_A_DAY), abs=1e-4)


def test_a_replay_of_the_end_knows_what_entities_had_shown_before_it(config: Path) -> None:
    start = FAULTS["web-2"][0] - 6

    (budget,) = _replay(config, start=start)["budgets"]

    later = [alert for alert in _stored(config) if alert["opened"] >= _at(start)]
    assert later
    assert _compared(budget["found"]) == _compared(later)


def test_a_replay_gives_the_stored_scores(config: Path) -> None:
    parts = wiring.assemble(loading.load(config))
    section, version = parts.config.monitor("web"), parts.versions["web"].live()
    assert version is not None
    begin = int(BEGIN.timestamp() * 1000)
    first, end = (begin + 1000 * STEP * slot for slot in (2 * SLOTS_A_DAY, 3 * SLOTS_A_DAY))

    history, _ = wiring.replayed(parts, section, version, start=first, end=end, progress=silent)

    slots = range(first, end, 1000 * STEP)
    with parts.engine.connect() as connection:
        rows = connection.execute(select(score.c.entity, score.c.slot, score.c.score)).all()
    parts.engine.dispose()
    stored = {host: np.full(len(slots), np.nan) for host in HOSTS}
    for host, slot, value in rows:
        stored[host][slots.index(slot)] = value
    assert len(rows) == 3 * SLOTS_A_DAY - 3
    for host in HOSTS:
        np.testing.assert_allclose(history.scores(host, slots), stored[host], atol=1e-6)


def test_a_larger_budget_finds_what_a_smaller_one_finds_and_more(config: Path) -> None:
    budgets = _replay(config, "--budget", "0.01,1", "--budget", "200")["budgets"]

    assert [budget["budget_per_week"] for budget in budgets] == [0.01, 1, 200]
    assert [budget["budget_in_this_time"] for budget in budgets] == [0.0, 0.14, 28.57]  # a day of seven
    counts = [budget["alerts"] for budget in budgets]
    assert counts == sorted(counts)
    assert counts[0] < counts[2]


def test_a_replay_leaves_source_and_database_as_they_are(config: Path) -> None:
    files = [config.parent / name for name in ("usage.db", "detector.db")]
    before = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]

    detector("replay", "web", "--from", _at(0), "--to", _at(3 * SLOTS_A_DAY), "--budget", "5", "--config", config)

    assert [hashlib.sha256(file.read_bytes()).hexdigest() for file in files] == before


def test_a_replay_can_be_read_as_a_report(config: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"

    (budget,) = _replay(config, "--budget", "3", "--report", str(page))["budgets"]

    written = page.read_text()
    assert budget["alerts"] > 0
    assert written.count('<article id="alert-') == budget["alerts"]
    assert "web-2" in written
    assert "<title>Replay of web by model version 1: what 3 a week would have alerted" in written


def test_what_the_model_has_learned_from_is_told(config: Path) -> None:
    done = detector("replay", "web", "--from", _at(0), "--to", _at(3 * SLOTS_A_DAY), "--config", config)

    assert f"has learned from data up to {_at(2 * SLOTS_A_DAY)}" in done.errors
    assert "stored of this time: " in done.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("--budget", "0"),
            "--budget must be a number of alerts a week above 0, or several such as 1,5,20. Received: '0'",
        ),
        (("--budget", "1,x"), "Received: 'x'"),
        (("--budget", "1,2", "--report", "r.html"), "--report is of one budget"),
        (("--from", "2026-11-21", "--to", "2026-11-20"), "--from must be at least a slot before --to"),
        (("--to", "2099-01-01"), "--to must not be later than now"),
        (("--model", "77"), "no model version 77"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_a_line(config: Path, words: tuple[str, ...], told: str) -> None:
    done = ended_in(config.parent, "replay", "web", *words, "--config", config)

    assert done.status in {1, 2}
    assert told in done.errors
    assert done.errors.count("\n") == 1


def test_a_time_without_rows_is_no_time_without_alerts(config: Path) -> None:
    done = ended_in(config.parent, "replay", "web", "--from", "2026-11-25", "--to", "2026-11-26", "--config", config)

    assert done.status == 1
    assert "could be judged; see: detector check" in done.errors
