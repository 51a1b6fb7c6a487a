"""The autoencoder in Keras and its training; the only file that imports Keras.

Never runs in the daemon's own process: importing it costs seconds and half a gigabyte.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core import window
from detector.core.series import Int64, Windows
from detector.cores import cores
from detector.errors import ModelError
from detector.models.artifact import NetworkSpec
from detector.models.inference import network_input
from detector.progress import Progress

# Both are read when Keras and TensorFlow are imported, so they must stand before.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # one core for each part of a batch, see `SideBySide`
os.environ["KERAS_BACKEND"] = "tensorflow"


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Discards what libraries print to file descriptor 2; TensorFlow 2.21 logs there before it reads its log level."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


with _quiet_stderr():
    import keras
    import tensorflow as tf

_PREPARED = 1024  # windows prepared, or rebuilt to find the worst, at a time
_PART = 32  # windows; a smaller part of a batch is not worth a core of its own

REPORT_SECONDS = 1.0
"""Shortest time between two reports of progress within an epoch."""


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a training; none of them changes what the trained network computes."""

    learning_rate: float = 2e-3
    clipnorm: float = 1.0  # longest gradient, guards against the exploding gradients of long windows
    dropout: float = 0.0  # share of a layer's inputs dropped, while training only
    # Standard deviation of noise added to the inputs, scaled units, while training only. Of 0, 0.1 and 0.3 the last
    # ranks best on ASD (.493, .500, .504) and 0.1 on NAB (.316, .323, .316): within what another seed moves.
    input_noise: float = 0.3
    # Share of the windows, the worst rebuilt, left out after a third of the epochs. Without it ranking is the same
    # within what another seed moves (ASD .506 to .504, SKAB .799 to .802): it guards against anomalies in the history.
    trim: float = 0.01
    batch_size: int = 256  # windows; not varied
    epochs: int = 15  # at most
    patience: int = 3  # epochs without a better validation loss before training stops


@dataclass(frozen=True)
class Trained:
    """Weights of the epoch with the best validation loss, and the losses of that epoch (Huber, scaled units)."""

    weights: dict[str, NDArray[Any]]
    loss: float
    validation_loss: float
    epochs: int  # epochs run, including those after the best


def build(spec: NetworkSpec, dropout: float = 0.0, input_noise: float = 0.0) -> keras.Model:
    """The network: (B, T − 1, channels) of `network_input` -> (B, T, F) rebuilt backwards, newest slot first.

    The newest slot is withheld from the encoder, so that it cannot be copied: the decoder predicts it and then rebuilds
    the slots that the encoder has read. One sequence does what the two heads of Wong et al., "AER: Auto-Encoder with
    Regression for Time Series Anomaly Detection", 2022, do.

    The reversed target is that of Srivastava et al., "Unsupervised Learning of Video Representations using LSTMs",
    2015, and Malhotra et al., "LSTM-based Encoder-Decoder for Multi-sensor Anomaly Detection", 2016: the decoder begins
    with the slot that the encoder read last. It gets only the latent vector, never its own output, so that an anomaly
    cannot be copied from slot to slot.
    """
    inputs = keras.Input((spec.timesteps - 1, spec.channels), name="window")
    x = keras.layers.GaussianNoise(input_noise)(inputs) if input_noise else inputs
    for n in range(spec.layers):
        x = _encoder_layer(spec, n, dropout)(x)  # (B, T, U or 2U), the last (B, U or 2U)
    x = keras.layers.RepeatVector(spec.timesteps, name="latent")(x)
    for n in range(spec.layers):
        x = _recurrent(spec, f"decoder_{n}", dropout, return_sequences=True)(x)  # (B, T, U)
    return keras.Model(inputs, keras.layers.Dense(spec.metrics, name="output")(x))


def _encoder_layer(spec: NetworkSpec, n: int, dropout: float) -> keras.Layer:
    name, is_last = f"encoder_{n}", n == spec.layers - 1
    layer = _recurrent(spec, name, dropout, return_sequences=not is_last)
    return keras.layers.Bidirectional(layer, merge_mode="concat", name=name) if spec.bidirectional else layer


