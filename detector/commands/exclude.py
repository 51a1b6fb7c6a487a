"""`detector exclude`: times that mute alerts or are kept out of training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from detector.commands.shared import (
    By,
    Comment,
    ConfigOption,
    EntityOption,
    JsonOption,
    Moment,
    MonitorOption,
    assembled,
    now_ms,
    one_of,
    print_rows,
    say,
    time_of,
    user,
)
from detector.errors import ConfigError
from detector.times import DAY_MS, milliseconds
from detector.wording import printable

if TYPE_CHECKING:
    from detector.config.sections import MonitorSection
    from detector.ports import Exclusion
    from detector.wiring import Parts

_EFFECTS = {
    "mute": "mutes alerts of",
    "mask": "keeps out of training",
    "both": "mutes alerts of, and keeps out of training,",
}
_LOOK_AHEAD = 400 * DAY_MS  # milliseconds in which the next time of a recurring exclusion is looked for


def add(
    monitor: Annotated[str, typer.Option("--monitor", help="The monitor.")],
    config: ConfigOption = None,
    entity: EntityOption = None,
    metric: Annotated[str | None, typer.Option(help="Only metrics like this, with * and ?.")] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from", help="Start, in this machine's zone unless --time-zone is given [now].", show_default=False
        ),
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="End [open-ended].", show_default=False)] = None,
    duration: Annotated[str | None, typer.Option("--for", help="Instead of --to: a duration (2h).")] = None,
    effect: Annotated[str, typer.Option(help="mute: no notifications; mask: kept out of training; both.")] = "mute",
    rule: Annotated[
        str | None, typer.Option(help="Recurrence by RFC 5545: FREQ=WEEKLY;BYDAY=SU. Needs --to or --for.")
    ] = None,
    time_zone: Annotated[
        str | None,
        typer.Option(
            help="Zone of the rule, and of the times, too, if given [rule: the monitor's].", show_default=False
        ),
    ] = None,
    by: By = None,
    comment: Comment = None,
) -> None:
    """Mutes alerts, or keeps data out of training, for a time: once or recurring."""
    parts = assembled(config, monitor)
    from detector.ports import Exclusion

    section, now = parts.config.monitor(monitor), now_ms()
    one_of("--effect", effect, ("mute", "mask", "both"))
    start = now if from_ is None else time_of("--from", from_, time_zone or "")
    new = Exclusion(
        id=0,
        monitor=section.name,
        entity=entity,
        metric=metric,
        start=start,
        end=_end(start, to, duration, time_zone or ""),
        effect=effect,
        rule=rule,
        time_zone=time_zone or section.time_zone,
        comment=comment,
        created_at=now,
        created_by=by or user(),
    )
    number = add_exclusion(parts, section, new)
    say(f"exclusion {number} {_EFFECTS[effect]} {_whom(new)} of monitor {monitor}{_times(new, now)}")
    if (missed := _of_nobody(parts, new)) is not None:
        say(f"detector: {missed}", to_stderr=True)


def _whom(new: Exclusion) -> str:
    entities = "all entities" if new.entity is None else f"entities like {printable(new.entity)}"
    return entities if new.metric is None else f"metrics like {printable(new.metric)} of {entities}"


def _of_nobody(parts: Parts, new: Exclusion) -> str | None:
    """Says that no entity on record is meant, with the nearest name; None if one is, or nothing is on record yet."""
    import difflib

    from detector.detect import exclusions
    from detector.store import judged

    known = judged.entities(parts.engine, new.monitor)
    if not known or any(exclusions.concerns(new, name) for name in known):
        return None
    near = difflib.get_close_matches(new.entity or "", known, n=1)
    hint = f"; the nearest one is {near[0]!r}" if near else ""
    return f"no entity of monitor {new.monitor} is like {new.entity!r} so far{hint}"


def _end(start: int, to: str | None, duration: str | None, zone: str) -> int | None:
    """End of an exclusion in epoch milliseconds, None if it is open-ended."""
    from detector.config import values

    if to is not None and duration is not None:
        msg = "--to and --for both give the end; leave one out"
        raise ConfigError(msg)
    if duration is None:
        return None if to is None else time_of("--to", to, zone)
    try:
        return start + milliseconds(values.duration(duration))
    except ValueError as exc:
        msg = f"--for {exc}. Received: {duration!r}"
        raise ConfigError(msg) from exc


def add_exclusion(parts: Parts, section: MonitorSection, new: Exclusion) -> int:
    """Stores an exclusion of a monitor once it is checked; returns its number."""
    from detector.detect import exclusions
    from detector.store import exclusions as stored

    exclusions.check(new, section.metrics)
    return stored.add(parts.engine, new)


def _times(exclusion: Exclusion, now: int) -> str:
    """The time when an exclusion is next in force, in words."""
    from detector.detect import exclusions

    if exclusion.rule is None:
        end = "whenever it is removed" if exclusion.end is None else Moment(exclusion.end)
        return f" from {Moment(exclusion.start)} to {end}"
    following = next(exclusions.ranges(exclusion, now, now + _LOOK_AHEAD), None)
    return "" if following is None else f", next from {Moment(following[0])} to {Moment(following[1])}"


def list_exclusions(config: ConfigOption = None, monitor: MonitorOption = None, as_json: JsonOption = False) -> None:
    """Lists exclusions, oldest first."""
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
            "from": Moment(found.start),
            "to": None if found.end is None else Moment(found.end),
            "rule": found.rule,
            "time_zone": found.time_zone,
            "now": exclusions.in_force(found, now),
            "by": found.created_by,
            "comment": found.comment,
        }
        for found in stored.listing(parts.engine, [monitor] if monitor else [m.name for m in parts.config.monitors])
    ]
    print_rows(rows, as_json=as_json, empty="no exclusions")


def remove(
    identity: Annotated[int, typer.Argument(metavar="ID", help="Number of the exclusion; see: detector exclude list")],
    config: ConfigOption = None,
) -> None:
    """Removes an exclusion; open alerts that it muted are notified with the next tick."""
    parts = assembled(config, None)
    from detector.store import exclusions as stored

    if not 0 <= identity < 1 << 63 or not stored.remove(parts.engine, identity):
        msg = f"no exclusion {identity}; see: detector exclude list"
        raise ConfigError(msg)
    say(f"exclusion {identity} is removed")
