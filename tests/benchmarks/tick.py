"""Seconds of a tick by stage and size of the fleet: read, grid, windows, network, decide, commit, export.

    python tests/benchmarks/tick.py --entities 1000 10000 --out tick.json
    python tests/benchmarks/tick.py --databases postgresql+psycopg://user@localhost/bench

Rows and the detector's own tables lie in one database, whose tables are dropped before: one wide row for each entity
and minute, eight metrics. A network of 64 units with random weights reads windows of 60 slots. Each run is a process of
its own that recalls its memory, ticks once to warm up, then `--ticks` times; medians are told. Without `--databases`, a
new SQLite file. Prints JSON, progress goes to stderr.

Only the rows of one window are there before the first tick, so `recall_seconds` is what a young fleet takes to start;
with all that scores look back on, each entity has 130 windows more to score.
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
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from prometheus_client import generate_latest
from sqlalchemy import Engine, MetaData

from detector import config, database, pipeline, reading, wiring
from detector.core import decide, score
from detector.core.scaling import Scaling
from detector.core.series import Float32
from detector.core.threshold import Calibration
from detector.export.prometheus import Exporter, MonitorView
from detector.models.artifact import NetworkSpec
from detector.models.lstm import NumpyAutoencoder, weight_shapes
from detector.ports import ModelVersion
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


def fill(engine: Engine, entities: int, slots: int) -> None:
    """The table of measured values, made anew by the database itself; no table of the detector is left."""
    existing = MetaData()
    existing.reflect(engine)
    existing.drop_all(engine)
    dialect = engine.dialect.name
    columns = ", ".join(f"{name} double precision" for name in NAMES)
    values = ", ".join([RANDOM[dialect]] * METRICS)
    rows = FILL[dialect].format(slots=slots, entities=entities, begin=BEGIN, step=STEP, values=values)
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

    spans = len(score.SPANS)
    return ModelVersion(
        version=1,
        kind="network",
        timesteps=TIMESTEPS,
        trained_from=BEGIN,
        trained_until=until,
        network=NumpyAutoencoder(spec, weights),
        entities=tuple(f"host-{n:06d}" for n in range(entities)),
        scaling=Scaling(0.5 * ones(entities, METRICS), ones(entities, METRICS), ones(METRICS)),
        noise=ones(entities, METRICS),
        fleet_noise=ones(METRICS),
        calibration=Calibration(ones(entities, spans), ones(entities, spans), ones(spans), ones(spans), 10.0),
    )


def run(url: str, entities: int, ticks: int) -> dict[str, Any]:
    """One fleet on one database, in this process."""
    parts, clock = settings(url), Clock()
    monitor = parts.monitors[0]
    engine = database.connect(url)
    told(f"{engine.dialect.name}, {entities} entities: filling")
    fill(engine, entities, TIMESTEPS + ticks + 1)
    schema.upgrade(engine)
    source, store = wiring.source(parts, monitor, engine), StateStore(engine)
    fleet = model(entities, BEGIN + TIMESTEPS * STEP)
    delay = config.milliseconds(monitor.delay)

    began = time.perf_counter()
    memory = pipeline.recall(monitor, source, store, fleet, BEGIN + TIMESTEPS * STEP + delay)
    recalled = time.perf_counter() - began
    exporter = Exporter(10_000)
    exporter.show(MonitorView(monitor.name, monitor.metrics, STEP, 1.0))
    told(f"recalled in {recalled:.1f} s")
    walls, cpus, stages, rows = [], [], [], 0
    with ExitStack() as stack:
        for stage, target, name in (
            ("read", source, "read"),
            ("grid", reading, "gridded"),
            ("network", fleet.network, "residuals"),
            ("windows", pipeline, "_errors"),
            ("score", pipeline, "_by_span"),
            ("decide", decide, "decide"),
            ("commit", store, "commit"),
        ):
            stack.enter_context(patch.object(target, name, clock.timed(stage, getattr(target, name))))
        for n in range(1, ticks + 2):
            clock.seconds.clear()
            began, began_cpu = time.perf_counter(), time.process_time()
            memory, report = pipeline.tick(monitor, source, store, memory, BEGIN + (TIMESTEPS + n) * STEP + delay)
            seen = report.snapshot
            shown = {name: getattr(seen, name) for name in ("entities", "score", "reason", "states", "share")}
            exporter.update(monitor.name, **shown)
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
        "database": engine.dialect.name,
        "entities": entities,
        "tick_seconds": round(tick_seconds, 3),
        "cpu_seconds": round(statistics.median(cpus[1:]), 3),
        "recall_seconds": round(recalled, 1),
        "values_per_second": round(rows / tick_seconds),
        "stages": {name: round(statistics.median(one[name] for one in stages[1:]), 3) for name in stages[0]},
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def measured(asked: Namespace) -> dict[str, Any]:
    """All runs, each in a process of its own."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for url in asked.databases or [f"sqlite:///{folder}/bench.db"]:
            for entities in asked.entities:
                command = [sys.executable, __file__, "--one", url, "--entities", str(entities)]
                done = subprocess.run([*command, "--ticks", str(asked.ticks)], stdout=subprocess.PIPE, check=True)
                runs.append(json.loads(done.stdout))
    return {"runs": runs}


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--databases", nargs="+", metavar="URL")
    parser.add_argument("--entities", nargs="+", type=int, default=(1_000, 10_000))
    parser.add_argument("--ticks", type=int, default=3)
    parser.add_argument("--one", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found = run(asked.one, asked.entities[0], asked.ticks) if asked.one else measured(asked)
    result = json.dumps(found, indent=1)
    if asked.out:
        asked.out.write_text(result)
    print(result)


if __name__ == "__main__":
    main()
