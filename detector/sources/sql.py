"""Any table or query of any database that SQLAlchemy speaks to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import ColumnElement, Engine, Select, TableClause, TextClause, column, func, select, table, text
from sqlalchemy.exc import DBAPIError, NoSuchColumnError, SQLAlchemyError

from detector import database
from detector.core.series import Samples
from detector.errors import SourceError, SourceUnavailable
from detector.sources import rows

_CHUNK = 10_000  # rows at a time; with more, only the garbage collector has more to look through
_WIDEST_DST_CHANGE = timedelta(hours=1)
_WIDEST_OFFSET = timedelta(hours=26)  # from UTC−12 to UTC+14


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
        self._time_text: _TimeText | None = None

    def read(self, start: int, end: int) -> Samples:
        """All samples with start ≤ time < end, both in epoch milliseconds.

        Raises: SourceUnavailable if the database does not answer in time, SourceError if it refuses the query.
        """
        names = rows.Names()
        try:
            with database.reading(self._engine, self._spec.timeout) as connection:
                bounds = {"start": self._bound(connection, start, -1), "end": self._bound(connection, end, 1)}
                with database.streaming(connection).execute(self._statement(), bounds) as result:
                    returned = {name: position for position, name in enumerate(result.keys())}
                    positions = [self._position(returned, name) for name in self._columns]
                    parts = [self._part(part, positions, names) for part in result.partitions(_CHUNK)]
        except SQLAlchemyError as exc:
            raise self._translated(exc) from exc
        return _between(rows.samples(names.entities, parts), start, end)

    def extent(self) -> tuple[int, int] | None:
        """Times of the oldest and the newest sample, None if there is none; of a query only its last 30 days count."""
        spec = self._spec
        if spec.query:
            now = datetime.now(UTC)
            found = self.read(_ms(now - timedelta(days=30)), _ms(now + timedelta(days=1)))
            return (int(found.time.min()), int(found.time.max())) if len(found) else None
        time = self._table.c[spec.time]
        try:
            with database.reading(self._engine, spec.timeout) as connection:
                first, last = connection.execute(select(func.min(time), func.max(time))).one()
        except SQLAlchemyError as exc:
            raise self._translated(exc) from exc
        both = rows.to_milliseconds([first, last], spec.time_format, self._zone)
        return None if (both == rows.BAD_TIME).any() else (int(both[0]), int(both[1]))

    def _statement(self) -> Select[Any] | TextClause:
        spec = self._spec
        if spec.query:
            return text(spec.query)
        columns = self._table.c
        query = select(*(columns[name] for name in self._columns))
        query = query.where(columns[spec.time] >= text(":start"), columns[spec.time] < text(":end"))
        if spec.metric:
            query = query.where(columns[spec.metric].in_(spec.metrics))
        return query

    def _bound(self, connection: Any, time: int, outward: int) -> Any:
        """A bound in the column's own type.

        Local times repeat when clocks go back, so bounds in a zone with such changes reach an hour outward; rows
        outside are dropped after conversion.
        """
        spec = self._spec
        if spec.time_format == "epoch_milliseconds":
            return time
        if spec.time_format == "epoch_seconds":
            return time / 1000
        moment = datetime.fromtimestamp(time / 1000, UTC)
        if spec.time_zone != "UTC":
            moment = (moment + outward * _WIDEST_DST_CHANGE).astimezone(self._zone)
        dialect = self._engine.dialect.name
        if dialect == "sqlite":
            if self._time_text is None and spec.table:
                self._time_text = _TimeText.of(connection, self._table.c[spec.time], self._zone)
            return (self._time_text or _TimeText()).format(moment, outward)
        if dialect == "postgresql" and spec.time_zone == "UTC":
            return moment
        if dialect == "postgresql" and spec.table:
            # untyped, it takes the column's type: one with a zone uses the zone written here, one without ignores it
            return moment.isoformat()
        return _naive(moment)

    def _position(self, names: dict[str, int], name: str) -> int:
        try:
            return names[name]
        except KeyError:
            msg = f"the query must return a column {name!r}; received {', '.join(names)}"
            raise SourceError(msg) from None

    def _part(self, part: Sequence[Any], positions: list[int], names: rows.Names) -> rows.Part:
        columns = list(zip(*part, strict=True))
        ordered = [columns[position] for position in positions]
        spec = self._spec
        width = len(spec.entity)
        entity = names.rows(_join(ordered[:width]) if width else [spec.only_entity] * len(part))
        time = rows.to_milliseconds(ordered[width], spec.time_format, self._zone)
        if spec.metric:
            known = {name: index for index, name in enumerate(spec.metrics)}
            metric = np.fromiter(map(known.get, map(str, ordered[width + 1]), repeat(-1)), np.int32, len(part))
            return entity, metric, time, rows.to_values(ordered[width + 2])
        metrics = len(spec.metrics)
        values = np.stack([rows.to_values(values) for values in ordered[width + 1 :]], axis=1)  # (N, F)
        metric = np.tile(np.arange(metrics, dtype=np.int32), len(part))
        return np.repeat(entity, metrics), metric, np.repeat(time, metrics), values.ravel()

    def _translated(self, exc: SQLAlchemyError) -> SourceError:
        where = database.redacted(self._engine.url)
        if isinstance(exc, DBAPIError):
            if database.is_unavailable(exc):
                return SourceUnavailable(f"source {where} does not answer: {database.reason(exc)}")
            return SourceError(f"source {where} refused the query: {database.reason(exc)}")
        if isinstance(exc, NoSuchColumnError):
            return SourceError(f"source {where} returned other columns than configured: {exc}")
        return SourceUnavailable(f"source {where} failed: {exc}")


@dataclass(frozen=True)
class _TimeText:
    """Spelling of a SQLite table's timestamps; comparing them as text needs bounds spelled alike.

    Where it is not known, the bounds are the widest; rows outside are dropped after conversion.
    """

    start_separator: str = " "  # sorts before T
    end_separator: str = "T"
    slack: timedelta = timedelta(0)

    @staticmethod
    def of(connection: Any, time: ColumnElement[Any], zone: ZoneInfo) -> _TimeText | None:
        """The spelling of the first row, None if there is none; another offset than the zone's needs slack."""
        first = connection.scalar(select(time).where(time.is_not(None)).limit(1))
        if first is None:
            return None
        separator = "T" if "T" in str(first) else " "
        moment = rows.parse_timestamp(first)
        if moment is None or moment.tzinfo is None or moment.utcoffset() == moment.astimezone(zone).utcoffset():
            return _TimeText(separator, separator)
        return _TimeText(separator, separator, _WIDEST_OFFSET)

    def format(self, moment: datetime, outward: int) -> str:
        moment += outward * self.slack
        if outward > 0:
            moment += timedelta(microseconds=999_999)  # the next full second
        separator = self.end_separator if outward > 0 else self.start_separator
        # a bound without fraction and zone sorts before every text it is a prefix of, which is what both ends need
        return moment.strftime(f"%Y-%m-%d{separator}%H:%M:%S")


def _table(name: str, columns: Sequence[str]) -> TableClause:
    """A table whose columns are written with its name: SQLite takes a missing "Column" without it for a string."""
    schema, _, name = name.rpartition(".")
    return table(name, *map(column, dict.fromkeys(columns)), schema=schema or None)


def _join(columns: Sequence[Sequence[Any]]) -> list[str | None]:
    """Entity ids from one or several columns; None where a part is NULL."""
    if len(columns) == 1:
        return [None if part is None else str(part) for part in columns[0]]
    return [None if None in parts else "/".join(map(str, parts)) for parts in zip(*columns, strict=True)]


def _between(samples: Samples, start: int, end: int) -> Samples:
    keep = (samples.time >= start) & (samples.time < end)
    if keep.all():
        return samples
    return Samples(
        samples.entities, samples.entity[keep], samples.metric[keep], samples.time[keep], samples.value[keep]
    )


def _naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
