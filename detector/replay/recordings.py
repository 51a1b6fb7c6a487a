"""Recordings with or without labels, a CSV file per entity: read for a backtest, and written by it."""

from __future__ import annotations

import csv
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
from detector.times import HOUR_MS, MINUTE_MS, SECOND_MS

logger = logging.getLogger(__name__)

NO_TIME = int(np.iinfo(np.int64).min)
"""Stands for an unreadable time; its row cannot be replayed, and its score is unknown."""

ALERTS = "alerts.csv"
_FACTS = "meta.json"
_LABEL = "label"
_TRUTHS = {
    *("label", "labels", "is_anomaly", "isanomaly", "anomaly", "anomalies", "is_outlier", "outlier"),
    *("is_attack", "attack", "ground_truth", "changepoint", "changepoints"),
}
"""Names of columns that say what was anomalous, in small letters."""
_WORDS = {"true": 1.0, "false": 0.0}
_MISFIT = NO_TIME + 1  # stands for the time of a row that does not fit the header
_YEAR_SECONDS = 31_536_000
_FIRST_COUNT = 10_000  # a recording that counts its seconds begins below
_SHORTEST_STEP_MS = SECOND_MS
_STEP_MS = MINUTE_MS  # of a file with a single row
_ROUND_STEPS_MS = (
    *(SECOND_MS * count for count in (1, 2, 5, 10, 15, 20, 30)),
    *(MINUTE_MS * count for count in (1, 2, 5, 10, 15, 20, 30)),
    *(HOUR_MS * count for count in (1, 2, 3, 4, 6, 8, 12, 24)),
)
_JITTER = 0.02  # of a step by which clocks are late, so that files of one scraper are not taken for different ones


@dataclass(frozen=True)
class Recording:
    """The metrics of one entity, in order of time."""

    entity: str
    metrics: tuple[str, ...]
    written: Sequence[str]  # (N,) time of each row, as in the file
    time: Int64  # (N,) epoch milliseconds or NO_TIME; rising, may repeat
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
        progress(index / len(files), f"reading {entity}")
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

    facts: may hold `train_rows`, else half of the rows, and `step_seconds`, else the median distance of its times

    Rows are put in order of time. A column of 0 and 1 called like a label (is_anomaly, …) is the label.

    Text in a number column is a missing value. A row of the wrong width or without a readable time stays, but has
    neither time nor values.

    Raises: SourceError if the file cannot be read or is not `timestamp,<metrics…>[,label]`.
    """
    written: list[str] = []
    time, values, label = array("q"), array("d"), array("b")
    try:
        with path.open("rb") as raw, importing.unpacked(raw, path) as stream:
            lines = importing.records(stream)
            names = [name.strip() for name in next(lines, importing.Record(0, [])).fields]
            layout = _layout(path, names)
            for line in (record.fields for record in lines):
                at, numbers, is_labelled = _parse(line, layout)
                written.append(line[layout.time] if layout.time < len(line) else "")
                time.append(at)
                values.fromlist(numbers)
                label.append(is_labelled)
    except importing.UNREADABLE as exc:
        msg = f"{path}: cannot be read: {exc}"
        raise SourceError(msg) from exc
    table = np.array(values, dtype=np.float64).reshape(len(written), len(layout.metrics))
    times = _counted(written, np.array(time, dtype=np.int64))
    _check_times(path, times)
    table[times == NO_TIME] = math.nan
    called = [names[position] for position in layout.metrics]
    truth = None if layout.label is None else np.array(label, dtype=np.bool_)
    kept, truth = _without_truth(path, called, table, truth)
    order = _order(times)
    if (order[1:] < order[:-1]).any():
        logger.warning("event=rows_sorted file=%s rows=%d; they were not in order of time", path, len(order))
    return Recording(
        entity=importing.entity_name(path),
        metrics=tuple(called[position] for position in kept),
        written=[written[row] for row in order.tolist()],
        time=times[order],
        values=np.ascontiguousarray(table[order][:, kept]),
        label=None if truth is None else truth[order],
        train_rows=_train_rows(path, facts, len(written)),
        step_ms=_step_ms(path, facts, np.unique(times[times != NO_TIME])),
    )


def _counted(written: Sequence[str], times: Int64) -> Int64:
    """Times, (N,); where none could be read, seconds that a recording counts from its beginning.

    It must begin with a small number: those of a spreadsheet's days do not. _MISFIT marks rows of another width.
    """
    if (times >= 0).any():
        return np.where(times == _MISFIT, NO_TIME, times)
    numbers = np.array([_number(text) for text in written], dtype=np.float64)
    numbers[times == _MISFIT] = math.nan
    is_count = (numbers >= 0) & (numbers < _YEAR_SECONDS)
    if not is_count.any() or numbers[is_count].min() >= _FIRST_COUNT:
        return np.where(times == _MISFIT, NO_TIME, times)
    return np.where(is_count, np.round(np.where(is_count, numbers, 0) * 1000), NO_TIME).astype(np.int64)


def _order(times: Int64) -> Int64:
    """Rows in order of time, (N,); one without a time stays behind the row before it."""
    before = np.maximum.accumulate(np.where(times == NO_TIME, 0, np.arange(len(times))))
    return np.argsort(times[before], kind="stable")


def _without_truth(
    path: Path, names: Sequence[str], values: Float64, label: Bool | None
) -> tuple[list[int], Bool | None]:
    """Columns that are metrics, and the label: a column of 0 and 1 that is called like a label is no metric."""
    kept = list(range(len(names)))
    for column, name in enumerate(names):
        if name.casefold() not in _TRUTHS or len(kept) == 1:
            continue
        known = values[:, column][np.isfinite(values[:, column])]
        if not len(known) or not np.isin(known, (0.0, 1.0)).all():
            logger.warning("event=label_not_taken file=%s column=%s; it holds more than 0 and 1", path, name)
            continue
        kept.remove(column)
        use = "taken for the label" if label is None else "left out: there is a label already"
        logger.warning("event=label_column file=%s column=%s; %s", path, name, use)
        label = values[:, column] == 1.0 if label is None else label
    return kept, label


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
    """Time, values and label of a line; no values if it does not fit the header."""
    is_labelled = layout.label is not None and layout.label < len(line) and _number(line[layout.label]) > 0
    if len(line) != layout.width:
        return _MISFIT, [math.nan] * len(layout.metrics), is_labelled
    try:
        at = importing.parse_time(line[layout.time])
    except ValueError:
        at = NO_TIME
    cells = [line[position] for position in layout.metrics]
    try:
        return at, list(map(float, cells)), is_labelled
    except ValueError:
        return at, list(map(_number, cells)), is_labelled


def _number(written: str) -> float:
    try:
        return float(written)
    except ValueError:
        return _WORDS.get(written.strip().casefold(), math.nan)


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
        round_step = min(_ROUND_STEPS_MS, key=lambda step: abs(step - usual))
        is_near = abs(round_step - usual) <= _JITTER * round_step
        return round_step if is_near else max(_SHORTEST_STEP_MS, round(usual))
    if not isinstance(wanted, int | float) or not 0 < wanted < math.inf:
        msg = f"{path}: `step_seconds` in {_FACTS} must be a number above 0. Received: {wanted!r}"
        raise SourceError(msg)
    return max(_SHORTEST_STEP_MS, round(wanted * 1000))
