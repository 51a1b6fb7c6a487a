"""The trained autoencoder in NumPy: what the daemon scores with, without Keras.

Everything inside is feature-first, `(features, windows)`, so that the equations read as the field writes them
(`W·x + U·h + b`, x a column) and each gate is one contiguous piece of memory.

What makes it fast (DESIGN.md 5):

- blocks of windows whose arrays stay in a core's L2 cache, one thread per core, one BLAS thread each
- bias and input projection ride in the recurrent matrix product: `[U W b]·[h; x; 1]`
- the decoder's input never changes, so its projection is made once instead of T times
- the decoder runs backwards in time, so the newest slots need only its first steps
- sigmoid(a) = ½ + ½·tanh(a / 2), with the inner ½ folded into the weights: one tanh call serves all gates
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from detector.core import window
from detector.core.series import Float32, Windows
from detector.errors import ArtifactError, ModelError
from detector.models import calendar
from detector.models.artifact import NetworkSpec

BLOCK_STATES = 32_768
"""Units times windows a thread works on at a time: the arrays of a step are 0.8 MB, and each of NumPy's calls has
enough to do. At 32 units this is 1.7 times as fast as 256 windows, at 64 units 1.2 times."""

HALF = np.float32(0.5)


# --- the equations ----------------------------------------------------------------------------------------------------


def lstm_step(a: Float32, c: Float32, h: Float32) -> None:
    """Moves C and h, (U, B), one slot on in place; a: (4, U, B) pre-activations of f, i, o, C̃ (destroyed).

        f = σ(W_f·x + U_f·h + b_f)        C = f∘C + i∘C̃
        i = σ(W_i·x + U_i·h + b_i)        h = o∘tanh(C)
        o = σ(W_o·x + U_o·h + b_o)
        C̃ = tanh(W_c·x + U_c·h + b_c)

    Hochreiter & Schmidhuber, "Long Short-Term Memory", 1997, with the forget gate of Gers et al., 2000. The first
    three of `a` come halved, see `_halve`.
    """
    np.tanh(a, out=a)
    _sigmoid_from_tanh(a[:3])
    f, i, o, candidate = a  # (U, B) each
    c *= f
    candidate *= i
    c += candidate
    np.tanh(c, out=candidate)  # the candidate is used up: its memory holds tanh(C)
    np.multiply(o, candidate, out=h)


def gru_step(a: Float32, _c: Float32, h: Float32) -> None:
    """Moves h, (U, B), one slot on in place; a: (4, U, B) pre-activations of z, r and both parts of h̃ (destroyed).

        z = σ(W_z·x + U_z·h + b_z)        h̃ = tanh(W_h·x + b_h + r∘(U_h·h + b_u))
        r = σ(W_r·x + U_r·h + b_r)        h = z∘h + (1 − z)∘h̃

    Cho et al., "Learning Phrase Representations using RNN Encoder–Decoder", 2014, in the form with the reset gate
    after the product (Keras: `reset_after=True`). The first two of `a` come halved, see `_halve`.
    """
    np.tanh(a[:2], out=a[:2])
    _sigmoid_from_tanh(a[:2])
    z, r, candidate, recurrent = a  # (U, B) each
    recurrent *= r
    candidate += recurrent
    np.tanh(candidate, out=candidate)
    h -= candidate  # h = h̃ + z∘(h − h̃)
    h *= z
    h += candidate


def _sigmoid_from_tanh(t: Float32) -> None:
    t *= HALF
    t += HALF


# --- layers -----------------------------------------------------------------------------------------------------------


class _Recurrent:
    """One LSTM or GRU layer over blocks of windows."""

    def __init__(self, spec: NetworkSpec, kernel: Float32, recurrent_kernel: Float32, bias: Float32) -> None:
        self.units = spec.units
        self._step = lstm_step if spec.cell == "lstm" else gru_step
        gather = _lstm_weights if spec.cell == "lstm" else _gru_weights
        self._recurrent, self._input, self._bias = gather(kernel, recurrent_kernel, bias)  # (4U, U), (4U, D), (4U, 1)
        self._joined = np.hstack([self._recurrent, self._input, self._bias])  # (4U, U + D + 1)

    def unroll(self, inputs: Iterable[Float32], batch: int) -> Iterator[Float32]:
        """Yields h after each of the inputs, (D, B) each; always the same array (U, B), so copy it to keep it."""
        joined = np.zeros((self._joined.shape[1], batch), dtype=np.float32)  # [h; x; 1]
        h, x = joined[: self.units], joined[self.units : -1]
        joined[-1] = 1.0
        c = np.zeros_like(h)
        a = np.empty((4, self.units, batch), dtype=np.float32)
        flat = a.reshape(-1, batch)  # (4U, B)
        for x_t in inputs:
            x[...] = x_t
            np.matmul(self._joined, joined, out=flat)
            self._step(a, c, h)
            yield h

    def repeat(self, constant: Float32, steps: int) -> Iterator[Float32]:
        """Yields h after each of `steps` times the same input, (D, B); always the same array, so copy it to keep it."""
        batch = constant.shape[1]
        projection = self._input @ constant + self._bias  # (4U, B)
        h, c = np.zeros((2, self.units, batch), dtype=np.float32)
        a = np.empty((4, self.units, batch), dtype=np.float32)
        flat = a.reshape(-1, batch)  # (4U, B)
        for _ in range(steps):
            np.matmul(self._recurrent, h, out=flat)
            flat += projection
            self._step(a, c, h)
            yield h


def _lstm_weights(kernel: Float32, recurrent_kernel: Float32, bias: Float32) -> tuple[Float32, Float32, Float32]:
    """Keras's columns i, f, C̃, o as rows f, i, o, C̃: the three sigmoids side by side."""

    def rows(columns: Float32) -> Float32:
        i, f, candidate, o = np.split(columns, 4, axis=1)
        return np.vstack([_halve(f), _halve(i), _halve(o), candidate.T])

    return rows(recurrent_kernel), rows(kernel), rows(bias[None, :])


