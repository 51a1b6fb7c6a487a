"""Record of what was judged: what was known of each entity, slot by slot; and which slots later rows have changed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detector.core import grid
from detector.core.decide import LONG_AGO
from detector.core.series import Bool, Float32, Int8, Int64, Reason
from detector.detect.horizon import Horizon
from detector.detect.memory import UNRECORDED, Extended, Memory
from detector.detect.seen import gone
from detector.ports import JudgedRanges, ScoreRows
from detector.times import utc

logger = logging.getLogger(__name__)

_SKIPPED, _NO_ROWS, _GONE = 100, 101, 102
_LABELS = {int(reason): reason.label for reason in Reason}
_LABELS |= {_SKIPPED: "skipped", _NO_ROWS: "no_rows", _GONE: "gone"}
_CODES = {label: code for code, label in _LABELS.items()}

_SAME_SCORE = 1e-3
"""Largest relative difference of a stored score from the same one made again, in another batch or from a FLOAT."""


def _codes(scores: Float32, reason: Int8) -> Int8:
    """What is known of slots (…), from their scores and the reasons of their windows."""
    unknown = np.where(reason == Reason.KNOWN, np.int8(Reason.NO_METRIC), reason)
    return np.where(np.isnan(scores), unknown, np.int8(Reason.KNOWN))


@dataclass(frozen=True)
class Recorded:
    """Changes of the record with K new slots."""

    ranges: JudgedRanges  # that begin
    again: Sequence[tuple[str, int]]  # entities and slots: ranges that began there or later are replaced
    newest: Int8  # (E, J) codes of the newest slots


def _of_new(horizon: Horizon, memory: Memory, extended: Extended) -> Int8:
    """Codes of new slots, (E, K); of an entity that lives without rows longer than memory keeps, that it does."""
    slots, last = memory.history.slots[-extended.late.new :], extended.last
    made = _codes(memory.scores[:, -extended.late.new :], extended.reason)
    is_absent = (last > LONG_AGO) & (slots - last >= horizon.values * horizon.step)
    made[is_absent & (made == Reason.KNOWN)] = _NO_ROWS
    made[gone(horizon, last, slots)] = _GONE
    return made


def recorded(horizon: Horizon, memory: Memory, extended: Extended, *, skipped_from: int | None) -> Recorded:
    """Ranges that begin with new slots, and with those before them that late samples changed.

    memory: with the scores of the new slots; skipped_from: epoch milliseconds from where on nothing was judged up to
    the first new slot, None if nothing was skipped
    """
    before, late, new = memory.judged.copy(), extended.late, extended.late.new
    if skipped_from is not None:
        before[before[:, -1] != UNRECORDED, -1] = _SKIPPED
    kept, slots = before.shape[1], memory.history.slots[-new:]
    known = np.concatenate([before, _of_new(horizon, memory, extended)], axis=1)  # (E, J + K)
    first = np.full(len(known), kept, dtype=np.int64)
    if late.rows.size:
        corrected = memory.scores[late.rows, -new - late.slots : -new]
        known[late.rows, kept - late.slots : kept] = _codes(corrected, late.reason)
        first[late.rows] = kept - late.slots
    begins = (known[:, 1:] != known[:, :-1]) & (np.arange(1, kept + new) >= first[:, None])
    row, at = np.nonzero(begins)
    start = slots[0] + memory.history.step * (at + 1 - kept)
    entities = [memory.entities[index] for index in row.tolist()]
    reasons = [_LABELS[code] for code in known[row, at + 1].tolist()]
    ranges = JudgedRanges(entities, start.tolist(), reasons)
    if skipped_from is not None:
        skipped = [memory.entities[row] for row in np.flatnonzero(before[:, -1] == _SKIPPED).tolist()]
        ranges = JudgedRanges(
            [*skipped, *ranges.entity],
            [*[skipped_from] * len(skipped), *ranges.start],
            [*[_LABELS[_SKIPPED]] * len(skipped), *ranges.reason],
        )
    began = int(slots[0]) - memory.history.step * late.slots
    again = [(memory.entities[row], began) for row in late.rows.tolist()]
    return Recorded(ranges, again, known[:, -kept:])


# -- after a restart --------------------------------------------------------------------------------------------------


def on_record(ranges: JudgedRanges, entities: Sequence[str], slots: Int64) -> Int8:
    """Codes on record of entities at slots (K,), epoch milliseconds and rising: (E, K); −1 before the first range."""
    row = grid.positions(ranges.entity, entities)
    at = np.searchsorted(slots, np.array(ranges.start, dtype=np.int64))
    wanted = (row >= 0) & (at < len(slots))
    code = np.array([_CODES.get(reason, UNRECORDED) for reason in ranges.reason], dtype=np.int8)
    found = np.full((len(entities), len(slots)), UNRECORDED, dtype=np.int8)
    begin = np.zeros(found.shape, dtype=np.int64)
    found[row[wanted], at[wanted]] = code[wanted]  # of those before the first slot the last one counts
    begin[row[wanted], at[wanted]] = at[wanted]
    return np.take_along_axis(found, np.maximum.accumulate(begin, axis=1), axis=1)


def living(ranges: JudgedRanges) -> tuple[frozenset[str], frozenset[str]]:
    """Entities that live without rows, and those that are gone, by the newest range of each."""
    last = dict(zip(ranges.entity, ranges.reason, strict=True))
    return (
        frozenset(name for name, reason in last.items() if reason == _LABELS[_NO_ROWS]),
        frozenset(name for name, reason in last.items() if reason == _LABELS[_GONE]),
    )


def last_rows(horizon: Horizon, memory: Memory, ranges: JudgedRanges) -> Int64:
    """Slots of the newest rows of entities before the first slot of an empty memory, (E,); LONG_AGO: not known.

    One that the model knows had rows up to the end of its training, unless the record says otherwise.
    """
    begin, step = memory.history.start, horizon.step
    trained_until = grid.floor(memory.model.trained_until, step)
    result = np.where(memory.rows >= 0, trained_until - step, LONG_AGO)
    row_of = {name: row for row, name in enumerate(memory.entities)}
    for entity, start, reason in zip(ranges.entity, ranges.start, ranges.reason, strict=True):
        row = row_of.get(entity)
        if row is None or (start > begin and reason != _LABELS[_NO_ROWS]):
            continue
        if reason == _LABELS[_NO_ROWS]:
            result[row] = start - horizon.values * step
        elif reason == Reason.NO_DATA.label:
            result[row] = start - step - (horizon.hold if horizon.filled == "last" else 0)
        else:
            result[row] = LONG_AGO if reason == _LABELS[_GONE] else begin - step
    return result


def changed(horizon: Horizon, memory: Memory, ranges: JudgedRanges, scores: ScoreRows) -> Int64:
    """Newest committed slots of each entity that rows have changed since they were judged, (E,); 0: none.

    memory: as the source has it now, up to its cursor; ranges: that reach to the slots it keeps
    scores: stored ones by the same model version
    """
    if not ranges.start:  # of a monitor that was judged by an earlier version
        return np.zeros(len(memory.entities), dtype=np.int64)
    slots = memory.history.slots
    known = on_record(ranges, memory.entities, slots)
    known[(known == UNRECORDED) | (known == _GONE)] = Reason.NO_DATA  # what had no data in time has no range yet
    known[:, slots < min(ranges.start)] = _SKIPPED
    empty = np.isnan(memory.history.values).all(axis=2)  # (E, V)
    late = np.arange(empty.shape[1]) >= empty.shape[1] - horizon.late  # (V,)
    _tell_too_late(horizon, memory, (known == Reason.NO_DATA) & ~empty & ~late, ranges)
    differs = ((known != _SKIPPED) & ((known == Reason.NO_DATA) != empty)) | _other_scores(memory, scores)
    reach = np.arange(empty.shape[1], 0, -1)
    return np.asarray(np.where(differs & late, reach, 0).max(axis=1), dtype=np.int64)


def _tell_too_late(horizon: Horizon, memory: Memory, came: Bool, ranges: JudgedRanges) -> None:
    """Logs slots (E, V) whose rows came when it was too late for them."""
    if not came.any():
        return
    first = utc(_first_without_data(memory, came, ranges))
    logger.warning(
        "event=rows_too_late monitor=%s slots=%d entities=%d first=%s reason=%r",
        horizon.monitor,
        int(came.sum()),
        int(came.any(axis=1).sum()),
        first,
        f"later than `lateness`; to judge them again: detector db rewind {horizon.monitor} --to {first}",
    )


def _first_without_data(memory: Memory, came: Bool, ranges: JudgedRanges) -> int:
    """Where the ranges without data begin that some slots (E, V) are the end of, epoch milliseconds."""
    oldest = int(memory.history.slots[came.any(axis=0).argmax()])
    entities = {memory.entities[row] for row in np.flatnonzero(came.any(axis=1)).tolist()}
    rows = zip(ranges.entity, ranges.start, ranges.reason, strict=True)
    starts = [start for entity, start, reason in rows if entity in entities and reason == Reason.NO_DATA.label]
    return min([oldest, *starts])


def _other_scores(memory: Memory, scores: ScoreRows) -> Bool:
    """Slots whose stored score is another one now, (E, V)."""
    now: Float32 = memory.scores_of_history
    differs = np.zeros(now.shape, dtype=np.bool_)
    row = grid.positions(scores.entity, memory.entities)
    slot = (np.array(scores.slot, dtype=np.int64) - memory.history.start) // memory.history.step
    wanted = (row >= 0) & (slot >= 0) & (slot < now.shape[1])
    stored = np.array(scores.score, dtype=np.float64)[wanted]
    made = now[row[wanted], slot[wanted]]
    differs[row[wanted], slot[wanted]] = ~(np.abs(made - stored) <= _SAME_SCORE * np.abs(stored))  # NaN: another one
    return differs
