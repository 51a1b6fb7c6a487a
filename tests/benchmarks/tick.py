"""Seconds of a tick by stage and size of the fleet: read, grid, windows, network, score, decide, commit, export.

    python tests/benchmarks/tick.py --entities 1000 10000 125000 --out tick.json
    python tests/benchmarks/tick.py --databases sqlite postgresql
    python tests/benchmarks/tick.py --parts start catch-up fleet

Rows and the detector's own tables lie in one database: a new SQLite file, the PostgreSQL server the tests would use, or
one named by its URL, whose tables are dropped before. One wide row for each entity and minute, eight metrics, found by
an index over the time. A network of 64 units with random weights reads windows of 60 slots; `lateness` is five minutes,
so that a tick reads six slots. Each run is a process of its own, seconds are wall-clock and CPU of that process.

Parts: `tick` recalls a memory of which only one window was recorded, ticks once to warm up, then `--ticks` times;
medians are told. `start` recalls a memory of which everything was recorded. `catch-up` is the tick after an hour of
downtime. `fleet` moves what is remembered on by one slot: as usual, and while ten thousand entities join or leave.
Prints JSON, progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import conftest
import numpy as np
from prometheus_client import generate_latest
from sqlalchemy import Engine, MetaData

from detector import database, wiring
from detector.config import sections as config
from detector.core import decide, score
from detector.core.deviation import Usual
from detector.core.news import STREAMS, Experience, Habits
from detector.core.peaks import Tails
from detector.core.rhythm import Jobs
from detector.core.scaling import Scaling
from detector.core.series import Float32
from detector.core.shape import CENTRES, STATISTICS, Shapes
from detector.core.threshold import Calibration
from detector.detect import history, residuals, return_periods, scores
from detector.detect import tick as ticks
from detector.detect.horizon import Horizon
from detector.detect.memory import Memory, extend, gridded, members
from detector.detect.recall import recall, stored_state
from detector.export.prometheus import Exporter, MonitorView
from detector.models.artifact import NetworkSpec
from detector.models.inference import Autoencoder, weight_shapes
from detector.ports import Artifact, ModelVersion
from detector.store import schema
from detector.store.state import StateStore

STEP = 60_000
BEGIN = 1_767_225_600_000
TIMESTEPS, METRICS, UNITS = 60, 8, 64
NAMES = tuple(f"m{n}" for n in range(METRICS))
FILL = {
    "sqlite": """
        WITH RECURSIVE slot(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM slot WHERE n < {slots} - 1),
                       host(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM host WHERE n < {entities} - 1)
        INSERT INTO measured SELECT {begin} + {step} * slot.n, printf('host-%06d', host.n), {values} FROM slot, host""",
    "postgresql": """
        INSERT INTO measured SELECT {begin} + {step} * slot, 'host-' || lpad(host::text, 6, '0'), {values}
        FROM generate_series(0::bigint, {slots} - 1) slot, generate_series(0, {entities} - 1) host""",
}
RANDOM = {"sqlite": "random() / 9.3e18", "postgresql": "random()"}
DOWNTIME = 60  # slots
OPEN_ENDED = 3650  # days that may be caught up


class Clock:
    """Seconds spent in some functions of a tick; those inside of others count for both."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose time is added up."""

        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

        return run


