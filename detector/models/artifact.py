"""Artifact of a model version, to bytes and back: plain NumPy arrays and a JSON header, never pickle."""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detector.core.deviation import Usual
from detector.core.news import Experience, Habits
from detector.core.peaks import Tails
from detector.core.rhythm import Jobs
from detector.core.scaling import Scaling
from detector.core.shape import Shapes
from detector.core.threshold import Calibration
from detector.errors import ArtifactError
from detector.models import schema
from detector.ports import Artifact

Cell = Literal["lstm", "gru"]

FORMAT = 5
"""Raised whenever earlier versions of the program cannot read the bytes any more."""

_WITHOUT_HABITS = 3
"""Format of versions that knew nothing but the tails of errors. They score until the next training."""

_UNSEEN_WEEKS = 1.0  # of normal errors that such a version is taken to know


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
    arrays |= {
        f"habits/{part}/{name}": getattr(getattr(artifact.habits, part), name)
        for part, kind in _HABITS.items()
        for name in _fields(kind)
    }
    # as they are, to the last bit: training rounds them
    arrays["habits/shapes/centres"] = artifact.habits.shapes.centres.astype(np.float16)
    arrays |= {f"experience/{name}": array for name, array in artifact.experience.columns().items()}
    buffer = io.BytesIO()
    np.savez(buffer, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays)
    return buffer.getvalue()


def load(data: bytes) -> Artifact:
    """A model version from its bytes, every part of it checked.

    Raises: ArtifactError if they are no model version, one of another format, or hold what no training writes.
    """
    try:
        arrays = _arrays(data)
        header = json.loads(arrays.pop("header").tobytes())
        if header["format"] not in {FORMAT, _WITHOUT_HABITS}:
            msg = f"model format {FORMAT} expected, {header['format']!r:.40} received; run: detector retrain"
            raise ArtifactError(msg)
        schema.check_header(header, SPECS)
        spec = SPECS[header["kind"]](**header["spec"])
        has_habits = header["format"] == FORMAT
        schema.check_arrays(arrays, entities=len(header["entities"]), metrics=spec.metrics, has_habits=has_habits)
        calibration = Calibration(**{name: arrays[f"calibration/{name}"] for name in _fields(Calibration)})
        habits, experience = _habits(arrays) if has_habits else _without_habits(header, calibration, spec.metrics)
        return Artifact(
            spec=spec,
            weights={name.removeprefix("weights/"): a for name, a in arrays.items() if name.startswith("weights/")},
            entities=tuple(header["entities"]),
            scaling=Scaling(**{name: arrays[f"scaling/{name}"] for name in _fields(Scaling)}),
            noise=arrays["noise"],
            fleet_noise=arrays["fleet_noise"],
            calibration=calibration,
            habits=habits,
            experience=experience,
            freeze_limits=arrays["rest"],
            provenance=header["provenance"],
            seen=arrays.get("seen", np.zeros((0, 0), dtype=np.bool_)),  # versions of before do not say
        )
    except _DAMAGE as exc:
        msg = f"stored model cannot be read ({' '.join(str(exc).split()):.200}); run: detector retrain"
        raise ArtifactError(msg) from exc


# what reading bytes of any kind as an archive, an array or JSON raises
_DAMAGE = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, MemoryError, SyntaxError),
    *(EOFError, OSError, zipfile.BadZipFile, zlib.error, struct.error),
)


def _arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an archive, by name.

    Nothing is unpacked: what `dump` writes is not compressed, so an array cannot be larger than its bytes. The size
    that an array claims is compared with theirs before any memory is taken.
    """
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(data) or name in arrays:
                msg = f"{name!r:.60} is compressed, larger than the whole, or there twice"
                raise ValueError(msg)
            arrays[name] = _array(archive.read(member), name)
    return arrays


def _array(stored: bytes, name: str) -> NDArray[Any]:
    """An array from bytes in NumPy's format."""
    stream = io.BytesIO(stored)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(stream)
    if dtype.hasobject or dtype.itemsize * math.prod(shape) != len(stored) - stream.tell() or min(shape, default=0) < 0:
        msg = f"{name!r:.60} is not of the size that it claims"
        raise ValueError(msg)
    flat = np.frombuffer(stored, dtype=dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _fields(kind: type) -> list[str]:
    """Names of the fields of a dataclass."""
    return [field.name for field in fields(kind)]


_HABITS: dict[str, type[Usual] | type[Shapes] | type[Jobs] | type[Tails]] = {
    "usual": Usual,
    "shapes": Shapes,
    "jobs": Jobs,
    "tails": Tails,
}


def _habits(arrays: Mapping[str, NDArray[Any]]) -> tuple[Habits, Experience]:
    arrays = {**arrays, "habits/shapes/centres": arrays["habits/shapes/centres"].astype(np.float32)}
    parts: dict[str, Any] = {
        part: kind(**{name: arrays[f"habits/{part}/{name}"] for name in _fields(kind)})
        for part, kind in _HABITS.items()
    }
    begin = "experience/"
    columns = {name.removeprefix(begin): array for name, array in arrays.items() if name.startswith(begin)}
    return Habits(**parts), Experience.of(columns)


def _without_habits(header: Mapping[str, Any], calibration: Calibration, metrics: int) -> tuple[Habits, Experience]:
    habits = Habits.of_errors(calibration, metrics=metrics)
    step = header["spec"].get("step", 60_000)
    return habits, Experience.normal(
        habits,
        len(header["entities"]),
        metrics=metrics,
        slot=header["provenance"]["trained_until"],
        step=step,
        weeks=_UNSEEN_WEEKS,
    )
