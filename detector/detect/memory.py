"""What a monitor keeps between ticks: values, errors and scores of the newest slots, all rebuilt from the database.

Scores depend on the data of a bounded span and on the model version, never on what the process did before: so a daemon
that was killed, one that catches up and a replay all arrive at the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from detector.config.sections import MonitorSection
from detector.core import decide, frozen, grid, score, window
from detector.core.decide import AlertStates
from detector.core.revise import Checkpoint
from detector.core.scaling import Scaling
from detector.core.series import Bool, Float32, History, Int8, Int64, Reason, Windows
from detector.core.threshold import Calibration
from detector.detect import horizon
from detector.detect import residuals as scoring
from detector.detect.horizon import error_slots, rest_limits, value_slots
from detector.ports import ModelVersion

_BLOCK = 4096  # entities whose remembered slots are scored at a time
_STALE_SLOTS = 5  # with no data of any entity for this long it is the source that has stopped

NO_MODEL = 0
"""Version of the stand-in for a model that only knows which values are valid."""


@dataclass(frozen=True)
class Snapshot:
    """The newest slot of a monitor, for export."""

    entities: tuple[str, ...]
    score: Float32  # (E,) without what a closed alert has told already, NaN = unknown
    reason: Int8  # (E,) Reason
    states: AlertStates  # (E,)
    is_silent: Bool  # (E,) the open alert is muted, or somebody closed it
    share: Float32  # (E, F) NaN = unknown


@dataclass(frozen=True)
class Memory:
    """What a monitor keeps between ticks; all of it can be rebuilt from the database."""

    model: ModelVersion
    cursor: int | None  # as stored
    history: History  # (E, V, F) values of the slots that windows may still be asked for
    rows: Int64  # (E,) each entity's row in the model's per-entity arrays, −1 for one the model has not seen
    errors: Float32  # (E, L) combined residual of the newest slot of the window that ends there, NaN = unknown
    scores: Float32  # (E, L) as the errors they end with the history, and begin before it
    states: AlertStates  # (E,)
    past: tuple[Checkpoint, ...]  # the states before slots that late samples may still change, oldest first
    snapshot: Snapshot


@dataclass(frozen=True)
class Scored:
    """Errors and shares of some slots before they become scores."""

    errors: Float32  # (E, K)
    reason: Int8  # (E, K)
    share: Float32  # (E, K, F)
    windows: int


@dataclass(frozen=True)
class Extended:
    """What is remembered, with samples of K more slots; scores have yet to be made."""

    memory: Memory  # arrays of its own, which may be written into
    scored: Scored  # the K slots
    late: Int64  # rows of entities with committed slots that late samples changed
    late_slots: int  # slots from the oldest of these to the newest committed one


class _NoNetwork:
    def residuals(self, windows: Windows) -> Float32:
        return np.full((len(windows), windows.values.shape[2]), np.nan, dtype=np.float32)


def no_model(monitor: MonitorSection, now: int) -> ModelVersion:
    """What stands in for a model where there is none: nothing is expected, only invalid values have a score."""
    metrics, spans = len(monitor.metrics), len(score.SPANS)
    one, one_span = np.ones(metrics, dtype=np.float32), np.ones(spans, dtype=np.float32)
    nobody, no_span = one[None], one_span[None]  # a row that nobody has
    return ModelVersion(
        version=NO_MODEL,
        kind="none",
        timesteps=1,
        trained_from=now,
        trained_until=now - monitor.step_ms,
        network=_NoNetwork(),
        entities=(),
        scaling=Scaling(nobody, nobody, one),
        noise=nobody,
        fleet_noise=one,
        calibration=Calibration(no_span, no_span, one_span, one_span, 1.0),
    )


def nothing(
    monitor: MonitorSection, model: ModelVersion, cursor: int | None, others: Iterable[str], start: int
) -> Memory:
    """A memory of no slots, of the entities the model knows and some others."""
    known = set(model.entities)
    entities = (*model.entities, *(name for name in others if name not in known))
    count, metrics = len(entities), len(monitor.metrics)
    share = np.empty((count, metrics), dtype=np.float32)
    states = AlertStates.none_open(count)
    return Memory(
        model=model,
        cursor=cursor,
        history=History(entities, start, monitor.step_ms, np.empty((count, 0, metrics), dtype=np.float32)),
        rows=scoring.model_rows(model, entities),
        errors=np.empty((count, 0), dtype=np.float32),
        scores=np.empty((count, 0), dtype=np.float32),
        states=states,
        past=(),
        snapshot=Snapshot(entities, share[:, 0], np.empty(count, np.int8), states, states.is_open, share),
    )


def watched(memory: Memory, sampled: Iterable[str], needed: Iterable[str]) -> tuple[str, ...]:
    """Who is watched: whoever the model knows, has recent data or an open alert; those already there first."""
    here = memory.history.entities
    alive = {*memory.model.entities, *sampled, *needed}
    silent = sorted(set(here).difference(alive))
    if silent:
        rows = grid.positions(silent, here)
        has_values = ~np.all(np.isnan(memory.history.values[rows]), axis=(1, 2))
        is_known: Bool = has_values | ~np.all(np.isnan(memory.errors[rows]), axis=1)
        alive.update(name for name, known in zip(silent, is_known.tolist(), strict=True) if known)
    staying = tuple(filter(alive.__contains__, here))
    return staying + tuple(sorted(alive.difference(staying)))


def extend(
    monitor: MonitorSection,
    memory: Memory,
    entities: tuple[str, ...],
    found: Float32,
    end: int,
    *,
    slots: int,
    unscored: int = 0,
) -> Extended:
    """Takes over gridded values (E, R, F) that go up to `end`, and makes the errors they change.

    slots: the newest K of the R; those before are committed already
    unscored: slots, the first of the K, without errors
    """
    after = _follow(monitor, memory, entities, end, slots)
    values, errors = after.history.values, after.errors
    again = slice(values.shape[1] - found.shape[1], values.shape[1] - slots)
    late, late_slots = _late(values[:, again], found[:, :-slots])
    values[:, again.start :] = found
    scored = _errors(monitor, after, np.arange(len(entities)), slots - unscored)
    errors[:, errors.shape[1] - slots + unscored :] = scored.errors
    if late.size:
        changed = _errors(monitor, after, late, slots + late_slots).errors
        errors[late, -slots - late_slots : -slots] = changed[:, :late_slots]
    return Extended(after, scored, late, late_slots)


def _follow(monitor: MonitorSection, memory: Memory, entities: tuple[str, ...], end: int, slots: int) -> Memory:
    """The same memory for other entities and up to `end`, with room for some slots beside what is kept; a copy."""
    old, step = memory.history, memory.history.step

    def moved(values: Float32, length: int) -> History:
        start = old.end - step * values.shape[1]
        return grid.cover(
            History(old.entities, start, step, values), entities=entities, start=end - step * length, end=end
        )

    errors, scores = (
        moved(values[:, :, None], error_slots(monitor) + slots).values[:, :, 0]
        for values in (memory.errors, memory.scores)
    )
    history = moved(old.values, value_slots(monitor) + slots)
    if entities == old.entities:
        return replace(memory, history=history, errors=errors, scores=scores, states=memory.states.copy())
    before = grid.positions(entities, old.entities)
    known = before >= 0
    states = AlertStates.none_open(len(entities))
    states.put(known, memory.states.rows(before[known]))
    rows = scoring.model_rows(memory.model, entities)
    return replace(memory, history=history, rows=rows, errors=errors, scores=scores, states=states)


def newest_part(monitor: MonitorSection, memory: Memory) -> Memory:
    """What is kept of a memory; views, since the next tick copies what it goes on with."""
    old, errors = memory.history, slice(-error_slots(monitor), None)
    kept = value_slots(monitor)
    history = replace(old, start=old.end - kept * old.step, values=old.values[:, -kept:])
    return replace(memory, history=history, errors=memory.errors[:, errors], scores=memory.scores[:, errors])


def _late(before: Float32, after: Float32) -> tuple[Int64, int]:
    """Entities with committed slots (E, K, F) that late samples changed, and how many slots back the first such is."""
    differs = (before != after) & ~(np.isnan(before) & np.isnan(after))
    changed = differs.any(axis=2)  # (E, K)
    rows = np.flatnonzero(changed.any(axis=1))
    return rows, before.shape[1] - int(changed.any(axis=0).argmax()) if rows.size else 0


def _errors(monitor: MonitorSection, memory: Memory, rows: Int64, slots: int) -> Scored:
    """Combined residual of the newest K slots of some entities, some thousand entities at a time."""
    model, history, rules = memory.model, memory.history, horizon.metric_rules(monitor)
    metrics = history.values.shape[2]
    begin = history.values.shape[1] - slots - model.timesteps + 1
    errors = np.empty((len(rows), slots), dtype=np.float32)
    reason = np.empty((len(rows), slots), dtype=np.int8)
    share = np.empty((len(rows), slots, metrics), dtype=np.float32)
    for part in blocks(len(rows) if slots else 0):
        values = history.values[rows[part], begin:]
        reason[part] = window.reasons(values, model.timesteps, max_missing=monitor.max_missing)
        errors[part], share[part] = scoring.errors(
            model,
            rules,
            values=values,
            rows=memory.rows[rows[part]],
            slots=history.slots[begin:],
            chosen=reason[part] == Reason.KNOWN,
        )
        is_invalid = rules.outside(values[:, model.timesteps - 1 :])  # (B, K, F)
        if is_invalid.any():
            count = is_invalid.sum(axis=2, keepdims=True)
            share[part] = np.where(count > 0, is_invalid / np.maximum(count, 1), share[part])
    windows = int((reason == Reason.KNOWN).sum())
    if model.version == NO_MODEL:
        reason[reason != Reason.NO_DATA] = Reason.NO_MODEL
    return Scored(errors, reason, share, windows)


def scores_by_span(
    monitor: MonitorSection, memory: Memory, slots: int, some: Int64 | None = None
) -> tuple[Float32, Bool]:
    """Scores by span (E, K, S) of the newest K slots, and where they are ordinary again (E, K).

    some: rows of the entities wanted [all]

    A value that is never valid needs no model to be critical; one that stays the same for too long opens an alert.
    """
    calibration, rules = memory.model.calibration, horizon.metric_rules(monitor)
    invalid_score = np.float32(max(monitor.decision.critical_at, monitor.decision.open_at_once))
    wanted = np.arange(len(memory.rows)) if some is None else some
    scores = np.empty((len(wanted), slots, len(score.SPANS)), dtype=np.float32)
    settled = np.empty((len(wanted), slots), dtype=np.bool_)
    for block in blocks(len(wanted)):
        rows, at = memory.rows[wanted[block]], wanted[block]
        smoothed = calibration.smoothed(memory.errors[at, -slots - max(score.SPANS) + 1 :], rows)
        by_span = calibration.by_span(smoothed, rows)
        values = memory.history.values[at]
        is_invalid = rules.outside(values[:, -slots:]).any(axis=2)
        by_span[is_invalid] = np.fmax(by_span[is_invalid], invalid_score)
        is_frozen = frozen.is_frozen(values, rest_limits(monitor, memory.model, rows), slots).any(axis=2)
        by_span[is_frozen] = np.fmax(by_span[is_frozen], np.float32(monitor.decision.open_at_once))
        scores[block] = by_span
        settled[block] = calibration.settled(smoothed, rows) & ~is_invalid & ~is_frozen
    return scores, settled


def scores_of_history(memory: Memory) -> Float32:
    """Scores (E, V) of the slots whose values are kept."""
    return memory.scores[:, -memory.history.values.shape[1] :]


def untold(by_span: Float32, states: AlertStates, history: History) -> Float32:
    """Newest score of each entity without what a closed alert has told already, (E,); NaN = unknown."""
    newest = history.slots[-1:]
    step = history.step
    return decide.untold(by_span[:, -1:], states.closed_slot, newest, spans=score.SPANS, step=step)[:, 0]


def snapshot_of(history: History, newest: Float32, states: AlertStates, silent: Bool, scored: Scored) -> Snapshot:
    reason = scored.reason[:, -1].copy()
    reason[~np.isnan(newest)] = Reason.KNOWN  # an invalid value is known to be
    if np.isnan(history.values[:, -_STALE_SLOTS:]).all():
        reason[reason == Reason.NO_DATA] = Reason.STALE_DATA
    return Snapshot(history.entities, newest, reason, states, silent, scored.share[:, -1])


def blocks(count: int) -> list[Int64]:
    """So many rows, some thousand at a time."""
    return [np.arange(begin, min(begin + _BLOCK, count)) for begin in range(0, count, _BLOCK)]
