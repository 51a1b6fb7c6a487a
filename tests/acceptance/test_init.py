"""From the URL of a database to a monitor that runs: six shapes of metrics in real databases, and what is none."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import shapes
from in_process import ended_in
from query_servers import SERVERS, Series
from running import DETECTOR
from sqlalchemy import create_engine, event, make_url, text

from detector import database
from detector.operate.survey import Survey

pytestmark = pytest.mark.slow

NOW = datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True)
class Done:
    """A command that has ended, and the configuration it wrote."""

    status: int
    output: str
    errors: str
    file: Path

    @property
    def monitors(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = tomllib.loads(self.file.read_text())["monitors"]
        return found


def _run(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Done:
    done = ended_in(folder, *arguments, environment=environment)
    return Done(done.status, done.output, done.errors, folder / "config.toml")


def _init(folder: Path, url: str, *arguments: str) -> Done:
    return _run(folder, "init", url, *arguments)


@pytest.fixture(params=["postgresql", pytest.param("mariadb", marks=pytest.mark.mysql)])
def server_url(request: pytest.FixtureRequest) -> str:
    name = "postgres_database" if request.param == "postgresql" else "mariadb_database"
    return str(request.getfixturevalue(name))


def _filled(url: str, shape: str) -> str:
    engine = create_engine(url)
    getattr(shapes, shape)(engine, NOW)
    engine.dispose()
    return url


def _about(monitor: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: monitor.get(key, monitor["source"].get(key)) for key in keys}


def _is_trained_and_scored(folder: Path) -> None:
    """The baseline, which every configuration begins with: no need to train a network."""
    config = folder / "config.toml"
    config.write_text(config.read_text() + '\n[monitors.model]\nkind = "baseline"\n')
    until = (NOW - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for command in (["db", "upgrade"], ["retrain", "--to", until], ["score"]):
        done = _run(folder, *command)
        assert done.status == 0, done.errors
    with closing(sqlite3.connect(folder / "detector.db")) as connection:
        assert connection.execute("SELECT count(*) FROM detector_cursor").fetchone()[0] == 1


# -- six shapes -------------------------------------------------------------------------------------------------------


def test_a_long_table(server_url: str, tmp_path: Path) -> None:
    done = _init(tmp_path, _filled(server_url, "long_timestamptz"))

    assert done.status == 0, done.errors
    (monitor,) = done.monitors
    assert _about(monitor, "table", "entity", "time", "metric", "value", "step") == {
        **{"table": "samples", "entity": ["host"], "time": "time"},
        **{"metric": "metric", "value": "value", "step": "1m"},
    }
    assert sorted(monitor["metrics"]) == ["bytes_sent", "cpu_percent", "memory_percent"]  # cores are always 8
    assert monitor["rates"] == ["bytes_sent"]
    assert _run(tmp_path, "check").status == 0
    _is_trained_and_scored(tmp_path)


def test_a_wide_table(server_url: str, tmp_path: Path) -> None:
    done = _init(tmp_path, _filled(server_url, "wide"))

    assert done.status == 0, done.errors
    (monitor,) = done.monitors
    assert _about(monitor, "table", "entity", "time", "metric", "metrics", "step", "delay", "time_zone") == {
        **{"table": "readings", "entity": ["machine"], "time": "measured_at", "metric": None},
        **{"metrics": ["temperature", "pressure"], "step": "5m", "delay": "40s", "time_zone": "UTC"},
    }
    assert "left out spare" in done.output
    assert "it does not change" in done.output


def test_telegraf(postgres_database: str, tmp_path: Path) -> None:
    url = _filled(postgres_database, "telegraf")
    several = _init(tmp_path, url)
    done = _init(tmp_path, url, "--table", "cpu", "--table", "mem", "--table", "net")

    assert several.status == 2
    assert "several tables may hold metrics: cpu, mem, net; name one with --table" in several.errors
    assert done.status == 0, done.errors
    cpu, mem, net = done.monitors
    assert cpu["metrics"] == ["usage_user", "usage_system", "usage_iowait"]
    assert "cpu = 'cpu-total'" in cpu["source"]["query"]
    assert mem["metrics"] == ["used_percent", "available_percent"]
    assert _about(net, "entity", "metrics", "rates", "step") == {
        **{"entity": ["host", "interface"], "metrics": ["bytes_recv", "bytes_sent"]},
        **{"rates": ["bytes_recv", "bytes_sent"], "step": "1m"},
    }
    assert _run(tmp_path, "check").status == 0


def test_timescaledb(postgres_database: str, tmp_path: Path) -> None:
    done = _init(tmp_path, _filled(postgres_database, "timescale"))

    assert done.status == 0, done.errors
    (monitor,) = done.monitors
    assert _about(monitor, "table", "entity", "metrics", "time_zone", "rates") == {
        **{"table": "conditions", "entity": ["device_id"], "metrics": ["temperature", "humidity"]},
        **{"time_zone": None, "rates": None},
    }


def test_zabbix(server_url: str, tmp_path: Path) -> None:
    done = _init(tmp_path, _filled(server_url, "zabbix"))

    assert done.status == 0, done.errors
    (monitor,) = done.monitors
    assert _about(monitor, "name", "entity", "time", "time_format", "metrics") == {
        **{"name": "zabbix", "entity": ["host"], "time": "clock", "time_format": "epoch_seconds"},
        "metrics": ["system.cpu.load[all,avg1]", "system.cpu.util[,idle]", "vm.memory.size[available]"],
    }
    assert _run(tmp_path, "check").status == 0
    _is_trained_and_scored(tmp_path)


def test_seconds_since_1970_in_a_file(tmp_path: Path) -> None:
    _filled(f"sqlite:///{tmp_path}/app.db", "epoch")
    before = (tmp_path / "app.db").read_bytes()

    done = _init(tmp_path, "app.db")

    assert done.status == 0, done.errors
    (monitor,) = done.monitors
    assert _about(monitor, "url", "table", "entity", "time", "time_format", "metrics") == {
        **{"url": f"sqlite:///{tmp_path}/app.db", "table": "log", "entity": ["sensor_id"], "time": "ts"},
        **{"time_format": "epoch_seconds", "metrics": ["watts", "volts"]},
    }
    assert (tmp_path / "app.db").read_bytes() == before
    assert not (tmp_path / "detector.db").exists()


# -- a Prometheus -----------------------------------------------------------------------------------------------------


def _nodes() -> Iterator[Series]:
    """Two machines as a node_exporter tells of them, scraped every 15 seconds for two hours, and a page's requests."""
    end = int(time.time()) // 60 * 60
    times = range(end - 7200, end, 15)
    for host in ("web-1:9100", "web-2:9100"):
        labels = {"instance": host, "job": "node"}
        for mode, share in (("idle", 0.7), ("iowait", 0.01)):
            spent = [(1000 * at, (at - end + 7200) * share + at % 7) for at in times]
            yield Series("node_cpu_seconds_total", spent, {**labels, "cpu": "0", "mode": mode})
        yield Series("node_load1", [(1000 * at, 1 + at % 11 / 10) for at in times], labels)
        for device in ("a", "b"):
            yield Series("temperature", [(1000 * at, 40.0 + at % 13) for at in times], {**labels, "device": device})
        yield Series("requests_total", [(1000 * at, float(at - end + 7200 + at % 5)) for at in times], labels)


