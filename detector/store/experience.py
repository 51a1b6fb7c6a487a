"""What entities had shown before some slot: the two newest of each monitor, by its newest model version."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select

from detector.ports import Commit, StoredExperience
from detector.tables import experience

KEPT = 2
"""Of each monitor: the newest may be too new to make all scores again that a restart needs."""


def newest(connection: Connection, monitor: str, version: int) -> list[StoredExperience]:
    """Those that were stored with a model version, the newest first."""
    mine = select(experience.c.slot, experience.c.data).where(
        experience.c.monitor == monitor, experience.c.model_version == version
    )
    rows = connection.execute(mine.order_by(experience.c.slot.desc())).all()
    return [StoredExperience(slot, data) for slot, data in rows]


def store(connection: Connection, commit: Commit) -> None:
    """Stores that of a commit, and removes what it replaces or what the commit takes back."""
    mine = experience.c.monitor == commit.monitor
    if commit.forget_from is not None:
        connection.execute(delete(experience).where(mine, experience.c.slot > commit.forget_from))
    if commit.experience is None:
        return
    slot = commit.experience.slot
    others = (experience.c.slot == slot) | (experience.c.model_version != commit.model_version)
    connection.execute(delete(experience).where(mine, others))
    values = {"monitor": commit.monitor, "slot": slot, "model_version": commit.model_version}
    connection.execute(insert(experience).values(**values, data=commit.experience.data))
    kept = connection.scalars(
        select(experience.c.slot).where(mine).order_by(experience.c.slot.desc()).limit(KEPT)
    ).all()
    connection.execute(delete(experience).where(mine, experience.c.slot < min(kept)))
