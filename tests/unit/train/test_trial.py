"""Faults injected into held-out history, and the choice between a network and a baseline."""

from __future__ import annotations

import pytest
from untrained import (
    TIMESTEPS,
    CriesWolf,
    ExpectsTheMedian,
    FakeFit,
    IsDeaf,
    found_by,
    monitor_of,
    noise_history,
    trained_version,
)

from detector.config.sections import DecisionSection, TrainingSection
from detector.core.faults import Fault
from detector.ports import Model
from detector.train import trial


@pytest.mark.parametrize(
    ("network", "baseline", "chosen"),
    [
        (ExpectsTheMedian, IsDeaf, "network"),
        (IsDeaf, ExpectsTheMedian, "baseline"),
        (ExpectsTheMedian, ExpectsTheMedian, "network"),
        (IsDeaf, IsDeaf, "network"),
    ],
    ids=["network finds more", "baseline finds more", "both find the same", "neither finds anything"],
)
def test_auto_takes_the_model_that_finds_more_of_the_faults_put_in(
    network: type[Model], baseline: type[Model], chosen: str
) -> None:
    trained = trained_version(monitor_of(), noise_history(900), FakeFit(network(), baseline()))

    finds = {kind: found_by(trained, kind)["all"] for kind in ("network", "baseline")}
    assert trained.kind == trained.artifact.provenance["kind"] == chosen
    assert max(finds.values()) <= 1.2 * finds[chosen]  # a network is given the benefit of the doubt


def test_a_model_that_leaves_nothing_finds_nothing() -> None:
    trained = trained_version(monitor_of(), noise_history(900), FakeFit(IsDeaf(), ExpectsTheMedian()))

    assert found_by(trained, "network") == dict.fromkeys([*Fault, "all"], 0.0)
    assert found_by(trained, "baseline")["all"] > 0.3


def test_faults_that_would_alarm_without_being_put_in_are_not_found() -> None:
    trained = trained_version(monitor_of(), noise_history(900), FakeFit(CriesWolf(), ExpectsTheMedian()))

    assert found_by(trained, "network")["all"] == 0.0
    assert trained.kind == "baseline"


def test_a_metric_far_from_zero_that_falls_to_it_is_always_found() -> None:
    trained = trained_version(monitor_of(), noise_history(900), FakeFit())  # 25 standard deviations

    assert found_by(trained, "baseline")[Fault.FALL_TO_ZERO] == 1.0


def test_all_faults_are_as_many_of_each_kind() -> None:
    found = found_by(trained_version(monitor_of(), noise_history(900), FakeFit()), "baseline")

    by_kind = [share for kind, share in found.items() if kind != "all"]
    assert len(by_kind) == len(Fault)
    assert found["all"] == pytest.approx(sum(by_kind) / len(Fault), abs=0.001)


@pytest.mark.parametrize(("fewer", "comparable"), [(0, True), (1, False)], ids=["just enough", "one slot less"])
def test_models_are_compared_where_a_fault_and_all_that_is_looked_back_on_has_room(
    fewer: int, comparable: bool
) -> None:
    decision = DecisionSection(open_slots=2, open_of=3, close_slots=5)
    needed = (TIMESTEPS - 1) + (120 - 1) + (3 - 1) + trial.FAULT_SLOTS
    monitor = monitor_of(decision=decision, training=TrainingSection(minimum_slots=100))

    trained = trained_version(monitor, noise_history(needed - fewer), FakeFit())

    assert (trained.artifact.provenance["detectability"] != {}) == comparable
    assert comparable or trained.kind == "network"  # which is taken where nothing can be compared
