"""`detector check`: asks every part what the daemon would find, and changes nothing."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from detector import database, wording
from detector.config import loading, values
from detector.config.sections import AlertmanagerNotifier, Config, MonitorSection, WebhookNotifier
from detector.core import grid, rates
from detector.core.series import Samples
from detector.detect import pace, promise
from detector.detect.horizon import Horizon
from detector.detect.tally import Tally
from detector.errors import ConfigError, DetectorError
from detector.models.fitting import has_tensorflow
from detector.operate import cost, newest
from detector.ports import ModelVersion, Notifier, Source
from detector.store import judged, schema
from detector.times import DAY_MS, milliseconds
from detector.train.division import Plan
from detector.wording import printable

_NAMED = 8  # metrics listed by name
_WIDER = 4  # windows in which the usual distance of rows is looked for
_STALE_STEPS = 5  # steps after which, beyond `delay`, a newest sample counts as old


@dataclass(frozen=True)
class Parts:
    """The parts of the daemon that a check asks."""

    engine: Engine  # of the detector's own database
    source: Callable[[MonitorSection], Source]
    live: Callable[[MonitorSection], ModelVersion | None]
    notifier: Callable[[AlertmanagerNotifier | WebhookNotifier], Notifier]
    names: Callable[[MonitorSection], Sequence[str]] = lambda _monitor: ()  # metrics that the source has
    show: Callable[[int], str] = lambda at: f"{datetime.fromtimestamp(at / 1000, UTC):%F %T} UTC"  # epoch milliseconds


def check(config: Config, parts: Parts, now: int) -> tuple[list[dict[str, Any]], ConfigError | None]:
    """One row for the database and one per monitor and notifier; a row has a `problem` where the daemon would fail.

    The error is that of a configuration which is valid, but more than this machine can carry.
    now: epoch milliseconds
    """
    first: dict[str, Any] = {"database": database.redacted(parts.engine.url), "schema": None}
    try:
        found = schema.current(parts.engine)
        first["schema"] = found or _to_create(parts.engine)
        if found is not None:
            schema.check(parts.engine)
    except DetectorError as exc:
        return [first | {"problem": str(exc)}], None
    rows, loads = [first], []
    for monitor in config.monitors:
        row, load = _monitor(monitor, parts, now, has_schema=found is not None)
        rows.append(row)
        loads += [] if load is None else [load]
    rows += [_notifier(section, parts, config) for section in config.notifiers]
    return rows, too_much(loads)


def _to_create(engine: Engine) -> str:
    if database.missing_file(engine.url) is not None:
        return "no such file; the daemon will create it and its tables"
    return "empty; the daemon will create its tables"


def _notifier(section: AlertmanagerNotifier | WebhookNotifier, parts: Parts, config: Config) -> dict[str, Any]:
    row = {"notifier": section.name, "type": section.type}
    try:
        row["url"] = parts.notifier(section).check()
    except DetectorError as exc:
        return row | {"problem": str(exc)}
    monitors = section.monitors or [monitor.name for monitor in config.monitors]
    return row | {"daemon": f"would notify it of the alerts of {', '.join(monitors)}"}


def _monitor(
    monitor: MonitorSection, parts: Parts, now: int, *, has_schema: bool
) -> tuple[dict[str, Any], Load | None]:
    """The row of a monitor, and the load of its ticks if its source has samples."""
    if not has_schema and monitor.source.type in {"host", "embedded"}:
        will = "record and " if monitor.source.type == "host" else "wait for `detector import` and "
        plan = {"daemon": f"would {will}train after {Plan.of(monitor).needed_slots} slots"}
        return _configured(monitor, now) | plan, None
    try:
        source = Tally(parts.source(monitor))
        extent = source.extent(now)
        if extent is None:
            waits = {"newest_sample": None, "daemon": "would wait: the source has no samples"}
            other = newest.other_names(monitor.metrics, _names(monitor, parts))
            lines = source.lines(now)
            wrong = other or ("none of its rows can be used; see rejects" if lines else None)
            waits |= {"problem": wrong} if wrong else {}
            return _configured(monitor, now) | waits | _rejects(lines), None
        row, load = _measured(monitor, source, extent, now=now, parts=parts)
        row |= _opened(monitor)
        live = parts.live(monitor) if has_schema else None
        row |= _promise(monitor, live) if live is not None else {}
        row |= _on_record(monitor, parts, now) if has_schema else {}
    except DetectorError as exc:
        return {"monitor": monitor.name, "problem": str(exc)}, None
    except Exception as exc:  # noqa: BLE001 - whatever one monitor has, the others are still checked
        words = database.without_passwords(" ".join(str(exc).split()))[:300]
        return {"monitor": monitor.name, "problem": f"unexpected {type(exc).__name__}: {words}"}, None
    plan = {"daemon": _plan(monitor, live, extent, now=now)}
    return _configured(monitor, now) | row | plan | _rejects(source.lines(now)), load


def _opened(monitor: MonitorSection) -> dict[str, Any]:
    """How the source is opened, where that needs a word."""
    url = loading.secret(monitor.source) if monitor.source.type == "sql" else ""
    if not url or not database.is_read_as_immutable(url):
        return {}
    return {"opened": "as a file that nobody changes: it is in WAL mode, and its folder is closed to this user"}


def _promise(monitor: MonitorSection, live: ModelVersion) -> dict[str, Any]:
    """What the live version cannot promise, if anything."""
    if promise.is_of_an_earlier_program(live):
        told = (
            f"of an earlier version: alerts by its errors alone; for all of them run: detector retrain {monitor.name}"
        )
        return {"model": told}
    short = promise.shortfall(live)
    return {} if short is None else {"budget": short}


def _on_record(monitor: MonitorSection, parts: Parts, now: int) -> dict[str, Any]:
    """What the record of judged slots takes, if there is one. now: epoch milliseconds"""
    size = judged.size(parts.engine, monitor.name, now - DAY_MS)
    if not size.entities:
        return {}
    each = size.bytes // size.entities
    return {"judged": f"{_of_entities(size.ranges, 'range', size.entities)} in a day, about {each} bytes an entity"}


def _of_entities(number: int, what: str, entities: int) -> str:
    return f"{wording.amount(number, what)} of {wording.amount(entities, 'entity')}"


def _rejects(lines: Sequence[str]) -> dict[str, Any]:
    """A row's lines about rows of the source that cannot be read, if there are any."""
    return {"rejects": list(lines)} if lines else {}


