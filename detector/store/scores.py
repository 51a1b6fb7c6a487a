"""Stored scores: read back, and removed when they are old."""

from __future__ import annotations

import numpy as np
from sqlalchemy import Engine, and_, delete, or_, select

from detector.core.series import Float64, Int64
from detector.store.state import translated
from detector.tables import score

PRUNED = 10_000
"""Rows removed in one transaction: what waits for it waits for some hundredths of a second."""


def by_entity(engine: Engine, monitor: str) -> dict[str, tuple[Int64, Float64]]:
    """All scores of a monitor: slots (K,), epoch milliseconds and rising, and scores (K,) of each entity."""
    query = select(score.c.entity, score.c.slot, score.c.score).where(score.c.monitor == monitor).order_by(score.c.slot)
    found: dict[str, tuple[list[int], list[float]]] = {}
    with translated(engine), engine.connect() as connection:
        for entity, slot, value in connection.execute(query):
            slots, values = found.setdefault(entity, ([], []))
            slots.append(slot)
            values.append(value)
    return {
        entity: (np.array(slots, dtype=np.int64), np.array(values, dtype=np.float64))
        for entity, (slots, values) in found.items()
    }


def prune(engine: Engine, monitor: str, before: int) -> int:
    """Removes some of a monitor's scores of slots before a time, epoch milliseconds; how many: 0 once none is left.

    Oldest first, some thousand at a time, so that no one waits long for the database; call it until it returns 0.
    """
    is_old = and_(score.c.monitor == monitor, score.c.slot < before)
    key = (score.c.slot, score.c.entity)
    with translated(engine), engine.begin() as connection:
        end = connection.execute(select(*key).where(is_old).order_by(*key).offset(PRUNED).limit(1)).first()
        if end is not None:  # the first row that stays; said so that the primary key finds what comes before it
            slot, entity = end
            is_old = and_(is_old, score.c.slot <= slot, or_(score.c.slot < slot, score.c.entity < entity))
        return connection.execute(delete(score).where(is_old)).rowcount
