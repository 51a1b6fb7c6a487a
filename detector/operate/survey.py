"""Tables of a database that somebody wants to watch, and some of their rows: only read, and never in full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from sqlalchemy import (
    Connection,
    DateTime,
    Engine,
    Enum,
    Numeric,
    String,
    TableClause,
    Uuid,
    column,
    inspect,
    select,
    table,
    text,
)
from sqlalchemy.engine.reflection import ObjectKind
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.types import Boolean, Float, Integer, TypeEngine

from detector import database
from detector.core import grid
from detector.core.series import Int64, Samples
from detector.detect import pace
from detector.errors import ConfigError, SourceError, SourceUnavailable
from detector.operate import presets, propose
from detector.operate.proposal import Proposal, Seen, proposed
from detector.operate.propose import Column, Kind, Roles, Table
from detector.sources import rows
from detector.sources.sql import SqlSource, TableSpec
from detector.times import DAY_MS
from detector.wording import printable

_FIRST_ROWS = 50  # to see what columns hold
_NEWEST_ROWS = 2000  # to see what they are for
_MOST_SAMPLES = 50_000  # to see how values come and move
_ENOUGH = 22  # samples of a series, to see whether it only grows
_MOMENTS = 24  # looked at otherwise
_LONGEST = 7 * DAY_MS
_NUMBERS = 0.5  # share of a text column that are numbers, so that it is one of them
_KEYS = 200  # of Zabbix, looked at
_MOST_KEYS = 8  # proposed
_SYSTEM = ("information_schema", "pg_", "_timescaledb", "timescaledb_", "mysql", "performance_schema", "sys")


class Survey:
    """Looks at one database; every question has a time limit."""

    def __init__(self, engine: Engine, timeout: timedelta) -> None:
        self._engine = engine
        self._timeout = timeout

    def tables(self) -> list[Table]:
        """All tables and views of others than this program, without rows.

        Raises: SourceUnavailable, SourceError.
        """
        with self._translated("its tables"), database.reading(self._engine, self._timeout) as connection:
            found = list(_tables(connection))
        if not found:
            msg = f"{database.redacted(self._engine.url)} must have tables; received none that this user sees"
            raise ConfigError(msg)
        return found

    def sampled(self, found: Table, now: int) -> Table:
        """A table with its newest rows, the newest first. now: epoch milliseconds

        Raises: ConfigError if it has no time or no row, SourceUnavailable, SourceError.
        """
        name = printable(found.name)
        with self._translated(name), database.reading(self._engine, self._timeout) as connection:
            clause = _clause(found)
            first = replace(found, rows=_rows(connection.execute(select(*clause.c).limit(_FIRST_ROWS)).all()))
            if not first.rows:
                raise ConfigError(f"table {name} must have rows to learn from; received none")
            time, time_format = propose.time_of(_typed(first))
            until = self._until(time_format, now)
            query = select(*clause.c).where(clause.c[time] < text(":until"))
            newest = query.order_by(clause.c[time].desc()).limit(_NEWEST_ROWS)
            return _typed(replace(found, rows=_rows(connection.execute(newest, {"until": until}).all())) or first)

    def proposal(
        self,
        found: Table,
        columns: Mapping[str, set[str]],
        *,
        now: int,
        local: tuple[str, int],
        connection: Mapping[str, Any],
        entity: Sequence[str] = (),
        metrics: Sequence[str] = (),
    ) -> Proposal:
        """The monitor of a table; entity, metrics: as somebody wants them.

        columns: names of columns of all tables; local: this machine's zone, and the milliseconds its clocks are ahead
        connection: how its source is reached, as the configuration has it

        Raises: ConfigError if it is no table of metrics, SourceUnavailable, SourceError.
        """
        with_rows = self.sampled(found, now)
        is_zabbix = found.name in presets.ZABBIX and presets.is_zabbix(columns)
        if is_zabbix:
            roles = self._zabbix(columns)
        elif entity or metrics:
            roles = _wanted(with_rows, propose.roles(with_rows), entity, metrics)
        else:
            roles = presets.telegraf(with_rows) or propose.roles(with_rows)
        seen = self.seen(with_rows, roles, now=now, local=local)
        if is_zabbix:
            roles = zabbix_of(roles, seen.samples, columns)
            seen = self.seen(with_rows, roles, now=now, local=local)
        reached = {**connection, **({} if roles.query else {"table": found.name})}
        name = "zabbix" if is_zabbix else found.name.rpartition(".")[2]
        return proposed(name, roles, seen, reached, wanted=metrics)

    def seen(self, found: Table, roles: Roles, *, now: int, local: tuple[str, int]) -> Seen:
        """What the newest samples of a table are like; roles as they are for it."""
        at = rows.to_milliseconds(found.of(roles.time), roles.time_format, ZoneInfo("UTC"))
        at = at[at != rows.BAD_TIME]
        source = self._source(found, roles)
        newest = int(at.max(initial=0))
        span = max(60_000, newest - int(at.min(initial=newest)))
        span = min(_LONGEST, int(span * max(1.0, _MOST_SAMPLES / (len(at) * len(roles.metrics)))))
        samples = source.read(newest - span, newest + 1)
        extent = source.extent(max(now, newest))
        oldest = extent[0] if extent else int(at.min(initial=newest))
        typed = next((one for one in found.columns if one.name == roles.time), None)
        return Seen(
            samples=samples,
            spread=_spread(source, samples, oldest=oldest, newest=newest),
            oldest=oldest,
            newest=newest,
            now=now,
            lags=_lags(found, roles),
            local=local,
            has_zone=typed is not None and typed.has_zone,
        )

    def _source(self, found: Table, roles: Roles) -> SqlSource:
        spec = TableSpec(
            metrics=roles.metrics,
            table="" if roles.query else found.name,
            query=roles.query,
            entity=roles.entity,
            time=roles.time,
            time_format=roles.time_format,
            metric=roles.metric,
            value=roles.value,
            timeout=self._timeout,
        )
        return SqlSource(self._engine, spec)

    def _until(self, time_format: str, now: int) -> object:
        """A day from now, in the type of the column: what lies beyond is no time of a row."""
        if time_format != "timestamp":
            return (now + DAY_MS) // (1000 if time_format == "epoch_seconds" else 1)
        moment = datetime.fromtimestamp((now + DAY_MS) / 1000, UTC).replace(tzinfo=None)
        return moment.isoformat(" ") if self._engine.dialect.name == "sqlite" else moment

    def _zabbix(self, columns: Mapping[str, set[str]]) -> Roles:
        """The items that most hosts have and that move."""
        query = (
            "SELECT items.key_ FROM items JOIN hosts ON hosts.hostid = items.hostid"
            " GROUP BY items.key_ ORDER BY count(*) DESC, items.key_"
        )
        with self._translated("items"), database.reading(self._engine, self._timeout) as connection:
            found = [str(row[0]) for row in connection.execute(text(query)).fetchmany(_KEYS)]
        keys = [key for key in found if propose.is_writable(key) and not set(key) & set("'\"\\")]
        if not keys:
            raise ConfigError("table items of Zabbix must have keys of items; received none")
        return presets.zabbix(keys[:_KEYS], presets.zabbix_query(columns, keys))

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        where = database.redacted(self._engine.url)
        try:
            yield
        except DBAPIError as exc:
            if not database.is_unavailable(exc):
                raise SourceError(f"{where} refused to show {what}: {database.reason(exc)}") from exc
            slow = "; if it is the time column that has no index, create one"
            hint = slow if "timeout" in str(exc).lower() or "interrupt" in str(exc).lower() else ""
            raise SourceUnavailable(f"{where} does not answer: {database.reason(exc)}{hint}") from exc
        except SQLAlchemyError as exc:
            raise SourceError(f"{where} cannot show {what}: {' '.join(str(exc).split())[:200]}") from exc


def _wanted(found: Table, roles: Roles, entity: Sequence[str], metrics: Sequence[str]) -> Roles:
    """Roles with the entity and the metrics that somebody wants."""
    columns = [one.name for one in found.columns]
    known = propose.names_of(found, roles.metric) if roles.metric else columns
    for option, names, there in (("--entity", entity, columns), ("--metric", metrics, known)):
        for name in names:
            if name not in there:
                msg = f"{option} must be among {', '.join(there[:20])}. Received: {name!r}"
                raise ConfigError(printable(msg))
    why = {key: text for key, text in roles.why.items() if not (entity and key == "entity")}
    return replace(roles, entity=tuple(entity) or roles.entity, metrics=tuple(metrics) or roles.metrics, why=why)


def zabbix_of(found: Roles, samples: Samples, columns: Mapping[str, set[str]]) -> Roles:
    """The items worth watching, by the hosts that have values of them."""
    hosts = {index: set(samples.entity[samples.metric == index].tolist()) for index in range(len(found.metrics))}
    moving = [index for index, mine in hosts.items() if mine]
    moving.sort(key=lambda index: (-len(hosts[index]), index))
    keys = tuple(found.metrics[index] for index in moving[:_MOST_KEYS])
    return replace(found, metrics=keys, query=presets.zabbix_query(columns, keys))


def _spread(source: SqlSource, samples: Samples, *, oldest: int, newest: int) -> Samples:
    """Samples of moments within a day, where so many rows come that the newest are of a few moments only."""
    usual = pace.usual_distance(samples)
    series = len(set(zip(samples.entity.tolist(), samples.metric.tolist(), strict=True)))
    if usual is None or len(samples) >= _ENOUGH * series:
        return samples
    apart = min(DAY_MS, newest - oldest) // _MOMENTS
    ends = [newest + 1 - apart * n for n in range(_MOMENTS)]
    return _joined([source.read(end - min(usual, apart), end) for end in ends])


def _joined(parts: Sequence[Samples]) -> Samples:
    """Samples of several reads as one."""
    entities = tuple(dict.fromkeys(name for part in parts for name in part.entities))
    entity = [grid.positions(part.entities, entities)[part.entity].astype(np.int32) for part in parts]
    metric, time, value = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("metric", "time", "value")
    )
    return Samples(entities, np.concatenate(entity), metric, time, value)


# -- columns and rows -------------------------------------------------------------------------------------------------


def _tables(connection: Connection) -> Iterator[Table]:
    inspector = inspect(connection)
    usual = inspector.default_schema_name
    schemas = [usual] if connection.dialect.name != "postgresql" else inspector.get_schema_names()
    for schema in schemas:
        if schema is not None and schema != usual and schema.startswith(_SYSTEM):
            continue
        of = None if schema == usual else schema
        parts = _partitions(connection, str(schema))
        keys = inspector.get_multi_pk_constraint(schema=of, kind=ObjectKind.ANY)
        for (_, name), columns in inspector.get_multi_columns(schema=of, kind=ObjectKind.ANY).items():
            if name in parts or name.startswith(("detector_", "alembic_version", "sqlite_", "pg_")):
                continue
            constraint = keys.get((of, name))
            key = constraint["constrained_columns"] if constraint else []
            described = tuple(
                Column(
                    one["name"],
                    _kind(one["type"]),
                    has_zone=bool(getattr(one["type"], "timezone", False)),
                    is_key=key == [one["name"]],
                )
                for one in columns
            )
            yield Table(f"{schema}.{name}" if of else name, described)


def _partitions(connection: Connection, schema: str) -> set[str]:
    """Tables of PostgreSQL that are parts of another one."""
    if connection.dialect.name != "postgresql":
        return set()
    query = "SELECT relname FROM pg_class WHERE relispartition AND relnamespace = to_regnamespace(quote_ident(:schema))"
    return set(connection.scalars(text(query), {"schema": schema}))


def _kind(of: TypeEngine[object]) -> Kind:
    match of:
        case Boolean():
            return "other"
        case DateTime():
            return "time"
        case Integer() | Numeric() | Float():
            return "number"
        case Enum() | String() | Uuid():
            return "text"
    return "time" if "timestamp" in str(of.__visit_name__).lower() else "other"


def _typed(found: Table) -> Table:
    """A table whose columns without a type (of SQLite) have that of their values."""
    typed = []
    for one in found.columns:
        values = [value for value in found.of(one.name) if value is not None]
        is_number = bool(values) and all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in values
        )
        is_text = bool(values) and all(isinstance(value, str) for value in values)
        kind: Kind = one.kind
        if kind == "other" and (is_number or is_text):
            kind = "number" if is_number else "text"
        if kind == "time" and is_number:
            kind = "number"
        if propose.may_be_value(one) and values and np.isfinite(rows.to_values(values)).mean() > _NUMBERS:
            kind = "number"
        has_zone = one.has_zone or (kind in {"time", "text"} and bool(values) and not rows.is_local(values[:20]).any())
        typed.append(replace(one, kind=kind, has_zone=has_zone))
    return replace(found, columns=tuple(typed))


def _clause(found: Table) -> TableClause:
    schema, _, name = found.name.rpartition(".")
    return table(name, *(column(one.name) for one in found.columns), schema=schema or None)


def _rows(found: object) -> tuple[tuple[object, ...], ...]:
    return tuple(tuple(row) for row in found)  # type: ignore[attr-defined]  # of a result


def _lags(found: Table, roles: Roles) -> Int64:
    if not roles.arrival:
        return np.empty(0, np.int64)
    zone = ZoneInfo("UTC")
    at = rows.to_milliseconds(found.of(roles.time), roles.time_format, zone)
    written = rows.to_milliseconds(found.of(roles.arrival), "timestamp", zone)
    known = (at != rows.BAD_TIME) & (written != rows.BAD_TIME)
    return np.asarray(np.maximum(0, written[known] - at[known]))
