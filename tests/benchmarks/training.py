"""Training beside PyTorch: the same network, the same windows, the same batches and optimizer, turn by turn.

    pip install '.[bench]'
    python tests/benchmarks/training.py --out training.json
    python tests/benchmarks/training.py --units 64 --timesteps 60

Prints JSON, progress goes to stderr. Keras trains as the daemon does, through `network.train`; PyTorch begins with
weights drawn alike and has the same loss, Adam, clipped gradients, noise on the inputs, and the learning rate halved
after each epoch that was no better. Each training is a process of its own, in turns, each turn with another seed;
medians are told. Windows are noisy waves whose period, phase and height differ, so that there is something to learn.

    windows_per_second   of an epoch, validation included, after the first
    start_seconds        from the first import to the first batch that counts, beyond what the batches of an epoch take
    to_loss_seconds      until the validation loss is at most what the worse of both reaches at last, start included
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()

import numpy as np  # noqa: E402 - its import belongs to the start

from detector.core import window  # noqa: E402
from detector.core.series import Float32, Windows  # noqa: E402
from detector.models.artifact import NetworkSpec  # noqa: E402

BATCH, RATE, CLIPNORM, NOISE = 256, 2e-3, 1.0, 0.3
ENGINES = ("keras", "pytorch")


@dataclass
class Epochs:
    """When each epoch ended, in seconds since the program began, and its validation loss."""

    ended: list[float]
    loss: list[float]

    def end(self, loss: float) -> None:
        """Notes the end of an epoch."""
        self.ended.append(time.perf_counter() - BEGAN)
        self.loss.append(loss)


def told(what: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%T')} {what}", file=sys.stderr, flush=True)


def waves(count: int, spec: NetworkSpec, seed: int) -> Float32:
    """Noisy waves, (count, T, F)."""
    rng = np.random.default_rng(seed)
    period = rng.uniform(8.0, 60.0, (count, 1, 1))
    phase = rng.uniform(0.0, 2 * np.pi, (count, 1, 1)) + np.arange(spec.metrics)
    height = rng.uniform(0.5, 2.0, (count, 1, spec.metrics))
    angle = 2 * np.pi * np.arange(spec.timesteps)[None, :, None] / period + phase
    return (height * np.sin(angle) + rng.normal(0.0, 0.2, angle.shape)).astype(np.float32)


def keras(spec: NetworkSpec, training: Float32, validation: Float32, epochs: int, seed: int) -> Epochs:
    """As the daemon trains."""
    from detector.models import network

    noted = Epochs([], [])

    def progress(_done: float, what: str) -> None:
        if ", validation " in what:
            noted.end(float(what.rsplit(" ", 1)[1]))

    def windows(values: Float32) -> Windows:
        none = np.zeros(len(values), dtype=np.int64)
        return Windows(values, none, none)

    settings = network.TrainingSettings(
        learning_rate=RATE,
        clipnorm=CLIPNORM,
        input_noise=NOISE,
        trim=0.0,
        batch_size=BATCH,
        epochs=epochs,
        patience=epochs,
    )
    network.train(spec, windows(training), windows(validation), settings=settings, seed=seed, progress=progress)
    return noted


def pytorch(spec: NetworkSpec, training: Float32, validation: Float32, epochs: int, seed: int) -> Epochs:
    """The same in PyTorch."""
    import torch
    from torch import nn

    class Autoencoder(nn.Module):  # type: ignore[misc]  # may not be installed
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.LSTM(spec.channels, spec.units, batch_first=True)
            self.decoder = nn.LSTM(spec.units, spec.units, batch_first=True)
            self.output = nn.Linear(spec.units, spec.metrics)
            for name, array in self.named_parameters():  # as Keras draws them
                if "bias" in name:
                    nn.init.zeros_(array)
                    if "_ih_" in name:
                        nn.init.ones_(array[spec.units : 2 * spec.units])
                    array.requires_grad_("_hh_" not in name)  # Keras has one bias
                elif "_hh_" in name:
                    nn.init.orthogonal_(array)
                else:
                    nn.init.xavier_uniform_(array)

        def forward(self, inputs: Any) -> Any:
            _, (latent, _) = self.encoder(inputs)
            rebuilt, _ = self.decoder(latent[0][:, None].expand(-1, spec.timesteps, -1))
            return self.output(rebuilt)

    def huber(target: Any, rebuilt: Any) -> Any:
        return nn.functional.huber_loss(rebuilt, target)

    def loss(target: Any, rebuilt: Any) -> Any:
        return huber(target[:, :1], rebuilt[:, :1]) + huber(target[:, 1:], rebuilt[:, 1:])

    torch.manual_seed(seed)
    model = Autoencoder()
    learning = [array for array in model.parameters() if array.requires_grad]
    adam = torch.optim.Adam(learning, RATE, eps=1e-7)
    slower = torch.optim.lr_scheduler.ReduceLROnPlateau(
        adam, factor=0.5, patience=0, threshold=1e-4, threshold_mode="abs"
    )
    data, held_out = (
        [torch.from_numpy(window.network_input(values)), torch.from_numpy(values[:, ::-1].copy())]
        for values in (training, validation)
    )
    noted, rng = Epochs([], []), np.random.default_rng(seed)
    for _ in range(epochs):
        order = torch.from_numpy(rng.permutation(len(training)))
        for chosen in order.split(BATCH):
            inputs, target = (array[chosen] for array in data)
            adam.zero_grad()
            loss(target, model(inputs + NOISE * torch.randn_like(inputs))).backward()
            for array in learning:
                nn.utils.clip_grad_norm_(array, CLIPNORM)
            adam.step()
        with torch.inference_mode():
            parts = [
                (float(loss(target, model(inputs))), len(inputs))
                for inputs, target in zip(*(array.split(BATCH) for array in held_out), strict=True)
            ]
        noted.end(sum(found * count for found, count in parts) / len(validation))
        slower.step(noted.loss[-1])
    return noted


def one(engine: str, asked: Namespace) -> dict[str, Any]:
    """One training, in this process."""
    spec = NetworkSpec(asked.timesteps[0], asked.metrics[0], units=asked.units[0])
    training, validation = waves(asked.windows, spec, 1), waves(asked.windows // 5, spec, 2)
    noted = {"keras": keras, "pytorch": pytorch}[engine](spec, training, validation, asked.epochs, asked.seed)
    return {"ended": noted.ended, "loss": noted.loss}


def reached(run: dict[str, Any], loss: float) -> float:
    """Seconds until the validation loss is that or less."""
    return float(next(at for at, found in zip(run["ended"], run["loss"], strict=True) if found <= loss))


def shape(units: int, timesteps: int, metrics: int, asked: Namespace) -> dict[str, Any]:
    """Both engines for one network."""
    runs: dict[str, list[dict[str, Any]]] = {engine: [] for engine in ENGINES}
    numbers = {"units": units, "timesteps": timesteps, "metrics": metrics}
    numbers_asked = numbers | {"windows": asked.windows, "epochs": asked.epochs}
    options = [text for name, number in numbers_asked.items() for text in (f"--{name}", str(number))]
    for seed in range(asked.repeats):
        for engine, found in runs.items():
            command = [sys.executable, __file__, "--one", engine, "--seed", str(seed), *options]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            found.append(json.loads(done.stdout))
            told(f"{engine} {numbers}: {found[-1]['ended'][-1]:.1f} s, loss {min(found[-1]['loss']):.4f}")
    target = max(min(run["loss"]) for found in runs.values() for run in found)
    result: dict[str, Any] = {**numbers, "target_loss": round(target, 4), "engines": {}}
    for engine, found in runs.items():
        epochs = [statistics.median(np.diff(run["ended"]).tolist()) for run in found]
        result["engines"][engine] = {
            "windows_per_second": round(asked.windows / statistics.median(epochs)),
            "start_seconds": round(
                statistics.median(run["ended"][0] - epoch for run, epoch in zip(found, epochs, strict=True)), 1
            ),
            "to_loss_seconds": round(statistics.median(reached(run, target) for run in found), 1),
            "best_loss": round(statistics.median(min(run["loss"]) for run in found), 4),
        }
    ours, theirs = (result["engines"][engine] for engine in ENGINES)
    return result | {
        "ratio_windows_per_second": round(ours["windows_per_second"] / theirs["windows_per_second"], 2),
        "ratio_to_loss": round(theirs["to_loss_seconds"] / ours["to_loss_seconds"], 2),
    }


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", nargs="+", type=int, default=(64,))
    parser.add_argument("--timesteps", nargs="+", type=int, default=(30, 60))
    parser.add_argument("--metrics", nargs="+", type=int, default=(8,))
    parser.add_argument("--windows", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--one", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(asked.one, asked)))
        return
    found = {"shapes": [shape(*sizes, asked) for sizes in product(asked.units, asked.timesteps, asked.metrics)]}
    result = json.dumps(found, indent=1)
    if asked.out:
        asked.out.write_text(result)
    print(result)


if __name__ == "__main__":
    main()
