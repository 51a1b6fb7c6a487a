"""The night in which clocks are set back, for a monitor of local times: nothing falls silent, faults are found."""

from __future__ import annotations

import math
import random
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from detector import wiring
from detector.config.sections import Config
from detector.detect import tick
from detector.detect.horizon import Horizon
from detector.detect.memory import Memory
from detector.detect.recall import recall, stored_state
from detector.progress import silent
from detector.store import alerts
from detector.train import versions
from detector.train.versions import Span
from detector.wiring import Parts

pytestmark = pytest.mark.slow

MINUTE = 60_000
MIDNIGHT = 1_792_886_400_000  # 2026-10-25T00:00:00Z: 02:00 in Berlin for the first time, an hour later for the second
BERLIN = ZoneInfo("Europe/Berlin")
FAULT = range(80, 110)  # minutes since midnight: in the second time around
TICKS = (-10, 30, 50, 65, 80, 95, 110, 130, 190)

Written = tuple[str, str, float, float]
"""Time, host, cpu and mem as the logger writes them."""


def _written(minutes: Iterable[int]) -> list[Written]:
    """Rows of five hosts, every minute of real time; cpu is a slow wave, and high in the fault of web-0."""
    rows = []
    for minute in minutes:
        chance = random.Random(minute)
        local = datetime.fromtimestamp(MIDNIGHT / 1000 + 60 * minute, UTC).astimezone(BERLIN)
        for host in range(5):
            cpu = 95.0 if minute in FAULT and host == 0 else 30 + 10 * math.sin(minute / 60 + host)
            noise = chance.gauss(0, 1), chance.gauss(0, 1)
            rows.append((f"{local:%F %T}", f"web-{host}", cpu + noise[0], 50 + noise[1]))
    return rows


class Night:
    """A logger's table that grows, and a monitor that reads it."""

    def __init__(self, folder: Path, table: str) -> None:
        self._file = folder / "app.db"
        self._until = -2 * 24 * 60
        with closing(sqlite3.connect(self._file)) as connection:
            connection.execute(table)
        source = {"type": "sql", "url": f"sqlite:///{self._file}", "table": "samples", "entity": "host"}
        monitor = {
            "name": "web",
            "metrics": ["cpu", "mem"],
            "no_data_alert_after": "10m",
            "time_zone": "Europe/Berlin",
            "source": {**source, "time_zone": "Europe/Berlin"},
            "model": {"kind": "baseline"},
        }
        url = f"sqlite:///{folder}/detector.db"
        self.config = Config.model_validate({"database": {"url": url}, "monitors": [monitor]})
        self.parts: Parts = wiring.assemble(self.config, upgrade=True)
        self.grow(-5 * 60)
        inputs = wiring.training_inputs(self.parts, self.config.monitors[0])
        versions.retrain(inputs, now=MIDNIGHT - 5 * 60 * MINUTE, span=Span(), progress=silent)
        self._memory: Memory | None = None

    def grow(self, until: int) -> None:
        """Writes what is logged up to a minute."""
        with closing(sqlite3.connect(self._file)) as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO samples (time, host, cpu, mem) VALUES (?, ?, ?, ?)",
                _written(range(self._until, until)),
            )
            connection.commit()
        self._until = until

    def tick(self, minute: int, *, restarted: bool) -> dict[str, int]:
        """One tick at a minute; how many entities are of which reason. restarted: by a process that has just begun"""
        section, now = self.config.monitors[0], MIDNIGHT + minute * MINUTE
        horizon, source, store = Horizon.of(section), self.parts.sources["web"], self.parts.store
        if self._memory is None or restarted:
            model = self.parts.versions["web"].live()
            assert model is not None
            self._memory = recall(
                horizon, source, model, stored=stored_state(horizon, store, version=model.version), now=now
            )
        self._memory, report = tick.tick(tick.Monitor(horizon, source, store), self._memory, now)
        reasons = report.snapshot.reason.tolist()
        return {"known": reasons.count(0), "unknown": len(reasons) - reasons.count(0)}

    def alerts(self) -> list[tuple[str, int, str]]:
        """Entity, minute in which it opened and top metric of each alert."""
        found = alerts.listing(self.parts.engine)
        return [
            (
                alert.entity,
                (alert.episode.opened_slot - MIDNIGHT) // MINUTE,
                next((metric["metric"] for metric in alert.explanation.get("metrics", [])), "none"),
            )
            for alert in found
        ]


NUMBERED = "CREATE TABLE samples (id INTEGER PRIMARY KEY, time TEXT, host TEXT, cpu REAL, mem REAL)"
ONE_ROW_A_TIME = (
    "CREATE TABLE samples (time TEXT, host TEXT, cpu REAL, mem REAL, PRIMARY KEY (host, time)) WITHOUT ROWID"
)


def _through_the_night(night: Night, *, restarted: bool) -> list[dict[str, int]]:
    """What a tick at each of the times sees."""
    seen = []
    for minute in TICKS:
        night.grow(minute)
        seen.append(night.tick(minute, restarted=restarted))
    return seen


@pytest.mark.parametrize("restarted", [False, True], ids=["undisturbed", "restarted"])
def test_the_fault_in_the_second_time_around_is_the_only_alert(tmp_path: Path, restarted: bool) -> None:  # c06
    night = Night(tmp_path, NUMBERED)

    assert _through_the_night(night, restarted=restarted) == [{"known": 5, "unknown": 0}] * len(TICKS)
    assert night.alerts() == [("web-0", FAULT[0], "cpu")]
    night.parts.engine.dispose()


@pytest.mark.parametrize("restarted", [False, True], ids=["undisturbed", "restarted"])
def test_a_table_that_writes_over_the_first_time_around_raises_no_storm(tmp_path: Path, restarted: bool) -> None:
    night = Night(tmp_path, ONE_ROW_A_TIME)

    assert _through_the_night(night, restarted=restarted) == [{"known": 5, "unknown": 0}] * len(TICKS)
    ((entity, opened, metric),) = night.alerts()
    assert (entity, metric) == ("web-0", "cpu")
    # after a restart only what is left of the hour before is known, and its rows stand in both hours: not all is news
    assert FAULT[0] - 10 < opened <= FAULT[0] + (10 if restarted else 0)
    night.parts.engine.dispose()


def test_a_catch_up_over_the_night_finds_the_same(tmp_path: Path) -> None:
    night = Night(tmp_path, NUMBERED)
    night.grow(TICKS[0])
    night.tick(TICKS[0], restarted=True)

    night.grow(TICKS[-1])
    night.tick(TICKS[-1], restarted=True)

    assert night.alerts() == [("web-0", FAULT[0], "cpu")]
    night.parts.engine.dispose()
