"""The graph for ONNX Runtime against arithmetic done by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from waves import at_no_time, sines

from detector.core import window
from detector.core.series import Float32
from detector.errors import ArtifactError, ModelError
from detector.models import inference
from detector.models.artifact import NetworkSpec
from detector.models.inference import Autoencoder

SPEC = NetworkSpec(timesteps=8, metrics=2, units=8)


def _arrays(spec: NetworkSpec) -> dict[str, Float32]:
    rng = np.random.default_rng(5)
    return {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in inference.weight_shapes(spec).items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": 9}, r"'encoder_0/kernel': \(3, 36\) expected, \(3, 32\) received"),
        ({"metrics": 3}, r"'encoder_0/kernel': \(4, 32\) expected, \(3, 32\) received"),
        ({"layers": 2}, r"'encoder_1/kernel': \(8, 32\) expected, none received"),
        ({"cell": "gru"}, r"'encoder_0/kernel': \(3, 24\) expected, \(3, 32\) received"),
        ({"bidirectional": True}, r"'encoder_0/forward/kernel': \(3, 32\) expected, none received"),
    ],
)
def test_weights_of_another_spec_are_refused_by_name_and_shape(change: dict[str, object], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Autoencoder(replace(SPEC, **change), _arrays(SPEC))  # type: ignore[arg-type]


def test_weights_that_the_spec_has_no_place_for_are_refused() -> None:
    two_layers = _arrays(replace(SPEC, layers=2))

    with pytest.raises(ArtifactError, match="no such array expected"):
        Autoencoder(replace(SPEC, layers=1), two_layers)


def test_windows_of_another_shape_are_refused() -> None:
    model = Autoencoder(SPEC, _arrays(SPEC))

    with pytest.raises(ModelError, match=r"\(8, 2\), \(8, 3\) received"):
        model.residuals(at_no_time(np.zeros((4, 8, 3), dtype=np.float32)))


def test_inputs_that_hold_the_newest_slot_are_refused() -> None:
    model = Autoencoder(SPEC, _arrays(SPEC))

    with pytest.raises(ModelError, match=r"\(7, 3\), \(8, 3\) received"):
        model.reconstruct(np.zeros((4, 8, 3), dtype=np.float32), 1)


@pytest.mark.parametrize("newest", [0, 9])
def test_no_more_slots_are_rebuilt_than_a_window_has(newest: int) -> None:
    model = Autoencoder(SPEC, _arrays(SPEC))

    with pytest.raises(ValueError, match=r"within 1\.\.8"):
        model.reconstruct(np.zeros((4, 7, 3), dtype=np.float32), newest)


def test_no_windows_give_no_residuals() -> None:
    model = Autoencoder(SPEC, _arrays(SPEC))

    assert model.residuals(at_no_time(np.empty((0, 8, 2), dtype=np.float32))).shape == (0, 2)


def _sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a))


def _lstm_by_hand(
    x: tuple[float, ...], h: float, c: float, weights: dict[str, Float32], layer: str
) -> tuple[float, float]:
    """One LSTM step of one unit; Keras stores the gates in the order i, f, C̃, o."""
    kernel, recurrent, bias = (
        weights[f"{layer}/{name}"].astype(float) for name in ("kernel", "recurrent_kernel", "bias")
    )
    a = [sum(x[d] * kernel[d, g] for d in range(len(x))) + h * recurrent[0, g] + bias[g] for g in range(4)]
    i, f, candidate, o = _sigmoid(a[0]), _sigmoid(a[1]), math.tanh(a[2]), _sigmoid(a[3])
    c = f * c + i * candidate
    return o * math.tanh(c), c


def test_one_unit_lstm_equals_scalar_arithmetic() -> None:
    spec = NetworkSpec(timesteps=3, metrics=1, units=1)
    weights = _arrays(spec)
    oldest, older, newest = 0.7, -1.2, 0.4

    h, c = _lstm_by_hand((oldest, 0.0), 0.0, 0.0, weights, "encoder_0")  # 0.0: nothing is missing
    latent, _ = _lstm_by_hand((older, 0.0), h, c, weights, "encoder_0")
    first, c = _lstm_by_hand((latent,), 0.0, 0.0, weights, "decoder_0")
    second, c = _lstm_by_hand((latent,), first, c, weights, "decoder_0")
    third, _ = _lstm_by_hand((latent,), second, c, weights, "decoder_0")
    scale, offset = float(weights["output/kernel"][0, 0]), float(weights["output/bias"][0])
    expected = [scale * h + offset for h in (first, second, third)]

    values = np.array([[[oldest], [older], [newest]]], dtype=np.float32)
    model = Autoencoder(spec, weights)

    rebuilt = model.reconstruct(window.network_input(values), 3)
    np.testing.assert_allclose(rebuilt[0, :, 0], expected, rtol=0, atol=1e-6)
    assert model.residuals(at_no_time(values))[0, 0] == pytest.approx(newest - expected[0], abs=1e-6)


def test_residuals_are_positive_where_the_newest_value_is_higher_than_foretold_and_unknown_where_it_is_missing() -> (
    None
):
    model = Autoencoder(SPEC, _arrays(SPEC))
    values = np.repeat(sines(1, 2), 3, axis=0)
    values[:, -1] = [[50.0, -50.0], [60.0, np.nan], [np.nan, np.nan]]

    residuals = model.residuals(at_no_time(values))

    assert residuals[0, 0] > 0.0 > residuals[0, 1]
    assert residuals[1, 0] - residuals[0, 0] == pytest.approx(10.0, abs=1e-4)
    assert np.isnan(residuals).tolist() == [[False, False], [False, True], [True, True]]
