"""CSV files, long or wide, gzipped or not, into the embedded sample store."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from detector.errors import DetectorError, SourceError

TIME_NAMES = ("timestamp", "time", "ts", "datetime")
_BATCH = 200_000
_LISTED = 20  # bad lines; all are counted
_MILLISECONDS_FROM = 1e11  # as seconds this would be the year 5138

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
    found = sorted(item for item in path.iterdir() if _is_csv(item)) if path.is_dir() else [path]
    if not path.exists() or not found:
        msg = f"{path}: no such file, or no *.csv or *.csv.gz in that folder"
        raise SourceError(msg)
    return found


def entity_name(path: Path) -> str:
    """The entity of a file that has no entity column: its name without endings."""
    return path.name.removesuffix(".gz").removesuffix(".csv")


def load(
    path: Path, metrics: Sequence[str], sink: Sink, *, progress: Callable[[float], None] = lambda _share: None
) -> Outcome:
    """Reads one file into the sink; lines that cannot be used are counted and listed in the outcome.

    The header decides: `timestamp,entity,metric,value` is long, `timestamp[,entity],<metrics…>` wide; columns that are
    no metric of the monitor are left out. Times are ISO 8601 (UTC unless they say otherwise) or epoch (milli)seconds.

    Raises: SourceError if the file cannot be read or its header has no time or no metric of the monitor.
    """
    outcome = Outcome(str(path))
    size = max(1, path.stat().st_size) if path.exists() else 1
    try:
        with path.open("rb") as raw, unpacked(raw, path) as stream:
            lines = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline=""))
            layout = _layout(path, next(lines, []), metrics)
            batch: list[Sample] = []
            for line in filter(None, lines):
                outcome.rows += 1
                samples, problem = _samples(layout, line)
                batch += samples
                if problem:
                    outcome.refuse(lines.line_num, problem)
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
    except ValueError:
        return [], f"time expected, {line[layout.time][:40]!r} received"
    entity = line[layout.entity] if layout.entity is not None else layout.file_entity
    if not entity:
        return [], "entity is empty"
    samples: list[Sample] = []
    problem = None
    for name, written in _cells(layout, line):
        if name not in layout.known:
            problem = problem or f"{name[:40]!r} is no metric of the monitor"
            continue
        try:
            samples.append((entity, name, time, float(written) if written.strip() else float("nan")))
        except ValueError:
            problem = problem or f"number expected for {name}, {written[:40]!r} received"
    return samples, problem


def _cells(layout: _Layout, line: list[str]) -> Iterator[tuple[str, str]]:
    """Metric and written value of each sample of a line."""
    if layout.long is not None:
        yield line[layout.long[0]], line[layout.long[1]]
    else:
        yield from ((name, line[position]) for position, name in layout.metrics)


def parse_time(written: str) -> int:
    """Epoch milliseconds of a time in ISO 8601 (UTC unless it says otherwise), epoch seconds or epoch milliseconds.

    Raises: ValueError if it is none of these.
    """
    written = written.strip()
    try:
        number = float(written)
    except ValueError:
        moment = datetime.fromisoformat(written)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    if not abs(number) < 2.6e14:
        raise ValueError(written)
    return round(number if abs(number) >= _MILLISECONDS_FROM else number * 1000)


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
