"""`detector check`: a dry run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from detector.commands.shared import ConfigOption, JsonOption, Moment, load, now_ms, print_rows
from detector.wording import amount

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from detector.config.sections import Config, MonitorSection
    from detector.errors import ConfigError


def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Dry run: validates, connects, counts, measures, and says what the daemon would do."""
    path, settings = load(config)
    from detector.config import loading
    from detector.web.access import Access

    Access(loading.web_config(settings.export))  # one that is wrong keeps the daemon from starting
    rows, too_much = checked(settings, as_json=as_json)
    if not as_json:
        monitors = amount(len(settings.monitors), "monitor")
        print(f"{path}: valid, {monitors}; page and /metrics on {settings.export.listen}")
    print_rows(rows, as_json=as_json, vertical=True)
    if too_much is not None:
        raise too_much
    if any(row.get("problem") for row in rows):
        raise typer.Exit(1)


def checked(settings: Config, *, as_json: bool = False) -> tuple[list[dict[str, Any]], ConfigError | None]:
    """What a check finds: a row for each part, and the error of more than this machine can carry."""
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
    return checking.check(settings, parts, now_ms())


def _names(monitor: MonitorSection, engine: Engine) -> list[str]:
    """Metrics that a monitor's source has rows of, as far as it can be asked."""
    from detector import database, wiring
    from detector.config import loading
    from detector.config.sections import PrometheusSource, SqlSource
    from detector.operate import newest

    source = monitor.source
    if isinstance(source, PrometheusSource):
        return [*source.queries, *wiring.prometheus(monitor, source).names()]
    url = loading.secret(source) if isinstance(source, SqlSource) else ""
    if not (url and isinstance(source, SqlSource)):
        return newest.metric_names(engine, monitor)
    own = database.connect(url, timeout=source.timeout, reads_only=True)
    try:
        return newest.metric_names(own, monitor)
    finally:
        own.dispose()
