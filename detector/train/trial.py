"""Trial of a model version: which of the faults injected into held-out history it finds, and how soon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detector.core import decide, faults, threshold
from detector.core import news as core_news
from detector.core.decide import AlertStates, Change
from detector.core.faults import Fault
from detector.core.news import BEFORE, Experience, long_slots
from detector.core.series import Bool, Float32, Float64, Int64, Reason
from detector.detect import news, residuals
from detector.detect.horizon import Horizon
from detector.detect.news import LOOK_BACK, Slots
from detector.detect.residuals import Selection
from detector.ports import ModelVersion
from detector.train import habits
from detector.train.division import Division

# What a network and a baseline are compared on. Not varied.
FAULTS_PER_KIND = 64  # then a share of faults found is good to about 0.06
FAULT_SLOTS = 30
FAULT_SIZES = (2.0, 4.0, 8.0)  # scaled units; at 8, level shifts in server metrics are found more often than not
FAULT_SHARE = 0.25  # of the metrics that a fault shows in at most; at least one


@dataclass(frozen=True)
class Pieces:
    """Pieces of history of equal length, each of one entity."""

    rows: Int64  # (C,) of the entities
    starts: Int64  # (C,) first slot of each piece
    values: Float32  # (C, length, F)


def finds_faults(data: Division, model: ModelVersion, rng: np.random.Generator) -> Bool:
    """True for injected faults that open an alert, (C,), kind after kind, `FAULTS_PER_KIND` of each.

    The same `rng` injects the same faults. Empty as `delays`.
    """
    return ~np.isnan(delays(data, model, rng))


def delays(
    data: Division,
    model: ModelVersion,
    rng: np.random.Generator,
    *,
    per_kind: int = FAULTS_PER_KIND,
    sizes: Sequence[float] = FAULT_SIZES,
) -> Float64:
    """Slots until each injected fault opens an alert, (C,) kind after kind; NaN if none of its `FAULT_SLOTS` does.

    Faults are injected into the newer half of the calibration part, each into a piece of one entity, which has shown
    what it had before that half. One whose piece opens an alert without the fault too counts as not found. Empty if no
    entity has enough history for a fault and the look-back before it.
    """
    before = look_back(data.plan.horizon)
    kinds = [kind for kind in Fault for _ in range(per_kind)]
    clean = drawn(data, before=before, count=len(kinds), rng=rng)
    if clean is None:
        return np.zeros(0)
    faulty = _injected(data, clean, kinds, begin=before, sizes=sizes, rng=rng)
    experience = shown(data, model, clean.rows)
    opened, opened_anyway = (opens(data, model, pieces, experience) for pieces in (faulty, clean))  # (C, FAULT_SLOTS)
    is_found = opened.any(axis=1) & ~opened_anyway.any(axis=1)
    return np.where(is_found, opened.argmax(axis=1), np.nan)


def shares(found: Bool) -> dict[str, float]:
    """Share of the faults that was found, by kind and over "all". found: (C,) as of `finds_faults`"""
    by_kind = zip(Fault, found.reshape(len(Fault), -1).mean(axis=1).tolist(), strict=True)
    return {kind.value: round(share, 3) for kind, share in by_kind} | {"all": round(float(found.mean()), 3)}


def drawn(data: Division, *, before: int, count: int, rng: np.random.Generator) -> Pieces | None:
    """Random pieces whose last `FAULT_SLOTS` nothing was learned from, where there is room; None if none fits."""
    length = before + FAULT_SLOTS
    able = np.flatnonzero(data.end - data.first >= length)
    if not able.size:
        return None
    rows = rng.choice(able, count)
    latest = data.end[rows] - length
    earliest = np.minimum(np.maximum(_learned_until(data, rows) - before, data.first[rows]), latest)
    starts = rng.integers(earliest, latest + 1)
    values = data.history.values
    pieces = [values[row, start : start + length] for row, start in zip(rows, starts, strict=True)]
    return Pieces(rows, starts, np.stack(pieces))


def _learned_until(data: Division, rows: Int64) -> Int64:
    """First slot of the newer half of the calibration part of entities, (R,)."""
    return np.asarray(data.divide[rows] + (data.end[rows] - data.divide[rows]) // 2)


def shown(data: Division, model: ModelVersion, rows: Int64) -> Experience:
    """What the entities of pieces, (C,), had shown before the slots that pieces are drawn from."""
    some, which = np.unique(rows, return_inverse=True)
    values, until, horizon = data.history.values[some], _learned_until(data, some), data.plan.horizon
    chosen = data.calibration(model.timesteps)[some] & (data.newest(model.timesteps) < until[:, None])
    errors = np.full(values.shape[:2], np.nan, dtype=np.float32)
    selection = Selection(values, some, data.history.slots, chosen)
    errors[:, model.timesteps - 1 :], _ = residuals.errors(model, selection, horizon.metric_rules)
    return habits.shown(data, model.artifact.habits, errors, rows=some, until=until).rows(which)


def _injected(
    data: Division,
    clean: Pieces,
    kinds: Sequence[Fault],
    *,
    begin: int,
    sizes: Sequence[float],
    rng: np.random.Generator,
) -> Pieces:
    """The pieces with a fault of a random size each, from slot `begin` on, in some of the metrics."""
    faulty = clean.values.copy()
    metrics = faulty.shape[2]
    for n, (kind, row) in enumerate(zip(kinds, clean.rows.tolist(), strict=True)):
        count = int(rng.integers(1, max(1, int(FAULT_SHARE * metrics)) + 1))
        size = float(rng.choice(sizes))
        for metric in rng.choice(metrics, count, replace=False).tolist():
            strength = size * float(data.scales.scale[row, metric])
            faulty[n] = faults.inject(faulty[n], kind, begin=begin, metric=metric, size=strength, rng=rng)
    return replace(clean, values=faulty)


def look_back(horizon: Horizon) -> int:
    """Slots of a piece before its fault."""
    return max(horizon.timesteps - 1 + BEFORE, LOOK_BACK) + _warm(horizon)


def _warm(horizon: Horizon) -> int:
    """Slots before a fault that are judged too: what decisions and the mechanisms look back on."""
    return long_slots(horizon.step) + horizon.rules.before


def opens(data: Division, model: ModelVersion, pieces: Pieces, experience: Experience) -> Bool:
    """True for the last `FAULT_SLOTS` of each piece that would open an alert, (C, FAULT_SLOTS).

    experience: (C,) of each piece's entity, as of `shown`. Each is judged as if it came after all of history.
    """
    horizon, artifact, step = data.plan.horizon, model.artifact, data.plan.horizon.step
    norm = news.norm_of(model, horizon.metric_rules, step)
    count = _warm(horizon) + FAULT_SLOTS
    slots = data.history.slots[pieces.starts[:, None] + np.arange(pieces.values.shape[1])]  # (C, length)
    errors = np.full((len(slots), slots.shape[1] - model.timesteps + 1), np.nan, dtype=np.float32)
    for begin in np.unique(pieces.starts).tolist():  # pieces that begin together have their slots in common
        same = np.flatnonzero(pieces.starts == begin)
        values, rows = pieces.values[same], pieces.rows[same]
        known = residuals.reasons(model, values, rows, max_missing=horizon.max_missing) == Reason.KNOWN
        selection = Selection(values, rows, slots[same[0]], known)
        errors[same], _ = residuals.errors(model, selection, horizon.metric_rules)
    values, errors = pieces.values[:, -count - LOOK_BACK :], errors[:, -count - BEFORE :]
    recent = Slots(slots[:, -count:], pieces.rows, values, errors)
    seen, observed = news.observe(norm, experience, recent)
    later = data.history.end + step * np.arange(count)
    _, return_periods = core_news.judge(
        seen,
        observed,
        slots=later,
        scale=artifact.habits.tails.at(pieces.rows)[1],
        step=step,
        metrics=pieces.values.shape[2],
    )
    level = threshold.level(horizon.alert_budget_per_week, len(artifact.entities))
    scores = threshold.worst(threshold.scores(return_periods, level))
    _, events = decide.decide(
        AlertStates.none_open(len(slots)),
        scores[:, -FAULT_SLOTS - horizon.rules.before :],
        slots=later[-FAULT_SLOTS:],
        rules=horizon.rules,
        step=step,
    )
    found = np.zeros((len(slots), FAULT_SLOTS), dtype=np.bool_)
    for event in events:
        if event.change in {Change.OPENED, Change.REOPENED}:
            found[event.entity, (event.slot - int(later[-FAULT_SLOTS])) // step] = True
    return found
