"""Verdict on a backtest, in numbers: per entity and in all, next to scores that need no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detector.core import evaluate
from detector.core.evaluate import Judgement, Summary
from detector.core.series import Bool, Float64, Int64
from detector.replay.results import Outcome, Replayed
from detector.times import WEEK_MS, milliseconds

_RANDOM_SEEDS = (0, 1, 2)
_STILL_OPEN = int(np.iinfo(np.int64).max)  # closed after everything


@dataclass(frozen=True)
class Ranking:
    """Ranking of labelled rows above others by score alone; NaN where there is only one kind of row.

    The last four are the VUS-PR of scores that need no network; PCA needs more than one metric.
    """

    vus_pr: float = math.nan
    average_precision: float = math.nan
    vus_pr_baseline: float = math.nan
    vus_pr_random: float = math.nan
    vus_pr_mean_abs_z: float = math.nan
    vus_pr_pca: float = math.nan


@dataclass(frozen=True)
class Verdict:
    """Verdict on one entity."""

    entity: str
    monitor: str
    rows: int
    unknown: int  # rows without a score
    weeks: float  # that the rows are long
    alerts: int
    judgement: Judgement | None  # None without labels
    ranking: Ranking


def judge(replayed: Replayed) -> Verdict:
    """The verdict on one entity's rows after the history; an unknown score ranks as 0."""
    recording, monitor = replayed.recording, replayed.monitor
    rows = len(replayed.score)
    label = None if recording.label is None else recording.label[recording.train_rows :]
    return Verdict(
        entity=recording.entity,
        monitor=monitor.name,
        rows=rows,
        unknown=int(np.isnan(replayed.score).sum()),
        weeks=rows * recording.step_ms / WEEK_MS,
        alerts=len(replayed.alerts),
        judgement=None if label is None else _judgement(replayed, label),
        ranking=Ranking() if label is None or label.all() or not label.any() else _ranking(replayed, label),
    )


def _judgement(replayed: Replayed, label: Bool) -> Judgement:
    """Alerts compared with labels; an alert within one window after an event still belongs to it."""
    recording, monitor = replayed.recording, replayed.monitor
    rows = np.flatnonzero(recording.has_time[recording.train_rows :])
    times = recording.time[recording.train_rows :][rows]
    order = np.argsort(times, kind="stable")
    alerts = evaluate.Alerts(
        opened=_column([alert.opened for alert in replayed.alerts]),
        detected_at=_column([alert.detected_at for alert in replayed.alerts]),
        closed=_column([_STILL_OPEN if alert.closed is None else alert.closed for alert in replayed.alerts]),
    )
    return evaluate.judge(
        label[rows][order],
        times[order],
        alerts,
        step_ms=recording.step_ms,
        grace_ms=milliseconds(monitor.step) * monitor.timesteps,
    )


def _column(times: list[int]) -> Int64:
    return np.array(times, dtype=np.int64)


def _ranking(replayed: Replayed, label: Bool) -> Ranking:
    recording = replayed.recording
    train, values = recording.values[: recording.train_rows], recording.values[recording.train_rows :]
    window = evaluate.dominant_period(values[:, 0])

    def vus_pr(score: Float64) -> float:
        return evaluate.vus_pr(score, label, window)

    score = np.nan_to_num(replayed.surprise)
    baseline = score if replayed.baseline is None else np.nan_to_num(replayed.baseline)
    has_floors = len(train) > 0
    return Ranking(
        vus_pr=vus_pr(score),
        average_precision=evaluate.average_precision(score, label),
        vus_pr_baseline=vus_pr(baseline),
        vus_pr_random=float(
            np.mean([vus_pr(np.random.default_rng(seed).random(len(label))) for seed in _RANDOM_SEEDS])
        ),
        vus_pr_mean_abs_z=vus_pr(evaluate.mean_abs_z(values, train)) if has_floors else math.nan,
        vus_pr_pca=(
            vus_pr(evaluate.pca_reconstruction(values, train)) if has_floors and values.shape[1] > 1 else math.nan
        ),
    )


def report(outcome: Outcome, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """All verdicts as names and numbers, fit for JSON; None where a number is unknown."""
    entities = [_row(verdict) for verdict in verdicts]
    failed = [{"entity": failure.entity, "error": failure.reason} for failure in outcome.failures]
    return {"monitors": outcome.monitors, "entities": entities + failed, "total": _total(verdicts)}


def _row(verdict: Verdict) -> dict[str, Any]:
    judgements = [] if verdict.judgement is None else [verdict.judgement]
    return {"entity": verdict.entity, "monitor": verdict.monitor} | _numbers([verdict], judgements)


def _total(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """All entities: events, alerts and time pooled, rankings averaged over the entities that have one.

    Rates are alerts in a week of one entity.
    """
    return _numbers(verdicts, [verdict.judgement for verdict in verdicts if verdict.judgement is not None])


def _numbers(verdicts: Sequence[Verdict], judgements: Sequence[Judgement]) -> dict[str, Any]:
    rows, alerts = sum(verdict.rows for verdict in verdicts), sum(verdict.alerts for verdict in verdicts)
    weeks = sum(verdict.weeks for verdict in verdicts)
    summary = evaluate.summarise(judgements) if judgements else None
    return {
        "rows": rows,
        "alerts": alerts,
        "alerts_per_week": _rounded(alerts / weeks if weeks else math.nan),
        "unknown_share": _rounded(sum(verdict.unknown for verdict in verdicts) / rows if rows else math.nan),
        **_events(summary),
        **{
            name: _rounded(_mean([getattr(verdict.ranking, name) for verdict in verdicts]))
            for name in asdict(Ranking())
        },
    }


def _events(summary: Summary | None) -> dict[str, Any]:
    """The figures of `evaluate` under its own names; None without labels."""
    names = (
        *("events", "events_found", "false_alerts", "precision", "recall"),
        *("median_delay_seconds", "false_alerts_per_week", "alerts_per_found_event"),
    )
    return {name: None if summary is None else _rounded(getattr(summary, name)) for name in names}


def _mean(numbers: list[float]) -> float:
    known = [number for number in numbers if not math.isnan(number)]
    return sum(known) / len(known) if known else math.nan


def _rounded(number: float) -> float | None:
    return None if math.isnan(number) else round(number, 4)