def _recurrent(spec: NetworkSpec, name: str, dropout: float, *, return_sequences: bool) -> keras.Layer:
    kind = {"lstm": FusedLSTM, "gru": keras.layers.GRU}[spec.cell]
    return kind(spec.units, dropout=dropout, return_sequences=return_sequences, use_cudnn=False, name=name)


@keras.saving.register_keras_serializable("detector")  # Bidirectional copies it by name
class FusedLSTM(keras.layers.LSTM):  # type: ignore[misc]  # Keras has no types
    """Keras's LSTM with one TensorFlow operation for the loop over all slots, instead of some thirty for each slot."""

    def inner_loop(
        self,
        sequences: Any,
        initial_state: Any,
        mask: Any,
        training: bool = False,  # as Keras calls it
    ) -> tuple[Any, Any, list[Any]]:
        """Last output, outputs and last states of (B, T, D), as keras.layers.RNN wants them; without masks."""
        del mask
        if training and self.dropout:
            sequences *= keras.ops.expand_dims(self.cell.get_dropout_mask(sequences[:, 0]), 1)
        x = keras.ops.transpose(sequences, (1, 0, 2))
        h, c = initial_state
        no_peephole = keras.ops.zeros(self.units)
        done = tf.raw_ops.BlockLSTM(
            seq_len_max=tf.constant(x.shape[0], tf.int64),
            x=keras.ops.flip(x, 0) if self.go_backwards else x,
            cs_prev=c,
            h_prev=h,
            w=_as_icfo(keras.ops.concatenate([self.cell.kernel, self.cell.recurrent_kernel])),
            wci=no_peephole,
            wcf=no_peephole,
            wco=no_peephole,
            b=_as_icfo(self.cell.bias),
            forget_bias=0.0,  # Keras has it in the bias
            cell_clip=-1.0,  # none
        )
        return done.h[-1], keras.ops.transpose(done.h, (1, 0, 2)), [done.h[-1], done.cs[-1]]


def _as_icfo(columns: Any) -> Any:
    """Keras's columns i, f, C̃, o in the order i, C̃, f, o."""
    i, f, candidate, o = keras.ops.split(columns, 4, axis=-1)
    return keras.ops.concatenate([i, candidate, f, o], axis=-1)


