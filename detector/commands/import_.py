"""`detector import`: CSV files into the embedded store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.errors import ConfigError
from detector.times import utc

if TYPE_CHECKING:
    pass
from detector.commands.shared import ConfigOption, JsonOption, load, print_rows


def import_(
    path: Annotated[Path, typer.Argument(help="A CSV file, gzipped or not, or a folder of them.")],
    monitor: Annotated[str, typer.Option("--monitor", help="Monitor whose source is `embedded` or `host`.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Brings CSV files into the embedded sample store, long (timestamp,entity,metric,value) or wide."""
    _, settings = load(config)
    section = settings.monitor(monitor)
    if section.source.type == "sql":
        msg = f'monitor {monitor!r} reads its own database; import needs a monitor with source.type = "embedded"'
        raise ConfigError(msg)
    from detector import csv_files as importing
    from detector import wiring
    from detector.progress import shown

    parts = wiring.assemble(settings, upgrade=True)
    sink = wiring.embedded(section, parts.engine)
    found = importing.files(path)
    outcomes = []
    with shown("import") as progress:
        for index, file in enumerate(found):
            outcomes.append(
                importing.load(
                    file,
                    section.metrics,
                    sink,
                    lambda done, i=index, f=file: progress((i + done) / len(found), f.name),  # type: ignore[misc]
                )
            )
    for outcome in outcomes:
        for line in outcome.bad_lines:
            print(f"{outcome.file}: {line}", file=sys.stderr)
        if outcome.bad > len(outcome.bad_lines):
            print(f"{outcome.file}: … and {outcome.bad - len(outcome.bad_lines)} more bad lines", file=sys.stderr)
    rows = [
        {
            "file": Path(outcome.file).name,
            "rows": outcome.rows,
            "samples": outcome.samples,
            "entities": len(outcome.entities),
            "from": None if outcome.first is None else utc(outcome.first),
            "to": None if outcome.last is None else utc(outcome.last),
            "bad_lines": outcome.bad,
        }
        for outcome in outcomes
    ]
    print_rows(rows, as_json=as_json, empty="")
