"""Memory of a monitor between ticks: values, errors and scores of the newest slots, and what entities have shown.

All of it is rebuilt from the database: the newest slots from the source, and what came before from a stored experience.
So a daemon that was killed, one that catches up and a replay all arrive at the same numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import numpy as np

from detector.core import frozen, grid
from detector.core.decide import AlertStates
from detector.core.news import MECHANISMS, Experience, Habits
from detector.core.revise import Checkpoint
from detector.core.scaling import Scaling
from detector.core.series import Bool, Float32, History, Int8, Int64, Reason, Windows, read_only
from detector.core.threshold import Calibration
from detector.detect import news, residuals
from detector.detect.horizon import Horizon
from detector.detect.precedents import Precedents
from detector.detect.residuals import Selection
from detector.detect.seen import Seen, filled
from detector.ports import Artifact, ModelVersion

_BLOCK = 4096  # entities whose remembered slots are scored at a time

UNRECORDED = -1
"""Code of a slot that nothing is on record of."""

NO_MODEL = 0
"""Version of the stand-in for a model that only knows which values are valid."""


@dataclass(frozen=True)
class Snapshot:
    """The newest slot of a monitor, for export."""

    entities: tuple[str, ...]
    score: Float32  # (E,) NaN = unknown
    surprise: Float32  # (E,)
    reason: Int8  # (E,) Reason
    states: AlertStates  # (E,)
    is_silent: Bool  # (E,) the open alert is muted, or somebody closed it
    share: Float32  # (E, F) NaN = unknown
    missing: Float32 | None = None  # (F,) share of entities with data that have lost a metric; None: not known

    def without(self, is_left_out: Bool) -> Snapshot:
        """The same without some entities (E,)."""
        rows = np.flatnonzero(~is_left_out)
        return replace(
            self,
            entities=tuple(self.entities[row] for row in rows.tolist()),
            score=self.score[rows],
            surprise=self.surprise[rows],
            reason=self.reason[rows],
            states=self.states.rows(rows),
            is_silent=self.is_silent[rows],
            share=self.share[rows],
        )


@dataclass(frozen=True)
class Point:
    """What entities had shown before a slot that late samples may still lie behind."""

    slot: int  # epoch milliseconds
    experience: Experience  # (E, …)


@dataclass(frozen=True)
class Memory:
    """Slots and states that a monitor goes on from; its arrays are read-only."""

    model: ModelVersion
    cursor: int | None  # as stored
    history: History  # (E, V, F) values of the slots that windows may still be asked for
    rested: Int64  # (E, F) slots for which each metric's first value had stayed the same
    rows: Int64  # (E,) each entity's row in the model's per-entity arrays, −1 for one the model has not seen
    errors: Float32  # (E, L) combined residual of the newest slot of the window that ends there, NaN = unknown
    scores: Float32  # (E, L) as the errors they end with the history, and begin before it
    return_periods: Float32  # (E, J, M) ln of weeks, of the newest slots by mechanism, NaN = unknown
    experience: Experience  # (E, …) after the history
    points: tuple[Point, ...]  # oldest first; late samples are judged again from the newest one before them
    written: int  # slot of the newest stored experience, epoch milliseconds; 0: there is none by this model
    states: AlertStates  # (E,)
    past: tuple[Checkpoint, ...]  # the states before slots that late samples may still change, oldest first
    judged: Int8  # (E, J) codes on record of the newest slots, those that late samples may change and one before
    changed: Int64  # (E,) newest committed slots that rows changed while nobody looked
    seen: Seen  # the newest rows up to the same slots as `judged`
    precedents: Precedents  # as people had judged alerts at the last tick
    gone: frozenset[str]  # entities that are not expected back, until they have a row again
    told: int  # the newest slot, epoch milliseconds, that was logged to have got its rows too late
    snapshot: Snapshot

    def __post_init__(self) -> None:
        for array in (self.rested, self.rows, self.errors, self.scores, self.judged, self.changed):
            read_only(array)

    @property
    def entities(self) -> tuple[str, ...]:
        """Those remembered, in the order of all arrays."""
        return self.history.entities

    @property
    def scores_of_history(self) -> Float32:
        """Scores (E, V) of the slots whose values are kept."""
        return self.scores[:, -self.history.values.shape[1] :]


@dataclass(frozen=True)
class Gridded:
    """Samples on the grid, up to where a memory is to go on."""

    entities: tuple[str, ...]
    values: Float32  # (E, R, F)
    end: int  # epoch milliseconds
    new: int  # slots, the newest K of the R; those before are committed already
    last: Int64  # (E, R) slot of the newest row up to each one
    seen: Seen  # after them


@dataclass(frozen=True)
class Late:
    """Committed slots that late samples changed."""

    rows: Int64  # (R,) of the entities that have any
    slots: int  # from the oldest changed one to the newest committed one
    new: int  # slots after these
    reason: Int8  # (R, slots) of their windows, as they are now


@dataclass(frozen=True)
class Extended:
    """A memory with K more slots: their values and errors are there, their scores and the states after them not yet."""

    memory: Memory
    reason: Int8  # (E, K) why their windows cannot be scored
    share: Float32  # (E, F) each metric's share of the newest error
    windows: int  # scored
    late: Late
    last: Int64  # (E, K) slot of the newest row up to each new one


class _NoNetwork:
    def residuals(self, windows: Windows) -> Float32:
        return np.full((len(windows), windows.values.shape[2]), np.nan, dtype=np.float32)


class _OneSlot:
    timesteps = 1


def no_model(horizon: Horizon, now: int) -> ModelVersion:
    """Stand-in for a model where there is none: nothing is expected, only invalid values have a score.

    It judges from the newest complete slot on. now: epoch milliseconds
    """
    one = np.ones(len(horizon.metrics), dtype=np.float32)
    nobody = one[None]  # a row that nobody has
    calibration = Calibration.none()
    artifact = Artifact(
        spec=_OneSlot(),
        weights={},
        entities=(),
        scaling=Scaling(nobody, nobody, one),
        noise=nobody,
        fleet_noise=one,
        calibration=calibration,
        habits=(habits := Habits.of_errors(calibration, metrics=len(one))),
        experience=Experience.normal(habits, 0, metrics=len(one), slot=now, step=horizon.step, weeks=0.0),
        freeze_limits=np.zeros((0, 0), dtype=np.int64),
        provenance={"kind": "none", "trained_from": now, "trained_until": now - horizon.delay - horizon.step},
    )
    return ModelVersion(NO_MODEL, artifact, _NoNetwork())


def empty(
    horizon: Horizon,
    model: ModelVersion,
    *,
    cursor: int | None,
    others: Iterable[str],
    start: int,
    gone: frozenset[str] = frozenset(),
) -> Memory:
    """A memory of no slots, of the entities the model knows but those that are gone, and of some others.

    start: epoch milliseconds
    """
    entities = tuple(dict.fromkeys((*(name for name in model.artifact.entities if name not in gone), *others)))
    count, metrics = len(entities), len(horizon.metrics)
    share = np.empty((count, metrics), dtype=np.float32)
    states = AlertStates.none_open(count)
    rows = residuals.model_rows(model, entities)
    return Memory(
        model=model,
        cursor=cursor,
        history=History(entities, start, horizon.step, np.empty((count, 0, metrics), dtype=np.float32)),
        rested=np.zeros((count, metrics), dtype=np.int64),
        rows=rows,
        errors=np.empty((count, 0), dtype=np.float32),
        scores=np.empty((count, 0), dtype=np.float32),
        return_periods=np.empty((count, 0, len(MECHANISMS)), dtype=np.float32),
        experience=news.first(model, rows, step=horizon.step),
        points=(),
        written=0,
        states=states,
        past=(),
        judged=np.full((count, horizon.late + 1), UNRECORDED, dtype=np.int8),
        changed=np.zeros(count, dtype=np.int64),
        seen=Seen.none(horizon, count),
        precedents=Precedents(),
        gone=gone,
        told=0,
        snapshot=Snapshot(entities, share[:, 0], share[:, 0], np.empty(count, np.int8), states, states.is_open, share),
    )


def members(memory: Memory, sampled: Collection[str], needed: Collection[str]) -> tuple[str, ...]:
    """Entities to remember: those the model knows, with recent data or an open alert; those already there first.

    One that is gone is not among them before it has samples again, but for what is remembered of it.
    """
    here = memory.entities
    alive = {*set(memory.model.artifact.entities).difference(memory.gone), *sampled, *needed}
    absent = sorted(set(here).difference(alive))
    if absent:
        rows = grid.positions(absent, here)
        has_values = ~np.all(np.isnan(memory.history.values[rows]), axis=(1, 2))
        is_known: Bool = has_values | ~np.all(np.isnan(memory.errors[rows]), axis=1)
        alive.update(name for name, known in zip(absent, is_known.tolist(), strict=True) if known)
    staying = tuple(filter(alive.__contains__, here))
    return staying + tuple(sorted(alive.difference(staying)))


def gridded(
    horizon: Horizon, memory: Memory, entities: tuple[str, ...], *, values: Float32, end: int, late: int
) -> Gridded:
    """Values (E, R, F) of rows on the grid, filled as the monitor wants it; the first `late` ones are committed."""
    seen = memory.seen
    if entities != memory.entities:
        seen = seen.of(horizon, grid.positions(entities, memory.entities))
    slots = values.shape[1]
    made = filled(horizon, values, start=end - horizon.step * slots, seen=seen, late=late)
    return Gridded(entities, made.values, end, slots - late, made.last, made.seen)


def extend(horizon: Horizon, memory: Memory, gridded: Gridded, *, unscored: int = 0) -> Extended:
    """Takes over gridded values, and makes the errors they change.

    unscored: slots, the first of the new ones, without errors
    """
    model, new = memory.model, gridded.new
    rows = memory.rows if gridded.entities == memory.entities else residuals.model_rows(model, gridded.entities)
    values = _moved(memory, memory.history.values, gridded, slots=horizon.values + new)
    again = slice(values.shape[1] - gridded.values.shape[1], values.shape[1] - new)
    judged, changed, rested = _moved_rows(memory, gridded.entities)
    late = _late(values[:, again], gridded.values[:, :-new], changed=changed, new=new)
    values[:, again.start :] = gridded.values
    history = History(gridded.entities, gridded.end - horizon.step * values.shape[1], horizon.step, values)
    made = _errors(horizon, model, history, rows=rows, slots=new - unscored)
    errors, scores = (
        _moved(memory, kept[:, :, None], gridded, slots=horizon.errors + new)[:, :, 0]
        for kept in (memory.errors, memory.scores)
    )
    return_periods = _moved(memory, memory.return_periods, gridded, slots=horizon.scores + new)
    errors[:, errors.shape[1] - new + unscored :] = made.errors
    if late.rows.size:
        corrected = _errors(horizon, model, history, rows=rows, slots=new + late.slots, only=late.rows)
        errors[late.rows, -new - late.slots : -new] = corrected.errors[:, : late.slots]
        late = replace(late, reason=corrected.reason[:, : late.slots])
    states = _of_others(memory, gridded.entities)
    extended = replace(memory, history=history, rows=rows, errors=errors, scores=scores, states=states)
    experience, points = _experience_of(horizon, memory, gridded.entities, rows)
    extended = replace(extended, return_periods=return_periods, experience=experience, points=points)
    extended = replace(extended, judged=judged, changed=np.zeros_like(changed), rested=rested, seen=gridded.seen)
    return Extended(extended, made.reason, made.share, made.windows, late, gridded.last[:, -new:])


def newest_part(horizon: Horizon, memory: Memory) -> Memory:
    """The slots of a memory that are kept."""
    old = memory.history
    left = max(0, old.values.shape[1] - horizon.values)
    rested = frozen.rest(old.values[:, : left + 1], memory.rested)
    history = replace(old, start=old.end - horizon.values * old.step, values=old.values[:, -horizon.values :])
    errors, scores = (values[:, -horizon.errors :] for values in (memory.errors, memory.scores))
    return_periods = memory.return_periods[:, -horizon.scores :]
    return replace(memory, history=history, rested=rested, errors=errors, scores=scores, return_periods=return_periods)


def _moved(memory: Memory, values: Float32, gridded: Gridded, *, slots: int) -> Float32:
    """Remembered values (E, L, X), which end with the history, for other entities and up to another end; a copy."""
    old = memory.history
    ending = History(old.entities, old.end - old.step * values.shape[1], old.step, values)
    return grid.cover(ending, entities=gridded.entities, start=gridded.end - old.step * slots, end=gridded.end)


def _of_others(memory: Memory, entities: tuple[str, ...]) -> AlertStates:
    """The remembered states for other entities."""
    if entities == memory.entities:
        return memory.states
    before = grid.positions(entities, memory.entities)
    known = before >= 0
    return AlertStates.none_open(len(entities)).with_rows(known, memory.states.rows(before[known]))


def _experience_of(
    horizon: Horizon, memory: Memory, entities: tuple[str, ...], rows: Int64
) -> tuple[Experience, tuple[Point, ...]]:
    """The remembered experience and its points for other entities; rows: (E,) theirs, as in `Memory`."""
    if entities == memory.entities:
        return memory.experience, memory.points
    before = grid.positions(entities, memory.entities)
    known = np.flatnonzero(before >= 0)

    def moved(experience: Experience) -> Experience:
        fresh = news.first(memory.model, rows, step=horizon.step)
        return fresh.with_rows(known, experience.rows(before[known]))

    points = tuple(replace(point, experience=moved(point.experience)) for point in memory.points)
    return moved(memory.experience), points


def _late(before: Float32, after: Float32, *, changed: Int64, new: int) -> Late:
    """Committed slots whose values before and after (E, K, F) differ, or are known to: the newest `changed` (E,).

    new: slots after them
    """
    differs = ((before != after) & ~(np.isnan(before) & np.isnan(after))).any(axis=2)  # (E, K)
    slots = differs.shape[1]
    differs |= np.arange(slots, 0, -1) <= changed[:, None]
    rows = np.flatnonzero(differs.any(axis=1))
    reach = slots - int(differs.any(axis=0).argmax()) if rows.size else 0
    return Late(rows, reach, new, np.zeros((len(rows), reach), dtype=np.int8))


def _moved_rows(memory: Memory, entities: tuple[str, ...]) -> tuple[Int8, Int64, Int64]:
    """Codes on record (E, J), changed slots (E,) and rests (E, F) for other entities; one that is new had no data."""
    if entities == memory.entities:
        return memory.judged, memory.changed, memory.rested
    before = grid.positions(entities, memory.entities)
    known = before >= 0
    judged = np.full((len(entities), memory.judged.shape[1]), Reason.NO_DATA, dtype=np.int8)
    changed = np.zeros(len(entities), dtype=np.int64)
    judged[known], changed[known] = memory.judged[before[known]], memory.changed[before[known]]
    rested = np.zeros((len(entities), memory.rested.shape[1]), dtype=np.int64)
    rested[known] = memory.rested[before[known]]
    return judged, changed, rested


@dataclass(frozen=True)
class _Made:
    """Errors of K slots, the reasons of their windows, and the shares of the newest one."""

    errors: Float32  # (R, K)
    reason: Int8  # (R, K)
    share: Float32  # (R, F)
    windows: int


def _errors(
    horizon: Horizon, model: ModelVersion, history: History, *, rows: Int64, slots: int, only: Int64 | None = None
) -> _Made:
    """Errors of the newest K slots, some thousand entities at a time.

    rows: (E,) as in `Memory`; only: the entities wanted, (R,) [all]
    """
    rules, metrics = horizon.metric_rules, history.values.shape[2]
    count = len(rows) if only is None else len(only)
    begin = history.values.shape[1] - slots - model.timesteps + 1
    errors = np.empty((count, slots), dtype=np.float32)
    reason = np.zeros((count, slots), dtype=np.int8)
    share = np.empty((count, metrics), dtype=np.float32)
    windows = 0
    for part in blocks(count if slots else 0):
        at = part if only is None else only[part]
        values = history.values[at, begin:]
        reasons = residuals.reasons(model, values, rows[at], max_missing=horizon.max_missing)  # (B, K)
        chosen = reasons == Reason.KNOWN
        selection = Selection(values, rows[at], history.slots[begin:], chosen)
        errors[part], shares = residuals.errors(model, selection, rules)
        is_invalid = rules.outside(values[:, -1])  # (B, F)
        invalid = is_invalid.sum(axis=1, keepdims=True)
        share[part] = np.where(invalid > 0, is_invalid / np.maximum(invalid, 1), shares[:, -1])
        reason[part] = reasons
        windows += int(chosen.sum())
    if model.version == NO_MODEL:
        reason[reason != Reason.NO_DATA] = Reason.NO_MODEL
    return _Made(errors, reason, share, windows)


def blocks(count: int) -> list[slice]:
    """Rows 0 … count − 1 in blocks of some thousand."""
    return [slice(begin, min(begin + _BLOCK, count)) for begin in range(0, count, _BLOCK)]
