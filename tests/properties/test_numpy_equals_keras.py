"""The NumPy autoencoder computes what the Keras one does, for every supported variant."""

from __future__ import annotations

from itertools import product
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.core import window
from detector.core.series import Float32
from detector.models import lstm, network
from detector.models.artifact import NetworkSpec
from detector.models.lstm import NumpyAutoencoder

TOLERANCE = 1e-5  # absolute, scaled units; float32 rounding over some tens of steps stays a tenth of it

CELLS: tuple[Literal["lstm", "gru"], ...] = ("lstm", "gru")
VARIANTS = [
    NetworkSpec(timesteps, metrics, cell, units, layers, bidirectional)
    for (cell, layers, bidirectional), (timesteps, metrics, units) in zip(
        product(CELLS, (1, 2), (False, True)),
        [(12, 3, 16), (5, 1, 7), (30, 8, 32), (2, 4, 1), (60, 8, 64), (9, 5, 24), (17, 2, 33), (6, 6, 8)],
        strict=True,
    )
]


def _name(spec: NetworkSpec) -> str:
    directions = "both-ways" if spec.bidirectional else "one-way"
    return f"{spec.cell}-{spec.layers}x{spec.units}-{directions}-T{spec.timesteps}-F{spec.metrics}"


class Pair:
    """The same random weights in Keras and in NumPy; gates neither all open nor all shut."""

    def __init__(self, spec: NetworkSpec) -> None:
        self.spec = spec
        self.keras = network.build(spec)
        rng = np.random.default_rng(20)
        for weights in self.keras.weights:
            fan_in = weights.shape[0] if weights.name != "bias" else 4
            weights.assign(rng.normal(0.0, 1.5 / np.sqrt(fan_in), weights.shape))
        self.numpy = NumpyAutoencoder(spec, network.weights_of(self.keras))

    def windows(self, count: int, missing: float, seed: int) -> Float32:
        """Scaled windows with heavy tails and the given share of NaN."""
        rng = np.random.default_rng(seed)
        windows = rng.standard_t(3, (count, self.spec.timesteps, self.spec.metrics)).astype(np.float32)
        windows[rng.random(windows.shape) < missing] = np.nan
        return windows

    def expected(self, windows: Float32) -> Float32:
        """Keras's reconstruction, (B, T, F), newest slot first."""
        if not len(windows):  # TensorFlow 2.21 adds no bias to an empty batch: "Biases must be 1D"
            return np.empty_like(windows)
        return np.asarray(self.keras(window.network_input(windows), training=False))


@pytest.fixture(scope="module", params=VARIANTS, ids=_name)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


# The first is an even share of one block per core, the second some whole blocks and a rest on any machine.
@pytest.mark.parametrize("count", [1, 5 * lstm.BLOCK + 3])
def test_reconstruction_equals_keras_at_every_slot(pair: Pair, count: int) -> None:
    windows = pair.windows(count, missing=0.1, seed=1)

    rebuilt = pair.numpy.reconstruct(window.network_input(windows), pair.spec.timesteps)

    np.testing.assert_allclose(rebuilt, pair.expected(windows), rtol=0, atol=TOLERANCE)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_residuals_of_any_batch_equal_keras(pair: Pair, data: st.DataObject) -> None:
    newest = data.draw(st.integers(1, pair.spec.timesteps), label="newest")
    count = data.draw(st.integers(0, 40), label="count")
    missing = data.draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]), label="missing")
    windows = pair.windows(count, missing, seed=data.draw(st.integers(0, 1000), label="seed"))

    residuals = pair.numpy.residuals(windows, newest)

    expected = np.abs(windows[:, ::-1] - pair.expected(windows))[:, :newest]  # NaN where the value is missing
    assert residuals.dtype == np.float32
    np.testing.assert_allclose(residuals, expected, rtol=0, atol=TOLERANCE)


def test_weight_shapes_name_exactly_the_arrays_of_the_keras_network(pair: Pair) -> None:
    arrays = network.weights_of(pair.keras)

    assert {name: array.shape for name, array in arrays.items()} == lstm.weight_shapes(pair.spec)
