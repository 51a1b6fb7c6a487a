"""`detector explain`: the reasons of one slot."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from detector.commands.shared import ConfigOption, JsonOption, Moment, assembled, moment_of, now_ms, print_json, say

if TYPE_CHECKING:
    from detector.detect.explain_slot import PastAlert
    from detector.wiring import Parts

_LATEST = 100  # alerts of the entity that are looked at


def explain(
    monitor: Annotated[str, typer.Argument(help="The monitor.")],
    entity: Annotated[str, typer.Argument(help="The entity.")],
    at: Annotated[
        str,
        typer.Option("--at", help="A time in this machine's zone, such as 2026-11-23T14:00, or this long ago (2h)."),
    ],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explains why there was an alert at a time, or none: score, parts, metrics and rules under the live model."""
    parts = assembled(config, monitor)
    from detector import wording
    from detector.detect.explain_slot import explain_slot
    from detector.detect.horizon import Horizon
    from detector.detect.tally import Tally
    from detector.errors import ModelError

    moment = moment_of("--at", at)
    live = parts.versions[monitor].live()
    if live is None:
        msg = f"monitor {monitor!r} has no model yet; see: detector check"
        raise ModelError(msg)
    source = Tally(parts.sources[monitor])
    answer = explain_slot(
        Horizon.of(parts.config.monitor(monitor)),
        source,
        live,
        entity=entity,
        at=moment,
        excluded=parts.store.exclusions(monitor),
        past=_past(parts, monitor, entity, moment),
    )
    if as_json:
        print_json(asdict(answer) | {"slot": Moment(answer.slot), "rejects": source.lines(now_ms())})
        return
    head = "unknown" if answer.score is None else f"score {answer.score:.2f}"
    say(f"{wording.printable(entity)} ({monitor}) at {Moment(answer.slot)}: {head}")
    for why in answer.why:
        say(f"  {wording.printable(why)}")
    for rejected in source.lines(now_ms()):
        say(f"  {rejected}")
    metrics = answer.explanation.get("metrics", [])
    if metrics and answer.score is not None:
        say("\nmetrics by their share of the score")
        for metric in metrics:
            say(f"  {wording.printable(wording.metric_line(metric))}")


def _past(parts: Parts, monitor: str, entity: str, moment: int) -> list[PastAlert]:
    """The entity's latest alerts that opened until a time, without those withdrawn."""
    from detector.detect.explain_slot import PastAlert
    from detector.ports import AlertState
    from detector.store import alerts

    found = alerts.listing(parts.engine, monitor=monitor, entity=entity, until=moment + 1, most=_LATEST)
    return [
        PastAlert(row.id, row.episode.opened_slot, row.episode.closed_slot)
        for row in found
        if row.state is not AlertState.WITHDRAWN
    ]
