"""A source belongs to somebody else: it is read, never written to, and a read that gets no answer ends."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from lines import Line
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from detector import database, wiring
from detector.commands.check import _names as source_names
from detector.config.sections import Config
from detector.errors import SourceError, SourceUnavailable
from detector.sources.sql import SqlSource, TableSpec

pytestmark = pytest.mark.slow

T0 = 1_795_435_200_000
MINUTE = 60_000
SPEC = TableSpec(metrics=("cpu",), table="s", entity=("host",), time_format="epoch_seconds")
NO_LIMIT = 60.0  # seconds; without a limit a read on a silent connection takes 120 or more


def _source(url: str) -> SqlSource:
    return SqlSource(database.connect(url, reads_only=True), SPEC)


def _rows(url: str) -> int:
    source = _source(url)
    try:
        return len(source.read(T0, T0 + 10 * MINUTE))
    finally:
        source._engine.dispose()


def _written(path: Path, mode: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("CREATE TABLE s (time INTEGER, host TEXT, cpu REAL)")
        connection.executemany("INSERT INTO s VALUES (?, 'web', 1)", [(T0 // 1000 + 60 * n,) for n in range(10)])
        connection.commit()


@pytest.fixture(params=["delete", "wal"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A SQLite file of another program, in a folder of its own."""
    folder = tmp_path / "100% theirs"
    folder.mkdir()
    _written(folder / "app.db", request.param)
    return folder / "app.db"


def test_the_bytes_and_the_journal_mode_of_a_file_stay(file: Path) -> None:  # c08, x10
    before = file.read_bytes()

    assert _rows(f"sqlite:///{file}") == 10
    assert file.read_bytes() == before


def test_a_check_of_a_metric_that_is_not_there_leaves_the_file_as_it_was(file: Path, tmp_path: Path) -> None:
    source = {"type": "sql", "url": f"sqlite:///{str(file).replace('%', '%25')}", "table": "s", "time": "time"}
    source |= {"metric": "host", "value": "cpu", "time_format": "epoch_seconds"}
    monitors = [{"name": "web", "metrics": ["cpuu"], "source": source}]
    config = Config.model_validate({"database": {"url": f"sqlite:///{tmp_path}/own.db"}, "monitors": monitors})
    own = database.connect(f"sqlite:///{tmp_path}/own.db")
    before = file.read_bytes()

    assert source_names(config.monitors[0], own) == ["web"]
    own.dispose()
    assert file.read_bytes() == before


def test_a_file_may_be_named_as_a_uri(file: Path) -> None:
    name = str(file).replace("%", "%25")

    assert _rows(f"sqlite:///file:{name}?mode=ro&uri=true") == 10
    assert _rows(f"sqlite:///file:{name}?mode=rwc&uri=true") == 10


def test_a_source_cannot_be_written_to(file: Path) -> None:
    engine = database.connect(f"sqlite:///{file}", reads_only=True)

    with engine.connect() as connection, pytest.raises(DBAPIError, match="readonly"):
        connection.execute(text("INSERT INTO s VALUES (1, 'web', 1)"))


