"""`detector import`: CSV files into the embedded store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.commands.shared import ConfigOption, JsonOption, Moment, load, print_rows, say
from detector.errors import ConfigError, SourceError
from detector.wording import printable

if TYPE_CHECKING:
    from detector.csv_files import Outcome
    from detector.progress import Progress


def import_(
    path: Annotated[Path, typer.Argument(help="A CSV file, gzipped or not, or a folder of them.")],
    monitor: Annotated[str, typer.Option("--monitor", help="A monitor whose source is `embedded` or `host`.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Loads CSV files, long (timestamp,entity,metric,value) or wide, into the embedded sample store."""
    _, settings = load(config)
    section = settings.monitor(monitor)
    if section.source.type in {"sql", "prometheus"}:
        msg = f'monitor {monitor!r} reads its own source; import needs a monitor with source.type = "embedded"'
        raise ConfigError(msg)
    from detector import csv_files, wiring
    from detector.detect.horizon import Horizon
    from detector.operate.late_rows import LateRows
    from detector.progress import part, shown

    parts = wiring.assemble(settings, upgrade=True)
    sink = LateRows(wiring.embedded(section, parts.engine), Horizon.of(section), parts.store)
    files = csv_files.files(path)
    outcomes, failed = [], 0
    with shown("import") as progress:
        for index, file in enumerate(files):
            report = _named(part(progress, index / len(files), 1 / len(files)), printable(file.name))
            try:
                outcomes.append(csv_files.load(file, section.metrics, sink, progress=report))
            except SourceError as exc:
                failed += 1
                say(f"detector: {exc}", to_stderr=True)
    for outcome in outcomes:
        _print_bad_lines(outcome)
    if outcomes or as_json:
        print_rows([_row(outcome) for outcome in outcomes], as_json=as_json)
    if (too_late := sink.line()) is not None:
        say(f"detector: {too_late}", to_stderr=True)
    useless = [outcome.file for outcome in outcomes if outcome.bad and not outcome.samples]
    for name in useless:
        say(f"detector: {name}: not a single line of it could be used", to_stderr=True)
    if useless or failed:
        raise typer.Exit(1)


def _named(progress: Progress, name: str) -> Callable[[float], None]:
    """Progress of one file, by the share that is done."""
    return lambda share: progress(share, name)


def _print_bad_lines(outcome: Outcome) -> None:
    for line in outcome.bad_lines:
        say(f"{outcome.file}: {line}", to_stderr=True)
    if outcome.bad > len(outcome.bad_lines):
        say(f"{outcome.file}: … and {outcome.bad - len(outcome.bad_lines)} more bad lines", to_stderr=True)


def _row(outcome: Outcome) -> dict[str, Any]:
    return {
        "file": Path(outcome.file).name,
        "rows": outcome.rows,
        "samples": outcome.samples,
        "entities": len(outcome.entities),
        "from": None if outcome.first is None else Moment(outcome.first),
        "to": None if outcome.last is None else Moment(outcome.last),
        "bad_lines": outcome.bad,
    }
