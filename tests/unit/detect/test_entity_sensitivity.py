"""Sensitivity of a monitor's entities: from what is stored of them, and of a version as it was trained."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from untrained import START, STEP, monitor_of, network_version, noise_history

from detector.config.sections import RuleSection
from detector.core import sensitivity as core
from detector.core.deviation import Usual
from detector.core.news import long_slots
from detector.detect import checkpoints, sensitivity
from detector.detect.horizon import Horizon
from detector.detect.memory import Point
from detector.detect.sensitivity import Answer
from detector.errors import ModelError
from detector.ports import ModelVersion, StoredExperience
from detector.sources.memory import MemorySource

SLOTS = 900
END = START + STEP * SLOTS
NOBODY = np.empty(0, dtype=np.int64)
EMPTY = MemorySource.of([], NOBODY.astype(np.int32), NOBODY, np.empty((0, 2)))


@pytest.fixture(scope="module")
def model() -> ModelVersion:
    """Two entities, web-0 and web-1, whose load and errors are 50 ± 2."""
    return network_version(monitor_of(), noise_history(SLOTS))


def _horizon(*rules: dict[str, Any]) -> Horizon:
    return Horizon.of(monitor_of(rules=tuple(RuleSection(**rule) for rule in rules)))


def _ask(
    model: ModelVersion,
    horizon: Horizon,
    entity: str = "web-1",
    *remembered: StoredExperience,
    source: MemorySource = EMPTY,
) -> Answer:
    return sensitivity.of_entity(horizon, source, model, entity=entity, slot=END, remembered=remembered)


@pytest.mark.slow
def test_an_entity_is_held_against_what_it_had_shown_in_training(model: ModelVersion) -> None:
    horizon = _horizon()

    answer = _ask(model, horizon)

    terms = sensitivity.terms_of(horizon, model)
    rows, experience = np.array([1]), model.artifact.experience.rows(np.array([1]))
    for n, held in enumerate((3, 10)):
        expected = core.sensitivity(terms, experience, rows, slot=END, held=held)
        for f, metric in enumerate(answer.metrics):
            assert metric.above.values[n] == pytest.approx(float(expected.above[0, f]), rel=1e-4)
            assert metric.below.values[n] == pytest.approx(float(expected.below[0, f]), rel=1e-4)
    assert answer.seconds == [180.0, 600.0]
    assert [metric.usual for metric in answer.metrics] == pytest.approx([50.0, 50.0], abs=0.5)


def test_what_is_stored_of_an_entity_counts(model: ModelVersion) -> None:
    experience = model.artifact.experience
    lately = np.full_like(experience.lately, math.log1p(200.0))
    wide = np.full_like(lately, 1e6)  # no record is near
    shown = replace(experience, lately=lately, lowest=-wide, highest=wide)
    stored = checkpoints.packed(Point(END, shown), model.artifact.entities)

    before, after = _ask(model, _horizon()), _ask(model, _horizon(), "web-1", stored)

    for one, other in zip(before.metrics, after.metrics, strict=True):
        low, high = one.above.values[1], other.above.values[1]
        assert low is not None
        assert high is not None
        assert low < 50.0 + 1.5 * 200.0 < high


def test_a_step_of_an_hour_leaves_room_for_two_scores() -> None:
    assert long_slots(3_600_000) == 3
    assert sensitivity.durations(replace(_horizon(), step=3_600_000)) == (3, 4)


def test_it_is_told_why_no_value_opens_an_alert(model: ModelVersion) -> None:
    horizon = _horizon(
        {"metric": "load", "direction": "up", "valid_max": 51.0}, {"metric": "errors", "direction": "down"}
    )

    load, errors = _ask(model, horizon).metrics

    assert load.above.values == [None, None]
    assert load.above.why_not == "no valid one does; one beyond 51 is an alert itself"
    assert load.below.why_not == errors.above.why_not == "the rules do not count it"
    assert errors.below.why_not is None


def test_of_an_entity_that_is_new_nothing_is_known(model: ModelVersion) -> None:
    rows = MemorySource.of(["new"], np.zeros(1, np.int32), np.array([END - STEP]), np.full((1, 2), 50.0))

    answer = _ask(model, _horizon(), "new", source=rows)

    assert {metric.above.why_not for metric in answer.metrics} == {"the model has not seen this entity yet"}
    assert [metric.usual for metric in answer.metrics] == [None, None]


def test_an_entity_that_nobody_knows_is_refused(model: ModelVersion) -> None:
    with pytest.raises(ModelError, match="monitor 'web' knows no entity 'nobody'"):
        _ask(model, _horizon(), "nobody")


# -- of a version


def test_metrics_that_can_only_leave_their_valid_range_are_blind(model: ModelVersion) -> None:
    narrow = {"metric": "load", "valid_min": 45.0, "valid_max": 55.0}  # 2.5 deviations; the fence begins at 3
    wide = {"metric": "load", "valid_min": -1000.0, "valid_max": 1000.0}

    shares = [sensitivity.blind_shares(_horizon(*rules), model).tolist() for rules in ([], [narrow], [wide])]

    assert shares == [[0.0, 0.0], [0.5, 0.5], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("rows", "ratio"), [([0, 1], 0.25), ([0, 1, -1, -1], 0.625), ([1], 0.5), ([-1], 1.0), ([], None)]
)
def test_all_metrics_of_an_entity_that_the_model_has_not_seen_are_blind(rows: list[int], ratio: float | None) -> None:
    assert sensitivity.blind_ratio(np.array([0.0, 0.5]), np.array(rows, dtype=np.int64)) == ratio


def test_a_version_without_habits_is_blind(model: ModelVersion) -> None:
    old = replace(model, artifact=replace(model.artifact, habits=replace(model.artifact.habits, usual=Usual.none(2))))

    assert sensitivity.blind_shares(_horizon(), old).tolist() == [1.0, 1.0]
    assert sensitivity.median_deviation(_horizon(), old) is None


def test_the_middle_metric_is_told_in_deviations(model: ModelVersion) -> None:
    horizon = _horizon()
    metrics = [metric for entity in model.artifact.entities for metric in _ask(model, horizon, entity).metrics]

    told = sensitivity.median_deviation(horizon, model)

    spread = model.artifact.habits.usual.spread.ravel().tolist()
    nearest = [
        min((m.above.values[1] or math.inf) - (m.usual or 0.0), (m.usual or 0.0) - (m.below.values[1] or -math.inf))
        for m in metrics
    ]
    assert told == pytest.approx(float(np.median(np.array(nearest) / spread)), rel=0.01)
