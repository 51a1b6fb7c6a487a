"""`detector alerts watch`: events of alerts as they come, like `tail -f`."""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from detector.commands.shared import ConfigOption, EntityOption, Moment, MonitorOption, assembled, say
from detector.errors import StoreError
from detector.times import utc
from detector.wording import finite, printable, sentence

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from detector.store.events import Event

_PAUSE = 1.0  # seconds between two looks
_TOLD_AS = {"opened", "reopened", "escalated", "revised", "unmuted"}  # changes whose line says what the alert is


def watch(
    config: ConfigOption = None,
    monitor: MonitorOption = None,
    entity: EntityOption = None,
    last: Annotated[
        int, typer.Option("--last", min=0, max=100_000, metavar="N", help="Begin with the last N events.")
    ] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Follows what happens to alerts, one line for each event, until it is stopped with Ctrl-C."""
    engine = assembled(config, monitor).engine
    show = _as_json if as_json else _as_line
    try:
        for events in followed(engine, last, monitor=monitor, entity=entity, pause=lambda: time.sleep(_PAUSE)):
            for event in events:
                print(show(event), flush=True)
            if _nobody_reads():
                return
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def followed(
    engine: Engine, last: int, *, monitor: str | None, entity: str | None, pause: Callable[[], None]
) -> Iterator[list[Event]]:
    """The last events, and then for ever those that are new since the look before; often none.

    A database that does not answer is told of once, and asked again.
    """
    from detector.store import events

    def after(identity: int) -> list[Event]:
        return events.after(engine, identity, monitor=monitor, entity=entity)

    top = events.newest_id(engine)
    yield events.newest(engine, last, monitor=monitor, entity=entity) if last else []
    seen = {event.id for event in after(top - events.LOOK_BACK) if event.id <= top}
    is_down = False
    while True:
        try:
            found = after(top - events.LOOK_BACK)
        except StoreError as exc:
            if not is_down:
                say(f"detector: {exc}; trying again until it answers", to_stderr=True)
            is_down, found = True, []
        else:
            if is_down:
                say("detector: the database answers again", to_stderr=True)
            is_down = False
        new = [event for event in found if event.id not in seen]
        yield new
        top = max([top, *(event.id for event in new)])
        seen = _recent([*seen, *(event.id for event in new)], top - events.LOOK_BACK)
        if len(found) < events.PAGE:
            pause()


def _recent(ids: Iterable[int], after: int) -> set[int]:
    return {identity for identity in ids if identity > after}


def _nobody_reads() -> bool:
    """Whether the other end of a pipe on stdout is gone, which a print would tell only with the next event."""
    try:
        stdout = select.poll()
        stdout.register(sys.stdout.fileno(), 0)
        return any(mask & select.POLLERR for _, mask in stdout.poll(0))
    except (AttributeError, OSError, ValueError):  # no such call, or no real file
        return False


def _as_line(event: Event) -> str:
    said = [f"by {event.by}" if event.by else "", event.detail or ""]
    said += [sentence(event.explanation)] if event.change in _TOLD_AS else []
    words = (
        str(Moment(event.created_at)),
        f"{event.alert:>5}",
        f"{event.change:<12}",
        f"{event.severity:<8}",
        f"{event.peak_score:6.2f}",
        f"{event.entity} ({event.monitor})",
        "; ".join(filter(None, said)),
    )
    return printable("  ".join(words).rstrip())


def _as_json(event: Event) -> str:
    told = {
        "event": event.id,
        "at": utc(event.created_at),
        "change": event.change,
        "alert": event.alert,
        "monitor": event.monitor,
        "entity": event.entity,
        "state": event.state,
        "severity": event.severity,
        "peak_score": event.peak_score,
        "slot": utc(event.slot),
        "by": event.by,
        "detail": event.detail,
        "what": sentence(event.explanation),
    }
    return json.dumps(finite(told), allow_nan=False)
