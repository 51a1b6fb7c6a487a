"""Training in Keras."""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from waves import at_no_time, sines

from detector.core import window
from detector.core.series import Float32
from detector.errors import ModelError
from detector.models import inference
from detector.models.artifact import NetworkSpec
from detector.models.inference import Autoencoder
from detector.progress import Progress, silent

if TYPE_CHECKING:
    from detector.models.network import Trained

pytestmark = pytest.mark.slow


@cache
def network() -> Any:
    """The module; loaded late, since Keras and TensorFlow take seconds of whoever collects tests."""
    return importlib.import_module("detector.models.network")


SPEC = NetworkSpec(timesteps=8, metrics=2, units=8)
EPOCHS = 6


def _train(values: Float32, seed: int = 1, progress: Progress = silent, **changes: float) -> Trained:
    settings = {"learning_rate": 1e-2, "batch_size": 64, "epochs": EPOCHS} | changes
    trained: Trained = network().train(
        SPEC,
        at_no_time(values),
        at_no_time(sines(64, 9)),
        settings=network().TrainingSettings(**settings),
        seed=seed,
        progress=progress,
    )
    return trained


@pytest.fixture(scope="module")
def trained() -> Trained:
    return _train(sines(512, 1))


def test_training_on_sine_waves_beats_predicting_the_mean(trained: Trained) -> None:
    huber_of_the_mean = 0.25  # half the mean of sin², which is a half; of the newest slot and of the rest

    assert trained.validation_loss < 2 * huber_of_the_mean / 2
    assert trained.epochs == EPOCHS


def test_trained_network_rebuilds_the_newest_slot_first(trained: Trained) -> None:
    windows = sines(200, 3)

    rebuilt = Autoencoder(SPEC, trained.weights).reconstruct(window.network_input(windows), SPEC.timesteps)

    backwards = np.abs(rebuilt - windows[:, ::-1]).mean()
    forwards = np.abs(rebuilt - windows).mean()
    assert backwards < forwards / 2


def test_trained_network_foretells_the_newest_slot_which_it_does_not_read(trained: Trained) -> None:
    windows = sines(200, 3)
    windows[:, -1] += 3.0

    residuals = Autoencoder(SPEC, trained.weights).residuals(at_no_time(windows))

    assert np.median(residuals) == pytest.approx(3.0, abs=0.3)


def test_same_seed_gives_the_same_weights_and_another_seed_does_not() -> None:
    windows = sines(128, 1)

    first, again, other = (_train(windows, seed, epochs=1).weights["encoder_0/kernel"] for seed in (1, 1, 2))

    np.testing.assert_allclose(first, again, rtol=0, atol=1e-6)
    assert np.abs(first - other).max() > 0.01


def test_training_stops_early_and_keeps_the_best_epoch() -> None:
    # nothing gets better after the first epoch
    trained = _train(sines(64, 1), learning_rate=0.0, patience=2)

    assert trained.epochs == 3


def test_progress_rises_from_above_zero_to_one() -> None:
    told: list[float] = []

    _train(sines(64, 1), epochs=3, progress=lambda done, _text: told.append(done))

    assert told == sorted(told)
    assert {1 / 3, 2 / 3, 1.0} <= set(told)


def test_loss_is_quadratic_up_to_one_unit_and_linear_beyond() -> None:
    target = np.array([[[0.5, 3.0]]], dtype=np.float32)

    loss = float(network().masked_huber(target, np.zeros_like(target)))

    assert loss == pytest.approx((0.5 * 0.5**2 + (3.0 - 0.5)) / 2)


def test_missing_values_do_not_count_in_the_loss() -> None:
    target = np.array([[[0.5, np.nan], [np.nan, 1.0]]], dtype=np.float32)
    rebuilt = np.array([[[0.0, 100.0], [-7.0, 1.0]]], dtype=np.float32)

    loss = float(network().masked_huber(target, rebuilt))

    assert loss == pytest.approx((0.125 + 0.0) / 2)


def test_the_newest_slot_counts_in_the_loss_as_much_as_all_others() -> None:
    target = np.array([[[0.5], [3.0], [0.5]], [[np.nan], [1.0], [np.nan]]], dtype=np.float32)  # newest slot first

    loss = float(network().loss(target, np.zeros_like(target)))

    newest, rest = 0.5 * 0.5**2, ((3.0 - 0.5) + 0.5 * 0.5**2 + 0.5 * 1.0**2) / 3
    assert loss == pytest.approx(newest + rest)


