"""What every source promises, on every database: the same rows give the same samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from migrated import migrate
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Engine,
    Float,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    event,
    insert,
    text,
)

from detector import database
from detector.core.rejects import Reject
from detector.core.series import Samples
from detector.errors import SourceError, SourceUnavailable
from detector.sources.embedded import EmbeddedSource
from detector.sources.memory import MemorySource
from detector.sources.sql import SqlSource, TableSpec
from detector.tables import sample, series

NAN = math.nan
T0 = 1_704_110_400_000  # 2024-01-01T12:00:00Z
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
MINUTE = 60_000
NOW = T0 + 60 * MINUTE

Sample = tuple[str, int, int, float]  # entity, metric, milliseconds after T0, value


def _rows(samples: Samples) -> list[Sample]:
    return sorted(
        (samples.entities[entity], metric, time - T0, value)
        for entity, metric, time, value in zip(
            samples.entity.tolist(),
            samples.metric.tolist(),
            samples.time.tolist(),
            samples.value.tolist(),
            strict=True,
        )
    )


def _table(engine: Engine, name: str, columns: Sequence[Any], rows: Sequence[Any]) -> None:
    table = Table(name, MetaData(), *columns)
    table.create(engine)
    with engine.begin() as connection:
        if rows:
            connection.execute(insert(table), rows)


def _minute(minute: int) -> datetime:
    return (NOON + timedelta(minutes=minute)).replace(tzinfo=None)


def _long(engine: Engine) -> None:
    columns = [Column("host", String(50)), Column("time", DateTime), Column("name", String(50)), Column("value", Float)]
    rows = [("b", 0, "cpu", 1.0), ("a", 1, "load", 2.0), ("a", 2, "disk", 3.0), ("a", 2, "cpu", 4.0)]
    _table(
        engine,
        "samples",
        columns,
        [{"host": host, "time": _minute(minute), "name": name, "value": value} for host, minute, name, value in rows],
    )


LONG = TableSpec(metrics=("cpu", "load"), table="samples", entity=("host",), metric="name", value="value")
WIDE = TableSpec(metrics=("cpu", "load"), table="wide", entity=("host",))


def _wide(engine: Engine) -> None:
    columns = [Column("host", String(50)), Column("time", DateTime), Column("load", Float), Column("cpu", Integer)]
    rows = [
        {"host": "a", "time": _minute(0), "load": 0.5, "cpu": 1},
        {"host": "b", "time": _minute(1), "load": None, "cpu": 2},
    ]
    _table(engine, "wide", columns, rows)


def test_a_long_table_has_a_row_per_sample(engine: Engine) -> None:
    _long(engine)

    samples = SqlSource(engine, LONG).read(T0, T0 + 10 * MINUTE)

    assert _rows(samples) == [("a", 0, 2 * MINUTE, 4.0), ("a", 1, MINUTE, 2.0), ("b", 0, 0, 1.0)]


def test_a_wide_table_has_a_column_per_metric(engine: Engine) -> None:
    _wide(engine)

    rows = _rows(SqlSource(engine, WIDE).read(T0, T0 + 10 * MINUTE))

    assert rows[:3] == [("a", 0, 0, 1.0), ("a", 1, 0, 0.5), ("b", 0, MINUTE, 2.0)]
    assert rows[3][:3] == ("b", 1, MINUTE)
    assert math.isnan(rows[3][3])


def test_a_query_may_select_and_compute_as_it_likes(engine: Engine) -> None:
    _wide(engine)
    query = "SELECT host, time, cpu * 2 AS cpu FROM wide WHERE time >= :start AND time < :end AND host LIKE 'a%'"
    spec = TableSpec(metrics=("cpu",), query=query, entity=("host",))

    assert _rows(SqlSource(engine, spec).read(T0, T0 + 10 * MINUTE)) == [("a", 0, 0, 2.0)]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, MINUTE, [0]), (0, MINUTE + 1, [0, 1]), (1, 2 * MINUTE, [1]), (MINUTE, MINUTE, []), (-MINUTE, 0, [])],
)
def test_a_read_holds_its_start_but_not_its_end(engine: Engine, start: int, end: int, expected: list[int]) -> None:
    _wide(engine)
    spec = TableSpec(metrics=("cpu",), table="wide", entity=("host",))

    samples = SqlSource(engine, spec).read(T0 + start, T0 + end)

    assert [time // MINUTE for _, _, time, _ in _rows(samples)] == expected


def test_a_query_keeps_to_the_range_even_if_it_returns_more(engine: Engine) -> None:
    _wide(engine)
    spec = TableSpec(metrics=("cpu",), query="SELECT * FROM wide WHERE :start < :end", entity=("host",))

    assert _rows(SqlSource(engine, spec).read(T0, T0 + MINUTE)) == [("a", 0, 0, 1.0)]


@pytest.mark.parametrize(("kind", "unit"), [("epoch_seconds", 1000), ("epoch_milliseconds", 1)])
def test_times_may_be_epoch_numbers(engine: Engine, kind: str, unit: int) -> None:
    rows = [{"t": (T0 + minute * MINUTE) // unit, "cpu": minute} for minute in range(4)]
    _table(engine, "epoch", [Column("t", BigInteger), Column("cpu", Float)], rows)
    spec = TableSpec(metrics=("cpu",), table="epoch", time="t", time_format=kind)

    samples = SqlSource(engine, spec).read(T0 + MINUTE, T0 + 3 * MINUTE)

    assert _rows(samples) == [("all", 0, MINUTE, 1.0), ("all", 0, 2 * MINUTE, 2.0)]
    assert SqlSource(engine, spec).extent(NOW) == (T0, T0 + 3 * MINUTE)


def test_epoch_seconds_may_have_fractions(engine: Engine) -> None:
    rows = [{"t": (T0 + offset) / 1000, "cpu": offset} for offset in (0, 250, 750)]
    _table(engine, "epoch", [Column("t", Float(53)), Column("cpu", Float)], rows)
    spec = TableSpec(metrics=("cpu",), table="epoch", time="t", time_format="epoch_seconds")

    assert [row[2] for row in _rows(SqlSource(engine, spec).read(T0 + 100, T0 + 1000))] == [250, 750]


def test_naive_timestamps_are_of_the_zone_that_is_configured(engine: Engine) -> None:
    local = datetime(2024, 1, 1, 13, 30)  # 12:30 UTC in Berlin's winter
    _table(engine, "t", [Column("time", DateTime), Column("cpu", Float)], [{"time": local, "cpu": 1}])
    source = SqlSource(engine, TableSpec(metrics=("cpu",), table="t", time_zone="Europe/Berlin"))

    assert _rows(source.read(T0 + 30 * MINUTE, T0 + 31 * MINUTE)) == [("all", 0, 30 * MINUTE, 1.0)]
    assert _rows(source.read(T0 + 90 * MINUTE, T0 + 91 * MINUTE)) == []
    assert source.extent(NOW) == (T0 + 30 * MINUTE,) * 2


def test_no_row_is_lost_when_clocks_are_set_forward(engine: Engine) -> None:
    change = 1_711_846_800_000  # 2024-03-31T01:00:00Z: in Berlin 02:00 becomes 03:00
    local = [datetime(2024, 3, 31, 1, 59), datetime(2024, 3, 31, 3, 0), datetime(2024, 3, 31, 3, 1)]
    rows = [{"time": time, "cpu": index} for index, time in enumerate(local)]
    _table(engine, "t", [Column("time", DateTime), Column("cpu", Float)], rows)
    source = SqlSource(engine, TableSpec(metrics=("cpu",), table="t", time_zone="Europe/Berlin"))

    samples = source.read(change - MINUTE, change + 2 * MINUTE)

    assert (samples.time - change).tolist() == [-MINUTE, 0, MINUTE]


def test_aware_timestamps_say_their_own_zone(postgres_database: str) -> None:
    engine = database.connect(postgres_database)
    berlin = datetime.fromisoformat("2024-01-01T13:30:00+01:00")
    columns = [Column("time", DateTime(timezone=True)), Column("cpu", Float)]
    _table(engine, "t", columns, [{"time": berlin, "cpu": 1}])

    for zone in ("UTC", "Europe/Berlin", "America/New_York"):
        source = SqlSource(engine, TableSpec(metrics=("cpu",), table="t", time_zone=zone))
        assert _rows(source.read(T0 + 30 * MINUTE, T0 + 31 * MINUTE)) == [("all", 0, 30 * MINUTE, 1.0)]
        assert source.extent(NOW) == (T0 + 30 * MINUTE,) * 2
    engine.dispose()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Engine]:
    engine = database.connect(f"sqlite:///{tmp_path}/source.db")
    yield engine
    engine.dispose()


@pytest.mark.parametrize(
    "written",
    [
        "2024-01-01 12:30:00",
        "2024-01-01T12:30:00",
        "2024-01-01T12:30:00Z",
        "2024-01-01 12:30:00.000000",
        "2024-01-01T12:30:00+00:00",
    ],
)
@pytest.mark.parametrize("from_query", [False, True], ids=["table", "query"])
def test_sqlite_may_write_timestamps_as_any_iso_text(sqlite: Engine, written: str, from_query: bool) -> None:
    rows = [{"time": f"2024-01-0{day}{written[10:]}", "cpu": 0} for day in (2, 3)]
    _table(sqlite, "t", [Column("time", String), Column("cpu", Float)], [{"time": written, "cpu": 1}, *rows])
    query = "SELECT time, cpu FROM t WHERE time >= :start AND time < :end"
    spec = TableSpec(metrics=("cpu",), query=query) if from_query else TableSpec(metrics=("cpu",), table="t")

    source = SqlSource(sqlite, spec)

    assert _rows(source.read(T0 + 30 * MINUTE, T0 + 31 * MINUTE)) == [("all", 0, 30 * MINUTE, 1.0)]
    assert _rows(source.read(T0 + 29 * MINUTE, T0 + 30 * MINUTE)) == []


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Tokyo"])
@pytest.mark.parametrize("written", ["2024-01-01T14:30:00+02:00", "2024-01-01 02:30:00-10:00", "2024-01-01 12:30:00Z"])
def test_a_table_of_sqlite_may_write_timestamps_with_an_offset(sqlite: Engine, written: str, zone: str) -> None:
    _table(sqlite, "t", [Column("time", String), Column("cpu", Float)], [{"time": written, "cpu": 1}])
    source = SqlSource(sqlite, TableSpec(metrics=("cpu",), table="t", time_zone=zone))

    assert _rows(source.read(T0 + 30 * MINUTE, T0 + 31 * MINUTE)) == [("all", 0, 30 * MINUTE, 1.0)]
    assert _rows(source.read(T0 + 29 * MINUTE, T0 + 30 * MINUTE)) == []


def test_a_table_of_sqlite_that_was_empty_at_first_is_read_in_full_later(sqlite: Engine) -> None:
    _table(sqlite, "t", [Column("time", String), Column("cpu", Float)], [])
    source = SqlSource(sqlite, TableSpec(metrics=("cpu",), table="t"))
    assert len(source.read(T0, T0 + MINUTE)) == 0

    with sqlite.begin() as connection:
        connection.execute(text("INSERT INTO t VALUES ('2024-01-01T12:00:00Z', 1)"))

    assert _rows(source.read(T0, T0 + MINUTE)) == [("all", 0, 0, 1.0)]


def test_a_range_may_end_within_a_second(engine: Engine) -> None:
    _wide(engine)
    source = SqlSource(engine, TableSpec(metrics=("cpu",), table="wide", entity=("host",)))

    assert [row[2] for row in _rows(source.read(T0, T0 + 1))] == [0]
    assert [row[2] for row in _rows(source.read(T0 + MINUTE, T0 + MINUTE + 500))] == [MINUTE]


def test_names_are_quoted_where_they_need_it(engine: Engine) -> None:
    columns = [Column("Order", String(20)), Column("select", DateTime), Column("CPU %", Float), Column("a:b", Float)]
    rows = [{"Order": "x", "select": _minute(0), "CPU %": 1.0, "a:b": 2.0}]
    _table(engine, "my table", columns, rows)
    spec = TableSpec(metrics=("CPU %", "a:b"), table="my table", entity=("Order",), time="select")

    assert _rows(SqlSource(engine, spec).read(T0, T0 + MINUTE)) == [("x", 0, 0, 1.0), ("x", 1, 0, 2.0)]
    assert SqlSource(engine, spec).extent(NOW) == (T0, T0)


def test_metric_names_are_values_and_never_sql(engine: Engine) -> None:
    _long(engine)
    spec = TableSpec(
        metrics=("'; DROP TABLE samples; --", "cpu"), table="samples", entity=("host",), metric="name", value="value"
    )

    SqlSource(engine, spec).read(T0, T0 + MINUTE)

    assert len(SqlSource(engine, LONG).read(T0, T0 + 10 * MINUTE)) == 3


@pytest.mark.parametrize("name", ["metrics.samples", "samples"], ids=["with schema", "without"])
def test_a_table_may_lie_in_a_schema(postgres_database: str, name: str) -> None:
    engine = database.connect(postgres_database)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA metrics"))
        connection.execute(text(f"CREATE TABLE {name} (time timestamptz, cpu float)"))
        connection.execute(text(f"INSERT INTO {name} VALUES ('2024-01-01T12:00:00Z', 1)"))

    source = SqlSource(engine, TableSpec(metrics=("cpu",), table=name))

    assert _rows(source.read(T0, T0 + MINUTE)) == [("all", 0, 0, 1.0)]
    engine.dispose()


def test_null_and_text_that_is_no_number_are_missing_values(engine: Engine) -> None:
    rows = [{"time": _minute(minute), "cpu": value} for minute, value in enumerate(["1.5", None, "n/a", "", " 2 "])]
    _table(engine, "t", [Column("time", DateTime), Column("cpu", String(20))], rows)

    samples = SqlSource(engine, TableSpec(metrics=("cpu",), table="t")).read(T0, T0 + 10 * MINUTE)

    assert [value for *_, value in _rows(samples) if not math.isnan(value)] == [1.5, 2.0]
    assert len(samples) == 5


def test_text_in_a_numeric_column_of_sqlite_is_a_missing_value(sqlite: Engine) -> None:
    with sqlite.begin() as connection:
        connection.execute(text("CREATE TABLE t (time TIMESTAMP, cpu REAL)"))
        connection.execute(text("INSERT INTO t VALUES ('2024-01-01 12:00:00', 'broken'), ('2024-01-01 12:01:00', 2)"))

    rows = _rows(SqlSource(sqlite, TableSpec(metrics=("cpu",), table="t")).read(T0, T0 + 10 * MINUTE))

    assert math.isnan(rows[0][3])
    assert rows[1][3] == 2.0


def test_nan_and_infinities_come_through_as_they_are(postgres_database: str) -> None:
    engine = database.connect(postgres_database)
    rows = [{"time": _minute(minute), "cpu": value} for minute, value in enumerate([NAN, math.inf, -math.inf])]
    _table(engine, "t", [Column("time", DateTime), Column("cpu", Float(53))], rows)

    values = [
        row[3] for row in _rows(SqlSource(engine, TableSpec(metrics=("cpu",), table="t")).read(T0, T0 + 3 * MINUTE))
    ]

    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf]
    engine.dispose()


def test_an_infinity_of_sqlite_comes_through(sqlite: Engine) -> None:
    with sqlite.begin() as connection:
        connection.execute(text("CREATE TABLE t (time TIMESTAMP, cpu REAL)"))
        connection.execute(text("INSERT INTO t VALUES ('2024-01-01 12:00:00', -9e999)"))

    samples = SqlSource(sqlite, TableSpec(metrics=("cpu",), table="t")).read(T0, T0 + MINUTE)

    assert samples.value.tolist() == [-math.inf]


def test_decimals_are_numbers(engine: Engine) -> None:
    _table(
        engine,
        "t",
        [Column("time", DateTime), Column("cpu", Numeric(10, 2, asdecimal=False))],
        [{"time": _minute(0), "cpu": 1.25}],
    )

    samples = SqlSource(engine, TableSpec(metrics=("cpu",), table="t")).read(T0, T0 + MINUTE)

    assert samples.value.tolist() == [1.25]


def test_rows_without_time_or_entity_are_left_out(engine: Engine) -> None:
    columns = [Column("host", String(20)), Column("time", DateTime), Column("cpu", Float)]
    rows = [
        {"host": None, "time": _minute(0), "cpu": 1},
        {"host": "a", "time": None, "cpu": 2},
        {"host": "a", "time": _minute(1), "cpu": 3},
    ]
    _table(engine, "t", columns, rows)
    spec = TableSpec(metrics=("cpu",), table="t", entity=("host",))

    assert _rows(SqlSource(engine, spec).read(T0, T0 + 10 * MINUTE)) == [("a", 0, MINUTE, 3.0)]


def test_several_entity_columns_make_one_name(engine: Engine) -> None:
    columns = [Column("rack", Integer), Column("host", String(20)), Column("time", DateTime), Column("cpu", Float)]
    rows = [
        {"rack": 1, "host": "a", "time": _minute(0), "cpu": 1},
        {"rack": 2, "host": "a", "time": _minute(0), "cpu": 2},
        {"rack": 3, "host": None, "time": _minute(0), "cpu": 3},
    ]
    _table(engine, "t", columns, rows)
    spec = TableSpec(metrics=("cpu",), table="t", entity=("rack", "host"))

    assert _rows(SqlSource(engine, spec).read(T0, T0 + MINUTE)) == [("1/a", 0, 0, 1.0), ("2/a", 0, 0, 2.0)]


def test_more_rows_than_one_chunk_arrive_in_full(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.sources.sql._CHUNK", 100)
    rows = [{"t": T0 + index, "host": f"h{index % 7}", "cpu": index} for index in range(250)]
    _table(engine, "t", [Column("t", BigInteger), Column("host", String(20)), Column("cpu", Float)], rows)
    spec = TableSpec(metrics=("cpu",), table="t", entity=("host",), time="t", time_format="epoch_milliseconds")

    found = _rows(SqlSource(engine, spec).read(T0, T0 + 1000))

    assert found == sorted((f"h{index % 7}", 0, index, float(index)) for index in range(250))


@pytest.mark.parametrize("spec", [LONG, WIDE], ids=["long", "wide"])
def test_an_empty_range_gives_no_samples(engine: Engine, spec: TableSpec) -> None:
    _long(engine)
    _wide(engine)

    assert len(SqlSource(engine, spec).read(T0 - 10 * MINUTE, T0 - MINUTE)) == 0


def test_extent_is_from_the_oldest_to_the_newest_sample(engine: Engine) -> None:
    _wide(engine)

    assert SqlSource(engine, WIDE).extent(NOW) == (T0, T0 + MINUTE)


def test_the_extent_of_an_empty_table_is_unknown(engine: Engine) -> None:
    _table(engine, "wide", [Column("host", String(20)), Column("time", DateTime)], [])

    assert SqlSource(engine, WIDE).extent(NOW) is None


def test_reading_up_to_the_extent_gives_every_sample(engine: Engine) -> None:
    _wide(engine)
    source = SqlSource(engine, WIDE)
    extent = source.extent(NOW)
    assert extent is not None

    assert len(source.read(extent[0], extent[1] + 1)) == 4


_BROKEN = [
    TableSpec(metrics=("cpu",), table="nowhere"),
    TableSpec(metrics=("cpu",), table="No Where"),
    TableSpec(metrics=("nothing",), table="wide"),
    TableSpec(metrics=("No Thing",), table="wide"),
    TableSpec(metrics=("cpu",), table="wide", time="No Time"),
    TableSpec(metrics=("cpu",), table="wide", entity=("No Host",)),
    TableSpec(metrics=("cpu",), query="SELECT * FROM nowhere WHERE :start < :end"),
    TableSpec(metrics=("nothing",), query="SELECT * FROM wide WHERE :start < :end"),
    TableSpec(metrics=("cpu",), query="SELEKT :start :end"),
]


@pytest.mark.parametrize("spec", _BROKEN, ids=lambda spec: f"{spec.table or spec.query} {spec.metrics[0]} {spec.time}")
def test_a_missing_table_or_column_is_reported_in_one_line(engine: Engine, spec: TableSpec) -> None:
    _wide(engine)

    with pytest.raises(SourceError) as caught:
        SqlSource(engine, spec).read(T0, T0 + MINUTE)

    assert len(str(caught.value).splitlines()) == 1
    assert not isinstance(caught.value, SourceUnavailable)


@pytest.mark.parametrize("spec", [_BROKEN[0], _BROKEN[4]], ids=["table", "column"])
def test_the_extent_of_a_missing_table_is_reported_in_one_line(engine: Engine, spec: TableSpec) -> None:
    _wide(engine)

    with pytest.raises(SourceError) as caught:
        SqlSource(engine, spec).extent(NOW)

    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "url",
    ["postgresql://reader:hunter2@127.0.0.1:1/metrics", "mysql://reader:hunter2@127.0.0.1:1/metrics"],
    ids=["postgresql", "mariadb"],
)
def test_a_server_that_is_down_may_be_tried_again_and_keeps_its_password(url: str) -> None:
    engine = database.connect(url)

    with pytest.raises(SourceUnavailable) as caught:
        SqlSource(engine, WIDE).read(T0, T0 + MINUTE)

    assert len(str(caught.value).splitlines()) == 1
    assert "hunter2" not in str(caught.value)
    engine.dispose()


def test_a_query_that_takes_too_long_is_given_up(sqlite: Engine) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE :start < :end) SELECT max(i) FROM n"
    spec = TableSpec(metrics=("cpu",), query=endless, timeout=timedelta(seconds=0.2))

    with pytest.raises(SourceUnavailable, match="does not answer"):
        SqlSource(sqlite, spec).read(T0, T0 + MINUTE)


@pytest.fixture
def embedded(engine: Engine) -> EmbeddedSource:
    migrate(engine)
    return EmbeddedSource(engine, "web", ("cpu", "load"))


def test_what_was_written_is_read(embedded: EmbeddedSource) -> None:
    embedded.write(["b", "a", "a"], ["cpu", "load", "cpu"], time=[T0, T0 + 1, T0 + 2], value=[1.0, 2.5, -3e300])

    assert _rows(embedded.read(T0, T0 + 10)) == [("a", 0, 2, -3e300), ("a", 1, 1, 2.5), ("b", 0, 0, 1.0)]


def test_an_embedded_read_holds_its_start_but_not_its_end(embedded: EmbeddedSource) -> None:
    embedded.write(["a"] * 3, ["cpu"] * 3, time=[T0, T0 + 1, T0 + 2], value=[0.0, 1.0, 2.0])

    assert [time for _, _, time, _ in _rows(embedded.read(T0 + 1, T0 + 2))] == [1]


def test_a_sample_written_again_replaces_the_old_one(embedded: EmbeddedSource) -> None:
    embedded.write(["a", "a"], ["cpu", "cpu"], time=[T0, T0 + 1], value=[1.0, 2.0])
    embedded.write(["a", "a"], ["cpu", "load"], time=[T0, T0], value=[9.0, 8.0])

    assert _rows(embedded.read(T0, T0 + 10)) == [("a", 0, 0, 9.0), ("a", 0, 1, 2.0), ("a", 1, 0, 8.0)]


def test_of_a_sample_written_twice_at_once_the_last_stays(embedded: EmbeddedSource) -> None:
    embedded.write(["a", "a"], ["cpu", "cpu"], time=[T0, T0], value=[1.0, 2.0])

    assert _rows(embedded.read(T0, T0 + 10)) == [("a", 0, 0, 2.0)]


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_stored_as_missing(embedded: EmbeddedSource, value: float) -> None:
    embedded.write(["a", "a"], ["cpu", "cpu"], time=[T0, T0 + 1], value=[value, 1.0])

    values = [row[3] for row in _rows(embedded.read(T0, T0 + 10))]
    assert math.isnan(values[0])
    assert values[1] == 1.0


@pytest.mark.parametrize("entity", ["Ümläut", "日本", "a'b\"c;--", "%s", "A", "x" * 191, " lead", "emoji 🙂"])
def test_entities_may_have_any_name(embedded: EmbeddedSource, entity: str) -> None:
    embedded.write([entity, "a"], ["cpu", "cpu"], time=[T0, T0], value=[1.0, 2.0])

    assert sorted(embedded.read(T0, T0 + 1).entities) == sorted([entity, "a"])


def test_monitors_and_metrics_of_others_are_left_alone(engine: Engine, embedded: EmbeddedSource) -> None:
    EmbeddedSource(engine, "other", ("cpu",)).write(["a"], ["cpu"], time=[T0], value=[5.0])
    embedded.write(["a", "a"], ["cpu", "disk"], time=[T0, T0], value=[1.0, 2.0])

    assert _rows(embedded.read(T0, T0 + 1)) == [("a", 0, 0, 1.0)]
    assert _rows(EmbeddedSource(engine, "other", ("cpu",)).read(T0, T0 + 1)) == [("a", 0, 0, 5.0)]


def test_the_order_of_metrics_is_that_of_the_monitor(engine: Engine, embedded: EmbeddedSource) -> None:
    embedded.write(["a", "a"], ["cpu", "load"], time=[T0, T0], value=[1.0, 2.0])

    assert _rows(EmbeddedSource(engine, "web", ("load", "cpu")).read(T0, T0 + 1)) == [
        ("a", 0, 0, 2.0),
        ("a", 1, 0, 1.0),
    ]


def test_an_empty_store_has_no_samples_and_no_extent(embedded: EmbeddedSource) -> None:
    assert len(embedded.read(0, T0)) == 0
    assert embedded.extent(NOW) is None


@pytest.mark.slow
def test_the_extent_of_the_store_is_over_all_entities(embedded: EmbeddedSource) -> None:
    embedded.write(
        ["a", "b", "b", "c"], ["cpu", "cpu", "load", "disk"], time=[T0, T0 - 5, T0 + 9, T0 + 99], value=[1, 2, 3, 4]
    )

    assert embedded.extent(NOW) == (T0 - 5, T0 + 9)


def test_a_sample_of_the_future_is_a_reject_of_the_store_until_its_time_comes(embedded: EmbeddedSource) -> None:
    embedded.write(["a", "a"], ["cpu", "cpu"], time=[T0, NOW + 60 * MINUTE], value=[1.0, 2.0])

    assert embedded.extent(NOW) == (T0, T0)
    assert embedded.rejects(NOW) == (Reject("future", 1, str(NOW + 60 * MINUTE)),)
    assert embedded.extent(NOW + 60 * MINUTE) == (T0, NOW + 60 * MINUTE)
    assert embedded.rejects(NOW + 60 * MINUTE) == ()


def test_an_entity_that_appears_while_reading_does_not_stop_the_read(engine: Engine, embedded: EmbeddedSource) -> None:
    embedded.write(["a"], ["cpu"], time=[T0], value=[1.0])
    is_done = False

    def appear(connection: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        nonlocal is_done
        if "detector_sample" in statement and "SELECT" in statement and not is_done:
            is_done = True
            embedded.write(["new"], ["cpu"], time=[T0], value=[2.0])

    event.listen(engine, "before_cursor_execute", appear)
    rows = _rows(embedded.read(T0, T0 + 1))

    assert is_done
    assert ("a", 0, 0, 1.0) in rows


def test_a_store_without_tables_is_reported_in_one_line(engine: Engine) -> None:
    source = EmbeddedSource(engine, "web", ("cpu",))

    for ask in (
        lambda: source.read(0, 1),
        lambda: source.extent(NOW),
        lambda: source.write(["a"], ["cpu"], time=[0], value=[1.0]),
    ):
        with pytest.raises(SourceError) as caught:
            ask()
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("start", "end"), [(0, 2), (0, 1), (1, 2), (-5, 0), (1, 1), (0, 10)])
def test_rows_in_memory_give_the_samples_of_a_wide_table(engine: Engine, start: int, end: int) -> None:
    _wide(engine)
    table = SqlSource(engine, WIDE)
    memory = MemorySource.of(
        ("a", "b"), np.array([1, 0], np.int32), np.array([T0 + MINUTE, T0]), np.array([[2.0, NAN], [1.0, 0.5]])
    )

    expected, found = (source.read(T0 + start * MINUTE, T0 + end * MINUTE) for source in (table, memory))

    assert str(_rows(found)) == str(_rows(expected))  # as text NaN equals NaN
    assert set(found.entities) == set(expected.entities)
    assert memory.extent(NOW) == table.extent(NOW)


def test_the_store_holds_each_series_once(engine: Engine, embedded: EmbeddedSource) -> None:
    for _ in range(3):
        embedded.write(["a", "b"], ["cpu", "cpu"], time=[T0, T0], value=[1.0, 2.0])

    with engine.connect() as connection:
        assert connection.execute(series.select()).rowcount in (-1, 2)
        assert len(connection.execute(series.select()).all()) == 2
        assert len(connection.execute(sample.select()).all()) == 2


# what a read looks at

HISTORY = 20_000  # slots stored


def _plan(engine: Engine, ask: Callable[[], object]) -> str:
    """How the database goes about the statement that reads samples, which must have found some."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Connection, _cursor: object, statement: str, parameters: Any, *_rest: object) -> None:
        asked.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    found = ask()
    event.remove(engine, "before_cursor_execute", note)
    assert isinstance(found, Samples)
    assert len(found) == 2
    statement, parameters = [ask for ask in asked if "ts >=" in ask[0]][-1]
    explain = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN "}
    word = explain.get(engine.dialect.name, "EXPLAIN FORMAT=JSON ")
    with engine.connect() as connection:
        return "\n".join(str(row[-1]) for row in connection.exec_driver_sql(word + statement, parameters))


