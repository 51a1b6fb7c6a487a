"""Any table or query of any database that SQLAlchemy speaks to."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Integer,
    Result,
    Select,
    String,
    TableClause,
    and_,
    cast,
    column,
    inspect,
    literal_column,
    or_,
    select,
    table,
    text,
)
from sqlalchemy.exc import DBAPIError, InvalidRequestError, NoSuchColumnError, SQLAlchemyError

from detector import database
from detector.core.rejects import Reject
from detector.core.series import Bool, Float64, Int64, Samples
from detector.errors import SourceError, SourceUnavailable
from detector.sources import repeated_hour, rows, text_times
from detector.sources.query_extent import QueryExtent
from detector.sources.repeated_hour import RepeatedHour
from detector.sources.text_times import TextTimes
from detector.times import DAY_MS

_CHUNK = 10_000  # rows at a time
_WIDEST_DST_CHANGE = timedelta(hours=1)
_MOST_LOOKED_AT = 100_000  # rows looked at for them
_MYSQL_BIT = 16  # FIELD_TYPE.BIT
_CHAR = {"postgresql": 1042, "mysql": 254, "mariadb": 254}  # bpchar; FIELD_TYPE.STRING

Found = TypeVar("Found")


@dataclass(frozen=True)
class TableSpec:
    """A table or query and the roles of its columns; with `metric` and `value` empty there is one column per metric."""

    metrics: tuple[str, ...]
    table: str = ""
    query: str = ""
    entity: tuple[str, ...] = ()
    time: str = "time"
    time_format: str = "timestamp"
    time_zone: str = "UTC"
    metric: str = ""
    value: str = ""
    only_entity: str = "all"
    timeout: timedelta = timedelta(seconds=30)


class SqlSource:
    """Reads samples by time range; identifiers are quoted, values bound."""

    def __init__(self, engine: Engine, spec: TableSpec) -> None:
        self._engine = engine
        self._spec = spec
        self._zone = ZoneInfo(spec.time_zone)
        self._columns = [*spec.entity, spec.time, *([spec.metric, spec.value] if spec.metric else spec.metrics)]
        self._table = _table(spec.table, self._columns)
        is_text = spec.table and spec.time_format == "timestamp" and engine.dialect.name == "sqlite"
        self._text_times = TextTimes(self._table, spec.time, self._zone) if is_text else None
        self._is_lenient = False  # SQLite has text that is no UTF-8
        self._query_extent = QueryExtent(self.read)

    def read(self, start: int, end: int) -> Samples:
        """All samples with start ≤ time < end, both in epoch milliseconds.

        Raises: SourceUnavailable if the database does not answer in time, SourceError if it refuses the query.
        """
        return self._asked(lambda connection: self._samples(connection, start, end))

    def extent(self, now: int) -> tuple[int, int] | None:
        """Times of the oldest and the newest sample, None if there is none; of a query only its last 30 days count.

        Only rows that can be read and do not lie in the future count. now: epoch milliseconds.
        """
        if self._spec.query:
            return self._query_extent(now, now + rows.AHEAD)
        return self._asked(lambda connection: self._extent(connection, now + rows.AHEAD))

    def rejects(self, now: int) -> tuple[Reject, ...]:
        """Rows that no read comes upon: those without a time that can be read, and those of the future.

        At most a thousand are counted. now: epoch milliseconds.
        """
        noted = rows.Noted()
        self._asked(lambda connection: self._note_outside(connection, now + rows.AHEAD, noted))
        return noted.rejects

    # -- questions ----------------------------------------------------------------------------------------------------

    def _samples(self, connection: Connection, start: int, end: int) -> Samples:
        hours = self._repeated(start, end)  # read as a whole: what a row means depends on those before it
        first, last = min([start, *(hour.start for hour in hours)]), max([end, *(hour.end for hour in hours)])
        statement, bounds = self._statement(connection, first, last)
        if hours and self._spec.table:
            statement = statement.order_by(*self._arrival(connection))
        names, noted = rows.Names(), rows.Noted()
        with _no_garbage_expected(), database.streaming(connection).execute(statement, bounds) as result:
            reader = _Reader(self._spec, self._columns, result, self._zone, names, noted, asks_local=bool(hours))
            parts = [reader.part(part, first, last) for part in result.partitions(_CHUNK)]
        if hours and parts:
            parts = [repeated_hour.dated(parts, reader.local, hours, start=start, end=end)]
        return rows.compact(rows.samples(names.entities, parts, noted.rejects))

    def _repeated(self, start: int, end: int) -> list[RepeatedHour]:
        """The hours in a range that come twice, if this source's times may not say which is meant."""
        if self._spec.time_format != "timestamp" or self._zone.key == "UTC":
            return []
        return repeated_hour.between(self._zone, start, end)

    def _arrival(self, connection: Connection) -> list[ColumnElement[Any]]:
        """What puts rows in the order in which they were written; [] if the table has no such thing."""
        schema, _, name = self._spec.table.rpartition(".")
        inspector = inspect(connection)
        try:
            key = inspector.get_pk_constraint(name, schema or None)["constrained_columns"]
            numbers = {
                found["name"]
                for found in inspector.get_columns(name, schema or None)
                if isinstance(found["type"], Integer)
            }
        except InvalidRequestError:  # a view
            return []
        if len(key) == 1 and key[0] in numbers:
            return [_table(self._spec.table, key).c[key[0]]]
        if self._text_times is not None and self._text_times.last_rowid(connection) is not None:
            return [literal_column("rowid")]
        if self._engine.dialect.name != "postgresql":
            return []
        # TimescaleDB has no such columns in compressed parts of a table
        is_one_heap = text("SELECT relkind = 'r' AND NOT relhassubclass FROM pg_class WHERE oid = to_regclass(:name)")
        written = self._engine.dialect.identifier_preparer.format_table(self._table)
        if not connection.scalar(is_one_heap, {"name": written}):
            return []
        return [literal_column("CAST(CAST(xmin AS text) AS bigint)"), literal_column("ctid")]

    def _asked(self, ask: Callable[[Connection], Found]) -> Found:
        """The answer to a question; asked again, with other eyes, if there is text that is no UTF-8 in it."""
        try:
            with self._reading() as connection:
                return ask(connection)
        except SQLAlchemyError as exc:
            if self._is_lenient or "decode to utf-8" not in str(exc).lower():
                raise self._translated(exc) from exc
        self._is_lenient = True
        return self._asked(ask)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with database.reading(self._engine, self._spec.timeout) as connection:
            driver: Any = connection.connection.driver_connection
            if self._is_lenient:
                driver.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
            if self._spec.query and self._engine.dialect.name == "postgresql":
                _keep_unreadable_times(driver)
            yield connection

    def _statement(self, connection: Connection, start: int, end: int) -> tuple[Any, dict[str, Any]]:
        """What reads a range, and its parameters."""
        spec = self._spec
        if spec.query:
            return text(spec.query), {"start": self._bound(start, -1), "end": self._bound(end, 1)}
        is_within, bounds = self._within(connection, start, end)
        return self._select(self._columns).where(is_within), bounds

    def _select(self, names: Sequence[str]) -> Select[Any]:
        """Columns of the table, of the monitor's metrics only."""
        columns = self._table.c
        return select(*(columns[name] for name in names)).where(*self._mine())

    def _mine(self) -> list[ColumnElement[bool]]:
        spec = self._spec
        return [self._table.c[spec.metric].in_(spec.metrics)] if spec.metric else []

    def _within(self, connection: Connection, start: int, end: int) -> tuple[ColumnElement[bool], dict[str, Any]]:
        if self._text_times is not None:
            return self._text_times.within(connection, start, end), {}
        time = self._table.c[self._spec.time]
        bounds = {"start": self._bound(start, -1), "end": self._bound(end, 1)}
        return and_(time >= text(":start"), time < text(":end")), bounds

    def _bound(self, time: int, outward: int) -> Any:
        """A bound in the column's own type, at or beyond a time; rows outside are dropped after conversion.

        Local times repeat when clocks go back, so bounds in a zone with such changes reach an hour outward.
        """
        spec = self._spec
        if spec.time_format != "timestamp":
            # whole numbers, or PostgreSQL would turn a column of them into floats and not use its index
            unit = 1000 if spec.time_format == "epoch_seconds" else 1
            return time // unit if outward < 0 else -(-time // unit)
        dialect = self._engine.dialect.name
        moment = datetime.fromtimestamp(time / 1000, UTC)
        if spec.time_zone != "UTC":
            moment = (moment + outward * _WIDEST_DST_CHANGE).astimezone(self._zone)
        if dialect == "sqlite":  # of a query, where there is one bound for all spellings: a blank sorts before a T
            if outward < 0:
                return text_times.lowest(moment, "%Y-%m-%d %H:%M:%S")
            return text_times.highest(moment, "%Y-%m-%dT%H:%M:%S")
        if dialect == "postgresql" and spec.time_zone == "UTC":
            return moment
        if dialect == "postgresql" and spec.table:
            # untyped, it takes the column's type: one with a zone uses the zone written here, one without ignores it
            return moment.isoformat()
        return moment.replace(tzinfo=None)

    def _extent(self, connection: Connection, until: int) -> tuple[int, int] | None:
        """Times of the oldest and the newest sample before a time."""
        oldest = self._end(connection, until, is_newest=False)
        newest = self._end(connection, until, is_newest=True)
        if oldest is None or newest is None:
            return None
        for hour in self._repeated(newest, newest + 1):  # it was taken for the first time around
            newest = int(self._samples(connection, hour.start, min(hour.end, until)).time.max(initial=newest))
        return oldest, newest

    def _end(self, connection: Connection, until: int, *, is_newest: bool) -> int | None:
        if self._text_times is not None:
            return self._text_times.end(connection, until, is_newest=is_newest, also=self._mine())
        time = self._table.c[self._spec.time]
        is_within, bounds = self._within(connection, rows.FIRST, until)
        query = self._select([self._spec.time]).where(is_within)
        query = query.order_by(time.desc() if is_newest else time.asc()).limit(1)
        at = rows.to_milliseconds([connection.scalar(query, bounds)], self._spec.time_format, self._zone)[0]
        return None if at == rows.BAD_TIME else int(at)

    def _note_outside(self, connection: Connection, until: int, noted: rows.Noted) -> None:
        if self._spec.query:
            statement, bounds = self._statement(connection, until, until + DAY_MS)  # it may make rows for all of them
        else:
            statement, bounds = self._outside(until)
        seen = counted = 0
        with database.streaming(connection).execute(statement, bounds) as result:
            names = list(result.keys())
            position, valued = _position(names, self._spec.time), self._valued(names)
            for found in result.partitions(_CHUNK):
                part = [row for row in found if not valued or any(row[index] is not None for index in valued)]
                column = [row[position] for row in part]
                time = rows.to_milliseconds(column, self._spec.time_format, self._zone)
                is_bad, is_early = time == rows.BAD_TIME, time >= until
                noted.note("time", is_bad, column.__getitem__)
                noted.note("future", is_early, column.__getitem__)
                seen, counted = seen + len(found), counted + int((is_bad | is_early).sum())
                if counted >= rows.MOST_REJECTS or seen >= _MOST_LOOKED_AT:
                    return

    def _valued(self, returned: Sequence[str]) -> list[int]:
        """Positions of columns that hold values, [] where none is asked for: a query may fill gaps with empty rows."""
        wanted = [self._spec.value] if self._spec.metric else self._spec.metrics
        return [index for index, name in enumerate(returned) if name in wanted]

    def _outside(self, until: int) -> tuple[Select[Any], dict[str, Any]]:
        """All rows whose time is not one from 1971 on and before a time."""
        time = self._table.c[self._spec.time]
        if self._text_times is not None:
            is_outside = self._text_times.outside(until)
            return self._select([self._spec.time]).where(is_outside).limit(_MOST_LOOKED_AT), {}
        # as text, since PostgreSQL has times that Python has not: infinity, those before Christ, the year 20000
        shown = cast(time, String).label(time.name) if self._engine.dialect.name == "postgresql" else time
        is_outside = or_(time.is_(None), time < text(":start"), time >= text(":end"))
        query = select(shown).where(is_outside, *self._mine()).limit(rows.MOST_REJECTS)
        return query, {"start": self._bound(rows.FIRST, -1), "end": self._bound(until, 1)}

    def _translated(self, exc: SQLAlchemyError) -> SourceError:
        where = database.redacted(self._engine.url)
        if isinstance(exc, DBAPIError):
            if database.is_unavailable(exc):
                return SourceUnavailable(f"source {where} does not answer: {database.reason(exc)}")
            return SourceError(f"source {where} refused the query: {database.reason(exc)}")
        if isinstance(exc, NoSuchColumnError):
            return SourceError(f"source {where} returned other columns than configured: {exc}")
        return SourceUnavailable(f"source {where} failed: {exc}")


