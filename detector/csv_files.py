"""CSV files, long or wide, gzipped or not, into the embedded sample store."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import math
import os
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from detector.errors import DetectorError, SourceError

TIME_NAMES = ("timestamp", "time", "ts", "datetime")
_BATCH = 200_000
_LISTED = 20  # bad lines; all are counted
_FIRST, _END = 31_536_000_000, 7_289_654_400_000  # 1971 and 2201, epoch milliseconds
_UNITS = ((1e3, 0), (1.0, 0), (1e-3, 1e12), (1e-6, 1e12))
"""Milliseconds of a unit that times are counted in, and the earliest: nobody counts microseconds of before 2001."""
_COMPACT = re.compile(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(\d\d)(\d\d)?)?")
_LOOK_AHEAD = 100  # lines in which a quote must be closed
_OUTSIDE = "time of the years 1971 to 2200 expected"

UNREADABLE = (OSError, EOFError, zlib.error, csv.Error)
"""Errors of reading a CSV file, gzipped or not."""

Sample = tuple[str, str, int, float]
"""Entity, metric, time in epoch milliseconds, value."""


class Sink(Protocol):
    """Destination of samples."""

    def write(
        self, entity: Sequence[str], metric: Sequence[str], *, time: Sequence[int], value: Sequence[float]
    ) -> None:
        """Stores samples given as columns."""


@dataclass
class Outcome:
    """Result of importing one file."""

    file: str
    rows: int = 0
    samples: int = 0
    entities: set[str] = field(default_factory=set)
    first: int | None = None
    last: int | None = None
    bad: int = 0
    bad_lines: list[str] = field(default_factory=list)

    def refuse(self, line: int, why: str) -> None:
        """Counts a line that cannot be used; the first few are listed."""
        self.bad += 1
        if len(self.bad_lines) < _LISTED:
            self.bad_lines.append(f"line {line}: {why}")


@dataclass(frozen=True)
class _Layout:
    """Places of a file's columns, and what its lines may hold."""

    width: int  # fields of a line
    time: int
    entity: int | None
    metrics: tuple[tuple[int, str], ...]  # wide: position and metric
    long: tuple[int, int] | None  # positions of metric and value
    known: frozenset[str]  # the monitor's metrics
    file_entity: str  # of lines without one


def files(path: Path) -> list[Path]:
    """The CSV files at a path: itself, or those of a folder.

    Raises: SourceError if there are none.
    """
    try:
        found = sorted(item for item in path.iterdir() if _is_csv(item)) if path.is_dir() else [path]
    except OSError as exc:
        msg = f"{path}: cannot be read: {exc.strerror}"
        raise SourceError(msg) from exc
    if not path.exists() or not found:
        msg = f"{path}: no such file, or no *.csv or *.csv.gz in that folder"
        raise SourceError(msg)
    return found


def entity_name(path: Path) -> str:
    """The entity of a file that has no entity column: its name without endings; bytes that are no text as \\xff."""
    name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
    return name.removesuffix(".gz").removesuffix(".csv")


def load(
    path: Path, metrics: Sequence[str], sink: Sink, *, progress: Callable[[float], None] = lambda _share: None
) -> Outcome:
    """Reads one file into the sink; lines that cannot be used are counted and listed in the outcome.

    The header decides: `timestamp,entity,metric,value` is long, `timestamp[,entity],<metrics…>` wide; columns that are
    no metric of the monitor are left out. Times are those that `parse_time` reads.

    Raises: SourceError if the file cannot be read or its header has no time or no metric of the monitor.
    """
    outcome = Outcome(str(path))
    size = max(1, path.stat().st_size) if path.exists() else 1
    try:
        with path.open("rb") as raw, unpacked(raw, path) as stream:
            lines = records(stream)
            layout = _layout(path, next(lines, Record(0, [])).fields, metrics)
            batch: list[Sample] = []
            for record in lines:
                outcome.rows += 1
                samples, problem = ([], record.problem) if record.problem else _samples(layout, record.fields)
                batch += samples
                if problem:
                    outcome.refuse(record.line, problem)
                if len(batch) >= _BATCH:
                    _flush(sink, batch, outcome)
                    progress(raw.tell() / size)
            _flush(sink, batch, outcome)
            progress(1.0)
    except UNREADABLE as exc:
        msg = f"{path}: cannot be read: {exc}"
        raise SourceError(msg) from exc
    return outcome


def unpacked(raw: BinaryIO, path: Path) -> BinaryIO:
    """The content of an open file, gunzipped if its name says so."""
    return cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if path.name.endswith(".gz") else raw


@dataclass(frozen=True)
class Record:
    """A record of a CSV file."""

    line: int  # its last one in the file, from 1
    fields: list[str]
    problem: str | None = None  # why it cannot be used


def records(stream: BinaryIO) -> Iterator[Record]:
    """The records of a CSV file, without empty lines.

    A quote that is not closed costs its own line: it does not swallow those that follow it.
    """
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
    try:
        yield from _records(text)
    finally:
        with contextlib.suppress(ValueError):  # the stream is closed already
            text.detach()  # who has opened it closes it


def _records(text: io.TextIOWrapper) -> Iterator[Record]:
    waiting: deque[str] = deque()
    number, width = 0, 0
    while line := waiting.popleft() if waiting else text.readline():
        number += 1
        if not line.strip():
            continue
        if '"' not in line:
            found = Record(number, line.rstrip("\r\n").split(","))
        else:
            more = _continued(line, text, waiting, width)
            number += more
            found = _quoted(line + "".join(waiting.popleft() for _ in range(more)), number)
        width = width or len(found.fields)
        yield found


