"""`detector alerts`: stored alerts, and people's answers to them."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.commands.shared import (
    ConfigOption,
    EntityOption,
    JsonOption,
    Moment,
    MonitorOption,
    assembled,
    if_given,
    moment_of,
    now_ms,
    one_of,
    print_json,
    print_rows,
    say,
)
from detector.errors import ConfigError
from detector.wording import printable

if TYPE_CHECKING:
    from detector.store.alerts import AlertRow
    from detector.wiring import Parts

OPEN_ALERTS = 3
"""Exit status of `alerts list --open` when there are any, for scripts."""

_IN_SECTIONS = {"metrics", "part", "window", "events", "top_metrics"}  # of an alert, not shown as a line of its table


def list_alerts(
    config: ConfigOption = None,
    monitor: MonitorOption = None,
    entity: EntityOption = None,
    state: Annotated[
        str | None, typer.Option(help="Only alerts in this state: open, acknowledged, closed or withdrawn.")
    ] = None,
    severity: Annotated[str | None, typer.Option(help="Only alerts of this severity: warning, critical.")] = None,
    only_open: Annotated[
        bool, typer.Option("--open", help="Only open and acknowledged alerts; exit status 3 if there are any.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(help="Only alerts opened since a time in this machine's zone, or since this long ago (24h, 7d)."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Only alerts opened before a time, or before this long ago.")
    ] = None,
    most: Annotated[int, typer.Option("--limit", min=1, help="Show at most N, newest first.", metavar="N")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Lists alerts, newest first."""
    parts = assembled(config, monitor)
    from detector.ports import AlertState
    from detector.store import alerts, outbox

    one_of("--state", state, tuple(AlertState))
    one_of("--severity", severity, ("warning", "critical"))
    found = alerts.listing(
        parts.engine,
        monitor=monitor,
        entity=entity,
        state=state,
        severity=severity,
        only_open=only_open,
        since=if_given(moment_of, "--since", since),
        until=if_given(moment_of, "--until", until),
        most=min(most, 1 << 31),  # no table is longer, and no database takes a number of more than 64 bits
    )
    notified = outbox.summary(parts.engine, [row.id for row in found])
    if sys.stdout.isatty() and not as_json:
        one = monitor is not None or len(parts.config.monitors) == 1
        shown = [_short(row, now_ms(), hides_monitor=one) for row in found]
        print_rows(shown, empty=_none(parts, monitor), width=shutil.get_terminal_size().columns)
    else:
        rows = [alert_row(row) | {"notified": notified[row.id]} for row in found]
        print_rows(rows, as_json=as_json, empty=_none(parts, monitor))
    if only_open and found:
        raise typer.Exit(OPEN_ALERTS)


def _none(parts: Parts, monitor: str | None) -> str:
    """Says that there are no alerts, and of which monitors nobody can know."""
    names = [name for name in parts.versions if monitor in {None, name}]
    learning = [name for name in names if parts.versions[name].live_number() is None]
    return f"no alerts; still without a model: {', '.join(learning)} (detector check)" if learning else "no alerts"


AlertId = Annotated[int, typer.Argument(metavar="ID", help="Number of the alert; see: detector alerts list")]


def show_alert(identity: AlertId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Shows one alert in plain words: what happened, when, how bad, why, and what became of it."""
    parts = assembled(config, None)
    row, events = find_alert(parts, identity)
    from detector.store import outbox

    shown = alert_row(row) | {
        "notified": outbox.summary(parts.engine, [row.id])[row.id],
        "peak": Moment(row.episode.peak_slot),
        "model_version": row.model_version,
        "metrics": row.explanation.get("metrics", []),
        "part": row.explanation.get("part"),
        "window": row.explanation.get("window"),
        "events": [
            event | {"slot": Moment(event["slot"]), "created_at": Moment(event["created_at"])} for event in events
        ],
    }
    if as_json:
        print_json(shown)
    else:
        _print_alert(row, shown)


def _print_alert(row: AlertRow, shown: dict[str, Any]) -> None:
    from detector import wording

    say(f"{printable(row.entity)} ({row.monitor}): {printable(wording.sentence(row.explanation))}\n")
    lines = {
        name: value for name, value in shown.items() if name not in _IN_SECTIONS and value not in (None, False, "")
    }
    print_rows([lines], vertical=True)
    if len(shown["metrics"]) > wording.MOST:  # the sentence has named the others
        say("\nmetrics by their share of the score")
        for metric in shown["metrics"]:
            say(f"  {printable(wording.metric_line(metric))}")
    say("\nhistory")
    print_rows([_happened(event) for event in shown["events"]])


def _happened(event: dict[str, Any]) -> dict[str, Any]:
    """An event as a line of the history: when the slot was, and when it was known."""
    from detector import wording

    why = wording.ENDED.get(event["detail"] or "") if event["change"] == "closed" and not event["by"] else None
    shown = {"change": event["change"], "slot": event["slot"], "recorded": event["created_at"]}
    return shown | {"by": event["by"], "detail": why or event["detail"]}


def find_alert(parts: Parts, identity: int) -> tuple[AlertRow, list[dict[str, Any]]]:
    """An alert and its events; refuses a number that no alert has."""
    from detector.store import alerts

    # no database numbers its rows so high, nor takes a number of more than 64 bits
    found = alerts.show(parts.engine, identity) if 0 <= identity < 1 << 63 else None
    if found is None:
        msg = f"no alert {identity}; see: detector alerts list"
        raise ConfigError(msg)
    return found


def alert_row(row: AlertRow) -> dict[str, Any]:
    """An alert as the line of a table."""
    metrics = row.explanation.get("metrics", [])
    return {
        "id": row.id,
        "monitor": row.monitor,
        "entity": row.entity,
        "state": row.state,
        "severity": row.episode.severity,
        "opened": Moment(row.episode.opened_slot),
        "detected": Moment(row.detected_at),
        "closed": _closed(row),
        "peak_score": round(row.episode.peak_score, 2),
        "incident": None if row.incident is None else f"{row.incident} ({row.incident_size})",
        "reopened": row.episode.reopenings,
        "muted": row.is_muted,
        "verdict": row.verdict,
        "top_metrics": [metric["metric"] for metric in metrics[:3]],
    }


def _short(row: AlertRow, now: int, *, hides_monitor: bool) -> dict[str, Any]:
    """An alert as a line that fits a terminal: what it was, when and how long. now: epoch milliseconds"""
    from detector import wording

    closed = _closed(row)
    flags = [row.state.value, *(["muted"] if row.is_muted else []), *([row.verdict] if row.verdict else [])]
    name = row.entity if hides_monitor else f"{row.entity} ({row.monitor})"
    return {
        "id": row.id,
        "state": ", ".join(flags),
        "severity": row.episode.severity,
        "opened": str(Moment(row.episode.opened_slot))[:16].replace("T", " "),
        "lasted": wording.duration((now if closed is None else closed.at) - row.episode.opened_slot),
        "entity": name,
        "peak": f"{row.episode.peak_score:.2f}",
        "metrics": [metric["metric"] for metric in row.explanation.get("metrics", [])[:3]],
    }


def _closed(row: AlertRow) -> Moment | None:
    """Time when an alert closed for people, by a person or by itself."""
    closed = row.episode.closed_slot if row.closed_at is None else row.closed_at
    return None if closed is None else Moment(closed)
