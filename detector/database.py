"""Engines from URLs, with each database's own settings; the time limit of a read; fast inserts."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, unquote, urlencode

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    ExceptionContext,
    NullPool,
    Table,
    create_engine,
    event,
    insert,
    make_url,
    text,
)
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
_SQLITE_URI_OPTIONS = {"cache", "immutable", "nolock", "vfs"}
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}
_PATIENCE = "patience"
_DRIVERS = {"psycopg": "psycopg[binary]", "pymysql": "pymysql"}


_SHOWN = {"host", "port", "dbname", "unix_socket", "sslmode", "charset", "mode", "uri", "immutable", "cache"}
"""Parameters of a URL that are no secret; any other one is not shown."""

_USER = re.compile(r"^[^:/]*(:[^@]*)?@")  # with the password, as SQLAlchemy reads it
_CREDENTIALS = re.compile(r"(?<=://)\S*@|(?i:(?<=password=)|(?<=passwd=)|(?<=pwd=))('[^']*'|\S+)")


def parse(url: str) -> URL:
    """A URL with this program's default driver.

    Raises: ConfigError if it is not a URL, without showing it.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        msg = "the database URL must look like sqlite:///file.db or postgresql://user@host/name (not shown: secrets)"
        raise ConfigError(msg) from None
    except ValueError:
        msg = (
            "the port of the database URL must be a number (not shown: secrets); in a password write @ as %40, / as %2F"
        )
        raise ConfigError(msg) from None
    if parsed.get_backend_name() == "sqlite" and parsed.host:
        msg = f"a file has three slashes before it. Received: sqlite://{parsed.host}; write sqlite:///{parsed.host}"
        raise ConfigError(msg)
    if "@" in _USER.sub("", url.partition("://")[2], count=1) and parsed.get_backend_name() != "sqlite":
        # a bare @ of a password has ended it too early; what follows it must not be taken for a host
        msg = "a password in the database URL must be percent-encoded: @ as %40, / as %2F (not shown: secrets)"
        raise ConfigError(msg)
    return parsed.set(drivername=DRIVERS.get(parsed.drivername, parsed.drivername))


def redacted(url: str | URL) -> str:
    """The URL without its password, fit for logs."""
    parsed = parse(url) if isinstance(url, str) else url
    hidden = [key for key in parsed.query if key not in _SHOWN]
    return parsed.difference_update_query(hidden).render_as_string(hide_password=True)


@dataclass(frozen=True)
class Plain:
    """A URL with a mark in place of each secret, and the secrets by their names in it."""

    url: str
    secrets: dict[str, str]

    @staticmethod
    def mark(name: str) -> str:
        """What stands in the URL for a secret."""
        return f"zzSECRETzz{name}zz"


def without_secrets(url: URL) -> Plain:
    """A URL that can be written down: its password, and every parameter that may be one, is a mark."""
    secrets = {"password": str(url.password)} if url.password is not None else {}
    plain = url.set(password=Plain.mark("password")) if secrets else url
    for key, value in url.query.items():
        if key not in _SHOWN:
            secrets[key] = value if isinstance(value, str) else value[0]
            plain = plain.update_query_dict({key: Plain.mark(key)})
    return Plain(plain.render_as_string(hide_password=False), secrets)


def missing_file(url: URL) -> Path | None:
    """The file of a SQLite database, absolute, if this user sees none there; None for any other database."""
    name = str(url.database or "")
    if url.get_backend_name() != "sqlite" or name in {"", ":memory:"} or name.startswith("file:"):
        return None
    return None if os.path.exists(name) else Path(name).absolute()  # Path.exists would raise if a folder is closed


