"""Stored scores: read back, and removed when they are old."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sqlalchemy import Engine, and_, delete, func, or_, select

from detector.core.series import Float64
from detector.ports import EntityScores, ScoredSlot
from detector.store.errors import translated
from detector.tables import score

PRUNED = 10_000
"""Rows removed in one transaction, which takes some hundredths of a second: others wait no longer for it."""

_SLOTS_AT_ONCE = 500


def by_entity(engine: Engine, monitor: str) -> dict[str, EntityScores]:
    """All scores of a monitor, by entity."""
    columns = (score.c.entity, score.c.slot, score.c.score, score.c.surprise)
    query = select(*columns).where(score.c.monitor == monitor).order_by(score.c.slot)
    found: dict[str, list[tuple[int, float, float]]] = {}
    with translated(engine), engine.connect() as connection:
        for entity, slot, value, surprise in connection.execute(query):
            found.setdefault(entity, []).append((slot, value, np.nan if surprise is None else surprise))
    return {
        entity: EntityScores(
            np.array(slots, dtype=np.int64), *(np.array(column, dtype=np.float64) for column in others)
        )
        for entity, rows in found.items()
        for slots, *others in [zip(*rows, strict=True)]
    }


def of_entity(engine: Engine, *, monitor: str, entity: str, slots: Sequence[int]) -> Float64:
    """An entity's scores (K,) at K slots, epoch milliseconds; NaN where none is stored."""
    found = at_slots(engine, monitor, entity, slots)
    return np.array([found[slot].score if slot in found else np.nan for slot in slots], dtype=np.float64)


def at_slots(engine: Engine, monitor: str, entity: str, slots: Sequence[int]) -> dict[int, ScoredSlot]:
    """An entity's stored scores at some slots, epoch milliseconds."""
    columns = (score.c.slot, score.c.score, score.c.surprise, score.c.model_version)
    found: dict[int, ScoredSlot] = {}
    with translated(engine), engine.connect() as connection:
        for begin in range(0, len(slots), _SLOTS_AT_ONCE):
            # slots one by one, not a range: so the primary key finds each row, however large the fleet
            is_wanted = and_(
                score.c.monitor == monitor,
                score.c.slot.in_(slots[begin : begin + _SLOTS_AT_ONCE]),
                score.c.entity == entity,
            )
            for slot, *values in connection.execute(select(*columns).where(is_wanted)):
                found[slot] = ScoredSlot(*values)
    return found


def between(engine: Engine, monitor: str, start: int, end: int) -> dict[int, dict[str, ScoredSlot]]:
    """All stored scores of a monitor of slots in [start, end), epoch milliseconds; by slot and entity."""
    columns = (score.c.slot, score.c.entity, score.c.score, score.c.surprise, score.c.model_version)
    query = select(*columns).where(score.c.monitor == monitor, score.c.slot >= start, score.c.slot < end)
    found: dict[int, dict[str, ScoredSlot]] = {}
    with translated(engine), engine.connect() as connection:
        for slot, name, value, surprise, version in connection.execute(query):
            found.setdefault(slot, {})[name] = ScoredSlot(value, surprise, version)
    return found


def first_slot(engine: Engine, monitor: str) -> int | None:
    """The oldest slot with a stored score of a monitor, epoch milliseconds; None if there is none."""
    with translated(engine), engine.connect() as connection:
        oldest: int | None = connection.scalar(select(func.min(score.c.slot)).where(score.c.monitor == monitor))
        return oldest


def prune(engine: Engine, monitor: str, before: int) -> int:
    """Removes the oldest scores of a monitor of slots before a time, epoch milliseconds; returns how many it removed.

    At most `PRUNED` at a time, so that nobody waits long for the database; call it until it returns 0.
    """
    is_old = and_(score.c.monitor == monitor, score.c.slot < before)
    key = (score.c.slot, score.c.entity)
    with translated(engine), engine.begin() as connection:
        end = connection.execute(select(*key).where(is_old).order_by(*key).offset(PRUNED).limit(1)).first()
        if end is not None:  # the first row that stays; written so that the primary key finds the rows before it
            slot, entity = end
            is_old = and_(is_old, score.c.slot <= slot, or_(score.c.slot < slot, score.c.entity < entity))
        return connection.execute(delete(score).where(is_old)).rowcount
