"""What a stored model may hold: every part is checked before it is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from detector.core.news import STREAMS
from detector.core.peaks import PEAKS
from detector.core.rhythm import BINS
from detector.core.score import SPANS
from detector.core.shape import CENTRES, STATISTICS
from detector.errors import ArtifactError

_WEEK_MS = 7 * 86_400_000
_LAST_YEAR = 253_402_300_800_000  # epoch milliseconds of the year 10000

Holds = Callable[[Any], bool]


def _whole(least: int, most: int) -> Holds:
    return lambda value: type(value) is int and least <= value <= most


def _is_number(value: Any) -> bool:
    return type(value) in {int, float} and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value and value.isprintable()


def _is_zone(value: Any) -> bool:
    try:
        return isinstance(value, str) and ZoneInfo(value) is not None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False


_SPEC: dict[str, Holds] = {
    "timesteps": _whole(2, 2000),
    "metrics": _whole(1, 100_000),
    "cell": {"lstm", "gru"}.__contains__,
    "units": _whole(1, 1024),
    "layers": _whole(1, 8),
    "bidirectional": lambda value: isinstance(value, bool),
    "calendar": _whole(0, 4),
    "time_zone": _is_zone,
    "step": _whole(1, _WEEK_MS),
    "phases": _whole(1, 168),
}

_time = _whole(0, _LAST_YEAR)

_PROVENANCE: dict[str, Holds] = {
    "kind": {"network", "baseline", "auto"}.__contains__,
    "fingerprint": _is_text,
    "trained_from": _time,
    "trained_until": _time,
    "created_at": _time,
}

_OPTIONAL: dict[str, Holds] = {
    "detectability": lambda value: isinstance(value, dict) and all(map(_is_shares, value.values())),
}


def _is_shares(value: Any) -> bool:
    return isinstance(value, dict) and type(value.get("all")) in {int, float}


def check_header(header: Mapping[str, Any], specs: Mapping[str, type]) -> None:
    """Raises: ArtifactError if a key of a model's header is missing or holds what it cannot."""
    _demand(header["kind"] in specs, "kind")
    spec, provenance, entities = header["spec"], header["provenance"], header["entities"]
    fields = specs[header["kind"]].__dataclass_fields__  # type: ignore[attr-defined]  # they are dataclasses
    _demand(isinstance(spec, dict) and spec.keys() == fields.keys(), "spec")
    for name, value in spec.items():
        _demand(_SPEC[name](value), f"spec.{name}")
    _demand(isinstance(provenance, dict), "provenance")
    for name, holds in _PROVENANCE.items():
        _demand(name in provenance and holds(provenance[name]), f"provenance.{name}")
    for name, holds in _OPTIONAL.items():
        _demand(name not in provenance or holds(provenance[name]), f"provenance.{name}")
    _demand(provenance["trained_from"] <= provenance["trained_until"], "provenance.trained_until")
    _demand(isinstance(entities, list) and all(isinstance(name, str) for name in entities), "entities")
    _demand(len(set(entities)) == len(entities), "entities")


def check_arrays(arrays: Mapping[str, NDArray[Any]], *, entities: int, metrics: int, has_habits: bool) -> None:
    """Raises: ArtifactError if an array but those of the weights has another shape or holds no usable numbers."""
    if has_habits:
        _check_habits(arrays, entities=entities, metrics=metrics)
    arrays = {name: array for name, array in arrays.items() if not name.startswith(_OF_HABITS)}
    spans = len(SPANS)
    shapes = {
        **dict.fromkeys(("noise", "scaling/center", "scaling/scale"), (entities, metrics)),
        **dict.fromkeys(("fleet_noise", "scaling/fleet_scale"), (metrics,)),
        **dict.fromkeys(("calibration/start", "calibration/decay"), (entities, spans)),
        **dict.fromkeys(("calibration/fleet_start", "calibration/fleet_decay"), (spans,)),
    }
    for name, shape in shapes.items():
        _demand(name in arrays and arrays[name].shape == shape, name)
        _demand(name in _MAY_BE_NEGATIVE or bool((arrays[name] > 0).all()), name)
    rest = arrays["rest"]
    _demand(rest.dtype == np.int64 and rest.shape in {(entities, metrics), (0, 0)} and bool((rest >= 0).all()), "rest")
    if "seen" in arrays:  # versions of before do not say
        seen = arrays["seen"]
        _demand(seen.dtype == np.bool_ and seen.shape in {(entities, metrics), (0, 0)}, "seen")
    for name, array in arrays.items():
        is_float = array.dtype in {np.dtype(np.float32), np.dtype(np.float64)}
        _demand(name in _NOT_FLOAT or (is_float and bool(np.isfinite(array).all())), name)
        _demand(name in shapes or name in _NOT_FLOAT or name.startswith("weights/"), name)


