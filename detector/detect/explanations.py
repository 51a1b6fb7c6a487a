"""Explanations of scores: the part that fired, the metrics it came from, their expected values, and the window."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detector.core import frozen, rhythm, score, shape
from detector.core.news import MECHANISMS, RECENT, long_slots, tolerated
from detector.core.rules import MetricRules
from detector.core.series import Bool, Float32, Float64, Int64, Reason
from detector.detect import news, residuals
from detector.detect.horizon import Horizon
from detector.detect.memory import Memory, Point
from detector.detect.news import Slots
from detector.detect.packed import pack
from detector.detect.residuals import Selection
from detector.detect.scores import NO_ALERT, freeze_limits, precedents_followed

_TOP_METRICS = 5  # named in an explanation
_LEAST_SHARE = 0.005  # of the score, for a metric to be named
_WHOLE_WINDOWS = 500  # explanations with a window at a time; of more at once the others hold one slot

_KINDS: dict[str, tuple[str, int | None]] = {
    "net1": ("network", 1),
    "net3": ("network", 3),
    "net10": ("network", 10),
    "shape": ("shape", shape.SLOTS),
    "far1": ("far", 1),
    "far3": ("far", 3),
    "gross": ("far", 3),
    "one3": ("metric", 3),
    "one10": ("metric", None),
    "record": ("record", RECENT),
    "pool": ("pool", None),
    "missed": ("missed", rhythm.LASTS),
    "precedent": ("precedent", RECENT),
}
"""Kind and slots that a mechanism is explained by; None: `long_slots`, which depend on the step."""

_TOLERATED = dict.fromkeys(("far", "precedent"), tolerated("far3"))
_TOLERATED |= dict.fromkeys(("metric", "record", "pool", "missed"), tolerated("one3"))
"""Deviations from the median that are expected by kind; of other kinds it is the model that expects something."""

Parts = Callable[[int, int], Float32]
"""Scores by mechanism (M,) of an entity's row at a slot in epoch milliseconds."""


def explain(
    horizon: Horizon, memory: Memory, wanted: Sequence[tuple[int, int]], *, parts: Parts
) -> dict[tuple[int, int], str]:
    """Explanations as JSON of some entities' rows at some slots (epoch milliseconds)."""
    history, timesteps = memory.history, memory.model.timesteps
    scores = memory.scores_of_history  # (E, V)
    result: dict[tuple[int, int], str] = {}
    by_slot: dict[int, list[int]] = {}
    for n, (row, slot) in enumerate(wanted):
        by_slot.setdefault(slot if n < _WHOLE_WINDOWS else -slot, []).append(row)
    for key, rows in by_slot.items():
        slot, most = abs(key), horizon.timesteps if key > 0 else 1
        index = (slot - history.start) // history.step
        slots = max(1, min(most, index - timesteps + 2))
        views = _views(horizon, memory, np.array(rows, dtype=np.int64), index=index, slots=slots)
        for row, view in zip(rows, views, strict=True):
            recent = scores[row, index - slots + 1 : index + 1]
            found = _explanation(horizon, view, slot=slot, scores=recent, parts=parts(row, slot))
            if found["part"]["kind"] == "precedent":
                found["part"]["alert"] = _precedent(horizon, memory, row, slot)
            result[row, slot] = json.dumps(found)
    return result


def _precedent(horizon: Horizon, memory: Memory, row: int, slot: int) -> int:
    """The alert that a slot is like, `NO_ALERT` if there is none any more."""
    behind = (memory.history.end - slot) // memory.history.step
    found = precedents_followed(horizon, memory, behind, only=row).get(row)
    return NO_ALERT if found is None else int(found[0])