def told(what: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%T')} {what}", file=sys.stderr, flush=True)


def settings(url: str) -> config.Config:
    """A monitor over the table."""
    source = {"type": "sql", "url": url, "table": "measured", "entity": ["host"], "time": "ts", "timeout": "10m"}
    monitor = {
        "name": "fleet",
        "metrics": list(NAMES),
        "timesteps": TIMESTEPS,
        "max_catch_up": f"{OPEN_ENDED}d",
        "source": source | {"time_format": "epoch_milliseconds"},
    }
    return config.Config.model_validate({"database": {"url": url}, "monitors": [monitor]})


def fill(engine: Engine, entities: int, slots: int, begin: int = BEGIN) -> None:
    """The table of measured values, made anew by the database itself; no table of the detector is left."""
    existing = MetaData()
    existing.reflect(engine)
    existing.drop_all(engine)
    dialect = engine.dialect.name
    columns = ", ".join(f"{name} double precision" for name in NAMES)
    values = ", ".join([RANDOM[dialect]] * METRICS)
    rows = FILL[dialect].format(slots=slots, entities=entities, begin=begin, step=STEP, values=values)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE measured (ts bigint, host text, {columns})")
        connection.exec_driver_sql(rows)
        connection.exec_driver_sql("CREATE INDEX measured_ts ON measured (ts)")
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("ANALYZE")


def model(entities: int, until: int) -> ModelVersion:
    """A network with random weights that knows every entity."""
    spec, rng = NetworkSpec(TIMESTEPS, METRICS, units=UNITS), np.random.default_rng(0)
    weights = {name: rng.normal(0.0, 0.1, shape).astype(np.float32) for name, shape in weight_shapes(spec).items()}

    def ones(*shape: int) -> Float32:
        return np.ones(shape, dtype=np.float32)

    spans, tail, width = len(score.SPANS), ones(entities, len(STREAMS)), STATISTICS * METRICS
    habits = Habits(
        Usual(0.5 * ones(entities, METRICS), ones(entities, METRICS), 0.0 * ones(entities, 48, METRICS)),
        Shapes(0.0 * ones(entities, CENTRES, width), ones(entities, width)),
        Jobs.none(entities),
        Tails(10.0 * tail, tail, 10.0 * tail[0], tail[0]),
    )
    experience = Experience.normal(habits, entities, metrics=METRICS, slot=until, step=STEP, weeks=1.0)
    artifact = Artifact(
        spec=spec,
        weights=weights,
        entities=tuple(f"host-{n:06d}" for n in range(entities)),
        scaling=Scaling(0.5 * ones(entities, METRICS), ones(entities, METRICS), ones(METRICS)),
        noise=ones(entities, METRICS),
        fleet_noise=ones(METRICS),
        calibration=Calibration(ones(entities, spans), ones(entities, spans), ones(spans), ones(spans)),
        habits=habits,
        experience=experience,
        freeze_limits=np.zeros((0, 0), dtype=np.int64),
        provenance={"kind": "network", "trained_from": BEGIN, "trained_until": until},
    )
    return ModelVersion(1, artifact, Autoencoder(spec, weights))


@dataclass
class Fleet:
    """A monitor over a database, and what it remembers."""

    monitor: ticks.Monitor
    engine: Engine
    model: ModelVersion
    memory: Memory
    recalled: float

    def tick(self, slots: int) -> ticks.Report:
        """The tick so many slots after the begin of the first window."""
        now = BEGIN + slots * STEP + self.monitor.horizon.delay
        self.memory, report = ticks.tick(self.monitor, self.memory, now)
        return report


def start(url: str, entities: int, slots: int, history: int = TIMESTEPS) -> Fleet:
    """A fleet of which some slots up to the first tick are recorded, and some more from then on."""
    parts = settings(url)
    section, engine = parts.monitors[0], database.connect(url)
    horizon = Horizon.of(section)
    told(f"{engine.dialect.name}, {entities} entities: filling")
    fill(engine, entities, history + slots, BEGIN + (TIMESTEPS - history) * STEP)
    schema.upgrade(engine)
    monitor = ticks.Monitor(horizon, wiring.source(parts, section, engine), StateStore(engine))
    until = BEGIN + TIMESTEPS * STEP
    fleet = model(entities, until)
    began = time.perf_counter()
    stored = stored_state(horizon, monitor.store, version=fleet.version)
    memory = recall(horizon, monitor.source, fleet, stored=stored, now=until + horizon.delay)
    recalled = time.perf_counter() - began
    told(f"recalled in {recalled:.1f} s")
    return Fleet(monitor, engine, fleet, memory, recalled)


def usual(url: str, entities: int, ticks: int) -> dict[str, Any]:
    """Ticks one after the other."""
    fleet, clock, exporter = start(url, entities, ticks + 1), Clock(), Exporter(10_000)
    exporter.show(MonitorView(fleet.monitor.horizon.monitor, NAMES, STEP, 1.0))
    walls, cpus, stages, rows = [], [], [], 0
    with ExitStack() as stack:
        for stage, target, name in (
            ("read", fleet.monitor.source, "read"),
            ("grid", history, "gridded"),
            ("network", fleet.model.network, "residuals"),
            ("windows", residuals, "errors"),
            ("news", return_periods, "advanced"),
            ("score", scores, "scores_by_mechanism"),
            ("decide", decide, "decide"),
            ("commit", fleet.monitor.store, "commit"),
        ):
            stack.enter_context(patch.object(target, name, clock.timed(stage, getattr(target, name))))
        for n in range(1, ticks + 2):
            clock.seconds.clear()
            began, began_cpu = time.perf_counter(), time.process_time()
            report = fleet.tick(TIMESTEPS + n)
            seen = report.snapshot
            shown = ("entities", "score", "surprise", "reason", "states", "is_silent", "share")
            exporter.update(fleet.monitor.horizon.monitor, **{name: getattr(seen, name) for name in shown})
            walls.append(time.perf_counter() - began)
            cpus.append(time.process_time() - began_cpu)
            clock.timed("export", generate_latest)(exporter.registry)
            clock.seconds["windows"] -= clock.seconds["network"]
            stages.append({"other": walls[-1] - sum(clock.seconds.values()) + clock.seconds["export"]} | clock.seconds)
            assert report.windows == entities
            rows = report.samples
            told(f"tick {walls[-1]:.2f} s { ({name: round(took, 2) for name, took in stages[-1].items()}) }")
    tick_seconds = statistics.median(walls[1:])
    return {
        "tick_seconds": round(tick_seconds, 3),
        "cpu_seconds": round(statistics.median(cpus[1:]), 3),
        "recall_seconds": round(fleet.recalled, 1),
        "values_per_second": round(rows / tick_seconds),
        "stages": {name: round(statistics.median(one[name] for one in stages[1:]), 3) for name in stages[0]},
        "resident_mb": resident_mb(),
    }


def started(url: str, entities: int, _ticks: int) -> dict[str, Any]:
    """A start with everything there that scores look back on."""
    slots = Horizon.of(settings(url).monitors[0]).slots
    fleet = start(url, entities, 1, history=slots)
    return {"start_seconds": round(fleet.recalled, 1), "slots": slots, "resident_mb": resident_mb()}


def caught_up(url: str, entities: int, _ticks: int) -> dict[str, Any]:
    """A tick after an hour without any."""
    fleet = start(url, entities, DOWNTIME)
    began = time.perf_counter()
    report = fleet.tick(TIMESTEPS + DOWNTIME)
    assert report.windows == entities * DOWNTIME
    return {"catch_up_seconds": round(time.perf_counter() - began, 2), "slots": DOWNTIME}


def changing(url: str, entities: int, _ticks: int) -> dict[str, Any]:
    """Ticks as usual, as some entities join and as these leave; what the change itself costs, in seconds."""
    some = min(entities, 10_000)
    fleet = start(url, entities, 3)
    fleet.tick(TIMESTEPS + 1)
    before, names = fleet.memory, fleet.memory.entities
    joined = tuple(f"new-{n:06d}" for n in range(some))
    found: dict[str, Any] = {"changed": some}
    for what, entities_then in (("usual", names), ("joining", (*names, *joined)), ("leaving", names[some:])):
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            after = _moved_on(fleet, entities_then)
            seconds.append(time.perf_counter() - began)
        found[f"{what}_seconds"] = round(statistics.median(seconds), 3)
        if what == "joining":
            before = after
    began = time.perf_counter()
    chosen = members(before, names, ())
    found["choosing_seconds"] = round(time.perf_counter() - began, 3)
    assert chosen == names
    return found


def _moved_on(fleet: Fleet, entities: tuple[str, ...]) -> Memory:
    """The memory of a fleet one slot later with other entities, without scoring."""
    values = np.full((len(entities), 1, METRICS), np.nan, dtype=np.float32)
    horizon, end = fleet.monitor.horizon, fleet.memory.history.end + STEP
    made = gridded(horizon, fleet.memory, entities, values=values, end=end, late=0)
    return extend(horizon, fleet.memory, made, unscored=1).memory


PARTS = {"tick": usual, "start": started, "catch-up": caught_up, "fleet": changing}


def resident_mb() -> int:
    """What this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 2**20)


def one(part: str, url: str, entities: int, ticks: int) -> dict[str, Any]:
    """One part over one database, in this process."""
    found = PARTS[part](url, entities, ticks)
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    database_name = database.parse(url).get_backend_name()
    return {"part": part, "database": database_name, "entities": entities} | found | {"peak_mb": peak}


def measured(asked: Namespace) -> dict[str, Any]:
    """All runs, each in a process of its own."""
    runs = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for name in asked.databases:
            url = {"sqlite": f"sqlite:///{folder}/bench.db"}.get(name, name)
            if name == "postgresql":
                url = stack.enter_context(conftest.postgres_server())
            for part in asked.parts:
                for entities in asked.entities:
                    command = [sys.executable, __file__, "--one", url, "--parts", part, "--entities", str(entities)]
                    done = subprocess.run([*command, "--ticks", str(asked.ticks)], stdout=subprocess.PIPE, check=True)
                    runs.append(json.loads(done.stdout))
    return {"runs": runs}


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--databases", nargs="+", default=["sqlite"], metavar="sqlite|postgresql|URL")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=["tick"])
    parser.add_argument("--entities", nargs="+", type=int, default=(1_000, 10_000))
    parser.add_argument("--ticks", type=int, default=3)
    parser.add_argument("--one", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found = one(asked.parts[0], asked.one, asked.entities[0], asked.ticks) if asked.one else measured(asked)
    result = json.dumps(found, indent=1)
    if asked.out:
        asked.out.write_text(result)
    print(result)


if __name__ == "__main__":
    main()
