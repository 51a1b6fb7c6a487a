"""Recordings with or without labels, a CSV file per entity: read for a backtest, and written by it."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detector import csv_files as importing
from detector.core.series import Bool, Float64, Int64
from detector.errors import ConfigError, SourceError
from detector.times import MINUTE_MS, SECOND_MS

logger = logging.getLogger(__name__)

NO_TIME = int(np.iinfo(np.int64).min)
"""Stands for an unreadable time; its row cannot be replayed, and its score is unknown."""

ALERTS = "alerts.csv"
_FACTS = "meta.json"
_LABEL = "label"
_SHORTEST_STEP_MS = SECOND_MS
_STEP_MS = MINUTE_MS  # of a file with a single row


@dataclass(frozen=True)
class Recording:
    """The metrics of one entity, row after row as its file has them."""

    entity: str
    metrics: tuple[str, ...]
    written: Sequence[str]  # (N,) time of each row, as in the file
    time: Int64  # (N,) epoch milliseconds or NO_TIME; may fall and repeat
    values: Float64  # (N, F) NaN = missing
    label: Bool | None  # (N,) for judging only: never part of a source
    train_rows: int  # rows before the first one that is replayed, ≤ N
    step_ms: int

    @property
    def has_time(self) -> Bool:
        """True for rows that can be replayed, (N,)."""
        return np.asarray(self.time != NO_TIME)


@dataclass(frozen=True)
class Failure:
    """An entity that could not be replayed, and why."""

    entity: str
    reason: str


@dataclass(frozen=True)
class _Layout:
    """Roles of the columns of a file, by index."""

    width: int
    time: int
    metrics: tuple[int, ...]
    label: int | None


def read_folder(folder: Path, progress: Callable[[float, str], None]) -> tuple[list[Recording], list[Failure]]:
    """All recordings of a folder, and the files that are not one.

    Raises: SourceError if there are no files, or `meta.json` cannot be used.
    """
    files = importing.files(folder)
    facts = _read_facts(folder)
    recordings: dict[str, Recording] = {}
    failures = []
    for index, path in enumerate(files):
        entity = importing.entity_name(path)
        progress(index / len(files), f"reading {path.name}")
        try:
            if entity in recordings or f"{entity}.csv" == ALERTS:
                msg = f"{path}: its name is taken; every entity needs one file, and {ALERTS} is written by a backtest"
                raise SourceError(msg)
            recordings[entity] = read(path, facts.get(entity, {}))
        except SourceError as exc:
            failures.append(Failure(entity, str(exc)))
    return list(recordings.values()), failures


def read(path: Path, facts: Mapping[str, Any]) -> Recording:
    """The recording in a file.

    facts: may hold `train_rows`, else half of the rows, and `step_seconds`, else the median distance of its rows

    Text in a number column is a missing value. A row of the wrong width or without a readable time stays, but has
    neither time nor values.

    Raises: SourceError if the file cannot be read or is not `timestamp,<metrics…>[,label]`.
    """
    written: list[str] = []
    time, values, label = array("q"), array("d"), array("b")
    try:
        with path.open("rb") as raw, importing.unpacked(raw, path) as stream:
            lines = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline=""))
            names = [name.strip() for name in next(lines, [])]
            layout = _layout(path, names)
            for line in filter(None, lines):
                at, numbers, is_labelled = _parse(line, layout)
                written.append(line[layout.time] if layout.time < len(line) else "")
                time.append(at)
                values.fromlist(numbers)
                label.append(is_labelled)
    except importing.UNREADABLE as exc:
        msg = f"{path}: cannot be read: {exc}"
        raise SourceError(msg) from exc
    times = np.array(time, dtype=np.int64)
    _check_times(path, times)
    return Recording(
        entity=importing.entity_name(path),
        metrics=tuple(names[position] for position in layout.metrics),
        written=written,
        time=times,
        values=np.array(values, dtype=np.float64).reshape(len(written), len(layout.metrics)),
        label=None if layout.label is None else np.array(label, dtype=np.bool_),
        train_rows=_train_rows(path, facts, len(written)),
        step_ms=_step_ms(path, facts, times[times != NO_TIME]),
    )


def write_rows(path: Path, header: str, columns: Iterable[Iterable[object]]) -> None:
    """Writes columns of equal length to a CSV file.

    Raises: ConfigError if it cannot be written.
    """
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header.split(","))
            writer.writerows(zip(*columns, strict=True))
    except OSError as exc:
        msg = f"{path} cannot be written: {exc.strerror}; choose another folder with --out"
        raise ConfigError(msg) from exc


def make_folder(folder: Path, data: Path) -> None:
    """Makes the folder for the results of a backtest; it must not be that of the data.

    Raises: ConfigError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        msg = f"{folder} cannot be made: {exc.strerror}; choose another folder with --out"
        raise ConfigError(msg) from exc
    if data.exists() and folder.samefile(data):
        msg = f"--out must be another folder than --data, whose files would be lost. Received: {folder} for both"
        raise ConfigError(msg)


