"""`detector check`: a dry run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from detector.commands.shared import ConfigOption, JsonOption, Moment, load, now_ms, print_rows
from detector.wording import count

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from detector.config.sections import MonitorSection


def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Dry run: validates, connects, counts, measures, and says what the daemon would do."""
    path, settings = load(config)
    from detector import database, wiring
    from detector.config import loading
    from detector.operate import check as checking

    engine = database.connect(loading.secret(settings.database), creates=False)
    parts = checking.Parts(
        engine=engine,
        source=lambda monitor: wiring.source(settings, monitor, engine),
        live=lambda monitor: wiring.StoredVersions(engine, monitor).live(),
        notifier=wiring.notifier,
        names=lambda monitor: _names(monitor, engine),
        **({} if as_json else {"show": lambda at: str(Moment(at))}),
    )
    rows, too_much = checking.check(settings, parts, now_ms())
    if not as_json:
        monitors = count(len(settings.monitors), "monitor")
        print(f"{path}: valid, {monitors}; /metrics on http://{settings.export.listen}/metrics")
    print_rows(rows, as_json=as_json, vertical=True)
    if too_much is not None:
        raise too_much
    if any(row.get("problem") for row in rows):
        raise typer.Exit(1)


def _names(monitor: MonitorSection, engine: Engine) -> list[str]:
    """Metrics that a monitor's source has rows of, as far as it can be asked."""
    from detector import database
    from detector.config import loading
    from detector.config.sections import SqlSource
    from detector.operate import newest

    source = monitor.source
    url = loading.secret(source) if isinstance(source, SqlSource) else ""
    if not (url and isinstance(source, SqlSource)):
        return newest.metric_names(engine, monitor)
    own = database.connect(url, timeout=source.timeout, reads_only=True)
    try:
        return newest.metric_names(own, monitor)
    finally:
        own.dispose()