@pytest.fixture(params=sorted(SERVERS))
def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with SERVERS[request.param](tmp_path, list(_nodes())) as url:
        yield url


def test_machines_with_a_node_exporter(nodes: str, tmp_path: Path) -> None:
    done = _init(tmp_path, nodes)

    assert done.status == 0, done.errors
    (monitor,) = done.monitors
    assert _about(monitor, "type", "entity", "step", "metrics", "rates") == {
        **{"type": "prometheus", "entity": ["instance"], "step": "1m", "rates": None},
        "metrics": ["cpu_used", "cpu_iowait", "load1"],
    }
    assert monitor["source"]["queries"]["load1"] == "node_load1"
    assert "[2m]" in monitor["source"]["queries"]["cpu_used"]
    assert _run(tmp_path, "check").status == 0


def test_metrics_that_are_named(nodes: str, tmp_path: Path) -> None:
    wanted = [word for name in ("requests_total", "temperature", "node_load1") for word in ("--metric", name)]
    done = _init(tmp_path, nodes, *wanted, "--name", "shop")

    assert done.status == 0, done.errors
    (monitor,) = done.monitors
    assert monitor["name"] == "shop"
    assert monitor["source"]["queries"] == {
        "requests_total": "sum by (instance) (rate(requests_total[2m]))",
        "temperature": "avg by (instance) (temperature)",
    }
    misspelt = _init(tmp_path, nodes, "--metric", "node_laod1", "--out", "other.toml")
    assert misspelt.status == 2
    assert "perhaps 'node_load1'" in misspelt.errors


# -- options, secrets, a terminal -------------------------------------------------------------------------------------


def test_a_password_is_not_written_down(postgres_database: str, tmp_path: Path) -> None:
    password = "s3cr/et@:%"
    url = make_url(_filled(postgres_database, "timescale")).set(password=password, username="postgres")

    done = _init(tmp_path, url.render_as_string(hide_password=False))

    assert done.status == 0, done.errors
    said = done.output + done.errors + done.file.read_text()
    assert not [word for word in ("s3cr", "et@", "et%40") if word in said]
    assert "export SOURCE_PASSWORD=" in done.output
    assert _run(tmp_path, "check").status == 2  # the variable is not set
    assert _run(tmp_path, "check", environment={"SOURCE_PASSWORD": password}).status == 0