def _read_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """The facts of each entity in `meta.json`; empty if there is no such file."""
    path = folder / _FACTS
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        msg = f"{path}: cannot be read as JSON: {exc}"
        raise SourceError(msg) from exc
    entities = found.get("entities", {}) if isinstance(found, dict) else None
    if not isinstance(entities, dict) or not all(isinstance(facts, dict) for facts in entities.values()):
        msg = f'{path}: must be like {{"entities": {{"web-1": {{"train_rows": 1000, "step_seconds": 60}}}}}}'
        raise SourceError(msg)
    return entities


def _layout(path: Path, names: list[str]) -> _Layout:
    time = next((names.index(name) for name in importing.TIME_NAMES if name in names), None)
    metrics = tuple(index for index, name in enumerate(names) if index != time and name != _LABEL)
    called = [names[index] for index in metrics]
    if time is None or not metrics or len(set(called)) < len(called) or not all(called) or "entity" in called:
        expected = "the header must be timestamp,<metrics…>[,label], each metric once, one entity a file"
        msg = f"{path}: {expected}. Received: {','.join(names)[:200]}"
        raise SourceError(msg)
    return _Layout(len(names), time, metrics, names.index(_LABEL) if _LABEL in names else None)


def _parse(line: list[str], layout: _Layout) -> tuple[int, list[float], bool]:
    """Time, values and label of a line; neither time nor values if it does not fit the header."""
    is_labelled = layout.label is not None and layout.label < len(line) and _number(line[layout.label]) > 0
    try:
        if len(line) != layout.width:
            raise ValueError(line)
        at = importing.parse_time(line[layout.time])
    except ValueError:
        return NO_TIME, [math.nan] * len(layout.metrics), is_labelled
    cells = [line[position] for position in layout.metrics]
    try:
        return at, list(map(float, cells)), is_labelled
    except ValueError:
        return at, list(map(_number, cells)), is_labelled


def _number(written: str) -> float:
    try:
        return float(written)
    except ValueError:
        return math.nan


def _check_times(path: Path, times: Int64) -> None:
    unreadable = int((times == NO_TIME).sum())
    if unreadable == len(times):
        msg = f"{path}: no row has a time that can be read"
        raise SourceError(msg)
    if unreadable:
        logger.warning(
            "event=rows_not_replayed file=%s rows=%d; no time, or not as wide as the header", path, unreadable
        )


def _train_rows(path: Path, facts: Mapping[str, Any], rows: int) -> int:
    wanted = facts.get("train_rows")
    if wanted is None:
        return rows // 2
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 0:
        msg = f"{path}: `train_rows` in {_FACTS} must be a whole number, 0 or more. Received: {wanted!r}"
        raise SourceError(msg)
    return min(wanted, rows)


def _step_ms(path: Path, facts: Mapping[str, Any], times: Int64) -> int:
    wanted = facts.get("step_seconds")
    if wanted is None:
        usual = float(np.median(np.diff(times))) if len(times) > 1 else _STEP_MS
        return max(_SHORTEST_STEP_MS, round(usual))
    if not isinstance(wanted, int | float) or not 0 < wanted < math.inf:
        msg = f"{path}: `step_seconds` in {_FACTS} must be a number above 0. Received: {wanted!r}"
        raise SourceError(msg)
    return max(_SHORTEST_STEP_MS, round(wanted * 1000))
