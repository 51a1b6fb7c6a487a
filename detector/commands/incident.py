"""`detector incident`: the verdict of people on an alert, or the time of a real incident."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from detector.commands.alerts import find_alert
from detector.commands.exclude import add_exclusion
from detector.commands.shared import (
    By,
    Comment,
    ConfigOption,
    Moment,
    MonitorOption,
    assembled,
    now_ms,
    say,
    time_of,
    user,
)
from detector.errors import ConfigError, StaleState

if TYPE_CHECKING:
    from detector.config.sections import MonitorSection
    from detector.ports import Exclusion
    from detector.wiring import Parts

_ALL = 1 << 30  # rows


def incident(
    identity: Annotated[int | None, typer.Argument(metavar="[ALERT]", help="The alert to judge.")] = None,
    config: ConfigOption = None,
    verdict: Annotated[
        bool | None, typer.Option("--real/--false", help="Whether something was wrong, or only the alert.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the verdict on an alert back.")] = False,
    monitor: MonitorOption = None,
    entity: Annotated[str | None, typer.Option(help="With --from: only entities like this, with * and ?.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="Start of a real incident, in this machine's zone …")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="… and its end.")] = None,
    by: By = None,
    comment: Comment = None,
) -> None:
    """Records whether an alert was real, or when a real incident was; training learns from it."""
    has_range = from_ is not None and to is not None
    if (identity is None and not has_range) or (identity is not None and (verdict is None) != undo):
        msg = "name an ALERT and --real, --false or --undo, or a time range with --monitor, --from and --to"
        raise ConfigError(msg)
    ignored = {"--from": from_, "--to": to, "--monitor": monitor, "--entity": entity}
    given = [option for option, value in ignored.items() if value is not None]
    if identity is not None and given:
        msg = f"an ALERT says when, where and of which monitor; leave out {', '.join(given)}"
        raise ConfigError(msg)
    if identity is None and undo:
        msg = "--undo is for an ALERT; a time range is an exclusion, see: detector exclude remove"
        raise ConfigError(msg)
    if identity is None and verdict is False:
        msg = "a time range marks a real incident; mark false alerts one by one with --false"
        raise ConfigError(msg)
    parts, now, who = assembled(config, monitor), now_ms(), by or user()
    if identity is not None:
        _judge(parts, identity, is_real=verdict, by=who, comment=comment, now=now)
    else:
        section = _monitor(parts, monitor)
        start, end = time_of("--from", from_ or ""), time_of("--to", to or "")
        _mark(parts, section, _masked(section, entity, start=start, end=end, by=who, comment=comment, now=now))


def _judge(parts: Parts, identity: int, *, is_real: bool | None, by: str, comment: str | None, now: int) -> None:
    """Marks one alert; None takes its mark away."""
    from detector.store import alerts

    row, _ = find_alert(parts, identity)
    if is_real is None:
        if row.verdict is None:
            msg = f"alert {identity} has no verdict to take back"
            raise ConfigError(msg)
        alerts.judge(parts.engine, row, verdict=None, by=by, comment=comment, now=now)
        say(f"the verdict {row.verdict!r} on alert {identity} is taken back")
        return
    verdict = "real" if is_real else "false"
    alerts.judge(parts.engine, row, verdict=verdict, by=by, comment=comment, now=now)
    what = "its time is kept out of training" if is_real else "its scores count as normal"
    again = "what is like it opens an alert again, and " if is_real else ""
    say(f"alert {identity} is marked {verdict}: {again}{what} from the next training on")


def _monitor(parts: Parts, name: str | None) -> MonitorSection:
    if name is None:
        msg = "--from and --to need --monitor NAME, the monitor of the incident"
        raise ConfigError(msg)
    return parts.config.monitor(name)


def _masked(
    section: MonitorSection, entity: str | None, *, start: int, end: int, by: str, comment: str | None, now: int
) -> Exclusion:
    """The exclusion that keeps a real incident out of training."""
    from detector.ports import Exclusion

    return Exclusion(
        id=0,
        monitor=section.name,
        entity=entity,
        metric=None,
        start=start,
        end=end,
        effect="mask",
        rule=None,
        time_zone=section.time_zone,
        comment=comment,
        created_at=now,
        created_by=by,
    )


def _mark(parts: Parts, section: MonitorSection, new: Exclusion) -> None:
    """Keeps the time of an incident out of training and marks the alerts in it as real."""
    from dataclasses import replace

    from detector.ports import AlertState
    from detector.store import alerts

    add_exclusion(parts, section, replace(new, comment=new.comment or "real incident"))
    marked = 0
    for row in alerts.listing(parts.engine, monitor=new.monitor, entity=new.entity, until=new.end, most=_ALL):
        closed = row.episode.closed_slot
        if row.state is AlertState.WITHDRAWN or (closed is not None and closed < new.start):
            continue
        try:
            by, at = new.created_by or "", new.created_at
            alerts.judge(parts.engine, row, verdict="real", by=by, comment=new.comment, now=at)
        except StaleState as exc:
            say(f"detector: {exc}", to_stderr=True)
        else:
            marked += 1
    alerts_are = "alert is" if marked == 1 else "alerts are"
    end = "" if new.end is None else Moment(new.end)
    say(f"{Moment(new.start)} to {end} is kept out of training; {marked} {alerts_are} marked real")
