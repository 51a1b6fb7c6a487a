"""`detector import`: CSV files into the embedded store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.commands.shared import ConfigOption, JsonOption, Moment, load, print_rows, say
from detector.errors import ConfigError

if TYPE_CHECKING:
    from detector.csv_files import Outcome


def import_(
    path: Annotated[Path, typer.Argument(help="A CSV file, gzipped or not, or a folder of them.")],
    monitor: Annotated[str, typer.Option("--monitor", help="A monitor whose source is `embedded` or `host`.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Loads CSV files, long (timestamp,entity,metric,value) or wide, into the embedded sample store."""
    _, settings = load(config)
    section = settings.monitor(monitor)
    if section.source.type == "sql":
        msg = f'monitor {monitor!r} reads its own database; import needs a monitor with source.type = "embedded"'
        raise ConfigError(msg)
    from detector import csv_files, wiring
    from detector.progress import part, shown

    parts = wiring.assemble(settings, upgrade=True)
    sink = wiring.embedded(section, parts.engine)
    files = csv_files.files(path)
    outcomes = []
    with shown("import") as progress:
        for index, file in enumerate(files):
            report, name = part(progress, index / len(files), 1 / len(files)), file.name
            outcomes.append(
                csv_files.load(file, section.metrics, sink, progress=lambda done, r=report, n=name: r(done, n))  # type: ignore[misc]
            )
    for outcome in outcomes:
        _print_bad_lines(outcome)
    print_rows([_row(outcome) for outcome in outcomes], as_json=as_json)


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