@dataclass(frozen=True)
class _Due:
    """Daily jobs that had to have run before the newest slot; N of them."""

    start: int  # of their quarter of an hour, epoch milliseconds
    metric: Int64  # (N,)
    is_fall: Bool  # (N,)
    expected: Float32  # (N,) value that is reached every day, own units
    reached: Float32  # (N,) own units, NaN: memory does not go back so far
    share: Float32  # (N,) that is lacking, 1 where it is not known

    def told(self, observed: Float32, expected: Float32) -> tuple[Float32, Float32]:
        """What was observed and expected of each metric (F,): of those that lack a job, what it reaches."""
        observed, expected = observed.copy(), expected.copy()
        for n in np.argsort(self.share, kind="stable").tolist():  # of two jobs of one metric the one that lacks more
            f = self.metric[n]
            observed[f] = observed[f] if np.isnan(self.reached[n]) else self.reached[n]
            expected[f] = self.expected[n]
        return observed, expected

    def when(self, shares: Float64) -> dict[str, Any]:
        """When the job was expected, and what the metric with the largest share (F,) does then."""
        mine = np.flatnonzero(self.metric == int(shares.argmax()))
        move = "fall" if mine.size and self.is_fall[mine[self.share[mine].argmax()]] else "rise"
        return {"start": self.start, "end": self.start + rhythm.BIN, "move": move}


@dataclass(frozen=True)
class _View:
    """Observed and expected values of one entity's last K slots."""

    observed: Float32  # (K, F), own units
    expected: Float32  # (K, F), NaN where nothing could be expected
    band: Float32  # (K, F) usual deviation, own units
    size: Float32  # (K, F) deviations that count, in usual ones
    is_frozen: Bool  # (F,) in the newest slot
    deviations: Float32  # (L, F) from the median of the time of day, robust ones, of these slots and some before
    shape_share: Float32  # (F,) of the window's distance from normal ones, NaN: nothing is known
    usual: Float32  # (K, F) median at the time of day, own units, NaN where none was known
    spread: Float32  # (F,) robust deviation from it
    lowest: Float32  # (F,) of everything older than the newest `long_slots`, NaN: not known
    highest: Float32  # (F,)
    due: _Due

    def expecting(self, kind: str, rules: MetricRules) -> _View:
        """The same with what was expected by those who found it strange: the model, or the median of the time of day.

        What rules do not count is expected, too.
        """
        if kind not in _TOLERATED:
            return self
        least = np.maximum(rules.least, rules.least_share * np.abs(self.usual))
        return replace(self, expected=self.usual, band=np.maximum(_TOLERATED[kind] * self.spread, least))


def _views(horizon: Horizon, memory: Memory, rows: Int64, *, index: int, slots: int) -> list[_View]:
    """Views of some entities (R,) on the slots up to an index into the history."""
    model, history = memory.model, memory.history
    begin = index - slots - model.timesteps + 2
    values = history.values[rows, begin : index + 1]
    known = residuals.model_rows(model, [history.entities[row] for row in rows.tolist()])
    chosen = residuals.reasons(model, values, known, max_missing=horizon.max_missing) == Reason.KNOWN
    selection = Selection(values, known, history.slots[begin : index + 1], chosen)
    found = residuals.expectations(model, selection, horizon.metric_rules)
    noise = np.asarray(residuals.usual_sizes(model, known)[:, None], np.float32)
    size = np.asarray(np.abs(found.deviation) / noise, dtype=np.float32)
    limits, rested = freeze_limits(model, known), memory.rested[rows]
    is_frozen = frozen.is_frozen(history.values[rows, : index + 1], limits, 1, rested=rested)[:, 0]
    observed, band = values[:, model.timesteps - 1 :], noise * found.scale
    deviations, shares = _from_habits(horizon, memory, rows, index=index)
    usual, spread = _usual(memory, known, slots=history.slots[index + 1 - slots : index + 1])
    lowest, highest = _before(memory, rows, index=index)
    return [
        _View(
            *(observed[k], found.expected[k], band[k], size[k], is_frozen[k], deviations[k], shares[k]),
            *(usual[k], spread[k], lowest[k], highest[k]),
            _due(horizon, memory, rows[k], known[k], index=index),
        )
        for k in range(len(rows))
    ]


