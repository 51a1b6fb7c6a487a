"""Return periods to scores: also for values that are never valid and frozen metrics, and as decisions take them."""

from __future__ import annotations

import numpy as np

from detector.core import frozen, grid, pool, precedents, score, threshold, window
from detector.core.decide import THRESHOLD, AlertStates
from detector.core.news import MECHANISMS, POOL, POOLED, PRECEDENT
from detector.core.precedents import Patterns
from detector.core.series import Bool, Float32, Int64, Reason, any_metric
from detector.core.threshold import worst
from detector.detect import residuals
from detector.detect.horizon import Horizon
from detector.detect.memory import NO_MODEL, Extended, Memory, Snapshot, blocks
from detector.ports import ModelVersion

NO_ALERT = 0
"""No alert has this number."""

_STALE_SLOTS = 5
"""Slots without data of any entity after which it is the source that has stopped. Not varied."""


def freeze_limits(model: ModelVersion, rows: Int64) -> Int64:
    """Slots each metric must stay the same for to count as frozen, (E, F); rows: (E,) as in `Memory`."""
    known = model.artifact.freeze_limits
    if not known.size:
        return np.full((len(rows), len(model.artifact.fleet_noise)), frozen.NEVER, dtype=np.int64)
    return np.where((rows < 0)[:, None], frozen.NEVER, known[rows])


def lost_metrics(horizon: Horizon, model: ModelVersion, values: Float32, rows: Int64, slots: int) -> Bool:
    """True where a metric that the model knows of an entity is missing for a whole window, while others are not.

    values: (E, L, F); rows: (E,) as in `Memory`. Returns (E, K, F) of the newest K slots.
    """
    seen = model.artifact.seen
    result = np.zeros((len(rows), slots, values.shape[2]), dtype=np.bool_)
    if not seen.size:
        return result
    expected = np.where((rows < 0)[:, None], False, seen[rows])  # (E, F)
    holed = np.flatnonzero((np.isnan(values[:, -slots:]) & expected[:, None]).any(axis=(1, 2)))  # few, as a rule
    if holed.size:
        result[holed] = window.lost(values[holed], expected[holed], horizon.timesteps)[:, -slots:]
    return result


def scores_by_mechanism(horizon: Horizon, memory: Memory, slots: int, *, only: Int64 | None = None) -> Float32:
    """Scores by mechanism (E, K, M) of the newest K slots, all NaN where a slot is unknown.

    only: rows of the entities wanted [all]

    A value that is never valid needs no model to be critical; a frozen metric opens an alert.
    """
    rules, level = horizon.rules, level_of(horizon, memory.model)
    invalid_score = np.float32(max(rules.score_critical, rules.score_at_once))
    count, periods = len(memory.rows) if only is None else len(only), _periods(memory, slots)
    scores = np.empty((count, slots, len(MECHANISMS)), dtype=np.float32)
    alike = precedents_followed(horizon, memory, slots)
    for block in blocks(count):
        at = block if only is None else only[block]
        rows, found = memory.rows[at], threshold.scores(periods[at], level)
        here = np.arange(len(memory.rows))[block] if only is None else only[block]
        for row, alert in alike.items():
            for n in np.flatnonzero(here == row).tolist():
                found[n, alert != NO_ALERT, MECHANISMS.index(PRECEDENT)] = THRESHOLD
        values = memory.history.values[at]
        is_invalid = any_metric(horizon.metric_rules.outside(values[:, -slots:]))
        found[is_invalid] = np.fmax(found[is_invalid], invalid_score)
        limits, rested = freeze_limits(memory.model, rows), memory.rested[at]
        is_frozen = any_metric(frozen.is_frozen(values, limits, slots, rested=rested))
        found[is_frozen] = np.fmax(found[is_frozen], np.float32(rules.score_at_once))
        # what is missing is not normal: the others alone may be anomalous, but not say that all is well
        is_missing = np.isnan(memory.errors[at, -slots:]) & ~is_invalid & ~is_frozen
        is_missing |= any_metric(lost_metrics(horizon, memory.model, values, rows, slots))
        found[is_missing & ~(worst(found) >= THRESHOLD)] = np.nan
        scores[block] = found
    return scores


