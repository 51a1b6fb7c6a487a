"""`detector explain`: the reasons of one slot, and what it would take to open an alert."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from detector.commands.shared import (
    ConfigOption,
    JsonOption,
    Moment,
    assembled,
    if_given,
    moment_of,
    now_ms,
    print_json,
    print_rows,
    say,
    unknown_entity,
)

if TYPE_CHECKING:
    from detector.detect.explain_slot import PastAlert
    from detector.detect.horizon import Horizon
    from detector.detect.sensitivity import MetricSensitivity
    from detector.ports import ModelVersion
    from detector.wiring import Parts

_LATEST = 100  # alerts of the entity that are looked at


def explain(
    monitor: Annotated[str, typer.Argument(help="The monitor.")],
    entity: Annotated[str, typer.Argument(help="The entity.")],
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            help="A time in this machine's zone, such as 2026-11-23T14:00, or this long ago (2h) [the newest slot].",
            show_default=False,
        ),
    ] = None,
    sensitivity: Annotated[
        bool,
        typer.Option("--sensitivity", help="Tell which values of each metric, held from then on, open an alert."),
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explains why there was an alert at a time, or none: score, parts, metrics and rules under the live model.

    With --sensitivity it tells what it would take: the values of each metric that open an alert when they are held.
    """
    parts = assembled(config, monitor)
    from detector.detect.horizon import Horizon
    from detector.errors import ModelError

    moment = if_given(moment_of, "--at", at)
    live = parts.versions[monitor].live()
    if live is None:
        msg = f"monitor {monitor!r} has no model yet; see: detector check"
        raise ModelError(msg)
    asked = _Asked(parts, Horizon.of(parts.config.monitor(monitor)), live, entity, moment)
    (_tell_sensitivity if sensitivity else _tell_why)(asked, as_json=as_json)


@dataclass(frozen=True)
class _Asked:
    """What is asked for, and of which model."""

    parts: Parts
    horizon: Horizon
    model: ModelVersion
    entity: str
    moment: int | None  # epoch milliseconds; None: now


def _tell_why(asked: _Asked, *, as_json: bool) -> None:
    """Prints why there was an alert, or none."""
    from detector import wording
    from detector.core import grid
    from detector.detect.explain_slot import NoDataOfEntity, explain_slot
    from detector.detect.tally import Tally
    from detector.errors import ModelError

    parts, horizon, entity, moment = asked.parts, asked.horizon, asked.entity, asked.moment
    if moment is None:
        moment = grid.complete_until(now_ms(), horizon.step, horizon.delay) - horizon.step
    source = Tally(parts.sources[horizon.monitor])
    try:
        answer = explain_slot(
            horizon,
            source,
            asked.model,
            entity=entity,
            at=moment,
            excluded=parts.store.exclusions(horizon.monitor),
            past=_past(parts, horizon.monitor, entity, moment),
            remembered=parts.store.experiences(horizon.monitor, version=asked.model.version),
            precedents=parts.store.precedents(horizon.monitor),
        )
    except NoDataOfEntity as exc:
        raise ModelError(f"{exc}; {_hint(parts, horizon.monitor, entity)}") from None
    if as_json:
        print_json(asdict(answer) | {"slot": Moment(answer.slot), "rejects": source.lines(now_ms())})
        return
    head = "unknown" if answer.score is None else f"score {answer.score:.2f}"
    say(f"{wording.printable(entity)} ({horizon.monitor}) at {Moment(answer.slot)}: {head}")
    for why in answer.why:
        say(f"  {wording.printable(why)}")
    for rejected in source.lines(now_ms()):
        say(f"  {rejected}")
    metrics = answer.explanation.get("metrics", [])
    if metrics and answer.score is not None:
        say("\nmetrics by their share of the score")
        for metric in metrics:
            say(f"  {wording.printable(wording.metric_line(metric))}")


def _hint(parts: Parts, monitor: str, entity: str) -> str:
    """What may be wrong with what was asked."""
    from detector.store import judged

    known = judged.entities(parts.engine, monitor)
    if known and entity not in known:
        return unknown_entity(monitor, entity, known)
    cursor = parts.store.cursor(monitor)
    return "see: detector check" if cursor is None else f"the monitor has judged up to {Moment(cursor)}"


def _tell_sensitivity(asked: _Asked, *, as_json: bool) -> None:
    """Prints which values of each metric open an alert."""
    from detector import wording
    from detector.core import grid
    from detector.detect import sensitivity

    horizon, model, moment = asked.horizon, asked.model, asked.moment
    answer = sensitivity.of_entity(
        horizon,
        asked.parts.sources[horizon.monitor],
        model,
        entity=asked.entity,
        slot=grid.complete_until(now_ms(), horizon.step, horizon.delay)
        if moment is None
        else grid.floor(moment, horizon.step),
        remembered=asked.parts.store.experiences(horizon.monitor, version=model.version),
    )
    if as_json:
        print_json(asdict(answer) | {"slot": Moment(answer.slot)})
        return
    say(f"{wording.printable(asked.entity)} ({horizon.monitor}) from {Moment(answer.slot)} on")
    say("One metric opens an alert at these values, held so long, with all others as usual; the network may sooner.\n")
    print_rows([_sensitivity_row(metric, answer.seconds, rates=horizon.rates) for metric in answer.metrics])


def _sensitivity_row(metric: MetricSensitivity, seconds: list[float], *, rates: Container[str]) -> dict[str, str]:
    """A line of the table: values in the metric's unit, or why there is none."""
    from detector import wording

    def text(value: float | None) -> str:
        return "-" if value is None else wording.quantity(metric.metric, value, is_rate=metric.metric in rates)

    row = {"metric": metric.metric, "usual": text(metric.usual)}
    for n, length in enumerate(seconds):
        for name, side in (("above", metric.above), ("below", metric.below)):
            row[f"{name}, {wording.duration(round(1000 * length))}"] = text(side.values[n])
    whys = {"above": metric.above.why_not, "below": metric.below.why_not}
    never = [f"never {name}: {why}" for name, why in whys.items() if why]
    if len(set(whys.values())) == 1 and never:
        never = [f"never: {metric.above.why_not}"]
    return row | {"": "; ".join(never)}


def _past(parts: Parts, monitor: str, entity: str, moment: int) -> list[PastAlert]:
    """The entity's latest alerts that opened until a time, without those withdrawn."""
    from detector.detect.explain_slot import PastAlert
    from detector.ports import AlertState
    from detector.store import alerts

    found = alerts.listing(parts.engine, monitor=monitor, entity=entity, until=moment + 1, most=_LATEST)
    return [
        PastAlert(row.id, row.episode.opened_slot, row.episode.closed_slot if row.closed_at is None else row.closed_at)
        for row in found
        if row.state is not AlertState.WITHDRAWN
    ]
