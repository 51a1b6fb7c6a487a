"""`detector bench`: the cost of a monitor on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.commands.shared import ConfigOption, JsonOption, load, log_to_stderr, print_rows, say
from detector.errors import ConfigError
from detector.wording import number

if TYPE_CHECKING:
    from detector.config.sections import MonitorSection


_TITLES = {
    "model": ("model", ""),
    "window": ("window", ""),
    "cores": ("cores", ""),
    "entities": ("measured with", " entities"),
    "tick_seconds": ("a tick takes", " s"),
    "tick_every_seconds": ("a tick comes every", " s"),
    "cpu_seconds_per_entity_and_day": ("processor time of an entity in a day", " s"),
    "memory_bytes_per_entity": ("memory of an entity", " bytes"),
    "model_bytes": ("size of the model", " bytes"),
    "windows_per_second": ("windows scored in a second", ""),
    "windows_per_second_and_core": ("of these on one core", ""),
    "matrix_peak_gflops": ("largest rate of multiplications", " GFLOP/s"),
    "share_of_matrix_peak": ("share of it that scoring reaches", ""),
    "training_seconds_per_million_windows": ("training on a million windows", " s"),
}
"""Lines of the card: what a figure is called, and its unit, by its name in JSON."""


def bench(
    config: ConfigOption = None,
    monitor: Annotated[
        str | None, typer.Option("--monitor", help="The monitor whose settings are used [the first one].")
    ] = None,
    entities: Annotated[int, typer.Option(min=1, help="Most entities in the synthetic fleet.")] = 10_000,
    metrics: Annotated[int | None, typer.Option(min=1, help="Metrics of each entity [the monitor's, or 8].")] = None,
    timesteps: Annotated[int | None, typer.Option(min=2, help="Slots in a window [the monitor's].")] = None,
    units: Annotated[int | None, typer.Option(min=1, help="Units of the network [the monitor's].")] = None,
    as_json: JsonOption = False,
) -> None:
    """Cost card: the time and memory of a monitor on this machine, and the largest fleet that fits."""
    section = _monitor_to_measure(config, monitor)
    from detector.config import loading

    table = section.model_dump(exclude_unset=True)
    if metrics is not None:
        # the fleet is synthetic: its source need not have these metrics
        source = {"type": "embedded"}
        table |= {"metrics": tuple(f"m{n}" for n in range(metrics)), "rules": (), "source": source}
    asked = {"timesteps": timesteps, "model.units": units}
    changes = [f"{key}={value}" for key, value in asked.items() if value is not None]
    section = loading.monitor(table, changes)
    from detector.operate import cost
    from detector.progress import shown

    with shown("bench") as progress:
        found = cost.card(section, entities, progress)
    if as_json:
        print_rows([found], as_json=True)
        return
    say(
        f"This machine can watch about {_text(found['largest_fleet'])} entities of monitor {found['monitor']};"
        f" {found['largest_fleet_limited_by']} is what it has too little of for more.\n"
    )
    lines = {title: f"{_text(found[name])}{unit}" for name, (title, unit) in _TITLES.items() if name in found}
    print_rows([lines], vertical=True)


def _text(value: object) -> str:
    return number(value) if isinstance(value, int | float) else str(value)


def _monitor_to_measure(config: Path | None, monitor: str | None) -> MonitorSection:
    """A monitor of the configuration; without a configuration, one of defaults with eight metrics."""
    from detector.config import loading

    try:
        loading.find(config)
    except ConfigError:
        if config is not None or monitor is not None:
            raise
        log_to_stderr("info")
        table = {"name": "defaults", "source": {"type": "embedded"}, "metrics": tuple(f"m{n}" for n in range(8))}
        return loading.monitor(table)
    _, settings = load(config)
    return settings.monitors[0] if monitor is None else settings.monitor(monitor)
