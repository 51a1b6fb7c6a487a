"""Samples in the detector's own database: those of `detector import` and those that the host source records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Engine, ScalarSelect, Select, UnaryExpression, and_, func, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError

from detector import database
from detector.core import rejects
from detector.core.rejects import Reject
from detector.core.series import Float64, Int64, Samples
from detector.errors import SourceError, SourceUnavailable
from detector.sources import rows
from detector.tables import sample, series

_CHUNK = 10_000  # rows at a time; with more, only the garbage collector has more to look through

_UPSERT = {
    "sqlite": "INSERT OR REPLACE INTO detector_sample (series_id, ts, value) VALUES (?, ?, ?)",
    "postgresql": "INSERT INTO detector_sample (series_id, ts, value) VALUES (%s, %s, %s)"
    " ON CONFLICT (series_id, ts) DO UPDATE SET value = excluded.value",
    "mysql": "REPLACE INTO detector_sample (series_id, ts, value) VALUES (%s, %s, %s)",
    "mariadb": "REPLACE INTO detector_sample (series_id, ts, value) VALUES (%s, %s, %s)",
}


@dataclass(frozen=True)
class _Known:
    """The series of a monitor, kept so that a million of them need not be read again with every tick."""

    ids: Int64  # (N,) rising
    entity: rows.Int32  # (N,)
    metric: rows.Int32  # (N,)
    entities: tuple[str, ...]

    @staticmethod
    def of(found: Iterable[Sequence[Any]], metrics: tuple[str, ...]) -> _Known:
        """From rows of id, entity and metric, rising by id."""
        ids, entities, named = list(zip(*found, strict=True)) or [(), (), ()]
        names = rows.Names()
        return _Known(
            ids=np.array(ids, dtype=np.int64),
            entity=names.rows(entities),
            metric=np.fromiter(map(metrics.index, named), np.int32, len(named)),
            entities=names.entities,
        )

    def rows(self, ids: Int64) -> Int64:
        """Index of each id, (N,) -> (N,); −1 for one that is not known."""
        if not self.ids.size:
            return np.full(len(ids), -1, dtype=np.int64)
        row = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[row] == ids, row, -1)

    def samples(self, parts: Sequence[tuple[Int64, Int64, Float64]]) -> Samples:
        """Samples from parts of ids, times and values, (N,) each; those of unknown series are left out."""
        columns = []
        for ids, time, value in parts:
            row = self.rows(ids)
            keep = row >= 0
            columns.append((self.entity[row[keep]], self.metric[row[keep]], time[keep], value[keep]))
        return rows.compact(rows.samples(self.entities, columns))


class EmbeddedSource:
    """The samples of one monitor in the detector's database; a sample written again replaces the old one."""

    def __init__(self, engine: Engine, monitor: str, metrics: tuple[str, ...]) -> None:
        self._engine = engine
        self._monitor = monitor
        self._metrics = metrics
        self._timeout = timedelta(seconds=30)
        self._known = _Known.of([], metrics)

    def read(self, start: int, end: int) -> Samples:
        """All samples with start ≤ time < end, both in epoch milliseconds.

        Raises: SourceUnavailable if the database does not answer.
        """
        # by primary key on SQLite, by the block range index on PostgreSQL: neither looks at older samples
        query = (
            select(sample.c.series_id, sample.c.ts, sample.c.value)
            .join_from(series, sample, sample.c.series_id == series.c.id)
            .where(self._is_mine(), sample.c.ts >= start, sample.c.ts < end)
        )
        parts: list[tuple[Int64, Int64, Float64]] = []
        with self._translated(), database.reading(self._engine, self._timeout) as connection:
            with database.streaming(connection).execute(query) as result:
                for part in result.partitions(_CHUNK):
                    identity, time, value = zip(*part, strict=True)
                    parts.append((np.array(identity, np.int64), np.array(time, np.int64), rows.to_values(value)))
            if any((self._known.rows(identity) < 0).any() for identity, _, _ in parts):
                self._known = _Known.of(connection.execute(self._series()), self._metrics)
        return self._known.samples(parts)

    def extent(self, now: int) -> tuple[int, int] | None:
        """Times of the oldest and the newest sample that does not lie in the future, None if there is none."""

        def end(order: UnaryExpression[int]) -> ScalarSelect[int]:
            """A seek into the primary key for each series; a plain MIN over the join would scan all samples."""
            return (
                select(sample.c.ts)
                .where(sample.c.series_id == series.c.id, sample.c.ts < now + rows.AHEAD)
                .order_by(order)
                .limit(1)
                .correlate(series)
                .scalar_subquery()
            )

        query = select(func.min(end(sample.c.ts.asc())), func.max(end(sample.c.ts.desc()))).where(self._is_mine())
        with self._translated(), database.reading(self._engine, self._timeout) as connection:
            first, last = connection.execute(query).one()
        return None if first is None else (int(first), int(last))

    def rejects(self, now: int) -> tuple[Reject, ...]:
        """Samples of the future; `detector import` has refused what could not be read."""
        future = sample.c.ts >= now + rows.AHEAD
        query = select(sample.c.ts).join_from(series, sample, sample.c.series_id == series.c.id)
        query = query.where(self._is_mine(), future).limit(rows.MOST_REJECTS)
        with self._translated(), database.reading(self._engine, self._timeout) as connection:
            found = connection.scalars(query).all()
        return (Reject("future", len(found), rejects.printable(found[0])),) if found else ()

    def write(
        self, entity: Sequence[str], metric: Sequence[str], *, time: Sequence[int], value: Sequence[float]
    ) -> None:
        """Stores samples given as columns; NaN and infinities are stored as NULL.

        Raises: SourceUnavailable if the database does not answer.
        """
        keys = list(zip(entity, metric, strict=True))
        with self._translated():
            ids = self._ids(sorted(set(keys)))
            stored = [
                (ids[key], at, number if math.isfinite(number) else None)
                for key, at, number in zip(keys, time, value, strict=True)
            ]
            with self._engine.begin() as connection:
                connection.exec_driver_sql(_UPSERT[self._engine.dialect.name], stored)

    def _is_mine(self) -> ColumnElement[bool]:
        return and_(series.c.monitor == self._monitor, series.c.metric.in_(self._metrics))

    def _series(self) -> Select[tuple[int, str, str]]:
        return select(series.c.id, series.c.entity, series.c.metric).where(self._is_mine()).order_by(series.c.id)

    def _ids(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Ids of (entity, metric) pairs; pairs not seen before are added."""
        query = select(series.c.entity, series.c.metric, series.c.id).where(series.c.monitor == self._monitor)
        with self._engine.connect() as connection:
            ids = {(entity, metric): identity for entity, metric, identity in connection.execute(query)}
        new = [{"monitor": self._monitor, "entity": e, "metric": m} for e, m in keys if (e, m) not in ids]
        if not new:
            return ids
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(series), new)
        except IntegrityError:
            pass  # another process has just added them
        with self._engine.connect() as connection:
            return {(entity, metric): identity for entity, metric, identity in connection.execute(query)}

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as exc:
            where = database.redacted(self._engine.url)
            kind = SourceUnavailable if database.is_unavailable(exc) else SourceError
            msg = f"sample store {where} does not answer: {database.reason(exc)}"
            raise kind(msg) from exc
