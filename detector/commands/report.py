"""`detector report`: one HTML file of a period or an alert."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.errors import ConfigError

if TYPE_CHECKING:
    pass
from detector.commands.shared import ConfigOption, assembled, moment_of, now_ms


def report(
    out: Annotated[Path, typer.Option("--out", help="The HTML file to write.")],
    monitor: Annotated[str | None, typer.Argument(help="Only this monitor [all].", show_default=False)] = None,
    alert: Annotated[int | None, typer.Option("--alert", metavar="ID", help="Only this alert.")] = None,
    since: Annotated[str | None, typer.Option(help="Alerts since a time, or this long ago (24h, 30d) [7d].")] = None,
    config: ConfigOption = None,
) -> None:
    """Writes what happened, with plots, into one HTML file that needs no network: to read, print and pass on."""
    if alert is not None and (monitor or since):
        msg = "--alert tells of one alert; leave out MONITOR and --since"
        raise ConfigError(msg)
    if out.exists() and not out.is_file():
        msg = f"--out must be a file to write. Received: {str(out)!r}, which is something else"
        raise ConfigError(msg)
    parts = assembled(config, monitor)
    from detector import wiring
    from detector.report import content, page
    from detector.report import rows as stored
    from detector.store import alerts

    now = now_ms()
    if alert is None:
        earliest = moment_of("--since", since or "7d") or 0
        sections = [m for m in parts.config.monitors if monitor in {None, m.name}]
        only = None
    else:
        found = alerts.show(parts.engine, alert)
        if found is None:
            msg = f"no alert {alert}; see: detector alerts list"
            raise ConfigError(msg)
        earliest, only = 0, found[0]
        sections = [parts.config.monitor(only.monitor)]
    rows = [
        stored.read(
            section,
            wiring.StoredHistory(parts.engine, section.name),
            parts.store,
            since=earliest,
            now=now,
            only=only,
        )
        for section in sections
    ]
    told = content.build(rows, now=now, is_whole=alert is None)
    written = page.render(told).encode()
    try:
        out.write_bytes(written)
    except OSError as exc:
        msg = f"--out {out} cannot be written: {exc.strerror}"
        raise ConfigError(msg) from exc
    count = len(told["alerts"]) + told["untold"]
    of = f"{len(rows)} monitor{'s' if len(rows) != 1 else ''}"
    print(f"{out}: {count} alert{'s' if count != 1 else ''} of {of}, {-(-len(written) // 1000)} kB")
