"""Alerts that people have judged, as what new slots are compared with."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from detector.core.news import RECENT
from detector.core.precedents import SLOTS, Patterns, padded
from detector.core.series import Bool, Float32, Int64
from detector.detect import residuals
from detector.detect.horizon import Horizon
from detector.detect.packed import unpack
from detector.ports import ModelVersion, Precedent, Store

Marks = tuple[tuple[int, bool], ...]
"""Alerts and whether each was real."""


@dataclass(frozen=True)
class Known:
    """Precedents of one entity."""

    alert: Int64  # (P,)
    judged_at: Int64  # (P,) epoch milliseconds
    is_real: Bool  # (P,)
    patterns: Patterns


@dataclass(frozen=True)
class Precedents:
    """Those of a monitor, by entity."""

    marks: Marks = ()
    known: Mapping[str, Known] = field(default_factory=dict)


def current(horizon: Horizon, store: Store, model: ModelVersion, before: Precedents) -> Precedents:
    """What people have said up to now; the same object if they have said nothing new."""
    if store.marks(horizon.monitor) == before.marks:
        return before
    return of(horizon, model, store.precedents(horizon.monitor))


def of(horizon: Horizon, model: ModelVersion, stored: Sequence[Precedent]) -> Precedents:
    """Precedents as a model sees them, from the windows that were stored with the alerts."""
    windows: dict[str, list[tuple[Precedent, Float32]]] = {}
    for one in stored:
        found = None
        with suppress(ValueError, TypeError, zlib.error):  # of one that somebody has written over nothing is known
            found = _deviations(horizon, model, one)
        if found is not None:
            windows.setdefault(one.entity, []).append((one, found))
    marks = tuple((one.alert, one.is_real) for one in stored)
    return Precedents(marks, {entity: known for entity, mine in windows.items() if (known := _known(mine))})


def _deviations(horizon: Horizon, model: ModelVersion, one: Precedent) -> Float32 | None:
    """Robust deviations (SLOTS, F) of an alert's window; None if they cannot be known."""
    window = json.loads(one.explanation or "{}").get("window") or {}
    of_others = (window.get("metrics"), window.get("step")) != (list(horizon.metrics), horizon.step)
    if of_others or not {"values", "start"} <= set(window):
        return None
    values = unpack(window["values"], len(horizon.metrics))
    if len(values) <= RECENT:
        return None
    slots = int(window["start"]) + horizon.step * np.arange(len(values), dtype=np.int64)
    usual, row = model.artifact.habits.usual, residuals.model_rows(model, (one.entity,))
    return padded(usual.deviations(values[None], slots, row, horizon.metric_rules)[0])[-SLOTS:]


def _known(found: Iterable[tuple[Precedent, Float32]]) -> Known | None:
    """Those of one entity that something was far from usual in."""
    stored, windows = zip(*found, strict=True)
    patterns = Patterns.of(np.stack(windows))
    rows = np.flatnonzero(patterns.direction.any(axis=1))
    if not rows.size:
        return None
    return Known(
        alert=np.array([one.alert for one in stored], dtype=np.int64)[rows],
        judged_at=np.array([one.judged_at for one in stored], dtype=np.int64)[rows],
        is_real=np.array([one.is_real for one in stored], dtype=np.bool_)[rows],
        patterns=Patterns(patterns.direction[rows], patterns.size[rows]),
    )
