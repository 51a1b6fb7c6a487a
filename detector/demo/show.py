"""`detector demo`: the daemon's own code over a recording of a real machine, under a fast clock."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from detector import csv_files as importing
from detector import wiring
from detector.config import loading
from detector.config import sections as configuration
from detector.config.sections import Config, MonitorSection
from detector.core import grid
from detector.daemon import serve
from detector.daemon.worker import Worker
from detector.errors import ConfigError, ModelError, SourceError
from detector.export.prometheus import Exporter
from detector.store import alerts
from detector.times import HOUR_MS, utc
from detector.web.server import Endpoint
from detector.wording import amount

_MARK = "# Written by `detector demo`"
_CONFIG = (
    _MARK
    + """, which writes it anew at every run.
[database]
url = "sqlite:///{database}"

[export]
listen = "{listen}"

[[monitors]]
name = "demo"
step = "5s"
delay = "0s"
lateness = "0s"
retrain = "off"
metrics = {metrics}
source = {{ type = "embedded" }}
"""
)
_NORMAL_MS = HOUR_MS
"""The recording's first hour holds no fault; the model is trained on nothing else."""
_RECORDING = "host.csv.gz"
_NOT_ITS_OWN = ("disk_read_bytes_per_second",)
"""Metrics that say nothing of the recorded machine: its disk is shared, and its own files were in memory."""


class Clock:
    """A clock that stands still until it is set, epoch seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Fault:
    """A fault put into the recorded machine; times are epoch milliseconds."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Finding:
    """A fault and the alerts it caused."""

    fault: Fault
    alerts: list[alerts.AlertRow]  # detected during the fault, oldest first

    @property
    def delay(self) -> float | None:
        """Seconds from the fault's start to the first alert, None if there was none."""
        return (self.alerts[0].detected_at - self.fault.start) / 1000 if self.alerts else None

    @property
    def top_metrics(self) -> list[str]:
        """The first three metrics of the first alert."""
        return [metric["metric"] for metric in self.alerts[0].explanation["metrics"][:3]] if self.alerts else []


def run(folder: Path, *, listen: str, once: bool, as_json: bool) -> None:
    """Imports the recording, trains on its normal first hour, replays what follows, prints the alerts; then serves.

    Raises: ConfigError if the folder holds something else; ModelError if the training fails.
    """
    began = time.monotonic()
    say: Callable[[str], None] = (lambda _: None) if as_json else print
    recording = resources.files("detector.demo") / "recording"
    path = _prepare(folder, listen)
    config = loading.load(path)
    monitor = config.monitors[0]
    exporter = Exporter(config.export.max_entities)
    parts, clock = wiring.assemble(config, upgrade=True), Clock()
    worker = serve.worker(parts, path, exporter, clock=clock)
    # before the work, so that a taken port is reported at once
    endpoint = None if once else serve.serving(parts, exporter, worker, lambda: None)
    with resources.as_file(recording / _RECORDING) as file:
        imported = importing.load(file, monitor.metrics, wiring.embedded(monitor, parts.engine))
    if imported.first is None or imported.last is None:
        msg = f"{_RECORDING} holds no samples: the installation is damaged"
        raise SourceError(msg)
    normal_until = grid.floor(imported.first + _NORMAL_MS, monitor.step_ms)
    say(
        f"imported  a recording of a real machine: {imported.rows} slots of 5 s, {len(monitor.metrics)} metrics,"
        f" {_clock(imported.first)} to {_clock(imported.last)} UTC"
    )

    trained = time.monotonic()
    _train(path, monitor, normal_until)
    say(f"trained   on its quiet first hour, in {time.monotonic() - trained:.0f} s")

    replayed = time.monotonic()
    moments = range(normal_until + monitor.step_ms, imported.last + monitor.step_ms + 1, monitor.step_ms)
    _replay(worker, clock, monitor=monitor.name, moments=moments)
    say(f"replayed  the rest, {len(moments)} ticks of the daemon, in {time.monotonic() - replayed:.0f} s\n")

    faults = _faults(json.loads((recording / "faults.json").read_text()))
    raised = _alerts(parts.engine)
    found, echoes, false = compare(faults, raised, monitor)
    seconds = time.monotonic() - began
    result = _result(found, false, echoes=echoes, count=len(raised), seconds=seconds, config=config)
    if as_json:
        print(json.dumps(result, indent=2), flush=True)
    else:
        _show(result, found, false, echoes)
        _say_next(folder, path, normal_until, first_alert=next((f.alerts[0].id for f in found if f.alerts), None))
    if endpoint is not None:
        _serve(endpoint, say)


def _prepare(folder: Path, listen: str) -> Path:
    """Writes an empty database and its configuration into a folder of the demo's own; the configuration's path."""
    path = folder / "config.toml"
    is_ours = path.exists() and path.read_text(encoding="utf-8", errors="replace").startswith(_MARK)
    if folder.exists() and not is_ours and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"{folder} exists and was not made by `detector demo`; choose another with --folder"
        raise ConfigError(msg)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("detector.db*"):
            file.unlink()
        database = (folder / "detector.db").resolve()
        metrics = json.dumps([metric for metric in configuration.HOST_METRICS if metric not in _NOT_ITS_OWN])
        path.write_text(_CONFIG.format(database=database, listen=listen, metrics=metrics), encoding="utf-8")
    except OSError as exc:
        msg = f"{folder} cannot be written: {exc.strerror}; choose another folder with --folder"
        raise ConfigError(msg) from exc
    return path


