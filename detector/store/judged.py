"""What was judged: ranges of slots by entity, stored when they begin, and removed when they are old."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, and_, bindparam, delete, exists, func, or_, select, union_all

from detector.database import insert_rows
from detector.ports import Commit, JudgedRanges
from detector.store.errors import translated
from detector.tables import judged

PRUNED = 10_000
"""Ranges removed in one transaction."""

_ROW_BYTES = 40
"""Bytes of a row beside its text, keys and index included: at most, on SQLite, PostgreSQL and MariaDB."""


_RANGE = (judged.c.entity, judged.c.start, judged.c.reason)


def since(connection: Connection, monitor: str, slot: int) -> JudgedRanges:
    """Ranges of a monitor that reach to a slot (epoch milliseconds) or begin later; of each entity the oldest first."""
    later = select(*_RANGE).where(judged.c.monitor == monitor, judged.c.start >= slot)
    found = union_all(_reaching(monitor, slot), later).subquery()
    return _ranges(connection.execute(select(found).order_by(found.c.start)))


def _reaching(monitor: str, slot: int, entity: str | None = None) -> Select[Any]:
    """The last range of each entity that begins before a slot."""
    mine = [judged.c.monitor == monitor, *([] if entity is None else [judged.c.entity == entity])]
    before = (
        select(judged.c.entity, func.max(judged.c.start).label("start"))
        .where(*mine, judged.c.start < slot)
        .group_by(judged.c.entity)
        .subquery()
    )
    is_last = and_(judged.c.entity == before.c.entity, judged.c.start == before.c.start)
    return select(*_RANGE).join(before, is_last).where(*mine)


def _ranges(rows: Iterable[Row[Any]]) -> JudgedRanges:
    entity, start, reason = zip(*found, strict=True) if (found := list(rows)) else ((), (), ())
    return JudgedRanges(entity, start, reason)


def reasons_before(engine: Engine, monitor: str, slot: int, *, entity: str | None = None) -> dict[str, str]:
    """What was known of each entity, or of one, just before a slot, epoch milliseconds."""
    with translated(engine), engine.connect() as connection:
        return {row.entity: row.reason for row in connection.execute(_reaching(monitor, slot, entity))}


def between(engine: Engine, monitor: str, start: int, end: int, *, entity: str | None = None) -> JudgedRanges:
    """Ranges of a monitor, or of one entity, that begin in [start, end), epoch milliseconds; the oldest first."""
    query = select(*_RANGE).where(judged.c.monitor == monitor, judged.c.start >= start, judged.c.start < end)
    if entity is not None:
        query = query.where(judged.c.entity == entity)
    with translated(engine), engine.connect() as connection:
        return _ranges(connection.execute(query.order_by(judged.c.start, judged.c.entity)))


def first(engine: Engine, monitor: str) -> int | None:
    """Start of the oldest range of a monitor, epoch milliseconds; None if there is none."""
    with translated(engine), engine.connect() as connection:
        oldest: int | None = connection.scalar(select(func.min(judged.c.start)).where(judged.c.monitor == monitor))
        return oldest


def entities(engine: Engine, monitor: str) -> list[str]:
    """All entities on record of a monitor, in order."""
    query = select(judged.c.entity).where(judged.c.monitor == monitor).distinct().order_by(judged.c.entity)
    with translated(engine), engine.connect() as connection:
        return list(connection.scalars(query))


def store(connection: Connection, commit: Commit) -> None:
    """Stores the ranges that begin with a commit, in place of those it judges again or forgets."""
    mine = judged.c.monitor == commit.monitor
    if commit.forget_from is not None:
        connection.execute(delete(judged).where(mine, judged.c.start >= commit.forget_from))
    if commit.judged_again:
        keys = [{"e": entity, "s": slot} for entity, slot in commit.judged_again]
        replaced = and_(mine, judged.c.entity == bindparam("e"), judged.c.start >= bindparam("s"))
        connection.execute(delete(judged).where(replaced), keys)
    made = commit.judged
    rows = [(commit.monitor, *row) for row in zip(made.entity, made.start, made.reason, strict=True)]
    insert_rows(connection, judged, columns=("monitor", "entity", "start", "reason"), rows=rows)


def prune(engine: Engine, monitor: str, before: int) -> int:
    """Removes ranges of a monitor that ended before a time, epoch milliseconds; returns how many it removed.

    Also the last range of an entity that has been without data since before: nothing is left of it then.

    At most `PRUNED` at a time, so that nobody waits long for the database; call it until it returns 0.
    """
    later = judged.alias()
    is_of_it = and_(later.c.monitor == judged.c.monitor, later.c.entity == judged.c.entity)
    has_ended = exists().where(is_of_it, later.c.start > judged.c.start, later.c.start <= before)
    is_nobody = judged.c.reason.in_(("gone", "no_data"))
    old = (
        select(judged.c.entity.label("e"), judged.c.start.label("s"))
        .where(judged.c.monitor == monitor, judged.c.start < before, or_(has_ended, is_nobody))
        .limit(PRUNED)
    )
    is_it = and_(judged.c.monitor == monitor, judged.c.entity == bindparam("e"), judged.c.start == bindparam("s"))
    with translated(engine), engine.begin() as connection:
        keys = [dict(row) for row in connection.execute(old).mappings()]
        if keys:
            connection.execute(delete(judged).where(is_it), keys)
    return len(keys)


@dataclass(frozen=True)
class Size:
    """Size of a monitor's record."""

    entities: int  # that are on it
    ranges: int  # that began since a time
    bytes: int  # of these, about


def size(engine: Engine, monitor: str, since: int) -> Size:
    """Entities on record of a monitor, and the ranges that began since a time, epoch milliseconds."""
    mine = judged.c.monitor == monitor
    letters = 2 * (func.length(judged.c.entity) + func.length(judged.c.monitor)) + func.length(judged.c.reason)
    recent = select(func.count(), func.sum(letters)).where(mine, judged.c.start >= since)
    with translated(engine), engine.connect() as connection:
        entities = connection.scalar(select(func.count(judged.c.entity.distinct())).where(mine)) or 0
        ranges, text = connection.execute(recent).one()
    return Size(entities, ranges, int(text or 0) + _ROW_BYTES * ranges)
