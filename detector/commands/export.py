"""`detector export`: stored scores and alerts as CSV or Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector import wording
from detector.commands.shared import ConfigOption, assembled, if_given, moment_of, now_ms, refuse_unless_file, say
from detector.errors import ConfigError

if TYPE_CHECKING:
    from detector.detect.told import Told
    from detector.export.files import Kind
    from detector.store.alerts import AlertRow
    from detector.wiring import Parts

_EVER = 1 << 62  # epoch milliseconds, after everything

Monitor = Annotated[str, typer.Argument(help="The monitor.")]
Out = Annotated[Path, typer.Option("--out", help="The file to write: .csv or .parquet.")]
From = Annotated[
    str | None, typer.Option("--from", help="From a time on, or this long ago [everything].", show_default=False)
]
To = Annotated[str | None, typer.Option("--to", help="Up to a time, or this long ago.", show_default=False)]

_SCORES: dict[str, tuple[Kind, Callable[[Told], Any]]] = {
    "slot": ("time", lambda row: row.slot),
    "entity": ("text", lambda row: row.entity),
    "score": ("number", lambda row: row.score),
    "surprise": ("number", lambda row: row.surprise),
    "state": ("text", lambda row: row.state),
    "reason": ("text", lambda row: row.reason or None),
    "model_version": ("integer", lambda row: row.model_version),
}
_ALERTS: dict[str, tuple[Kind, Callable[[AlertRow], Any]]] = {
    "id": ("integer", lambda row: row.id),
    "entity": ("text", lambda row: row.entity),
    "state": ("text", lambda row: row.state.value),
    "severity": ("text", lambda row: row.episode.severity.value),
    "opened": ("time", lambda row: row.episode.opened_slot),
    "detected": ("time", lambda row: row.detected_at),
    "closed": ("time", lambda row: row.episode.closed_slot if row.closed_at is None else row.closed_at),
    "closed_by": ("text", lambda row: row.closed_by),
    "peak_score": ("number", lambda row: row.episode.peak_score),
    "peak": ("time", lambda row: row.episode.peak_slot),
    "incident": ("integer", lambda row: row.incident),
    "reopened": ("integer", lambda row: row.episode.reopenings),
    "muted": ("boolean", lambda row: row.is_muted),
    "verdict": ("text", lambda row: row.verdict),
    "acknowledged": ("time", lambda row: row.acknowledged_at),
    "acknowledged_by": ("text", lambda row: row.acknowledged_by),
    "comment": ("text", lambda row: row.comment),
    "model_version": ("integer", lambda row: row.model_version),
    "top_metrics": ("text", lambda row: ";".join(one["metric"] for one in row.explanation.get("metrics", [])[:3])),
    "what": ("text", lambda row: wording.sentence(row.explanation)),
}


def export_scores(monitor: Monitor, out: Out, from_: From = None, to: To = None, config: ConfigOption = None) -> None:
    """Writes a line for each entity and slot: the score, or why it is unknown. Times are UTC."""
    from detector.core import grid
    from detector.store import judged, record
    from detector.store import scores as stored

    parts, start, end = _chosen(monitor, out, from_, to, config)
    step, cursor = parts.config.monitor(monitor).step_ms, parts.store.cursor(monitor) or 0
    begins = [at for at in (stored.first_slot(parts.engine, monitor), judged.first(parts.engine, monitor)) if at]
    first = grid.floor(max(start, min(begins, default=cursor)), step)
    pages = record.told(parts.engine, monitor, start=first, end=grid.floor(min(end, cursor), step), step=step)
    _write(out, pages, _SCORES, "slots of entities")


def export_alerts(monitor: Monitor, out: Out, from_: From = None, to: To = None, config: ConfigOption = None) -> None:
    """Writes a line for each alert that opened in this time, the oldest first. Times are UTC."""
    from detector.store import alerts

    parts, start, end = _chosen(monitor, out, from_, to, config)
    _write(out, alerts.pages(parts.engine, monitor=monitor, since=start, until=end), _ALERTS, "alerts")


def _chosen(monitor: str, out: Path, from_: str | None, to: str | None, config: Path | None) -> tuple[Parts, int, int]:
    """The parts, and [start, end) in epoch milliseconds."""
    refuse_unless_file("--out", out)
    parts = assembled(config, monitor)
    start, end = if_given(moment_of, "--from", from_), if_given(moment_of, "--to", to)
    if start is not None and start >= (now_ms() if end is None else end):
        msg = "--from must be before --to, or before now"
        raise ConfigError(msg)
    return parts, 0 if start is None else start, _EVER if end is None else end


def _write(
    out: Path,
    pages: Iterator[Sequence[Any]],
    columns: dict[str, tuple[Kind, Callable[[Any], Any]]],
    what: str,
) -> None:
    from detector.export import files

    made = [make for _, make in columns.values()]
    count = 0
    with files.writer(out, {name: kind for name, (kind, _) in columns.items()}) as write:
        for page in pages:
            write([[make(row) for make in made] for row in page])
            count += len(page)
    say(f"{out}: {count} {what}, {-(-out.stat().st_size // 1000)} kB")
