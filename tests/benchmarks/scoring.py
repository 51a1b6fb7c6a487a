"""Windows scored a second beside other engines: the same weights, the same windows, turn by turn in one run.

    pip install '.[bench]'
    python tests/benchmarks/scoring.py --out scoring.json
    python tests/benchmarks/scoring.py --units 64 --timesteps 60 --metrics 8

Prints JSON, progress goes to stderr. Engines, all float32:

    newest         ours, the newest slot, as the daemon scores
    full           ours, the whole window rebuilt
    predict_32, predict_1024   Keras's `model.predict` with this batch size, whole window, as all that follow
    tensorflow     the Keras model in `tf.function(jit_compile=True)`, 1024 windows a call
    pytorch, onnxruntime, openvino   256 windows a call, their own threads

Every engine's result is compared with Keras's before it is timed. A rate is the median of `--repeats` turns, ratios are
to the fastest of the others; `matrix_peak_gflops` is the best of large NumPy products on all cores, and
`share_of_matrix_peak` the multiplications and additions of the matrix products that `newest` does, by that.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from detector.core.series import Float32, Windows
from detector.models import inference, network  # sets what Keras reads when it is imported
from detector.models.artifact import NetworkSpec
from detector.models.inference import Autoencoder
from detector.operate.cost import flops_of_newest, matrix_peak

Engine = Callable[[Float32], Float32]
"""Inputs (B, T − 1, channels) to rebuilt slots (B, T or 1, F), newest first."""

OURS = ("newest", "full")
TOLERANCE = 1e-4  # to Keras; what is fast must also be right
SLOW = {"predict_32": 8}  # engines timed on so many times fewer windows


def told(what: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%T')} {what}", file=sys.stderr, flush=True)


def in_calls(engine: Engine, batch: int) -> Engine:
    """The same engine, so many windows a call."""

    def run(inputs: Float32) -> Float32:
        parts = [engine(inputs[start : start + batch]) for start in range(0, len(inputs), batch)]
        return np.concatenate(parts)

    return run


def keras_engines(model: Any) -> dict[str, Engine]:
    """`model.predict` as it is used, and the compiled model."""
    import keras
    import tensorflow as tf

    def usual(layer: Any) -> Any:
        """What training does without: XLA cannot compile its operation for all slots."""
        kind = keras.layers.LSTM if isinstance(layer, network.FusedLSTM) else type(layer)
        return kind.from_config(layer.get_config())

    weights = model.get_weights()
    model = keras.models.clone_model(model, clone_function=usual)
    model.set_weights(weights)
    compiled = tf.function(lambda x: model(x, training=False), jit_compile=True)
    return {
        "predict_32": lambda x: np.asarray(model.predict(x, batch_size=32, verbose=0)),
        "predict_1024": lambda x: np.asarray(model.predict(x, batch_size=1024, verbose=0)),
        "tensorflow": in_calls(lambda x: compiled(x).numpy(), 1024),
    }


def pytorch(spec: NetworkSpec, weights: dict[str, Any]) -> Engine:
    """The network in PyTorch; its gates stand in Keras's order."""
    import torch

    def layer(name: str, inputs: int) -> Any:
        made = torch.nn.LSTM(inputs, spec.units, batch_first=True)
        state = {
            "weight_ih_l0": weights[f"{name}/kernel"].T,
            "weight_hh_l0": weights[f"{name}/recurrent_kernel"].T,
            "bias_ih_l0": weights[f"{name}/bias"],
            "bias_hh_l0": np.zeros_like(weights[f"{name}/bias"]),
        }
        made.load_state_dict({key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in state.items()})
        return made.eval()

    encoder, decoder = layer("encoder_0", spec.channels), layer("decoder_0", spec.units)
    kernel, bias = (torch.from_numpy(weights[f"output/{name}"]) for name in ("kernel", "bias"))

    def run(inputs: Float32) -> Float32:
        with torch.inference_mode():
            _, (latent, _) = encoder(torch.from_numpy(inputs))
            rebuilt, _ = decoder(latent[0][:, None].expand(-1, spec.timesteps, -1))
            return np.asarray((rebuilt @ kernel + bias).numpy())

    return in_calls(run, 256)


