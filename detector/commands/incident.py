"""`detector incident`: real or false, said of an alert or of a time range."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from detector.errors import ConfigError, StaleState
from detector.times import utc

if TYPE_CHECKING:
    from detector.config.sections import MonitorSection
    from detector.wiring import Parts
from detector.commands.alerts import find_alert
from detector.commands.exclude import add_exclusion
from detector.commands.shared import By, Comment, ConfigOption, MonitorOption, assembled, now_ms, time_of, user


def incident(
    identity: Annotated[int | None, typer.Argument(metavar="[ALERT]", help="The alert that is judged.")] = None,
    config: ConfigOption = None,
    verdict: Annotated[
        bool | None, typer.Option("--real/--false", help="Was something wrong, or was the alert?")
    ] = None,
    monitor: MonitorOption = None,
    entity: Annotated[str | None, typer.Option(help="With --from: only entities like this, with * and ?.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="A real incident began at this time …")] = None,
    to: Annotated[str | None, typer.Option("--to", help="… and ended at this time.")] = None,
    by: By = None,
    comment: Comment = None,
) -> None:
    """Says whether an alert was real, or when a real incident was: training and thresholds learn from it."""
    if (identity is None) == (from_ is None or to is None) or (identity is not None and verdict is None):
        msg = "name an ALERT and --real or --false, or a time range with --monitor, --from and --to"
        raise ConfigError(msg)
    if identity is None and verdict is False:
        msg = "a time range is that of a real incident; say of each alert that it was --false"
        raise ConfigError(msg)
    parts = assembled(config, monitor)
    from detector.store import alerts

    now, who = now_ms(), by or user()
    if identity is not None:
        row, _ = find_alert(parts, identity)
        word = "real" if verdict else "false"
        alerts.judge(parts.engine, row, verdict=word, by=who, comment=comment, now=now)
        what = "its time is kept out of training" if verdict else "its scores count as normal"
        print(f"alert {identity} is marked {word}: {what} from the next calibration on")
        section = parts.config.monitor(row.monitor)
    else:
        if monitor is None:
            msg = "--from and --to need --monitor NAME: whose incident was it?"
            raise ConfigError(msg)
        section = parts.config.monitor(monitor)
        start, end = time_of("--from", from_), time_of("--to", to)
        add_exclusion(parts, section, entity, None, start, end, "mask", None, comment or "real incident", who)
        marked = 0
        for row in alerts.listing(parts.engine, monitor=monitor, entity=entity, until=end, most=1 << 30):
            if row.state == "withdrawn" or (
                row.episode.closed_slot is not None and row.episode.closed_slot < (start or 0)
            ):
                continue
            try:
                alerts.judge(parts.engine, row, verdict="real", by=who, comment=comment, now=now)
            except StaleState as exc:
                print(f"detector: {exc}", file=sys.stderr)
            else:
                marked += 1
        alerts_are = "alert is" if marked == 1 else "alerts are"
        print(f"{utc(start or 0)} to {utc(end or 0)} is kept out of training; {marked} {alerts_are} marked real")
    _print_reconsidered(parts, section, now)


def _print_reconsidered(parts: Parts, section: MonitorSection, now: int) -> None:
    """Which alerts of the last thirty days the next recalibration would see otherwise."""
    from detector import wiring
    from detector.errors import ModelError
    from detector.progress import shown
    from detector.store import alerts
    from detector.train import versions

    try:
        with shown(f"calibrate {section.name}") as progress:
            since = now - int(timedelta(days=30).total_seconds() * 1000)
            raised = alerts.listing(parts.engine, monitor=section.name, since=since, most=1 << 30)
            inputs = wiring.training_inputs(parts, section)
            found = versions.reconsidered(inputs, raised, now=now, progress=progress)
    except ModelError as exc:
        print(f"what the next recalibration would change cannot be told: {exc}")
        return
    gone = [str(number) for number, peak in found.judged if peak < 1.0]
    others = f" ({found.unjudged} others are of earlier models or of rules)" if found.unjudged else ""
    if not found.judged:
        print(f"this model has raised no alert in the last 30 days that a recalibration could change{others}")
        return
    print(
        f"with the next recalibration {len(gone)} of the {len(found.judged)} alerts that this model has raised in"
        f" the last 30 days would not have opened{others}"
    )
    if gone:
        print(f"these are {', '.join(gone)}; to have it now: detector retrain --recalibrate {section.name}")