def _gru_weights(kernel: Float32, recurrent_kernel: Float32, bias: Float32) -> tuple[Float32, Float32, Float32]:
    """Keras's columns z, r, h̃ as rows z, r, input part of h̃, recurrent part of h̃.

    The reset gate stands between the two parts of h̃, so each has rows of its own, zero where the other has weights:
    a third more multiplications, but the layer is the same for both cells.
    """

    def rows(columns: Float32, part: int) -> Float32:
        z, r, candidate = np.split(columns, 3, axis=1)
        parts = [np.zeros_like(candidate.T), np.zeros_like(candidate.T)]
        parts[part] = candidate.T
        return np.vstack([_halve(z), _halve(r), *parts])

    input_bias, recurrent_bias = bias  # (3U,) each
    biases = rows(input_bias[None, :], 0) + rows(recurrent_bias[None, :], 1)
    return rows(recurrent_kernel, 1), rows(kernel, 0), biases


def _halve(columns: Float32) -> Float32:
    """A sigmoid gate's weights as rows, with the ½ of sigmoid(a) = ½ + ½·tanh(a / 2); exact in floating point."""
    return columns.T * HALF


class _Encoder:
    """Stacked layers, each read forwards or in both directions."""

    def __init__(self, forward: list[_Recurrent], backward: list[_Recurrent]) -> None:
        self._forward = forward
        self._backward = backward

    def __call__(self, inputs: Float32) -> Float32:
        """The latent vector: (T − 1, D, B) -> (U, B), or (2U, B) forward state above backward state."""
        if self._backward:
            return self._both_directions(inputs)
        sequence: Iterable[Float32] = inputs
        for layer in self._forward:
            sequence = layer.unroll(sequence, inputs.shape[2])  # each layer pulls slot by slot from the one below
        return _last(sequence)

    def _both_directions(self, inputs: Float32) -> Float32:
        timesteps, _, batch = inputs.shape
        units = self._forward[0].units
        for forward, backward in zip(self._forward[:-1], self._backward[:-1], strict=True):
            outputs = np.empty((timesteps, 2 * units, batch), dtype=np.float32)
            for t, h in enumerate(forward.unroll(inputs, batch)):
                outputs[t, :units] = h
            for t, h in enumerate(backward.unroll(inputs[::-1], batch)):
                outputs[timesteps - 1 - t, units:] = h
            inputs = outputs
        ends = [self._forward[-1].unroll(inputs, batch), self._backward[-1].unroll(inputs[::-1], batch)]
        return np.vstack([_last(end) for end in ends])


def _last(sequence: Iterable[Float32]) -> Float32:
    for h in sequence:
        last = h
    return last


