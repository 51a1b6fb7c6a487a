"""Samples kept in the detector's own database: what `import` brought in and what the host source records."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
from sqlalchemy import ColumnElement, Engine, Select, and_, func, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError

from detector import database
from detector.core.series import Samples
from detector.errors import SourceError, SourceUnavailable
from detector.sources import rows
from detector.tables import sample, series

_UPSERT = {
    "sqlite": "INSERT OR REPLACE INTO detector_sample (series_id, ts, value) VALUES (?, ?, ?)",
    "postgresql": "INSERT INTO detector_sample (series_id, ts, value) VALUES (%s, %s, %s)"
    " ON CONFLICT (series_id, ts) DO UPDATE SET value = excluded.value",
    "mysql": "REPLACE INTO detector_sample (series_id, ts, value) VALUES (%s, %s, %s)",
    "mariadb": "REPLACE INTO detector_sample (series_id, ts, value) VALUES (%s, %s, %s)",
}


class EmbeddedSource:
    """The samples of one monitor in the detector's database; a sample written again replaces the old one."""

    def __init__(self, engine: Engine, monitor: str, metrics: tuple[str, ...]) -> None:
        self._engine = engine
        self._monitor = monitor
        self._metrics = metrics
        self._timeout = timedelta(seconds=30)

    def read(self, start: int, end: int) -> Samples:
        """All samples with start ≤ time < end, both in epoch milliseconds.

        Raises: SourceUnavailable if the database does not answer.
        """
        parts = []
        with self._translated(), database.reading(self._engine, self._timeout) as connection:
            wanted: dict[int, tuple[str, int]] = {
                row.id: (row.entity, self._metrics.index(row.metric)) for row in connection.execute(self._series())
            }
            # by primary key on SQLite, by the block range index on PostgreSQL: neither looks at older samples
            query = (
                select(sample.c.series_id, sample.c.ts, sample.c.value)
                .join_from(series, sample, sample.c.series_id == series.c.id)
                .where(self._is_mine(), sample.c.ts >= start, sample.c.ts < end)
                .execution_options(stream_results=True)
            )
            with connection.execute(query) as result:
                for part in result.partitions(50_000):
                    known = [row for row in part if row[0] in wanted]  # a series may have been added just now
                    if known:
                        identity, time, value = zip(*known, strict=True)
                        names, metric = zip(*map(wanted.__getitem__, identity), strict=True)
                        times, values = np.array(time, dtype=np.int64), rows.to_values(value)
                        parts.append(rows.samples(names, np.array(metric, dtype=np.int32), times, values))
        return rows.concatenate(parts)

    def extent(self) -> tuple[int, int] | None:
        """Times of the oldest and the newest sample, None if there is none."""
        with self._translated(), database.reading(self._engine, self._timeout) as connection:
            ids = [row[0] for row in connection.execute(self._series())]
            # one seek into the primary key per series, where a plain MIN over the join would scan it all
            ends = [
                connection.execute(
                    select(func.min(sample.c.ts), func.max(sample.c.ts)).where(sample.c.series_id == identity)
                ).one()
                for identity in ids
            ]
        known = [(first, last) for first, last in ends if first is not None]
        return (min(first for first, _ in known), max(last for _, last in known)) if known else None

    def write(self, entity: Sequence[str], metric: Sequence[str], time: Sequence[int], value: Sequence[float]) -> None:
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
        return select(series.c.id, series.c.entity, series.c.metric).where(self._is_mine())

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
