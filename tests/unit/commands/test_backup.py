"""`detector db backup`: a copy of a database that others write to, whole and for its owner alone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from commits import T0, change, commit
from in_process import Commands
from sqlalchemy import text

from detector.core.decide import Change
from detector.store.state import StateStore


def _alerts(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as connection:
        return [row[0] for row in connection.execute("SELECT entity FROM detector_alert ORDER BY id")]


def test_a_backup_has_all_that_is_committed_while_others_write(run: Commands) -> None:
    StateStore(run.engine).commit(commit(changes=[change(Change.OPENED, entity="a")]))
    copy = run.folder / "copy.db"

    with closing(sqlite3.connect(run.folder / "detector.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE detector_alert SET entity = 'not committed'")
        ended = run("db", "backup", copy)
        writer.execute("ROLLBACK")

    assert (ended.status, ended.output.startswith(f"{copy}: ")) == (0, True)
    assert _alerts(copy) == ["a"]
    assert copy.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in run.folder.iterdir() if "copy" in path.name} == {"copy.db"}


def test_a_backup_can_take_the_place_of_the_database(run: Commands) -> None:
    StateStore(run.engine).commit(commit(changes=[change(Change.OPENED, entity="a")]))
    run("db", "backup", run.folder / "copy.db")
    StateStore(run.engine).commit(commit(expected_cursor=T0, cursor=T0 + 60_000, changes=[change(Change.OPENED, "b")]))

    run.config.write_text(run.config.read_text().replace("detector.db", "copy.db"))

    assert run("db", "check").status == 0
    assert '"entity": "a"' in run("alerts", "list", "--json").output
    assert '"entity": "b"' not in run("alerts", "list", "--json").output


def test_a_backup_is_never_overwritten(run: Commands) -> None:
    copy = run.folder / "copy.db"
    copy.write_text("precious")

    ended = run("db", "backup", copy)

    assert (ended.status, "never overwritten" in ended.errors) == (2, True)
    assert copy.read_text() == "precious"


def test_a_damaged_database_gives_no_backup(run: Commands) -> None:
    with run.engine.begin() as connection:
        connection.execute(text("PRAGMA writable_schema=ON"))
        connection.execute(text("UPDATE sqlite_master SET rootpage = 999999 WHERE name = 'detector_lease'"))
    run.engine.dispose()
    copy = run.folder / "copy.db"

    ended = run("db", "backup", copy)

    assert (ended.status, ended.errors.count("\n")) == (1, 1)
    assert not copy.exists()


@pytest.mark.parametrize("name", ["no/such/folder.db", "."])
def test_a_place_that_cannot_be_written_is_one_line(run: Commands, name: str) -> None:
    ended = run("db", "backup", run.folder / name)

    assert (ended.status, ended.errors.count("\n")) == (2, 1)


@pytest.mark.slow
def test_another_database_is_told_what_copies_it(run: Commands, postgres_database: str) -> None:
    run.config.write_text(run.config.read_text().replace(run.url, postgres_database))

    ended = run("db", "backup", run.folder / "copy.db")

    assert (ended.status, "use: pg_dump" in ended.errors) == (2, True)
