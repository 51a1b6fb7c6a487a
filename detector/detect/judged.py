"""Record of what was judged: what was known of each entity, slot by slot; and which slots later rows have changed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detector.core import grid
from detector.core.decide import LONG_AGO, THRESHOLD
from detector.core.series import Bool, Float32, Int8, Int64, Reason
from detector.detect.horizon import Horizon
from detector.detect.memory import UNRECORDED, Extended, Memory
from detector.detect.seen import gone
from detector.ports import JudgedRanges, ScoreRows
from detector.times import utc

logger = logging.getLogger(__name__)

_SKIPPED, _NO_ROWS, _GONE = 100, 101, 102
NO_ROWS, GONE = "no_rows", "gone"
"""On record: known though without rows for long, as slots without a row are 0; and no entity of the fleet any more."""

_LABELS = {int(reason): reason.label for reason in Reason}
_LABELS |= {_SKIPPED: "skipped", _NO_ROWS: NO_ROWS, _GONE: GONE}
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
        before[before[:, -1] != UNRECORDED] = _SKIPPED
    kept, slots = before.shape[1], memory.history.slots[-new:]
    known = np.concatenate([before, _of_new(horizon, memory, extended)], axis=1)  # (E, J + K)
    first = np.full(len(known), kept, dtype=np.int64)
    corrected = _codes(memory.scores[late.rows, -new - late.slots : -new], late.reason)  # (R, late.slots)
    of_late = known[late.rows, kept - late.slots : kept]
    differs = late.rows[(corrected != of_late).any(axis=1)]
    known[late.rows, kept - late.slots : kept] = corrected
    first[differs] = kept - late.slots
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
    again = [(memory.entities[row], began) for row in differs.tolist()]
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


def newest_codes(memory: Memory, ranges: JudgedRanges, slots: Int64) -> Int8:
    """Codes on record (E, K) for a memory to go on from; one that nothing is remembered of has had no data."""
    known = on_record(ranges, memory.entities, slots)
    is_new = (memory.rows < 0)[:, None] & (known == UNRECORDED)
    is_forgotten = (memory.seen.slot[:, -1:] == LONG_AGO) & (known == _GONE)
    known[is_new | is_forgotten] = Reason.NO_DATA
    return known


def departed(ranges: JudgedRanges) -> frozenset[str]:
    """Entities that are gone, by the newest range of each."""
    last = dict(zip(ranges.entity, ranges.reason, strict=True))
    return frozenset(name for name, reason in last.items() if reason == _LABELS[_GONE])


def filled_ones(horizon: Horizon, ranges: JudgedRanges) -> frozenset[str]:
    """Entities that may have a value without any row in what memory is rebuilt from."""
    if horizon.filled != "zero":
        return frozenset()
    absent = {Reason.NO_DATA.label, _LABELS[_GONE]}
    pairs = zip(ranges.entity, ranges.reason, strict=True)
    return frozenset(entity for entity, reason in pairs if reason not in absent)


def data_end(horizon: Horizon, ranges: JudgedRanges, cursor: int) -> int | None:
    """Where the data ended that was judged, by the newest range of each entity; None if nothing is on record.

    cursor: epoch milliseconds, the end of a range that goes on
    """
    step, held = horizon.step, horizon.hold if horizon.filled == "last" else 0
    before = {  # milliseconds from the end of an entity's data to the beginning of its range
        Reason.NO_DATA.label: held,
        _LABELS[_NO_ROWS]: horizon.values * step - step,
        _LABELS[_GONE]: horizon.forget - step,
    }
    found = [
        start - before[reason] if reason in before else cursor
        for start, reason in zip(ranges.start, ranges.reason, strict=True)
        if reason != _LABELS[_SKIPPED]
    ]
    return max(found, default=None)


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
        if row is None:
            continue
        if reason == _LABELS[_NO_ROWS]:
            result[row] = start - horizon.values * step
        elif start <= begin and reason == Reason.NO_DATA.label:
            result[row] = start - step - (horizon.hold if horizon.filled == "last" else 0)
        elif start <= begin:
            result[row] = LONG_AGO if reason == _LABELS[_GONE] else begin - step
    return result


@dataclass(frozen=True)
class Compared:
    """The slots that memory keeps, as they were judged and as the source has them now."""

    known: Int8  # (E, V) codes on record; what had no data in time has no range yet
    empty: Bool  # (E, V) there is no data now
    late: Bool  # (V,) late samples may still change them


def compared(horizon: Horizon, memory: Memory, ranges: JudgedRanges) -> Compared:
    """A memory, as the source has it now up to its cursor, beside the record; ranges: that reach to the slots kept."""
    slots = memory.history.slots
    known = on_record(ranges, memory.entities, slots)
    known[(known == UNRECORDED) | (known == _GONE)] = Reason.NO_DATA
    known[:, slots < min(ranges.start, default=memory.history.end)] = _SKIPPED  # judged by an earlier version
    empty = np.asarray(np.isnan(memory.history.values).all(axis=2), dtype=np.bool_)
    return Compared(known, empty, np.arange(len(slots)) >= len(slots) - horizon.late)


def changed(horizon: Horizon, memory: Memory, found: Compared, scores: ScoreRows) -> Int64:
    """Newest committed slots of each entity that rows have changed since they were judged, (E,); 0: none.

    scores: stored ones by the same model version
    """
    other_data = (found.known != _SKIPPED) & ((found.known == Reason.NO_DATA) != found.empty)
    differs = other_data | _other_scores(horizon, memory, found, scores)
    reach = np.arange(len(found.late), 0, -1)
    return np.asarray(np.where(differs & found.late, reach, 0).max(axis=1), dtype=np.int64)


def tell_too_late(horizon: Horizon, memory: Memory, found: Compared, ranges: JudgedRanges) -> int:
    """Logs slots whose rows came when it was too late, each once; the newest one logged, epoch milliseconds."""
    slots = memory.history.slots
    came = (found.known == Reason.NO_DATA) & ~found.empty & ~found.late & (slots > memory.told)
    if not came.any():
        return memory.told
    first = max(_first_without_data(memory, came, ranges), memory.history.end - horizon.max_catch_up)
    logger.warning(
        "event=rows_too_late monitor=%s slots=%d entities=%d first=%s reason=%r",
        horizon.monitor,
        int(came.sum()),
        int(came.any(axis=1).sum()),
        utc(first),
        f"later than `lateness`; to judge them again: detector db rewind {horizon.monitor} --to {utc(first)}",
    )
    return int(slots[came.any(axis=0)].max())


def _first_without_data(memory: Memory, came: Bool, ranges: JudgedRanges) -> int:
    """Where the ranges without data begin that the oldest of some slots (E, V) are in, epoch milliseconds."""
    oldest = int(memory.history.slots[came.any(axis=0).argmax()])
    entities = {memory.entities[row] for row in np.flatnonzero(came.any(axis=1)).tolist()}
    rows = zip(ranges.entity, ranges.start, ranges.reason, strict=True)
    last = {entity: (start, reason) for entity, start, reason in rows if entity in entities and start <= oldest}
    return min([oldest, *(start for start, reason in last.values() if reason == Reason.NO_DATA.label)])


def _other_scores(horizon: Horizon, memory: Memory, found: Compared, scores: ScoreRows) -> Bool:
    """Slots whose stored score is another one now, or that would have one now, (E, V)."""
    now: Float32 = memory.scores_of_history
    stored = np.full(now.shape, np.nan)
    row = grid.positions(scores.entity, memory.entities)
    slot = (np.array(scores.slot, dtype=np.int64) - memory.history.start) // memory.history.step
    wanted = (row >= 0) & (slot >= 0) & (slot < now.shape[1])
    stored[row[wanted], slot[wanted]] = np.array(scores.score, dtype=np.float64)[wanted]
    is_other = ~np.isnan(stored) & ~(np.abs(now - stored) <= _SAME_SCORE * np.abs(stored))  # NaN now: another one
    if not THRESHOLD <= horizon.least_stored < np.inf:
        return np.asarray(is_other)
    # of slots from before this version was made another one may have stored the score
    is_mine = memory.history.slots >= int(memory.model.artifact.provenance.get("created_at", 0))
    is_new = is_mine & (found.known == Reason.KNOWN) & np.isnan(stored) & (now >= horizon.least_stored)
    return np.asarray(is_other | is_new)
