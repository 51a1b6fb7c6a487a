"""Stored scores, read back."""

from __future__ import annotations

import numpy as np
from sqlalchemy import Engine, select

from detector.core.series import Float64, Int64
from detector.store.state import translated
from detector.tables import score


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
