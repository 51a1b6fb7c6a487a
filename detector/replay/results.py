"""Results of a replay: scores and alerts by the rows of each recording, and the files they are written to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detector.config.sections import MonitorSection
from detector.core import decide
from detector.core.series import Bool, Float64, Int64
from detector.replay import recordings as dataset
from detector.replay.recordings import NO_TIME, Failure, Recording
from detector.times import utc


@dataclass(frozen=True)
class Alert:
    """A stored alert; times are epoch milliseconds."""

    entity: str
    opened: int
    detected_at: int
    closed: int | None  # None: still open at the end
    severity: str
    peak_score: float
    top_metrics: tuple[str, ...]


@dataclass(frozen=True)
class Replayed:
    """Result of one entity: R rows from its first one after the history on, in the order of its file."""

    recording: Recording
    monitor: MonitorSection
    score: Float64  # (R,) of the slot the row lies in, NaN = unknown
    surprise: Float64  # (R,) as the score
    is_alert: Bool  # (R,) the slot's end lies inside an open alert
    alerts: tuple[Alert, ...]
    baseline: Float64 | None = None  # (R,) what would have surprised a baseline; None where nothing is judged by it


@dataclass(frozen=True)
class Outcome:
    """Results of all recordings."""

    monitors: list[dict[str, Any]]
    entities: list[Replayed]
    failures: list[Failure]
    train_seconds: float
    replay_seconds: float


def write(outcome: Outcome, folder: Path) -> None:
    """Writes one CSV file per entity, with a line for each replayed row, and one of all alerts.

    Raises: ConfigError if a file cannot be written.
    """
    for failure in outcome.failures:  # a file of an earlier backtest must not pass for this one's
        (folder / f"{failure.entity}.csv").unlink(missing_ok=True)
    for replayed in outcome.entities:
        recording, score = replayed.recording, replayed.score
        dataset.write_rows(
            folder / f"{recording.entity}.csv",
            "timestamp,score,surprise,state,alert",
            (
                recording.written[recording.train_rows :],
                *(["" if np.isnan(one) else f"{one:.9g}" for one in column] for column in (score, replayed.surprise)),
                np.where(np.isnan(score), "unknown", np.where(score >= decide.THRESHOLD, "anomalous", "normal")),
                replayed.is_alert.astype(int),
            ),
        )
    alerts = sorted(
        (alert for replayed in outcome.entities for alert in replayed.alerts), key=lambda a: (a.detected_at, a.entity)
    )
    dataset.write_rows(
        folder / dataset.ALERTS,
        "entity,opened,detected,closed,severity,peak,top_metrics",
        (
            [alert.entity for alert in alerts],
            [utc(alert.opened, "auto") for alert in alerts],
            [utc(alert.detected_at, "auto") for alert in alerts],
            ["" if alert.closed is None else utc(alert.closed, "auto") for alert in alerts],
            [alert.severity for alert in alerts],
            [f"{alert.peak_score:.9g}" for alert in alerts],
            [";".join(alert.top_metrics) for alert in alerts],
        ),
    )


def result(
    recording: Recording,
    monitor: MonitorSection,
    *,
    slots: Int64,
    scores: Float64,
    surprises: Float64,
    alerts: list[Alert],
) -> Replayed:
    """Score, surprise and alert of each row after the history, by the slot it lies in.

    slots: (K,) epoch milliseconds, rising; scores, surprises: (K,)
    """
    times = recording.time[recording.train_rows :]
    slot = times // monitor.step_ms * monitor.step_ms  # (R,)
    has_time = times != NO_TIME
    first = slot[has_time].min(initial=np.iinfo(np.int64).max)
    alerts = [alert for alert in alerts if alert.closed is None or alert.closed >= first]
    is_alert = np.zeros(len(slot), dtype=np.bool_)
    for alert in alerts:
        end = slot + monitor.step_ms
        is_alert |= (end >= alert.detected_at) & (end <= (np.inf if alert.closed is None else alert.closed))
    score, surprise = np.full((2, len(slot)), np.nan)
    is_known = np.isin(slot, slots)
    position = np.searchsorted(slots, slot)[is_known]
    score[is_known], surprise[is_known] = scores[position], surprises[position]
    return Replayed(recording, monitor, score, surprise, is_alert & has_time, tuple(alerts))