def _analyze(engine: Engine, table: str) -> None:
    statement = "ANALYZE TABLE " if engine.dialect.name in {"mysql", "mariadb"} else "ANALYZE "
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql(statement + table)


@pytest.mark.slow
@pytest.mark.parametrize("is_analyzed", [False, True], ids=["unknown table", "analyzed"])
def test_the_store_finds_a_window_without_looking_at_its_history(
    engine: Engine, embedded: EmbeddedSource, is_analyzed: bool
) -> None:
    for entity in ("a", "b"):
        embedded.write(
            [entity] * HISTORY, ["cpu"] * HISTORY, time=[T0 + MINUTE * n for n in range(HISTORY)], value=[1.0] * HISTORY
        )
    if is_analyzed:
        for table in ("detector_series", "detector_sample"):
            _analyze(engine, table)
    end = T0 + MINUTE * HISTORY

    plan = _plan(engine, lambda: embedded.read(end - MINUTE, end))

    match engine.dialect.name:
        case "sqlite":
            assert "SEARCH detector_sample USING PRIMARY KEY (series_id=? AND ts>? AND ts<?)" in plan
            assert "SCAN detector_sample" not in plan
        case "postgresql":
            assert "Seq Scan on detector_sample" not in plan
            assert "on ix_detector_sample_ts" in plan or "Index Cond: ((series_id = detector_series.id)" in plan
        case _:
            assert '"access_type": "ALL"' not in plan


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "dialects"),
    [
        ("TIMESTAMP", {"sqlite", "postgresql", "mysql", "mariadb"}),
        ("TIMESTAMPTZ", {"postgresql"}),
        ("BIGINT", {"sqlite", "postgresql", "mysql", "mariadb"}),
        ("BIGINT of seconds", {"sqlite", "postgresql", "mysql", "mariadb"}),  # c19
    ],
)
@pytest.mark.parametrize("index", ["(ts)", "(ts, host)", "USING brin (ts)"])
def test_a_table_with_the_index_asked_for_is_not_looked_at_in_full(
    engine: Engine, kind: str, dialects: set[str], index: str
) -> None:
    dialect = engine.dialect.name
    if dialect not in dialects or ("brin" in index and dialect != "postgresql"):
        pytest.skip(f"{dialect} has no such column or index")
    unit = 1000 if kind.endswith("seconds") else 1
    is_number = kind.startswith("BIGINT")
    kind = kind.removesuffix(" of seconds")
    kind = "DATETIME" if kind == "TIMESTAMP" and dialect in {"mysql", "mariadb"} else kind
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE measured (ts {kind}, host VARCHAR(20), cpu DOUBLE PRECISION)")
        rows = [
            {"ts": (T0 + n * MINUTE) // unit if is_number else _minute(n), "host": host, "cpu": 1.0}
            for n in range(HISTORY)
            for host in ("a", "b")
        ]
        columns = Column("ts", BigInteger if is_number else DateTime), Column("host", String(20)), Column("cpu", Float)
        connection.execute(insert(Table("measured", MetaData(), *columns)), rows)
        connection.exec_driver_sql(f"CREATE INDEX measured_ts ON measured {index}")
    _analyze(engine, "measured")
    time_format = ("epoch_milliseconds" if unit == 1 else "epoch_seconds") if is_number else "timestamp"
    spec = TableSpec(metrics=("cpu",), table="measured", entity=("host",), time="ts", time_format=time_format)
    end = T0 + MINUTE * HISTORY

    plan = _plan(engine, lambda: SqlSource(engine, spec).read(end - MINUTE, end))

    match dialect:
        case "sqlite":
            assert "SEARCH measured USING INDEX measured_ts (ts>? AND ts<?)" in plan
            assert "SCAN" not in plan
        case "postgresql":
            assert "Scan on measured_ts" in plan or "Index Scan using measured_ts" in plan
        case _:
            assert '"access_type": "range"' in plan
