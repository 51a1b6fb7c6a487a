"""What entities had shown before some slot: the two newest of each monitor, by its newest model version."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

from sqlalchemy import Connection, delete, insert, select

from detector.ports import Commit, StoredExperience
from detector.store import parts
from detector.tables import experience_part

KEPT = 2
"""Of each monitor: the newest may be too new to make all scores again that a restart needs."""

_OF = experience_part.c


def newest(connection: Connection, monitor: str, version: int) -> list[StoredExperience]:
    """Those that were stored with a model version, the newest first."""
    mine = select(_OF.slot, _OF.data).where(_OF.monitor == monitor, _OF.model_version == version)
    rows = parts.read(connection, mine.order_by(_OF.slot.desc(), _OF.part))
    return [
        StoredExperience(slot, parts.joined(data for _, data in group)) for slot, group in groupby(rows, itemgetter(0))
    ]


def store(connection: Connection, commit: Commit) -> None:
    """Stores that of a commit, and removes what it replaces or what the commit takes back."""
    mine = _OF.monitor == commit.monitor
    if commit.forget_from is not None:
        connection.execute(delete(experience_part).where(mine, _OF.slot > commit.forget_from))
    if commit.experience is None:
        return
    slot = commit.experience.slot
    others = (_OF.slot == slot) | (_OF.model_version != commit.model_version)
    connection.execute(delete(experience_part).where(mine, others))
    values = {"monitor": commit.monitor, "slot": slot, "model_version": commit.model_version}
    for number, data in parts.split(commit.experience.data):
        connection.execute(insert(experience_part).values(**values, part=number, data=data))
    slots = select(_OF.slot).where(mine, _OF.part == 0)
    kept = connection.scalars(slots.order_by(_OF.slot.desc()).limit(KEPT)).all()
    connection.execute(delete(experience_part).where(mine, _OF.slot < min(kept)))
