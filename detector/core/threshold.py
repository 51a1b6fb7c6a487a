"""Errors of normal data to a calibration that turns every error into a score with 1.0 at the alert budget.

Two steps. First each entity's errors are made comparable: their surprise, −ln of the share of normal errors that are
larger, from an exponential tail of their logarithms. Then the level that alerts would open at `alert_budget_per_week`
times a week: peaks over threshold as in Siffer et al., "Anomaly Detection in Streams with Extreme Value Theory", KDD
2017. We differ in what a peak is: not a slot but an episode as `core.decide` would make it an alert, k of n and
hysteresis included, so that slots which belong together count once; and in fitting the generalised Pareto law by
L-moments (Hosking, "L-moments", 1990), which a few dozen peaks support, with its mean drawn towards that of single
slots and its shape towards 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detector.core import score
from detector.core.decide import Rules
from detector.core.series import Bool, Float32, Float64, Int64
from detector.times import WEEK_MS

# The constants below decide every alert. "Budget" names what chose one: alerts observed for each one promised, on
# synthetic noise of five laws at three budgets (`quality.py --parts budget`). "Ablation" is VUS-PR on the shared
# recordings (`--parts ablation`). Both tables stand in tests/benchmarks/README.md.

TAIL = 0.02
"""Share of normal data above the quantile where the exponential tail begins. Not varied."""

# How much evidence outweighs an assumption. Budget, all together: with these the middle entity of every law is within
# a factor of 2 of the promise; with larger priors light tails had .15 of the promised alerts.
_PRIOR = 5.0  # excesses of its own an entity needs before its calibration counts as much as the fleet's
_PEAK_PRIOR = 3.0  # peaks that support a mean excess as much as that of single slots does
_SLOT_PRIOR = 10.0  # slots that support their mean excess as much as the assumption that it is 1
_SHAPE_PRIOR = 15.0  # peaks that support a shape as much as the assumption that it is 0
_SHAPES = (-0.3, 0.5)  # bounds of the shape: beyond .5 the law has no variance, and some dozen peaks cannot support it
_WIDEN = 0.25  # standard errors that the mean excess is widened by; budget

_FAR_PEAK = 10.0
"""Peaks beyond so many times the usual excess are taken for unlabelled anomalies, and shortened to it.

It shortens tails that are truly heavy, too: budget, Student's t has 1.56 times the promised alerts at .2 a week.
"""

_SPAN_PRIOR = 3.0
"""Excesses that lie apart, without which a longer span's tail is taken to fall no faster than the short one's.

Ablation: without it the mean of the five sets falls from .523 to .486.
"""

LIMIT = 10.0
"""Starts of the tail that one slot's error counts at most in a mean over a longer span.

