"""Slots without rows through the commands: events that stop, values that are written on change (cases c15, c26)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from in_process import detector
from running import configure, usage_table

DAY = datetime(2026, 11, 20, tzinfo=UTC)  # the first one after four of training
BASELINE = {"kind": "baseline"}
Row = tuple[int, str, float]


def _at(minute: int) -> str:
    return f"{DAY + timedelta(minutes=minute):%Y-%m-%dT%H:%M:%SZ}"


def _scored(folder: Path, rows: Iterable[Row], settings: dict[str, object], *ticks: int) -> list[dict[str, object]]:
    """Trains on four days and ticks after so many minutes of the fifth; the alerts there are then."""
    source = folder / "source.db"
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("CREATE TABLE usage (time INTEGER, host TEXT, amount REAL)")
        connection.executemany("INSERT INTO usage VALUES (?, ?, ?)", rows)
        connection.commit()
    monitor = {"name": "shop", "metrics": ["amount"], "source": usage_table(source), "model": BASELINE, **settings}
    config = configure(folder, monitor)
    detector("db", "upgrade", "--config", config)
    detector("retrain", "--to", _at(0), "--config", config)
    for minute in ticks:
        detector("score", "shop", "--at", _at(minute), "--config", config)
    found: list[dict[str, object]] = json.loads(detector("alerts", "list", "--json", "--config", config).output)
    return found


def _slots_scored(folder: Path, first: int, last: int) -> int:
    begin = int(DAY.timestamp()) * 1000
    with closing(sqlite3.connect(folder / "detector.db")) as connection:
        query = "SELECT count(*) FROM detector_score WHERE entity = 'shop-1' AND slot >= ? AND slot < ?"
        return int(connection.execute(query, (begin + first * 60_000, begin + last * 60_000)).fetchone()[0])


@pytest.mark.slow
@pytest.mark.parametrize("aggregate", ["count", "sum"])
def test_minutes_without_an_event_are_judged_and_a_stop_of_events_opens_an_alert(
    aggregate: str, tmp_path: Path
) -> None:
    rng, begin = np.random.default_rng(15), int(DAY.timestamp())
    minutes = range(-4 * 1_440, 780)  # events stop at 13:00
    rates = [20 if 8 <= minute // 60 % 24 < 22 else 1 for minute in minutes]
    events = zip(minutes, rng.poisson(rates).tolist(), strict=True)
    rows = [(begin + 60 * minute + k, "shop-1", 2.0) for minute, count in events for k in range(count)]

    alerts = _scored(tmp_path, rows, {"aggregate": aggregate}, 480, 779, 840)

    assert _slots_scored(tmp_path, 0, 480) == 480
    assert _slots_scored(tmp_path, 780, 839) == 59
    assert [(alert["entity"], alert["opened"] >= _at(780)) for alert in alerts] == [("shop-1", True)]  # type: ignore[operator]


@pytest.mark.slow
def test_a_fault_is_found_in_values_that_are_written_when_they_change(tmp_path: Path) -> None:
    begin, rows, last = int(DAY.timestamp()), list[Row](), (0.0, -10_000)
    for minute in range(-4 * 1_440, 1_000):
        value = 95.0 if minute >= 600 else round(20 + 3 * np.sin(minute / 1_440 * 2 * np.pi))
        if value != last[0] or minute - last[1] >= 30:  # and every half hour
            rows.append((begin + 60 * minute, "shop-1", value))
            last = (value, minute)

    (alert,) = _scored(tmp_path, rows, {"fill": "last"}, 590, 620, 1_000)

    assert len(rows) < 300  # of 6,760 minutes
    assert _slots_scored(tmp_path, 0, 999) == 999
    assert (alert["opened"], alert["severity"], alert["state"]) == (_at(600), "critical", "open")
