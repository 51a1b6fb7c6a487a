"""A row that cannot be read is counted and named, and leaves every other row as it is: on every database."""

from __future__ import annotations

import gc
import math
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from detector import database
from detector.core.rejects import Reject
from detector.core.series import Samples
from detector.errors import SourceError
from detector.sources.sql import SqlSource, TableSpec

MINUTE, DAY = 60_000, 86_400_000
T0 = 1_795_435_200_000  # 2026-11-23T12:00:00Z
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
ROWS = 10
NOW = T0 + ROWS * MINUTE

SPEC = TableSpec(metrics=("cpu",), table="s", entity=("host",))
EPOCH = TableSpec(metrics=("cpu",), table="s", entity=("host",), time_format="epoch_seconds")


def _minutes(samples: Samples, entity: str = "web") -> list[int]:
    rows = samples.entity == samples.entities.index(entity) if entity in samples.entities else slice(0, 0)
    return sorted((samples.time[rows] - T0).astype(int).tolist())


EVERY_MINUTE = [MINUTE * n for n in range(ROWS)]


def _reasons(found: tuple[Reject, ...]) -> dict[str, int]:
    return {reject.reason: reject.rows for reject in found}


def _good(engine: Engine, time: str, write: Callable[[datetime], Any], *, columns: str = "") -> None:
    with engine.begin() as connection:
        double = "REAL" if engine.dialect.name == "sqlite" else "DOUBLE PRECISION"
        connection.exec_driver_sql(f"CREATE TABLE s (time {time}, host VARCHAR(300), cpu {double}{columns})")
        rows = [{"t": write(NOON + timedelta(minutes=n)), "v": float(n)} for n in range(ROWS)]
        connection.execute(text("INSERT INTO s (time, host, cpu) VALUES (:t, 'web', :v)"), rows)


def _add(engine: Engine, time: Any, host: Any = "bad", cpu: Any = 1.0) -> None:
    with engine.begin() as connection:
        statement = text("INSERT INTO s (time, host, cpu) VALUES (:t, :h, :v)")
        connection.execute(statement, {"t": time, "h": host, "v": cpu})


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Engine]:
    engine = database.connect(f"sqlite:///{tmp_path}/source.db")
    yield engine
    engine.dispose()


def _blank(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")


# -- one bad time (c02, c21, c34, x01) ----


def _everything_is_there(source: SqlSource) -> None:
    assert _minutes(source.read(T0, NOW)) == EVERY_MINUTE
    assert source.extent(NOW) == (T0, NOW - MINUTE)


@pytest.mark.parametrize(
    "bad", ["0000-00-00 00:00:00", "", "n/a", "25.11.2026 23:59", 1_795_435_200, None, b"\xff\x00"]
)
def test_a_text_that_is_no_time_leaves_the_other_rows_alone(sqlite: Engine, bad: Any) -> None:
    _good(sqlite, "TEXT", _blank)
    _add(sqlite, bad)
    source = SqlSource(sqlite, SPEC)

    _everything_is_there(source)
    assert _reasons(source.rejects(NOW)) == {"time": 1}


@pytest.mark.parametrize("bad", ["2026-11-23 12:05:61", "2026-11-23 12:0x:00"])
def test_a_text_that_looks_like_a_time_of_the_range_is_a_reject_of_the_read(sqlite: Engine, bad: str) -> None:
    _good(sqlite, "TEXT", _blank)
    _add(sqlite, bad)
    source = SqlSource(sqlite, SPEC)

    _everything_is_there(source)
    assert source.read(T0, NOW).rejects == (Reject("time", 1, bad),)


@pytest.mark.parametrize("bad", [T0, 0, 12, -T0, 1e308, -1e308, None, "n/a", ""])
def test_a_number_that_is_no_time_leaves_the_other_rows_alone(sqlite: Engine, bad: Any) -> None:
    _good(sqlite, "INTEGER", lambda at: int(at.timestamp()))
    _add(sqlite, bad)
    source = SqlSource(sqlite, EPOCH)

    _everything_is_there(source)
    assert _reasons(source.rejects(NOW)) == {"time": 1}


def test_milliseconds_in_a_column_of_seconds_leave_the_other_rows_alone(engine: Engine) -> None:
    _good(engine, "BIGINT", lambda at: int(at.timestamp()))
    _add(engine, T0)
    source = SqlSource(engine, EPOCH)

    _everything_is_there(source)
    assert source.rejects(NOW) == (Reject("time", 1, str(T0)),)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["TIMESTAMP", "TIMESTAMPTZ", "DATE"])
