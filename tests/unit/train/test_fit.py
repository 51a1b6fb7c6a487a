"""History to a model version, with models that need no training."""

from __future__ import annotations

import numpy as np
import pytest
from untrained import START, STEP, TIMESTEPS, ExpectsTheMedian, FakeFit, monitor_of, noise_history, trained_version

from detector.config.sections import ModelSection, TrainingSection
from detector.core.series import History
from detector.errors import ModelError


@pytest.mark.parametrize("slots", [60, 299])
def test_a_short_history_is_enough_for_a_baseline(slots: int) -> None:
    fit = FakeFit()

    trained = trained_version(monitor_of(), noise_history(slots), fit)

    assert (trained.kind, trained.timesteps) == ("baseline", 1)
    assert fit.trained_on is None
    assert trained.artifact.provenance["detectability"] == {}  # there was nothing to compare


@pytest.mark.slow
def test_from_the_minimum_on_a_network_is_trained_as_well() -> None:
    fit = FakeFit()

    trained = trained_version(monitor_of(), noise_history(300), fit)

    assert fit.trained_on is not None
    assert fit.fitted_to is not None
    assert set(trained.artifact.provenance["detectability"]) == {"network", "baseline"}


@pytest.mark.parametrize(("kind", "timesteps"), [("network", TIMESTEPS), ("baseline", 1)])
def test_a_kind_that_is_asked_for_is_the_only_one_fitted(kind: str, timesteps: int) -> None:
    fit = FakeFit()

    trained = trained_version(monitor_of(model=ModelSection.model_validate({"kind": kind})), noise_history(400), fit)

    assert (trained.kind, trained.timesteps) == (kind, timesteps)
    assert (fit.trained_on is not None, fit.fitted_to is not None) == (kind == "network", kind == "baseline")


@pytest.mark.parametrize(
    ("kind", "slots", "needed", "hours"),
    [("auto", 59, 60, "0.1"), ("auto", 0, 60, "1.0"), ("network", 180, 300, "2.0")],
)
def test_too_short_a_history_is_one_line_that_says_how_long_to_wait(
    kind: str, slots: int, needed: int, hours: str
) -> None:
    monitor = monitor_of(model=ModelSection.model_validate({"kind": kind}))

    with pytest.raises(ModelError) as caught:
        trained_version(monitor, noise_history(slots), FakeFit())

    message = str(caught.value)
    assert message.startswith(f"monitor 'web': training needs {needed} slots of 60 s with data")
    assert f"the longest entity has {slots} between 2023-11-14 22:14:00 and " in message
    assert f"wait {hours} h, or lower `training.minimum_slots`" in message
    assert "\n" not in message


def _holed() -> History:
    return noise_history(900, holes=[(slice(None), slice(None, None, 3))])


def test_auto_makes_do_with_a_baseline_where_every_window_has_a_gap() -> None:
    assert trained_version(monitor_of(), _holed(), FakeFit()).kind == "baseline"


def test_a_network_that_is_asked_for_says_that_the_windows_have_gaps() -> None:
    monitor = monitor_of(model=ModelSection.model_validate({"kind": "network"}))

    with pytest.raises(ModelError, match="its windows have gaps: fill them, or raise `max_missing`"):
        trained_version(monitor, _holed(), FakeFit())


def test_without_any_entity_there_is_too_little_history() -> None:
    with pytest.raises(ModelError, match="the longest entity has 0"):
        trained_version(monitor_of(), noise_history(400, entities=0), FakeFit())


@pytest.mark.slow
def test_an_entity_with_too_little_of_its_own_does_not_take_part() -> None:
    history = noise_history(400, entities=3, holes=[(1, slice(59, None))])

    trained = trained_version(monitor_of(), history, FakeFit())

    assert trained.artifact.entities == ("web-0", "web-2")
    assert trained.artifact.noise.shape == (2, 2)


def _staggered() -> History:
    """Three entities: one throughout, one that vanishes, one that appears."""
    return noise_history(600, entities=3, holes=[(1, slice(400, None)), (2, slice(None, 200))])


def test_calibration_windows_share_no_slot_with_those_trained_and_validated_on() -> None:
    fit, model = FakeFit(), ExpectsTheMedian()
    fit.network_model = model

    trained_version(monitor_of(model=ModelSection(kind="network")), _staggered(), fit)

    assert fit.trained_on is not None
    assert fit.validated_on is not None
    calibrated_on = model.asked[0]
    for row in range(3):
        seen = np.concatenate([part.slots[part.rows == row] for part in (fit.trained_on, fit.validated_on)])
        oldest_slots = calibrated_on.slots[calibrated_on.rows == row] - (TIMESTEPS - 1) * STEP
        assert seen.max() < oldest_slots.min()


def test_validation_windows_are_newer_than_those_trained_on() -> None:
    fit = FakeFit()

    trained_version(monitor_of(model=ModelSection(kind="network")), _staggered(), fit)

    assert fit.trained_on is not None
    assert fit.validated_on is not None
    for row in range(3):
        trained, validated = (part.slots[part.rows == row] for part in (fit.trained_on, fit.validated_on))
        assert trained.max() < validated.min()


def test_a_baseline_is_calibrated_on_slots_it_was_not_fitted_to() -> None:
    fit, model = FakeFit(), ExpectsTheMedian()
    fit.baseline_model = model

    trained_version(monitor_of(model=ModelSection(kind="baseline")), _staggered(), fit)

    assert fit.fitted_to is not None
    history, chosen = fit.fitted_to
    calibrated_on = model.asked[0]
    for row in range(3):
        assert history.slots[chosen[row]].max() < calibrated_on.slots[calibrated_on.rows == row].min()


def test_the_newest_share_of_each_entitys_own_slots_calibrates() -> None:
    fit, model = FakeFit(), ExpectsTheMedian()
    fit.baseline_model = model

    trained_version(monitor_of(model=ModelSection(kind="baseline")), _staggered(), fit)

    # 30 % of 600, 400 and 400 slots, which end with 599, 399 and 599
    rows, slots = model.asked[0].rows, (model.asked[0].slots - START) // STEP
    spans = [(slots[rows == row].min(), slots[rows == row].max()) for row in range(3)]
    np.testing.assert_allclose(spans, [(420, 599), (280, 399), (480, 599)], atol=1)


def test_no_more_windows_are_drawn_than_the_configuration_allows() -> None:
    fit, most = FakeFit(), 100
    monitor = monitor_of(model=ModelSection(kind="network"), training=TrainingSection(max_windows=most))

    trained = trained_version(monitor, noise_history(1000), fit)

    assert fit.trained_on is not None
    assert fit.validated_on is not None
    assert (len(fit.trained_on), len(fit.validated_on)) == (most, most // 5)
    assert trained.artifact.provenance["training_windows"] == most


def test_the_days_a_network_is_told_of_are_those_of_the_training_part() -> None:
    fit = FakeFit()

    trained_version(monitor_of(model=ModelSection(kind="network")), noise_history(1440), fit)

    assert fit.days == pytest.approx(0.7, abs=0.001)  # of a day of 1440 minutes


@pytest.mark.slow
def test_the_same_seed_gives_the_same_version_and_another_one_other_faults() -> None:
    first, again, other = (
        trained_version(monitor_of(), noise_history(900), FakeFit(), seed).artifact.provenance for seed in (1, 1, 2)
    )

    assert first == again
    assert first["detectability"] != other["detectability"]