def _configured(monitor: MonitorSection, now: int) -> dict[str, Any]:
    """The settings of a monitor, and its next trainings. now: epoch milliseconds"""
    named = ", ".join(monitor.metrics[:_NAMED])
    return {
        "monitor": monitor.name,
        "source": monitor.source.type,
        "metrics": f"{len(monitor.metrics)}: {named}{', …' if len(monitor.metrics) > _NAMED else ''}",
        "schedule": f"a tick every {monitor.score_interval.total_seconds():g} s, window"
        f" {monitor.timesteps} × {monitor.step.total_seconds():g} s, retrain {monitor.retrain}",
        "next_retrain": next_runs(monitor.retrain, now, monitor.schedule_zone),
    }


def next_runs(cron: str, now: int, zone: str = "UTC") -> str | list[str]:
    """The next two times of a schedule, with weekday and zone; or "off", or "never". now: epoch milliseconds"""
    if cron == "off":
        return "off"
    times = values.next_firings(cron, now, 2, zone)
    return [f"{datetime.fromtimestamp(at / 1000, ZoneInfo(zone)):%a %F %H:%M} {zone}" for at in times] or "never"


def _measured(
    monitor: MonitorSection, source: Source, extent: tuple[int, int], *, now: int, parts: Parts
) -> tuple[dict[str, Any], Load | None]:
    """The source's samples, and the load of a tick over them; None if there are none. now: epoch milliseconds"""
    oldest, last = extent
    end = grid.floor(last, monitor.step_ms) + monitor.step_ms
    span = monitor.timesteps * monitor.step_ms
    recent = source.read(end - span, end)
    age = wording.duration(abs(now - last))
    when = f"{age} ago" if last <= now else f"{age} in the future: is `time_zone` right?"
    row: dict[str, Any] = {
        "newest_sample": f"{parts.show(last)}, {when}",
        "oldest_sample": parts.show(oldest),
        "newest_window": _of_entities(len(recent), "sample", len(recent.entities)),
    }
    wider = recent if len(recent) == 0 else source.read(end - _WIDER * span, end)
    wrong = [
        newest.missing_metrics(monitor, recent, lambda: _names(monitor, parts)),
        pace.too_fine_a_step(Horizon.of(monitor), wider),
    ]
    row |= _counters(monitor, wider)
    row |= {"problem": "; ".join(filter(None, wrong))} if any(wrong) else {}
    if not len(recent) or not recent.entities:
        return row, None
    load = _load(monitor, source, end=end, entities=len(recent.entities))
    row["capacity"] = f"a tick takes about {_seconds(load.seconds)} of {cost.interval(monitor):g} s on this machine"
    return row, load