class _ForetellsZero:
    def predict_on_batch(self, inputs: Float32) -> Float32:
        return np.zeros((len(inputs), SPEC.timesteps, SPEC.metrics), dtype=np.float32)


def test_the_share_of_windows_that_is_rebuilt_worst_is_left_out() -> None:
    sizes = np.array([1.0, 7.0, 2.0, 6.0, 3.0, 5.0, 4.0, 8.0], dtype=np.float32)
    values = np.broadcast_to(sizes[:, None, None], (8, SPEC.timesteps, SPEC.metrics)).copy()
    batches = network()._Batches(SPEC, at_no_time(values), batch_size=4, seed=1)

    batches.leave_out_worst(_ForetellsZero(), share=0.25)

    targets = np.concatenate([targets for _, targets in batches.dataset()])
    assert set(targets[:, 0, 0].tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}
    assert len(targets) == 8  # some twice, so that there are as many batches as before


def test_no_batch_is_left_with_a_few_windows() -> None:
    batches = network()._Batches(SPEC, at_no_time(sines(65, 1)), batch_size=32, seed=1)

    assert sorted(len(inputs) for inputs, _ in batches.dataset()) == [21, 22, 22]


def test_training_goes_on_without_the_worst_rebuilt_windows() -> None:
    windows = sines(128, 1)

    # the first epoch is a third of them
    everything, without_a_quarter = (_train(windows, epochs=3, trim=trim) for trim in (0.0, 0.25))

    names = ("encoder_0/kernel", "output/bias")
    assert all(np.abs(everything.weights[name] - without_a_quarter.weights[name]).max() > 1e-4 for name in names)


def test_training_stays_quiet_when_the_windows_left_would_fill_fewer_batches() -> None:
    _train(sines(65, 1), epochs=3, trim=0.05)  # 65 windows in 2 batches, 62 would be 1


def test_noise_and_dropout_while_training_leave_the_arrays_as_the_spec_demands() -> None:
    trained = _train(sines(64, 1), epochs=1, dropout=0.2, input_noise=0.1)

    assert {name: array.shape for name, array in trained.weights.items()} == inference.weight_shapes(SPEC)


def test_training_learns_from_windows_with_missing_values() -> None:
    windows = sines(256, 1)
    windows[np.random.default_rng(4).random(windows.shape) < 0.1] = np.nan
    windows[0] = np.nan

    trained = _train(windows, epochs=2)

    assert all(np.isfinite(array).all() for array in trained.weights.values())


def test_no_windows_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"training needs at least 1 window, 0 received; give it"):
        _train(sines(0, 1))


def test_values_far_out_do_not_spoil_training() -> None:
    windows = sines(64, 1)
    windows[0, 0, 0], windows[1, -1, 1] = np.inf, -1e30

    trained = _train(windows, epochs=1)

    # rebuilding 0 everywhere costs ¼ twice, and the two values, which count as 10, 9½ each among 128 and 896 others
    assert trained.loss < 2 * (0.25 + 0.25 + 9.5 / 128 + 9.5 / 896)
    assert all(np.isfinite(array).all() for array in trained.weights.values())


def test_a_loss_that_is_not_finite_ends_training_with_an_error() -> None:
    with pytest.raises(ModelError, match="finite loss"):
        _train(sines(64, 1), learning_rate=1e38, trim=0.0)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
def test_the_fused_layer_computes_and_learns_as_keras_s_own(backwards: bool, sequences: bool) -> None:
    import keras
    import tensorflow as tf

    rng = np.random.default_rng(5)
    inputs = tf.constant(rng.normal(size=(3, 7, 2)), tf.float32)
    settings = {"units": 4, "use_cudnn": False, "return_sequences": sequences, "go_backwards": backwards}
    layers = [keras.layers.LSTM(**settings), network().FusedLSTM(**settings)]
    weights = [rng.normal(size=shape) for shape in ((2, 16), (4, 16), (16,))]

    found = []
    for layer in layers:
        layer.build(inputs.shape)
        layer.set_weights(weights)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs)
            total = tf.reduce_sum(outputs**2)
        found.append([outputs, *tape.gradient(total, [inputs, *layer.trainable_variables])])

    for theirs, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_number_of_cores_does_not_change_what_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for count in (1, 2):
        monkeypatch.setattr(network(), "cores", lambda count=count: count)
        trained = _train(sines(200, 1), input_noise=0.0, epochs=2)  # noise is drawn for each part
        losses.append(trained.validation_loss)

    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
