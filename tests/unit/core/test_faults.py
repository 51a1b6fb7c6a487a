"""Faults put into normal data: each does what it says, and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest

from detector.core import faults
from detector.core.faults import SCALED, Fault
from detector.core.series import Float32

NAN = math.nan
BEGIN, SLOTS, SIZE = 14, 20, 3.0
REPLACED = [kind for kind in Fault if kind not in SCALED]


def _values() -> Float32:
    """Two metrics over 20 slots, in which no value occurs twice."""
    slots = np.arange(SLOTS)
    return np.stack([10.0 + np.sin(slots) + slots**2 / 50, 100.0 - slots], axis=1).astype(np.float32)


def _inject(
    kind: Fault, values: Float32 | None = None, *, seed: int = 0, size: float = SIZE, begin: int = BEGIN
) -> Float32:
    rng = np.random.default_rng(seed)
    return faults.inject(_values() if values is None else values, kind, begin=begin, metric=0, size=size, rng=rng)


@pytest.mark.parametrize("kind", Fault)
def test_a_fault_changes_its_metric_from_its_beginning_on_and_nothing_else(kind: Fault) -> None:
    values = _values()

    faulty = _inject(kind, values)

    np.testing.assert_array_equal(values, _values())
    np.testing.assert_array_equal(faulty[:, 1], values[:, 1])
    np.testing.assert_array_equal(faulty[:BEGIN, 0], values[:BEGIN, 0])
    assert (faulty[BEGIN:, 0] != values[BEGIN:, 0]).any()


@pytest.mark.parametrize("kind", Fault)
def test_the_same_generator_gives_the_same_fault(kind: Fault) -> None:
    np.testing.assert_array_equal(_inject(kind, seed=5), _inject(kind, seed=5))


def test_a_spike_lasts_one_slot() -> None:
    difference = (_inject(Fault.SPIKE) - _values())[BEGIN:, 0]

    np.testing.assert_allclose(np.abs(difference), [SIZE, 0, 0, 0, 0, 0], atol=1e-5)


def test_a_level_shift_moves_every_slot_alike() -> None:
    difference = (_inject(Fault.LEVEL_SHIFT) - _values())[BEGIN:, 0]

    np.testing.assert_allclose(difference * np.sign(difference[0]), [SIZE] * 6, atol=1e-5)


def test_a_drift_grows_evenly_to_its_size_at_the_end() -> None:
    difference = (_inject(Fault.DRIFT) - _values())[BEGIN:, 0]

    np.testing.assert_allclose(np.abs(difference), [SIZE * n / 6 for n in range(1, 7)], atol=1e-5)
    assert len(set(np.sign(difference).tolist())) == 1


@pytest.mark.parametrize("kind", [Fault.SPIKE, Fault.LEVEL_SHIFT, Fault.DRIFT])
def test_a_metric_is_moved_up_as_well_as_down(kind: Fault) -> None:
    signs = {float(np.sign(_inject(kind, seed=seed)[BEGIN, 0] - _values()[BEGIN, 0])) for seed in range(10)}

    assert signs == {-1.0, 1.0}


def test_a_metric_that_falls_to_zero_stays_there() -> None:
    assert _inject(Fault.FALL_TO_ZERO)[BEGIN:, 0].tolist() == [0.0] * 6


@pytest.mark.parametrize(("begin", "kept"), [(BEGIN, BEGIN - 1), (0, 0)], ids=["later", "at the first slot"])
def test_a_frozen_metric_keeps_the_value_before(begin: int, kept: int) -> None:
    frozen = _inject(Fault.FROZEN, begin=begin)[begin:, 0]

    np.testing.assert_array_equal(frozen, np.full(SLOTS - begin, _values()[kept, 0]))


def test_noise_has_its_size_as_standard_deviation_and_no_direction() -> None:
    resting = np.zeros((20_000, 1), dtype=np.float32)

    added = _inject(Fault.NOISE, resting, begin=0)

    # a standard error is size / √(2 · 20,000), half a hundredth of it, and twice that for the mean
    assert added.std() == pytest.approx(SIZE, rel=0.02)
    assert added.mean() == pytest.approx(0.0, abs=0.1)


def test_a_metric_that_lost_its_rhythm_jumps_about_its_median_as_it_does_from_slot_to_slot() -> None:
    values = _values()

    jumps = _inject(Fault.LOST_RHYTHM)[BEGIN:, 0] - np.median(values[:, 0])

    usual = np.append(np.diff(values[:, 0]), 0.0)
    nearest = np.abs(jumps[:, None] - usual).argmin(axis=1)
    np.testing.assert_allclose(jumps, usual[nearest], atol=1e-5)
    assert len(set(nearest.tolist())) == len(jumps)


def test_missing_values_do_not_pull_the_median_of_a_lost_rhythm_to_zero() -> None:
    values = np.full((SLOTS, 1), 50.0, dtype=np.float32)
    values[:12] = NAN

    np.testing.assert_array_equal(_inject(Fault.LOST_RHYTHM, values)[BEGIN:, 0], [50.0] * 6)


def test_a_decoupled_metric_repeats_its_own_past_backwards() -> None:
    np.testing.assert_array_equal(_inject(Fault.DECOUPLED)[BEGIN:, 0], _values()[5::-1, 0])


@pytest.mark.parametrize("kind", REPLACED)
def test_faults_that_replace_what_a_metric_does_have_no_size(kind: Fault) -> None:
    np.testing.assert_array_equal(_inject(kind, size=1.0), _inject(kind, size=100.0))


@pytest.mark.parametrize("kind", SCALED)
def test_faults_that_move_a_metric_move_it_in_proportion_to_their_size(kind: Fault) -> None:
    once, thrice = (_inject(kind, size=size) - _values() for size in (1.0, 3.0))

    np.testing.assert_allclose(thrice, 3.0 * once, atol=1e-4)


@pytest.mark.parametrize("kind", SCALED)
def test_a_missing_value_cannot_be_moved(kind: Fault) -> None:
    values = _values()
    values[BEGIN, 0] = NAN

    assert np.isnan(_inject(kind, values)).tolist() == np.isnan(values).tolist()
