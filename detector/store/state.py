"""Cursor, scores and alerts: what a tick reads at start and commits at its end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import groupby
from typing import Any

from sqlalchemy import (
    Connection,
    CursorResult,
    Engine,
    RowMapping,
    Table,
    and_,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from detector.core.decide import Change, Ended, Episode, Severity
from detector.database import insert_rows
from detector.errors import StaleState
from detector.ports import (
    AlertChange,
    AlertState,
    Commit,
    DeliveryState,
    Exclusion,
    JudgedRanges,
    Precedent,
    ScoreRows,
    StoredAlert,
    StoredExperience,
)
from detector.store import experience, judged
from detector.store.errors import translated
from detector.tables import alert, alert_event, cursor, delivery, exclusion, score

_MOST_PRECEDENTS = 200  # real alerts that a monitor knows, and as many false ones


def new_id(result: CursorResult[Any]) -> int:
    """Primary key of the row that was just inserted."""
    key = result.inserted_primary_key
    if key is None:
        msg = "only the result of inserting one row has a new id"
        raise ValueError(msg)
    return int(key[0])


class StateStore:
    """The `Store` port over the detector's database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def cursor(self, monitor: str) -> int | None:
        """End of the last committed slot, None if there is none."""
        with translated(self._engine), self._engine.connect() as connection:
            return connection.scalar(select(cursor.c.slot).where(cursor.c.monitor == monitor))

    def alerts_since(self, monitor: str, slot: int) -> list[StoredAlert]:
        """Alerts whose episode goes on or ended at `slot` (epoch milliseconds) or later, oldest first."""
        columns = (alert.c.id, alert.c.entity, alert.c.is_muted, alert.c.state, *EPISODE)
        mine = select(*columns).where(alert.c.monitor == monitor, alert.c.state != AlertState.WITHDRAWN)
        # two queries, each of which has an index: of the two conditions in one, a planner may use neither
        halves = (mine.where(alert.c.open_entity.is_not(None)), mine.where(alert.c.closed_slot >= slot))
        with translated(self._engine), self._engine.connect() as connection:
            rows = [dict(row) for half in halves for row in connection.execute(half).mappings()]
        found = {row["id"]: _stored(row) for row in rows}  # an alert may open between the two
        return sorted(found.values(), key=lambda stored: (stored.episode.opened_slot, stored.id))

    def exclusions(self, monitor: str) -> list[Exclusion]:
        """All exclusions of a monitor, past ones too."""
        query = select(exclusion).where(exclusion.c.monitor == monitor).order_by(exclusion.c.id)
        with translated(self._engine), self._engine.connect() as connection:
            return [
                Exclusion(start=start, end=end, **row)
                for row in map(dict, connection.execute(query).mappings())
                for start, end in [(row.pop("start_at"), row.pop("end_at"))]
            ]

    def marks(self, monitor: str) -> tuple[tuple[int, bool], ...]:
        """The newest alerts that have closed and that people have judged, in order, and whether each was real."""
        is_judged = alert.c.verdict.in_(("real", "false"))  # by its index; newest first it may be looked for one by one
        query = select(alert.c.id, alert.c.verdict).where(
            alert.c.monitor == monitor,
            is_judged,
            alert.c.closed_slot.is_not(None),
            alert.c.state != AlertState.WITHDRAWN,
        )
        with translated(self._engine), self._engine.connect() as connection:
            return newest_marks((row[0], row[1]) for row in connection.execute(query))

    def precedents(self, monitor: str) -> list[Precedent]:
        """The same with what they looked like."""
        known = dict(self.marks(monitor))
        judged_at = (
            select(func.max(alert_event.c.created_at))
            .where(alert_event.c.alert_id == alert.c.id, alert_event.c.change.in_(("marked real", "marked false")))
            .scalar_subquery()
        )
        query = select(alert.c.id, alert.c.entity, judged_at, alert.c.explanation).where(alert.c.id.in_(list(known)))
        with translated(self._engine), self._engine.connect() as connection:
            rows = connection.execute(query.order_by(alert.c.id)).all()
        return [Precedent(row[0], row[1], known[row[0]], row[2] or 0, row[3]) for row in rows]

    def checkpoint(self, monitor: str) -> str | None:
        """The checkpoint of the newest commit, None if it had none."""
        with translated(self._engine), self._engine.connect() as connection:
            return connection.scalar(select(cursor.c.checkpoint).where(cursor.c.monitor == monitor))

    def experiences(self, monitor: str, *, version: int) -> list[StoredExperience]:
        """The two newest that were committed with a model version, the newest first."""
        with translated(self._engine), self._engine.connect() as connection:
            return experience.newest(connection, monitor, version)

    def judged_since(self, monitor: str, slot: int) -> JudgedRanges:
        """Ranges that reach to `slot` (epoch milliseconds) or later; of each entity the oldest first."""
        with translated(self._engine), self._engine.connect() as connection:
            return judged.since(connection, monitor, slot)

    def scores_since(self, monitor: str, slot: int, *, version: int) -> ScoreRows:
        """Stored scores by a model version, of `slot` (epoch milliseconds) and later ones."""
        wanted = and_(score.c.monitor == monitor, score.c.slot >= slot, score.c.model_version == version)
        with translated(self._engine), self._engine.connect() as connection:
            columns = (score.c.entity, score.c.slot, score.c.score, score.c.surprise)
            rows = connection.execute(select(*columns).where(wanted)).all()
        entity, slots, values, surprises = zip(*rows, strict=True) if rows else ((), (), (), ())
        return ScoreRows(entity, slots, values, [math.nan if value is None else value for value in surprises])

    def commit(self, commit: Commit) -> None:
        """Stores all of it or nothing.

        Raises: StaleState if the cursor is not the expected one, StoreError if the database does not answer.
        """
        with translated(self._engine), self._engine.begin() as connection:
            _move_cursor(connection, commit)
            if commit.forget_from is not None:
                is_forgotten = and_(score.c.monitor == commit.monitor, score.c.slot >= commit.forget_from)
                connection.execute(delete(score).where(is_forgotten))
            judged.store(connection, commit)
            experience.store(connection, commit)
            _replace_scores(connection, commit)
            _insert_scores(connection, commit, commit.scores)
            for kind, changes in groupby(commit.changes, key=lambda change: (change.change, change.alert is None)):
                _APPLY.get(kind, _update)(connection, commit, list(changes))


