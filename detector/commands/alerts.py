"""`detector alerts`: what is stored of alerts, and what people say of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.errors import ConfigError
from detector.times import utc

if TYPE_CHECKING:
    from detector.store.alerts import AlertRow
    from detector.wiring import Parts
from detector.commands.shared import (
    By,
    Comment,
    ConfigOption,
    JsonOption,
    MonitorOption,
    assembled,
    moment_of,
    now_ms,
    one_of,
    print_rows,
    user,
)

OPEN_ALERTS = 3
"""Exit status of `alerts list --open` when there are any, for scripts."""


def list_alerts(
    config: ConfigOption = None,
    monitor: MonitorOption = None,
    entity: Annotated[str | None, typer.Option(help="Only entities like this, with * and ?.")] = None,
    state: Annotated[
        str | None, typer.Option(help="Only those that are open, acknowledged, closed or withdrawn.")
    ] = None,
    severity: Annotated[str | None, typer.Option(help="Only those of this severity: warning, critical.")] = None,
    only_open: Annotated[
        bool, typer.Option("--open", help="Only open or acknowledged ones; exit status 3 if there are any.")
    ] = False,
    since: Annotated[str | None, typer.Option(help="Opened since a time, or this long ago (24h, 7d).")] = None,
    until: Annotated[str | None, typer.Option(help="Opened before a time, or this long ago.")] = None,
    most: Annotated[int, typer.Option("--limit", min=1, help="At most so many, the newest.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Alerts, newest first."""
    parts = assembled(config, monitor)
    from detector.store import alerts, outbox

    one_of("--state", state, ("open", "acknowledged", "closed", "withdrawn"))
    one_of("--severity", severity, ("warning", "critical"))
    found = alerts.listing(
        parts.engine,
        monitor=monitor,
        entity=entity,
        state=state,
        severity=severity,
        only_open=only_open,
        since=moment_of("--since", since),
        until=moment_of("--until", until),
        most=most,
    )
    notified = outbox.summary(parts.engine, [row.id for row in found])
    rows = [_alert_row(row) | {"notified": notified[row.id]} for row in found]
    print_rows(rows, as_json=as_json, empty="no alerts")
    if only_open and found:
        raise typer.Exit(OPEN_ALERTS)


AlertId = Annotated[int, typer.Argument(metavar="ID", help="Number of the alert; see: detector alerts list")]


def show_alert(identity: AlertId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """One alert in plain words: what, since when, how bad, why, and what became of it."""
    parts = assembled(config, None)
    row, events = find_alert(parts, identity)
    from detector import wording as words
    from detector.store import outbox

    shown = _alert_row(row) | {
        "notified": outbox.summary(parts.engine, [row.id])[row.id],
        "peak": utc(row.episode.peak_slot),
        "model_version": row.model_version,
        "metrics": row.explanation.get("metrics", []),
        "part": row.explanation.get("part"),
        "window": row.explanation.get("window"),
        "events": [event | {"slot": utc(event["slot"]), "created_at": utc(event["created_at"])} for event in events],
    }
    if as_json:
        print(json.dumps(shown, indent=2))
        return
    print(f"{row.entity} ({row.monitor}): {words.sentence(row.explanation)}\n")
    hidden = {"metrics", "part", "window", "events", "top_metrics"}
    print_rows([{k: v for k, v in shown.items() if k not in hidden and v not in (None, False, "")}], vertical=True)
    if shown["metrics"]:
        print("\nwhat is strange")
        for metric in shown["metrics"]:
            print(f"  {words.metric_line(metric)}")
    print("\nhistory")
    print_rows([{k: v for k, v in event.items() if k not in {"peak_score", "severity"}} for event in shown["events"]])


def acknowledge(identity: AlertId, config: ConfigOption = None, by: By = None, comment: Comment = None) -> None:
    """Says that somebody looks after an alert; it stays open."""
    parts = assembled(config, None)
    row, _ = find_alert(parts, identity)
    if row.state != "open":
        msg = f"alert {identity} is {row.state}; only an open one can be acknowledged"
        raise ConfigError(msg)
    from detector.store import alerts

    notifiers = parts.config.notified(row.monitor)
    alerts.acknowledge(parts.engine, row, by=by or user(), comment=comment, now=now_ms(), notifiers=notifiers)
    print(f"alert {identity} is acknowledged by {by or user()}")


def close_alert(identity: AlertId, config: ConfigOption = None, by: By = None, comment: Comment = None) -> None:
    """Closes an alert; while its entity stays strange no other one opens."""
    parts = assembled(config, None)
    row, _ = find_alert(parts, identity)
    if row.state not in {"open", "acknowledged"}:
        msg = f"alert {identity} is {row.state} already"
        raise ConfigError(msg)
    from detector.store import alerts

    notifiers = parts.config.notified(row.monitor)
    alerts.close(parts.engine, row, by=by or user(), comment=comment, now=now_ms(), notifiers=notifiers)
    print(f"alert {identity} is closed; a new one opens only after {row.entity} was normal again")


def find_alert(parts: Parts, identity: int) -> tuple[AlertRow, list[dict[str, Any]]]:
    from detector.store import alerts

    found = alerts.show(parts.engine, identity)
    if found is None:
        msg = f"no alert {identity}; see: detector alerts list"
        raise ConfigError(msg)
    return found


def _alert_row(row: AlertRow) -> dict[str, Any]:
    metrics = row.explanation.get("metrics", [])
    return {
        "id": row.id,
        "monitor": row.monitor,
        "entity": row.entity,
        "state": row.state,
        "severity": row.episode.severity,
        "opened": utc(row.episode.opened_slot),
        "detected": utc(row.detected_at),
        "closed": _closed(row),
        "peak_score": round(row.episode.peak_score, 2),
        "incident": None if row.incident is None else f"{row.incident} ({row.incident_size})",
        "reopened": row.episode.reopenings,
        "muted": row.is_muted,
        "verdict": row.verdict,
        "top_metrics": [metric["metric"] for metric in metrics[:3]],
    }


def _closed(row: AlertRow) -> str | None:
    """When an alert closed, for people: by somebody's hand or by itself."""
    closed = row.episode.closed_slot if row.closed_at is None else row.closed_at
    return None if closed is None else utc(closed)