@pytest.mark.parametrize("bad", ["infinity", "-infinity", "0044-03-15 BC", "20000-01-01", "10001-01-01"])
def test_times_that_only_postgresql_knows_leave_the_other_rows_alone(
    postgres_database: str, kind: str, bad: str
) -> None:
    engine = database.connect(postgres_database)
    _good(engine, kind, lambda at: at + (at - NOON) * 1439 if kind == "DATE" else at)
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO s VALUES ('{bad}', 'bad', 1)"))
    source = SqlSource(engine, SPEC)
    from_query = SqlSource(
        engine, TableSpec(metrics=("cpu",), query="SELECT * FROM s WHERE :start < :end", entity=("host",))
    )
    later = NOW + 10 * DAY

    assert len(source.read(T0 - DAY, later)) == len(from_query.read(T0 - DAY, later)) == ROWS
    assert source.extent(later) == from_query.extent(later)
    assert _reasons(source.rejects(later)) == _reasons(from_query.read(T0 - DAY, later).rejects) == {"time": 1}
    engine.dispose()


@pytest.mark.parametrize(
    ("bad", "reason"), [("1970-01-01", "time"), ("9999-12-31 23:59:59", "time"), ("2150-01-01", "future")]
)
def test_a_time_far_from_all_others_is_left_out_of_the_extent(engine: Engine, bad: str, reason: str) -> None:
    kind = {"sqlite": "TEXT", "postgresql": "TIMESTAMP"}.get(engine.dialect.name, "DATETIME")
    _good(engine, kind, _blank)
    _add(engine, bad)
    source = SqlSource(engine, SPEC)

    _everything_is_there(source)
    assert _reasons(source.rejects(NOW)) == {reason: 1}


@pytest.mark.mysql
@pytest.mark.slow
def test_a_zero_date_leaves_the_other_rows_alone(mariadb_database: str) -> None:
    engine = database.connect(mariadb_database)
    _good(engine, "DATETIME", _blank)
    with engine.begin() as connection:
        connection.exec_driver_sql("SET sql_mode=''")
        connection.exec_driver_sql("INSERT INTO s VALUES ('0000-00-00 00:00:00', 'bad', 1)")
    source = SqlSource(engine, SPEC)

    _everything_is_there(source)
    assert source.rejects(NOW) == (Reject("time", 1, "0000-00-00 00:00:00"),)
    engine.dispose()