def _counters(monitor: MonitorSection, wider: Samples) -> dict[str, Any]:
    """The metrics that look like counters and are read as they are, if there are any."""
    found = [monitor.metrics[index] for index in rates.like_counters(wider, len(monitor.metrics))]
    raw = [name for name in found if name not in monitor.rates]
    if not raw or monitor.aggregate in {"count", "sum"}:
        return {}
    written = json.dumps([*monitor.rates, *raw], ensure_ascii=False)
    which = "looks like a counter, which only grows" if len(raw) == 1 else "look like counters, which only grow"
    return {"counters": printable(f"{', '.join(raw)} {which}; to watch rates per second write rates = {written}")}


def _names(monitor: MonitorSection, parts: Parts) -> Sequence[str]:
    """The metrics that the source has; none if it does not say."""
    try:
        return parts.names(monitor)
    except (DetectorError, SQLAlchemyError):
        return ()


@dataclass(frozen=True)
class Load:
    """The expected load of a monitor's ticks."""

    monitor: MonitorSection
    entities: int
    seconds: float

    @property
    def share(self) -> float:
        """Share of the time between two ticks."""
        return self.seconds / cost.interval(self.monitor)


def _load(monitor: MonitorSection, source: Source, *, end: int, entities: int) -> Load:
    """Measured: the source with what a tick reads of it, all else with synthetic entities. end: epoch milliseconds."""
    synthetic = cost.tick_cost(monitor, min(entities, cost.QUICK))
    slots = Horizon.of(monitor).late + cost.slots_per_tick(monitor)
    began = time.perf_counter()
    source.read(end - slots * monitor.step_ms, end)
    return Load(monitor, entities, synthetic.of(entities, time.perf_counter() - began))


def too_much(loads: Sequence[Load]) -> ConfigError | None:
    """The error that says what to change if this machine cannot keep up with one monitor or all of them; or None."""
    lines = []
    for load in loads:
        if load.share > 1.0:
            every, monitor = cost.interval(load.monitor), load.monitor
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
    """Seconds with the head-room a fleet should have, rounded up to two digits."""
    needed = seconds / (1.0 - cost.HEADROOM)
    unit: int = 10 ** max(0, math.floor(math.log10(needed)) - 1)
    return math.ceil(needed / unit) * unit


def _plan(monitor: MonitorSection, live: ModelVersion | None, extent: tuple[int, int], *, now: int) -> str:
    """The daemon's next step."""
    oldest, last = extent
    if live is not None:
        is_stale = now - last > milliseconds(monitor.delay + _STALE_STEPS * monitor.step)
        unknown = "; entities would be unknown (stale_data): the newest sample is old" if is_stale else ""
        return f"would score with model version {live.version}{unknown}"
    have, needed = (min(last, now) - oldest) // monitor.step_ms + 1, Plan.of(monitor).needed_slots
    if have < needed:
        return f"would warm up: {have} of {needed} slots of history so far"
    if monitor.retrain == "off":
        return "would not train (retrain = off)"
    if monitor.model.kind != "baseline" and have >= monitor.minimum_slots and not has_tensorflow():
        return "would wait for a model that is trained elsewhere: this installation has no TensorFlow"
    return "would train a model at once, then score"