def newest_marks(judged: Iterable[tuple[int, str | None]]) -> tuple[tuple[int, bool], ...]:
    """The newest real and the newest false ones of alerts and their verdicts, in order."""
    known = sorted(judged)
    kept = [[mark for mark in known if mark[1] == verdict][-_MOST_PRECEDENTS:] for verdict in ("real", "false")]
    return tuple((identity, verdict == "real") for identity, verdict in sorted([*kept[0], *kept[1]]))


def _move_cursor(connection: Connection, commit: Commit) -> None:
    """Compare and swap: exactly one process can move the cursor on from where it was."""
    values = {"slot": commit.cursor, "updated_at": commit.now, "checkpoint": commit.checkpoint}
    if commit.expected_cursor is None:
        # not in a savepoint: pysqlite commits when it is released, which would move the cursor without its scores
        try:
            connection.execute(insert(cursor).values(monitor=commit.monitor, **values))
        except IntegrityError:
            moved = 0
        else:
            moved = 1
    else:
        is_expected = and_(cursor.c.monitor == commit.monitor, cursor.c.slot == commit.expected_cursor)
        # a new updated_at makes MySQL count the row even if the slot stays where it is
        moved = connection.execute(update(cursor).where(is_expected).values(**values)).rowcount
        if not moved:
            moved = int(connection.scalar(select(cursor.c.slot).where(is_expected)) == commit.cursor)
    if moved != 1:
        expected = f"monitor {commit.monitor!r}: its cursor is not at {commit.expected_cursor} any more"
        msg = f"{expected}; another process works on it"
        raise StaleState(msg)


