"""Exclusions: added, listed, removed."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import Engine, delete, insert

from detector.ports import Exclusion
from detector.store.errors import translated
from detector.store.state import StateStore, new_id
from detector.tables import exclusion


def add(engine: Engine, new: Exclusion) -> int:
    """Stores an exclusion and returns its number; the `id` of `new` is ignored."""
    values = asdict(new)
    values |= {"start_at": values.pop("start"), "end_at": values.pop("end")}
    del values["id"]
    with translated(engine), engine.begin() as connection:
        return new_id(connection.execute(insert(exclusion).values(**values)))


def listing(engine: Engine, monitors: list[str]) -> list[Exclusion]:
    """All exclusions of some monitors."""
    store = StateStore(engine)
    return [found for monitor in monitors for found in store.exclusions(monitor)]


def remove(engine: Engine, identity: int) -> bool:
    """Removes an exclusion; False if there is none with that number."""
    with translated(engine), engine.begin() as connection:
        return connection.execute(delete(exclusion).where(exclusion.c.id == identity)).rowcount == 1