def _continued(line: str, text: io.TextIOWrapper, waiting: deque[str], width: int) -> int:
    """How many lines after this one belong to its record: 0 also if a quote is never closed."""
    record = line
    for count in range(_LOOK_AHEAD):
        if not _is_open(record):
            return count
        if count == len(waiting):
            following = text.readline()
            if not following:
                return 0
            waiting.append(following)
        if width and waiting[count].count(",") == width - 1:
            return 0  # a record of its own
        record += waiting[count]
    return 0


def _is_open(record: str) -> bool:
    try:
        next(csv.reader([record], strict=True), None)
    except csv.Error as exc:
        return "unexpected end" in str(exc)
    return False


def _quoted(line: str, number: int) -> Record:
    if _is_open(line):
        return Record(number, [], "a quote is not closed")
    try:
        return Record(number, next(csv.reader([line])))
    except csv.Error as exc:
        return Record(number, [], str(exc))


def _is_csv(path: Path) -> bool:
    return path.name.endswith((".csv", ".csv.gz"))


def _layout(path: Path, header: list[str], metrics: Sequence[str]) -> _Layout:
    """The layout that a header describes."""
    names = [name.strip() for name in header]
    time = next((names.index(name) for name in TIME_NAMES if name in names), None)
    if time is None:
        expected = f"{path}: the header must have a column named one of {', '.join(TIME_NAMES)}"
        msg = f"{expected}; received {','.join(names)[:200]}"
        raise SourceError(msg)
    entity = names.index("entity") if "entity" in names else None
    layout = _Layout(len(header), time, entity, (), None, frozenset(metrics), entity_name(path))
    if "metric" in names and "value" in names and entity is not None:
        return replace(layout, long=(names.index("metric"), names.index("value")))
    found = tuple((position, name) for position, name in enumerate(names) if name in layout.known)
    if not found:
        msg = (
            f"{path}: the header has none of the monitor's metrics ({', '.join(metrics)[:200]});"
            f" received {','.join(names)[:200]}"
        )
        raise SourceError(msg)
    return replace(layout, metrics=found)


def _samples(layout: _Layout, line: list[str]) -> tuple[list[Sample], str | None]:
    """The samples of a line, and why the line, or a part of it, cannot be used."""
    if len(line) != layout.width:
        return [], f"{layout.width} fields expected, {len(line)} received"
    try:
        time = parse_time(line[layout.time])
    except ValueError as exc:
        return [], f"{exc}, {line[layout.time][:40]!r} received"
    entity = line[layout.entity].strip() if layout.entity is not None else layout.file_entity
    if not entity:
        return [], "entity is empty"
    samples: list[Sample] = []
    problem = None
    for name, written in _cells(layout, line):
        if name not in layout.known:
            problem = problem or f"{name[:40]!r} is no metric of the monitor"
            continue
        number = _number(written)
        if number is not None:
            samples.append((entity, name, time, number))
        else:
            problem = problem or f"number expected for {name}, {written[:40]!r} received"
    return samples, problem


def _number(written: str) -> float | None:
    """A value, NaN for an empty field; None if it is no number or infinite."""
    try:
        number = float(written) if written.strip() else math.nan
    except ValueError:
        return None
    return None if math.isinf(number) else number


def _cells(layout: _Layout, line: list[str]) -> Iterator[tuple[str, str]]:
    """Metric and written value of each sample of a line."""
    if layout.long is not None:
        yield line[layout.long[0]].strip(), line[layout.long[1]]
    else:
        yield from ((name, line[position]) for position, name in layout.metrics)


def parse_time(written: str) -> int:
    """Epoch milliseconds of a time of the years 1971 to 2200.

    In ISO 8601, also without marks (20261124, 202611241000, 20261124100000); UTC unless it says otherwise. Or seconds,
    milliseconds, microseconds or nanoseconds since 1970: no two of them mean the same years.

    Raises: ValueError that says why it is none of these.
    """
    written = written.strip()
    moment = _moment(written)
    if moment is not None:
        return _within(round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000))
    try:
        number = float(written)
    except ValueError:
        raise ValueError("time expected") from None
    for unit, first in _UNITS:
        if max(_FIRST, first) <= number * unit < _END:
            return round(number * unit)
    if 1 <= number < 100_000:
        raise ValueError("time expected (a day number of a spreadsheet? write it as 2026-11-24 10:00)")
    raise ValueError(_OUTSIDE)


def _moment(written: str) -> datetime | None:
    """A time in ISO 8601; None if it is not, or rather a count of seconds."""
    compact = _COMPACT.fullmatch(written)
    if compact is None and written.replace(".", "", 1).isdigit():
        return None
    try:
        if compact is None:
            return datetime.fromisoformat(written)
        moment = datetime(*(int(part) for part in compact.groups() if part))  # type: ignore[arg-type]
    except ValueError:
        return None
    return moment if 1971 <= moment.year <= 2200 else None


def _within(at: int) -> int:
    if not _FIRST <= at < _END:
        raise ValueError(_OUTSIDE)
    return at


def _flush(sink: Sink, batch: list[Sample], outcome: Outcome) -> None:
    if not batch:
        return
    entity, metric, time, value = zip(*batch, strict=True)
    try:
        sink.write(entity, metric, time=time, value=value)
    except DetectorError as exc:
        msg = f"{outcome.file}: stopped after {outcome.samples} samples: {exc}; importing it again is safe"
        raise SourceError(msg) from exc
    outcome.samples += len(batch)
    outcome.entities.update(entity)
    outcome.first = min(time) if outcome.first is None else min(outcome.first, *time)
    outcome.last = max(time) if outcome.last is None else max(outcome.last, *time)
    batch.clear()
