"""`detector scores`: the stored scores of one entity, and why there is none."""

from __future__ import annotations

import csv
import math
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from detector.commands.shared import (
    ConfigOption,
    JsonOption,
    Moment,
    assembled,
    if_given,
    moment_of,
    print_rows,
    say,
    unknown_entity,
)
from detector.errors import ConfigError

if TYPE_CHECKING:
    from detector.detect.told import Told
    from detector.wiring import Parts

_SHOWN = 60  # newest slots, unless a time is given
_BARS = "▁▂▃▄▅▆▇█"  # six below the threshold, then at least 1 and at least 2
_UNKNOWN, _NOT_STORED = "?", "·"
_COLUMNS = ("slot", "score", "surprise", "state", "reason")


def scores(
    monitor: Annotated[str, typer.Argument(help="The monitor.")],
    entity: Annotated[str, typer.Argument(help="The entity.")],
    from_: Annotated[
        str | None,
        typer.Option("--from", help="From a time on, or this long ago [the newest 60 slots].", show_default=False),
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="Up to a time, or this long ago.", show_default=False)] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with times in UTC.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Shows the stored scores of an entity; 1 is the threshold. Where there is none it says why."""
    if as_csv and as_json:
        msg = "--csv and --json cannot be combined; give one"
        raise ConfigError(msg)
    parts = assembled(config, monitor)
    rows = _rows(parts, monitor, entity, if_given(moment_of, "--from", from_), if_given(moment_of, "--to", to))
    if as_csv:
        _print_csv(rows)
        return
    shown = [
        {
            "slot": Moment(row.slot),
            "score": _rounded(row.score),
            "surprise": _rounded(row.surprise),
            "state": row.state,
            "reason": row.reason or None,
        }
        for row in rows
    ]
    print_rows(shown, as_json=as_json)
    if not as_json and sys.stdout.isatty():
        _print_sparkline(rows)


def _rows(parts: Parts, monitor: str, entity: str, start: int | None, end: int | None) -> list[Told]:
    """What is on record of an entity in [start, end), up to the cursor."""
    from detector.core import grid
    from detector.store import judged, record

    step, cursor = parts.config.monitor(monitor).step_ms, parts.store.cursor(monitor)
    if cursor is None:
        msg = f"monitor {monitor!r} has judged nothing yet; see: detector check"
        raise ConfigError(msg)
    last = grid.floor(min(cursor, cursor if end is None else end), step)
    first = last - _SHOWN * step if start is None else grid.floor(start, step)
    if first >= last:
        msg = f"--from must be before --to, and before {Moment(cursor)}, up to where {monitor!r} has judged"
        raise ConfigError(msg)
    pages = record.told(parts.engine, monitor, start=first, end=last, step=step, entity=entity)
    rows = [row for page in pages for row in page]
    if rows or entity in (known := judged.entities(parts.engine, monitor)):
        return rows or _nothing(entity, first, last, step)
    raise ConfigError(unknown_entity(monitor, entity, known))


def _nothing(entity: str, first: int, last: int, step: int) -> list[Told]:
    """Slots of an entity that was not judged in them."""
    from detector.detect.told import NOT_JUDGED, Told

    return [Told(slot, entity, None, None, "unknown", NOT_JUDGED, None) for slot in range(first, last, step)]


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)


def _print_csv(rows: Sequence[Told]) -> None:
    from detector.times import utc

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        numbers = ("" if value is None else f"{value:.9g}" for value in (row.score, row.surprise))
        writer.writerow([utc(row.slot), *numbers, row.state, row.reason])


def _print_sparkline(rows: Sequence[Told]) -> None:
    try:
        line = sparkline(rows, shutil.get_terminal_size().columns - 1)
        line.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return
    stored = f", {_NOT_STORED} not stored" if _NOT_STORED in line else ""
    say(f"\n{line}\n▇ at least 1, █ at least 2, {_UNKNOWN} unknown{stored}")


def sparkline(rows: Sequence[Told], width: int) -> str:
    """One line of at most `width` characters: the highest score of some slots each; unknown only where all are.

    Six heights are below the threshold, two from it on.
    """
    size = math.ceil(len(rows) / max(1, width))
    return "".join(_bar(rows[begin : begin + size]) for begin in range(0, len(rows), size))


def _bar(rows: Sequence[Told]) -> str:
    known = [row.score for row in rows if row.score is not None]
    if not known:
        return _UNKNOWN if all(row.state == "unknown" for row in rows) else _NOT_STORED
    score = max(known)
    below = len(_BARS) - 2
    return _BARS[min(int(score) + below - 1, len(_BARS) - 1) if score >= 1 else max(0, int(score * below))]