def _insert_scores(connection: Connection, commit: Commit, rows: ScoreRows) -> None:
    columns = ("monitor", "slot", "entity", "score", "surprise", "model_version")
    surprises = [None if math.isnan(value) else value for value in rows.surprise] or [None] * len(rows.score)
    known = zip(rows.slot, rows.entity, rows.score, surprises, strict=True)
    values = [(commit.monitor, *row, commit.model_version) for row in known if not math.isnan(row[2])]
    insert_rows(connection, score, columns=columns, rows=values)


def _replace_scores(connection: Connection, commit: Commit) -> None:
    keys = [{"s": slot, "e": entity} for entity, slot in zip(commit.replaced.entity, commit.replaced.slot, strict=True)]
    if keys:
        is_replaced = and_(
            score.c.monitor == commit.monitor, score.c.slot == bindparam("s"), score.c.entity == bindparam("e")
        )
        connection.execute(delete(score).where(is_replaced), keys)
        _insert_scores(connection, commit, commit.replaced)


EPISODE = tuple(alert.c[field.name] for field in fields(Episode))
"""Columns that hold an alert's episode."""


def episode_of(row: Mapping[str, Any] | RowMapping) -> Episode:
    """The episode of a row that has the columns `EPISODE`."""
    values = {column.name: row[column.name] for column in EPISODE}
    return Episode(**values | {"severity": Severity(values["severity"])})


def _stored(row: Mapping[str, Any]) -> StoredAlert:
    is_dismissed = row["state"] == AlertState.CLOSED and row["closed_slot"] is None
    return StoredAlert(row["id"], row["entity"], episode_of(row), bool(row["is_muted"]), is_dismissed)


# -- alerts: many changes of one kind at a time -----------------------------------------------------------------------

NOTIFIED = {Change.OPENED, Change.REOPENED, Change.ESCALATED, Change.CLOSED, Change.WITHDRAWN, Change.UNMUTED}
"""Changes that notifiers learn of; `store.alerts` notifies of people who acknowledge or close an alert."""


def _open(connection: Connection, commit: Commit, changes: list[AlertChange]) -> None:
    values = [
        {
            "monitor": commit.monitor,
            "entity": change.entity,
            "open_entity": change.entity if change.episode.closed_slot is None else None,
            "decided_slot": change.episode.decided_slot,
            "detected_at": change.detected_at,
            "closed_slot": change.episode.closed_slot,
            "state": AlertState.OPEN if change.episode.closed_slot is None else AlertState.CLOSED,
            "closed_by": None if change.episode.closed_slot is None else closing(change).ended,
            "model_version": commit.model_version,
            "is_muted": int(change.is_muted),
            "revision": 0,
            **_values(change),
            "explanation": change.explanation or "{}",
        }
        for change in changes
    ]
    ids = insert_ids(connection, alert, values)
    _group(connection, commit, list(zip(ids, changes, strict=True)))
    noted = [(identity, change, change.is_muted) for identity, change in zip(ids, changes, strict=True)]
    _note(connection, commit, noted)
    over = [(identity, closing(change), silent) for identity, change, silent in noted if change.episode.closed_slot]
    _note(connection, commit, over)


def closing(change: AlertChange) -> AlertChange:
    """The closing of an alert that late samples showed when it was over."""
    slot = change.episode.closed_slot or change.slot
    return replace(change, change=Change.CLOSED, slot=slot, ended=change.ended or Ended.NORMAL)


