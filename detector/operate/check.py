"""`detector check`: asks every part what the daemon would find, and changes nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from detector import database, wiring
from detector.config import loading
from detector.config.sections import Config, MonitorSection
from detector.core import grid
from detector.detect.horizon import Horizon
from detector.errors import ConfigError, DetectorError
from detector.operate import cost as capacity
from detector.ports import Source
from detector.store import schema
from detector.train.division import Plan

_NAMED = 8  # metrics listed by name


def check(config: Config) -> tuple[list[dict[str, Any]], ConfigError | None]:
    """One row for the database and one per monitor and notifier; a row has a `problem` where the daemon would fail.

    The error is that of a configuration which is valid, but more than this machine can carry.
    """
    engine = database.connect(loading.secret(config.database))
    rows: list[dict[str, Any]] = [{"database": database.redacted(engine.url), "schema": None}]
    try:
        found = schema.current(engine)
        rows[0]["schema"] = found or "empty; the daemon will create its tables"
        if found is not None:
            schema.check(engine)
    except DetectorError as exc:
        return [rows[0] | {"problem": str(exc)}], None
    loads: list[Load] = []
    for monitor in config.monitors:
        try:
            row, load = _monitor(config, monitor, engine, has_schema=found is not None)
        except DetectorError as exc:
            row, load = {"monitor": monitor.name, "problem": str(exc)}, None
        rows.append(row)
        loads += [] if load is None else [load]
    for notifier in config.notifiers:
        row = {"notifier": notifier.name, "type": notifier.type}
        try:
            row["url"] = wiring.notifier(notifier).check()
        except DetectorError as exc:
            rows.append(row | {"problem": str(exc)})
        else:
            told = notifier.monitors or [monitor.name for monitor in config.monitors]
            rows.append(row | {"daemon": f"would tell it of the alerts of {', '.join(told)}"})
    return rows, too_much(loads)


def _monitor(
    config: Config, monitor: MonitorSection, engine: Any, *, has_schema: bool
) -> tuple[dict[str, Any], Load | None]:
    named = ", ".join(monitor.metrics[:_NAMED])
    row: dict[str, Any] = {
        "monitor": monitor.name,
        "source": monitor.source.type,
        "metrics": f"{len(monitor.metrics)}: {named}{', …' if len(monitor.metrics) > _NAMED else ''}",
        "schedule": f"a tick every {monitor.score_interval.total_seconds():g} s, window"
        f" {monitor.timesteps} × {monitor.step.total_seconds():g} s, retrain {monitor.retrain}",
    }
    if not has_schema and monitor.source.type != "sql":
        will = "record and " if monitor.source.type == "host" else "wait for `detector import` and "
        return row | {"daemon": f"would {will}train after {Plan.of(monitor).needed_slots} slots"}, None
    source = wiring.source(config, monitor, engine)
    extent = source.extent()
    if extent is None:
        return row | {"newest_sample": None, "daemon": "would wait: the source has no samples"}, None
    step = monitor.step_ms
    end = grid.floor(extent[1], step) + step
    recent = source.read(end - monitor.timesteps * step, end)
    age = datetime.now(UTC).timestamp() - extent[1] / 1000
    when = f"{age:.0f} s ago" if age >= 0 else f"{-age:.0f} s in the future: is `time_zone` right?"
    row |= {
        "newest_sample": f"{datetime.fromtimestamp(extent[1] / 1000, UTC):%F %T} UTC, {when}",
        "oldest_sample": f"{datetime.fromtimestamp(extent[0] / 1000, UTC):%F %T} UTC",
        "newest_window": f"{len(recent)} samples of {len(recent.entities)} entities",
    }
    load = _load(monitor, source, end, len(recent.entities))
    row["capacity"] = f"a tick takes about {_seconds(load.seconds)} of {capacity.interval(monitor):g} s on this machine"
    return row | {"daemon": _plan(monitor, engine, extent, age, has_schema=has_schema)}, load


@dataclass(frozen=True)
class Load:
    """What a tick of a monitor is expected to take."""

    monitor: MonitorSection
    entities: int
    seconds: float

    @property
    def share(self) -> float:
        """Of the time there is."""
        return self.seconds / capacity.interval(self.monitor)


def _load(monitor: MonitorSection, source: Source, end: int, entities: int) -> Load:
    """Measured: the source with what a tick reads of it, all else with synthetic entities. end: epoch milliseconds."""
    cost = capacity.tick_cost(monitor, min(entities, capacity.QUICK))
    slots = Horizon.of(monitor).late + capacity.slots_per_tick(monitor)
    began = time.perf_counter()
    source.read(end - slots * monitor.step_ms, end)
    return Load(monitor, entities, cost.of(entities, time.perf_counter() - began))


def too_much(loads: Sequence[Load]) -> ConfigError | None:
    """What to change if this machine cannot keep up with one monitor, or with all of them."""
    lines = []
    for load in loads:
        if load.share > 1.0:
            every, monitor = capacity.interval(load.monitor), load.monitor
            smaller = "" if monitor.model.kind == "baseline" else ", lower model.units or timesteps"
            lines.append(
                f"monitor {monitor.name!r}: {load.entities:,} entities take about {_seconds(load.seconds)} a tick on"
                f" this machine, but a tick comes every {every:g} s; raise step to {_round_up(load.seconds)} s or"
                f" more{smaller}, or watch fewer entities"
            )
    total = sum(load.share for load in loads)
    if total > 1.0 and not lines:
        shares = ", ".join(f"{load.monitor.name} {load.share:.0%}" for load in loads)
        lines.append(
            f"monitors: ticks take about {total:.0%} of the time there is on this machine ({shares}); raise step or"
            " score_every, or lower model.units, of the largest"
        )
    return ConfigError("\n".join(lines)) if lines else None


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 1.0 else f"{seconds:.1f} s" if seconds < 10.0 else f"{seconds:,.0f} s"


def _round_up(seconds: float) -> int:
    """With the head-room a fleet should have, and two digits."""
    needed = seconds / (1.0 - capacity.HEADROOM)
    unit: int = 10 ** max(0, math.floor(math.log10(needed)) - 1)
    return math.ceil(needed / unit) * unit


def _plan(monitor: MonitorSection, engine: Any, extent: tuple[int, int], age: float, *, has_schema: bool) -> str:
    live = wiring.live_model(engine, monitor) if has_schema else None
    if live is not None:
        stale = age > (monitor.delay + 5 * monitor.step).total_seconds()
        unknown = "; entities would be unknown (stale_data): the newest sample is old" if stale else ""
        return f"would score with model version {live[0].version}{unknown}"
    have, needed = (extent[1] - extent[0]) // monitor.step_ms + 1, Plan.of(monitor).needed_slots
    if have < needed:
        return f"would warm up: {have} of {needed} slots of history so far"
    return "would not train (retrain = off)" if monitor.retrain == "off" else "would train a model at once, then score"