def precedents_followed(horizon: Horizon, memory: Memory, slots: int, *, only: int | None = None) -> dict[int, Int64]:
    """The real alert (K,) that each of the newest K slots is like, `NO_ALERT` if none; by row, of those with any.

    only: the row wanted [all]
    """
    names = [name for name, known in memory.precedents.known.items() if known.is_real.any()]
    result: dict[int, Int64] = {}
    if not names:
        return result
    length = slots + precedents.SLOTS - 1
    for name, row in zip(names, grid.positions(names, memory.entities).tolist(), strict=True):
        if row < 0 or memory.rows[row] < 0 or only not in (None, row):
            continue
        values, at = memory.history.values[[row], -length:], memory.history.slots[-length:]
        usual, of = memory.model.artifact.habits.usual, memory.rows[[row]]
        deviations = precedents.padded(usual.deviations(values, at, of, horizon.metric_rules)[0], length)
        windows = np.lib.stride_tricks.sliding_window_view(deviations, precedents.SLOTS, axis=0).swapaxes(1, 2)
        known = memory.precedents.known[name]
        # as if every slot were judged when it is complete: a restart, and late rows, come to the same
        counts = known.judged_at <= memory.history.slots[-slots:, None] + horizon.step + horizon.delay
        nearest = precedents.followed(Patterns.of(windows), known.patterns, known.is_real, counts=counts)
        has_value = any_metric(~np.isnan(memory.history.values[row, -slots:]))
        found = np.where((nearest == precedents.NONE) | ~has_value, NO_ALERT, known.alert[nearest])
        if (found != NO_ALERT).any():
            result[row] = found
    return result


def _periods(memory: Memory, slots: int) -> Float32:
    """Return periods (E, K, M) of the newest K slots, with those of several entities at once."""
    periods = memory.return_periods[:, -slots:]
    pooled = pool.together(periods[..., MECHANISMS.index(POOLED)], step=memory.history.step)
    if np.isnan(pooled).all():
        return periods
    periods = periods.copy()
    periods[..., MECHANISMS.index(POOL)] = pooled
    return periods


def level_of(horizon: Horizon, model: ModelVersion) -> float:
    """ln of the return period in weeks that stands for score 1.0."""
    return threshold.level(horizon.alert_budget_per_week, len(model.artifact.entities))


def surprises(memory: Memory, slots: int, *, only: Int64 | None = None) -> Float32:
    """Surprise (E, K) of the newest K slots, 0 where nothing is known; only: rows of the entities wanted [all]."""
    result = np.empty((len(memory.rows) if only is None else len(only), slots), dtype=np.float32)
    if not slots:
        return result
    calibration, periods = memory.model.artifact.calibration, _periods(memory, slots)
    for block in blocks(len(result)):
        at = block if only is None else only[block]
        rows, errors = memory.rows[at], memory.errors[at, -slots - max(score.SPANS) + 1 :]
        news = np.fmax(worst(periods[at]), np.float32(0.0))
        result[block] = np.nan_to_num(calibration.surprise(calibration.smoothed(errors, rows), rows)) + news
    return result


def for_decisions(
    scores: Float32,
    *,
    horizon: Horizon,
    model: ModelVersion,
    rows: Int64,
    values: Float32,
    is_open: Bool,
    gone: Bool | None = None,
) -> Float32:
    """Scores (E, K) as decisions take them, of the newest K of values (E, L, F); rows: (E,) as in `Memory`.

    Without a model, or for an entity that it can say nothing of, a slot that has data lets an alert close. If so
    configured, an entity that had data and falls silent opens one, which lasts until it has data again or is gone.

    is_open: (E,) has an alert that nobody has closed; gone: (E, n) the newest n slots of entities that are [none]
    """
    slots = scores.shape[1]
    is_without = residuals.without_model(model, rows) | (model.version == NO_MODEL)  # (E,)
    if is_without.any():
        has_data = any_metric(~np.isnan(values[:, -slots:])) & is_without[:, None]
        scores = np.where(np.isnan(scores) & has_data, np.float32(0.0), scores)
    if horizon.silent:
        is_silent = window.silent(values, horizon.silent, had_data=is_open)[:, -slots:]  # (E, K)
        if gone is not None:
            is_silent[:, -gone.shape[1] :] &= ~gone
        scores = np.where(is_silent, np.float32(horizon.rules.score_at_once), scores)
    return scores


def snapshot_of(
    horizon: Horizon, memory: Memory, extended: Extended, *, surprise: Float32, states: AlertStates, is_silent: Bool
) -> Snapshot:
    """The newest slot of a memory with its scores, for export; surprise: (E,); is_silent: (E,)."""
    newest = memory.scores[:, -1]
    reason = extended.reason[:, -1].copy()
    reason[~np.isnan(newest)] = Reason.KNOWN  # an invalid value is known to be
    lost = lost_metrics(horizon, memory.model, memory.history.values, memory.rows, 1)[:, 0]  # (E, F)
    reason[np.isnan(newest) & (reason == Reason.KNOWN) & lost.any(axis=1)] = Reason.NO_METRIC
    has_data = np.any(~np.isnan(memory.history.values[:, -1]), axis=1)
    if np.isnan(memory.history.values[:, -_STALE_SLOTS:]).all():
        reason[reason == Reason.NO_DATA] = Reason.STALE_DATA
    missing = lost.sum(axis=0) / max(1, int(has_data.sum()))
    surprise = np.where(np.isnan(newest), np.float32(np.nan), surprise)
    share = extended.share
    return Snapshot(memory.entities, newest, surprise, reason, states, is_silent, share, missing.astype(np.float32))
