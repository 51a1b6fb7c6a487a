"""The graph the daemon scores with computes what the Keras network does, for every supported variant."""

from __future__ import annotations

from itertools import product
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.core.series import Float32, Int64, Windows
from detector.models import inference
from detector.models.artifact import NetworkSpec
from detector.models.inference import Autoencoder

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5  # absolute, scaled units; float32 rounding over some tens of steps stays a tenth of it

CELLS: tuple[Literal["lstm", "gru"], ...] = ("lstm", "gru")
STEP = 3_600_000
SIZES = [(12, 3, 16), (5, 1, 7), (30, 8, 32), (2, 4, 1), (60, 8, 64), (9, 5, 24), (17, 2, 33), (6, 6, 8)]  # T, F, U
VARIANTS = [
    NetworkSpec(timesteps, metrics, cell, units, layers, bidirectional, calendar, "Europe/Berlin", STEP)
    for (cell, layers, bidirectional), calendar, (timesteps, metrics, units) in zip(
        product(CELLS, (1, 2), (False, True)),
        (0, 2, 4, 0, 4, 0, 2, 4),  # each with both cells, both depths and both directions
        SIZES,
        strict=True,
    )
]


def _name(spec: NetworkSpec) -> str:
    directions = "both-ways" if spec.bidirectional else "one-way"
    shape = f"T{spec.timesteps}-F{spec.metrics}-C{spec.calendar}"
    return f"{spec.cell}-{spec.layers}x{spec.units}-{directions}-{shape}"


class Pair:
    """The same random weights in Keras and in the graph; gates neither all open nor all shut."""

    def __init__(self, spec: NetworkSpec) -> None:
        from detector.models import network  # not at the top: whoever collects tests would load TensorFlow

        self.spec = spec
        self.keras = network.build(spec)
        rng = np.random.default_rng(20)
        for weights in self.keras.weights:
            fan_in = weights.shape[0] if weights.name != "bias" else 4
            weights.assign(rng.normal(0.0, 1.5 / np.sqrt(fan_in), weights.shape))
        self.weights = network.weights_of(self.keras)
        self.graph = Autoencoder(spec, self.weights)

    def windows(self, count: int, missing: float, seed: int) -> Windows:
        """Scaled windows at any times, with heavy tails and the given share of NaN."""
        rng = np.random.default_rng(seed)
        values = rng.standard_t(3, (count, self.spec.timesteps, self.spec.metrics)).astype(np.float32)
        values[rng.random(values.shape) < missing] = np.nan
        slots: Int64 = STEP * rng.integers(450_000, 490_000, count)  # 2021 to 2025
        return Windows(values, np.zeros(count, dtype=np.int64), slots)

    def expected(self, windows: Windows) -> Float32:
        """Keras's reconstruction, (B, T, F), newest slot first."""
        if not len(windows):  # TensorFlow 2.21 adds no bias to an empty batch: "Biases must be 1D"
            return np.empty_like(windows.values)
        return np.asarray(self.keras(inference.network_input(self.spec, windows), training=False))


@pytest.fixture(scope="module", params=VARIANTS, ids=_name)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


# The first is less than a block per core, the second some whole blocks and a rest on any machine.
@pytest.mark.parametrize("count", [1, 1283])
def test_reconstruction_equals_keras_at_every_slot(pair: Pair, count: int) -> None:
    windows = pair.windows(count, missing=0.1, seed=1)

    rebuilt = pair.graph.reconstruct(inference.network_input(pair.spec, windows), pair.spec.timesteps)

    np.testing.assert_allclose(rebuilt, pair.expected(windows), rtol=0, atol=TOLERANCE)


@settings(max_examples=3, derandomize=True)
@given(data=st.data())
def test_the_newest_slots_do_not_depend_on_how_many_are_rebuilt(pair: Pair, data: st.DataObject) -> None:
    newest = data.draw(st.integers(1, pair.spec.timesteps), label="newest")
    windows = pair.windows(20, missing=0.1, seed=2)

    rebuilt = pair.graph.reconstruct(inference.network_input(pair.spec, windows), newest)

    np.testing.assert_allclose(rebuilt, pair.expected(windows)[:, :newest], rtol=0, atol=TOLERANCE)


@settings(max_examples=6, derandomize=True)
@given(data=st.data())
def test_residuals_of_any_batch_equal_keras(pair: Pair, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 40), label="count")
    missing = data.draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]), label="missing")
    windows = pair.windows(count, missing, seed=data.draw(st.integers(0, 1000), label="seed"))

    residuals = pair.graph.residuals(windows)

    expected = windows.values[:, -1] - pair.expected(windows)[:, 0]  # NaN where the value is missing
    assert residuals.dtype == np.float32
    np.testing.assert_allclose(residuals, expected, rtol=0, atol=TOLERANCE)


def test_weight_shapes_name_exactly_the_arrays_of_the_keras_network(pair: Pair) -> None:
    assert {name: array.shape for name, array in pair.weights.items()} == inference.weight_shapes(pair.spec)


def test_the_variants_cover_every_calendar_with_every_cell_depth_and_direction() -> None:
    for calendar in (0, 2, 4):
        variants = [spec for spec in VARIANTS if spec.calendar == calendar]
        assert {spec.cell for spec in variants} == set(CELLS)
        assert {spec.layers for spec in variants} == {1, 2}
        assert {spec.bidirectional for spec in variants} == {False, True}