def _due(horizon: Horizon, memory: Memory, row: int, known: int, *, index: int) -> _Due:
    """Daily jobs that were due before a slot, by its index into the history; known: the row of the model."""
    habits, history = memory.model.artifact.habits, memory.history
    norm = rhythm.Norm(habits.usual, habits.jobs, horizon.metric_rules, history.step)
    now, metrics = int(history.slots[index]) // rhythm.BIN, len(horizon.metrics)
    _, job = norm.jobs.due(np.array([known]), np.array([now]))
    of = np.full_like(job, known)
    reached = np.full(len(job), np.nan, dtype=np.float32)
    share, is_fall, metric = np.ones_like(reached), np.zeros_like(job), job
    if job.size:
        is_fall, metric = np.divmod(norm.jobs.column[of, job], metrics)
        begin, end = (-((history.start - n * rhythm.BIN) // history.step) for n in (now - 3, now))  # slots, rounded up
        center, spread = norm.usual.center[[known]], norm.usual.spread[[known]]
        if begin >= rhythm.LASTS - 1:
            move = rhythm.moves(history.values[[row], begin - rhythm.LASTS + 1 : end], center, spread)
            most = np.fmax.reduce(move[0], axis=0)[norm.jobs.column[of, job]]
            share = np.nan_to_num((norm.jobs.level[of, job] - most) / norm.jobs.gap[of, job], nan=1.0)
            reached = center[0, metric] + np.where(is_fall, -most, most) * spread[0, metric]
    return _Due(
        start=(now - 2) * rhythm.BIN,
        metric=metric,
        is_fall=is_fall > 0,
        expected=rhythm.expected_value(norm, of, job),
        reached=reached,
        share=np.maximum(share, np.float32(0.0)),
    )


def _usual(memory: Memory, known: Int64, *, slots: Int64) -> tuple[Float32, Float32]:
    """Medians (R, K, F) of some slots and robust deviations (R, F); known: (R,) rows of the model."""
    usual = memory.model.artifact.habits.usual
    medians = usual.medians(slots, known)
    spread = usual.spread[known] if len(usual.spread) else np.full_like(medians[:, 0], np.nan)
    return medians, spread


def _before(memory: Memory, rows: Int64, *, index: int) -> tuple[Float32, Float32]:
    """Lowest and highest value (R, F) that a record at an index into the history lies beyond.

    An experience knows the values of all slots but the newest `long_slots`; NaN where none is kept that is old enough.
    """
    history = memory.history
    newest = long_slots(history.step)
    first = index + 1 - newest
    points = (*memory.points, Point(history.end, memory.experience))
    known = [
        (reach, point.experience)
        for point in points
        if (reach := (point.slot - history.start) // history.step - newest) <= first
    ]
    if not known:
        nothing = np.full((len(rows), history.values.shape[2]), np.nan, dtype=np.float32)
        return nothing, nothing
    reach, experience = known[-1]
    since = history.values[rows, max(0, reach) : max(0, first)]
    lowest, highest = (
        edge.reduce(np.concatenate([before[rows, None], since], axis=1), axis=1)
        for edge, before in ((np.fmin, experience.lowest), (np.fmax, experience.highest))
    )
    return lowest, highest


def _from_habits(horizon: Horizon, memory: Memory, rows: Int64, *, index: int) -> tuple[Float32, Float32]:
    """Deviations (R, shape.SLOTS, F) of the slots up to an index into the history, and shares of the shape (R, F)."""
    model, history = memory.model, memory.history
    known = residuals.model_rows(model, [history.entities[row] for row in rows.tolist()])
    norm = news.norm_of(model, horizon.metric_rules, horizon.step)
    begin = index - shape.SLOTS + 1
    values, slots = history.values[rows, begin : index + 1], history.slots[begin : index + 1]
    deviations = norm.habits.usual.deviations(values, slots, known, norm.rules)
    shares = np.full((len(rows), values.shape[2]), np.nan, dtype=np.float32)
    errors = np.zeros((len(rows), 0), dtype=np.float32)
    statistics = news.statistics(norm, Slots(slots[-1:], known, values, errors))[:, 0]
    for k, row in enumerate(known.tolist()):
        if row >= 0 and len(norm.habits.shapes.unit):
            shares[k] = norm.habits.shapes.shares(statistics[k], row)
    return deviations, shares


def _explanation(horizon: Horizon, view: _View, *, slot: int, scores: Float32, parts: Float32) -> dict[str, Any]:
    metrics = horizon.metrics
    fired, share = _fired(horizon, view, parts)
    view = view.expecting(fired["kind"], horizon.metric_rules)
    least = np.where(
        view.lowest >= 0, np.float32(0.0), -np.inf
    )  # of what never was negative nothing negative is expected
    expected = np.maximum(view.expected[-1], least)
    low, high = (np.maximum(view.expected[-1] + side * view.band[-1], least) for side in (-1, 1))
    observed = view.observed[-1]
    if fired["kind"] == "record":
        low, high = view.lowest, view.highest
    if fired["kind"] == "missed":
        observed, expected = view.due.told(observed, expected)
        low = high = expected
    order = [f for f in np.argsort(-share, kind="stable")[:_TOP_METRICS].tolist() if share[f] >= _LEAST_SHARE]
    return {
        "metrics": [
            {
                "metric": metrics[f],
                "share": round(float(share[f]), 4),
                "observed": number(observed[f]),
                "expected": number(expected[f]),
                "low": number(low[f]),
                "high": number(high[f]),
                **({"is_rate": True} if metrics[f] in horizon.rates else {}),
            }
            for f in order
        ],
        "part": fired | {"scores": {name: number(value) for name, value in zip(MECHANISMS, parts, strict=True)}},
        "window": {
            "start": slot - (view.observed.shape[0] - 1) * horizon.step,
            "step": horizon.step,
            "metrics": list(metrics),
            "values": pack(view.observed),
            "named": [metrics[f] for f in order],
            "expected": pack(view.expected[:, order]),
            "band": pack(view.band[:, order]),
            "least": [number(least[f]) for f in order],
            "scores": pack(scores),
        },
    }


def _fired(horizon: Horizon, view: _View, parts: Float32) -> tuple[dict[str, Any], Float64]:
    """The part of the score that fired, and each metric's share of it (F,)."""
    metrics = len(horizon.metrics)
    outside = horizon.metric_rules.outside(view.observed[-1])
    if np.isnan(view.observed[-1]).all():
        return {"kind": "no_data", "slots": horizon.silent}, np.zeros(metrics)
    if outside.any():
        return {"kind": "range", "slots": 1}, outside / outside.sum()
    if view.is_frozen.any() and np.nanmax(parts) <= horizon.rules.score_at_once:
        return {"kind": "frozen", "slots": 1}, view.is_frozen / view.is_frozen.sum()
    name = MECHANISMS[int(np.nanargmax(parts))] if not np.isnan(parts).all() else MECHANISMS[0]
    kind, known = _KINDS[name]
    slots = long_slots(horizon.step) if known is None else known
    shares = _shares(view, kind, slots)
    return {"kind": kind, "slots": slots} | (view.due.when(shares) if kind == "missed" else {}), shares


def _shares(view: _View, kind: str, slots: int) -> Float64:
    """Each metric's share (F,) of what a mechanism of a kind found."""
    deviations = np.nan_to_num(view.deviations[-slots:])
    if kind == "shape":
        shares = np.nan_to_num(view.shape_share)
    elif kind in {"far", "precedent"}:
        shares = deviations.mean(axis=0)
    elif kind in {"metric", "record", "pool"}:
        least = deviations.min(axis=0)
        shares = np.where(least >= least.max(), least, np.float32(0.0))
    elif kind == "missed":
        shares = np.zeros(deviations.shape[1], dtype=np.float32)
        np.maximum.at(shares, view.due.metric, view.due.share)
    else:
        with np.errstate(invalid="ignore"):
            shares = np.nan_to_num(np.minimum(view.size[-slots:], score.CLIP) ** 2).sum(axis=0)
    total = float(shares.sum())
    return np.asarray(shares / total if total > 0 else np.zeros(len(shares)), dtype=np.float64)


def number(value: float) -> float | None:
    """Six significant digits, None for what is not finite."""
    return float(f"{value:.6g}") if np.isfinite(value) else None


def shares(explanation: str | None) -> dict[str, float]:
    """Each named metric's share of the score, of an explanation as JSON."""
    found = json.loads(explanation or "{}").get("metrics", [])
    return {metric["metric"]: metric["share"] for metric in found}