Ablation: 5, 20 and no limit at all have .521–.526, against .523; it is kept for what one huge error would do to hours.
"""

_LEAST_DECAY = 0.15  # normal errors that are all alike would make any difference infinitely surprising; not varied
_WIDE_DECAY = 1.0  # where nothing is known of a tail: errors fall by a factor e for each unit; not varied
_SHORT = 1  # index of the span that tells whether an episode goes on: ten slots, as the newest alone is too noisy

_RECOVERED = 0.8
"""Share of the start of the tail below which a mean over ten slots is ordinary again. Not varied."""


@dataclass(frozen=True)
class Calibration:
    """Tail of normal errors per entity and span: where it begins, how fast it falls; and the threshold."""

    start: Float32  # (E, S) error with TAIL above it
    decay: Float32  # (E, S) mean excess over start, > 0
    fleet_start: Float32  # (S,) for entities that were not there
    fleet_decay: Float32  # (S,)
    level: float  # surprise that stands for score 1.0

    def smoothed(self, errors: Float32, row: Int64) -> Float32:
        """Errors (B, L) over all spans, (B, L − max(SPANS) + 1, S); row: (B,) as in `by_span`."""
        start = np.where(row < 0, self.fleet_start[0], self.start[row, 0])
        return score.smoothed(errors, (LIMIT * start).astype(np.float32))

    def by_span(self, errors: Float32, row: Int64) -> Float32:
        """Scores of each span, (B, K, S), of smoothed errors (B, K, S).

        row: (B,) the entity's row, −1 if it was not there
        """
        start, decay = self.start[row], self.decay[row]
        start[row < 0], decay[row < 0] = self.fleet_start, self.fleet_decay
        surprises = surprise(errors, start[:, None], decay[:, None])
        return (surprises / self.level).astype(np.float32, copy=False)

    def score(self, errors: Float32, row: Int64) -> Float32:
        """Scores (B, K) of smoothed errors: the most surprising span counts; arguments as in `by_span`."""
        return worst(self.by_span(errors, row))

    def recovered(self, errors: Float32, row: Int64) -> Bool:
        """True where the newest slots of smoothed errors (B, K, S) are ordinary again: (B, K).

        row: (B,) as in `by_span`
        """
        start = np.where(row < 0, self.fleet_start[_SHORT], self.start[row, _SHORT])
        return np.asarray(errors[:, :, _SHORT] < _RECOVERED * start[:, None])


def worst(by_span: Float32) -> Float32:
    """The most surprising of the known spans, (…, S) -> (…,); NaN where the newest slot is unknown."""
    return np.asarray(np.fmax.reduce(by_span, axis=-1), dtype=np.float32)


def surprise(error: Float32, start: Float32, decay: Float32) -> Float32:
    """−ln of the share of normal errors that are larger, (B, K, S); below the tail it is proportional to the error.

    error: (B, K, S) ≥ 0, NaN stays; start, decay: (B, 1, S) of the tail
    """
    base = -np.log(TAIL)
    below: Float32 = base * error / np.maximum(start, 1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = base + np.log(error / start) / decay
    return np.asarray(np.where(error > start, above, below), dtype=np.float32)


def smoothed(errors: Float32) -> Float32:
    """Errors (E, N) of normal data over all spans, as the calibration that comes from them will smooth: (E, N, S)."""
    starts = _tails(errors[:, :, None], np.ones(1))[0][:, 0]
    padded = np.pad(errors, ((0, 0), (max(score.SPANS) - 1, 0)), constant_values=np.nan)
    return score.smoothed(padded, (LIMIT * starts).astype(np.float32))


def calibrate(
    errors: Float32, *, spans: Sequence[int], rules: Rules, alert_budget_per_week: float, step: int
) -> Calibration:
    """Calibration from held-out smoothed errors (E, N, S) of normal data at consecutive slots, NaN = unknown.

    spans: (S,) slots each was smoothed over, the shortest first

    Entities lean on the fleet until they have evidence of their own. The level is that at which the rules would open
    `alert_budget_per_week` alerts a week over all entities; little data gives a wide one.

    Raises: ValueError if nothing is known.
    """
    start, decay, fleet_start, fleet_decay = _tails(errors, np.asarray(spans, dtype=np.float64))
    calibration = Calibration(
        start=start,
        decay=decay,
        fleet_start=fleet_start.astype(np.float32),
        fleet_decay=fleet_decay.astype(np.float32),
        level=1.0,
    )
    rows = np.arange(len(errors))
    surprises, recovered = calibration.by_span(errors, rows), calibration.recovered(errors, rows)
    found = level(
        surprises, recovered, spans=spans, rules=rules, alert_budget_per_week=alert_budget_per_week, step=step
    )
    return replace(calibration, level=found)


def level(
    surprises: Float32,
    recovered: Bool,
    *,
    spans: Sequence[int],
    rules: Rules,
    alert_budget_per_week: float,
    step: int,
) -> float:
    """Surprise at which the rules open `alert_budget_per_week` alerts a week over all entities.

    surprises: (E, N, S) of normal data at consecutive slots, NaN = unknown; recovered: (E, N)
    The fleet is taken to stay of this size.
    """
    opens = openings(surprises, recovered, rules)
    highest = worst(opens)
    known = highest[~np.isnan(highest)]
    weeks = known.size * step / WEEK_MS / len(surprises)
    begin = max(float(np.quantile(known, 1.0 - TAIL)), -float(np.log(TAIL)))
    calm = recovered | (worst(surprises) < rules.close_below * begin)  # NaN compares False
    peaks = episode_peaks(opens, calm, spans=spans, level=begin, rules=rules)
    above = known[known > begin] - begin
    usual = (float(above.sum(dtype=np.float64)) + _SLOT_PRIOR) / (len(above) + _SLOT_PRIOR)
    # one more than was seen, as if the next were about to begin: no evidence is not evidence of none
    ratio = (len(peaks) + 1) / weeks / alert_budget_per_week
    return begin + _return_excess(np.maximum(peaks - begin, 0.0), usual, ratio)


def openings(surprises: Float32, recovered: Bool, rules: Rules) -> Float32:
    """The highest level at which each slot and span would open an alert: (E, N, S) and (E, N) -> (E, N, S).

    0 where its entity has recovered, NaN where it is unknown.
    """
    before = np.pad(surprises, ((0, 0), (rules.open_of - 1, 0), (0, 0)), constant_values=np.nan)
    recent = np.lib.stride_tricks.sliding_window_view(before, rules.open_of, axis=1)  # (E, N, S, n)
    kth = np.sort(np.nan_to_num(recent, nan=-np.inf), axis=3)[..., -rules.open_slots]
    opens = np.maximum(np.minimum(surprises, kth), surprises / np.float32(rules.open_at_once))
    return np.where(recovered[..., None], np.float32(0.0), opens).astype(np.float32, copy=False)


def episode_peaks(opens: Float32, calm: Bool, *, spans: Sequence[int], level: float, rules: Rules) -> Float64:
    """For each alert that `decide` would open at a level, the highest level at which it still would: (P,).

    opens: (E, N, S) of `openings`; calm: (E, N) slots that count towards closing
    """
    entities, slots, _ = opens.shape
    is_open = np.zeros(entities, dtype=np.bool_)
    has_peak = np.zeros(entities, dtype=np.bool_)
    peak = np.zeros(entities)
    in_a_row = np.zeros(entities, dtype=np.int64)
    closed_at = np.full(entities, -slots - max(spans) - rules.reopen_slots)
    known = np.nan_to_num(opens, nan=-np.inf)
    is_unknown: Bool = np.all(np.isnan(opens), axis=2)
    peaks: list[float] = []
    for n in range(slots):
        is_claimed = n - np.asarray(spans) < closed_at[:, None]  # (E, S)
        now = np.where(is_claimed, -np.inf, known[:, n]).max(axis=1)
        opened = ~is_open & (now >= level)
        is_new = opened & (n - closed_at > rules.reopen_slots)
        peaks.extend(peak[is_new & has_peak].tolist())
        has_peak |= is_new
        is_open |= opened
        peak = np.where(is_new, now, np.where(is_open, np.maximum(peak, now), peak))
        in_a_row = np.where(calm[:, n], in_a_row + 1, np.where(is_unknown[:, n], in_a_row, 0))
        closed = is_open & ~opened & (in_a_row >= rules.close_slots)
        is_open &= ~closed
        closed_at[closed] = n
    return np.array([*peaks, *peak[has_peak].tolist()])


def _return_excess(excess: Float64, usual: float, ratio: float) -> float:
    """The excess that a generalised Pareto law exceeds once in `ratio` peaks.

    usual: mean excess of single slots, of which there are many more than peaks

    While there are few peaks their mean leans on `usual`, and is widened; their shape leans on 0.
    """
    count = len(excess)
    if count:
        excess = np.minimum(excess, _FAR_PEAK * max(float(np.median(excess)) / np.log(2.0), usual))
    mean = (excess.sum() + _PEAK_PRIOR * usual) / (count + _PEAK_PRIOR) * (1.0 + _WIDEN / np.sqrt(count + 1.0))
    shape = float(np.clip(_shape(excess) * count / (count + _SHAPE_PRIOR), *_SHAPES))
    scale = mean * (1.0 - shape)
    ratio = max(ratio, 1.0)
    return float(scale * (np.log(ratio) if abs(shape) < 1e-6 else (ratio**shape - 1.0) / shape))


def _shape(excess: Float64) -> float:
    """Shape of the generalised Pareto law by its first two L-moments, 0 where they say nothing."""
    count = len(excess)
    if count < 2 or excess.max() <= 0.0:
        return 0.0
    lower = 1.0 - (np.arange(1, count + 1) - 0.35) / count  # Hosking & Wallis 1987, plotting positions
    mean, weighted = excess.mean(), float(np.mean(np.sort(excess) * lower))
    return 2.0 - mean / (mean - 2.0 * weighted) if mean > 2.0 * weighted else 0.0


def _tails(errors: Float32, spans: Float64) -> tuple[Float32, Float32, Float64, Float64]:
    """Start and decay of each entity's tails, (E, S) each, and of the fleet's, (S,) each; errors: (E, N, S).

    Raises: ValueError if nothing is known.
    """
    pooled = errors.reshape(-1, errors.shape[2]).astype(np.float64)  # (M, S)
    if np.isnan(pooled[:, 0]).all():
        msg = "errors must hold at least one known value"
        raise ValueError(msg)
    own = [_tail(entity.astype(np.float64), spans) for entity in errors]
    fleet_start, fleet_decay = _fleet(own, pooled, spans)
    return *_shrink(errors, own, (fleet_start, fleet_decay)), fleet_start, fleet_decay


def _tail(values: Float64, spans: Float64) -> tuple[Float64, Float64]:
    """Start and decay of the tail of each column of (M, S); NaN where too few values are known."""
    start, decay = np.full((2, len(spans)), np.nan)
    for s, span in enumerate(spans.tolist()):
        known = values[~np.isnan(values[:, s]), s]
        if len(known) * TAIL >= 1.0:
            start[s], decay[s] = _tail_of(known)
            # means over a long span hardly differ from slot to slot: there are only so many that are independent
            apart, slowest = TAIL * len(known) / span, max(decay[s], decay[0])
            decay[s] = max((apart * decay[s] + _SPAN_PRIOR * slowest) / (apart + _SPAN_PRIOR), _LEAST_DECAY)
    return start, decay


def _tail_of(known: Float64) -> tuple[float, float]:
    start = max(float(np.quantile(known, 1.0 - TAIL)), 1e-3)
    above = known[known > start]
    decay = float(np.log(above / start).mean()) * (1.0 + 1.0 / np.sqrt(len(above))) if len(above) else 0.0
    return start, max(decay, _LEAST_DECAY)


def _fleet(own: list[tuple[Float64, Float64]], pooled: Float64, spans: Float64) -> tuple[Float64, Float64]:
    """The tail of the middle entity, so that a few noisy ones do not raise it for the others; else of the pool.

    A span that nothing is known of is taken to be like the next shorter one, whose errors are larger.
    """
    parts = [np.array(part) for part in zip(*own, strict=True)]  # start and decay, (E, S) each
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a span that no entity knows: NaN, replaced below
        start, decay = (np.nanmedian(part, axis=0) for part in parts)
    pool_start, pool_decay = _tail(pooled, spans)
    start, decay = np.where(np.isnan(start), pool_start, start), np.where(np.isnan(decay), pool_decay, decay)
    if np.isnan(start[0]):  # hardly anything: the largest there was is the start
        start[0], decay[0] = max(float(np.nanmax(pooled[:, 0])), 1e-3), _WIDE_DECAY
    for s in range(1, len(start)):
        if np.isnan(start[s]):
            start[s], decay[s] = start[s - 1], decay[s - 1]
    return start, decay


def _shrink(
    errors: Float32, own: list[tuple[Float64, Float64]], fleet: tuple[Float64, Float64]
) -> tuple[Float32, Float32]:
    """Each entity's tail, drawn towards the fleet's by how little evidence it has."""
    excesses = TAIL * (~np.isnan(errors)).sum(axis=1)  # (E, S)
    start, decay = (np.array(part) for part in zip(*own, strict=True))  # (E, S) each
    weight = np.where(np.isnan(start), 0.0, excesses / (excesses + _PRIOR))
    start = weight * np.nan_to_num(start) + (1.0 - weight) * fleet[0]
    decay = weight * np.nan_to_num(decay) + (1.0 - weight) * fleet[1]
    return start.astype(np.float32), decay.astype(np.float32)
