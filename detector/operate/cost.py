"""Costs of a monitor on this machine, measured with the daemon's own code on synthetic entities."""

from __future__ import annotations

import math
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import get_context
from typing import Any

import numpy as np
import psutil
from sqlalchemy import Engine

from detector import database
from detector.config.sections import MonitorSection
from detector.core import frozen, score
from detector.core.deviation import Usual
from detector.core.news import STREAMS, Experience, Habits
from detector.core.peaks import Tails
from detector.core.rejects import Reject
from detector.core.rhythm import Jobs
from detector.core.scaling import Scaling
from detector.core.series import Float32, Samples, Windows
from detector.core.shape import CENTRES, STATISTICS, Shapes
from detector.core.threshold import Calibration
from detector.cores import cores
from detector.detect import tick
from detector.detect.horizon import Horizon
from detector.detect.recall import recall, stored_state
from detector.models import artifact as artifacts
from detector.models import fitting, versions
from detector.models.artifact import BaselineSpec, NetworkSpec
from detector.models.inference import Autoencoder, weight_shapes
from detector.ports import Artifact, ModelVersion, Source
from detector.progress import Progress
from detector.sources.sql import SqlSource, TableSpec
from detector.store import models as model_store
from detector.store import schema
from detector.store.state import StateStore
from detector.times import milliseconds

HEADROOM = 0.5
"""Share of the time between two ticks, and of the memory, that a fleet may not need."""

QUICK = 2_000
"""Entities that `detector check` measures with at most: about a second."""

_BEGIN = 1_767_225_600_000  # epoch ms; any time would do
_TICKS = 3  # measured, after one that warms up
_LEAST_PER_CORE = 8  # entities measured with: one for each core would take as long as one in all
# what one entity may cost before fewer entities are measured with
_CELLS_PER_ENTITY = 500  # values of the synthetic table
_FLOPS_PER_ENTITY = 10_000_000  # operations of a tick
_PEAK_SIZE = 4096  # rows and columns of the matrices multiplied
_WINDOWS = 8192  # scored at a time
_TRAINED_WINDOWS = 4096
_EPOCHS = 3  # the first makes the graph and is not counted
_TRAINING_OVER_SCORING = 6  # forwards and backwards through whole windows, instead of to their newest slot
_DAY = 86_400.0
_SCORING_FLOPS = 4e10
_TRAINING_FLOPS = 4e11
_HALF_TRAINING = 10.0  # seconds after which the bar has gone half of the way to the end of training
_PHASES = 168  # of a baseline: hours of the week
_UNREACHED = 10.0  # logarithm of a peak that random values do not come near


@dataclass(frozen=True)
class TickCost:
    """Medians of some ticks; `of` estimates other fleets."""

    entities: int
    seconds: float
    cpu_seconds: float
    read_seconds: float  # the part of `seconds` that the source takes
    least_seconds: float  # a tick with a single entity, without reading
    bytes_per_entity: int  # of memory, at most
    model_bytes: int

    def of(self, entities: int, read_seconds: float | None = None) -> float:
        """Seconds of a tick with another number of entities; read_seconds: of its reading, if it was measured."""
        own = (self.seconds - self.read_seconds - self.least_seconds) / max(1, self.entities - 1)
        read = self.read_seconds * entities / self.entities if read_seconds is None else read_seconds
        return self.least_seconds + max(0.0, own) * (entities - 1) + read

    def fleet(self, seconds: float) -> int:
        """The largest number of entities that a tick scores in a time."""
        each = (self.of(self.entities) - self.of(1)) / max(1, self.entities - 1)
        return max(0, int((seconds - self.of(0)) / max(each, 1e-9)))


@dataclass
class _Timed:
    """A source that adds up the seconds its reads take."""

    source: Source
    seconds: float = field(default=0.0)

    def read(self, start: int, end: int) -> Samples:
        began = time.perf_counter()
        try:
            return self.source.read(start, end)
        finally:
            self.seconds += time.perf_counter() - began

    def extent(self, now: int) -> tuple[int, int] | None:
        return self.source.extent(now)

    def rejects(self, now: int) -> tuple[Reject, ...]:
        return self.source.rejects(now)


def interval(monitor: MonitorSection) -> float:
    """Seconds between two ticks that have something to score."""
    return max(monitor.step, monitor.score_interval).total_seconds()


