"""Alerts as people read them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Engine, and_, case, func, or_, select, update

from detector.core.decide import Change, Episode
from detector.errors import StaleState
from detector.ports import AlertCounts, AlertState
from detector.store.errors import translated
from detector.store.state import EPISODE, episode_of, record
from detector.tables import alert, alert_event


@dataclass(frozen=True)
class AlertRow:
    """One stored alert."""

    id: int
    monitor: str
    entity: str
    state: AlertState
    episode: Episode
    detected_at: int
    model_version: int
    explanation: dict[str, Any]
    acknowledged_at: int | None
    acknowledged_by: str | None
    closed_at: int | None  # when somebody closed it
    closed_by: str | None  # who, or why it closed by itself: normal, unknown
    comment: str | None
    verdict: str | None  # real, false
    is_muted: bool
    incident: int | None
    incident_size: int  # alerts that opened together with it, and itself
    revision: int


_OWN = [name for name in AlertRow.__dataclass_fields__ if name not in {"episode", "incident_size"}]
_COLUMNS = [*(alert.c[name] for name in _OWN), *EPISODE]
_CHUNK = 500  # incidents of one query
_NEVER_CLOSED = 1 << 62  # epoch milliseconds, later than any slot

WAITING = tuple(state for state in AlertState if state.waits)
"""States of alerts that wait for somebody."""


@dataclass(frozen=True)
class Wanted:
    """Which alerts; opened from `since` to before `until`, slots in epoch milliseconds. None: any."""

    monitor: str | None = None
    entity: str | None = None  # a glob
    is_glob: bool = True  # or the very name
    state: str | None = None
    severity: str | None = None
    only_open: bool = False
    since: int | None = None
    until: int | None = None
    incident: int | None = None

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """What a row must fulfil."""
        found = [column == value for column, value in self._equal() if value is not None]
        if self.entity is not None and self.is_glob:
            found.append(alert.c.entity.like(like(self.entity), escape="/"))
        if self.only_open:
            found.append(alert.c.state.in_(WAITING))
        if self.since is not None:
            found.append(alert.c.opened_slot >= self.since)
        if self.until is not None:
            found.append(alert.c.opened_slot < self.until)
        return found

    def _equal(self) -> list[tuple[Column[Any], str | int | None]]:
        return [
            (alert.c.monitor, self.monitor),
            (alert.c.state, self.state),
            (alert.c.severity, self.severity),
            (alert.c.incident, self.incident),
            (alert.c.entity, None if self.is_glob else self.entity),
        ]


def listing(
    engine: Engine,
    *,
    monitor: str | None = None,
    entity: str | None = None,
    state: str | None = None,
    severity: str | None = None,
    only_open: bool = False,
    since: int | None = None,
    until: int | None = None,
    most: int = 1000,
) -> list[AlertRow]:
    """The newest alerts, newest first; opened from `since` to before `until`, slots in epoch milliseconds.

    entity: a glob
    """
    wanted = Wanted(
        monitor=monitor,
        entity=entity,
        state=state,
        severity=severity,
        only_open=only_open,
        since=since,
        until=until,
    )
    return page(engine, wanted, most=most)


def page(engine: Engine, wanted: Wanted, *, most: int, skip: int = 0) -> list[AlertRow]:
    """At most so many of the wanted alerts, newest first, after those that are skipped."""
    query = select(*_COLUMNS).where(*wanted.conditions).order_by(alert.c.opened_slot.desc(), alert.c.id.desc())
    with translated(engine), engine.connect() as connection:
        rows = [dict(row) for row in connection.execute(query.limit(most).offset(skip)).mappings()]
        sizes = _sizes(connection, {row["incident"] for row in rows})
    return [_row(row, sizes) for row in rows]


def count(engine: Engine, wanted: Wanted) -> int:
    """Number of the wanted alerts."""
    query = select(func.count()).select_from(alert).where(*wanted.conditions)
    with translated(engine), engine.connect() as connection:
        return connection.scalar(query) or 0


@dataclass(frozen=True)
class IncidentRow:
    """Alerts that opened together. Times in epoch milliseconds."""

    id: int
    monitor: str
    opened: int
    closed: int | None  # None while one of them is open
    alerts: Sequence[AlertRow]  # at most `_MOST_TOLD`, oldest first
    size: int


_MOST_TOLD = 100  # alerts of an incident


def incidents(
    engine: Engine, *, monitor: str | None, only_open: bool, most: int, skip: int = 0
) -> tuple[list[IncidentRow], int]:
    """At most so many incidents, newest first, after those that are skipped; and how many there are."""
    is_open = func.sum(case((alert.c.state.in_(WAITING), 1), else_=0))
    closed = func.max(func.coalesce(alert.c.closed_at, alert.c.closed_slot, alert.c.peak_slot))
    mine = [alert.c.incident.is_not(None), alert.c.state != AlertState.WITHDRAWN]
    mine += [] if monitor is None else [alert.c.monitor == monitor]
    columns = (alert.c.incident, func.min(alert.c.monitor).label("monitor"), closed.label("closed"))
    counted = (func.min(alert.c.opened_slot).label("opened"), func.count().label("size"), is_open.label("waiting"))
    grouped = select(*columns, *counted).where(*mine).group_by(alert.c.incident)
    if only_open:
        grouped = grouped.having(is_open > 0)
    newest = grouped.order_by(func.min(alert.c.opened_slot).desc(), alert.c.incident.desc())
    with translated(engine), engine.connect() as connection:
        total = connection.scalar(select(func.count()).select_from(grouped.subquery())) or 0
        found = connection.execute(newest.limit(most).offset(skip)).all() if most else []
        members = _members(connection, [row.incident for row in found], mine)
    return [
        IncidentRow(
            id=row.incident,
            monitor=row.monitor,
            opened=row.opened,
            closed=None if row.waiting else row.closed,
            alerts=members.get(row.incident, []),
            size=row.size,
        )
        for row in found
    ], total


def _members(
    connection: Connection, incidents: Sequence[int], conditions: Sequence[ColumnElement[bool]]
) -> dict[int, list[AlertRow]]:
    """The first alerts of each incident."""
    order = (alert.c.opened_slot, alert.c.id)
    place = func.row_number().over(partition_by=alert.c.incident, order_by=order).label("place")
    placed = select(alert.c.id, place).where(alert.c.incident.in_(incidents), *conditions).subquery()
    first = select(placed.c.id).where(placed.c.place <= _MOST_TOLD)
    members: dict[int, list[AlertRow]] = {}
    for row in connection.execute(select(*_COLUMNS).where(alert.c.id.in_(first)).order_by(*order)).mappings():
        members.setdefault(row["incident"], []).append(_row(dict(row), {}))
    return members


def pages(engine: Engine, *, monitor: str, since: int, until: int, size: int = 500) -> Iterator[list[AlertRow]]:
    """All alerts of a monitor that opened in [since, until), epoch milliseconds: the oldest first, some at a time."""
    after = (since, -1)
    while True:
        slot, identity = after
        is_later = or_(alert.c.opened_slot > slot, and_(alert.c.opened_slot == slot, alert.c.id > identity))
        query = select(*_COLUMNS).where(alert.c.monitor == monitor, alert.c.opened_slot < until, is_later)
        query = query.where(alert.c.opened_slot >= slot).order_by(alert.c.opened_slot, alert.c.id).limit(size)
        with translated(engine), engine.connect() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
            sizes = _sizes(connection, {row["incident"] for row in rows})
        if not rows:
            return
        yield [_row(row, sizes) for row in rows]
        after = rows[-1]["opened_slot"], rows[-1]["id"]


def real(engine: Engine, monitor: str) -> dict[str, list[tuple[int, int]]]:
    """Times of the alerts of a monitor that people judged real, by entity, [start, end) in epoch milliseconds."""
    query = select(alert.c.entity, alert.c.opened_slot, alert.c.closed_slot).where(
        alert.c.monitor == monitor, alert.c.verdict == "real", alert.c.state != AlertState.WITHDRAWN
    )
    found: dict[str, list[tuple[int, int]]] = {}
    with translated(engine), engine.connect() as connection:
        for entity, opened, closed in connection.execute(query):
            found.setdefault(entity, []).append((opened, _NEVER_CLOSED if closed is None else closed))
    return found


def _sizes(connection: Connection, incidents: set[int | None]) -> dict[int | None, int]:
    """Number of alerts of each incident."""
    keys = sorted(key for key in incidents if key is not None)
    sizes: dict[int | None, int] = {}
    for begin in range(0, len(keys), _CHUNK):
        is_in = and_(alert.c.incident.in_(keys[begin : begin + _CHUNK]), alert.c.state != AlertState.WITHDRAWN)
        counted = select(alert.c.incident, func.count()).where(is_in).group_by(alert.c.incident)
        sizes.update((row[0], int(row[1])) for row in connection.execute(counted))
    return sizes


def show(engine: Engine, identity: int) -> tuple[AlertRow, list[dict[str, Any]]] | None:
    """One alert and its events in order, None if there is no such alert."""
    names = ("change", "slot", "severity", "peak_score", "created_at", "by", "detail")
    columns = [alert_event.c[name] for name in names]
    with translated(engine), engine.connect() as connection:
        row = connection.execute(select(*_COLUMNS).where(alert.c.id == identity)).mappings().first()
        if row is None:
            return None
        events = connection.execute(
            select(*columns).where(alert_event.c.alert_id == identity).order_by(alert_event.c.id)
        ).mappings()
        return _row(dict(row), _sizes(connection, {row["incident"]})), [dict(event) for event in events]


def counts(engine: Engine, monitor: str, since: int) -> AlertCounts:
    """Alerts of a monitor in numbers; `since` in epoch milliseconds."""
    mine = and_(alert.c.monitor == monitor, alert.c.state != AlertState.WITHDRAWN)
    with translated(engine), engine.connect() as connection:
        by_verdict = {
            row[0]: int(row[1])
            for row in connection.execute(select(alert.c.verdict, func.count()).where(mine).group_by(alert.c.verdict))
        }
        # from the events: they only grow, while an alert may get worse or be withdrawn
        reached = (
            select(alert_event.c.severity, func.count(alert_event.c.alert_id.distinct()))
            .join_from(alert_event, alert, alert_event.c.alert_id == alert.c.id)
            .where(alert.c.monitor == monitor)
            .group_by(alert_event.c.severity)
        )
        by_severity = {row[0]: int(row[1]) for row in connection.execute(reached)}
        is_against_budget = or_(alert.c.verdict.is_(None), alert.c.verdict != "real")
        counted = select(func.count()).where(mine, alert.c.detected_at >= since, is_against_budget)
        recent = connection.scalar(counted) or 0
    by_verdict.pop(None, None)
    return AlertCounts(by_severity, by_verdict, recent)


def acknowledge(
    engine: Engine, row: AlertRow, *, by: str, comment: str | None, now: int, notifiers: Sequence[str] = ()
) -> None:
    """Notes that somebody looks after an alert; it stays open.

    Raises: StaleState if the alert has changed since `row` was read.
    """
    values = {"state": AlertState.ACKNOWLEDGED, "acknowledged_at": now, "acknowledged_by": by}
    _answer(engine, row, Change.ACKNOWLEDGED, values=values, by=by, comment=comment, now=now, notifiers=notifiers)


def unacknowledge(
    engine: Engine, row: AlertRow, *, by: str, comment: str | None, now: int, notifiers: Sequence[str] = ()
) -> None:
    """Takes the acknowledgement of an alert back; it is open again.

    Raises: StaleState if the alert has changed since `row` was read.
    """
    values = {"state": AlertState.OPEN, "acknowledged_at": None, "acknowledged_by": None}
    _answer(engine, row, "unacknowledged", values=values, by=by, comment=comment, now=now, notifiers=notifiers)


def comment(engine: Engine, row: AlertRow, *, by: str, comment: str, now: int) -> None:
    """Notes a comment, whatever the alert's state.

    Raises: StaleState if the alert has changed since `row` was read.
    """
    _answer(engine, row, "commented", values={}, by=by, comment=comment, now=now)


def close(
    engine: Engine, row: AlertRow, *, by: str, comment: str | None, now: int, notifiers: Sequence[str] = ()
) -> None:
    """Closes an alert for people; while its entity stays anomalous it does not open another one.

    Raises: StaleState if the alert has changed since `row` was read.
    """
    values = {"state": AlertState.CLOSED, "closed_at": now, "closed_by": by}
    _answer(engine, row, Change.CLOSED, values=values, by=by, comment=comment, now=now, notifiers=notifiers)


def judge(engine: Engine, row: AlertRow, *, verdict: str | None, by: str, comment: str | None, now: int) -> None:
    """Notes whether an alert was real or false; None takes the verdict back.

    Raises: StaleState if the alert has changed since `row` was read.
    """
    change = "unmarked" if verdict is None else f"marked {verdict}"
    _answer(engine, row, change, values={"verdict": verdict}, by=by, comment=comment, now=now)


def _answer(
    engine: Engine,
    row: AlertRow,
    change: str,
    *,
    values: dict[str, Any],
    by: str,
    comment: str | None,
    now: int,
    notifiers: Sequence[str] = (),
) -> None:
    if comment is not None:
        values |= {"comment": comment}
    is_same = and_(alert.c.id == row.id, alert.c.revision == row.revision)
    event = {
        "alert_id": row.id,
        "change": str(change),
        "slot": row.episode.peak_slot,
        "severity": row.episode.severity,
        "peak_score": row.episode.peak_score,
        "created_at": now,
        "by": by,
        "detail": comment,
    }
    with translated(engine), engine.begin() as connection:
        done = connection.execute(update(alert).where(is_same).values(revision=alert.c.revision + 1, **values))
        if done.rowcount != 1:
            msg = f"alert {row.id} has changed in the meantime; look again: detector alerts show {row.id}"
            raise StaleState(msg)
        record(connection, row.monitor, [event], silent=[row.is_muted], notifiers=notifiers)


def like(glob: str) -> str:
    """An SQL pattern for a glob of * and ?."""
    escaped = glob.replace("/", "//").replace("%", "/%").replace("_", "/_")
    return escaped.replace("*", "%").replace("?", "_")


def _row(row: dict[str, Any], sizes: Mapping[int | None, int]) -> AlertRow:
    own = {name: row[name] for name in _OWN}
    own |= {"state": AlertState(row["state"]), "is_muted": bool(row["is_muted"])}
    own |= {"explanation": json.loads(row["explanation"]), "incident_size": sizes.get(row["incident"], 0)}
    return AlertRow(episode=episode_of(row), **own)
