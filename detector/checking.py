"""`detector check`: asks every part what the daemon would find, and changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from detector import config as configuration
from detector import database, training, wiring
from detector.config import Config, MonitorSection
from detector.core import grid
from detector.errors import DetectorError
from detector.store import schema

_NAMED = 8  # metrics listed by name


def check(config: Config) -> list[dict[str, Any]]:
    """One row for the database and one per monitor; a row has a `problem` where the daemon would fail."""
    engine = database.connect(configuration.secret(config.database))
    rows: list[dict[str, Any]] = [{"database": database.redacted(engine.url), "schema": None}]
    try:
        found = schema.current(engine)
        rows[0]["schema"] = found or "empty; the daemon will create its tables"
        if found is not None:
            schema.check(engine)
    except DetectorError as exc:
        return [rows[0] | {"problem": str(exc)}]
    for monitor in config.monitors:
        try:
            rows.append(_monitor(config, monitor, engine, has_schema=found is not None))
        except DetectorError as exc:
            rows.append({"monitor": monitor.name, "problem": str(exc)})
    return rows


def _monitor(config: Config, monitor: MonitorSection, engine: Any, *, has_schema: bool) -> dict[str, Any]:
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
        return row | {"daemon": f"would {will}train after {training.needed_slots(monitor)} slots"}
    source = wiring.source(config, monitor, engine)
    extent = source.extent()
    if extent is None:
        return row | {"newest_sample": None, "daemon": "would wait: the source has no samples"}
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
    return row | {"daemon": _plan(monitor, engine, extent, age, has_schema=has_schema)}


def _plan(monitor: MonitorSection, engine: Any, extent: tuple[int, int], age: float, *, has_schema: bool) -> str:
    live = wiring.live_model(engine, monitor) if has_schema else None
    if live is not None:
        stale = age > (monitor.delay + 5 * monitor.step).total_seconds()
        unknown = "; entities would be unknown (stale_data): the newest sample is old" if stale else ""
        return f"would score with model version {live[0].version}{unknown}"
    have, needed = (extent[1] - extent[0]) // monitor.step_ms + 1, training.needed_slots(monitor)
    if have < needed:
        return f"would warm up: {have} of {needed} slots of history so far"
    return "would not train (retrain = off)" if monitor.retrain == "off" else "would train a model at once, then score"