def _group(connection: Connection, commit: Commit, opened: list[tuple[int, AlertChange]]) -> None:
    """Joins new alerts to the newest incident, if its first alert opened not long before, or begins one."""
    query = (
        select(alert.c.incident)
        .where(alert.c.monitor == commit.monitor, alert.c.incident.is_not(None), alert.c.state != AlertState.WITHDRAWN)
        .order_by(alert.c.opened_slot.desc(), alert.c.id.desc())
        .limit(1)
    )
    incident = connection.scalar(query)
    began = connection.scalar(select(alert.c.decided_slot).where(alert.c.id == incident)) if incident else None
    keys = []
    for identity, change in opened:
        decided_slot = change.episode.decided_slot
        if began is None or abs(decided_slot - began) > commit.incident_span:
            incident, began = identity, decided_slot
        keys.append({"key": identity, "group": incident})
    connection.execute(update(alert).where(alert.c.id == bindparam("key")).values(incident=bindparam("group")), keys)


def _update(connection: Connection, commit: Commit, changes: list[AlertChange]) -> None:
    """Changes of open alerts; one that is not open any more is left as it is."""
    mine = and_(alert.c.monitor == commit.monitor, alert.c.open_entity.is_not(None))
    rows = connection.execute(select(alert.c.open_entity, alert.c.id, alert.c.state, alert.c.is_muted).where(mine))
    found = {row.open_entity: row for row in rows}
    known = [(found[change.entity], change) for change in changes if change.entity in found]
    _write(connection, [_values(change) | {"key": row.id} for row, change in known])
    _write(connection, [{"key": row.id, "is_muted": 1} for row, change in known if change.is_muted])
    noted = [
        (row.id, change, bool(row.is_muted) or change.is_muted)
        for row, change in known
        if row.state != AlertState.CLOSED
    ]
    if changes[0].change is Change.CLOSED:
        ends = [
            {"key": row.id, "slot": change.slot, "why": change.ended.value if change.ended else None}
            for row, change in known
        ]
        _end(connection, ends)
    if changes[0].change is Change.UNMUTED:
        _write(connection, [{"key": row.id, "is_muted": 0} for row, _ in known])
        noted = [(identity, change, False) for identity, change, _ in noted]
    if changes[0].change is not None:
        _note(connection, commit, noted)


def _end(connection: Connection, ends: list[dict[str, Any]]) -> None:
    """Ends episodes; who closed an alert before its episode ended stays on record."""
    if ends:
        values: dict[str, Any] = {
            "open_entity": None,
            "closed_slot": bindparam("slot"),
            "state": AlertState.CLOSED,
            "closed_by": func.coalesce(alert.c.closed_by, bindparam("why")),
        }
        connection.execute(update(alert).where(alert.c.id == bindparam("key")).values(**values), ends)


def _reopen(connection: Connection, commit: Commit, changes: list[AlertChange]) -> None:
    noted = []
    for change in changes:
        is_it = and_(
            alert.c.monitor == commit.monitor,
            alert.c.opened_slot == change.episode.opened_slot,  # which is indexed
            alert.c.entity == change.entity,
            alert.c.decided_slot == change.episode.decided_slot,
            alert.c.state == AlertState.CLOSED,
        )
        row = connection.execute(select(alert.c.id, alert.c.is_muted).where(is_it).order_by(alert.c.id.desc())).first()
        if row is None:  # somebody removed it: it is a new one
            _open(connection, commit, [replace(change, change=Change.OPENED)])
            continue
        gone = {"closed_slot": None, "closed_by": None, "closed_at": None}
        is_muted = bool(row.is_muted) or change.is_muted
        goes_on = {"key": row.id, "open_entity": change.entity, "state": AlertState.OPEN, "is_muted": int(is_muted)}
        _write(connection, [_values(change) | goes_on | gone])
        noted.append((row.id, change, is_muted))
    _note(connection, commit, noted)


