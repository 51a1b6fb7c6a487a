"""Any table or query of any database that SQLAlchemy speaks to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import ColumnElement, Engine, Select, TableClause, TextClause, column, func, select, table, text
from sqlalchemy.exc import DBAPIError, NoSuchColumnError, SQLAlchemyError

from detector import database
from detector.core.series import Samples
from detector.errors import SourceError, SourceUnavailable
from detector.sources import rows

_CHUNK = 50_000
_WIDEST_DST_CHANGE = timedelta(hours=1)


@dataclass(frozen=True)
class TableSpec:
    """Which columns of which table or query hold what; `metric` and `value` empty = one column per metric."""

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
        self._time_text: _TimeText | None = None

    def read(self, start: int, end: int) -> Samples:
        """All samples with start ≤ time < end, both in epoch milliseconds.

        Raises: SourceUnavailable if the database does not answer in time, SourceError if it refuses the question.
        """
        try:
            with database.reading(self._engine, self._spec.timeout) as connection:
                bounds = {"start": self._bound(connection, start, -1), "end": self._bound(connection, end, 1)}
                result = connection.execution_options(stream_results=True).execute(self._statement(), bounds)
                names = {name: position for position, name in enumerate(result.keys())}
                positions = [self._position(names, name) for name in self._columns]
                parts = [self._samples(part, positions) for part in result.partitions(_CHUNK)]
        except SQLAlchemyError as exc:
            raise self._translated(exc) from exc
        return _between(rows.concatenate(parts), start, end)

    def extent(self) -> tuple[int, int] | None:
        """Times of the oldest and the newest sample, None if there is none; a query is asked for its last 30 days."""
        spec = self._spec
        if spec.query:
            now = datetime.now(UTC)
            found = self.read(_ms(now - timedelta(days=30)), _ms(now + timedelta(days=1)))
            return (int(found.time.min()), int(found.time.max())) if len(found) else None
        time: ColumnElement[Any] = column(spec.time)
        try:
            with database.reading(self._engine, spec.timeout) as connection:
                first, last = connection.execute(select(func.min(time), func.max(time)).select_from(_table(spec))).one()
        except SQLAlchemyError as exc:
            raise self._translated(exc) from exc
        both = rows.to_milliseconds([first, last], spec.time_format, self._zone)
        return None if (both == rows.BAD_TIME).any() else (int(both[0]), int(both[1]))

    def _statement(self) -> Select[Any] | TextClause:
        spec = self._spec
        if spec.query:
            return text(spec.query)
        time: ColumnElement[Any] = column(spec.time)
        query = select(*(column(name) for name in self._columns)).select_from(_table(spec))
        query = query.where(time >= text(":start"), time < text(":end"))
        if spec.metric:
            query = query.where(column(spec.metric).in_(spec.metrics))
        return query

    def _bound(self, connection: Any, time: int, outward: int) -> Any:  # noqa: ANN401 - what the column holds
        """A bound in the column's own type.

        Local times repeat when clocks go back, so bounds in a zone with such changes reach an hour outward; what is
        too much is dropped after conversion.
        """
        spec = self._spec
        if spec.time_format == "epoch_milliseconds":
            return time
        if spec.time_format == "epoch_seconds":
            return time / 1000
        moment = datetime.fromtimestamp(time / 1000, UTC)
        if spec.time_zone != "UTC":
            moment = (moment + outward * _WIDEST_DST_CHANGE).astimezone(self._zone)
        if self._engine.dialect.name != "sqlite":
            return moment if self._engine.dialect.name == "postgresql" and spec.time_zone == "UTC" else _naive(moment)
        if self._time_text is None:
            self._time_text = _TimeText.of(connection, spec)
        return self._time_text.format(moment)

    def _position(self, names: dict[str, int], name: str) -> int:
        try:
            return names[name]
        except KeyError:
            msg = f"the query must return a column {name!r}; received {', '.join(names)}"
            raise SourceError(msg) from None

    def _samples(self, part: Sequence[Any], positions: list[int]) -> Samples:
        columns = list(zip(*part, strict=True))
        ordered = [columns[position] for position in positions]
        spec = self._spec
        width = len(spec.entity)
        entity = _join(ordered[:width]) if width else [spec.only_entity] * len(part)
        time = rows.to_milliseconds(ordered[width], spec.time_format, self._zone)
        if spec.metric:
            known = {name: index for index, name in enumerate(spec.metrics)}
            metric = np.array([known.get(str(name), -1) for name in ordered[width + 1]], dtype=np.int32)
            return rows.samples(entity, metric, time, rows.to_values(ordered[width + 2]))
        metrics = len(spec.metrics)
        values = np.stack([rows.to_values(values) for values in ordered[width + 1 :]], axis=1)  # (N, F)
        return rows.samples(
            [name for name in entity for _ in range(metrics)],
            np.tile(np.arange(metrics, dtype=np.int32), len(part)),
            np.repeat(time, metrics),
            values.ravel(),
        )

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
    """How a SQLite table writes its timestamps; comparing them as text needs bounds written alike."""

    separator: str = " "
    is_aware: bool = False

    @staticmethod
    def of(connection: Any, spec: TableSpec) -> _TimeText:  # noqa: ANN401 - SQLAlchemy connection
        if spec.query:
            return _TimeText()
        first = connection.scalar(select(column(spec.time)).select_from(_table(spec)).limit(1))
        written = str(first or "")
        return _TimeText(separator="T" if "T" in written else " ")

    def format(self, moment: datetime) -> str:
        # a bound without fraction and zone sorts before every text it is a prefix of, which is what both ends need
        return moment.strftime(f"%Y-%m-%d{self.separator}%H:%M:%S")


def _table(spec: TableSpec) -> TableClause:
    schema, _, name = spec.table.rpartition(".")
    return table(name, schema=schema or None)


def _join(columns: list[Sequence[Any]]) -> list[str | None]:
    """Entity ids from one or several columns; None where a part is NULL."""
    if len(columns) == 1:
        return [None if part is None else str(part) for part in columns[0]]
    return [None if None in parts else "/".join(map(str, parts)) for parts in zip(*columns, strict=True)]


def _between(samples: Samples, start: int, end: int) -> Samples:
    keep = (samples.time >= start) & (samples.time < end)
    if keep.all():
        return samples
    return Samples(samples.entities, samples.entity[keep], samples.metric[keep], samples.time[keep], samples.value[keep])


def _naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