def test_a_monitor_is_added_to_a_configuration_that_stays(tmp_path: Path) -> None:
    _filled(f"sqlite:///{tmp_path}/app.db", "epoch")
    first = _init(tmp_path, "app.db").file.read_text()

    twice = _init(tmp_path, "app.db")
    same = _init(tmp_path, "app.db", "--add")
    after = (tmp_path / "config.toml").read_text()
    added = _init(tmp_path, "app.db", "--add", "--name", "volts", "--metric", "volts", "--step", "5m")

    assert (twice.status, same.status) == (2, 2)
    assert "config.toml exists, and is not replaced" in twice.errors
    assert "monitor names must be unique" in same.errors
    assert after == first
    assert added.status == 0, added.errors
    assert added.file.read_text().startswith(first.rstrip())
    assert _about(added.monitors[1], "name", "metrics", "step") == {"name": "volts", "metrics": ["volts"], "step": "5m"}


def test_a_terminal_is_asked(tmp_path: Path) -> None:
    _filled(f"sqlite:///{tmp_path}/app.db", "epoch")
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("CREATE TABLE other (time INTEGER, value REAL)")
    master, terminal = pty.openpty()
    os.write(master, b"9\n1\npower\n2\n2m\n")  # no such table, the first, its name, its second metric, its step
    done = subprocess.run(
        [*DETECTOR, "init", "app.db"], stdin=terminal, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    os.close(master)
    os.close(terminal)

    assert done.returncode == 0, done.stderr
    monitor = tomllib.loads((tmp_path / "config.toml").read_text())["monitors"][0]
    assert _about(monitor, "name", "table", "metrics", "step") == {
        **{"name": "power", "table": "log", "metrics": ["volts"], "step": "2m"}
    }


def test_a_configuration_may_be_written_for_a_script(tmp_path: Path) -> None:
    _filled(f"sqlite:///{tmp_path}/app.db", "epoch")

    done = _init(tmp_path, f"sqlite:///{tmp_path}/app.db", "--yes", "--table", "log", "--out", "new.toml")

    assert done.status == 0, done.errors
    assert json.loads(_run(tmp_path, "check", "--json", "--config", "new.toml").output)[1]["monitor"] == "log"


# -- what is no such thing --------------------------------------------------------------------------------------------


def _file(folder: Path, *statements: str) -> str:
    with closing(sqlite3.connect(folder / "app.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return "app.db"


@pytest.mark.parametrize(
    ("statements", "arguments", "said"),
    [
        ([], [], "must have tables; received none"),
        (["CREATE TABLE t (a TEXT)"], [], "no table has a column of times and one of numbers; there is t"),
        (["CREATE TABLE t (time TEXT, v REAL)"], [], "table t must have rows to learn from; received none"),
        (
            ["CREATE TABLE t (a TEXT, v REAL)", "INSERT INTO t VALUES ('x', 1)"],
            ["--table", "t"],
            "table t needs a column of times; received a (text), v (number)",
        ),
        (["CREATE TABLE t (time TEXT, v REAL)"], ["--table", "tt"], "Received: 'tt'; perhaps 't'"),
        (
            ["CREATE TABLE t (time TEXT, what TEXT)", "INSERT INTO t VALUES ('2026-11-20', 'x')"],
            ["--table", "t"],
            "table t needs a column of numbers that change; received none",
        ),
        (
            ["CREATE TABLE t (time TEXT, v REAL)", "INSERT INTO t VALUES ('2026-11-20', 1)"],
            ["--metric", "w"],
            "--metric must be among time, v. Received: 'w'",
        ),
        (
            ["CREATE TABLE t (time TEXT, v REAL)", "INSERT INTO t VALUES ('2026-11-20', 1)"],
            ["--name", "no name"],
            "name: string should match pattern",
        ),
    ],
)
def test_what_is_no_table_of_metrics_is_one_line(
    statements: list[str], arguments: list[str], said: str, tmp_path: Path
) -> None:
    done = _init(tmp_path, _file(tmp_path, *statements, "PRAGMA user_version = 1"), *arguments)

    assert done.status == 2, done.output
    assert said in done.errors
    assert len([line for line in done.errors.splitlines() if line.startswith("detector:")]) == 1
    assert "Traceback" not in done.errors
    assert not done.file.exists()


@pytest.mark.parametrize(
    ("url", "status", "said"),
    [
        ("postgresql://reader:hunter2@127.0.0.1:1/metrics", 1, "does not answer"),
        ("http://reader:hunter2@127.0.0.1:1", 1, "did not answer"),
        ("http://reader:hunter2@127.0.0.1:1/?x=hunter2", 2, "must be a URL without ? and #"),
        ("nowhere.db", 2, "or a file of SQLite. Received: 'nowhere.db'"),
        ("sqlite:///nowhere.db", 2, "there is no file"),
        ("postgresql://${NOT_SET_ANYWHERE}@h/d", 2, "NOT_SET_ANYWHERE must be set"),
    ],
)
def test_what_cannot_be_reached_is_one_line(url: str, status: int, said: str, tmp_path: Path) -> None:
    done = _init(tmp_path, url)

    assert done.status == status
    assert said in done.errors
    assert len(done.errors.splitlines()) == 1
    assert "hunter2" not in done.errors


def test_odd_names_are_written_so_that_they_are_read(tmp_path: Path) -> None:
    table = 'it"s\n[odd]'
    columns = '"ti""me" TEXT, "ho\'st" TEXT, "cpu \u202e%" REAL, "${HOME}" REAL, " blank" REAL'
    name = table.replace('"', '""')
    rows = (f"('2026-11-20 10:{n // 2:02d}:00', 'a{n % 2}', {n * n % 7}, {n}, {n})" for n in range(60))
    _file(tmp_path, f'CREATE TABLE "{name}" ({columns})', f'INSERT INTO "{name}" VALUES {", ".join(rows)}')

    done = _init(tmp_path, "app.db", "--table", table)

    assert done.status == 0, done.errors
    (monitor,) = done.monitors
    assert _about(monitor, "table", "time", "entity", "metrics") == {
        **{"table": table, "time": 'ti"me', "entity": ["ho'st"], "metrics": ["cpu \u202e%"]}
    }
    assert "\u202e" not in done.output


def test_of_five_hundred_tables_none_is_looked_into_before_one_is_named(tmp_path: Path) -> None:
    _file(tmp_path, *(f"CREATE TABLE t{n:03d} (time TEXT, v REAL)" for n in range(500)))

    done = _init(tmp_path, "app.db")

    assert done.status == 2
    assert "several tables may hold metrics: t000, t001" in done.errors
    assert "and 492 more; name one with --table" in done.errors
    assert "looking at" not in done.errors


def test_tables_are_described_by_a_few_questions(postgres_database: str) -> None:
    writer = create_engine(postgres_database)
    with writer.begin() as connection:
        for n in range(300):
            connection.execute(text(f"CREATE TABLE t{n} (time timestamptz, v real)"))
    writer.dispose()
    engine, asked = database.connect(postgres_database, reads_only=True), []
    event.listen(engine, "before_cursor_execute", lambda _c, _cursor, statement, *_: asked.append(statement))

    found = Survey(engine, timedelta(seconds=20)).tables()

    engine.dispose()
    assert len(found) == 300
    assert len(asked) < 20


def test_parts_of_a_table_are_no_tables(postgres_database: str, tmp_path: Path) -> None:
    engine = create_engine(postgres_database)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE m (time timestamptz, host text, v real) PARTITION BY RANGE (time)"))
        for year in (2025, 2026, 2027):
            bounds = f"FROM ('{year}-01-01') TO ('{year + 1}-01-01')"
            connection.execute(text(f"CREATE TABLE m_{year} PARTITION OF m FOR VALUES {bounds}"))
        connection.execute(text("CREATE SCHEMA other CREATE TABLE x (a text)"))
        for n in range(60):
            row = {"at": NOW - timedelta(minutes=n), "v": n % 7}
            connection.execute(text("INSERT INTO m VALUES (:at, 'a', :v)"), row)
    engine.dispose()

    done = _init(tmp_path, postgres_database)

    assert done.status == 0, done.errors
    assert done.monitors[0]["source"]["table"] == "m"


def test_what_moves_is_seen_also_in_a_fleet_of_which_few_moments_are_read(tmp_path: Path) -> None:
    """Two thousand hosts a minute: a metric that changes by the hour is no constant, and a counter is one."""
    begin = int(NOW.timestamp()) - 180 * 60
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("CREATE TABLE m (time INTEGER, host TEXT, sent INTEGER, disk REAL, fixed REAL)")
        connection.executemany(
            "INSERT INTO m VALUES (?, ?, ?, ?, 7)",
            (
                (begin + 60 * minute, f"h{host}", 1000 * minute + host, 50 + minute // 60)
                for minute in range(180)
                for host in range(2000)
            ),
        )
        connection.execute("CREATE INDEX m_time ON m (time)")
        connection.commit()

    done = _init(tmp_path, "app.db")

    assert done.status == 0, done.errors
    (monitor,) = done.monitors
    assert _about(monitor, "entity", "metrics", "rates") == {
        **{"entity": ["host"], "metrics": ["sent", "disk"], "rates": ["sent"]}
    }
    assert "left out fixed: it does not change" in done.output