def _revise(connection: Connection, commit: Commit, changes: list[AlertChange]) -> None:
    """Alerts that late samples changed, closed or opened again, or left nothing of."""
    noted = []
    for change in changes:
        columns = (alert.c.state, alert.c.is_muted, alert.c.closed_at, alert.c.closed_by)
        row = connection.execute(select(*columns).where(alert.c.id == change.alert)).one()
        episode = change.episode
        is_over = episode.closed_slot is not None or change.change is Change.WITHDRAWN
        values = _values(change) | {"key": change.alert, "decided_slot": episode.decided_slot}
        values |= {"open_entity": None if is_over else change.entity, "closed_slot": episode.closed_slot}
        if change.change is Change.WITHDRAWN:
            values |= {"state": AlertState.WITHDRAWN, "closed_slot": change.slot}
        elif is_over:
            values |= {"state": AlertState.CLOSED, "closed_by": row.closed_by or Ended.NORMAL.value}
        elif change.change is Change.REOPENED and row.closed_at is None:
            values |= {"state": AlertState.OPEN, "closed_by": None}
        is_muted = bool(row.is_muted) or change.is_muted
        _write(connection, [values | {"is_muted": int(is_muted)}])
        is_back = change.change is Change.REOPENED and row.closed_at is None
        notifies = change.change in NOTIFIED and (row.state != AlertState.CLOSED or is_back)
        noted.append((int(change.alert or 0), change, is_muted or not notifies))
    _note(connection, commit, noted)


def _write(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Updates alerts by their `key`."""
    for _, same in groupby(rows, key=list):  # some come without explanation
        parameters = [{f"new_{name}": value for name, value in row.items()} for row in same]  # as others are reserved
        values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in _columns(parameters[0])}
        statement = update(alert).where(alert.c.id == bindparam("new_key"))
        connection.execute(statement.values(**values, revision=alert.c.revision + 1), parameters)


def _columns(parameters: dict[str, Any]) -> list[str]:
    return [name.removeprefix("new_") for name in parameters if name != "new_key"]


def _values(change: AlertChange) -> dict[str, Any]:
    explanation = {} if change.explanation is None else {"explanation": change.explanation}
    return {
        "opened_slot": change.episode.opened_slot,
        "severity": change.episode.severity,
        "peak_score": change.episode.peak_score,
        "peak_slot": change.episode.peak_slot,
        "reopenings": change.episode.reopenings,
        **explanation,
    }


def _note(connection: Connection, commit: Commit, noted: list[tuple[int, AlertChange, bool]]) -> None:
    """Stores an event for each change of an alert, and its deliveries unless the alert is silent."""
    events = [
        {
            "alert_id": identity,
            "change": str(change.change),
            "slot": change.slot,
            "severity": change.episode.severity,
            "peak_score": change.episode.peak_score,
            "created_at": commit.now,
            "detail": change.ended.value if change.ended else None,
        }
        for identity, change, _ in noted
    ]
    silent = [is_silent or change.change not in NOTIFIED for _, change, is_silent in noted]
    record(connection, commit.monitor, events, silent=silent, notifiers=commit.notifiers)


def record(
    connection: Connection,
    monitor: str,
    events: list[dict[str, Any]],
    *,
    silent: Sequence[bool],
    notifiers: Sequence[str],
) -> None:
    """Stores events of alerts, and a delivery to each notifier for those that are not silent."""
    if not events:
        return
    ids = insert_ids(connection, alert_event, events)
    deliveries = [
        {
            "event_id": identity,
            "notifier": notifier,
            "monitor": monitor,
            "state": DeliveryState.PENDING,
            "attempts": 0,
            "next_at": event["created_at"],
        }
        for identity, event, is_silent in zip(ids, events, silent, strict=True)
        for notifier in notifiers
        if not is_silent
    ]
    if deliveries:
        connection.execute(insert(delivery), deliveries)


def insert_ids(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> list[int]:
    """Inserts rows and returns their primary keys in the same order."""
    if connection.dialect.insert_executemany_returning_sort_by_parameter_order:
        statement = insert(table).returning(table.c.id, sort_by_parameter_order=True)
        return [int(identity) for identity in connection.scalars(statement, rows)]
    return [new_id(connection.execute(insert(table).values(**row))) for row in rows]


_APPLY = {(Change.OPENED, True): _open, (Change.REOPENED, True): _reopen} | {
    (change, False): _revise for change in (*Change, None)
}
