"""`detector report`: one HTML file of a period or an alert."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.commands.alerts import find_alert
from detector.commands.shared import (
    ConfigOption,
    assembled,
    moment_of,
    now_ms,
    refuse_unless_file,
    say,
    write_file,
    zone_name,
)
from detector.errors import ConfigError

if TYPE_CHECKING:
    from detector.report.content import Rows
    from detector.wiring import Parts


def report(
    out: Annotated[Path, typer.Option("--out", help="The HTML file to write.")],
    monitor: Annotated[str | None, typer.Argument(help="Only this monitor [all].", show_default=False)] = None,
    alert: Annotated[int | None, typer.Option("--alert", metavar="ID", help="Only this alert.")] = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="Only alerts opened since a time in this machine's zone, or since this long ago (24h, 30d) [7d]."
        ),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Writes an HTML report of a period or an alert, with plots, in one file that needs no network."""
    if alert is not None and (monitor or since):
        msg = "--alert selects one alert; leave out MONITOR and --since"
        raise ConfigError(msg)
    refuse_unless_file("--out", out)
    parts, now = assembled(config, monitor), now_ms()
    from detector.report import content, page

    if alert is None:
        rows = _rows_of_period(parts, monitor, since=moment_of("--since", since or "7d"), now=now)
    else:
        rows = _rows_of_alert(parts, alert, now=now)
    built = content.build(rows, now=now, zone=zone_name(), is_whole=alert is None)
    written = page.render(built).encode()
    write_file("--out", out, written)
    count = len(built["alerts"]) + built["untold"]
    of = f"{len(rows)} monitor{'s' if len(rows) != 1 else ''}"
    say(f"{out}: {count} alert{'s' if count != 1 else ''} of {of}, {-(-len(written) // 1000)} kB")


def _rows_of_period(parts: Parts, monitor: str | None, *, since: int, now: int) -> list[Rows]:
    """Rows of one monitor, or of all, since a time; epoch milliseconds."""
    from detector.report import rows
    from detector.store.history import StoredHistory

    return [
        rows.read(section, StoredHistory(parts.engine, section.name), parts.store, since=since, now=now)
        for section in parts.config.monitors
        if monitor in {None, section.name}
    ]


def _rows_of_alert(parts: Parts, identity: int, *, now: int) -> list[Rows]:
    from detector.report import rows
    from detector.store.history import StoredHistory

    alert, _ = find_alert(parts, identity)
    history = StoredHistory(parts.engine, alert.monitor)
    return [rows.read(parts.config.monitor(alert.monitor), history, parts.store, since=0, now=now, only=alert)]
