"""Engines from URLs, with each database's own settings; the time limit of a read; fast inserts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, insert, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from detector.errors import ConfigError

BUSY_TIMEOUT = timedelta(seconds=10)
"""Time that a writer waits for another one, and that connecting may take."""

DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "mysql": "mysql+pymysql"}
"""Drivers this program ships as extras, used where a URL names none."""

_WRONG_QUESTION = (
    "no such table",
    "no such column",
    "syntax error",
    "unable to open",
    "doesn't exist",
    "unknown column",
)
_DRIVERS = {"psycopg": "psycopg[binary]", "pymysql": "pymysql"}


def parse(url: str) -> URL:
    """A URL with this program's default driver.

    Raises: ConfigError if it is not a URL.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        msg = "the database URL must look like sqlite:///file.db or postgresql://user@host/name (not shown: secrets)"
        raise ConfigError(msg) from None
    return parsed.set(drivername=DRIVERS.get(parsed.drivername, parsed.drivername))


def redacted(url: str | URL) -> str:
    """The URL without its password, fit for logs."""
    parsed = parse(url) if isinstance(url, str) else url
    secrets = [key for key in parsed.query if "pass" in key.lower() or "secret" in key.lower() or "key" in key.lower()]
    return parsed.difference_update_query(secrets).render_as_string(hide_password=True)


def missing_file(url: URL) -> Path | None:
    """The file of a SQLite database, absolute, if this user sees none there; None for any other database."""
    name = str(url.database or "")
    if url.get_backend_name() != "sqlite" or name in {"", ":memory:"} or name.startswith("file:"):
        return None
    return None if os.path.exists(name) else Path(name).absolute()  # Path.exists would raise if a folder is closed


def connect(url: str, *, timeout: timedelta = timedelta(minutes=5), creates: bool = True) -> Engine:
    """An engine whose connections are checked before use and never wait longer than `timeout` for an answer.

    creates: whether connecting creates a SQLite file that does not exist; else it fails

    Raises: ConfigError if it is not a URL, its driver is not installed, or SQLite's folder does not exist.
    """
    parsed = parse(url)
    backend = parsed.get_backend_name()
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        folder = Path(str(parsed.database)).parent
        if not folder.is_dir():
            msg = f"the folder of {redacted(parsed)} must exist; create it: mkdir -p {folder}"
            raise ConfigError(msg)
    try:
        engine = create_engine(parsed, pool_pre_ping=True, connect_args=_connect_args(backend, timeout))
    except (NoSuchModuleError, ModuleNotFoundError) as exc:
        name = getattr(exc, "name", None) or parsed.drivername
        driver = _DRIVERS.get(str(name))
        hint = f"pip install '{driver}'" if driver else "install its SQLAlchemy driver"
        msg = f"no driver for {redacted(parsed)}; {hint}"
        raise ConfigError(msg) from exc
    except (TypeError, ValueError) as exc:
        msg = f"{redacted(parsed)} is not a usable database URL: {exc}"
        raise ConfigError(msg) from exc
    if backend == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        if not creates:
            event.listen(engine, "do_connect", lambda dialect, *_: _refuse_missing(parsed, dialect))
    return engine


def _refuse_missing(url: URL, dialect: Any) -> None:
    """Fails as SQLite does for a file that it may not create."""
    if missing_file(url) is not None:
        msg = "unable to open database file: it does not exist"
        raise dialect.loaded_dbapi.OperationalError(msg)


def _connect_args(backend: str, timeout: timedelta) -> dict[str, Any]:
    seconds = max(1, round(timeout.total_seconds()))
    connect_seconds = round(BUSY_TIMEOUT.total_seconds())
    match backend:
        case "postgresql":
            # UTC makes naive and aware timestamp columns mean the same
            options = (
                f"-c statement_timeout={seconds * 1000} -c timezone=UTC -c idle_in_transaction_session_timeout=600000"
            )
            return {"connect_timeout": connect_seconds, "options": options}
        case "mysql" | "mariadb":
            return {
                "connect_timeout": connect_seconds,
                "read_timeout": seconds,
                "write_timeout": seconds,
                "init_command": "SET time_zone = '+00:00'",
            }
        case "sqlite":
            return {"timeout": BUSY_TIMEOUT.total_seconds()}
    return {}


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """WAL lets readers and one writer work at the same time; NORMAL is durable enough with it (no corruption)."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


@contextmanager
def reading(engine: Engine, timeout: timedelta) -> Iterator[Connection]:
    """A connection for one read; SQLite is interrupted when the time is over, servers do that by themselves."""
    with engine.connect() as connection:
        if engine.dialect.name != "sqlite":
            yield connection
            return
        driver: Any = connection.connection.driver_connection
        end = time.monotonic() + timeout.total_seconds()
        driver.set_progress_handler(lambda: time.monotonic() > end, 100_000)
        try:
            yield connection
        finally:
            driver.set_progress_handler(None, 0)


def streaming(connection: Connection) -> Connection:
    """The connection, with results that come row by row; SQLite's always do, and faster without the option."""
    return connection.execution_options(stream_results=connection.dialect.name != "sqlite")


def insert_rows(
    connection: Connection, table: Table, *, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Inserts many rows, within the connection's transaction, the way that is fastest on each database.

    Raises: DBAPIError.
    """
    if not rows:
        return
    match connection.dialect.name:
        case "sqlite":  # the work of SQLAlchemy's Core for each row takes longer than storing it
            marks = ", ".join("?" * len(columns))
            statement = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - own names
            connection.exec_driver_sql(statement, list(rows))
        case "postgresql" if connection.dialect.driver == "psycopg":
            _copy(connection, table.name, columns=columns, rows=rows)
        case _:
            connection.execute(insert(table), [dict(zip(columns, row, strict=True)) for row in rows])


def _copy(connection: Connection, table: str, *, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Inserts rows by PostgreSQL's COPY."""
    statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except connection.dialect.loaded_dbapi.Error as exc:
        # wrapped as SQLAlchemy wraps the errors of its own statements
        raise DBAPIError.instance(statement, None, exc, connection.dialect.loaded_dbapi.Error) from exc


def is_unavailable(exc: DBAPIError) -> bool:
    """Whether the database is away, rather than the question wrong: the caller may try again."""
    if exc.connection_invalidated or isinstance(exc, InterfaceError):
        return True
    if not isinstance(exc, OperationalError):
        return False
    return not any(part in str(exc.orig).lower() for part in _WRONG_QUESTION)


def reason(exc: DBAPIError) -> str:
    """The driver's own words in one line, without statement, parameters or passwords."""
    return " ".join(str(exc.orig).split())


def ping(engine: Engine) -> None:
    """Asks the database for a 1.

    Raises: an error of SQLAlchemy if it does not answer.
    """
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