def slots_per_tick(monitor: MonitorSection) -> int:
    """New slots of each entity that a tick scores."""
    return max(1, milliseconds(monitor.score_interval) // monitor.step_ms)


def tick_cost(monitor: MonitorSection, most: int, progress: Progress = lambda _done, _what: None) -> TickCost:
    """Cost of ticks over at most `most` synthetic entities in a SQLite file; a large network is measured with fewer."""
    slots = monitor.timesteps + (_TICKS + 1) * slots_per_tick(monitor)
    cells, flops = slots * len(monitor.metrics), slots_per_tick(monitor) * _flops(monitor)
    share = min(1.0, _CELLS_PER_ENTITY / cells, _FLOPS_PER_ENTITY / max(1, flops))
    entities = max(min(most, _LEAST_PER_CORE * cores()), int(most * share))
    with tempfile.TemporaryDirectory(prefix="detector-capacity-") as folder:
        engine = database.connect(f"sqlite:///{folder}/detector.db")
        try:
            schema.upgrade(engine)
            one = _ticks(_Fleet(engine, _synthetic(monitor, "one"), 1), lambda done, what: progress(0.1 * done, what))
            before = psutil.Process().memory_info().rss
            many = _Fleet(engine, _synthetic(monitor, "many"), entities)
            ticks = _ticks(many, lambda done, what: progress(0.1 + 0.9 * done, what))
        finally:
            engine.dispose()
    return TickCost(
        entities=entities,
        seconds=ticks.seconds,
        cpu_seconds=ticks.cpu_seconds,
        read_seconds=ticks.read_seconds,
        least_seconds=one.seconds - one.read_seconds,
        bytes_per_entity=(_peak_memory() - before) // entities,
        model_bytes=ticks.model_bytes,
    )


def _flops(monitor: MonitorSection) -> int:
    """Operations of one window; a baseline's do not count."""
    return 0 if monitor.model.kind == "baseline" else flops_of_newest(_spec(monitor))


def _spec(monitor: MonitorSection) -> NetworkSpec:
    """The network that a monitor has after its whole `training.span`."""
    return fitting.network_spec(monitor, monitor.training.span.total_seconds() / _DAY)


def _synthetic(monitor: MonitorSection, table: str) -> MonitorSection:
    """The same monitor over a wide table of random values, which no rule of its own would alert on."""
    metrics = tuple(f"m{n}" for n in range(len(monitor.metrics)))
    return monitor.model_copy(update={"name": table, "metrics": metrics, "rules": ()})


@dataclass(frozen=True)
class _Fleet:
    """Synthetic entities of a monitor, in a table with the monitor's name."""

    engine: Engine
    monitor: MonitorSection
    entities: int

    @property
    def slots(self) -> int:
        """Slots of the table: a window, and what the ticks score."""
        return self.monitor.timesteps + (_TICKS + 1) * slots_per_tick(self.monitor)

    def source(self) -> SqlSource:
        """The table as a source."""
        table = TableSpec(
            metrics=self.monitor.metrics,
            table=self.monitor.name,
            entity=("entity",),
            time="ts",
            time_format="epoch_milliseconds",
            timeout=timedelta(minutes=10),
        )
        return SqlSource(self.engine, table)


@dataclass(frozen=True)
class _Tick:
    """Cost of a tick."""

    seconds: float
    cpu_seconds: float
    read_seconds: float
    model_bytes: int


def _ticks(fleet: _Fleet, progress: Progress) -> _Tick:
    """Medians of some ticks, after one that warms up."""
    monitor, entities = fleet.monitor, fleet.entities
    step, delay = monitor.step_ms, milliseconds(monitor.delay)
    recalled = _BEGIN + monitor.timesteps * step
    progress(0.0, f"writing samples of {entities} entities")
    _fill(fleet)
    live, model_bytes = _save_model(fleet, until=recalled)
    source, store = _Timed(fleet.source()), StateStore(fleet.engine)
    progress(0.2, f"recalling {entities} entities")
    horizon = Horizon.of(monitor)
    memory = recall(
        horizon, source, live, stored=stored_state(horizon, store, version=live.version), now=recalled + delay
    )
    ticking = tick.Monitor(horizon, source, store)
    took = []
    for n in range(1, _TICKS + 2):
        progress(0.5 + 0.5 * n / (_TICKS + 2), f"a tick with {entities} entities")
        source.seconds = 0.0
        began, began_cpu = time.perf_counter(), time.process_time()
        memory, _ = tick.tick(ticking, memory, recalled + n * slots_per_tick(monitor) * step + delay)
        took.append((time.perf_counter() - began, time.process_time() - began_cpu, source.seconds))
    seconds, cpu_seconds, read_seconds = (statistics.median(column) for column in zip(*took[1:], strict=True))
    return _Tick(seconds, cpu_seconds, read_seconds, model_bytes)


def _fill(fleet: _Fleet) -> None:
    """Makes the fleet's table: a row for each entity and slot, made by the database itself."""
    table, names = fleet.monitor.name, fleet.monitor.metrics
    columns = ", ".join(f"{name} double precision" for name in names)
    values = ", ".join("random() / 9.3e18" for _ in names)
    rows = f"""
        WITH RECURSIVE
            slot(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM slot WHERE n < {fleet.slots} - 1),
            entity(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM entity WHERE n < {fleet.entities} - 1)
        INSERT INTO {table}
        SELECT {_BEGIN} + {fleet.monitor.step_ms} * slot.n, printf('entity-%06d', entity.n), {values}
        FROM slot, entity"""  # noqa: S608 - own names
    with fleet.engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {table} (ts bigint, entity text, {columns})")
        connection.exec_driver_sql(rows)
        connection.exec_driver_sql(f"CREATE INDEX {table}_ts ON {table} (ts)")


def _save_model(fleet: _Fleet, *, until: int) -> tuple[ModelVersion, int]:
    """Makes a model live that knows every entity and finds all of them normal; its size in bytes."""
    monitor, entities = fleet.monitor, fleet.entities
    metrics = len(monitor.metrics)
    spec, weights = _untrained(monitor, entities)
    provenance = {
        "kind": monitor.model.kind,
        "fingerprint": monitor.fingerprint,
        "trained_from": _BEGIN,
        "trained_until": until,
        "created_at": until,
        "detectability": {},
    }
    start = _ones(entities, len(score.SPANS))
    tail = _ones(entities, len(STREAMS))
    habits = Habits(
        Usual(0 * _ones(entities, metrics), _ones(entities, metrics), 0 * _ones(entities, 1, metrics)),
        Shapes(0 * _ones(entities, CENTRES, STATISTICS * metrics), _ones(entities, STATISTICS * metrics)),
        Jobs.none(entities),
        Tails(_UNREACHED * tail, tail, _UNREACHED * tail[0], tail[0]),
    )
    experience = Experience.normal(habits, entities, metrics=metrics, slot=until, step=monitor.step_ms, weeks=1.0)
    artifact = Artifact(
        spec=spec,
        weights=weights,
        entities=tuple(f"entity-{n:06d}" for n in range(entities)),
        scaling=Scaling(_ones(entities, metrics), _ones(entities, metrics), _ones(metrics)),
        noise=_ones(entities, metrics),
        fleet_noise=_ones(metrics),
        calibration=Calibration(start, start, start[0], start[0]),
        habits=habits,
        experience=experience,
        freeze_limits=np.full((entities, metrics), frozen.NEVER, dtype=np.int64),
        provenance=provenance,
    )
    stored = artifacts.dump(artifact)
    number = model_store.save(fleet.engine, monitor=monitor.name, artifact=stored, header=provenance, now=until)
    return versions.load(stored, number), len(stored)


def _untrained(monitor: MonitorSection, entities: int) -> tuple[NetworkSpec | BaselineSpec, dict[str, Float32]]:
    """A model of the monitor's kind, with random weights; a baseline expects zeros."""
    if monitor.model.kind != "baseline":
        spec = _spec(monitor)
        return spec, _weights(spec)
    profile = np.zeros((entities, _PHASES, len(monitor.metrics)), dtype=np.float32)
    weights = {"profile": profile, "fleet_profile": profile[0]}
    return BaselineSpec(len(monitor.metrics), _PHASES, monitor.time_zone), weights


def _weights(spec: NetworkSpec) -> dict[str, Float32]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(0.0, 0.1, shape).astype(np.float32) for name, shape in weight_shapes(spec).items()}


