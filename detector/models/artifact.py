"""A model version as bytes and back: plain NumPy arrays and a JSON header, never pickle."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detector.core.scaling import Scaling
from detector.core.series import Float32
from detector.core.threshold import Calibration
from detector.errors import ArtifactError

Cell = Literal["lstm", "gru"]

FORMAT = 1
"""Raised whenever bytes written by older versions could not be read any more."""


@dataclass(frozen=True)
class NetworkSpec:
    """Shape of an autoencoder; with the weights it determines every residual."""

    timesteps: int
    metrics: int
    cell: Cell = "lstm"
    units: int = 64
    layers: int = 1
    bidirectional: bool = False


@dataclass(frozen=True)
class Artifact:
    """Everything a model version needs to score: network, scaling, noise and calibration of its entities."""

    network: NetworkSpec
    weights: Mapping[str, NDArray[Any]]
    entities: tuple[str, ...]
    scaling: Scaling
    noise: Float32  # (E, F) usual residual of each metric, scaled units
    fleet_noise: Float32  # (F,)
    calibration: Calibration
    provenance: Mapping[str, Any]  # JSON: fingerprint, data range, seed, versions, evaluation


def dump(artifact: Artifact) -> bytes:
    """The bytes of a model version: an uncompressed NPZ archive."""
    header = {
        "format": FORMAT,
        "network": asdict(artifact.network),
        "entities": artifact.entities,
        "level": artifact.calibration.level,
        "provenance": dict(artifact.provenance),
    }
    arrays: dict[str, Any] = {f"weights/{name}": array for name, array in artifact.weights.items()}
    arrays |= {"noise": artifact.noise, "fleet_noise": artifact.fleet_noise}
    arrays |= {f"scaling/{name}": getattr(artifact.scaling, name) for name in _fields(Scaling)}
    arrays |= {f"calibration/{name}": getattr(artifact.calibration, name) for name in _fields(Calibration)}
    buffer = io.BytesIO()
    np.savez(buffer, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays)
    return buffer.getvalue()


def load(data: bytes) -> Artifact:
    """A model version from its bytes.

    Raises: ArtifactError if they are no model version or one of a newer format.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays["header"].tobytes())
        if header["format"] != FORMAT:
            msg = f"model format {FORMAT} expected, {header['format']} received; run: detector retrain"
            raise ArtifactError(msg)
        return Artifact(
            network=NetworkSpec(**header["network"]),
            weights={name.removeprefix("weights/"): a for name, a in arrays.items() if name.startswith("weights/")},
            entities=tuple(header["entities"]),
            scaling=Scaling(**{name: arrays[f"scaling/{name}"] for name in _fields(Scaling)}),
            noise=arrays["noise"],
            fleet_noise=arrays["fleet_noise"],
            calibration=Calibration(
                **{name: arrays[f"calibration/{name}"] for name in _fields(Calibration)}, level=header["level"]
            ),
            provenance=header["provenance"],
        )
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as exc:
        msg = f"stored model cannot be read ({exc}); run: detector retrain"
        raise ArtifactError(msg) from exc


def _fields(kind: type[Scaling] | type[Calibration]) -> list[str]:
    """Names of the array fields."""
    return [name for name in kind.__dataclass_fields__ if name != "level"]