class SideBySide(keras.Model):  # type: ignore[misc]  # Keras has no types
    """A network that trains on equal parts of each batch, one on each core; the gradient is that of the whole batch.

    One training step on the whole batch leaves cores idle: its operations are too small to share.
    """

    def __init__(self, network: keras.Model, parts: int) -> None:
        super().__init__()
        self._network = network
        self._parts = parts

    def call(self, inputs: Any, training: bool = False) -> Any:
        """(B, T − 1, channels) -> (B, T, F)."""
        count = keras.ops.shape(inputs)[0]
        bounds = [n * count // self._parts for n in range(self._parts + 1)]
        parts = [inputs[begin:end] for begin, end in itertools.pairwise(bounds)]
        return keras.ops.concatenate([self._network(part, training=training) for part in parts])


def train(
    spec: NetworkSpec,
    windows: Windows,
    validation: Windows,
    *,
    settings: TrainingSettings,
    seed: int,
    progress: Progress,
) -> Trained:
    """Trains a new network on scaled windows, NaN = missing; `validation` decides when to stop.

    After a third of the epochs the worst rebuilt windows are left out: anomalies in the training data are among them.
    The same seed and data give the same weights on the same machine and versions.

    Raises: ModelError if there are no windows to train on or to validate with, or if the loss is not finite.
    """
    _require_windows(windows, "training")
    _require_windows(validation, "validation")
    keras.utils.set_random_seed(seed)
    network = build(spec, settings.dropout, settings.input_noise)
    model = SideBySide(network, min(cores(), max(1, min(settings.batch_size, len(windows)) // _PART)))
    model.compile(
        optimizer=keras.optimizers.Adam(settings.learning_rate, clipnorm=settings.clipnorm),
        loss=loss,
        jit_compile=False,  # XLA takes twice as long for the same loop, and compiles for seconds first
    )
    best = keras.callbacks.EarlyStopping(patience=settings.patience, restore_best_weights=True)
    slower = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1)
    batches = _Batches(spec, windows, batch_size=settings.batch_size, seed=seed)
    report = _Report(progress, settings.epochs, len(batches))
    trim = _Trim(batches, settings.trim, after=max(1, settings.epochs // 3))
    history = model.fit(
        batches.dataset(),
        validation_data=_Batches(spec, validation, batch_size=settings.batch_size).dataset(),
        epochs=settings.epochs,
        shuffle=False,  # _Batches does it
        callbacks=[best, slower, _StopOnNaN(), trim, _Shuffle(batches), report],
        verbose=0,
    ).history
    return _result(network, history)


def _require_windows(windows: Windows, purpose: str) -> None:
    if len(windows) == 0:
        msg = f"{purpose} needs at least 1 window, 0 received; give it a longer time range or a shorter window"
        raise ModelError(msg)


def _result(model: keras.Model, history: dict[str, list[float]]) -> Trained:
    losses = np.array([history["loss"], history.get("val_loss", [np.nan] * len(history["loss"]))])  # (2, epochs)
    if not np.isfinite(losses).all():
        msg = (
            f"training expects a finite loss, {losses[:, -1]} received in epoch {losses.shape[1]}; "
            "lower learning_rate or check the data for extreme values"
        )
        raise ModelError(msg)
    loss, validation_loss = losses[:, losses[1].argmin()]
    return Trained(weights_of(model), float(loss), float(validation_loss), losses.shape[1])


def loss(target: Any, rebuilt: Any) -> Any:  # Any: tensors of Keras's backend
    """Loss of the newest slot plus that of all others, (B, T, F) each: the scored slot counts as much as the others."""
    return masked_huber(target[:, :1], rebuilt[:, :1]) + masked_huber(target[:, 1:], rebuilt[:, 1:])


def masked_huber(target: Any, rebuilt: Any) -> Any:  # Any: tensors of Keras's backend
    """Mean Huber loss of the values that are known, (B, T, F) each; NaN in the target does not count.

    Huber, "Robust Estimation of a Location Parameter", 1964, delta 1 = one scaled unit: quadratic for usual noise,
    linear beyond, so that unlabelled anomalies and spikes in the training data do not teach the network to follow them.
    """
    known = keras.ops.logical_not(keras.ops.isnan(target))
    error = keras.ops.abs(keras.ops.where(known, target - rebuilt, 0.0))
    inside = keras.ops.minimum(error, 1.0)
    huber = inside * (error - 0.5 * inside)  # ½e² up to 1, e − ½ beyond
    return keras.ops.sum(huber) / keras.ops.maximum(keras.ops.sum(keras.ops.cast(known, "float32")), 1.0)


def weights_of(model: keras.Model) -> dict[str, NDArray[Any]]:
    """The trained arrays by name: "encoder_0/kernel", with directions "encoder_0/forward/kernel", "output/bias"."""
    arrays: dict[str, NDArray[Any]] = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Bidirectional):
            parts = {"/forward": layer.forward_layer, "/backward": layer.backward_layer}
        else:
            parts = {"": layer}
        for direction, part in parts.items():
            arrays |= {f"{layer.name}{direction}/{w.name}": keras.ops.convert_to_numpy(w) for w in part.weights}
    return arrays


def keras_version() -> str:
    """The version of Keras that trains here, for a model version's provenance."""
    return str(keras.__version__)


class _Batches:
    """Windows in TensorFlow's memory; its own threads gather the batches while Python does something else."""

    def __init__(self, spec: NetworkSpec, windows: Windows, *, batch_size: int, seed: int | None = None) -> None:
        """seed: of the order of the windows, which changes every epoch; None: their own order."""
        count = len(windows)
        inputs = np.empty((count, spec.timesteps - 1, spec.channels), dtype=np.float32)
        targets = np.empty((count, spec.timesteps, spec.metrics), dtype=np.float32)
        for begin in range(0, count, _PREPARED):
            block = windows[begin : begin + _PREPARED]
            inputs[begin : begin + _PREPARED] = network_input(spec, block)
            clip = window.INPUT_CLIP
            np.clip(block.values[:, ::-1], -clip, clip, out=targets[begin : begin + _PREPARED])
        self._inputs, self._targets = tf.constant(inputs), tf.constant(targets)
        self._batch_size = batch_size
        self._rng = None if seed is None else np.random.default_rng(seed)
        self._order: Int64 = np.arange(count)
        self._read = tf.Variable(self._order)  # the order of the epoch that runs
        self.shuffle()

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._batch_size)

    def dataset(self) -> Any:
        """Batches of inputs (B, T − 1, channels) and targets (B, T, F), newest slot first."""

        def batch(n: Any) -> tuple[Any, Any]:
            # of equal size: BlockLSTM's gradient is undefined for a core that is left without a window
            chosen = self._read[n * len(self._order) // len(self) : (n + 1) * len(self._order) // len(self)]
            return tf.gather(self._inputs, chosen), tf.gather(self._targets, chosen)

        return tf.data.Dataset.range(len(self)).map(batch).prefetch(2)

    def shuffle(self) -> None:
        """Changes the order of the windows for the next epoch."""
        if self._rng is not None:
            self._rng.shuffle(self._order)
            self._read.assign(self._order)

    def leave_out_worst(self, model: keras.Model, share: float) -> None:
        """Drops the share of the windows that the model rebuilds worst."""
        order = np.sort(self._order)
        errors = np.empty(len(order))
        for start in range(0, len(order), _PREPARED):
            chosen = order[start : start + _PREPARED]
            difference = np.abs(
                tf.gather(self._targets, chosen) - model.predict_on_batch(tf.gather(self._inputs, chosen))
            )
            errors[start : start + _PREPARED] = np.nan_to_num(difference).mean(axis=(1, 2))
        kept = order[np.argsort(errors, kind="stable")[: len(order) - int(share * len(order))]]
        if self._rng is not None:
            self._rng.shuffle(kept)  # so that those which come twice are any of them, not the best
        self._order = np.resize(kept, len(order))  # as many batches as before: Keras counts on it
        self.shuffle()


class _Shuffle(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Changes the order of the windows after each epoch."""

    def __init__(self, batches: _Batches) -> None:
        super().__init__()
        self._batches = batches

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._batches.shuffle()


class _StopOnNaN(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Ends a training that cannot recover, as keras.callbacks.TerminateOnNaN does, which prints to stdout."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if not math.isfinite(float((logs or {}).get("loss", 0.0))):
            self.model.stop_training = True


class _Trim(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Drops the worst rebuilt windows, once, after some epochs."""

    def __init__(self, batches: _Batches, share: float, after: int) -> None:
        super().__init__()
        self._batches = batches
        self._share = share
        self._after = after

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch + 1 == self._after and self._share > 0.0:
            self._batches.leave_out_worst(self.model, self._share)


class _Report(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Reports progress about every second, and after each epoch."""

    def __init__(self, progress: Progress, epochs: int, batches: int) -> None:
        super().__init__()
        self._progress = progress
        self._epochs = epochs
        self._batches = batches
        self._epoch = 0
        self._reported = time.monotonic()  # only paces the reports; nothing that is computed depends on it

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if time.monotonic() - self._reported >= REPORT_SECONDS:
            self._show(self._epoch + (batch + 1) / self._batches, f"loss {float((logs or {})['loss']):.4f}")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        losses = logs or {}
        text = f"loss {float(losses['loss']):.4f}, validation {float(losses.get('val_loss', np.nan)):.4f}"
        self._show(epoch + 1, text)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._progress(1.0, f"trained {self._epoch + 1} epochs")

    def _show(self, epochs_done: float, text: str) -> None:
        self._reported = time.monotonic()
        self._progress(epochs_done / self._epochs, f"epoch {self._epoch + 1}/{self._epochs}, {text}")