@pytest.mark.mysql
@pytest.mark.slow
def test_numbers_where_timestamps_are_configured_are_named(mariadb_database: str) -> None:
    engine = database.connect(mariadb_database)
    _good(engine, "BIGINT", lambda at: int(at.timestamp()))
    source = SqlSource(engine, SPEC)

    assert source.extent(NOW) is None
    assert source.rejects(NOW) == (Reject("time", ROWS, str(T0 // 1000)),)
    engine.dispose()


def test_rows_of_the_future_are_rejects_until_their_time_comes(engine: Engine) -> None:
    _good(engine, "BIGINT", lambda at: int(at.timestamp()))
    _add(engine, NOW // 1000 + 7200)
    source = SqlSource(engine, EPOCH)

    assert source.extent(NOW) == (T0, NOW - MINUTE)
    assert _reasons(source.rejects(NOW)) == {"future": 1}
    assert source.extent(NOW + 7200_000 + MINUTE) == (T0, NOW + 7200_000)
    assert source.rejects(NOW + 7200_000 + MINUTE) == ()


def test_rows_of_the_following_days_are_rejects_in_every_spelling(sqlite: Engine) -> None:
    _good(sqlite, "TEXT", lambda moment: f"{moment:%F %T}")
    hours = (1, 9, 14, 38)  # two of the same day, two behind midnight
    for ahead in hours:
        for spelling in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y%m%dT%H%M%S"):
            _add(sqlite, (NOON + timedelta(hours=ahead)).strftime(spelling))

    assert _reasons(SqlSource(sqlite, SPEC).rejects(NOW)) == {"future": 3 * len(hours)}


def test_many_rejects_are_counted_up_to_a_thousand(sqlite: Engine) -> None:
    _good(sqlite, "INTEGER", lambda at: int(at.timestamp()))
    with sqlite.begin() as connection:
        connection.execute(text("INSERT INTO s VALUES (:t, 'bad', 1)"), [{"t": T0 + n} for n in range(5000)])

    assert _reasons(SqlSource(sqlite, EPOCH).rejects(NOW)) == {"time": 1000}


# -- text times whose form changes (c01) ----

FORMS: dict[str, Callable[[datetime], str]] = {
    "blank": _blank,
    "T and Z": lambda at: at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "fraction": lambda at: at.strftime("%Y-%m-%d %H:%M:%S.%f"),
    "no seconds": lambda at: at.strftime("%Y-%m-%d %H:%M"),
    "basic": lambda at: at.strftime("%Y%m%dT%H%M%S"),
    "+05:30": lambda at: at.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat(),
    "-05:00": lambda at: at.astimezone(timezone(timedelta(hours=-5))).isoformat(sep=" "),
    "+14:00": lambda at: at.astimezone(timezone(timedelta(hours=14))).isoformat(),
}


@pytest.mark.parametrize("before", FORMS)
@pytest.mark.parametrize("after", FORMS)
@pytest.mark.parametrize("layout", ["", " WITHOUT ROWID"], ids=["rowid", "without rowid"])
def test_rows_are_compared_as_times_however_each_is_written(
    tmp_path: Path, before: str, after: str, layout: str
) -> None:
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        connection.execute("PRAGMA synchronous=OFF")  # thirty commits of each of 128 cases need not wait for the disk
        connection.execute(f"CREATE TABLE s (time TEXT, host TEXT, cpu REAL, PRIMARY KEY (time, host)){layout}")
        connection.commit()
        source = SqlSource(database.connect(f"sqlite:///{tmp_path}/s.db"), SPEC)
        for n in range(3 * ROWS):
            written = FORMS[before if n < ROWS else after](NOON + timedelta(minutes=n))
            connection.execute("INSERT INTO s VALUES (?, 'web', ?)", (written, n))
            connection.commit()
            if n % 7 == 6:  # the program reads while the form changes
                assert _minutes(source.read(T0 + (n - 6) * MINUTE, T0 + (n + 1) * MINUTE)) == [
                    MINUTE * m for m in range(n - 6, n + 1)
                ]

    assert _minutes(source.read(T0, T0 + DAY)) == [MINUTE * n for n in range(3 * ROWS)]
    assert source.extent(T0 + DAY) == (T0, T0 + (3 * ROWS - 1) * MINUTE)
    assert source.rejects(T0 + 40 * MINUTE) == ()
    source._engine.dispose()


# -- names (x02, c34) ----


def test_the_garbage_collector_works_again_after_a_read_and_after_one_that_fails(sqlite: Engine) -> None:
    _good(sqlite, "TEXT", lambda moment: f"{moment:%F %T}")
    SqlSource(sqlite, SPEC).read(T0, NOW)
    assert gc.isenabled()
    with pytest.raises(SourceError):
        SqlSource(sqlite, replace(SPEC, metrics=("gone",))).read(T0, NOW)
    assert gc.isenabled()


def test_bytes_that_are_no_utf8_cost_one_entity(sqlite: Engine) -> None:
    _good(sqlite, "TEXT", _blank)
    with sqlite.begin() as connection:
        connection.exec_driver_sql("INSERT INTO s VALUES ('2026-11-23 12:00:00', CAST(x'636166e9' AS TEXT), 1)")
    source = SqlSource(sqlite, SPEC)

    samples = source.read(T0, NOW)

    assert samples.entities == ("web",)
    assert samples.rejects == (Reject("entity", 1, r"caf\xe9"),)


def test_bytes_that_are_no_utf8_in_a_time_cost_one_row(sqlite: Engine) -> None:
    _good(sqlite, "TEXT", _blank)
    with sqlite.begin() as connection:
        connection.exec_driver_sql("INSERT INTO s VALUES (CAST(x'323032362d31e9' AS TEXT), 'bad', 1)")
    source = SqlSource(sqlite, SPEC)

    _everything_is_there(source)


@pytest.mark.parametrize("name", ["n" * 192, "a\0b", None], ids=["long", "NUL", "NULL"])
def test_a_name_that_cannot_be_stored_costs_one_entity(sqlite: Engine, name: str | None) -> None:
    _good(sqlite, "TEXT", _blank)
    _add(sqlite, "2026-11-23 12:00:00", name)

    samples = SqlSource(sqlite, SPEC).read(T0, NOW)

    assert samples.entities == ("web",)
    assert _reasons(samples.rejects) == {"entity": 1}
    assert len(samples.rejects[0].example) <= 80
    assert samples.rejects[0].example.isprintable()


@pytest.mark.parametrize("start", [T0, T0 + 9 * MINUTE + 1], ids=["beside the other", "alone"])
def test_a_name_that_differs_by_trailing_blanks_is_never_taken_for_another(engine: Engine, start: int) -> None:
    _good(engine, "BIGINT", lambda at: int(at.timestamp()))
    _add(engine, T0 // 1000 + 9 * 60 + 30, "web ")

    samples = SqlSource(engine, EPOCH).read(start, NOW)

    assert _minutes(samples) == [minute for minute in EVERY_MINUTE if T0 + minute >= start]
    assert samples.rejects == (Reject("entity", 1, "web "),)


def test_parts_of_names_that_differ_by_trailing_blanks_are_not_merged(sqlite: Engine) -> None:
    _good(sqlite, "TEXT", _blank, columns=", disk TEXT DEFAULT 'sda'")
    _add(sqlite, "2026-11-23 12:00:00", "web ")

    samples = SqlSource(sqlite, replace(SPEC, entity=("host", "disk"))).read(T0, NOW)

    assert sorted(samples.entities) == ["web /sda", "web/sda"]


@pytest.mark.mysql
@pytest.mark.slow
def test_a_metric_that_differs_by_trailing_blanks_is_named(mariadb_database: str) -> None:
    engine = database.connect(mariadb_database)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE s (time DATETIME, host VARCHAR(40), name VARCHAR(40), value FLOAT)")
        connection.exec_driver_sql("INSERT INTO s VALUES ('2026-11-23 12:00', 'web', 'cpu ', 1)")
    spec = TableSpec(metrics=("cpu",), table="s", entity=("host",), metric="name", value="value")

    assert SqlSource(engine, spec).read(T0, NOW).rejects == (Reject("metric", 1, "cpu "),)
    engine.dispose()


@pytest.mark.parametrize("kind", ["CHAR(20)", "VARCHAR(20)"])
def test_columns_that_pad_with_blanks_give_names_without(engine: Engine, kind: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE s (time BIGINT, host {kind}, name {kind}, value FLOAT)")
        connection.exec_driver_sql(f"INSERT INTO s VALUES ({T0 // 1000}, 'web', 'cpu', 5)")
    spec = TableSpec(
        metrics=("cpu",), table="s", entity=("host",), metric="name", value="value", time_format="epoch_seconds"
    )

    samples = SqlSource(engine, spec).read(T0, NOW)

    assert samples.entities == ("web",)
    assert samples.value.tolist() == [5.0]


# -- MariaDB's types (c34) ----


@pytest.mark.mysql
@pytest.mark.slow
def test_binary_names_and_bits_of_mariadb_are_read(mariadb_database: str) -> None:
    engine = database.connect(mariadb_database)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE s (time DATETIME, host VARBINARY(40), name VARBINARY(40), value BIT(8))"
        )
        connection.exec_driver_sql("INSERT INTO s VALUES ('2026-11-23 12:00', 'web', 'cpu', 1)")
        connection.exec_driver_sql("INSERT INTO s VALUES ('2026-11-23 12:01', 'web', 'cpu', 49)")
        connection.exec_driver_sql("INSERT INTO s VALUES ('2026-11-23 12:02', x'636166e9', 'cpu', 0)")
    spec = TableSpec(metrics=("cpu",), table="s", entity=("host",), metric="name", value="value")

    samples = SqlSource(engine, spec).read(T0, NOW)

    assert samples.entities == ("web",)
    assert samples.value.tolist() == [1.0, 49.0]
    assert samples.rejects == (Reject("entity", 1, r"caf\xe9"),)
    engine.dispose()


@pytest.mark.mysql
@pytest.mark.slow
def test_a_metric_that_only_the_database_takes_for_the_monitors_is_named(mariadb_database: str) -> None:
    engine = database.connect(mariadb_database)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE s (time DATETIME, host VARCHAR(40), name VARCHAR(40), value FLOAT)")
        connection.exec_driver_sql("INSERT INTO s VALUES ('2026-11-23 12:00', 'web', 'CPU', 1)")
    spec = TableSpec(metrics=("cpu",), table="s", entity=("host",), metric="name", value="value")

    assert SqlSource(engine, spec).read(T0, NOW).rejects == (Reject("metric", 1, "CPU"),)
    engine.dispose()


# -- values ----


@pytest.mark.parametrize("written", [None, "", "n/a", "NaN", " NULL "])
def test_a_value_that_says_it_is_missing_is_no_reject(sqlite: Engine, written: str | None) -> None:
    _good(sqlite, "TEXT", _blank)
    _add(sqlite, "2026-11-23 12:00:00", cpu=written)

    samples = SqlSource(sqlite, SPEC).read(T0, NOW)

    assert samples.rejects == ()
    assert math.isnan(samples.value[samples.entity == samples.entities.index("bad")][0])


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e39])
def test_a_value_that_is_infinite_is_missing_and_counted(sqlite: Engine, value: float) -> None:
    _good(sqlite, "TEXT", lambda moment: f"{moment:%F %T}")
    _add(sqlite, f"{NOON:%F %T}", "web-2", value)

    samples = SqlSource(sqlite, SPEC).read(T0, NOW)

    assert _reasons(samples.rejects) == {"value": 1}
    assert _minutes(samples) == EVERY_MINUTE


def test_a_value_that_cannot_be_read_is_missing_and_counted(sqlite: Engine) -> None:
    _good(sqlite, "TEXT", _blank)
    _add(sqlite, "2026-11-23 12:00:00", cpu="12,5 \x1b[31m")

    samples = SqlSource(sqlite, SPEC).read(T0, NOW)

    assert samples.rejects == (Reject("value", 1, r"12,5 \x1b[31m"),)
    assert len(samples) == ROWS + 1


# -- the extent ----


def test_the_extent_of_a_long_table_is_that_of_the_monitors_metrics(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE s (time BIGINT, host VARCHAR(20), name VARCHAR(20), value FLOAT)")
        for minute, name in [(0, "disk"), (1, "cpu"), (2, "cpu"), (9, "disk")]:
            connection.exec_driver_sql(f"INSERT INTO s VALUES ({(T0 + minute * MINUTE) // 1000}, 'web', '{name}', 1)")
    spec = TableSpec(
        metrics=("cpu",), table="s", entity=("host",), metric="name", value="value", time_format="epoch_seconds"
    )

    assert SqlSource(engine, spec).extent(NOW) == (T0 + MINUTE, T0 + 2 * MINUTE)


def test_the_extent_of_a_query_is_asked_for_what_is_new_only(sqlite: Engine) -> None:
    _good(sqlite, "INTEGER", lambda at: int((at - timedelta(days=20)).timestamp()))
    _add(sqlite, T0 // 1000, "web")
    query = "SELECT * FROM s WHERE time >= :start AND time < :end"
    source = SqlSource(sqlite, TableSpec(metrics=("cpu",), query=query, entity=("host",), time_format="epoch_seconds"))
    assert source.extent(T0 + MINUTE) == (T0 - 20 * DAY, T0)

    asked: list[tuple[int, int]] = []
    event.listen(sqlite, "before_cursor_execute", lambda *call: asked.append(tuple(call[3])))
    for minute in range(2, 32):
        _add(sqlite, T0 // 1000 + 60 * (minute - 1), "web")
        asked.clear()
        assert source.extent(T0 + minute * MINUTE) == (T0 - 20 * DAY, T0 + (minute - 1) * MINUTE)
        assert all(end - start < 600 for start, end in asked)


def test_the_first_extent_of_a_query_reads_two_days_at_most(sqlite: Engine) -> None:
    with sqlite.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE s (time BIGINT, host TEXT, cpu REAL)")
        rows = [{"t": (T0 - n * 600_000) // 1000} for n in range(60 * 144)]  # sixty days
        connection.execute(text("INSERT INTO s VALUES (:t, 'web', 1)"), rows)
    query = "SELECT * FROM s WHERE time >= :start AND time < :end"
    source = SqlSource(sqlite, TableSpec(metrics=("cpu",), query=query, entity=("host",), time_format="epoch_seconds"))
    found: list[int] = []
    read = source.read
    source._query_extent._read = lambda start, end: found.append(len(read(start, end))) or read(start, end)  # type: ignore[func-returns-value]

    extent = source.extent(T0)

    assert extent is not None
    assert extent == (T0 - 30 * DAY, T0)
    assert sum(found) <= 2 * 144 + 7


def test_an_empty_query_has_no_extent_until_rows_come(sqlite: Engine) -> None:
    with sqlite.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE s (time BIGINT, host TEXT, cpu REAL)")
    query = "SELECT * FROM s WHERE time >= :start AND time < :end"
    source = SqlSource(sqlite, TableSpec(metrics=("cpu",), query=query, entity=("host",), time_format="epoch_seconds"))
    assert source.extent(T0) is None

    _add(sqlite, T0 // 1000 - 60)

    assert source.extent(T0 + MINUTE) == (T0 - MINUTE, T0 - MINUTE)
