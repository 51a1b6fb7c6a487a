"""Stored models: read as they were written; refused if they hold what no training writes (x03, x11, x13)."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from detector.core import news
from detector.core.deviation import Usual
from detector.core.news import MECHANISMS, STREAMS, Experience, Habits, Seen
from detector.core.peaks import Tails
from detector.core.rhythm import Jobs
from detector.core.rules import MetricRules
from detector.core.scaling import Scaling
from detector.core.series import Bool, Float32, Windows
from detector.core.shape import Shapes
from detector.core.threshold import Calibration
from detector.detect import news as slots_news
from detector.detect.news import LOOK_BACK, Slots
from detector.errors import ArtifactError
from detector.models import artifact as artifacts
from detector.models import schema, versions
from detector.models.artifact import BaselineSpec, NetworkSpec
from detector.models.inference import weight_shapes
from detector.ports import Artifact, ModelVersion

E, F, T = 3, 2, 4
STEP, UNTIL = 60_000, 1_700_100_000_000
PROVENANCE = {
    "fingerprint": "abc",
    "trained_from": 1_700_000_000_000,
    "trained_until": UNTIL,
    "created_at": 1_700_200_000_000,
    "detectability": {"network": {"all": 0.5}},
    "recalibrated_from": 1,  # this and the next are of earlier versions
    "drift": 1.25,
}
DAMAGED = 300  # seeded random damages of each model


def _habits() -> Habits:
    """Habits of three entities, with four parts of the day; nothing of the second metric of the first is known."""
    rng = np.random.default_rng(1)

    def some(*shape: int) -> Float32:
        return rng.uniform(0.1, 3.0, shape).astype(np.float32)

    center = some(E, F)
    center[0, 1] = np.nan
    centres = some(E, 48, 6 * F).astype(np.float16).astype(np.float32)
    streams = len(STREAMS)
    tails = Tails(some(E, streams) - 2.0, some(E, streams), some(streams) - 2.0, some(streams))
    jobs = Jobs(np.array([[0, 95], [7, -1], [-1, -1]]), np.array([[3, 0], [1, 0], [0, 0]]), some(E, 2), some(E, 2))
    return Habits(Usual(center, some(E, F), some(E, 4, F) - 1.5), Shapes(centres, some(E, 6 * F)), jobs, tails)


def _experience(habits: Habits) -> Experience:
    """What three entities have shown in some hours; nothing is known of the second metric of the first."""
    rng, slots = np.random.default_rng(2), 400
    experience = Experience.none(*habits.tails.at(np.arange(E)), metrics=F, slot=UNTIL - slots * STEP, step=STEP)
    values = rng.normal(50, 5, (E, news.long_slots(STEP) + slots, F)).astype(np.float32)
    values[0, :, 1] = np.nan
    deviations = np.abs(rng.normal(0, 4, (E, slots, F))).astype(np.float32)
    deviations[0, :, 1] = np.nan
    seen = Seen(
        UNTIL - STEP * np.arange(slots, 0, -1, dtype=np.int64),
        values,
        rng.exponential(1, (E, news.BEFORE + slots)).astype(np.float32),
        deviations,
        *rng.uniform(0.02, 2, (2, E, slots)).astype(np.float32),
    )
    spread, rules = np.ones((E, F), np.float32), MetricRules.none(F)
    experience, observed = news.observe(experience, seen, spread=spread, rules=rules, step=STEP)
    scale = habits.tails.at(np.arange(E))[1]
    return news.judge(experience, observed, slots=seen.slots, scale=scale, step=STEP, metrics=F)[0]


HABITS = _habits()
EXPERIENCE = _experience(HABITS)


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
            calibration=Calibration(spans, spans, spans[0], spans[0]),
            habits=HABITS,
            experience=EXPERIENCE,
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
    with np.errstate(all="ignore"):
        _news(version, slots=2)


@pytest.mark.parametrize("kind", BYTES)
def test_what_was_written_is_read(kind: str) -> None:
    _scores(BYTES[kind])

    loaded = artifacts.load(BYTES[kind])
    assert loaded.entities == ("a", "b", "c")
    assert artifacts.dump(loaded) == BYTES[kind]


@pytest.mark.parametrize("kind", BYTES)
def test_habits_and_experience_are_read_to_the_last_bit(kind: str) -> None:
    loaded = artifacts.load(BYTES[kind])

    for part, written in ((loaded.habits, HABITS), (loaded.experience, EXPERIENCE)):
        found, expected = _arrays_of(part), _arrays_of(written)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
            assert found[name].dtype == array.dtype


def test_centres_are_stored_in_half_precision() -> None:
    assert _parts(BYTES["baseline"])[1]["habits/shapes/centres"].dtype == np.float16


def _arrays_of(part: Any) -> dict[str, Any]:
    """All arrays of a value made of values, by their path."""
    found: dict[str, Any] = {}
    for column in fields(part):
        value = getattr(part, column.name)
        inner = {"": value} if isinstance(value, np.ndarray) else _arrays_of(value)
        found |= {f"{column.name}/{name}": array for name, array in inner.items()}
    return found


def _news(version: ModelVersion, slots: int = 40) -> Float32:
    """Return periods (3, K, M) by a version: of an entity that it knows, one that it does not know, and another."""
    rng, rows = np.random.default_rng(3), np.array([0, -1, 2])
    norm = slots_news.norm_of(version, MetricRules.none(F), STEP)
    values = rng.normal(50, 5, (3, LOOK_BACK + slots, F)).astype(np.float32)
    errors = rng.exponential(1, (3, news.BEFORE + slots)).astype(np.float32)
    seen = Slots(UNTIL + STEP * np.arange(slots, dtype=np.int64), rows, values, errors)
    return slots_news.advance(norm, slots_news.first(version, rows, step=STEP), seen)[1]


def _known(periods: Float32) -> list[list[str]]:
    """Mechanisms that say something of any slot, of each entity."""
    known: Bool = np.any(~np.isnan(periods), axis=1)
    return [[name for name, is_known in zip(MECHANISMS, row, strict=True) if is_known] for row in known]


def test_slots_are_judged_by_what_training_left_behind() -> None:
    version = versions.load(BYTES["network"], 1)

    first = slots_news.first(version, np.array([2, -1]), step=STEP)

    np.testing.assert_array_equal(first.peaks.peak[0], EXPERIENCE.peaks.peak[2])
    np.testing.assert_array_equal(first.lowest[0], EXPERIENCE.lowest[2])
    assert (first.known.tolist(), first.last[0]) == ([400, 0], UNTIL - STEP)
    known, unseen, other = _known(_news(version))
    assert set(known) == set(other) | {"record"} == set(MECHANISMS) - {"pool", "precedent"}
    assert unseen == ["net1", "net3", "net10"]


@pytest.mark.parametrize(("name", "number"), [("bin", -2), ("bin", 96), ("column", -1), ("column", 2 * F), ("gap", 0)])
def test_a_daily_job_that_cannot_be_is_refused(name: str, number: int) -> None:
    header, arrays = _parts(BYTES["baseline"])
    arrays[f"habits/jobs/{name}"].flat[-1] = number

    with pytest.raises(ArtifactError, match=f"habits/jobs/{name}"):
        artifacts.load(_stored(header, arrays))


def _of_format_3(kind: str) -> bytes:
    """A version of a program that knew nothing but the tails of errors, and the level of score 1."""
    header, arrays = _parts(BYTES[kind])
    arrays = {name: array for name, array in arrays.items() if not name.startswith(("habits/", "experience/"))}
    return _stored({**header, "format": 3, "level": 7.5}, arrays)


@pytest.mark.parametrize("kind", BYTES)
def test_a_version_that_knows_only_errors_scores_by_them_until_the_next_training(kind: str) -> None:
    data = _of_format_3(kind)
    _scores(data)

    assert _known(_news(versions.load(data, 1))) == [["net1", "net3", "net10"]] * 3


def test_such_a_version_takes_its_errors_to_have_been_normal_for_a_week() -> None:
    loaded = artifacts.load(_of_format_3("network"))
    start, net1 = loaded.calibration.start[:, 0], STREAMS.index("net1")

    peaks = loaded.experience.peaks
    assert (peaks.weeks == 1.0).all()
    assert peaks.aged.tolist() == [UNTIL] * E
    # tails that begin at 1 and fall by e for a factor e: twelve peaks in the two scales above
    np.testing.assert_allclose(peaks.peak[:, net1, -1], np.log(start), atol=1e-6)
    np.testing.assert_allclose(peaks.peak[:, net1, 0], np.log(start) + 2.0, atol=1e-6)


def test_such_a_version_finds_errors_far_beyond_its_tails_and_no_usual_ones() -> None:
    version = versions.load(_of_format_3("network"), 1)
    norm, rows, slots = slots_news.norm_of(version, MetricRules.none(F), STEP), np.array([1]), np.array([UNTIL])
    values = np.full((1, LOOK_BACK + 1, F), 50.0, np.float32)

    def period(error: float) -> float:
        errors = np.full((1, news.BEFORE + 1), 0.5, np.float32)
        errors[0, -1] = error
        first = slots_news.first(version, rows, step=STEP)
        return float(np.nanmax(slots_news.advance(norm, first, Slots(slots, rows, values, errors))[1]))

    assert period(0.5) < -8.0
    assert period(1000.0) > 2.0


REFUSED = r"stored model .*; run: detector retrain$"
HABIT_ARRAYS = [name for name in _parts(BYTES["baseline"])[1] if name.startswith(("habits/", "experience/"))]


@pytest.mark.parametrize("name", HABIT_ARRAYS)
def test_an_array_of_habits_that_is_missing_or_not_as_it_should_be_is_refused(name: str) -> None:
    header, arrays = _parts(BYTES["baseline"])
    array = arrays[name]
    wrong = {
        "one entity more": np.concatenate([array, array[:1]]),
        "one axis more": array[..., None],
        "one column less": array[..., :-1],
        "one number": np.asarray(array.ravel()[0]),
        "text": np.full(array.shape, "x"),
        "truth": np.zeros(array.shape, np.bool_),
        "another kind of number": np.ones(array.shape, np.float32 if array.dtype == np.int64 else np.int64),
        "small whole numbers": np.ones(array.shape, np.int32),
        "complex numbers": np.ones(array.shape, np.complex64),
    }

    others = {other: kept for other, kept in arrays.items() if other != name}
    with pytest.raises(ArtifactError, match=REFUSED):
        artifacts.load(_stored(header, others))
    for changed in wrong.values():
        with pytest.raises(ArtifactError, match=REFUSED):
            schema.check_arrays({**others, name: changed}, entities=E, metrics=F, has_habits=True)


@pytest.mark.parametrize(
    "name", ["habits/usual/spread", "habits/shapes/unit", "habits/tails/scale", "habits/tails/fleet_scale"]
)
@pytest.mark.parametrize("number", [0.0, -1.0, np.nan, np.inf])
def test_a_spread_that_is_no_spread_is_refused(name: str, number: float) -> None:
    header, arrays = _parts(BYTES["baseline"])
    arrays[name].flat[-1] = number

    with pytest.raises(ArtifactError, match=name):
        artifacts.load(_stored(header, arrays))


def test_habits_of_no_part_of_the_day_are_refused() -> None:
    header, arrays = _parts(BYTES["baseline"])
    arrays["habits/usual/offset"] = np.ones((E, 0, F), np.float32)

    with pytest.raises(ArtifactError, match="offset"):
        artifacts.load(_stored(header, arrays))


@pytest.mark.parametrize(
    "name",
    [
        *("habits/usual/offset", "habits/tails/start", "habits/tails/fleet_start", "experience/lately"),
        *(
            f"experience/{peaks}/{column}"
            for peaks in ("peaks", "told")
            for column in ("peak", "count", "weeks", "top")
        ),
    ],
)
def test_an_unknown_number_that_would_make_an_entity_deaf_is_refused(name: str) -> None:
    header, arrays = _parts(BYTES["baseline"])
    arrays[name].flat[0] = np.nan

    with pytest.raises(ArtifactError, match=name):
        artifacts.load(_stored(header, arrays))


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
    "no habits": lambda h, a: [a.pop(name) for name in list(a) if name.startswith("habits/")],
    "no experience": lambda h, a: [a.pop(name) for name in list(a) if name.startswith("experience/")],
    "more habits": lambda h, a: a.update({"habits/more": np.ones(3, np.float32)}),
    "more experience": lambda h, a: a.update({"experience/peaks/more": np.ones(3, np.float32)}),
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
    "a format to come": lambda h, a: h.update(format=6),
    "a format of before": lambda h, a: h.update(format=2),
    "a format between": lambda h, a: h.update(format=4),
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


@pytest.mark.slow
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