def _ones(*shape: int) -> Float32:
    return np.ones(shape, dtype=np.float32)


def _peak_memory() -> int:
    """Peak memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def matrix_peak() -> float:
    """Multiplications and additions a second in products of large single-precision matrices, on all cores."""
    a, b = np.random.default_rng(0).random((2, _PEAK_SIZE, _PEAK_SIZE), dtype=np.float32)
    out = np.empty_like(a)

    def multiply() -> None:
        np.matmul(a, b, out=out)

    return 2 * _PEAK_SIZE**3 / min(_seconds(multiply) for _ in range(5))


def flops_of_newest(spec: NetworkSpec) -> int:
    """Multiplications and additions in the matrix products of one window's newest slot."""
    products = 0
    for name, shape in weight_shapes(spec).items():
        if not name.endswith("bias"):
            steps = spec.timesteps - 1 if name.startswith("encoder") else 1
            products += steps * math.prod(shape)
    return 2 * products


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def scoring_rate(monitor: MonitorSection) -> float:
    """Windows scored a second on all cores."""
    spec = _spec(monitor)
    count = max(64, min(_WINDOWS, int(_SCORING_FLOPS / flops_of_newest(spec))))
    values = np.random.default_rng(1).normal(size=(count, spec.timesteps, spec.metrics)).astype(np.float32)
    windows = Windows(values, np.zeros(count, dtype=np.int64), np.full(count, _BEGIN))
    network = Autoencoder(spec, _weights(spec))
    network.residuals(windows)  # warms up
    return count / statistics.median(_seconds(lambda: network.residuals(windows)) for _ in range(5))


