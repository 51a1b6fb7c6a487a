"""Engines: a SQLite file is created only by those who may create it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from detector import database
from detector.errors import ConfigError, SchemaOutdated
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


def test_file_with_two_slashes_is_told_how_to_be_written() -> None:
    with pytest.raises(
        ConfigError, match=r"three slashes before it. Received: sqlite://src.db; write sqlite:///src.db"
    ):
        database.connect("sqlite://src.db")


def test_file_of_a_relative_url_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert database.missing_file(make_url("sqlite:///./detector.db")) == tmp_path / "detector.db"


# secrets

AWKWARD = [
    "s3cret@9Kfz",
    "a@b/TopSecret",
    "x@y:zz/Hidden9",
    "pa%41ss",
    "100%sure",
    "a:b?c#d e",
    "tail@",
    "Part1@?Part2",
]


@pytest.mark.parametrize("password", AWKWARD)
def test_a_password_that_was_not_encoded_is_read_as_it_is_or_refused_without_showing_it(password: str) -> None:
    url = f"postgresql://reader:{password}@db.example/metrics"  # c07

    try:
        shown = database.redacted(url)
    except ConfigError as exc:
        shown = str(exc)
        assert "%40" in shown

    assert all(part not in shown for part in password.replace("@", "/").split("/") if len(part) > 3)


def test_a_port_that_is_no_number_is_one_line_without_the_url() -> None:
    with pytest.raises(ConfigError, match=r"the port of the database URL must be a number") as caught:
        database.parse("postgresql://reader:Hidden@db:zzPort/metrics")

    assert "zzPort" not in str(caught.value)
    assert "Hidden" not in str(caught.value)


def test_parameters_of_a_url_are_shown_only_if_they_are_no_secret() -> None:
    url = "postgresql://db/x?host=/run/pg&sslmode=require&password=Hidden1&sslpassword=Hidden2&token=Hidden3"

    assert database.redacted(url) == "postgresql+psycopg://db/x?host=%2Frun%2Fpg&sslmode=require"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("cannot open postgresql://reader:Hid@den@db/x now", "cannot open postgresql://***db/x now"),
        ("bad dsn: user=reader password='Hid den' host=db", "bad dsn: user=reader password=*** host=db"),
        ("password authentication failed for user", "password authentication failed for user"),
    ],
)
def test_a_driver_s_words_are_told_without_passwords(words: str, expected: str) -> None:
    assert database.without_passwords(words) == expected
