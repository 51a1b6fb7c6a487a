"""The trained autoencoder as the daemon scores with it: a graph for ONNX Runtime, without Keras.

Two things make it fast:

- The decoder runs only as many steps as slots are asked for: it goes backwards in time, so the newest come first.
- Windows are scored in blocks whose arrays stay in a core's cache, one thread per core; no two threads share a block.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# ONNX Runtime (1.32, on Linux too) reports its use to Microsoft unless told otherwise before it is imported: it looks
# up a host there after some seconds and keeps a device id under ~/.cache/Microsoft. Whoever wants that sets this to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from detector.core import window
from detector.core.series import Float32, Windows
from detector.cores import cores
from detector.errors import ArtifactError, ModelError
from detector.models import calendar
from detector.models.artifact import NetworkSpec

BLOCK = 128
"""Windows that a thread scores at a time; from 64 to 256 the speed is the same."""

FEW = 16
"""Windows that are scored before other threads have even started."""

BLOCK_STATES = 1 << 21
"""Slots × units × windows of a block, at most: ONNX Runtime holds the gates of all slots, which are then 32 MB."""

_OPSET, _IR_VERSION = 17, 9  # older than any ONNX Runtime that is allowed, so that each understands them

_GATES = {"lstm": ("ifco", "iofc"), "gru": ("zrh", "zrh")}  # order of Keras, order of ONNX


class Autoencoder:
    """Rebuilds windows, newest slot first, with the weights that `network.train` returned."""

    def __init__(self, spec: NetworkSpec, weights: Mapping[str, NDArray[Any]]) -> None:
        """weights: arrays by the names of `weight_shapes`.

        Raises: ArtifactError if an array is missing, not expected or of another shape than the spec demands.
        """
        _check(spec, weights)
        self.spec = spec
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        arrays = {name: np.asarray(array, dtype=np.float32) for name, array in weights.items()}
        graph = _graph(spec, arrays).SerializeToString()
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def residuals(self, windows: Windows) -> Float32:
        """Distance of the newest slots from the values that the network expected: (B, F) scaled, > 0 if higher.

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
        """The newest slots as the network rebuilds them: (B, T − 1, channels) of `network_input` -> (B, newest, F).

        The newest slot, which the inputs do not hold, comes first.

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
        steps = np.array([newest, 1, 1], dtype=np.int64)
        (rebuilt,) = self._session.run(["rebuilt"], {"window": inputs, "steps": steps})
        return np.asarray(rebuilt)

    def _in_blocks(self, work: Callable[[slice], None], batch: int) -> None:
        """Runs `work` on slices that together are the whole batch, one thread per core."""
        most = BLOCK_STATES // (self.spec.timesteps * self.spec.units)
        size = max(1, min(BLOCK, most, -(-batch // cores())))
        blocks = [slice(start, start + size) for start in range(0, batch, size)]
        if batch <= FEW:
            for block in blocks:
                work(block)
            return
        with ThreadPoolExecutor(cores()) as threads:
            list(threads.map(work, blocks))  # list: raise what a block raised

    def _check_shape(self, array: Float32, expected: tuple[int, int]) -> None:
        if (received := array.shape[1:]) != expected:
            msg = f"the model reads windows of shape {expected}, {received} received; run: detector retrain"
            raise ModelError(msg)


def network_input(spec: NetworkSpec, windows: Windows) -> Float32:
    """Inputs of a network for scaled windows (B, T, F): (B, T − 1, channels)."""
    if not spec.calendar:
        return window.network_input(windows.values)
    read = calendar.before(
        windows.slots, spec.timesteps - 1, step=spec.step, time_zone=spec.time_zone, channels=spec.calendar
    )
    return window.network_input(windows.values, read)


# --- the graph --------------------------------------------------------------------------------------------------------


def _graph(spec: NetworkSpec, weights: Mapping[str, Float32]) -> onnx.ModelProto:
    """`window` (B, T − 1, channels) and `steps` [newest, 1, 1] -> `rebuilt` (B, newest, F).

    Sequences are (T, B, features), as ONNX has them.
    """
    constants: dict[str, NDArray[Any]] = {}
    nodes = [helper.make_node("Transpose", ["window"], ["encoder_in"], perm=[1, 0, 2])]

    def constant(name: str, value: NDArray[Any]) -> str:
        constants[name] = np.ascontiguousarray(value)
        return name

    def node(operation: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operation, inputs, [output], **attributes))
        return output

    def recurrent(name: str, sequence: str, *, is_last: bool = False) -> str:
        """All outputs of a layer, (T, B, U or 2U); of the last layer of the encoder only the last one, (1, B, ...)."""
        both = spec.bidirectional and name.startswith("encoder")
        directions = [f"{name}/forward", f"{name}/backward"] if both else [name]
        inputs = [sequence]
        for part, rows in (("kernel", _rows), ("recurrent_kernel", _rows), ("bias", _bias)):
            stacked = [rows(spec.cell, weights[f"{direction}/{part}"]) for direction in directions]
            inputs.append(constant(f"{name}/{part}", np.stack(stacked)))
        every, last = f"{name}/every", f"{name}/last"
        attributes: dict[str, Any] = {"direction": "bidirectional"} if both else {}
        if spec.cell == "gru":
            attributes["linear_before_reset"] = 1  # Keras: reset_after
        layer = helper.make_node(spec.cell.upper(), inputs, [every, last], hidden_size=spec.units, **attributes)
        nodes.append(layer)
        width = spec.units * len(directions)
        if is_last:  # (directions, B, U)
            beside = node("Transpose", [last], f"{name}/beside", perm=[1, 0, 2])
            return node("Reshape", [beside, constant(f"{name}/shape", np.array([1, -1, width]))], f"{name}/out")
        beside = node("Transpose", [every], f"{name}/beside", perm=[0, 2, 1, 3])  # from (T, directions, B, U)
        return node("Reshape", [beside, constant(f"{name}/shape", np.array([0, 0, width]))], f"{name}/out")

    sequence = "encoder_in"
    for n in range(spec.layers):
        sequence = recurrent(f"encoder_{n}", sequence, is_last=n == spec.layers - 1)
    sequence = node("Expand", [sequence, "steps"], "decoder_in")
    for n in range(spec.layers):
        sequence = recurrent(f"decoder_{n}", sequence)
    product = node("MatMul", [sequence, constant("kernel", weights["output/kernel"])], "product")
    by_slot = node("Add", [product, constant("bias", weights["output/bias"])], "by_slot")
    node("Transpose", [by_slot], "rebuilt", perm=[1, 0, 2])

    graph = helper.make_graph(
        nodes,
        "autoencoder",
        [
            helper.make_tensor_value_info("window", TensorProto.FLOAT, ["B", spec.timesteps - 1, spec.channels]),
            helper.make_tensor_value_info("steps", TensorProto.INT64, [3]),
        ],
        [helper.make_tensor_value_info("rebuilt", TensorProto.FLOAT, ["B", "newest", spec.metrics])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


def _rows(cell: str, columns: Float32) -> Float32:
    """Keras's gates, side by side in columns, as rows in the order of ONNX: (inputs, gates·U) -> (gates·U, inputs)."""
    order, wanted = _GATES[cell]
    gates = dict(zip(order, np.split(columns.T, len(order)), strict=True))
    return np.concatenate([gates[gate] for gate in wanted])


def _bias(cell: str, bias: Float32) -> Float32:
    """Biases of the input and of the recurrent product one after the other; Keras's LSTM has the first alone."""
    of_input, of_recurrent = bias if cell == "gru" else (bias, np.zeros_like(bias))
    return np.concatenate([_rows(cell, of_input), _rows(cell, of_recurrent)])


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
