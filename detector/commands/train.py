"""`detector retrain`: new model versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.errors import ConfigError
from detector.times import utc

if TYPE_CHECKING:
    pass
from detector.commands.shared import ConfigOption, load, now_ms, time_of


def retrain(
    monitors: Annotated[list[str] | None, typer.Argument(help="Monitors to train [all].", show_default=False)] = None,
    config: ConfigOption = None,
    from_: Annotated[str | None, typer.Option("--from", help="Train on data from this time on.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Train on data up to this time.")] = None,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Keep the network; fit the threshold to recent data.")
    ] = False,
) -> None:
    """Trains monitors on their history and makes the new model version the live one."""
    if recalibrate and (from_ or to):
        msg = "--recalibrate takes the newest data; leave out --from and --to"
        raise ConfigError(msg)
    _, settings = load(config)
    start, end = time_of("--from", from_), time_of("--to", to)
    sections = [settings.monitor(name) for name in monitors or [m.name for m in settings.monitors]]
    from detector import wiring
    from detector.progress import shown
    from detector.train import versions

    parts, span = wiring.assemble(settings), versions.Span(start, end)
    for section in sections:
        inputs = wiring.training_inputs(parts, section)
        if recalibrate:
            with shown(f"recalibrate {section.name}") as progress:
                version, drift = versions.recalibrate(inputs, now=now_ms(), progress=progress)
            usual = f"usual errors are {drift:.2f} × those at training"
            print(f"monitor {section.name}: model version {version} is live; {usual}")
            continue
        with shown(f"retrain {section.name}") as progress:
            version, facts = versions.retrain(inputs, now=now_ms(), span=span, progress=progress)
        print(
            f"monitor {section.name}: model version {version} is live;"
            f" {facts['entities']} entities, {_training(facts)}, data {utc(facts['trained_from'])} to"
            f" {utc(facts['trained_until'])}, {facts['seconds']:.0f} s"
        )


def _training(facts: Mapping[str, Any]) -> str:
    """What was trained, in words."""
    found = {kind: f"{shares['all']:.0%}" for kind, shares in facts["detectability"].items()}
    compared = ", finds " + ", ".join(f"{share} ({kind})" for kind, share in found.items()) if found else ""
    if facts["kind"] == "baseline":
        return f"a baseline with {facts['phases']} phases{compared} of injected faults" if found else "a baseline"
    trained = f"a network from {facts['training_windows']} windows in {facts['epochs']} epochs"
    return (
        f"{trained}, validation loss {facts['validation_loss']:.4f}{compared}{' of injected faults' if found else ''}"
    )
