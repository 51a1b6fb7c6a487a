"""Scores and alerts against labels: how well anomalies are ranked, found and told apart from normal data.

The point-adjusted F1 is left out on purpose: it counts a whole event as found if one of its rows is flagged, so that a
random score reaches .68–.99 with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detector.core.series import Bool, Float32, Float64, Int64

_LEVELS = 250  # thresholds tried by TSB-AD
_LONGEST = 20_000  # rows in which TSB-AD looks for a period
_LAGS = 400
_SHORTEST_LAG = 3
_NO_PERIOD = 125
_WEEK_SECONDS = 7 * 24 * 3600
_FAR = 1 << 40  # rows to an event that is not there
_NEVER = int(np.iinfo(np.int64).max)  # epoch ms


def average_precision(score: Float32 | Float64, label: Bool) -> float:
    """Mean precision over the positives, each at the threshold that just flags it; NaN without a positive.

    score, label: (N,); rows of equal score are flagged together. Precisions are not interpolated.

    Raises: ValueError if a score is NaN or the lengths differ.
    """
    _check(score, label)
    order = np.argsort(-score)
    falling, hits = score[order], np.cumsum(label[order])  # (N,)
    is_last_of_tie = np.append(falling[1:] != falling[:-1], True)[: len(falling)]
    flagged, hits = np.flatnonzero(is_last_of_tie) + 1, hits[is_last_of_tie]
    return _ratio(float(np.diff(hits, prepend=0) @ (hits / flagged)), int(label.sum()))


def vus_pr(score: Float32 | Float64, label: Bool, window: int) -> float:
    """Volume under the surface of precision and recall over thresholds and buffers; NaN without a positive.

    score, label: (N,), oldest first
    window: widest buffer in rows, both sides of an event together; usually the period of the series

    Around an event a flagged row earns less the farther off it is, and nothing beyond half the buffer; recall is
    multiplied by the share of events, merged where their buffers overlap, in which anything is flagged.

    After Paparrizos et al., "Volume Under the Surface: A New Accuracy Evaluation Measure for Time-Series Anomaly
    Detection", VLDB 2022, with the 250 thresholds of TSB-AD (Liu & Paparrizos, "The Elephant in the Room", NeurIPS
    2024), whose numbers it equals.

    Raises: ValueError if a score is NaN or the lengths differ.
    """
    _check(score, label)
    starts, ends = _runs(label)
    if not starts.size:
        return math.nan
    level = _levels(score)  # (N,)
    flagged, hits = _count(level), _count(level[label])  # (K,)
    rows, nearest, second = _nearby(label, window // 2)
    volume = 0.0
    for width in range(window + 1):
        earned = _count(level[rows], _credit(nearest, second, width))  # (K,)
        recall = np.minimum((hits + earned) / (hits[-1] + earned / 2), 1.0)
        recall *= _share_noticed(level, starts, ends, width // 2)
        volume += np.diff(recall, prepend=0.0) @ ((hits + earned) / flagged)
    return float(volume / (window + 1))


def _levels(score: Float32 | Float64) -> Int64:
    """The first of the falling thresholds that flags each row; the last one flags all."""
    ranks = np.linspace(0, len(score) - 1, _LEVELS).astype(np.int64)
    falling = -score
    return np.searchsorted(np.sort(falling)[ranks], falling).astype(np.int64)


def _count(level: Int64, weight: Float64 | None = None) -> Float64:
    """Rows, or their weight, that are flagged at each threshold: (M,) -> (K,)."""
    return np.cumsum(np.bincount(level, weight, minlength=_LEVELS)).astype(np.float64)


def _nearby(label: Bool, reach: int) -> tuple[Int64, Int64, Int64]:
    """Normal rows within `reach` of an event, and how many rows off the nearest and the second nearest event are."""
    starts, ends = _runs(label)
    rows = np.flatnonzero(~label)
    after = np.searchsorted(starts, rows)  # the next event
    ends = np.concatenate([[-_FAR, -_FAR], ends])
    starts = np.concatenate([starts, [_FAR, _FAR]])
    before, two_before = rows - ends[after + 1] + 1, rows - ends[after] + 1
    distances = np.sort([before, two_before, starts[after] - rows, starts[after + 1] - rows], axis=0)  # (4, M)
    is_near = distances[0] <= reach
    return rows[is_near], distances[0, is_near], distances[1, is_near]


def _credit(nearest: Int64, second: Int64, width: int) -> Float64:
    """Credit for flagging a row: √(1 − distance/width) of every event within width/2, together no more than 1.

    One event in reach gives at least √½, so two always give 1.
    """
    reach = width // 2
    alone = np.sqrt(1.0 - np.minimum(nearest, reach) / max(width, 1))
    return np.where(second <= reach, 1.0, np.where(nearest <= reach, alone, 0.0))


def _share_noticed(level: Int64, starts: Int64, ends: Int64, reach: int) -> Float64:
    """Share of events, widened by `reach` and merged where they overlap, with a flagged row at each threshold: (K,)."""
    is_apart = ends[:-1] + reach <= starts[1:] - reach
    first = np.maximum(starts[np.append(True, is_apart)] - reach, 0)
    end = np.minimum(ends[np.append(is_apart, True)] + reach, len(level))
    bounds = np.stack([first, end], axis=1).ravel()
    # between two events reduceat gives what is not asked for; the added row lets the last event end at the end
    noticed = np.minimum.reduceat(np.append(level, _LEVELS), bounds)[::2]
    return _count(noticed) / len(first)


def dominant_period(values: Float32 | Float64) -> int:
    """Lag in rows of the highest peak of the autocorrelation of values (N,); 125 if there is none.

    As TSB-AD does it: the first 20,000 rows, the biased autocorrelation, peaks at lags 4 to 399, of which the highest
    counts as none if it is not from 6 to 303. A series with a value that is not finite has no period.
    """
    head = values[:_LONGEST].astype(np.float64)
    if not head.size or not np.isfinite(head).all():
        return _NO_PERIOD
    power = np.abs(np.fft.rfft(head - head.mean(), 2 * len(head))) ** 2  # as many zeros again: no wrapping around
    correlation = np.fft.irfft(power, 2 * len(head))[: min(_LAGS + 1, len(head))][_SHORTEST_LAG:]
    is_peak = (correlation[1:-1] > correlation[:-2]) & (correlation[1:-1] > correlation[2:])
    peaks = np.flatnonzero(is_peak) + 1
    if not peaks.size:
        return _NO_PERIOD
    highest = int(peaks[correlation[peaks].argmax()])
    return highest + _SHORTEST_LAG if 3 <= highest <= 300 else _NO_PERIOD


@dataclass(frozen=True)
class Alerts:
    """The alerts of one entity as columns, epoch ms; an alert spans [opened, closed]."""

    opened: Int64  # (A,)
    detected_at: Int64  # (A,)
    closed: Int64  # (A,) any time after the last row if still open


@dataclass(frozen=True)
class Judgement:
    """Verdict on the alerts of one entity."""

    events: int
    events_found: int
    alerts: int
    true_alerts: int
    delays: tuple[float, ...]  # seconds from the start of each found event to the first alert that found it, ≥ 0
    quiet_seconds: float  # in which no alert is due

    @property
    def false_alerts(self) -> int:
        """Alerts that touch no event."""
        return self.alerts - self.true_alerts


@dataclass(frozen=True)
class Summary:
    """Judgements of any number of entities as one; a ratio of nothing is NaN."""

    events: int
    events_found: int
    alerts: int
    false_alerts: int
    precision: float  # true alerts / alerts
    recall: float  # found events / events
    median_delay_seconds: float  # over found events
    false_alerts_per_week: float  # of quiet time of one entity
    alerts_per_found_event: float  # true ones: more than one are fragments


def judge(label: Bool, times: Int64, alerts: Alerts, *, step_ms: int, grace_ms: int) -> Judgement:
    """Labelled events against alerts, by time and never by row.

    label, times: (N,) of one entity; epoch ms of each row, never falling
    step_ms: how long a row lasts
    grace_ms: how long after an event an alert may still come; usually one window, which so long holds rows of it

    An event is a run of labelled rows, [start of the first, end of the last). It is found by an alert that overlaps it
    and is detected before the grace ends. An alert is true if it overlaps an event or its grace, and one alert may find
    several events. Time is quiet outside events and their grace; gaps between rows do not count.
    """
    first, end = _runs(label)
    starts, ends = times[first], times[end - 1] + step_ms  # (V,)
    until = ends + grace_ms
    reaches = alerts.closed >= starts[:, None]  # (V, A)
    finds = reaches & (alerts.opened < ends[:, None]) & (alerts.detected_at < until[:, None])
    is_true = (reaches & (alerts.opened < until[:, None])).any(axis=0)  # (A,)
    is_found = finds.any(axis=1)  # (V,)
    detected_at = np.where(finds, alerts.detected_at, _NEVER).min(axis=1, initial=_NEVER)  # (V,)
    delays = np.maximum(detected_at - starts, 0)[is_found] / 1000
    last_until = np.append(-_NEVER, until)[np.searchsorted(starts, times, side="right")]  # (N,)
    return Judgement(
        events=len(starts),
        events_found=int(is_found.sum()),
        alerts=len(alerts.opened),
        true_alerts=int(is_true.sum()),
        delays=tuple(delays.tolist()),
        quiet_seconds=int((times >= last_until).sum()) * step_ms / 1000,
    )


def summarise(judgements: Sequence[Judgement]) -> Summary:
    """All entities pooled: an entity with more events or more time counts more."""
    events, found = sum(one.events for one in judgements), sum(one.events_found for one in judgements)
    alerts, false = sum(one.alerts for one in judgements), sum(one.false_alerts for one in judgements)
    delays = [delay for one in judgements for delay in one.delays]
    return Summary(
        events=events,
        events_found=found,
        alerts=alerts,
        false_alerts=false,
        precision=_ratio(alerts - false, alerts),
        recall=_ratio(found, events),
        median_delay_seconds=float(np.median(delays)) if delays else math.nan,
        false_alerts_per_week=_ratio(false, sum(one.quiet_seconds for one in judgements) / _WEEK_SECONDS),
        alerts_per_found_event=_ratio(alerts - false, found),
    )


def mean_abs_z(values: Float32 | Float64, train: Float32 | Float64) -> Float64:
    """Mean over metrics of |x − mean| / standard deviation, both of the training part: a floor for any model.

    values: (N, F), train: (M, F) -> (N,). A missing value and a metric constant in training count as 0.
    """
    scores: Float64 = np.abs(_standardised(values, train)).mean(axis=1)
    return scores


def pca_reconstruction(values: Float32 | Float64, train: Float32 | Float64, *, variance: float = 0.9) -> Float64:
    """Squared distance of each row from the main plane of the training part: a floor for any model.

    values: (N, F), train: (M, F) -> (N,). The plane is spanned by the fewest principal components that hold `variance`
    of the standardised training part. A missing value and a metric constant in training count as their mean; of a
    single metric nothing is left over.
    """
    rows, fitted = _standardised(values, train), _standardised(train, train)
    spread, components = np.linalg.eigh(fitted.T @ fitted)  # (F,) rising, (F, F)
    held = np.cumsum(spread[::-1])
    kept = int(np.searchsorted(held, variance * held[-1])) + 1
    plane = components[:, ::-1][:, :kept]  # (F, kept)
    scores: Float64 = ((rows - rows @ plane @ plane.T) ** 2).sum(axis=1)
    return scores


def _standardised(values: Float32 | Float64, train: Float32 | Float64) -> Float64:
    """Values (N, F) in standard deviations of train (M, F) around its mean; 0 where missing or without a spread."""
    known = np.isfinite(train)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, train, 0.0).sum(axis=0, dtype=np.float64) / count  # (F,)
    deviation = np.sqrt((np.where(known, train - mean, 0.0) ** 2).sum(axis=0) / count)
    # the deviation of a constant is not always 0, because its mean is rounded
    is_constant = np.where(known, train, -np.inf).max(axis=0) <= np.where(known, train, np.inf).min(axis=0)
    has_spread = ~is_constant & (deviation > 0.0)
    scaled = (np.where(np.isfinite(values), values, mean) - mean) / np.where(has_spread, deviation, np.inf)
    return np.asarray(scaled, dtype=np.float64)


def _runs(label: Bool) -> tuple[Int64, Int64]:
    """First row of each run of labelled rows, and the row after its last."""
    edges = np.flatnonzero(np.diff(label, prepend=False, append=False))
    return edges[::2], edges[1::2]


def _check(score: Float32 | Float64, label: Bool) -> None:
    unknown = int(np.isnan(score).sum())
    if score.shape != label.shape or unknown:
        msg = f"`score` must hold a number for each of {label.shape} labels. Received: {score.shape} with {unknown} NaN"
        raise ValueError(msg)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