class _Reader:
    """Turns the rows of one result into columns, and notes those that cannot be read."""

    def __init__(
        self,
        spec: TableSpec,
        columns: Sequence[str],
        result: Result[Any],
        zone: ZoneInfo,
        names: rows.Names,
        noted: rows.Noted,
        *,
        asks_local: bool,
    ) -> None:
        self._spec, self._zone, self._names, self._noted = spec, zone, names, noted
        returned = list(result.keys())
        self._positions = [_position(returned, name) for name in columns]
        cursor: Any = result.cursor  # type: ignore[attr-defined]  # of a CursorResult, which this is
        dialect = result.context.dialect.name  # type: ignore[attr-defined]
        types = {at: cursor.description[at][1] for at in self._positions}
        is_mysql = dialect in {"mysql", "mariadb"}
        self._bits = {at for at, kind in types.items() if is_mysql and kind == _MYSQL_BIT}
        self._padded = {at for at, kind in types.items() if dialect in _CHAR and kind == _CHAR[dialect]}
        self._asks_local = asks_local
        self.local: list[Bool] = []  # if asked: whether rows have times without offset, (R,) for each part

    def part(self, part: Sequence[Any], start: int, end: int) -> rows.Part:
        """Some rows as columns; of times outside [start, end), epoch milliseconds, without entity."""
        spec, width = self._spec, len(self._spec.entity)
        columns = list(zip(*part, strict=True))
        ordered = [self._plain(columns[at], at) for at in self._positions]
        time = rows.to_milliseconds(ordered[width], spec.time_format, self._zone)
        if self._asks_local:
            self.local.append(rows.is_local(ordered[width]))
        is_inside = (time >= start) & (time < end)
        self._noted.note("time", time == rows.BAD_TIME, ordered[width].__getitem__)
        names = _join(ordered[:width]) if width else [spec.only_entity] * len(part)
        entity = self._names.rows(names)
        self._noted.note("entity", is_inside & (entity < 0), names.__getitem__)
        entity = np.where(is_inside, entity, np.int32(-1))
        if spec.metric:
            return self._long(entity, time, ordered[width + 1], ordered[width + 2])
        metrics = len(spec.metrics)
        values = np.stack([self._values(column, entity >= 0) for column in ordered[width + 1 :]], axis=1)  # (N, F)
        metric = np.tile(np.arange(metrics, dtype=np.int32), len(part))
        return np.repeat(entity, metrics), metric, np.repeat(time, metrics), values.ravel()

    def _plain(self, column: Sequence[Any], at: int) -> Sequence[Any]:
        """A column as it was written, if its type makes the driver return something else."""
        if at in self._bits:
            return rows.from_bits(column)
        return rows.without_padding(column) if at in self._padded else column

    def _long(self, entity: rows.Int32, time: Int64, named: Sequence[Any], values: Sequence[Any]) -> rows.Part:
        spec = self._spec
        known = {name: index for index, name in enumerate(spec.metrics)}
        names = [rows.to_text(name) for name in named]
        metric = np.fromiter(map(known.get, names, repeat(-1)), np.int32, len(names))  # type: ignore[arg-type]
        if spec.table:  # the database takes this name for one of the monitor's: its case, accents or blanks differ
            self._noted.note("metric", (entity >= 0) & (metric < 0), named.__getitem__)
        return entity, metric, time, self._values(values, (entity >= 0) & (metric >= 0))

    def _values(self, column: Sequence[Any], counts: Bool) -> Float64:
        values = rows.to_values(column)
        if not rows.usable(values).all():
            self._noted.note("value", counts & rows.unreadable(column, values), column.__getitem__)
        return values


