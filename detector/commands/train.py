"""`detector retrain`: new model versions."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.commands.shared import ConfigOption, Moment, for_each, if_given, load, now_ms, say, time_of

if TYPE_CHECKING:
    from detector.config.sections import MonitorSection
    from detector.detect.tally import Tally
    from detector.train.versions import Inputs, Span


def retrain(
    monitors: Annotated[list[str] | None, typer.Argument(help="Monitors to train [all].", show_default=False)] = None,
    config: ConfigOption = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="Train on data from this time on, in this machine's zone.")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="Train on data up to this time.")] = None,
) -> None:
    """Trains monitors on their history and makes the new model version the live one."""
    _, settings = load(config)
    start, end = if_given(time_of, "--from", from_), if_given(time_of, "--to", to)
    sections = [settings.monitor(name) for name in monitors or [m.name for m in settings.monitors]]
    from detector import wiring
    from detector.detect.tally import Tally
    from detector.train.versions import Span

    _end_in_order_when_asked()
    parts = wiring.assemble(settings)

    def train(section: MonitorSection) -> None:
        inputs = wiring.training_inputs(parts, section)
        tally = Tally(inputs.source)
        inputs = replace(inputs, source=tally)
        with _rejects_named(section.name, tally):
            done = _retrain(section.name, inputs, Span(start, end))
        say(done)

    for_each(sections, train)


def _retrain(monitor: str, inputs: Inputs, span: Span) -> str:
    """Trains a monitor; the result in words."""
    from detector.progress import shown
    from detector.train import versions

    with shown(f"retrain {monitor}") as progress:
        version, facts = versions.retrain(inputs, now=now_ms(), span=span, progress=progress)
    data = f"data {Moment(facts['trained_from'])} to {Moment(facts['trained_until'])}"
    return (
        f"monitor {monitor}: model version {version} is live;"
        f" {facts['entities']} entities, {_training(facts)}, {data}, {facts['seconds']:.0f} s"
    )


def _end_in_order_when_asked() -> None:
    """Makes SIGTERM and SIGHUP end the command as an exception does, so that the right to train is given back."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # else nohup wants it to go on
            signal.signal(number, end)


@contextmanager
def _rejects_named(monitor: str, source: Tally) -> Iterator[None]:
    """Names rows that could not be read, whether the training succeeds or not."""
    try:
        yield
    finally:
        for line in source.lines(now_ms()):
            print(f"monitor {monitor}: {line}", file=sys.stderr)


def _training(facts: Mapping[str, Any]) -> str:
    """The trained model in words."""
    found = {kind: f"{shares['all']:.0%}" for kind, shares in facts["detectability"].items()}
    compared = ", finds " + ", ".join(f"{share} ({kind})" for kind, share in found.items()) if found else ""
    if facts["kind"] == "baseline":
        return f"a baseline with {facts['phases']} phases{compared} of injected faults" if found else "a baseline"
    trained = f"a network from {facts['training_windows']} windows in {facts['epochs']} epochs"
    return (
        f"{trained}, validation loss {facts['validation_loss']:.4f}{compared}{' of injected faults' if found else ''}"
    )