def connect(
    url: str, *, timeout: timedelta = timedelta(minutes=5), creates: bool = True, reads_only: bool = False
) -> Engine:
    """An engine whose connections are checked before use and never wait longer than `timeout` for an answer.

    PostgreSQL ends a statement itself then; a connection to a server that falls silent is closed on this side.

    creates: whether connecting creates a SQLite file that does not exist; else it fails
    reads_only: whether it belongs to somebody else: nothing can be written, and no file is created or changed

    Raises: ConfigError if it is not a URL, its driver is not installed, or SQLite's folder does not exist.
    """
    parsed = parse(url)
    backend = parsed.get_backend_name()
    if backend == "sqlite" and reads_only and parsed.database not in (None, "", ":memory:"):
        return create_engine(parsed, poolclass=NullPool, creator=lambda: _opened_read_only(parsed))
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        folder = Path(str(parsed.database)).parent
        if not folder.is_dir():
            msg = f"the folder of {redacted(parsed)} must exist; create it: mkdir -p {folder}"
            raise ConfigError(msg)
    try:
        engine = create_engine(
            parsed, pool_pre_ping=True, connect_args=_connect_args(parsed, timeout, reads_only=reads_only)
        )
    except (NoSuchModuleError, ModuleNotFoundError) as exc:
        name = getattr(exc, "name", None) or parsed.drivername
        driver = _DRIVERS.get(str(name))
        hint = f"pip install '{driver}'" if driver else "install its SQLAlchemy driver"
        msg = f"no driver for {redacted(parsed)}; {hint}"
        raise ConfigError(msg) from exc
    except (TypeError, ValueError) as exc:
        msg = f"{redacted(parsed)} is not a usable database URL: {without_passwords(str(exc))}"
        raise ConfigError(msg) from exc
    if backend == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        if not creates:
            event.listen(engine, "do_connect", lambda dialect, *_: _refuse_missing(parsed, dialect))
    if backend in {"postgresql", "mysql", "mariadb"}:
        _limit_waiting(engine, timeout)
    if backend == "postgresql":
        event.listen(engine, "handle_error", _close_cursor)
    if backend in {"mysql", "mariadb"} and reads_only:
        event.listen(engine, "connect", _forbid_writes)
    return engine


def _opened_read_only(url: URL) -> sqlite3.Connection:
    """A connection to a SQLite file that changes neither the file nor its folder.

    A file in WAL mode needs an index beside it. Where that can be neither found nor created, on a read-only mount, it
    is opened as one that nobody changes; every read opens it anew, so that it sees what has changed since.
    """
    if missing_file(url) is not None:
        msg = "unable to open database file: it does not exist"
        raise sqlite3.OperationalError(msg)
    try:
        return _opened(url)
    except sqlite3.OperationalError as exc:
        if "locked" in str(exc) or not _is_in_closed_folder(url):  # a file that is being written is never immutable
            raise
    return _opened(url, immutable="1")


def _opened(url: URL, **options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        _read_only_uri(url, **options), uri=True, timeout=BUSY_TIMEOUT.total_seconds(), check_same_thread=False
    )
    try:
        connection.execute("PRAGMA schema_version")  # only now is the file read
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _read_only_uri(url: URL, **options: str) -> str:
    name = str(url.database)
    given = {key: str(value) for key, value in url.query.items() if key in _SQLITE_URI_OPTIONS}
    base = name if name.startswith("file:") else f"file:{quote(name)}"
    return f"{base}?{urlencode(given | options | {'mode': 'ro'})}"


def _is_in_closed_folder(url: URL) -> bool:
    path = Path(unquote(str(url.database).removeprefix("file:")))
    return path.is_file() and not os.access(path.absolute().parent, os.W_OK)


def is_read_as_immutable(url: str) -> bool:
    """Whether a SQLite file can only be read as one that nobody changes (see `_opened_read_only`)."""
    parsed = parse(url)
    if parsed.get_backend_name() != "sqlite" or not _is_in_closed_folder(parsed):
        return False
    try:
        _opened(parsed).close()
    except sqlite3.OperationalError:
        return True
    return False