_OF_HABITS = ("habits/", "experience/")


def _check_habits(arrays: Mapping[str, NDArray[Any]], *, entities: int, metrics: int) -> None:
    """Raises: as `check_arrays`, of what is usual for entities and what they have shown."""
    parts, recent, jobs = (
        arrays[name].shape[1:2] for name in ("habits/usual/offset", "experience/recent", "habits/jobs/bin")
    )
    width, streams, many = STATISTICS * metrics, len(STREAMS), (entities, len(STREAMS), PEAKS)
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("habits/usual/center", "habits/usual/spread"), (entities, metrics)),
        "habits/usual/offset": (entities, *parts, metrics),
        "habits/shapes/centres": (entities, CENTRES, width),
        "habits/shapes/unit": (entities, width),
        **dict.fromkeys([f"habits/jobs/{name}" for name in ("bin", "column", "level", "gap")], (entities, *jobs)),
        **dict.fromkeys(("habits/tails/start", "habits/tails/scale"), (entities, streams)),
        **dict.fromkeys(("habits/tails/fleet_start", "habits/tails/fleet_scale"), (streams,)),
        **dict.fromkeys(("experience/lately", "experience/lowest", "experience/highest"), (entities, metrics)),
        "experience/recent": (entities, *recent, metrics),
        **dict.fromkeys(("experience/known", "experience/last"), (entities,)),
        **dict.fromkeys(("experience/bins/bin", "experience/bins/missed"), (entities,)),
        **dict.fromkeys(("experience/bins/now", "experience/bins/around"), (entities, 2 * metrics)),
        "experience/bins/values": (entities, metrics),
        "experience/bins/before": (entities, 2, 2 * metrics),
    }
    for name, several in (("peaks", many), ("told", (entities, 1, PEAKS))):
        for column in ("peak", "when", "count", "metric"):
            shapes[f"experience/{name}/{column}"] = several
        for column in ("weeks", "top", "top_count", "top_slot", "top_metric", "seen", "began"):
            shapes[f"experience/{name}/{column}"] = several[:2]
        shapes[f"experience/{name}/aged"] = (entities,)
    _demand(parts > (0,), "habits/usual/offset")
    mine = {name for name in arrays if name.startswith(_OF_HABITS)}
    _demand(mine == shapes.keys(), "habits")
    for name, shape in shapes.items():
        array = arrays[name]
        whole = _WHOLE.get(name.rsplit("/", 1)[1])
        is_whole = whole is not None
        _demand(array.shape == shape and (array.dtype == whole if is_whole else array.dtype.kind == "f"), name)
        _demand(name not in _POSITIVE or bool((array > 0).all()), name)
        # nothing is known of some metrics, windows and slots, and there need not be a peak; all else is a number
        no_number = np.isnan if name.endswith(("/peak", "/top")) else lambda values: ~np.isfinite(values)
        _demand(is_whole or name in _MAY_BE_UNKNOWN or not no_number(array).any(), name)
    for name, least, beyond in (("bin", -1, BINS), ("column", 0, 2 * metrics)):
        array = arrays[f"habits/jobs/{name}"]
        _demand(bool(((array >= least) & (array < beyond)).all()), f"habits/jobs/{name}")


_WHOLE: dict[str, type] = {
    **dict.fromkeys(("when", "top_slot", "seen", "began", "aged", "known", "last", "bin", "column"), np.int64),
    **dict.fromkeys(("metric", "top_metric"), np.int16),
}
_MAY_BE_UNKNOWN = {
    *("habits/usual/center", "habits/shapes/centres"),
    *("experience/lowest", "experience/highest", "experience/recent"),
    *("experience/bins/now", "experience/bins/before", "experience/bins/around"),
}
_POSITIVE = {
    *("habits/usual/spread", "habits/shapes/unit", "habits/jobs/gap"),
    *("habits/tails/scale", "habits/tails/fleet_scale"),
}
_NOT_FLOAT = {"rest", "seen"}
_MAY_BE_NEGATIVE = {"scaling/center", "calibration/start", "calibration/fleet_start"}


def _demand(holds: bool, what: str) -> None:
    if not holds:
        msg = f"stored model is damaged: its {what!r:.60} is missing or not usable; run: detector retrain"
        raise ArtifactError(msg)
