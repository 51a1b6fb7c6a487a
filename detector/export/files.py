"""Tables as files, written some rows at a time: CSV, or Parquet with the extra `parquet`."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from detector.errors import ConfigError
from detector.times import utc

Kind = Literal["time", "text", "number", "integer", "boolean"]
"""Of a column; a time is epoch milliseconds, and a timestamp in UTC in the file. Anything may be None."""

Row = Sequence[Any]
Write = Callable[[Sequence[Row]], None]

KINDS = (".csv", ".parquet")


@contextmanager
def writer(path: Path, columns: Mapping[str, Kind]) -> Iterator[Write]:
    """A function that appends rows to a new file, of the kind that its name ends with.

    The file takes its place when all is written; if something fails there is none.

    Raises: ConfigError if it cannot be written, or pyarrow is not installed.
    """
    kinds: dict[str, Callable[[Path, Mapping[str, Kind]], Any]] = {".csv": _csv, ".parquet": _parquet}
    if path.suffix not in kinds:
        msg = f"--out must end with {' or '.join(KINDS)}. Received: {str(path)!r}"
        raise ConfigError(msg)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with kinds[path.suffix](unfinished, columns) as write:
            yield write
        os.replace(unfinished, path)
    except OSError as exc:
        msg = f"--out {path} cannot be written: {exc.strerror or exc}"
        raise ConfigError(msg) from exc
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _csv(path: Path, columns: Mapping[str, Kind]) -> Iterator[Write]:
    # a lone surrogate of a name is written as \udc80, not refused
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        lines = csv.writer(file)  # lines end as in RFC 4180; with \n alone a \r in a name would not be quoted
        lines.writerow(columns)
        as_text = [_AS_TEXT.get(kind, _plain) for kind in columns.values()]

        def write(rows: Sequence[Row]) -> None:
            lines.writerows(
                ["" if value is None else text(value) for value, text in zip(row, as_text, strict=True)] for row in rows
            )

        yield write


def _plain(value: object) -> str:
    return str(value)


_AS_TEXT: dict[Kind, Callable[[Any], str]] = {
    "time": lambda at: utc(at, "milliseconds" if at % 1000 else "seconds"),
    "number": lambda number: f"{number:.9g}",
    "boolean": lambda is_so: "true" if is_so else "false",
}


@contextmanager
def _parquet(path: Path, columns: Mapping[str, Kind]) -> Iterator[Write]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as exc:
        msg = "a .parquet file needs pyarrow; pip install 'detector[parquet]', or write a .csv file"
        raise ConfigError(msg) from exc
    types: dict[Kind, Any] = {
        "time": pyarrow.timestamp("ms", tz="UTC"),
        "text": pyarrow.string(),
        "number": pyarrow.float64(),
        "integer": pyarrow.int64(),
        "boolean": pyarrow.bool_(),
    }
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    with parquet.ParquetWriter(path, schema, compression="zstd") as file:

        def write(rows: Sequence[Row]) -> None:
            arrays = [
                pyarrow.array(map(_unicode, column), field.type)
                for column, field in zip(zip(*rows, strict=True), schema, strict=True)
            ]
            file.write_batch(pyarrow.record_batch(arrays, schema=schema))

        yield write


def _unicode(value: Any) -> Any:
    """Text as Arrow takes it: a lone surrogate is written as \\udc80."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
