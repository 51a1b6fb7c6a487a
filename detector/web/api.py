"""The API: everything that is known, and for people who are told apart the answers they give."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from detector import __version__
from detector.detect import exclusions
from detector.ports import Exclusion
from detector.store import alerts
from detector.store import exclusions as stored
from detector.store.alerts import AlertRow, Wanted
from detector.times import HOUR_MS
from detector.web import answers
from detector.web.access import Access
from detector.web.guard import actor, user_of, why_not
from detector.web.reader import NotFound, Reader

logger = logging.getLogger(__name__)

_REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": answers.Refusal, "description": why}
    for code, why in {
        403: "Nobody is told apart here, or another site sent this",
        404: "There is nothing of that name or number",
        409: "It has changed in the meantime, or is not as it must be",
        422: "Something is wrong in the request",
        503: "The database does not answer",
    }.items()
}
_ACTING: dict[int | str, dict[str, Any]] = {code: _REFUSALS[code] for code in (403, 404, 409, 422, 503)}
_READING: dict[int | str, dict[str, Any]] = {code: _REFUSALS[code] for code in (404, 422, 503)}

Limit = Annotated[int, Query(ge=1, le=1000, description="Items to answer with, at most")]
Offset = Annotated[int, Query(ge=0, le=10**9, description="Items to skip")]
Name = Annotated[str, Query(max_length=400)]


class Remark(BaseModel):
    """A comment on what somebody does."""

    model_config = ConfigDict(extra="forbid")

    comment: str | None = Field(default=None, max_length=4000)


class Verdict(Remark):
    """Whether something was wrong, or only the alert."""

    verdict: Literal["real", "false"]


class NewExclusion(Remark):
    """A time that mutes alerts or is kept out of training."""

    monitor: str
    entity: str | None = Field(default=None, max_length=191, description="With * and ?; null: all")
    metric: str | None = Field(default=None, max_length=191, description="With * and ?; null: all")
    start: datetime
    end: datetime | None = Field(default=None, description="null: until it is removed")
    effect: Literal["mute", "mask", "both"] = "mute"
    rule: str | None = Field(default=None, description="Recurrence by RFC 5545, such as FREQ=WEEKLY;BYDAY=SU")
    time_zone: str | None = Field(default=None, description="Whose clock the rule follows; null: the monitor's")


def epoch(moment: datetime) -> int:
    """Epoch milliseconds; without an offset a time is UTC."""
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def router(reader: Reader, access: Access) -> APIRouter:
    """All of /api/v1."""
    found = APIRouter(prefix="/api/v1")
    _read_monitors(found, reader, access)
    _read_alerts(found, reader)
    _act_on_alerts(found, reader)
    _act_on_exclusions(found, reader)
    return found


def _read_monitors(to: APIRouter, reader: Reader, access: Access) -> None:
    @to.get("/health", tags=["health"])
    def health(request: Request) -> answers.Health:
        """Whether the daemon does its work; and who asks, and may what."""
        return health_of(reader, access, user_of(request))

    @to.get("/monitors", tags=["monitors"], responses=_READING)
    def monitors() -> list[answers.Monitor]:
        """All monitors."""
        return reader.monitors()

    @to.get("/monitors/{monitor}", tags=["monitors"], responses=_READING)
    def one_monitor(monitor: str) -> answers.Monitor:
        """One monitor."""
        return reader.monitor(monitor)

    @to.get("/entities", tags=["entities"], responses=_READING)
    def entities(
        monitor: Name,
        state: answers.State | None = None,
        text: Annotated[str, Query(max_length=191, description="A part of the name")] = "",
        order: Literal["score", "surprise", "entity", "state"] = "score",
        limit: Limit = 50,
        offset: Offset = 0,
    ) -> answers.Page[answers.Entity]:
        """Entities of a monitor, each with its newest slot."""
        return reader.entities(monitor, state=state, text=text, order=order, limit=limit, offset=offset)

    @to.get("/entity", tags=["entities"], responses=_READING)
    def entity(monitor: Name, entity: Name) -> answers.EntityDetail:
        """One entity, and what its newest slot was judged by."""
        return reader.entity(monitor, entity)

    @to.get("/scores", tags=["scores"], responses=_READING)
    def scores(
        monitor: Name,
        entity: Name,
        start: Annotated[datetime | None, Query(alias="from", description="By default a day before the end")] = None,
        end: Annotated[datetime | None, Query(alias="to", description="By default now")] = None,
    ) -> answers.Scores:
        """Stored scores of an entity, with its alerts, exclusions and unknown times."""
        until = reader.now if end is None else epoch(end)
        since = until - 24 * HOUR_MS if start is None else epoch(start)
        return reader.scores(monitor, entity, start=since, end=until)

    @to.get("/models", tags=["models"], responses=_READING)
    def models(monitor: str | None = None) -> list[answers.Model]:
        """Stored model versions, newest first."""
        return reader.models(monitor)

    @to.get("/models/{version}", tags=["models"], responses=_READING)
    def one_model(version: int) -> answers.ModelDetail:
        """One model version."""
        return reader.model(version)


def _read_alerts(to: APIRouter, reader: Reader) -> None:
    @to.get("/alerts", tags=["alerts"], responses=_READING)
    def all_alerts(
        monitor: str | None = None,
        entity: Annotated[str | None, Query(max_length=400, description="With * and ?")] = None,
        state: Literal["open", "acknowledged", "closed", "withdrawn"] | None = None,
        severity: Literal["warning", "critical"] | None = None,
        is_open: Annotated[bool, Query(alias="open", description="Only open and acknowledged ones")] = False,
        start: Annotated[datetime | None, Query(alias="from", description="Opened at this time or later")] = None,
        end: Annotated[datetime | None, Query(alias="to", description="Opened before this time")] = None,
        limit: Limit = 50,
        offset: Offset = 0,
    ) -> answers.Page[answers.Alert]:
        """Alerts, newest first."""
        wanted = Wanted(
            monitor=monitor,
            entity=entity,
            state=state,
            severity=severity,
            only_open=is_open,
            since=None if start is None else epoch(start),
            until=None if end is None else epoch(end),
        )
        return reader.alerts(wanted, limit=limit, offset=offset)

    @to.get("/alerts/{identity}", tags=["alerts"], responses=_READING)
    def one_alert(identity: int) -> answers.AlertDetail:
        """One alert: why, and what became of it."""
        return reader.alert(identity)

    @to.get("/incidents", tags=["incidents"], responses=_READING)
    def incidents(
        monitor: str | None = None,
        is_open: Annotated[bool, Query(alias="open", description="Only those with an open alert")] = False,
        limit: Limit = 50,
        offset: Offset = 0,
    ) -> answers.Page[answers.Incident]:
        """Alerts that opened together, newest first."""
        return reader.incidents(monitor=monitor, only_open=is_open, limit=limit, offset=offset)

    @to.get("/exclusions", tags=["exclusions"], responses=_READING)
    def all_exclusions(monitor: str | None = None) -> list[answers.Exclusion]:
        """Times that mute alerts or are kept out of training."""
        return reader.exclusions(monitor)


def _acting(request: Request) -> str:
    return actor(request, request.app.state.access)


By = Annotated[str, Depends(_acting)]
"""The user who changes something."""


class Conflict(Exception):
    """What is asked for does not fit the state of things."""


def _act_on_alerts(to: APIRouter, reader: Reader) -> None:
    def notified(row: AlertRow) -> tuple[str, ...]:
        return reader.config.notified(row.monitor)

    def answer(identity: int, by: str, what: str, do: Callable[[AlertRow], None]) -> answers.AlertDetail:
        do(reader.alert_row(identity))
        logger.info("event=acted by=%r action=%s alert=%d", by, what, identity)
        return reader.alert(identity)

    @to.post("/alerts/{identity}/acknowledge", tags=["alerts"], responses=_ACTING)
    def acknowledge(identity: int, remark: Remark, by: By) -> answers.AlertDetail:
        """Notes that somebody looks after an open alert."""

        def do(row: AlertRow) -> None:
            if row.state != "open":
                raise Conflict(f"alert {identity} is {row.state}; only an open one can be acknowledged")
            alerts.acknowledge(
                reader.engine, row, by=by, comment=remark.comment, now=reader.now, notifiers=notified(row)
            )

        return answer(identity, by, "acknowledge", do)

    @to.post("/alerts/{identity}/unacknowledge", tags=["alerts"], responses=_ACTING)
    def unacknowledge(identity: int, remark: Remark, by: By) -> answers.AlertDetail:
        """Takes the acknowledgement of an alert back."""

        def do(row: AlertRow) -> None:
            if row.state != "acknowledged":
                raise Conflict(f"alert {identity} is {row.state}; nobody has acknowledged it")
            alerts.unacknowledge(
                reader.engine, row, by=by, comment=remark.comment, now=reader.now, notifiers=notified(row)
            )

        return answer(identity, by, "unacknowledge", do)

    @to.post("/alerts/{identity}/comment", tags=["alerts"], responses=_ACTING)
    def comment(identity: int, remark: Remark, by: By) -> answers.AlertDetail:
        """Adds a comment to an alert, open or closed."""

        def do(row: AlertRow) -> None:
            if not remark.comment:
                raise Conflict("comment: must hold something")
            alerts.comment(reader.engine, row, by=by, comment=remark.comment, now=reader.now)

        return answer(identity, by, "comment", do)

    @to.post("/alerts/{identity}/close", tags=["alerts"], responses=_ACTING)
    def close(identity: int, remark: Remark, by: By) -> answers.AlertDetail:
        """Closes an alert; no other one opens while its entity stays anomalous."""

        def do(row: AlertRow) -> None:
            if not row.state.waits:
                raise Conflict(f"alert {identity} is {row.state} already")
            alerts.close(reader.engine, row, by=by, comment=remark.comment, now=reader.now, notifiers=notified(row))

        return answer(identity, by, "close", do)

    @to.post("/alerts/{identity}/verdict", tags=["alerts"], responses=_ACTING)
    def judge(identity: int, verdict: Verdict, by: By) -> answers.AlertDetail:
        """Notes whether an alert was right; training learns from it."""

        def do(row: AlertRow) -> None:
            alerts.judge(reader.engine, row, verdict=verdict.verdict, by=by, comment=verdict.comment, now=reader.now)

        return answer(identity, by, verdict.verdict, do)


def _act_on_exclusions(to: APIRouter, reader: Reader) -> None:
    @to.post("/exclusions", tags=["exclusions"], status_code=201, responses=_ACTING)
    def exclude(wanted: NewExclusion, by: By) -> answers.Exclusion:
        """Mutes alerts, or keeps data out of training, for a time."""
        section = reader.section(wanted.monitor)
        new = Exclusion(
            id=0,
            monitor=section.name,
            entity=wanted.entity,
            metric=wanted.metric,
            start=epoch(wanted.start),
            end=None if wanted.end is None else epoch(wanted.end),
            effect=wanted.effect,
            rule=wanted.rule,
            time_zone=wanted.time_zone or section.time_zone,
            comment=wanted.comment,
            created_at=reader.now,
            created_by=by,
        )
        exclusions.check(new, section.metrics)
        number = stored.add(reader.engine, new)
        logger.info("event=acted by=%r action=exclude exclusion=%d monitor=%s", by, number, section.name)
        return next(one for one in reader.exclusions(section.name) if one.id == number)

    @to.delete("/exclusions/{identity}", tags=["exclusions"], status_code=204, responses=_ACTING)
    def remove(identity: int, by: By) -> None:
        """Removes an exclusion."""
        if not 0 <= identity < 1 << 63 or not stored.remove(reader.engine, identity):
            raise NotFound(f"no exclusion {identity}")
        logger.info("event=acted by=%r action=include exclusion=%d", by, identity)


def health_of(reader: Reader, access: Access, user: str | None) -> answers.Health:
    """Whether the daemon does its work; and what a user may do."""
    problem = reader.problem()
    return answers.Health(
        status="ok" if problem is None else "problem",
        problem=problem,
        version=__version__,
        now=datetime.fromtimestamp(reader.now / 1000, UTC),
        user=user,
        may_act=user is not None,
        why_not=why_not(access),
    )