def _forbid_writes(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("SET SESSION TRANSACTION READ ONLY")
    cursor.close()


class _Patience:
    """Closes a connection of psycopg from which nothing has been heard for some seconds.

    The server's own limit does not reach a client that its answers do not reach: a firewall has forgotten the
    connection, or something between the two has fallen silent. Everything that psycopg asks goes through its `wait`:
    statements, COPY, the parts of a result, commits.
    """

    def __init__(self, connection: Any, seconds: float, error: type[Exception]) -> None:
        """error: psycopg's own, which it raises"""
        self.seconds = seconds
        self._error = error
        self._connection = connection
        self._usual = connection.wait
        connection.wait = self.wait

    def wait(self, dialogue: Any, *arguments: Any, **named: Any) -> Any:
        """The result of a dialogue with the server, a generator that is told what its socket is ready for."""
        return self._usual(self._heard(dialogue), *arguments, **named)

    def _heard(self, dialogue: Any) -> Generator[Any, int, Any]:
        heard = time.monotonic()
        try:
            wanted = next(dialogue)
            while True:
                ready = yield wanted  # 0 several times a second while there is nothing
                if ready:
                    heard = time.monotonic()
                elif time.monotonic() > heard + self.seconds:
                    self._hang_up()
                wanted = dialogue.send(ready)
        except StopIteration as exc:
            return exc.value

    def _hang_up(self) -> NoReturn:
        self._connection.close()
        msg = f"nothing heard for {self.seconds:g} s; the connection was closed"
        raise self._error(msg)


@contextmanager
def _within(connection: Any, seconds: float) -> Iterator[None]:
    """Waits no longer than some seconds for an answer of a server, where the driver is psycopg or PyMySQL."""
    # PyMySQL has no other way to change the limit of a connection; it sets its socket's by it before each answer
    patience = getattr(connection, _PATIENCE, None)
    holder, name = (connection, "_read_timeout") if patience is None else (patience, "seconds")
    before = getattr(holder, name, None)
    if before is None:
        yield
        return
    setattr(holder, name, min(before, seconds))
    try:
        yield
    finally:
        setattr(holder, name, before)


def _close_cursor(context: ExceptionContext) -> None:
    """Closes the cursor of a broken connection, which SQLAlchemy 2.1 leaves open: psycopg warns of that."""
    execution: Any = context.execution_context
    if context.is_disconnect and execution is not None:
        with suppress(Exception):
            execution.cursor.close()


def _limit_waiting(engine: Engine, timeout: timedelta) -> None:
    """Ends what a connection that falls silent is asked, and sooner the check whether it has while nobody used it."""
    seconds, driver = timeout.total_seconds(), engine.dialect.loaded_dbapi

    def on_connect(connection: Any, _record: object) -> None:
        if engine.dialect.driver == "psycopg":
            # a second more than the server takes to end a statement itself, which leaves the connection usable
            setattr(connection, _PATIENCE, _Patience(connection, seconds + 1.0, driver.OperationalError))
        elif hasattr(connection, "_read_timeout"):
            connection._read_timeout = seconds

    ping: Any = engine.dialect.do_ping

    def do_ping(connection: Any) -> bool:
        with _within(connection, BUSY_TIMEOUT.total_seconds()):
            return bool(ping(connection))

    event.listen(engine, "connect", on_connect)
    engine.dialect.do_ping = do_ping  # type: ignore[method-assign, assignment]  # of this engine only


def _refuse_missing(url: URL, dialect: Any) -> None:
    """Fails as SQLite does for a file that it may not create."""
    if missing_file(url) is not None:
        msg = "unable to open database file: it does not exist"
        raise dialect.loaded_dbapi.OperationalError(msg)


def _connect_args(url: URL, timeout: timedelta, *, reads_only: bool) -> dict[str, Any]:
    seconds = max(1, round(timeout.total_seconds()))
    connect_seconds = round(BUSY_TIMEOUT.total_seconds())
    match url.get_backend_name():
        case "postgresql":
            # UTC makes naive and aware timestamp columns mean the same
            options = (
                f"-c statement_timeout={seconds * 1000} -c timezone=UTC -c idle_in_transaction_session_timeout=600000"
            )
            # of a database without an encoding (SQL_ASCII) psycopg would else give bytes, which SQLAlchemy cannot take
            options += " -c client_encoding=UTF8"
            options += " -c default_transaction_read_only=on" if reads_only else ""
            alive = {name: value for name, value in _KEEPALIVE.items() if name not in url.query}
            return {"connect_timeout": connect_seconds, "options": options, **alive}
        case "mysql" | "mariadb":
            return {
                "connect_timeout": connect_seconds,
                "read_timeout": min(seconds, connect_seconds),  # of the login; `_limit_waiting` sets that of statements
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
    """A connection for one read; SQLite is interrupted when the time is over, servers see to that themselves.

    A connection to a server that falls silent for so long is given up.
    """
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        if engine.dialect.name != "sqlite":
            with _within(driver, timeout.total_seconds() + 1.0):
                yield connection
            return
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
        if driver.closed:
            connection.invalidate(exc)  # or SQLAlchemy would roll back, which cannot be done
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
    return without_passwords(" ".join(str(exc.orig).split()))


def without_passwords(words: str) -> str:
    """A driver's words without the user and password of a URL in them, nor what follows `password=`."""
    return _CREDENTIALS.sub("***", words)


def ping(engine: Engine) -> None:
    """Asks the database for a 1.

    Raises: an error of SQLAlchemy if it does not answer.
    """
    with reading(engine, BUSY_TIMEOUT) as connection:
        connection.execute(text("SELECT 1"))
