"""Alerts as people read them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, func, select

from detector.store.state import translated
from detector.tables import alert, alert_event


@dataclass(frozen=True)
class AlertRow:
    """One stored alert."""

    id: int
    monitor: str
    entity: str
    state: str
    severity: str
    opened_slot: int
    detected_at: int
    closed_slot: int | None
    peak_score: float
    peak_slot: int
    model_version: int
    explanation: dict[str, Any]


_COLUMNS = [alert.c[name] for name in AlertRow.__dataclass_fields__]


def listing(
    engine: Engine, *, monitor: str | None = None, only_open: bool = False, since: int | None = None, most: int = 1000
) -> list[AlertRow]:
    """The newest alerts, newest first; `since` is the earliest opened slot in epoch milliseconds."""
    query = select(*_COLUMNS).order_by(alert.c.opened_slot.desc(), alert.c.id.desc()).limit(most)
    if monitor is not None:
        query = query.where(alert.c.monitor == monitor)
    if only_open:
        query = query.where(alert.c.open_entity.is_not(None))
    if since is not None:
        query = query.where(alert.c.opened_slot >= since)
    with translated(engine), engine.connect() as connection:
        return [_row(row) for row in connection.execute(query).mappings()]


def show(engine: Engine, identity: int) -> tuple[AlertRow, list[dict[str, Any]]] | None:
    """One alert and its events in order, None if there is no such alert."""
    columns = (alert_event.c.change, alert_event.c.slot, alert_event.c.severity, alert_event.c.peak_score)
    with translated(engine), engine.connect() as connection:
        row = connection.execute(select(*_COLUMNS).where(alert.c.id == identity)).mappings().first()
        if row is None:
            return None
        events = connection.execute(
            select(*columns, alert_event.c.created_at)
            .where(alert_event.c.alert_id == identity)
            .order_by(alert_event.c.id)
        ).mappings()
        return _row(row), [dict(event) for event in events]


def counts(engine: Engine, monitor: str, since: int) -> tuple[dict[str, int], int]:
    """Alerts ever opened by severity, and how many were detected since a time in epoch milliseconds."""
    mine = alert.c.monitor == monitor
    with translated(engine), engine.connect() as connection:
        by_severity = connection.execute(select(alert.c.severity, func.count()).where(mine).group_by(alert.c.severity))
        total = {row[0]: row[1] for row in by_severity}
        recent = connection.scalar(select(func.count()).where(mine, alert.c.detected_at >= since)) or 0
    return total, recent


def _row(row: Any) -> AlertRow:
    return AlertRow(**{**row, "explanation": json.loads(row["explanation"])})
