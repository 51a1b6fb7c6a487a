"""CSV files, long or wide, gzipped or not, into the embedded sample store."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from detector.errors import DetectorError, SourceError

TIME_NAMES = ("timestamp", "time", "ts", "datetime")
_BATCH = 200_000
_LISTED = 20  # bad lines named in the report; all are counted
_MILLISECONDS_FROM = 1e11  # as seconds this would be the year 5138

UNREADABLE = (OSError, EOFError, zlib.error, csv.Error)
"""What reading a CSV file, gzipped or not, may raise."""


class Sink(Protocol):
    """Where samples go."""

    def write(
        self, entity: Sequence[str], metric: Sequence[str], *, time: Sequence[int], value: Sequence[float]
    ) -> None:
        """Stores samples given as columns."""


@dataclass
class Outcome:
    """What one file brought."""

    file: str
    rows: int = 0
    samples: int = 0
    entities: set[str] = field(default_factory=set)
    first: int | None = None
    last: int | None = None
    bad: int = 0
    bad_lines: list[str] = field(default_factory=list)

    def refuse(self, line: int, why: str) -> None:
        """Counts a line that could not be used, and names the first few."""
        self.bad += 1
        if len(self.bad_lines) < _LISTED:
            self.bad_lines.append(f"line {line}: {why}")


@dataclass(frozen=True)
class _Layout:
    """Which column holds what."""

    time: int
    entity: int | None
    metrics: tuple[tuple[int, str], ...]  # wide: position and metric
    long: tuple[int, int] | None  # positions of metric and value


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


def load(path: Path, metrics: Sequence[str], sink: Sink, progress: Callable[[float], None]) -> Outcome:
    """Reads one file into the sink; lines that cannot be used are counted and named in the outcome.

    The header decides: `timestamp,entity,metric,value` is long, `timestamp[,entity],<metrics…>` wide; columns that are
    no metric of the monitor are left out. Times are ISO 8601 (UTC unless they say otherwise) or epoch (milli)seconds.

    Raises: SourceError if the file cannot be read or its header has no time or no metric of the monitor.
    """
    outcome = Outcome(str(path))
    size = max(1, path.stat().st_size) if path.exists() else 1
    try:
        with path.open("rb") as raw, unpacked(raw, path) as stream:
            lines = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline=""))
            header = next(lines, [])
            layout = _layout(path, header, metrics)
            batch: list[tuple[str, str, int, float]] = []
            for line in lines:
                _read_line(outcome, layout, line, lines.line_num, len(header), set(metrics), entity_name(path), batch)
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
    names = [name.strip() for name in header]
    time = next((names.index(name) for name in TIME_NAMES if name in names), None)
    if time is None:
        expected = f"{path}: the header must have a column named one of {', '.join(TIME_NAMES)}"
        msg = f"{expected}; received {','.join(names)[:200]}"
        raise SourceError(msg)
    entity = names.index("entity") if "entity" in names else None
    if "metric" in names and "value" in names and entity is not None:
        return _Layout(time, entity, (), (names.index("metric"), names.index("value")))
    found = tuple((position, name) for position, name in enumerate(names) if name in set(metrics))
    if not found:
        msg = (
            f"{path}: the header has none of the monitor's metrics ({', '.join(metrics)[:200]});"
            f" received {','.join(names)[:200]}"
        )
        raise SourceError(msg)
    return _Layout(time, entity, found, None)


def _read_line(
    outcome: Outcome,
    layout: _Layout,
    line: list[str],
    number: int,
    width: int,
    metrics: set[str],
    file_entity: str,
    batch: list[tuple[str, str, int, float]],
) -> None:
    if not line:
        return
    outcome.rows += 1
    if len(line) != width:
        outcome.refuse(number, f"{width} fields expected, {len(line)} received")
        return
    try:
        time = parse_time(line[layout.time])
    except ValueError:
        outcome.refuse(number, f"time expected, {line[layout.time][:40]!r} received")
        return
    entity = line[layout.entity] if layout.entity is not None else file_entity
    if not entity:
        outcome.refuse(number, "entity is empty")
        return
    problems = []
    for name, written in _cells(layout, line):
        if name not in metrics:
            problems.append(f"{name[:40]!r} is no metric of the monitor")
            continue
        try:
            batch.append((entity, name, time, float(written) if written.strip() else float("nan")))
        except ValueError:
            problems.append(f"number expected for {name}, {written[:40]!r} received")
    if problems:
        outcome.refuse(number, problems[0])


def _cells(layout: _Layout, line: list[str]) -> Iterator[tuple[str, str]]:
    if layout.long is not None:
        yield line[layout.long[0]], line[layout.long[1]]
    else:
        yield from ((name, line[position]) for position, name in layout.metrics)


def parse_time(written: str) -> int:
    """Epoch milliseconds from ISO 8601 (UTC unless it says otherwise), epoch seconds or epoch milliseconds.

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


def _flush(sink: Sink, batch: list[tuple[str, str, int, float]], outcome: Outcome) -> None:
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
