"""Artifact of a model version, to bytes and back: plain NumPy arrays and a JSON header, never pickle."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from detector.core.scaling import Scaling
from detector.core.threshold import Calibration
from detector.errors import ArtifactError
from detector.ports import Artifact

Cell = Literal["lstm", "gru"]

FORMAT = 3
"""Raised whenever bytes of older versions can no longer be read."""


@dataclass(frozen=True)
class NetworkSpec:
    """Shape of an autoencoder; with the weights it determines every residual."""

    timesteps: int
    metrics: int
    cell: Cell = "lstm"
    units: int = 64
    layers: int = 1
    bidirectional: bool = False
    calendar: int = 0  # channels of `models.calendar`
    time_zone: str = "UTC"
    step: int = 60_000  # milliseconds between two slots

    @property
    def channels(self) -> int:
        """Number of inputs of the encoder for each slot: metrics, share missing, calendar."""
        return self.metrics + 1 + self.calendar


@dataclass(frozen=True)
class BaselineSpec:
    """Rhythm of a baseline: metrics depend on the hour of the week (168 phases), of the day (24), or on none (1)."""

    metrics: int
    phases: int
    time_zone: str = "UTC"

    @property
    def timesteps(self) -> int:
        """Slots of a window: a baseline reads the newest alone."""
        return 1


SPECS: dict[str, type[NetworkSpec] | type[BaselineSpec]] = {"network": NetworkSpec, "baseline": BaselineSpec}


def dump(artifact: Artifact) -> bytes:
    """The bytes of a model version: an uncompressed NPZ archive."""
    header = {
        "format": FORMAT,
        "kind": next(kind for kind, spec in SPECS.items() if isinstance(artifact.spec, spec)),
        "spec": asdict(artifact.spec),  # type: ignore[call-overload]  # one of SPECS, or there is no kind
        "entities": artifact.entities,
        "level": artifact.calibration.level,
        "provenance": dict(artifact.provenance),
    }
    arrays: dict[str, Any] = {f"weights/{name}": array for name, array in artifact.weights.items()}
    arrays |= {
        "noise": artifact.noise,
        "fleet_noise": artifact.fleet_noise,
        "rest": artifact.freeze_limits,
        "seen": artifact.seen,
    }
    arrays |= {f"scaling/{name}": getattr(artifact.scaling, name) for name in _fields(Scaling)}
    arrays |= {f"calibration/{name}": getattr(artifact.calibration, name) for name in _fields(Calibration)}
    buffer = io.BytesIO()
    np.savez(buffer, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays)
    return buffer.getvalue()


def load(data: bytes) -> Artifact:
    """A model version from its bytes.

    Raises: ArtifactError if they are no model version or one of another format.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays["header"].tobytes())
        if header["format"] != FORMAT:
            msg = f"model format {FORMAT} expected, {header['format']} received; run: detector retrain"
            raise ArtifactError(msg)
        return Artifact(
            spec=SPECS[header["kind"]](**header["spec"]),
            weights={name.removeprefix("weights/"): a for name, a in arrays.items() if name.startswith("weights/")},
            entities=tuple(header["entities"]),
            scaling=Scaling(**{name: arrays[f"scaling/{name}"] for name in _fields(Scaling)}),
            noise=arrays["noise"],
            fleet_noise=arrays["fleet_noise"],
            calibration=Calibration(
                **{name: arrays[f"calibration/{name}"] for name in _fields(Calibration)}, level=header["level"]
            ),
            freeze_limits=arrays["rest"],
            provenance=header["provenance"],
            seen=arrays.get("seen", np.zeros((0, 0), dtype=np.bool_)),  # versions of before do not say
        )
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as exc:
        msg = f"stored model cannot be read ({exc}); run: detector retrain"
        raise ArtifactError(msg) from exc


def _fields(kind: type[Scaling] | type[Calibration]) -> list[str]:
    """Names of the array fields."""
    return [name for name in kind.__dataclass_fields__ if name != "level"]
