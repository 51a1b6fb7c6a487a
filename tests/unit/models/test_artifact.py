"""Stored models: read as they were written; refused if they hold what no training writes (x03, x11, x13)."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from detector.core.scaling import Scaling
from detector.core.series import Windows
from detector.core.threshold import Calibration
from detector.errors import ArtifactError
from detector.models import artifact as artifacts
from detector.models import versions
from detector.models.artifact import BaselineSpec, NetworkSpec
from detector.models.inference import weight_shapes
from detector.ports import Artifact

E, F, T = 3, 2, 4
PROVENANCE = {
    "fingerprint": "abc",
    "trained_from": 1_700_000_000_000,
    "trained_until": 1_700_100_000_000,
    "created_at": 1_700_200_000_000,
    "detectability": {"network": {"all": 0.5}},
    "recalibrated_from": 1,  # this and the next are of earlier versions
    "drift": 1.25,
}
DAMAGED = 300  # seeded random damages of each model


def _bytes(kind: str) -> bytes:
    ones, spans = np.ones((E, F), np.float32), np.ones((E, 4), np.float32)
    spec: NetworkSpec | BaselineSpec = BaselineSpec(F, 1)
    weights: dict[str, Any] = {
        "profile": np.zeros((E, 1, F), np.float32),
        "fleet_profile": np.zeros((1, F), np.float32),
    }
    if kind == "network":
        spec = NetworkSpec(timesteps=T, metrics=F, units=2)
        weights = {name: np.full(shape, 0.1, np.float32) for name, shape in weight_shapes(spec).items()}
    return artifacts.dump(
        Artifact(
            spec=spec,
            weights=weights,
            entities=("a", "b", "c"),
            scaling=Scaling(0 * ones, ones, ones[0]),
            noise=ones,
            fleet_noise=ones[0],
            calibration=Calibration(spans, spans, spans[0], spans[0], 3.0),
            freeze_limits=np.zeros((E, F), np.int64),
            provenance={"kind": kind, **PROVENANCE},
        )
    )


BYTES = {kind: _bytes(kind) for kind in ("network", "baseline")}


def _parts(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    with np.load(io.BytesIO(data)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return json.loads(arrays.pop("header").tobytes()), arrays


def _stored(header: Any, arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    np.savez(buffer, header=np.frombuffer(written, np.uint8), **arrays)
    return buffer.getvalue()


def _scores(data: bytes) -> None:
    """Loads a version and asks it for residuals, which are numbers if the values are."""
    version = versions.load(data, 1)
    windows = Windows(
        np.ones((2, version.timesteps, F), np.float32), np.array([0, -1]), np.full(2, PROVENANCE["created_at"])
    )
    assert np.isfinite(version.network.residuals(windows)).all()
    assert version.trained_from <= version.trained_until
    assert version.detectability is not None


@pytest.mark.parametrize("kind", BYTES)
def test_what_was_written_is_read(kind: str) -> None:
    _scores(BYTES[kind])

    loaded = artifacts.load(BYTES[kind])
    assert loaded.entities == ("a", "b", "c")
    assert artifacts.dump(loaded) == BYTES[kind]


Damage = Callable[[dict[str, Any], dict[str, Any]], object]

DAMAGES: dict[str, Damage] = {
    "noise of another shape": lambda h, a: a.update(noise=np.ones((E, F + 1), np.float32)),
    "NaN noise": lambda h, a: a.update(noise=np.full((E, F), np.nan, np.float32)),
    "infinite scale": lambda h, a: a.update({"scaling/scale": np.full((E, F), np.inf, np.float32)}),
    "zero scale": lambda h, a: a.update({"scaling/scale": np.zeros((E, F), np.float32)}),
    "text as noise": lambda h, a: a.update(noise=np.full((E, F), "x")),
    "NaN weights": lambda h, a: a.update({n: x * np.nan for n, x in a.items() if n.startswith("weights/")}),
    "no weights": lambda h, a: [a.pop(name) for name in list(a) if name.startswith("weights/")],
    "more weights": lambda h, a: a.update({"weights/more": np.ones(3, np.float32)}),
    "another array": lambda h, a: a.update(more=np.ones(3, np.float32)),
    "no calibration": lambda h, a: a.pop("calibration/start"),
    "negative decay": lambda h, a: a.update({"calibration/decay": np.full((E, 4), -1, np.float32)}),
    "text for a level": lambda h, a: h.update(level="3"),
    "NaN for a level": lambda h, a: h.update(level=float("nan")),
    "level 0": lambda h, a: h.update(level=0),
    "no level": lambda h, a: h.pop("level"),
    "a billion metrics": lambda h, a: h["spec"].update(metrics=10**9),
    "text for metrics": lambda h, a: h["spec"].update(metrics="2"),
    "unknown zone": lambda h, a: h["spec"].update(time_zone="../../etc/passwd"),
    "unknown kind": lambda h, a: h.update(kind="forest"),
    "a list as kind": lambda h, a: h.update(kind=["network"]),
    "no provenance": lambda h, a: h.pop("provenance"),
    "provenance without time": lambda h, a: h["provenance"].pop("created_at"),
    "provenance without kind": lambda h, a: h["provenance"].pop("kind"),
    "detectability without all": lambda h, a: h["provenance"].update(detectability={"network": {}}),
    "text for a time": lambda h, a: h["provenance"].update(trained_from="yesterday"),
    "entities twice": lambda h, a: h.update(entities=["a", "a", "c"]),
    "numbers as entities": lambda h, a: h.update(entities=[1, 2, 3]),
    "more entities": lambda h, a: h.update(entities=["a", "b", "c", "d"]),
    "another format": lambda h, a: h.update(format=4),
}


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_model_that_no_training_writes_is_refused_in_one_line(kind: str, damage: Damage) -> None:
    header, arrays = _parts(BYTES[kind])
    damage(header, arrays)

    with pytest.raises(ArtifactError) as caught:
        versions.load(_stored(header, arrays), 1)

    assert len(str(caught.value).splitlines()) == 1
    assert "detector retrain" in str(caught.value)


@pytest.mark.parametrize("timesteps", [0, 1, 10**9, -1, 2.5, True])
def test_a_network_with_impossible_windows_is_refused(timesteps: Any) -> None:
    header, arrays = _parts(BYTES["network"])
    header["spec"]["timesteps"] = timesteps

    with pytest.raises(ArtifactError, match="timesteps"):
        versions.load(_stored(header, arrays), 1)


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"\0" * 100, BYTES["network"][:-30], BYTES["network"][30:], b"[" * 5000], ids=range(6)
)
def test_bytes_that_are_no_archive_are_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        versions.load(data, 1)


@pytest.mark.parametrize(
    "header", [b"", b"[]", b"3", b"null", b"[" * 100_000, b'{"format": ' + b"1" * 5000 + b"}", b"\xff"]
)
def test_a_header_that_is_none_is_refused(header: bytes) -> None:
    with pytest.raises(ArtifactError):
        versions.load(_stored(header, _parts(BYTES["baseline"])[1]), 1)


def _peak_megabytes(data: bytes) -> float:
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError):
            versions.load(data, 1)
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def test_a_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.npy", b"\0" * 100_000_000)

    assert _peak_megabytes(buffer.getvalue()) < 5


def test_an_array_that_claims_to_be_large_is_refused_before_memory_is_taken() -> None:
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("header.npy", array.getvalue() + b"\0" * 100)

    assert _peak_megabytes(buffer.getvalue()) < 5


def _damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one thing changed: single bytes, a part of the header, or an array."""
    header, arrays = _parts(data)
    odd: list[Any] = [None, "", "x", -1, 0, 2**70, 1e308, float("nan"), float("inf"), [], {}, [1], {"all": "x"}, True]
    match rng.integers(4):
        case 0:
            changed = bytearray(data)
            for _ in range(rng.integers(1, 8)):
                changed[rng.integers(len(changed))] = rng.integers(256)
            return bytes(changed)
        case 1:
            place = [header, header["spec"], header["provenance"]][rng.integers(3)]
            key = list(place)[rng.integers(len(place))]
            place[key] = odd[rng.integers(len(odd))]
        case 2:
            key = list(arrays)[rng.integers(len(arrays))]
            shape = tuple(rng.integers(0, 4, rng.integers(0, 4)).tolist())
            arrays[key] = np.full(shape, 1.0).astype(rng.choice(["f4", "f8", "i8", "u1", "U3", "c8", "M8[s]"]))
        case _:
            filled = [key for key, array in arrays.items() if array.size]
            key = filled[rng.integers(len(filled))]
            changed_array = arrays[key].astype(np.float64)
            changed_array.flat[rng.integers(changed_array.size)] = rng.choice([np.nan, np.inf, -np.inf, 0, -1, 1e308])
            with np.errstate(over="ignore", invalid="ignore"):
                arrays[key] = changed_array.astype(arrays[key].dtype)
    return _stored(header, arrays)


@pytest.mark.parametrize("kind", BYTES)
def test_of_random_damage_only_an_artifact_error_comes_out(kind: str) -> None:
    rng = np.random.default_rng(11)
    refused: list[str] = []
    for _ in range(DAMAGED):
        data = _damaged(BYTES[kind], rng)
        try:
            versions.load(data, 1)
        except ArtifactError as exc:
            refused.append(str(exc))
        else:
            _scores(data)

    assert len(refused) > DAMAGED / 3
    assert all(len(line.splitlines()) == 1 for line in refused)
