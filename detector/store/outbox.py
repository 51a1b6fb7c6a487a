"""The outbox: events for notifiers, written with the alerts by `store.state`, read and marked here."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, and_, bindparam, func, select, update

from detector.ports import AlertState, DeliveryState, Notice, NotifiedAlert
from detector.store.alerts import WAITING
from detector.store.errors import translated
from detector.store.models import acquire_lease, release_lease
from detector.store.state import EPISODE, episode_of
from detector.tables import alert, alert_event, delivery

_CHUNK = 500  # keys of one query
_ERROR_LENGTH = 1000

_OWN = [name for name in NotifiedAlert.__dataclass_fields__ if name not in {"episode", "incident_size", "explanation"}]
_ALERT = [*(alert.c[name] for name in _OWN), *EPISODE]
_EVENT = ("change", "severity", "peak_score", "created_at", "by", "detail")


class OutboxStore:
    """The `Outbox` port over the detector's database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    def claim(self, notifier: str, now: int, until: int) -> bool:
        """Takes or prolongs the right to notify a notifier; False if another process holds it."""
        return acquire_lease(self._engine, f"notify:{notifier}", self._holder, now=now, expires_at=until)

    def release(self, notifier: str) -> None:
        """Gives that right back."""
        release_lease(self._engine, f"notify:{notifier}", self._holder)

    def due(self, notifier: str, now: int) -> list[Notice]:
        """Events due now, in order. While an event of an alert waits for a retry, later ones of it wait too."""
        waits = and_(delivery.c.state == DeliveryState.PENDING, delivery.c.notifier == notifier)
        is_any = select(delivery.c.event_id).where(waits, delivery.c.next_at <= now).limit(1)
        with translated(self._engine), self._engine.connect() as connection:
            if connection.scalar(is_any) is None:  # the usual answer, and the cheapest
                return []
            chosen = _in_order(connection, waits, now)
            if not chosen:
                return []
            columns: list[Any] = [delivery.c.event_id, delivery.c.attempts]
            columns += [alert_event.c[name].label(f"event_{name}") for name in _EVENT]
            query = (
                select(*columns, *_ALERT)
                .join(alert_event, alert_event.c.id == delivery.c.event_id)
                .join(alert, alert.c.id == alert_event.c.alert_id)
                .where(waits, delivery.c.next_at <= now)
                .order_by(delivery.c.event_id)
            )
            rows = [row for row in connection.execute(query).mappings() if row["event_id"] in chosen]
        alerts: dict[int, NotifiedAlert] = {}  # one object for all events of an alert
        for row in rows:
            alerts.setdefault(row["id"], _alert(row))
        return [_notice(row, alerts[row["id"]]) for row in rows]

    def standing(self, monitor: str) -> list[NotifiedAlert]:
        """Open alerts that are not muted, in the order they were stored in."""
        is_open = and_(alert.c.monitor == monitor, alert.c.state.in_(WAITING), alert.c.is_muted == 0)
        # an open alert's episode goes on: the unique key over these finds it
        query = select(*_ALERT).where(is_open, alert.c.open_entity.is_not(None)).order_by(alert.c.id)
        with translated(self._engine), self._engine.connect() as connection:
            return [_alert(row) for row in connection.execute(query).mappings()]

    def detailed(self, alerts: Sequence[NotifiedAlert]) -> tuple[NotifiedAlert, ...]:
        """The same alerts with explanation and size of their incident."""
        explanations: dict[int, str] = {}
        sizes: dict[int, int] = {}
        with translated(self._engine), self._engine.connect() as connection:
            for ids in _chunks([one.id for one in alerts]):
                query = select(alert.c.id, alert.c.explanation).where(alert.c.id.in_(ids))
                explanations.update((row[0], row[1]) for row in connection.execute(query))
            for groups in _chunks(sorted({one.incident for one in alerts if one.incident is not None})):
                is_in = and_(alert.c.incident.in_(groups), alert.c.state != AlertState.WITHDRAWN)
                counted = select(alert.c.incident, func.count()).where(is_in).group_by(alert.c.incident)
                sizes.update((row[0], row[1]) for row in connection.execute(counted))
        return tuple(
            replace(
                one,
                explanation=json.loads(explanations.get(one.id, "{}")),
                incident_size=sizes.get(one.incident or 0, 0),
            )
            for one in alerts
        )

    def messages_since(self, notifier: str, monitor: str, since: int) -> int:
        """Number of messages that were sent to a notifier after a time."""
        # next_at of a sent event is when it was sent: the index begins with state and next_at
        recent = and_(delivery.c.state == DeliveryState.SENT, delivery.c.next_at > since)
        mine = and_(delivery.c.notifier == notifier, delivery.c.monitor == monitor)
        query = select(func.count(delivery.c.sent_at.distinct())).where(recent, mine)
        with translated(self._engine), self._engine.connect() as connection:
            return connection.scalar(query) or 0

    def sent(self, notifier: str, notices: Sequence[Notice], at: int) -> None:
        """Notes that events were sent with one message; no two messages have the same time."""
        self._mark(notifier, notices, {"state": DeliveryState.SENT, "sent_at": at, "next_at": at, "error": None})

    def failed(self, notifier: str, notices: Sequence[Notice], *, error: str, next_at: int | None) -> None:
        """Notes that an attempt failed, and when the next one is due; None: there will be no other."""
        values = {"state": DeliveryState.DEAD} if next_at is None else {"next_at": next_at}
        self._mark(notifier, notices, values | {"error": error[:_ERROR_LENGTH]})

    def _mark(self, notifier: str, notices: Sequence[Notice], values: dict[str, Any]) -> None:
        """Changes deliveries that are still pending, so that one that was sent never becomes pending again."""
        if not notices:
            return
        is_it = and_(
            delivery.c.event_id == bindparam("key"),
            delivery.c.notifier == notifier,
            delivery.c.state == DeliveryState.PENDING,
        )
        statement = update(delivery).where(is_it).values(attempts=delivery.c.attempts + 1, **values)
        with translated(self._engine), self._engine.begin() as connection:
            connection.execute(statement, [{"key": notice.event} for notice in notices])

    def unsent(self, notifier: str) -> tuple[int | None, int]:
        """Time of the oldest event not sent yet, None if there is none; and the number of events given up."""
        mine = delivery.c.notifier == notifier
        oldest = (
            select(func.min(alert_event.c.created_at))
            .join(delivery, delivery.c.event_id == alert_event.c.id)
            .where(mine, delivery.c.state == DeliveryState.PENDING)
        )
        dead = select(func.count()).select_from(delivery).where(mine, delivery.c.state == DeliveryState.DEAD)
        with translated(self._engine), self._engine.connect() as connection:
            return connection.scalar(oldest), connection.scalar(dead) or 0


