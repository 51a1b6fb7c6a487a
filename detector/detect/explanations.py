"""Explanations of scores: the part that fired, the metrics it came from, their expected values, and the window."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detector.core import frozen, score
from detector.core.series import Bool, Float32, Float64, Int64, Reason
from detector.detect import residuals
from detector.detect.horizon import Horizon
from detector.detect.memory import Memory
from detector.detect.residuals import Selection
from detector.detect.scores import freeze_limits

_TOP_METRICS = 5  # named in an explanation
_LEAST_SHARE = 0.005  # of the score, for a metric to be named
_WHOLE_WINDOWS = 500  # explanations with a window at a time; of more at once the others hold one slot

Parts = Callable[[int, int], Float32]
"""Scores by span (S,) of an entity's row at a slot in epoch milliseconds."""


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
            result[row, slot] = json.dumps(found)
    return result


@dataclass(frozen=True)
class _View:
    """Observed and expected values of one entity's last K slots."""

    observed: Float32  # (K, F), own units
    expected: Float32  # (K, F), NaN where nothing could be expected
    band: Float32  # (K, F) usual deviation, own units
    size: Float32  # (K, F) deviations that count, in usual ones
    is_frozen: Bool  # (F,) in the newest slot


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
    return [_View(observed[k], found.expected[k], band[k], size[k], is_frozen[k]) for k in range(len(rows))]


def _explanation(horizon: Horizon, view: _View, *, slot: int, scores: Float32, parts: Float32) -> dict[str, Any]:
    metrics = horizon.metrics
    fired, share = _fired(horizon, view, parts)
    order = [f for f in np.argsort(-share, kind="stable")[:_TOP_METRICS].tolist() if share[f] >= _LEAST_SHARE]
    return {
        "metrics": [_metric(view, metrics[f], f, share=float(share[f])) for f in order],
        "part": fired | {"scores": {str(s): _number(value) for s, value in zip(score.SPANS, parts, strict=True)}},
        "window": {
            "start": slot - (view.observed.shape[0] - 1) * horizon.step,
            "step": horizon.step,
            "metrics": list(metrics),
            "values": pack(view.observed),
            "named": [metrics[f] for f in order],
            "expected": pack(view.expected[:, order]),
            "band": pack(view.band[:, order]),
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
    if view.is_frozen.any() and np.nanmax(parts) <= horizon.rules.open_at_once:
        return {"kind": "frozen", "slots": 1}, view.is_frozen / view.is_frozen.sum()
    span = score.SPANS[int(np.nanargmax(parts))] if not np.isnan(parts).all() else 1
    with np.errstate(invalid="ignore"):
        squares = np.nan_to_num(np.minimum(view.size[-span:], score.CLIP) ** 2).sum(axis=0)
    share = squares / squares.sum() if squares.sum() > 0 else np.zeros(metrics)
    return {"kind": "spike" if span == 1 else "drift", "slots": span}, share


def _metric(view: _View, name: str, f: int, *, share: float) -> dict[str, Any]:
    observed, expected, band = (float(part[-1, f]) for part in (view.observed, view.expected, view.band))
    return {
        "metric": name,
        "share": round(share, 4),
        "observed": _number(observed),
        "expected": _number(expected),
        "low": _number(expected - band),
        "high": _number(expected + band),
    }


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def shares(explanation: str | None) -> dict[str, float]:
    """Each named metric's share of the score, of an explanation as JSON."""
    found = json.loads(explanation or "{}").get("metrics", [])
    return {metric["metric"]: metric["share"] for metric in found}


def pack(values: Float32) -> str:
    """Values of any shape, such as (K, F), as text: float32, little-endian, compressed."""
    return base64.b64encode(zlib.compress(values.astype("<f4").tobytes(), 9)).decode()


def unpack(text: str, columns: int = 0) -> Float32:
    """Values of `pack`, (N,), or (N, columns)."""
    values = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<f4")
    return values.reshape(-1, columns) if columns else values