@contextmanager
def _no_garbage_expected() -> Iterator[None]:
    """Lets the garbage collector rest: made by the ten thousand, rows set it off again and again, and none has cycles.

    It looks through the whole process each time, a tenth of a large tick.
    """
    was_on = gc.isenabled()  # else another thread reads, and turns it on again
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _position(returned: Sequence[str], name: str) -> int:
    try:
        return returned.index(name)
    except ValueError:
        msg = f"the query must return a column {name!r}; received {', '.join(returned)}"
        raise SourceError(msg) from None


def _keep_unreadable_times(connection: Any) -> None:
    """Times of PostgreSQL that Python has not come as text, so that one of them does not end a read."""
    from psycopg import DataError, postgres
    from psycopg.pq import Format

    def lenient(usual: Any) -> type:
        class Lenient:
            format = Format.TEXT

            def __init__(self, oid: int, context: Any = None) -> None:
                self._load = usual(oid, context).load

            def load(self, data: Any) -> Any:
                try:
                    return self._load(data)
                except DataError:
                    return bytes(data).decode()

        return Lenient

    for name in ("timestamp", "timestamptz", "date"):
        oid = postgres.types[name].oid
        usual = connection.adapters.get_loader(oid, Format.TEXT)
        if usual.__name__ != "Lenient":
            connection.adapters.register_loader(oid, lenient(usual))


def _table(name: str, columns: Sequence[str]) -> TableClause:
    """A table whose columns are written with its name: SQLite takes a missing "Column" without it for a string."""
    schema, _, name = name.rpartition(".")
    return table(name, *map(column, dict.fromkeys(columns)), schema=schema or None)


def _join(columns: Sequence[Sequence[Any]]) -> list[str | None]:
    """Entity ids from one or several columns; None where a part is NULL."""
    texts = [[rows.to_text(part) for part in column] for column in columns]
    if len(columns) == 1:
        return texts[0]
    return [None if None in parts else "/".join(parts) for parts in zip(*texts, strict=True)]