def summary(engine: Engine, alert_ids: Sequence[int]) -> dict[int, str]:
    """State of each alert's notifications: dead if one was given up, else pending if one waits, else sent.

    "none" if there are no notifications.
    """
    states: dict[int, set[str]] = defaultdict(set)
    with translated(engine), engine.connect() as connection:
        for ids in _chunks(alert_ids):
            query = (
                select(alert_event.c.alert_id, delivery.c.state)
                .join(delivery, delivery.c.event_id == alert_event.c.id)
                .where(alert_event.c.alert_id.in_(ids))
                .distinct()
            )
            for identity, state in connection.execute(query):
                states[identity].add(state)
    return {
        identity: next(
            (
                state
                for state in (DeliveryState.DEAD, DeliveryState.PENDING, DeliveryState.SENT)
                if state in states[identity]
            ),
            "none",
        )
        for identity in alert_ids
    }


def _alert(row: RowMapping) -> NotifiedAlert:
    own = {name: row[name] for name in _OWN} | {"state": AlertState(row["state"])}
    return NotifiedAlert(episode=episode_of(row), **own)


def _in_order(connection: Connection, waits: ColumnElement[bool], now: int) -> set[int]:
    """Pending events that are due, without those of an alert that has an earlier one that is not due."""
    query = (
        select(delivery.c.event_id, alert_event.c.alert_id, delivery.c.next_at)
        .join(alert_event, alert_event.c.id == delivery.c.event_id)
        .where(waits)
        .order_by(delivery.c.event_id)
    )
    blocked: set[int] = set()
    due: set[int] = set()
    for event, of, next_at in connection.execute(query):
        if next_at > now or of in blocked:
            blocked.add(of)
        else:
            due.add(event)
    return due


def _notice(row: RowMapping, of: NotifiedAlert) -> Notice:
    values = {name: row[f"event_{name}"] for name in _EVENT}
    return Notice(event=row["event_id"], attempts=row["attempts"], alert=of, **values)


def _chunks(keys: Sequence[int]) -> Iterator[Sequence[int]]:
    for begin in range(0, len(keys), _CHUNK):
        yield keys[begin : begin + _CHUNK]