def onnx_model(spec: NetworkSpec, weights: dict[str, Any]) -> bytes:
    """The network as an ONNX graph: input (B, T − 1, channels), output (T, B, F); gates in the order i, o, f, C̃."""
    from onnx import TensorProto, checker, helper, numpy_helper

    constants: dict[str, Any] = {"steps": np.array([spec.timesteps, 1, 1], dtype=np.int64), "one": np.array([1])}
    constants |= {"dense": weights["output/kernel"], "dense_bias": weights["output/bias"]}
    for name in ("encoder_0", "decoder_0"):
        for part in ("kernel", "recurrent_kernel", "bias"):
            i, f, candidate, o = np.split(weights[f"{name}/{part}"].T, 4, axis=0)
            constants[f"{name}_{part}"] = np.concatenate([i, o, f, candidate])[None]
        bias = constants[f"{name}_bias"]
        constants[f"{name}_bias"] = np.concatenate([bias, np.zeros_like(bias)], axis=1)

    def layer(name: str, inputs: str, outputs: list[str]) -> Any:
        arrays = [f"{name}_{part}" for part in ("kernel", "recurrent_kernel", "bias")]
        return helper.make_node("LSTM", [inputs, *arrays], outputs, hidden_size=spec.units)

    nodes = [
        helper.make_node("Transpose", ["window"], ["by_slot"], perm=[1, 0, 2]),
        layer("encoder_0", "by_slot", ["", "latent"]),
        helper.make_node("Expand", ["latent", "steps"], ["repeated"]),
        layer("decoder_0", "repeated", ["states"]),
        helper.make_node("Squeeze", ["states", "one"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["product"]),
        helper.make_node("Add", ["product", "dense_bias"], ["rebuilt"]),
    ]
    graph = helper.make_graph(
        nodes,
        "autoencoder",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, ["B", spec.timesteps - 1, spec.channels])],
        [helper.make_tensor_value_info("rebuilt", TensorProto.FLOAT, [spec.timesteps, "B", spec.metrics])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def onnx_engines(spec: NetworkSpec, weights: dict[str, Any]) -> dict[str, Engine]:
    """ONNX Runtime and OpenVINO on the same graph."""
    import onnxruntime
    import openvino

    model = onnx_model(spec, weights)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(io.BytesIO(model)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {
        "onnxruntime": in_calls(lambda x: np.asarray(session.run(None, {"window": x})[0]).transpose(1, 0, 2), 256),
        "openvino": in_calls(lambda x: np.asarray(compiled(x)[0]).transpose(1, 0, 2), 256),
    }


def engines(spec: NetworkSpec) -> dict[str, Engine]:
    """All engines with the same random weights; Keras first."""
    model = network.build(spec)
    rng = np.random.default_rng(20)
    for array in model.weights:
        array.assign(rng.normal(0.0, 1.0 / np.sqrt(array.shape[0]), array.shape) if array.name != "bias" else array)
    weights = network.weights_of(model)
    ours = Autoencoder(spec, weights)
    return (
        keras_engines(model)
        | {"pytorch": pytorch(spec, weights)}
        | onnx_engines(spec, weights)
        | {"newest": lambda x: ours.reconstruct(x, 1), "full": lambda x: ours.reconstruct(x, spec.timesteps)}
    )


def shape(spec: NetworkSpec, count: int, repeats: int, peak: float) -> dict[str, Any]:
    """Rates of all engines for one network."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(count, spec.timesteps, spec.metrics)).astype(np.float32)
    nothing = np.zeros(count, dtype=np.int64)
    inputs = inference.network_input(spec, Windows(values, nothing, nothing))
    running = engines(spec)
    expected = running["predict_1024"](inputs)
    for name, engine in running.items():  # warms up, too
        difference = float(np.abs(engine(inputs) - (expected[:, :1] if name == "newest" else expected)).max())
        if difference > TOLERANCE:
            msg = f"{name} differs from Keras by {difference:.1e}, {TOLERANCE:.0e} is allowed"
            raise SystemExit(msg)
    rates: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(repeats):
        for name, engine in running.items():
            part = inputs[: count // SLOW.get(name, 1)]
            began = time.perf_counter()
            engine(part)
            rates[name].append(len(part) / (time.perf_counter() - began))
    median = {name: statistics.median(found) for name, found in rates.items()}
    best = max(rate for name, rate in median.items() if name not in OURS)
    return {
        "units": spec.units,
        "timesteps": spec.timesteps,
        "metrics": spec.metrics,
        "engines": {name: round(rate) for name, rate in median.items()},
        "ratio_newest_slot": round(median["newest"] / best, 2),
        "ratio_full": round(median["full"] / best, 2),
        "share_of_matrix_peak": round(median["newest"] * flops_of_newest(spec) / peak, 2),
    }


def measured(asked: Namespace) -> dict[str, Any]:
    """All shapes that are asked for."""
    peak = matrix_peak()
    told(f"matrix peak {peak / 1e9:.0f} GFLOP/s")
    shapes = []
    for units, timesteps, metrics in product(asked.units, asked.timesteps, asked.metrics):
        spec = NetworkSpec(timesteps, metrics, units=units)
        shapes.append(shape(spec, asked.windows, asked.repeats, peak))
        told(json.dumps(shapes[-1]))
    return {
        "shapes": shapes,
        "min_ratio_newest_slot": min(one["ratio_newest_slot"] for one in shapes),
        "min_ratio_full": min(one["ratio_full"] for one in shapes),
        "matrix_peak_gflops": round(peak / 1e9, 1),
    }


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", nargs="+", type=int, default=(32, 64, 128))
    parser.add_argument("--timesteps", nargs="+", type=int, default=(30, 60, 120))
    parser.add_argument("--metrics", nargs="+", type=int, default=(1, 8, 38))
    parser.add_argument("--windows", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    result = json.dumps(measured(asked), indent=1)
    if asked.out:
        asked.out.write_text(result)
    print(result)


if __name__ == "__main__":
    main()
