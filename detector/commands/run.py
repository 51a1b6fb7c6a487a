"""`detector run`, `detector demo` and `detector score`: the daemon, for good or for one tick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.commands.shared import (
    ConfigOption,
    JsonOption,
    Moment,
    for_each,
    load,
    log_to_stderr,
    now_ms,
    print_rows,
    say,
    time_of,
)
from detector.errors import ConfigError

if TYPE_CHECKING:
    from detector.config.sections import MonitorSection
    from detector.detect.tick import Report
    from detector.wiring import Parts


def run(config: ConfigOption = None) -> None:
    """Runs the daemon: scores every monitor on schedule and serves /metrics until it is stopped."""
    path, settings = load(config)
    from detector.daemon import serve

    serve.serve(path, settings)


def demo(
    once: Annotated[bool, typer.Option("--once", help="End after the table instead of serving /metrics.")] = False,
    as_json: JsonOption = False,
    folder: Annotated[Path, typer.Option(help="Folder for the demo's database and configuration.")] = Path(
        "detector-demo"
    ),
    listen: Annotated[str, typer.Option(help="Address to serve /metrics at.")] = "127.0.0.1:9788",
) -> None:
    """Shows everything in one go: replays a recording of a real machine with five faults and lists the alerts."""
    log_to_stderr("warning")
    from detector.demo import show

    show.run(folder, listen=listen, once=once, as_json=as_json)


def score(
    monitors: Annotated[list[str] | None, typer.Argument(help="Monitors to score [all].", show_default=False)] = None,
    config: ConfigOption = None,
    once: Annotated[bool, typer.Option("--once", hidden=True)] = True,  # what it does anyway
    at: Annotated[
        str | None, typer.Option("--at", help="Score as if it were this time, in this machine's zone [now].")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Runs one tick per monitor as the daemon would: scores and commits everything since the cursor.

    It sends nothing itself: a running daemon notifies of the alerts that it opens.
    """
    del once
    _, settings = load(config)
    clock = now_ms()
    now = clock if at is None else time_of("--at", at)
    if now > clock:
        msg = f"--at must not be later than now, {Moment(clock)}: the slots after it have no data yet. Received: {at}"
        raise ConfigError(msg)
    names = monitors or [monitor.name for monitor in settings.monitors]
    from detector import wiring
    from detector.core.rejects import in_words

    parts = wiring.assemble(settings)
    rows: list[dict[str, Any]] = []

    def tick(section: MonitorSection) -> None:
        report = _ticked(parts, section, now, is_present=at is None)
        rows.extend(_rows(section.name, report))
        for reject in report.rejects:
            say(f"monitor {section.name}: {in_words(reject)}", to_stderr=True)

    def end() -> None:
        print_rows(rows, as_json=as_json, empty="no entity has data in the newest window; see: detector check")

    for_each([settings.monitor(name) for name in names], tick, then=end)


def _ticked(parts: Parts, section: MonitorSection, now: int, *, is_present: bool) -> Report:
    """Report of one tick as the daemon makes it; now: epoch milliseconds.

    is_present: the time is the clock's, which a cursor can be ahead of only by mistake
    """
    from detector.detect import memory, tick
    from detector.detect.horizon import Horizon
    from detector.detect.recall import recall, stored_state
    from detector.detect.rewind import rewound

    horizon, source, store = Horizon.of(section), parts.sources[section.name], parts.store
    model = parts.versions[section.name].live()
    if model is None:
        if not horizon.metric_rules.has_range:
            return tick.observe(horizon, source, now)
        model = memory.no_model(horizon, now)  # values that are never valid need no model
    if is_present:
        rewound(horizon, store, now)
    remembered = recall(horizon, source, model, stored=stored_state(horizon, store, version=model.version), now=now)
    _, report = tick.tick(tick.Monitor(horizon, source, store, parts.config.notified(section.name)), remembered, now)
    return report


def _rows(monitor: str, report: Report) -> list[dict[str, Any]]:
    """The newest slot of each entity."""
    from detector.core.series import Reason

    snapshot = report.snapshot
    entities = zip(
        snapshot.entities,
        snapshot.score.tolist(),
        snapshot.reason.tolist(),
        snapshot.states.is_open.tolist(),
        strict=True,
    )
    return [
        {
            "monitor": monitor,
            "entity": entity,
            "score": None if reason else round(float(value), 4),
            "state": f"unknown ({Reason(reason).label})" if reason else "anomalous" if value >= 1.0 else "normal",
            "alert": bool(is_open),
            "slot_end": None if report.cursor is None else Moment(report.cursor),
        }
        for entity, value, reason, is_open in entities
    ]