class NumpyAutoencoder:
    """Rebuilds windows, newest slot first, with the weights that `network.train` returned."""

    def __init__(self, spec: NetworkSpec, weights: Mapping[str, NDArray[Any]]) -> None:
        """Takes the arrays named as in `weight_shapes`.

        Raises: ArtifactError if an array is missing, not expected or of another shape than the spec demands.
        """
        _check(spec, weights)
        self.spec = spec
        arrays = {name: np.asarray(weights[name], dtype=np.float32) for name in weight_shapes(spec)}

        def recurrent(prefix: str) -> _Recurrent:
            names = ("kernel", "recurrent_kernel", "bias")
            return _Recurrent(spec, *(arrays[f"{prefix}/{name}"] for name in names))

        layers = range(spec.layers)
        if spec.bidirectional:
            forward = [recurrent(f"encoder_{n}/forward") for n in layers]
            self._encoder = _Encoder(forward, [recurrent(f"encoder_{n}/backward") for n in layers])
        else:
            self._encoder = _Encoder([recurrent(f"encoder_{n}") for n in layers], [])
        self._decoder = [recurrent(f"decoder_{n}") for n in layers]
        self._dense = np.ascontiguousarray(arrays["output/kernel"].T)  # (F, U)
        self._dense_bias = arrays["output/bias"][:, None]  # (F, 1)
        # Finding the BLAS libraries takes milliseconds: once here, not at every call.
        self._blas = ThreadpoolController().select(user_api="blas")

    def residuals(self, windows: Windows) -> Float32:
        """How far the newest slots are from what the network expected: (B, F), scaled, > 0 if higher than expected.

        NaN where the value was missing. Memory beyond the result does not grow with B.

        Raises: ModelError if the windows are not of the model's shape.
        """
        values = windows.values
        self._check_shape(values, (self.spec.timesteps, self.spec.metrics))
        result = np.empty((len(values), self.spec.metrics), dtype=np.float32)

        def score(block: slice) -> None:
            inputs = network_input(self.spec, windows[block])
            np.subtract(values[block, -1], self._rebuild(inputs, 1)[:, 0], out=result[block])

        self._in_blocks(score, len(values))
        return result

    def reconstruct(self, inputs: Float32, newest: int) -> Float32:
        """What the network says the newest slots were: (B, T − 1, channels) of `network_input` -> (B, newest, F).

        Newest slot, which the inputs do not hold, first.

        Raises: ModelError if the inputs are not of the model's shape; ValueError if `newest` is not within 1..T.
        """
        self._check_shape(inputs, (self.spec.timesteps - 1, self.spec.channels))
        if not 1 <= newest <= self.spec.timesteps:
            msg = f"newest must be within 1..{self.spec.timesteps}. Received: {newest}"
            raise ValueError(msg)
        result = np.empty((len(inputs), newest, self.spec.metrics), dtype=np.float32)

        def rebuild(block: slice) -> None:
            result[block] = self._rebuild(inputs[block], newest)

        self._in_blocks(rebuild, len(inputs))
        return result

    def _rebuild(self, inputs: Float32, newest: int) -> Float32:
        """One block on one core: (B, T − 1, channels) -> (B, newest, F)."""
        latent = self._encoder(np.ascontiguousarray(inputs.transpose(1, 2, 0)))  # (T − 1, D, B) -> (U or 2U, B)
        sequence = self._decoder[0].repeat(latent, newest)
        for layer in self._decoder[1:]:
            sequence = layer.unroll(sequence, len(inputs))
        rebuilt = np.empty((newest, self.spec.metrics, len(inputs)), dtype=np.float32)
        for k, h in enumerate(sequence):
            np.matmul(self._dense, h, out=rebuilt[k])  # (F, B)
        rebuilt += self._dense_bias
        return rebuilt.transpose(2, 0, 1)

    def _in_blocks(self, work: Callable[[slice], None], batch: int) -> None:
        """Runs `work` on slices that together are the whole batch, one thread per core.

        BLAS is held to one thread meanwhile, in the whole process: its own threads would fight ours for the cores.
        """
        count = cores()
        most = max(1, BLOCK_STATES // self.spec.units)
        rounds = -(-batch // (most * count))
        size = max(1, -(-batch // max(1, rounds * count)))  # all cores finish together
        blocks = [slice(start, start + size) for start in range(0, batch, size)]
        with self._blas.limit(limits=1), ThreadPoolExecutor(count) as threads:
            list(threads.map(work, blocks))  # list: raise what a block raised

    def _check_shape(self, array: Float32, expected: tuple[int, int]) -> None:
        if (received := array.shape[1:]) != expected:
            msg = f"the model reads windows of shape {expected}, {received} received; run: detector retrain"
            raise ModelError(msg)


def network_input(spec: NetworkSpec, windows: Windows) -> Float32:
    """What a network reads of scaled windows: (B, T − 1, channels)."""
    if not spec.calendar:
        return window.network_input(windows.values)
    read = calendar.before(windows.slots, spec.timesteps - 1, spec.step, spec.time_zone, spec.calendar)
    return window.network_input(windows.values, read)


def cores() -> int:
    """Cores this process may run on, which in a container or under systemd may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- weights ----------------------------------------------------------------------------------------------------------


def weight_shapes(spec: NetworkSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of a network; Keras's layout: (inputs, gates·units)."""
    units = spec.units
    gates = 4 if spec.cell == "lstm" else 3
    directions = ("/forward", "/backward") if spec.bidirectional else ("",)
    latent = units * len(directions)
    shapes: dict[str, tuple[int, ...]] = {}

    def recurrent(name: str, inputs: int) -> None:
        shapes[f"{name}/kernel"] = (inputs, gates * units)
        shapes[f"{name}/recurrent_kernel"] = (units, gates * units)
        shapes[f"{name}/bias"] = (gates * units,) if spec.cell == "lstm" else (2, gates * units)

    for n in range(spec.layers):
        for direction in directions:
            recurrent(f"encoder_{n}{direction}", spec.channels if n == 0 else latent)
    for n in range(spec.layers):
        recurrent(f"decoder_{n}", latent if n == 0 else units)
    return shapes | {"output/kernel": (units, spec.metrics), "output/bias": (spec.metrics,)}


def _check(spec: NetworkSpec, weights: Mapping[str, NDArray[Any]]) -> None:
    expected = weight_shapes(spec)
    for name in [*expected, *weights]:
        wanted = expected.get(name, "no such array")
        received = weights[name].shape if name in weights else "none"
        if received != wanted:
            msg = f"weights {name!r}: {wanted} expected, {received} received; run: detector retrain"
            raise ArtifactError(msg)
