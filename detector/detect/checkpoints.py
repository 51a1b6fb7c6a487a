"""What a restarted process cannot see in the source: what entities have shown, alerts, rests since long ago."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detector.core import frozen
from detector.core.decide import AlertStates
from detector.core.frozen import NEVER
from detector.core.news import Experience
from detector.core.revise import Checkpoint
from detector.detect.horizon import STORED_EVERY, Horizon
from detector.detect.memory import Memory, Point
from detector.detect.scores import freeze_limits
from detector.ports import StoredExperience

_MOST = 5000
"""States stored at most, a megabyte or so: with more, late rows after a restart correct scores, but no alerts."""


@dataclass(frozen=True)
class Kept:
    """What is stored with the cursor."""

    past: tuple[Checkpoint, ...] = ()  # states before late slots, oldest first
    rests: tuple[tuple[str, int, int], ...] = ()  # entity, index of a metric, slot since which it has stayed the same
    told: int = 0  # the newest slot, epoch milliseconds, that was logged to have got its rows too late


NOTHING_KEPT = Kept()


def written(horizon: Horizon, memory: Memory) -> str:
    """The text to store with a memory, JSON.

    Of the states two: the newest before late slots, and the one after it, which is the first when the late slots begin
    after it. So there is always one that is not more than twice as far back as the late slots.
    """
    late_from = memory.history.end - horizon.late * horizon.step
    first = max((index for index, point in enumerate(memory.past) if point.slot <= late_from), default=0)
    past = memory.past[first : first + 2] if horizon.late else ()
    if sum(len(point.rows) for point in past) > _MOST:
        past = ()
    kept = {"past": [_columns(point) for point in past], "rests": _rests(horizon, memory), "told": memory.told}
    return json.dumps(kept, separators=(",", ":"))


def _columns(point: Checkpoint) -> dict[str, Any]:
    columns = {name: values.tolist() for name, values in point.states.columns().items()}
    return {"slot": point.slot, "entities": list(point.rows), "states": columns}


def _rests(horizon: Horizon, memory: Memory) -> list[tuple[str, int, int]]:
    """Rests that began before what memory is rebuilt from, of metrics that can be frozen."""
    if not memory.rested.any():
        return []
    left = memory.history.values.shape[1] - horizon.values
    rested = frozen.rest(memory.history.values[:, : left + 1], memory.rested)  # (E, F)
    since = memory.history.start + horizon.step * (left - rested)
    is_long = (since <= memory.history.end - horizon.look_back) & (freeze_limits(memory.model, memory.rows) < NEVER)
    row, metric = np.nonzero(is_long & (rested > 0))
    entities = [memory.entities[index] for index in row.tolist()]
    return list(zip(entities, metric.tolist(), since[row, metric].tolist(), strict=True))


def read(text: str | None) -> Kept:
    """What `written` made a text of; nothing without a text."""
    if text is None:
        return NOTHING_KEPT
    try:
        found = json.loads(text)
        rests = tuple((str(entity), int(metric), int(since)) for entity, metric, since in found["rests"])
        return Kept(tuple(map(_checkpoint, found["past"])), rests, int(found["told"]))
    except (KeyError, TypeError, ValueError):  # of another version: it costs corrections of alerts by late rows
        return NOTHING_KEPT


def _checkpoint(found: dict[str, Any]) -> Checkpoint:
    columns = AlertStates.none_open(len(found["entities"])).columns()
    states = AlertStates(**{name: np.array(found["states"][name], kept.dtype) for name, kept in columns.items()})
    return Checkpoint(found["slot"], {name: row for row, name in enumerate(found["entities"])}, states)


def with_rests(memory: Memory, kept: Kept, *, begin: int) -> Memory:
    """A memory rebuilt from a time on (epoch milliseconds) that knows the rests which had begun before."""
    row_of = {name: row for row, name in enumerate(memory.entities)}
    rested, start, step = memory.rested.copy(), memory.history.start, memory.history.step
    for entity, metric, since in kept.rests:
        row = row_of.get(entity)
        if row is not None and since <= begin and start - step * int(rested[row, metric]) == begin:
            rested[row, metric] = (start - since) // step
    return replace(memory, rested=rested)


# -- what entities have shown -----------------------------------------------------------------------------------------


def due(horizon: Horizon, memory: Memory) -> Point | None:
    """The point to store with a memory, None if it is not time yet.

    One of the two that are stored is always old enough for all scores that are needed again.
    """
    every = max(STORED_EVERY, horizon.scores) * horizon.step
    is_due = not memory.written or memory.points[0].slot - memory.written >= every
    return memory.points[0] if is_due else None


def packed(point: Point, entities: Sequence[str]) -> StoredExperience:
    """The experience of entities (E,) as bytes: plain arrays, compressed."""
    buffer = io.BytesIO()
    names = np.frombuffer(json.dumps(entities).encode(), dtype=np.uint8)
    columns: dict[str, Any] = {"entities": names, **point.experience.columns()}
    np.savez_compressed(buffer, **columns)
    return StoredExperience(point.slot, buffer.getvalue())


@dataclass(frozen=True)
class Remembered:
    """A stored experience, read."""

    slot: int  # epoch milliseconds
    entities: tuple[str, ...]
    experience: Experience  # (E, …)


def unpacked(stored: StoredExperience) -> Remembered | None:
    """What `packed` made bytes of; None of those of another version: it costs what was learned since training."""
    try:
        with np.load(io.BytesIO(stored.data), allow_pickle=False) as found:
            columns = {name: found[name] for name in found.files}
        entities = tuple(json.loads(columns.pop("entities").tobytes()))
        return Remembered(stored.slot, entities, Experience.of(columns))
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def of_entity(stored: StoredExperience, entity: str) -> StoredExperience | None:
    """That of one entity alone, None if it is not among them."""
    found = unpacked(stored)
    if found is None or entity not in found.entities:
        return None
    row = np.array([found.entities.index(entity)])
    return packed(Point(found.slot, found.experience.rows(row)), (entity,))
