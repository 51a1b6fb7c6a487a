"""`detector check`: a dry run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    pass
from detector.commands.shared import ConfigOption, JsonOption, load, print_rows


def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Dry run: validates, connects, counts, measures, and says what the daemon would do."""
    path, settings = load(config)
    from detector.operate import check as checking

    rows, too_much = checking.check(settings)
    if not as_json:
        print(f"{path}: valid, {len(settings.monitors)} monitors; /metrics on http://{settings.export.listen}/metrics")
    print_rows(rows, as_json=as_json, empty="", vertical=True)
    if too_much is not None:
        raise too_much
    if any(row.get("problem") for row in rows):
        raise typer.Exit(1)
