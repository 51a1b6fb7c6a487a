"""Why a score is high: metrics, what was expected of them, which part of the score fired, and the window itself."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detector.config.sections import MonitorSection
from detector.core import frozen, score, window
from detector.core.series import Bool, Float32, History, Int64, Reason
from detector.detect import horizon
from detector.detect import residuals as scoring
from detector.ports import ModelVersion

_TOP_METRICS = 5  # named in an explanation
_LEAST_SHARE = 0.005  # of the score, for a metric to be named
_WHOLE_WINDOWS = 500  # explanations with a window at a time; when more alerts rise at once the rest tell of one slot

Parts = Callable[[int, int], Float32]
"""Scores by span (S,) of an entity's row at a slot in epoch milliseconds."""


def explain(
    monitor: MonitorSection,
    model: ModelVersion,
    history: History,
    wanted: Sequence[tuple[int, int]],
    scores: Float32,
    parts: Parts,
) -> dict[tuple[int, int], str]:
    """Explanations as JSON of some entities' rows at some slots (epoch milliseconds).

    scores: (E, L) of the slots of history
    """
    result: dict[tuple[int, int], str] = {}
    by_slot: dict[int, list[int]] = {}
    for n, (row, slot) in enumerate(wanted):
        by_slot.setdefault(slot if n < _WHOLE_WINDOWS else -slot, []).append(row)
    for key, rows in by_slot.items():
        slot, most = abs(key), monitor.timesteps if key > 0 else 1
        index = (slot - history.start) // history.step
        slots = max(1, min(most, index - model.timesteps + 2))
        seen = _look(monitor, model, history, np.array(rows, dtype=np.int64), index, slots)
        for k, row in enumerate(rows):
            recent = scores[row, index - slots + 1 : index + 1]
            result[row, slot] = json.dumps(_tell(monitor, seen, k, slot, recent, parts(row, slot)))
    return result


@dataclass(frozen=True)
class _Seen:
    """What was observed and expected in some entities' last K slots."""

    observed: Float32  # (R, K, F), own units
    expected: Float32  # (R, K, F), NaN where nothing could be expected
    band: Float32  # (R, K, F) usual deviation, own units
    size: Float32  # (R, K, F) deviations that count, in usual ones
    is_frozen: Bool  # (R, F) in the newest slot


def _look(monitor: MonitorSection, model: ModelVersion, history: History, rows: Int64, index: int, slots: int) -> _Seen:
    values = history.values[rows, index - slots - model.timesteps + 2 : index + 1]
    chosen = window.reasons(values, model.timesteps, max_missing=monitor.max_missing) == Reason.KNOWN
    known = scoring.model_rows(model, [history.entities[row] for row in rows.tolist()])
    begin = index - slots - model.timesteps + 2
    expected, deviation, scale = scoring.expectations(
        model, horizon.metric_rules(monitor), values, known, history.slots[begin : index + 1], chosen
    )
    noise = np.asarray(np.where((known < 0)[:, None], model.fleet_noise, model.noise[known])[:, None], np.float32)
    observed = values[:, model.timesteps - 1 :]
    size = np.asarray(np.abs(deviation) / noise, dtype=np.float32)
    is_frozen = frozen.is_frozen(history.values[rows, : index + 1], horizon.rest_limits(monitor, model, known), 1)[:, 0]
    return _Seen(observed, expected, noise * scale, size, is_frozen)


def _tell(monitor: MonitorSection, seen: _Seen, k: int, slot: int, scores: Float32, parts: Float32) -> dict[str, Any]:
    metrics = monitor.metrics
    outside = horizon.metric_rules(monitor).outside(seen.observed[k, -1])
    span = score.SPANS[int(np.nanargmax(parts))] if not np.isnan(parts).all() else 1
    if np.isnan(seen.observed[k, -1]).all():
        fired, share = {"kind": "no_data", "slots": monitor.no_data_slots}, np.zeros(len(metrics))
    elif outside.any():
        fired, share = {"kind": "range", "slots": 1}, outside / outside.sum()
    elif seen.is_frozen[k].any() and np.nanmax(parts) <= monitor.decision.open_at_once:
        fired, share = {"kind": "frozen", "slots": 1}, seen.is_frozen[k] / seen.is_frozen[k].sum()
    else:
        fired = {"kind": "spike" if span == 1 else "drift", "slots": span}
        with np.errstate(invalid="ignore"):
            squares = np.nan_to_num(np.minimum(seen.size[k, -span:], score.CLIP) ** 2).sum(axis=0)
        share = squares / squares.sum() if squares.sum() > 0 else np.zeros(len(metrics))
    order = [f for f in np.argsort(-share, kind="stable")[:_TOP_METRICS].tolist() if share[f] >= _LEAST_SHARE]
    return {
        "metrics": [_metric(monitor, seen, k, f, float(share[f])) for f in order],
        "part": fired | {"scores": {str(s): _number(value) for s, value in zip(score.SPANS, parts, strict=True)}},
        "window": {
            "start": slot - (seen.observed.shape[1] - 1) * monitor.step_ms,
            "step": monitor.step_ms,
            "metrics": list(metrics),
            "values": pack(seen.observed[k]),
            "named": [metrics[f] for f in order],
            "expected": pack(seen.expected[k][:, order]),
            "band": pack(seen.band[k][:, order]),
            "scores": pack(scores),
        },
    }


def _metric(monitor: MonitorSection, seen: _Seen, k: int, f: int, share: float) -> dict[str, Any]:
    observed, expected, band = (float(part[k, -1, f]) for part in (seen.observed, seen.expected, seen.band))
    return {
        "metric": monitor.metrics[f],
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
    """Values as text: float32, little-endian, compressed."""
    return base64.b64encode(zlib.compress(values.astype("<f4").tobytes(), 9)).decode()


def unpack(text: str, columns: int = 0) -> Float32:
    """Values of `pack`, (N,), or (N, columns)."""
    values = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<f4")
    return values.reshape(-1, columns) if columns else values
