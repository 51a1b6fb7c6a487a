"""History to a model version, with models that need no training; TensorFlow is not loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from made_versions import OneSlot

from detector.config.sections import DecisionSection, EmbeddedSource, ModelSection, MonitorSection, TrainingSection
from detector.core.faults import Fault
from detector.core.series import Bool, Float32, History, Windows
from detector.detect import residuals
from detector.detect.residuals import Selection
from detector.errors import ModelError
from detector.ports import Fitted, Model, ModelVersion
from detector.progress import Progress
from detector.train import calibrate, trial
from detector.train import fit as training
from detector.train.calibrate import Alerted
from detector.train.division import Plan

STEP, TIMESTEPS, START = 60_000, 10, 1_700_000_040_000
NAN = np.nan


class _ExpectsTheMedian:
    """What is left is the newest slot itself, in scaled units: finds whatever is large enough."""

    def __init__(self) -> None:
        self.asked: list[Windows] = []

    def residuals(self, windows: Windows) -> Float32:
        self.asked.append(windows)
        return windows.values[:, -1]


class _IsDeaf(_ExpectsTheMedian):
    """Leaves nothing, whatever happens."""

    def residuals(self, windows: Windows) -> Float32:
        return np.zeros_like(super().residuals(windows))


class _CriesWolf(_ExpectsTheMedian):
    """Is calm while it is calibrated, which is the first time it is asked, and beside itself ever after."""

    def residuals(self, windows: Windows) -> Float32:
        return super().residuals(windows) * (1.0 if len(self.asked) == 1 else 1000.0)


@dataclass
class _Fit:
    """Hands out models and remembers what they were to be fitted to."""

    network_model: Model = field(default_factory=_ExpectsTheMedian)
    baseline_model: Model = field(default_factory=_ExpectsTheMedian)
    trained_on: Windows | None = None
    validated_on: Windows | None = None
    days: float | None = None
    fitted_to: tuple[History, Bool] | None = None

    def network(self, windows: Windows, validation: Windows, *, days: float, seed: int, progress: Progress) -> Fitted:
        self.trained_on, self.validated_on, self.days = windows, validation, days
        return Fitted("network", self.network_model, OneSlot(TIMESTEPS), {}, {})

    def baseline(self, history: History, chosen: Bool) -> Fitted:
        self.fitted_to = history, chosen
        return Fitted("baseline", self.baseline_model, OneSlot(), {}, {})


def _monitor(**changes: Any) -> MonitorSection:
    monitor = MonitorSection(
        name="web", source=EmbeddedSource(type="embedded"), metrics=("load", "errors"), timesteps=TIMESTEPS
    )
    return monitor.model_copy(update=changes)


PLAN = Plan.of(_monitor())


Hole = tuple[slice | int, slice]
"""Entities and slots that are missing."""


def _history(slots: int, entities: int = 2, seed: int = 1, holes: Sequence[Hole] = ()) -> History:
    """Noise around 50, a standard deviation of 2."""
    values = np.random.default_rng(seed).normal(50.0, 2.0, (entities, slots, 2)).astype(np.float32)
    for hole in holes:
        values[hole] = NAN
    return History(tuple(f"web-{row}" for row in range(entities)), START, STEP, values)


def _train(monitor: MonitorSection, history: History, fit: _Fit, seed: int = 0) -> ModelVersion:
    plan = replace(Plan.of(monitor), seed=seed)
    return training.train(plan, history, fit, progress=lambda _done, _what: None)


def _found(trained: ModelVersion, kind: str) -> dict[str, float]:
    """What a kind of model found of the faults put in."""
    return dict(trained.artifact.provenance["detectability"][kind])


@pytest.mark.parametrize("slots", [60, 299])
def test_a_short_history_is_enough_for_a_baseline(slots: int) -> None:
    fit = _Fit()

    trained = _train(_monitor(), _history(slots), fit)

    assert (trained.kind, trained.timesteps) == ("baseline", 1)
    assert fit.trained_on is None
    assert trained.artifact.provenance["detectability"] == {}  # there was nothing to compare


def test_from_the_minimum_on_a_network_is_trained_as_well() -> None:
    fit = _Fit()

    trained = _train(_monitor(), _history(300), fit)

    assert fit.trained_on is not None
    assert fit.fitted_to is not None
    assert set(trained.artifact.provenance["detectability"]) == {"network", "baseline"}


@pytest.mark.parametrize(("kind", "timesteps"), [("network", TIMESTEPS), ("baseline", 1)])
def test_a_kind_that_is_asked_for_is_the_only_one_fitted(kind: str, timesteps: int) -> None:
    fit = _Fit()

    trained = _train(_monitor(model=ModelSection.model_validate({"kind": kind})), _history(400), fit)

    assert (trained.kind, trained.timesteps) == (kind, timesteps)
    assert (fit.trained_on is not None, fit.fitted_to is not None) == (kind == "network", kind == "baseline")


@pytest.mark.parametrize(
    ("kind", "slots", "needed", "hours"),
    [("auto", 59, 60, "0.1"), ("auto", 0, 60, "1.0"), ("network", 180, 300, "2.0")],
)
def test_too_short_a_history_is_one_line_that_says_how_long_to_wait(
    kind: str, slots: int, needed: int, hours: str
) -> None:
    monitor = _monitor(model=ModelSection.model_validate({"kind": kind}))

    with pytest.raises(ModelError) as caught:
        _train(monitor, _history(slots), _Fit())

    message = str(caught.value)
    assert message.startswith(f"monitor 'web': training needs {needed} slots of 60 s with data")
    assert f"the longest entity has {slots} between 2023-11-14 22:14:00 and " in message
    assert f"wait {hours} h, or lower `training.minimum_slots`" in message
    assert "\n" not in message


def _holed() -> History:
    return _history(900, holes=[(slice(None), slice(None, None, 3))])


def test_auto_makes_do_with_a_baseline_where_every_window_has_a_gap() -> None:
    assert _train(_monitor(), _holed(), _Fit()).kind == "baseline"


def test_a_network_that_is_asked_for_says_that_the_windows_have_gaps() -> None:
    monitor = _monitor(model=ModelSection.model_validate({"kind": "network"}))

    with pytest.raises(ModelError, match="its windows have gaps: fill them, or raise `max_missing`"):
        _train(monitor, _holed(), _Fit())


def test_without_any_entity_there_is_too_little_history() -> None:
    with pytest.raises(ModelError, match="the longest entity has 0"):
        _train(_monitor(), _history(400, entities=0), _Fit())


def test_an_entity_with_too_little_of_its_own_does_not_take_part() -> None:
    history = _history(400, entities=3, holes=[(1, slice(59, None))])

    trained = _train(_monitor(), history, _Fit())

    assert trained.artifact.entities == ("web-0", "web-2")
    assert trained.artifact.noise.shape == (2, 2)


def _staggered() -> History:
    """Three entities: one throughout, one that vanishes, one that appears."""
    return _history(600, entities=3, holes=[(1, slice(400, None)), (2, slice(None, 200))])


def test_calibration_windows_share_no_slot_with_those_trained_and_validated_on() -> None:
    fit, model = _Fit(), _ExpectsTheMedian()
    fit.network_model = model

    _train(_monitor(model=ModelSection(kind="network")), _staggered(), fit)

    assert fit.trained_on is not None
    assert fit.validated_on is not None
    calibrated_on = model.asked[0]
    for row in range(3):
        seen = np.concatenate([part.slots[part.rows == row] for part in (fit.trained_on, fit.validated_on)])
        oldest_slots = calibrated_on.slots[calibrated_on.rows == row] - (TIMESTEPS - 1) * STEP
        assert seen.max() < oldest_slots.min()


def test_validation_windows_are_newer_than_those_trained_on() -> None:
    fit = _Fit()

    _train(_monitor(model=ModelSection(kind="network")), _staggered(), fit)

    assert fit.trained_on is not None
    assert fit.validated_on is not None
    for row in range(3):
        trained, validated = (part.slots[part.rows == row] for part in (fit.trained_on, fit.validated_on))
        assert trained.max() < validated.min()


def test_a_baseline_is_calibrated_on_slots_it_was_not_fitted_to() -> None:
    fit, model = _Fit(), _ExpectsTheMedian()
    fit.baseline_model = model

    _train(_monitor(model=ModelSection(kind="baseline")), _staggered(), fit)

    assert fit.fitted_to is not None
    history, chosen = fit.fitted_to
    calibrated_on = model.asked[0]
    for row in range(3):
        assert history.slots[chosen[row]].max() < calibrated_on.slots[calibrated_on.rows == row].min()


def test_the_newest_share_of_each_entitys_own_slots_calibrates() -> None:
    fit, model = _Fit(), _ExpectsTheMedian()
    fit.baseline_model = model

    _train(_monitor(model=ModelSection(kind="baseline")), _staggered(), fit)

    # 30 % of 600, 400 and 400 slots, which end with 599, 399 and 599
    rows, slots = model.asked[0].rows, (model.asked[0].slots - START) // STEP
    spans = [(slots[rows == row].min(), slots[rows == row].max()) for row in range(3)]
    np.testing.assert_allclose(spans, [(420, 599), (280, 399), (480, 599)], atol=1)


def test_no_more_windows_are_drawn_than_the_configuration_allows() -> None:
    fit, most = _Fit(), 100
    monitor = _monitor(model=ModelSection(kind="network"), training=TrainingSection(max_windows=most))

    trained = _train(monitor, _history(1000), fit)

    assert fit.trained_on is not None
    assert fit.validated_on is not None
    assert (len(fit.trained_on), len(fit.validated_on)) == (most, most // 5)
    assert trained.artifact.provenance["training_windows"] == most


def test_the_days_a_network_is_told_of_are_those_of_the_training_part() -> None:
    fit = _Fit()

    _train(_monitor(model=ModelSection(kind="network")), _history(1440), fit)

    assert fit.days == pytest.approx(0.7, abs=0.001)  # of a day of 1440 minutes


@pytest.mark.parametrize(
    ("network", "baseline", "chosen"),
    [
        (_ExpectsTheMedian, _IsDeaf, "network"),
        (_IsDeaf, _ExpectsTheMedian, "baseline"),
        (_ExpectsTheMedian, _ExpectsTheMedian, "network"),
        (_IsDeaf, _IsDeaf, "network"),
    ],
    ids=["network finds more", "baseline finds more", "both find the same", "neither finds anything"],
)
def test_auto_takes_the_model_that_finds_more_of_the_faults_put_in(
    network: type[Model], baseline: type[Model], chosen: str
) -> None:
    trained = _train(_monitor(), _history(900), _Fit(network(), baseline()))

    finds = {kind: _found(trained, kind)["all"] for kind in ("network", "baseline")}
    assert trained.kind == trained.artifact.provenance["kind"] == chosen
    assert max(finds.values()) <= 1.2 * finds[chosen]  # a network is given the benefit of the doubt


def test_a_model_that_leaves_nothing_finds_nothing() -> None:
    trained = _train(_monitor(), _history(900), _Fit(_IsDeaf(), _ExpectsTheMedian()))

    assert _found(trained, "network") == dict.fromkeys([*Fault, "all"], 0.0)
    assert _found(trained, "baseline")["all"] > 0.3


def test_faults_that_would_alarm_without_being_put_in_are_not_found() -> None:
    trained = _train(_monitor(), _history(900), _Fit(_CriesWolf(), _ExpectsTheMedian()))

    assert _found(trained, "network")["all"] == 0.0
    assert trained.kind == "baseline"


def test_a_metric_far_from_zero_that_falls_to_it_is_always_found() -> None:
    trained = _train(_monitor(), _history(900), _Fit())  # 25 standard deviations

    assert _found(trained, "baseline")[Fault.FALL_TO_ZERO] == 1.0


def test_all_faults_are_as_many_of_each_kind() -> None:
    found = _found(_train(_monitor(), _history(900), _Fit()), "baseline")

    by_kind = [share for kind, share in found.items() if kind != "all"]
    assert len(by_kind) == len(Fault)
    assert found["all"] == pytest.approx(sum(by_kind) / len(Fault), abs=0.001)


@pytest.mark.parametrize(("fewer", "comparable"), [(0, True), (1, False)], ids=["just enough", "one slot less"])
def test_models_are_compared_where_a_fault_and_all_that_is_looked_back_on_has_room(
    fewer: int, comparable: bool
) -> None:
    decision = DecisionSection(open_slots=2, open_of=3, close_slots=5)
    needed = (TIMESTEPS - 1) + (120 - 1) + (3 - 1) + trial.FAULT_SLOTS
    monitor = _monitor(decision=decision, training=TrainingSection(minimum_slots=100))

    trained = _train(monitor, _history(needed - fewer), _Fit())

    assert (trained.artifact.provenance["detectability"] != {}) == comparable
    assert comparable or trained.kind == "network"  # which is taken where nothing can be compared


def test_the_same_seed_gives_the_same_version_and_another_one_other_faults() -> None:
    first, again, other = (_train(_monitor(), _history(900), _Fit(), seed).artifact.provenance for seed in (1, 1, 2))

    assert first == again
    assert first["detectability"] != other["detectability"]


def test_noise_is_a_high_quantile_of_residuals_and_never_next_to_nothing() -> None:
    monitor = _monitor(model=ModelSection(kind="baseline"))

    usual, deaf = (
        _train(monitor, _history(5000, 1), _Fit(baseline_model=model())) for model in (_ExpectsTheMedian, _IsDeaf)
    )

    # |normal| has its 98th percentile at 2.326; of 1500 residuals two standard errors more is the 98.72nd, at 2.49
    np.testing.assert_allclose(usual.artifact.noise, [[2.49, 2.49]], rtol=0.1)
    np.testing.assert_allclose(usual.artifact.fleet_noise, usual.artifact.noise[0])
    np.testing.assert_allclose(deaf.artifact.noise, [[0.1, 0.1]])


def _twins() -> tuple[ModelVersion, History]:
    """A trained baseline and the part of its history that it was calibrated on."""
    history = _history(1000)
    trained = _train(_monitor(model=ModelSection(kind="baseline")), history, _Fit())
    first = 700  # the newest 30 %
    recent = History(history.entities, START + first * STEP, STEP, history.values[:, first:].copy())
    return trained, recent


def _moved_further(history: History, trained: ModelVersion, factor: float) -> History:
    """The same history with every deviation from the median so many times as large."""
    center = trained.artifact.scaling.center[:, None]
    return replace(history, values=center + np.float32(factor) * (history.values - center))


@pytest.mark.parametrize("factor", [0.75, 1.0, 1.5, 10.0])
def test_drift_is_how_many_times_larger_usual_errors_have_become(factor: float) -> None:
    trained, recent = _twins()

    _, drift = calibrate.recalibrated(PLAN, trained, _moved_further(recent, trained, factor), alerted={})

    assert drift == pytest.approx(factor, rel=0.02)


@pytest.mark.parametrize(("factor", "followed"), [(0.75, 0.75), (1.5, 1.5), (10.0, 2.0), (0.01, 0.5)])
def test_a_recalibration_follows_the_drift_but_no_further_than_twice_or_half(factor: float, followed: float) -> None:
    trained, recent = _twins()

    calibration, _ = calibrate.recalibrated(PLAN, trained, _moved_further(recent, trained, factor), alerted={})

    np.testing.assert_allclose(calibration.start[:, 0], followed * trained.artifact.calibration.start[:, 0], rtol=0.02)
    np.testing.assert_allclose(
        calibration.fleet_start[0], followed * trained.artifact.calibration.fleet_start[0], rtol=0.02
    )


def test_what_was_alerted_does_not_count_in_a_recalibration() -> None:
    trained, recent = _twins()
    values = recent.values.copy()
    values[:, 100:200] += 1000.0
    recent = replace(recent, values=values)
    span = (recent.start + 100 * STEP, recent.start + 200 * STEP)

    left_out, counted = (
        calibrate.recalibrated(PLAN, trained, recent, alerted=alerted)[1]
        for alerted in ({name: [span] for name in recent.entities}, {})
    )

    assert left_out == pytest.approx(1.0, rel=0.1)
    assert counted > 2.0


def _alerts(*peaks_and_verdicts: tuple[float, str | None]) -> list[Alerted]:
    return [Alerted("web-1", n, n + 1, *what) for n, what in enumerate(peaks_and_verdicts)]


@pytest.mark.parametrize(
    ("promised", "left_out"),
    [
        (0.2, [1.2, 1.4, 3.0]),  # none of them is to be expected
        (0.5, [1.4, 3.0]),
        (1.4, [1.4, 3.0]),
        (2.0, [3.0]),
        (9.0, []),
    ],
)
def test_the_weakest_of_the_alerts_are_normal_as_many_as_are_promised(promised: float, left_out: list[float]) -> None:
    alerts = _alerts((3.0, None), (1.2, None), (1.4, None))

    assert sorted(alert.peak_score for alert in calibrate.unpromised(alerts, promised)) == left_out


def test_what_people_say_of_an_alert_goes_before_what_is_promised() -> None:
    alerts = _alerts((1.1, "real"), (3.0, "false"), (1.2, None), (1.4, None))

    assert {alert.peak_score for alert in calibrate.unpromised(alerts, 1.0)} == {1.1, 1.2, 1.4}
    assert {alert.peak_score for alert in calibrate.unpromised(alerts, 2.0)} == {1.1, 1.4}
    assert {alert.peak_score for alert in calibrate.unpromised(alerts, 0.0)} == {1.1, 1.2, 1.4}


def test_only_alerts_of_the_history_are_promised_in_it() -> None:
    _, recent = _twins()
    monitor = _monitor()  # one alert a week
    weeks = (recent.end - recent.start) / (7 * 24 * 3_600_000)
    assert weeks < 0.5  # so that none is promised
    before = Alerted("web-1", recent.start - 10 * STEP, recent.start - STEP, 1.1)
    within = Alerted("web-2", recent.start - STEP, recent.start + STEP, 2.0)

    assert calibrate.not_normal(Plan.of(monitor), recent, [before, within]) == {"web-2": [(within.start, within.end)]}


def test_an_entity_without_recent_history_is_recalibrated_by_the_fleet() -> None:
    trained, recent = _twins()
    alone = replace(recent, entities=("web-1", "new"))

    calibration, _ = calibrate.recalibrated(PLAN, trained, alone, alerted={})

    assert calibration.start.shape == (2, 4)
    np.testing.assert_allclose(calibration.start[0], calibration.fleet_start, rtol=1e-6)


def test_a_recalibration_needs_an_hour_without_alerts() -> None:
    trained, recent = _twins()
    end = recent.start + 230 * STEP

    with pytest.raises(ModelError, match="recalibration needs 60 slots without alerts"):
        calibrate.recalibrated(
            PLAN, trained, recent, alerted={name: [(recent.start, end + 10 * STEP)] for name in recent.entities}
        )


def test_errors_of_the_calibration_part_have_scores_by_the_version_that_comes_from_it() -> None:
    trained, recent = _twins()
    calibration, rows = trained.artifact.calibration, np.arange(2)

    everything = np.ones(recent.values.shape[:2], dtype=np.bool_)
    selection = Selection(recent.values, rows, recent.slots, everything)
    errors, _ = residuals.errors(trained, selection, PLAN.horizon.metric_rules)
    scores = calibration.score(calibration.smoothed(errors, rows), rows)

    # one alert a week in five hours of noise: nearly everything is below 1, and far from 0
    assert np.nanquantile(scores, 0.99) < 1.0
    assert np.nanmedian(scores) > 0.1
