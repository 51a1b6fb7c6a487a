"""What `check` says of a source's newest rows: metrics they lack, the nearest names, a step that is too fine."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detector import database
from detector.config.sections import Config, MonitorSection
from detector.operate import check as checking
from detector.operate import newest
from detector.sources.sql import SqlSource, TableSpec

NOW = 1_795_788_000_000
MINUTE = 60_000


def _monitor(folder: Path, **settings: Any) -> MonitorSection:
    source = {"type": "sql", "url": f"sqlite:///{folder}/app.db", "table": "s", "time_format": "epoch_seconds"}
    source |= settings.pop("source", {})
    return MonitorSection.model_validate({"name": "web", "metrics": ["cpu"], **settings, "source": source})


@pytest.fixture
def checked(tmp_path: Path) -> Callable[[MonitorSection], dict[str, Any]]:
    """The row of a monitor in a check."""

    def row(monitor: MonitorSection) -> dict[str, Any]:
        own = database.connect(f"sqlite:///{tmp_path}/detector.db")
        app = database.connect(f"sqlite:///{tmp_path}/app.db")
        spec = TableSpec(metrics=monitor.metrics, **monitor.source.model_dump(exclude={"type", "url", "url_file"}))
        parts = checking.Parts(
            engine=own,
            source=lambda _monitor: SqlSource(app, spec),
            live=lambda _monitor: None,
            notifier=lambda _section: pytest.fail("there is none"),
            names=lambda monitor: newest.metric_names(app, monitor),
        )
        config = Config.model_validate({"database": {"url": "sqlite://"}, "monitors": [monitor.model_dump()]})
        rows, _ = checking.check(config, parts, NOW)
        own.dispose()
        app.dispose()
        return rows[1]

    return row


def _filled(folder: Path, table: str, rows: list[tuple[Any, ...]]) -> None:
    connection = sqlite3.connect(folder / "app.db")
    connection.execute(f"CREATE TABLE s ({table})")
    connection.executemany(f"INSERT INTO s VALUES ({', '.join('?' * len(rows[0]))})", rows)
    connection.commit()
    connection.close()


def test_misspelt_metrics_of_a_long_table_are_named_with_the_nearest_ones(
    tmp_path: Path, checked: Callable[[MonitorSection], dict[str, Any]]
) -> None:
    times = range(NOW // 1000 - 30_000, NOW // 1000, 60)
    _filled(tmp_path, "time INTEGER, name TEXT, value REAL", [(at, "cpu", 1.0) for at in times])  # x08
    monitor = _monitor(tmp_path, metrics=["cpu_percent"], source={"metric": "name", "value": "value"})

    row = checked(monitor)

    assert row["problem"] == "no value of cpu_percent; the source has cpu"
    near = checked(monitor.model_copy(update={"metrics": ("cpuu",)}))
    assert near["problem"] == "no value of cpuu; the source has cpu; for 'cpuu' perhaps 'cpu'"


@pytest.mark.parametrize("kind", ["auto", "baseline", "network"])
def test_a_newest_window_without_a_value_is_a_problem_and_no_traceback(
    tmp_path: Path, checked: Callable[[MonitorSection], dict[str, Any]], kind: str
) -> None:
    times = range(NOW // 1000 - 30_000, NOW // 1000, 60)
    _filled(tmp_path, "time INTEGER, cpu REAL", [(at, None) for at in times])  # c28

    row = checked(_monitor(tmp_path, model={"kind": kind, "units": 8}))

    assert row["problem"] == "no value of cpu in the newest window; what is missing is never scored"


def test_rows_every_five_minutes_on_a_grid_of_one_propose_the_step(
    tmp_path: Path, checked: Callable[[MonitorSection], dict[str, Any]]
) -> None:
    times = range(NOW // 1000 - 90_000, NOW // 1000, 300)
    _filled(tmp_path, "time INTEGER, cpu REAL", [(at + at // 300 % 3, 1.0) for at in times])  # c32
    monitor = _monitor(tmp_path, model={"kind": "baseline"})

    assert checked(monitor)["problem"] == (
        "rows of an entity usually come every 301 s, so 80% of the slots of 60 s would be empty and no window could be"
        ' scored; set step = "5m", or fill = "last" if a value holds until the next row'
    )
    assert "problem" not in checked(_monitor(tmp_path, step="5m", model={"kind": "baseline"}))


@pytest.mark.parametrize("last", [253_402_300_799, 9_223_372_036])  # 9999-12-31T23:59:59, 2262
def test_a_row_of_a_time_to_come_is_named_and_does_not_hide_the_others(
    tmp_path: Path, checked: Callable[[MonitorSection], dict[str, Any]], last: int
) -> None:
    times = [*range(NOW // 1000 - 30_000, NOW // 1000, 60), last]
    _filled(tmp_path, "time INTEGER, cpu REAL", [(at, 1.0) for at in times])  # x14, c21

    row = checked(_monitor(tmp_path, model={"kind": "baseline"}))

    assert "problem" not in row
    assert [line.partition(":")[0] for line in row["rejects"]] == ["1 row left out"]
    assert row["newest_window"] == "30 samples of 1 entity"


def test_what_breaks_one_monitor_is_told_and_the_others_are_checked(tmp_path: Path) -> None:
    def source(_monitor: object) -> Any:
        raise IndexError("tuple index out of range")

    own = database.connect(f"sqlite:///{tmp_path}/detector.db")
    monitors = [_monitor(tmp_path, name=name).model_dump() for name in ("a", "b")]
    config = Config.model_validate({"database": {"url": "sqlite://"}, "monitors": monitors})

    rows, _ = checking.check(config, checking.Parts(own, source, lambda _: None, lambda _: pytest.fail("none")), NOW)

    own.dispose()
    assert [row["problem"] for row in rows[1:]] == 2 * ["unexpected IndexError: tuple index out of range"]
