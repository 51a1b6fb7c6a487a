"""What a backtest was worth: what is counted, what is left out, and what cannot be told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pytest

from detector.replay import groups
from detector.replay import verdicts as judging
from detector.replay.recordings import NO_TIME, Failure, Recording
from detector.replay.results import Alert, Outcome, Replayed

MINUTE = 60_000
WEEK = 7 * 24 * 60  # minutes


def _replayed(
    label: Sequence[int] | None,
    score: Sequence[float],
    *,
    surprise: Sequence[float] | None = None,
    times: Sequence[int] | None = None,
    alerts: Sequence[Alert] = (),
    history: int = 3,
    metrics: int = 1,
) -> Replayed:
    """An entity with a row a minute, some of which are history; surprises are as the scores unless given."""
    rows = history + len(score)
    minutes = np.concatenate([np.arange(-history, 0), np.arange(len(score)) if times is None else times])
    recording = Recording(
        entity="web-1",
        metrics=("cpu", "load")[:metrics],
        written=["" for _ in range(rows)],
        time=np.where(minutes == NO_TIME, NO_TIME, minutes * MINUTE),
        values=np.random.default_rng(0).normal(size=(rows, metrics)),
        label=None if label is None else np.array([0] * history + list(label), dtype=np.bool_),
        train_rows=history,
        step_ms=MINUTE,
    )
    monitor = groups.settings(None, ["step=60s", "timesteps=2"], metrics=["cpu"])
    known = np.array(score, dtype=np.float64)
    surprises = known if surprise is None else np.array(surprise, dtype=np.float64)
    return Replayed(recording, monitor, known, surprises, np.zeros(len(score), np.bool_), tuple(alerts))


def _alert(opened: int, detected: int, closed: int | None) -> Alert:
    """Times in minutes."""
    closed_ms = None if closed is None else closed * MINUTE
    return Alert("web-1", opened * MINUTE, detected * MINUTE, closed_ms, "warning", 1.5, ("cpu",))


def _row(replayed: Replayed) -> dict[str, object]:
    row = judging.report(Outcome([], [], [], 0.0, 0.0), [judging.judge(replayed)])["entities"][0]
    assert isinstance(row, dict)
    return row


def test_an_unknown_score_ranks_as_zero_and_is_counted() -> None:
    known = _row(_replayed([0, 0, 1, 1], [0.1, 0.0, 0.9, 0.8]))

    unknown = _row(_replayed([0, 0, 1, 1], [0.1, math.nan, 0.9, 0.8]))

    assert (known["unknown_share"], unknown["unknown_share"]) == (0.0, 0.25)
    assert known["average_precision"] == unknown["average_precision"] == 1.0
    assert known["vus_pr"] == unknown["vus_pr"]


def test_rows_are_ranked_by_surprise_and_counted_by_score() -> None:
    label, surprise = [0, 0, 1, 1], [0.1, math.nan, 9.0, 8.0]

    row = _row(_replayed(label, [math.nan, 5.0, 0.0, 0.0], surprise=surprise))

    assert row["average_precision"] == 1.0  # by score the second row, which is normal, would come first
    assert row["vus_pr"] == row["vus_pr_baseline"] == _row(_replayed(label, surprise))["vus_pr"]
    assert row["unknown_share"] == 0.25


def test_without_labels_only_rows_and_alerts_are_told() -> None:
    row = _row(_replayed(None, [0.5] * 10, alerts=[_alert(2, 3, 5)]))

    assert (row["rows"], row["alerts"], row["alerts_per_week"]) == (10, 1, WEEK / 10)
    assert {row[name] for name in ("events", "precision", "recall", "vus_pr", "vus_pr_random")} == {None}


@pytest.mark.parametrize("label", [[0] * 6, [1] * 6])
def test_where_all_rows_are_alike_there_is_nothing_to_rank(label: list[int]) -> None:
    row = _row(_replayed(label, [0.5] * 6))

    assert row["vus_pr"] is None
    assert row["events"] == label[0]


def test_an_alert_that_is_still_open_spans_everything_after_it() -> None:
    row = _row(_replayed([0, 0, 0, 0, 1, 1], [0.5] * 6, alerts=[_alert(1, 2, None)]))

    assert (row["precision"], row["recall"], row["median_delay_seconds"]) == (1.0, 1.0, 0.0)


def test_an_alert_one_window_after_an_event_is_no_false_one() -> None:
    label = [1, 0, 0, 0, 0, 0]

    echo, late = (_row(_replayed(label, [0.5] * 6, alerts=[_alert(at, at + 1, at + 2)])) for at in (2, 4))

    assert (echo["false_alerts"], late["false_alerts"]) == (0, 1)


def test_rows_out_of_order_and_without_a_time_are_judged_by_time() -> None:
    ordered = _row(_replayed([0, 1, 1, 0, 0], [0.5] * 5, alerts=[_alert(2, 3, 4)]))

    row = _row(_replayed([0, 0, 1, 1, 1, 0], [0.5] * 6, times=[0, 4, NO_TIME, 2, 1, 3], alerts=[_alert(2, 3, 4)]))

    assert (row["events"], row["events_found"]) == (1, 1)
    assert row["median_delay_seconds"] == ordered["median_delay_seconds"] == 120.0


def test_floors_need_a_history_and_pca_more_than_one_metric() -> None:
    label, score = [0, 0, 0, 1], [0.0, 0.0, 0.0, 1.0]

    one = _row(_replayed(label, score))
    two = _row(_replayed(label, score, metrics=2))
    none = _row(_replayed(label, score, metrics=2, history=0))

    assert [row["vus_pr_mean_abs_z"] is None for row in (one, two, none)] == [False, False, True]
    assert [row["vus_pr_pca"] is None for row in (one, two, none)] == [True, False, True]


def test_the_total_pools_events_and_averages_rankings() -> None:
    found = judging.judge(_replayed([0, 1, 0, 0], [0.0, 1.0, 0.0, 0.0], alerts=[_alert(1, 2, 3)]))
    missed = judging.judge(_replayed([0, 0, 0, 1], [1.0, 0.0, 0.0, 0.5]))
    unlabelled = judging.judge(_replayed(None, [0.5] * 12))
    failure = Failure("broken", "cannot be read")

    report = judging.report(Outcome([], [], [failure], 0.0, 0.0), [found, missed, unlabelled])

    total = report["total"]
    assert (total["rows"], total["events"], total["events_found"], total["recall"]) == (20, 2, 1, 0.5)
    assert total["average_precision"] == pytest.approx((1.0 + 0.5) / 2)
    assert total["alerts_per_week"] == pytest.approx(timedelta(weeks=1) / timedelta(minutes=20), rel=1e-4)
    assert report["entities"][-1] == {"entity": "broken", "error": "cannot be read"}


def test_a_total_of_nothing_tells_nothing() -> None:
    total = judging.report(Outcome([], [], [], 0.0, 0.0), [])["total"]

    assert (total["rows"], total["alerts"], total["unknown_share"], total["vus_pr"]) == (0, 0, None, None)
