"""Faults injected into held-out history, and the choice between a network and a baseline."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from untrained import (
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
from detector.core.faults import SCALED, Fault
from detector.core.series import Float32, Float64, Windows
from detector.ports import Model
from detector.train import trial
from detector.train.calibrate import calibrated
from detector.train.division import Plan, divide

pytestmark = pytest.mark.slow


class IsKeen(ExpectsTheMedian):
    """Leaves nothing of what noise does, and much of everything beyond."""

    def residuals(self, windows: Windows) -> Float32:
        found = super().residuals(windows)
        return np.where(np.abs(found) > 5.0, 1000.0 * found, found)


@pytest.mark.parametrize(
    ("network", "baseline", "chosen"),
    [
        (IsKeen, IsDeaf, "network"),
        (IsDeaf, IsKeen, "baseline"),
        (ExpectsTheMedian, ExpectsTheMedian, "network"),
        (IsDeaf, IsDeaf, "network"),
    ],
    ids=["network finds more", "baseline finds more", "both find the same", "neither leaves anything"],
)
def test_auto_takes_the_model_that_finds_more_of_the_faults_put_in(
    network: type[Model], baseline: type[Model], chosen: str
) -> None:
    trained = trained_version(monitor_of(), noise_history(900), FakeFit(network(), baseline()))

    finds = {kind: found_by(trained, kind)["all"] for kind in ("network", "baseline")}
    assert trained.kind == trained.artifact.provenance["kind"] == chosen
    assert max(finds.values()) <= 1.2 * finds[chosen]  # a network is given the benefit of the doubt


def test_where_a_model_leaves_nothing_only_how_far_values_go_is_found() -> None:
    trained = trained_version(monitor_of(), noise_history(900), FakeFit(IsDeaf(), IsKeen()))

    deaf, keen = found_by(trained, "network"), found_by(trained, "baseline")
    assert deaf[Fault.FALL_TO_ZERO] == 1.0
    assert deaf["all"] < keen["all"]
    assert deaf[Fault.SPIKE] == 0.0 < keen[Fault.SPIKE]  # one slot


def test_faults_that_would_alarm_without_being_put_in_are_not_found() -> None:
    trained = trained_version(monitor_of(), noise_history(900), FakeFit(CriesWolf(), ExpectsTheMedian()))

    # even what is found by how far values go, whatever a model leaves
    assert found_by(trained, "network")["all"] == 0.0
    assert found_by(trained, "baseline")[Fault.FALL_TO_ZERO] == 1.0
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
    # what a record looks back on at most; ten minutes that the worst metric lasts; what the rule to open looks back on
    needed = 30 + 10 + (3 - 1) + trial.FAULT_SLOTS
    monitor = monitor_of(decision=decision, training=TrainingSection(minimum_slots=60))

    trained = trained_version(monitor, noise_history(needed - fewer), FakeFit())

    assert (trained.artifact.provenance["detectability"] != {}) == comparable
    assert comparable or trained.kind == "network"  # which is taken where nothing can be compared


def _delays(size: float, *, model: Model | None = None) -> dict[Fault, Float64]:
    """Slots until faults of a size open an alert, (8,) of each kind, in the same places at each size."""
    data = divide(Plan.of(monitor_of()), noise_history(900))
    fitted = FakeFit(baseline_model=model or IsDeaf()).baseline(data.history, np.zeros((2, 900), dtype=np.bool_))
    found = trial.delays(data, calibrated(data, fitted), np.random.default_rng(0), per_kind=8, sizes=(size,))
    return dict(zip(Fault, found.reshape(len(Fault), 8), strict=True))


def test_what_is_large_enough_is_found_at_once_and_what_is_too_small_never() -> None:
    large, small = _delays(60.0), _delays(0.01)

    # in one of two metrics: half of it is far beyond the fence of 7 deviations, also in a mean of three slots
    assert (large[Fault.LEVEL_SHIFT] < 3).all()
    assert (large[Fault.DRIFT] > large[Fault.LEVEL_SHIFT]).all()
    assert all(np.isnan(small[kind]).all() for kind in SCALED)


def test_faults_are_judged_by_nothing_that_was_learned_from_their_pieces() -> None:
    data = divide(Plan.of(monitor_of()), noise_history(900))
    fitted = FakeFit(baseline_model=IsDeaf()).baseline(data.history, np.zeros((2, 900), dtype=np.bool_))
    model, half = calibrated(data, fitted), 629 + (900 - 629) // 2  # fewer than 70 % train
    values = data.history.values.copy()
    values[:, half + 10 : half + 60] += 200.0
    shifted = replace(data, history=replace(data.history, values=values))
    rows, before = np.array([1, 0, 1]), trial.look_back(data.plan.horizon)

    known, same = (trial.shown(one, model, rows).columns() for one in (data, shifted))
    pieces = trial.drawn(data, before=before, count=200, rng=np.random.default_rng(0))

    for name, column in known.items():
        np.testing.assert_array_equal(same[name], column, err_msg=name)
    assert (trial.shown(data, model, rows).known == half).all()
    assert pieces is not None
    assert pieces.starts.min() + before >= half


def test_a_fault_that_replaces_what_a_metric_does_has_no_size() -> None:
    large, small = _delays(60.0, model=IsKeen()), _delays(0.01, model=IsKeen())

    for kind in set(Fault) - set(SCALED):
        np.testing.assert_array_equal(large[kind], small[kind])


def test_where_a_fault_has_no_room_there_are_no_delays() -> None:
    data = divide(Plan.of(monitor_of()), noise_history(60))
    fitted = FakeFit().baseline(data.history, np.zeros((2, 60), dtype=np.bool_))

    assert trial.delays(data, calibrated(data, fitted), np.random.default_rng(0)).shape == (0,)
