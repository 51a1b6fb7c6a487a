"""Engines: a SQLite file is created only by those who may create it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from detector import database
from detector.errors import SchemaOutdated
from detector.store import schema


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "detector.db"


def test_missing_file_is_not_created_by_a_reader(file: Path) -> None:
    engine = database.connect(f"sqlite:///{file}", creates=False)

    with pytest.raises(OperationalError, match="it does not exist"):
        database.ping(engine)

    assert list(file.parent.iterdir()) == []


def test_missing_file_is_created_by_the_daemon_and_then_read(file: Path) -> None:
    for creates in (True, False):
        engine = database.connect(f"sqlite:///{file}", creates=creates)
        database.ping(engine)
        engine.dispose()

    assert file.is_file()


def test_reader_learns_which_file_is_missing_and_what_to_do(file: Path) -> None:
    engine = database.connect(f"sqlite:///{file}", creates=False)

    assert schema.current(engine) is None
    with pytest.raises(SchemaOutdated) as caught:
        schema.check(engine)

    assert str(caught.value) == (
        f"the detector's database must exist. Received: sqlite:///{file}, but this user sees no file {file};"
        " name the configuration of the running detector with --config, or create it: detector db upgrade"
    )


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x.db?mode=ro&uri=true", "postgresql+psycopg://db/x"]
)
def test_what_is_no_plain_file_is_never_missing(url: str) -> None:
    assert database.missing_file(make_url(url)) is None


def test_file_of_a_relative_url_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert database.missing_file(make_url("sqlite:///./detector.db")) == tmp_path / "detector.db"
