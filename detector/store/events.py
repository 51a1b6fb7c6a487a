"""Events of alerts in the order they were stored in, to follow them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Select, func, select

from detector.ports import AlertState
from detector.store.alerts import like
from detector.store.errors import translated
from detector.tables import alert, alert_event

PAGE = 1000
"""Events read at a time."""

LOOK_BACK = 200
"""Ids before the newest one that may still come: a database gives them out before it stores what they are of."""


@dataclass(frozen=True)
class Event:
    """One event, and the alert as it is now. Times in epoch milliseconds."""

    id: int
    change: str
    slot: int
    severity: str
    peak_score: float
    created_at: int
    by: str | None
    detail: str | None
    alert: int
    monitor: str
    entity: str
    state: AlertState
    explanation: Mapping[str, Any]


def newest_id(engine: Engine) -> int:
    """Id of the newest event, 0 if there is none."""
    with translated(engine), engine.connect() as connection:
        return connection.scalar(select(func.max(alert_event.c.id))) or 0


def newest(engine: Engine, count: int, *, monitor: str | None, entity: str | None) -> list[Event]:
    """The newest events, the oldest of them first; entity: a glob."""
    query = _events(monitor, entity).order_by(alert_event.c.id.desc()).limit(count)
    return list(reversed(_read(engine, query)))


def after(engine: Engine, identity: int, *, monitor: str | None, entity: str | None) -> list[Event]:
    """At most `PAGE` events after one, the oldest first; entity: a glob."""
    query = _events(monitor, entity).where(alert_event.c.id > identity)
    return _read(engine, query.order_by(alert_event.c.id).limit(PAGE))


def _events(monitor: str | None, entity: str | None) -> Select[Any]:
    own = [alert_event.c[name] for name in Event.__dataclass_fields__ if name in alert_event.c]
    of_alert = [alert.c.id.label("alert"), alert.c.monitor, alert.c.entity, alert.c.state, alert.c.explanation]
    query = select(*own, *of_alert).join(alert, alert.c.id == alert_event.c.alert_id)
    if monitor is not None:
        query = query.where(alert.c.monitor == monitor)
    return query if entity is None else query.where(alert.c.entity.like(like(entity), escape="/"))


def _read(engine: Engine, query: Select[Any]) -> list[Event]:
    with translated(engine), engine.connect() as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
    parsed = [{"state": AlertState(row["state"]), "explanation": json.loads(row["explanation"])} for row in rows]
    return [Event(**row | own) for row, own in zip(rows, parsed, strict=True)]