def _train(path: Path, monitor: MonitorSection, until: int) -> None:
    """Runs `detector retrain` in a process of its own, as the daemon does: TensorFlow stays out of this one."""
    command = [sys.executable, "-m", "detector", "retrain", monitor.name, "--config", str(path), "--to", utc(until)]
    with _spinning("training; TensorFlow takes a few seconds to start"):
        child = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - own command
    if child.returncode != 0:
        words = child.stderr.decode(errors="replace").strip().splitlines()
        raise ModelError(words[-1] if words else f"the training process ended with status {child.returncode}")


@contextmanager
def _spinning(what: str) -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def _replay(worker: Worker, clock: Clock, *, monitor: str, moments: Sequence[int]) -> None:
    """One tick at each moment, epoch milliseconds, as if it were now."""
    # the rest of the recording is in the database already, as rows of a time to come
    logging.getLogger("detector.daemon.rejected_rows").setLevel(logging.ERROR)
    for now in moments:
        clock.now = now / 1000
        worker.run_task("tick", monitor)


def _faults(noted: list[dict[str, str]]) -> list[Fault]:
    return [Fault(f["name"], importing.parse_time(f["start"]), importing.parse_time(f["end"])) for f in noted]


def _alerts(engine: Engine) -> list[alerts.AlertRow]:
    return sorted(alerts.listing(engine), key=lambda alert: alert.detected_at)


def compare(
    faults: Sequence[Fault], raised: Sequence[alerts.AlertRow], monitor: MonitorSection
) -> tuple[list[Finding], list[alerts.AlertRow], list[alerts.AlertRow]]:
    """Each fault with the alerts detected during it, the echoes of faults, and the alerts that belong to none.

    An alert that begins within one window after a fault is its echo, neither a finding nor false: the window still
    holds the fault.
    """
    echo = monitor.timesteps * monitor.step_ms
    found = [Finding(f, [a for a in raised if f.start <= a.detected_at <= f.end]) for f in faults]
    false = [
        a for a in raised if not any(f.start <= a.detected_at and a.episode.opened_slot <= f.end + echo for f in faults)
    ]
    echoes = [a for a in raised if a not in false and not any(a in finding.alerts for finding in found)]
    return found, echoes, false


def _result(
    found: list[Finding],
    false: list[alerts.AlertRow],
    *,
    echoes: list[alerts.AlertRow],
    count: int,
    seconds: float,
    config: Config,
) -> dict[str, Any]:
    return {
        "faults": [
            {
                "name": finding.fault.name,
                "start": utc(finding.fault.start),
                "end": utc(finding.fault.end),
                "found": bool(finding.alerts),
                "delay_seconds": finding.delay,
                "top_metrics": finding.top_metrics,
            }
            for finding in found
        ],
        "alerts": count,
        "false_alerts": len(false),
        "echoes": len(echoes),
        "seconds": round(seconds, 1),
        "database": config.database.url,
    }


def _show(
    result: dict[str, Any], found: list[Finding], false: list[alerts.AlertRow], echoes: list[alerts.AlertRow]
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("fault", "from", "to", "found", "after", "alert", "metrics that stand out", box=box.SIMPLE_HEAD)
    for finding in found:
        delay = "-" if finding.delay is None else f"{finding.delay:.0f} s"
        table.add_row(
            finding.fault.name.replace("_", " "),
            _clock(finding.fault.start),
            _clock(finding.fault.end),
            "yes" if finding.alerts else "no",
            delay,
            ", ".join(str(alert.id) for alert in finding.alerts) or "-",
            ", ".join(finding.top_metrics) or "-",
        )
    for alert in false:
        metrics = ", ".join(metric["metric"] for metric in alert.explanation["metrics"][:3])
        table.add_row("none: false alert", _clock(alert.detected_at), "-", "-", "-", str(alert.id), metrics)
    for alert in echoes:
        metrics = ", ".join(metric["metric"] for metric in alert.explanation["metrics"][:3])
        table.add_row("echo of the one before", _clock(alert.detected_at), "-", "-", "-", str(alert.id), metrics)
    # a pipe has no width; do not fold the table to 80 columns there
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    print(
        f"{sum(bool(f.alerts) for f in found)} of {len(found)} faults found, {amount(len(false), 'false alert')}"
        f"{', ' + amount(len(echoes), 'echo', 'echoes') if echoes else ''}, {result['seconds']:.0f} s in all"
    )


def _say_next(folder: Path, path: Path, start: int, *, first_alert: int | None) -> None:
    program = _called()
    print(f"\nEverything is in {folder}: the database and its config.toml. Look around:")
    print(f"  {program} alerts list --config {path}")
    if first_alert is not None:
        print(f"  {program} alerts show {first_alert} --config {path}")
    print(f"  {program} report --since {utc(start)} --out report.html --config {path}")
    print(f"Watch this very machine: `{program} run`, in the folder of the shipped config.toml.")
    print("Watch your own database: README.md, “From your own PostgreSQL table to the first alert”.")


def _called() -> str:
    """How this program was called, so that the same can be typed again."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{sys.executable} -m detector"
    found = shutil.which(called.name)
    return called.name if found is not None and called.exists() and Path(found).samefile(called) else str(called)


def _serve(endpoint: Endpoint, say: Callable[[str], None]) -> None:
    """Serves the page as after the last tick, until a signal."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    endpoint.start()
    say(f"\nSee it in a browser: {endpoint.url} until Ctrl-C; with --once it ends here.")
    stop.wait()
    endpoint.stop()


def _clock(milliseconds: int) -> str:
    return f"{_moment(milliseconds):%H:%M:%S}"


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
