"""Local times without offset in the hour that comes twice: every read dates a row alike, on every database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Column, DateTime, Engine, Float, Index, Integer, MetaData, String, Table, insert

from detector import database
from detector.sources.sql import SqlSource, TableSpec

MINUTE = 60_000
HOUR = 60 * MINUTE
MIDNIGHT = 1_792_886_400_000  # 2026-10-25T00:00:00Z, 02:00 in Berlin; an hour later it is 02:00 again
TIMES = range(MIDNIGHT - 30 * MINUTE, MIDNIGHT + 150 * MINUTE, 10 * MINUTE)
BERLIN = ZoneInfo("Europe/Berlin")
SPEC = TableSpec(metrics=("cpu",), table="s", entity=("host",), time_zone="Europe/Berlin")

Row = tuple[str, int, float]
"""Host, minutes since midnight in UTC, value."""


def _row(host: str, at: int) -> dict[str, object]:
    """A row as a logger writes it; its value says when that was: minutes since midnight in UTC."""
    local = datetime.fromtimestamp(at / 1000, UTC).astimezone(BERLIN).replace(tzinfo=None)
    return {"host": host, "time": local, "name": "cpu", "cpu": (at - MIDNIGHT) / MINUTE}


WRITTEN = [_row(host, at) for at in TIMES for host in ("a", "b")]
MEANT: list[Row] = sorted((host, minute, float(minute)) for host in ("a", "b") for minute in range(-30, 150, 10))


def _table(engine: Engine, rows: Sequence[dict[str, object]], *, is_numbered: bool = True) -> None:
    """A table with an index that tempts databases to read it in order of time."""
    number: list[Column[Any]] = [Column("id", Integer, primary_key=True)] if is_numbered else []
    columns: list[Column[Any]] = [
        Column("host", String(20)),
        Column("time", DateTime),
        Column("name", String(20)),
        Column("cpu", Float),
    ]
    table = Table("s", MetaData(), *number, *columns, Index("by_time", "time"))
    table.create(engine)
    with engine.begin() as connection:
        connection.execute(insert(table), rows)


def _read(source: SqlSource, start: int, end: int) -> list[Row]:
    """Rows in a range of minutes since midnight."""
    found = source.read(MIDNIGHT + start * MINUTE, MIDNIGHT + end * MINUTE)
    columns = found.entity.tolist(), found.time.tolist(), found.value.tolist()
    return sorted(
        (found.entities[entity], (at - MIDNIGHT) // MINUTE, value) for entity, at, value in zip(*columns, strict=True)
    )


def test_each_row_is_read_at_the_time_it_was_written(engine: Engine) -> None:  # c06
    _table(engine, WRITTEN)

    assert _read(SqlSource(engine, SPEC), -60, 200) == MEANT


@pytest.mark.parametrize("width", [10, 30, 45, 60, 90])
def test_however_a_range_is_cut_the_rows_are_the_same(engine: Engine, width: int) -> None:
    _table(engine, WRITTEN)
    source = SqlSource(engine, SPEC)

    found = [row for start in range(-60, 200, width) for row in _read(source, start, start + width)]

    assert sorted(found) == MEANT


def test_rows_of_one_metric_each_are_dated_alike(engine: Engine) -> None:
    _table(engine, [*WRITTEN, *({**row, "name": "other"} for row in WRITTEN)])
    spec = TableSpec(**{**vars(SPEC), "metric": "name", "value": "cpu"})

    assert _read(SqlSource(engine, spec), -60, 200) == MEANT


@pytest.mark.parametrize("order", ["id", "id DESC", "time, id"])
def test_a_query_is_read_in_the_order_it_gives(engine: Engine, order: str) -> None:
    _table(engine, WRITTEN)
    query = f"SELECT host, time, cpu FROM s WHERE time >= :start AND time < :end ORDER BY {order}"
    source = SqlSource(engine, TableSpec(**{**vars(SPEC), "table": "", "query": query}))

    assert _read(source, 0, 60) == [row for row in MEANT if 0 <= row[1] < 60]
    assert _read(source, 60, 120) == [row for row in MEANT if 60 <= row[1] < 120]


@pytest.mark.parametrize(("minutes", "newest"), [(40, 40), (70, 70), (110, 110), (130, 130)])
def test_the_newest_row_is_the_one_written_last(engine: Engine, minutes: int, newest: int) -> None:
    _table(engine, [_row("a", at) for at in TIMES if at <= MIDNIGHT + minutes * MINUTE])

    assert SqlSource(engine, SPEC).extent(MIDNIGHT + minutes * MINUTE) == (TIMES[0], MIDNIGHT + newest * MINUTE)


def test_the_first_time_around_is_read_alike_before_and_after_the_second(engine: Engine) -> None:
    now = MIDNIGHT + 60 * MINUTE
    _table(engine, [row for row in WRITTEN if float(str(row["cpu"])) < 60])
    source = SqlSource(engine, SPEC)

    assert _read(source, 0, 60) == [row for row in MEANT if 0 <= row[1] < 60]
    assert source.extent(now - MINUTE) is not None


def test_a_table_of_one_row_for_each_local_time_has_them_in_both_hours(engine: Engine) -> None:
    once = [row for row in WRITTEN if not 0 <= float(str(row["cpu"])) < 60]  # the second time around wrote over them
    _table(engine, once, is_numbered=False)
    source = SqlSource(engine, SPEC)

    assert [row[1:] for row in _read(source, 60, 120)] == 2 * [(minute, float(minute)) for minute in range(60, 120, 10)]
    assert [row[1:] for row in _read(source, 0, 60)] == 2 * [
        (minute, float(minute + 60)) for minute in range(0, 60, 10)
    ]


@pytest.mark.slow
def test_a_heap_whose_freed_space_is_used_again_keeps_the_order(postgres_database: str) -> None:
    engine = database.connect(postgres_database)
    old = [_row("c", MIDNIGHT - 30 * 24 * HOUR - n * MINUTE) for n in range(1000)]
    first = [row for row in WRITTEN if float(str(row["cpu"])) < 60]
    _table(engine, [*old, *first], is_numbered=False)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("DELETE FROM s WHERE host = 'c'")
        connection.exec_driver_sql("VACUUM s")
    with engine.begin() as connection:
        table = Table("s", MetaData(), autoload_with=connection)
        connection.execute(insert(table), WRITTEN[len(first) :])
        places = connection.exec_driver_sql("SELECT cpu FROM s ORDER BY ctid").scalars().all()
    assert places[0] == 60.0  # what is written last stands first

    assert _read(SqlSource(engine, SPEC), -60, 200) == MEANT
    engine.dispose()


def test_times_with_an_offset_are_left_alone(postgres_database: str) -> None:
    engine = database.connect(postgres_database)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE s (host TEXT, time TIMESTAMPTZ, cpu FLOAT)")
        connection.exec_driver_sql(
            "INSERT INTO s SELECT 'a', timestamptz '2026-10-25 00:00+00' + n * interval '10 min', n * 10"
            " FROM generate_series(0, 5) n"
        )
    source = SqlSource(engine, SPEC)

    assert _read(source, -60, 200) == [("a", minute, float(minute)) for minute in range(0, 60, 10)]
    engine.dispose()
