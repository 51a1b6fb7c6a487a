"""`detector exclude`: times that mute alerts or are kept out of training."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from detector.errors import ConfigError
from detector.times import utc

if TYPE_CHECKING:
    from detector.config.sections import MonitorSection
    from detector.wiring import Parts
from detector.commands.shared import (
    By,
    Comment,
    ConfigOption,
    JsonOption,
    MonitorOption,
    assembled,
    now_ms,
    one_of,
    print_rows,
    time_of,
    user,
)


def add(
    monitor: Annotated[str, typer.Option("--monitor", help="Whose alerts or data.")],
    config: ConfigOption = None,
    entity: Annotated[str | None, typer.Option(help="Only entities like this, with * and ?.")] = None,
    metric: Annotated[str | None, typer.Option(help="Only metrics like this, with * and ?.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="From this time on [now].", show_default=False)] = None,
    to: Annotated[str | None, typer.Option("--to", help="Up to this time [open-ended].", show_default=False)] = None,
    duration: Annotated[str | None, typer.Option("--for", help="In place of --to: for so long (2h).")] = None,
    effect: Annotated[str, typer.Option(help="mute: no notifications; mask: kept out of training; both.")] = "mute",
    rule: Annotated[
        str | None, typer.Option(help="How it recurs, RFC 5545: FREQ=WEEKLY;BYDAY=SU. Needs --to or --for.")
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option(help="Whose clock the times and the rule follow [the monitor's].", show_default=False)
    ] = None,
    by: By = None,
    comment: Comment = None,
) -> None:
    """Mutes alerts or keeps data out of training for a time, once or again and again."""
    parts = assembled(config, monitor)
    from detector.config.values import parse_duration

    section = parts.config.monitor(monitor)
    one_of("--effect", effect, ("mute", "mask", "both"))
    if to and duration:
        msg = "--to and --for say the same; leave one out"
        raise ConfigError(msg)
    zone = time_zone or section.time_zone
    start = now_ms() if from_ is None else time_of("--from", from_, zone)
    end = time_of("--to", to, zone)
    if duration is not None and start is not None:
        try:
            length = parse_duration(duration)
        except ValueError as exc:
            msg = f"--for {exc}. Received: {duration!r}"
            raise ConfigError(msg) from exc
        assert isinstance(length, timedelta)
        end = start + int(length.total_seconds() * 1000)
    number = add_exclusion(parts, section, entity, metric, start, end, effect, rule, comment, by or user(), zone)
    print(f"exclusion {number} of monitor {monitor} is in force{_times(parts, section, number)}")


def add_exclusion(
    parts: Parts,
    section: MonitorSection,
    entity: str | None,
    metric: str | None,
    start: int | None,
    end: int | None,
    effect: str,
    rule: str | None,
    comment: str | None,
    by: str,
    zone: str | None = None,
) -> int:
    from detector.detect import exclusions
    from detector.ports import Exclusion
    from detector.store import exclusions as stored

    new = Exclusion(
        id=0,
        monitor=section.name,
        entity=entity,
        metric=metric,
        start=start or 0,
        end=end,
        effect=effect,
        rule=rule,
        time_zone=zone or section.time_zone,
        comment=comment,
        created_at=now_ms(),
        created_by=by,
    )
    exclusions.check(new, section.metrics)
    return stored.add(parts.engine, new)


def _times(parts: Parts, section: MonitorSection, number: int) -> str:
    """When an exclusion is next in force, in words."""
    from detector.detect import exclusions
    from detector.store import exclusions as stored

    found = next(e for e in stored.listing(parts.engine, [section.name]) if e.id == number)
    now = now_ms()
    if found.rule is None:
        return f" from {utc(found.start)} to {'whenever it is removed' if found.end is None else utc(found.end)}"
    begin, end = next(exclusions.ranges(found, now, now + 400 * 86_400_000), (None, None))
    return "" if begin is None or end is None else f", next from {utc(begin)} to {utc(end)}"


def list_exclusions(config: ConfigOption = None, monitor: MonitorOption = None, as_json: JsonOption = False) -> None:
    """Exclusions, oldest first."""
    parts = assembled(config, monitor)
    from detector.detect import exclusions
    from detector.store import exclusions as stored

    now = now_ms()
    rows = [
        {
            "id": found.id,
            "monitor": found.monitor,
            "entity": found.entity or "*",
            "metric": found.metric or "*",
            "effect": found.effect,
            "from": utc(found.start),
            "to": None if found.end is None else utc(found.end),
            "rule": found.rule,
            "time_zone": found.time_zone,
            "now": exclusions.in_force(found, now),
            "by": found.created_by,
            "comment": found.comment,
        }
        for found in stored.listing(parts.engine, [monitor] if monitor else [m.name for m in parts.config.monitors])
    ]
    print_rows(rows, as_json=as_json, empty="no exclusions")


def remove(identity: Annotated[int, typer.Argument(metavar="ID")], config: ConfigOption = None) -> None:
    """Removes an exclusion; alerts it mutes that are still open are told of with the next tick."""
    parts = assembled(config, None)
    from detector.store import exclusions as stored

    if not stored.remove(parts.engine, identity):
        msg = f"no exclusion {identity}; see: detector exclude list"
        raise ConfigError(msg)
    print(f"exclusion {identity} is removed")
