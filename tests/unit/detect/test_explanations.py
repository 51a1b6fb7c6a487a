"""What was expected of a metric, by what found it strange."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from untrained import START, STEP, ExpectsTheMedian, IsDeaf, monitor_of, network_version, noise_history

from detector.config.sections import RuleSection
from detector.core.deviation import Usual
from detector.core.news import MECHANISMS
from detector.core.rhythm import BIN, BINS, Jobs
from detector.core.series import Float32
from detector.detect import explanations
from detector.detect.horizon import Horizon
from detector.detect.memory import Memory
from detector.detect.packed import unpack
from detector.detect.recall import Stored, recall
from detector.ports import ModelVersion
from detector.sources.memory import MemorySource
from detector.wording import sentence

TRAINED, AFTER = 1500, 40  # slots; the last ones lie before midnight
EVENING = 60.0
MONITOR = monitor_of(lateness=timedelta(minutes=5))


@pytest.fixture(scope="module")
def model() -> ModelVersion:
    """Of metrics that are taken to be 50 ± 2 until noon and 60 ± 2 after it; its network finds nothing."""
    trained = network_version(MONITOR, noise_history(TRAINED), IsDeaf())
    one = np.ones((2, 2), dtype=np.float32)
    offset = np.zeros((2, 24, 2), dtype=np.float32)
    offset[:, 12:] = 5.0
    habits = replace(trained.artifact.habits, usual=Usual(50 * one, 2 * one, offset))
    return replace(trained, artifact=replace(trained.artifact, habits=habits))


def _values() -> Float32:
    """Of web-0 after training; errors (the second metric) leave for good what was seen before."""
    values = np.random.default_rng(3).normal(50.0, 2.0, (AFTER, 2)).astype(np.float32)
    values[-8:, 1] += np.arange(8) * 100.0
    return values


def _memory(model: ModelVersion, horizon: Horizon) -> Memory:
    values = _values()
    times = START + STEP * (TRAINED + np.arange(AFTER, dtype=np.int64))
    source = MemorySource.of(["web-0"], np.zeros(AFTER, np.int32), times, values.astype(np.float64))
    end = START + STEP * (TRAINED + AFTER)
    return recall(horizon, source, model, stored=Stored(end), now=end + horizon.delay)


def _explained(model: ModelVersion, mechanism: str, *, before_newest: int = 0, **rule: Any) -> dict[str, Any]:
    """The explanation of a slot of web-0 in which a mechanism fired."""
    rules = (RuleSection(metric="errors", **rule),) if rule else ()
    horizon = Horizon.of(MONITOR.model_copy(update={"rules": rules}))
    memory = _memory(model, horizon)
    slot = memory.history.end - STEP * (1 + before_newest)
    parts = np.full(len(MECHANISMS), np.nan, dtype=np.float32)
    parts[MECHANISMS.index(mechanism)] = 3.0
    explained = explanations.explain(horizon, memory, [(0, slot)], parts=lambda _row, _slot: parts)
    return dict(json.loads(explained[0, slot]))


def _errors(explained: dict[str, Any]) -> dict[str, Any]:
    return next(metric for metric in explained["metrics"] if metric["metric"] == "errors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mechanism", "deviations"),
    [("far1", 3.0), ("far3", 3.0), ("gross", 3.0), ("one3", 6.0), ("one10", 6.0)],
)
def test_what_is_far_from_usual_was_expected_at_its_median_of_the_time_of_day(
    model: ModelVersion, mechanism: str, deviations: float
) -> None:
    explained = _explained(model, mechanism)

    metric, window = _errors(explained), explained["window"]
    assert metric["expected"] == EVENING
    assert (metric["low"], metric["high"]) == (EVENING - 2.0 * deviations, EVENING + 2.0 * deviations)
    column, named = window["named"].index("errors"), len(window["named"])
    assert unpack(window["expected"], named)[-1, column] == EVENING
    assert unpack(window["band"], named)[-1, column] == 2.0 * deviations


def test_what_rules_do_not_count_was_expected(model: ModelVersion) -> None:
    metric = _errors(_explained(model, "one3", min_deviation=100.0))

    assert (metric["low"], metric["high"]) == (0.0, EVENING + 100.0)  # 60 − 100 has never been: none was negative


@pytest.mark.parametrize("before_newest", [0, 1, 3])
def test_a_record_is_told_with_the_lowest_and_the_highest_value_before_it(
    model: ModelVersion, before_newest: int
) -> None:
    metric = _errors(_explained(model, "record", before_newest=before_newest))

    seen = np.concatenate([noise_history(TRAINED).values[0, :, 1], _values()[: AFTER - before_newest - 10, 1]])
    assert metric["low"] == pytest.approx(float(seen.min()), rel=1e-5)
    assert metric["high"] == pytest.approx(float(seen.max()), rel=1e-5)
    assert metric["observed"] > metric["high"]
    assert metric["expected"] == EVENING


def test_the_network_says_itself_what_it_expected(model: ModelVersion) -> None:
    expects_the_median = replace(model, network=ExpectsTheMedian())

    metric = _errors(_explained(expects_the_median, "net1"))

    assert metric["expected"] == pytest.approx(float(model.artifact.scaling.center[0, 1]), rel=1e-5)


# -- a daily job that did not run

NEWEST = START + STEP * (TRAINED + AFTER - 1)


def _expecting(model: ModelVersion, jobs: list[tuple[int, float]], *, at: int = NEWEST) -> ModelVersion:
    """The same that expects jobs of web-0, columns and levels, by a slot."""
    column, level = (np.array([part, part]) for part in zip(*jobs, strict=True))
    due = np.full(column.shape, (at // BIN - 2) % BINS)
    found = Jobs(due, column, level.astype(np.float32), 0.5 * level.astype(np.float32))
    return replace(model, artifact=replace(model.artifact, habits=replace(model.artifact.habits, jobs=found)))


def _reached(metric: int, *, sign: float, at: int = NEWEST) -> float:
    """The value that lasts for three slots furthest to one side, in the three bins before that of a slot."""
    slots, values = START + STEP * (TRAINED + np.arange(AFTER)), sign * _values()[:, metric]
    ends = [k for k in range(2, AFTER) if at // BIN - 3 <= slots[k] // BIN < at // BIN]
    return sign * float(max(values[k - 2 : k + 1].min() for k in ends))


@pytest.mark.parametrize(("column", "move", "level"), [(1, "rise", 70.0), (3, "fall", 30.0)])
def test_a_job_that_did_not_run_is_told_with_what_it_reaches_every_day(
    model: ModelVersion, column: int, move: str, level: float
) -> None:
    explained = _explained(_expecting(model, [(column, 10.0)]), "missed")

    (metric,), part = explained["metrics"], explained["part"]
    assert (metric["metric"], metric["share"]) == ("errors", 1.0)
    assert (metric["expected"], metric["low"], metric["high"]) == (level, level, level)
    assert metric["observed"] == pytest.approx(_reached(1, sign=1.0 if move == "rise" else -1.0), rel=1e-5)
    start = (NEWEST // BIN - 2) * BIN
    assert (part["kind"], part["move"], part["start"], part["end"]) == ("missed", move, start, start + BIN)
    assert sentence(explained).startswith(f"No {move} at 23:15–23:30 UTC as on every day before: errors ")


def test_metrics_share_what_they_lack_of_a_job(model: ModelVersion) -> None:
    explained = _explained(_expecting(model, [(0, 10.0), (1, 40.0)]), "missed")

    share = {metric["metric"]: metric["share"] for metric in explained["metrics"]}
    # each gap is half of its level
    lacks = [(50.0 + 2.0 * level - _reached(f, sign=1.0)) / level for f, level in enumerate((10.0, 40.0))]
    assert share == {
        name: pytest.approx(lack / sum(lacks), abs=1e-3) for name, lack in zip(MONITOR.metrics, lacks, strict=True)
    }


def test_of_a_job_before_all_that_is_kept_the_newest_value_is_told(model: ModelVersion) -> None:
    oldest = NEWEST - STEP * 30

    explained = _explained(_expecting(model, [(1, 10.0)], at=oldest), "missed", before_newest=30)

    (metric,) = explained["metrics"]
    assert metric["expected"] == 70.0
    assert metric["observed"] == pytest.approx(float(_values()[AFTER - 31, 1]), rel=1e-5)