def training_rate(monitor: MonitorSection, progress: Progress) -> float:
    """Windows a second and epoch in which Keras trains the monitor's network, in a process of its own."""
    began = time.monotonic()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        training = pool.submit(_train, monitor)
        while True:
            try:
                return training.result(timeout=0.5)
            except TimeoutError:
                progress(1.0 - 0.5 ** ((time.monotonic() - began) / _HALF_TRAINING), "training in Keras")


def _train(monitor: MonitorSection) -> float:
    spec = _spec(monitor)
    most = int(_TRAINING_FLOPS / (_EPOCHS * _TRAINING_OVER_SCORING * flops_of_newest(spec)))
    count = max(2, min(_TRAINED_WINDOWS, most))
    settings = {"epochs": _EPOCHS, "patience": _EPOCHS, "batch_size": min(monitor.training.batch_size, count // 2)}
    monitor = monitor.model_copy(update={"training": monitor.training.model_copy(update=settings)})
    values = np.random.default_rng(1).normal(size=(count, spec.timesteps, spec.metrics)).astype(np.float32)
    windows = Windows(values, np.zeros(count, dtype=np.int64), np.full(count, _BEGIN))
    ends: dict[int, float] = {}

    def note(done: float, _what: str) -> None:
        ends.setdefault(int(done * _EPOCHS + 1e-6), time.perf_counter())

    days = monitor.training.span.total_seconds() / _DAY
    fitting.MonitorFit(monitor).network(windows, windows[:1], days=days, seed=0, progress=note)
    return count * (_EPOCHS - 1) / (ends[_EPOCHS] - ends[1])


def card(monitor: MonitorSection, entities: int, progress: Progress) -> dict[str, Any]:
    """Costs of a monitor; each figure is named with its unit."""
    cost = tick_cost(monitor, entities, lambda done, what: progress(0.6 * done, what))
    every, count = interval(monitor), cores()
    by_time = cost.fleet((1.0 - HEADROOM) * every)
    by_memory = int((1.0 - HEADROOM) * psutil.virtual_memory().total / max(1, cost.bytes_per_entity))
    shape = monitor.model
    layers = f" in each of {shape.layers} layers" if shape.layers > 1 else ""
    network = f"{shape.cell}, {shape.units} units{layers}{', bidirectional' * shape.bidirectional}"
    result: dict[str, Any] = {
        "monitor": monitor.name,
        "model": "baseline" if shape.kind == "baseline" else network,
        "window": f"{monitor.timesteps} slots of {len(monitor.metrics)} metrics",
        "cores": count,
        "entities": cost.entities,
        "tick_seconds": cost.seconds,
        "tick_every_seconds": every,
        "cpu_seconds_per_entity_and_day": cost.cpu_seconds / cost.entities * _DAY / every,
        "memory_bytes_per_entity": cost.bytes_per_entity,
        "model_bytes": cost.model_bytes,
        "largest_fleet": int(float(f"{min(by_time, by_memory):.2g}")),
        "largest_fleet_limited_by": "time" if by_time <= by_memory else "memory",
    }
    if monitor.model.kind != "baseline":
        progress(0.6, "scoring")
        peak, rate, flops = matrix_peak(), scoring_rate(monitor), flops_of_newest(_spec(monitor))
        result |= {
            "windows_per_second": rate,
            "windows_per_second_and_core": rate / count,
            "matrix_peak_gflops": peak / 1e9,
            "share_of_matrix_peak": rate * flops / peak,
        }
        trained = training_rate(monitor, lambda done, what: progress(0.7 + 0.3 * done, what))
        result["training_seconds_per_million_windows"] = 1e6 / trained
    progress(1.0, "done")
    return {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in result.items()}
