"""One tick: read → score → revise → decide → commit, in bounded chunks of everything since the cursor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from detector.core import grid, rejects, threshold
from detector.core.decide import AlertStates, Change, Severity
from detector.core.rejects import Reject
from detector.core.series import Bool, Float32, Int64, Reason, Samples
from detector.detect import (
    alerts,
    checkpoints,
    history,
    judged,
    memory,
    precedents,
    return_periods,
    revisions,
    scores,
    seen,
)
from detector.detect.alerts import Decisions
from detector.detect.horizon import Horizon
from detector.detect.judged import Recorded
from detector.detect.memory import Extended, Gridded, Memory, Snapshot
from detector.detect.revisions import Revised
from detector.ports import AlertChange, Commit, ScoreRows, Source, Store, StoredAlert


@dataclass(frozen=True)
class Monitor:
    """A monitor as it ticks."""

    horizon: Horizon
    source: Source
    store: Store
    notifiers: Sequence[str] = ()  # notified of what happens to its alerts, from the store's outbox


@dataclass(frozen=True)
class Report:
    """Outcome of one tick; times are epoch milliseconds."""

    cursor: int | None
    newest_sample: int | None
    samples: int
    windows: int
    opened: tuple[Severity, ...]
    snapshot: Snapshot
    rejects: tuple[Reject, ...] = ()  # rows that could not be read


def observe(horizon: Horizon, source: Source, now: int) -> Report:
    """A tick without a model: every entity with data in the newest window is unknown."""
    end = grid.complete_until(now, horizon.step, horizon.delay)
    samples = source.read(end - horizon.timesteps * horizon.step, end)
    count = len(samples.entities)
    snapshot = Snapshot(
        entities=samples.entities,
        score=np.full(count, np.nan, dtype=np.float32),
        surprise=np.full(count, np.nan, dtype=np.float32),
        reason=np.full(count, Reason.NO_MODEL, dtype=np.int8),
        states=AlertStates.none_open(count),
        is_silent=np.zeros(count, dtype=np.bool_),
        share=np.full((count, len(horizon.metrics)), np.nan, dtype=np.float32),
    )
    return Report(None, _newest(samples), len(samples), 0, (), snapshot, samples.rejects)


def tick(
    monitor: Monitor, remembered: Memory, now: int, *, should_stop: Callable[[], bool] = lambda: False
) -> tuple[Memory, Report]:
    """Scores and commits every complete slot since the cursor. Calling it again with the same `now` changes nothing.

    Raises: SourceError, StoreError; what was committed before stays committed, and memory must be recalled.
    """
    horizon = monitor.horizon
    complete = grid.complete_until(now, horizon.step, horizon.delay)
    newest = None
    if complete - remembered.history.end > horizon.step * _chunk_slots(remembered):
        extent = monitor.source.extent(now)
        newest = extent[1] if extent else 0
    total = Report(remembered.cursor, newest, 0, 0, (), remembered.snapshot)
    late = horizon.late
    known = precedents.current(horizon, monitor.store, remembered.model, remembered.precedents)
    remembered = replace(remembered, precedents=known)
    while remembered.history.end < complete and not should_stop():
        end = min(complete, remembered.history.end + horizon.step * _chunk_slots(remembered))
        nothing_to_come = total.newest_sample is not None and total.newest_sample < remembered.history.end
        if nothing_to_come and _is_at_rest(remembered):
            end = complete  # the slots up to now are empty and change nothing
        remembered, part = _chunk(monitor, remembered, end=end, late=late, now=now)
        late = 0  # what comes before the next chunk has just been read
        total = _sum(total, part)
    return remembered, total


def _sum(total: Report, part: Report) -> Report:
    return replace(
        part,
        newest_sample=max(total.newest_sample or 0, part.newest_sample or 0) or None,
        samples=total.samples + part.samples,
        windows=total.windows + part.windows,
        opened=total.opened + part.opened,
        rejects=rejects.added(total.rejects, part.rejects),
    )


def _chunk(monitor: Monitor, remembered: Memory, *, end: int, late: int, now: int) -> tuple[Memory, Report]:
    """Takes the monitor from its cursor to `end` in one transaction; late: slots before it that are read again."""
    horizon, store, name = monitor.horizon, monitor.store, monitor.horizon.monitor
    read = _read(monitor, remembered, end=end, late=late)
    extended = memory.extend(horizon, remembered, read.gridded)
    revised = revisions.revised(horizon, store, extended, now=now)
    asks = revised.memory.states.is_open.any() or bool(revised.changes)
    stored = store.alerts_since(name, end) if asks else []
    gone = seen.gone(horizon, extended.last, revised.memory.history.slots[-read.gridded.new :])
    decided = _decide(horizon, revised.memory, stored, gone=gone)
    changes = _changes(monitor, revised, decided, stored=stored)
    record = judged.recorded(horizon, decided.memory, extended, skipped_from=_skipped_from(remembered))
    past = (*decided.memory.past, *decided.decisions.checkpoints)[-horizon.late - 1 :]
    scored = replace(decided.memory, judged=record.newest, past=past)
    point = checkpoints.due(horizon, scored)
    commit = _commit(monitor, scored, changes, surprises=decided.surprises, extended=extended, record=record, now=now)
    if point is not None:
        commit = replace(commit, experience=checkpoints.packed(point, scored.entities))
        scored = replace(scored, written=point.slot)
    store.commit(commit)
    return _after(monitor, extended, replace(decided, memory=scored), read=read)


def _skipped_from(remembered: Memory) -> int | None:
    """Where slots begin that are never judged, epoch milliseconds: the stored cursor, if memory begins after it."""
    cursor, step = remembered.cursor, remembered.history.step
    is_behind = cursor is not None and grid.floor(cursor, step) < remembered.history.end
    return cursor if is_behind else None


@dataclass(frozen=True)
class _Read:
    gridded: Gridded
    newest_sample: int | None
    samples: int
    rejects: tuple[Reject, ...]


def _read(monitor: Monitor, remembered: Memory, *, end: int, late: int) -> _Read:
    """The samples of the new slots and the late ones before them, on the grid."""
    horizon, done = monitor.horizon, remembered.history.end
    # a jump over empty slots is longer, and leaves those behind that nothing needs
    new = min((end - done) // horizon.step, _chunk_slots(remembered))
    start = end - horizon.step * (new + late)
    samples = monitor.source.read(start, end)
    still_open = [remembered.entities[row] for row in np.flatnonzero(remembered.states.is_open).tolist()]
    entities = memory.members(remembered, samples.entities, still_open)
    values = history.gridded(horizon, samples, entities, start=start, slots=new + late)
    gridded = memory.gridded(horizon, remembered, entities, values=values, end=end, late=late)
    return _Read(gridded, _newest(samples), len(samples), samples.rejects)


@dataclass(frozen=True)
class _Decided:
    memory: Memory  # with the scores of the new slots, and the states before them
    parts: Float32  # (E, rules.before + K, M) scores by mechanism
    surprises: Float32  # (E, K) of the new slots
    slots: Int64  # (K,) the new ones
    decisions: Decisions


def _decide(horizon: Horizon, extended: Memory, stored: Sequence[StoredAlert], *, gone: Bool) -> _Decided:
    """Scores of the new slots, and what they do to alerts; gone: (E, K) entities that are not expected back."""
    new = gone.shape[1]
    advanced = return_periods.advanced(horizon, extended, new)
    parts = scores.scores_by_mechanism(horizon, advanced, new + horizon.rules.before)
    recent = threshold.worst(parts)
    made = advanced.scores.copy()
    made[:, -new:] = recent[:, -new:]
    scored = replace(advanced, scores=made)
    slots = scored.history.slots[-new:]
    lasts = scored.states.is_open & ~alerts.dismissed(scored.entities, stored)
    taken = scores.for_decisions(
        recent,
        horizon=horizon,
        model=scored.model,
        rows=scored.rows,
        values=scored.history.values,
        is_open=lasts,
        gone=gone,
    )
    decisions = alerts.decide_slots(horizon, scored.states, taken, slots=slots, entities=scored.entities, gone=gone)
    return _Decided(scored, parts, scores.surprises(scored, new), slots, decisions)


def _changes(
    monitor: Monitor, revised: Revised, decided: _Decided, *, stored: Sequence[StoredAlert]
) -> list[AlertChange]:
    """Changes of stored alerts in order: by late samples, by exclusions that have ended, by the new slots."""
    horizon, entities, first = monitor.horizon, decided.memory.entities, int(decided.slots[0])
    excluded = monitor.store.exclusions(horizon.monitor)
    explained = alerts.explained(horizon, decided.memory, decided.decisions, parts=decided.parts, first=first)
    states, last = decided.decisions.states, int(decided.slots[-1])
    changes = [
        *revised.changes,
        *alerts.unmuted(excluded, stored, states, entities=entities, slot=last),
        *alerts.changes_of(horizon, decided.decisions, explained, entities=entities, first=first),
    ]
    return [alerts.muted(excluded, change) for change in changes]


def _commit(
    monitor: Monitor,
    scored: Memory,
    changes: Sequence[AlertChange],
    *,
    surprises: Float32,
    extended: Extended,
    record: Recorded,
    now: int,
) -> Commit:
    horizon, late, slots = monitor.horizon, extended.late, scored.history.slots
    corrected, new = slice(-late.new - late.slots, -late.new), slice(-late.new, None)
    known = _stored(horizon, scored.scores[:, new])
    changed = tuple(scored.entities[row] for row in late.rows.tolist())
    again = scores.surprises(scored, late.new + late.slots if late.slots else 0, only=late.rows)[:, : late.slots]
    replaced = _score_rows(changed, slots[corrected], scored.scores[late.rows, corrected], again)
    kept = _stored(horizon, np.array(replaced.score, dtype=np.float32)).astype(np.float64).tolist()
    return Commit(
        monitor=horizon.monitor,
        expected_cursor=scored.cursor,
        cursor=scored.history.end,
        now=now,
        model_version=scored.model.version,
        scores=_score_rows(scored.entities, slots[new], known, surprises),
        replaced=replace(replaced, score=kept),
        changes=changes,
        notifiers=monitor.notifiers,
        judged=record.ranges,
        judged_again=record.again,
        checkpoint=checkpoints.written(horizon, scored),
        incident_span=horizon.incident_span,
    )


def _after(monitor: Monitor, extended: Extended, decided: _Decided, *, read: _Read) -> tuple[Memory, Report]:
    """The memory to go on from, and the report, once all is committed."""
    horizon, scored, decisions = monitor.horizon, decided.memory, decided.decisions
    end, states, is_silent = scored.history.end, decisions.states, decisions.states.is_open
    if is_silent.any():
        is_silent = is_silent & alerts.silent(scored.entities, monitor.store.alerts_since(horizon.monitor, end))
    snapshot = scores.snapshot_of(
        horizon, scored, extended, surprise=decided.surprises[:, -1], states=states, is_silent=is_silent
    )
    is_gone = seen.gone(horizon, extended.last[:, -1:], scored.history.slots[-1:])[:, 0]
    gone = scored.gone.difference(scored.entities)
    if is_gone.any():
        snapshot = snapshot.without(is_gone)
        gone |= {scored.entities[row] for row in np.flatnonzero(is_gone).tolist()}
    kept = memory.newest_part(horizon, scored)
    opened = tuple(event.episode.severity for event in decisions.events if event.change is Change.OPENED)
    report = Report(end, read.newest_sample, read.samples, extended.windows, opened, snapshot, read.rejects)
    return replace(kept, cursor=end, states=states, snapshot=snapshot, gone=gone), report


def _is_at_rest(remembered: Memory) -> bool:
    """Whether more empty slots would change nothing: nothing is remembered, and no open alert can escalate or close."""
    return bool(np.isnan(remembered.history.values).all()) and not remembered.states.is_open.any()


def _chunk_slots(remembered: Memory) -> int:
    entities, _, metrics = remembered.history.values.shape
    return history.slots_at_a_time(entities, metrics)


def _stored(horizon: Horizon, values: Float32) -> Float32:
    """Scores of any shape with NaN for those that are not stored."""
    return np.where(values >= horizon.least_stored, values, np.float32(np.nan))


def _score_rows(entities: tuple[str, ...], slots: Int64, values: Float32, surprises: Float32) -> ScoreRows:
    """The known scores (E, K) as columns, slot after slot; surprises: (E, K)."""
    slot, row = np.nonzero(~np.isnan(values.T))
    return ScoreRows(
        entity=[entities[index] for index in row.tolist()],
        slot=slots[slot].tolist(),
        score=values[row, slot].astype(np.float64).tolist(),
        surprise=surprises[row, slot].astype(np.float64).tolist(),
    )


def _newest(samples: Samples) -> int | None:
    return int(samples.time.max()) if len(samples) else None
