"""Cursor, scores and alerts: what a tick reads at start and commits at its end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, CursorResult, Engine, and_, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from detector.core.decide import Change, Severity
from detector.database import insert_rows, reason, redacted
from detector.errors import StaleState, StoreError
from detector.ports import AlertChange, Commit, OpenAlert, ScoreRows
from detector.tables import alert, alert_event, cursor, score


@contextmanager
def translated(engine: Engine) -> Iterator[None]:
    """Raises a driver's errors as StoreError."""
    try:
        yield
    except DBAPIError as exc:
        msg = f"the detector's database {redacted(engine.url)} refused: {reason(exc)}"
        raise StoreError(msg) from exc


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

    def open_alerts(self, monitor: str) -> list[OpenAlert]:
        """Alerts that are not closed, oldest first."""
        columns = (alert.c.entity, alert.c.opened_slot, alert.c.severity, alert.c.peak_score, alert.c.peak_slot)
        query = (
            select(*columns)
            .where(alert.c.monitor == monitor, alert.c.open_entity.is_not(None))
            .order_by(alert.c.opened_slot, alert.c.id)
        )
        with translated(self._engine), self._engine.connect() as connection:
            return [
                OpenAlert(entity, opened, Severity(severity), peak, peak_slot)
                for entity, opened, severity, peak, peak_slot in connection.execute(query)
            ]

    def closed_since(self, monitor: str, slot: int) -> dict[str, int]:
        """The slot that closed each entity's last alert, for those closed at `slot` or later; epoch milliseconds."""
        query = (
            select(alert.c.entity, func.max(alert.c.closed_slot))
            .where(alert.c.monitor == monitor, alert.c.closed_slot >= slot)
            .group_by(alert.c.entity)
        )
        with translated(self._engine), self._engine.connect() as connection:
            return {entity: int(closed) for entity, closed in connection.execute(query)}

    def commit(self, commit: Commit) -> None:
        """Stores all of it or nothing.

        Raises: StaleState if the cursor is not the expected one, StoreError if the database does not answer.
        """
        with translated(self._engine), self._engine.begin() as connection:
            _move_cursor(connection, commit)
            _replace_scores(connection, commit)
            _insert_scores(connection, commit, commit.scores)
            for change in commit.changes:
                _apply(connection, commit, change)


def _move_cursor(connection: Connection, commit: Commit) -> None:
    """Compare and swap: exactly one process can move the cursor on from where it was."""
    values = {"slot": commit.cursor, "updated_at": commit.now}
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
    columns = ("monitor", "slot", "entity", "score", "model_version")
    known = zip(rows.slot, rows.entity, rows.score, strict=True)
    values = [(commit.monitor, *row, commit.model_version) for row in known if not math.isnan(row[2])]
    insert_rows(connection, score, columns, values)


def _replace_scores(connection: Connection, commit: Commit) -> None:
    keys = [{"s": slot, "e": entity} for entity, slot in zip(commit.replaced.entity, commit.replaced.slot, strict=True)]
    if keys:
        is_replaced = and_(
            score.c.monitor == commit.monitor, score.c.slot == bindparam("s"), score.c.entity == bindparam("e")
        )
        connection.execute(delete(score).where(is_replaced), keys)
        _insert_scores(connection, commit, commit.replaced)


def _apply(connection: Connection, commit: Commit, change: AlertChange) -> None:
    values: dict[str, Any] = {
        "severity": change.severity.value,
        "peak_score": change.peak_score,
        "peak_slot": change.peak_slot,
    }
    if change.explanation is not None:
        values["explanation"] = change.explanation
    if change.change is Change.OPENED:
        identity: int | None = _open(connection, commit, change, values)
    else:
        is_open = and_(alert.c.monitor == commit.monitor, alert.c.open_entity == change.entity)
        identity = connection.scalar(select(alert.c.id).where(is_open))
        if change.change is Change.CLOSED:
            values |= {"state": "closed", "closed_slot": change.slot, "open_entity": None}
        connection.execute(update(alert).where(is_open).values(**values))
    if change.change is not None and identity is not None:
        connection.execute(
            insert(alert_event).values(
                alert_id=identity,
                change=change.change.value,
                slot=change.slot,
                severity=change.severity.value,
                peak_score=change.peak_score,
                created_at=commit.now,
            )
        )


def _open(connection: Connection, commit: Commit, change: AlertChange, values: dict[str, Any]) -> int:
    result = connection.execute(
        insert(alert).values(
            monitor=commit.monitor,
            entity=change.entity,
            open_entity=change.entity,
            opened_slot=change.opened_slot,
            detected_at=change.detected_at,
            state="open",
            model_version=commit.model_version,
            revision=0,
            **({"explanation": "{}"} | values),
        )
    )
    return new_id(result)