def test_a_misspelt_path_is_one_line_and_creates_nothing(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/typo.db", f"sqlite:///file:{tmp_path}/typo.db?mode=rwc&uri=true"):
        with pytest.raises(SourceError, match="unable to open") as caught:
            _rows(url)
        assert len(str(caught.value).splitlines()) == 1
        assert not isinstance(caught.value, SourceUnavailable)

    assert list(tmp_path.iterdir()) == []


def test_rows_that_a_writer_in_wal_mode_adds_are_seen(tmp_path: Path) -> None:
    _written(tmp_path / "app.db", "wal")
    source = _source(f"sqlite:///{tmp_path}/app.db")
    with closing(sqlite3.connect(tmp_path / "app.db")) as writer:
        assert len(source.read(T0, T0 + 100 * MINUTE)) == 10
        writer.execute("INSERT INTO s VALUES (?, 'web', 1)", (T0 // 1000 + 3000,))
        writer.commit()

        assert len(source.read(T0, T0 + 100 * MINUTE)) == 11


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_a_file_on_a_read_only_mount_is_read(file: Path) -> None:
    folder = file.parent
    url = f"sqlite:///{file}"
    if subprocess.run(["mount", "--bind", folder, folder], check=False, capture_output=True).returncode != 0:
        pytest.skip("may not mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)

        assert _rows(url) == 10
        assert database.is_read_as_immutable(url) == (file.read_bytes()[18] == 2)  # 2: WAL
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture(params=["postgresql", pytest.param("mariadb", marks=pytest.mark.mysql)])
def server(request: pytest.FixtureRequest) -> str:
    """URL of a database on a server, with ten rows."""
    url = str(request.getfixturevalue(f"{request.param.replace('postgresql', 'postgres')}_database"))
    engine = database.connect(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE s (time BIGINT, host VARCHAR(20), cpu FLOAT)")
        for n in range(10):
            connection.exec_driver_sql(f"INSERT INTO s VALUES ({T0 // 1000 + 60 * n}, 'web', 1)")
    engine.dispose()
    return url


def test_a_source_on_a_server_cannot_be_written_to(server: str) -> None:
    engine = database.connect(server, reads_only=True)

    with engine.connect() as connection, pytest.raises(DBAPIError, match=r"(?i)read.only"):
        connection.execute(text("INSERT INTO s VALUES (1, 'web', 1)"))
    engine.dispose()


def test_a_source_that_inherits_the_database_has_its_own_limit_and_cannot_write(server: str) -> None:
    source = {"type": "sql", "table": "s", "entity": "host", "time_format": "epoch_seconds", "timeout": "3s"}
    monitor = {"name": "m", "metrics": ["cpu"], "source": source}
    config = Config.model_validate({"database": {"url": server}, "monitors": [monitor]})
    store = database.connect(server)
    made = wiring.source(config, config.monitors[0], store)
    assert isinstance(made, SqlSource)
    assert len(made.read(T0, T0 + 10 * MINUTE)) == 10

    slow = "pg_sleep(200)" if "postgresql" in server else "sleep(200)"
    with pytest.raises(DBAPIError), database.reading(made._engine, timedelta(seconds=1)) as connection:
        connection.execute(text(f"SELECT {slow}"))

    with made._engine.connect() as connection, pytest.raises(DBAPIError, match=r"(?i)read.only"):
        connection.execute(text("INSERT INTO s VALUES (1, 'web', 1)"))
    made._engine.dispose()
    store.dispose()


@pytest.fixture
def line(server: str) -> Iterator[Line]:
    line = Line(server)
    yield line
    line.close()


def _through(line: Line) -> SqlSource:
    limit = timedelta(seconds=3)  # which a busy machine keeps for ten rows
    engine = database.connect(line.url, timeout=limit, reads_only=True)
    return SqlSource(engine, TableSpec(**{**vars(SPEC), "timeout": limit}))


def test_a_connection_that_falls_silent_between_two_reads_is_replaced(line: Line) -> None:  # x06
    source = _through(line)
    assert len(source.read(T0, T0 + 10 * MINUTE)) == 10
    line.fall_silent()

    began = time.monotonic()
    assert len(source.read(T0, T0 + 10 * MINUTE)) == 10

    assert time.monotonic() - began < NO_LIMIT
    source._engine.dispose()


def test_a_connection_that_falls_silent_while_it_is_read_ends_the_read(line: Line) -> None:  # x06
    source = _through(line)
    assert len(source.read(T0, T0 + 10 * MINUTE)) == 10
    source._engine.dispose()
    line.after = 1000  # a login takes less
    source._spec.__dict__["query"] = "SELECT repeat('x', 500) AS host, time, cpu FROM s WHERE :start < :end"
    source._spec.__dict__["table"] = ""

    began = time.monotonic()
    with pytest.raises(SourceUnavailable, match="does not answer"):
        source.read(T0, T0 + 10 * MINUTE)

    assert time.monotonic() - began < NO_LIMIT
    source._engine.dispose()
