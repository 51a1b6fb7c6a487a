"""The detector's own database over a connection that falls silent: every statement ends, and a new one works.

SQLite is a file of this machine: it has no connection that could fall silent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta

import pytest
from commits import T0, commit
from lines import Line
from migrated import migrate
from running import until
from sqlalchemy import Connection, Engine, event, select, text
from sqlalchemy.exc import DBAPIError

from detector import database
from detector.daemon import health
from detector.errors import StaleState, StoreError
from detector.store.state import StateStore
from detector.tables import cursor, sample

pytestmark = pytest.mark.slow

LIMIT = timedelta(seconds=1)


@pytest.fixture(params=["postgresql", pytest.param("mariadb", marks=pytest.mark.mysql)])
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    """A line to a migrated database."""
    url = str(request.getfixturevalue(f"{request.param.replace('postgresql', 'postgres')}_database"))
    engine = database.connect(url)
    migrate(engine)
    engine.dispose()
    line = Line(url)
    yield line
    line.close()


@pytest.fixture
def engine(line: Line) -> Iterator[Engine]:
    """The engine of a store with a limit of a second, through the line."""
    engine = database.connect(line.url, timeout=LIMIT)
    yield engine
    engine.dispose()


def _select(connection: Connection) -> None:
    connection.execute(select(cursor))


def _insert(connection: Connection) -> None:
    rows = [(1, number, 1.0) for number in range(10_000)]
    database.insert_rows(connection, sample, columns=("series_id", "ts", "value"), rows=rows)


def _commit(connection: Connection) -> None:
    connection.commit()


@pytest.mark.parametrize("statement", [_select, _insert, _commit])
def test_a_statement_in_flight_ends_within_its_limit(
    line: Line, engine: Engine, statement: Callable[[Connection], None]
) -> None:  # x06
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        line.fall_silent()

        began = time.monotonic()
        with pytest.raises(DBAPIError) as caught:
            statement(connection)

        assert time.monotonic() - began < 6
        assert database.is_unavailable(caught.value)


def test_a_tick_that_is_being_committed_fails_and_the_next_one_goes_through(line: Line, engine: Engine) -> None:
    store = StateStore(engine)
    event.listen(engine, "commit", lambda _connection: line.fall_silent(), once=True)

    began = time.monotonic()
    with pytest.raises(StoreError, match="refused"):
        store.commit(commit())
    assert time.monotonic() - began < 6

    line.end()  # the server has noticed too, and lets go of what the transaction held
    with suppress(StaleState):  # whether the first one went through is not known
        store.commit(commit())
    assert store.cursor("web") == T0


def test_a_connection_that_fell_silent_while_nobody_used_it_is_replaced(line: Line, engine: Engine) -> None:
    store = StateStore(engine)
    assert store.cursor("web") is None
    line.fall_silent()

    began = time.monotonic()
    assert store.cursor("web") is None

    assert time.monotonic() - began < 6


def test_readiness_is_answered_within_two_seconds(line: Line) -> None:
    engine = database.connect(line.url)  # with the daemon's own limit, minutes
    database.ping(engine)
    asked = health.Ping(lambda: database.ping(engine))
    assert asked.problem() is None
    line.fall_silent()

    began = time.monotonic()
    assert asked.problem() == "database: no answer for 1.5 s"

    assert time.monotonic() - began < 2
    line.end()
    until(lambda: asked.problem() is None, "the database to answer again")
    engine.dispose()


def test_a_server_that_takes_connections_and_says_nothing_is_not_waited_for(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT", timedelta(seconds=2))
    line.after = 0
    engine = database.connect(line.url)

    began = time.monotonic()
    with pytest.raises(DBAPIError):
        database.ping(engine)

    assert time.monotonic() - began < 8
    engine.dispose()
