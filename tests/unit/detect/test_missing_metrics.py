"""A metric that falls silent makes its entity unknown, not normal; one that an entity never had does not count."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import made_versions
import numpy as np
import pytest

from detector.config.sections import EmbeddedSource, MonitorSection
from detector.core import window
from detector.core.series import Bool, Float32, Reason
from detector.detect.horizon import Horizon
from detector.detect.recall import recall, stored_state
from detector.detect.tick import Monitor, Report, tick
from detector.sources.memory import MemorySource
from detector.store.memory import MemoryStore

NAN = float("nan")
STEP = 60_000
BEGIN = 1_767_225_600_000
SLOTS = 100
TIMESTEPS = 5
METRICS = ("cpu", "load", "errors")
MONITOR = MonitorSection(
    name="web",
    source=EmbeddedSource(type="embedded"),
    metrics=METRICS,
    timesteps=TIMESTEPS,
    max_missing=0.4,
    delay=timedelta(0),
    lateness=timedelta(0),
)
HORIZON = Horizon.of(MONITOR)


def _values() -> Float32:
    return np.random.default_rng(0).uniform(0.5, 1.5, (2, SLOTS, 3)).astype(np.float32)


def _watch(values: Float32, *, seen: Bool | None = None, every: int = 1) -> tuple[MemoryStore, list[Report]]:
    """Ticks over two hosts; seen: (2, 3) metrics that each had in training [all]."""
    entity, slot = np.nonzero(~np.isnan(values).all(axis=2))
    rows = MemorySource.of(
        ("a", "b"), entity.astype(np.int32), BEGIN + STEP * slot, values[entity, slot].astype(np.float64)
    )
    model = made_versions.by_size(("a", "b"), 3, threshold=11.9, since=BEGIN)
    known = np.ones((2, 3), dtype=np.bool_) if seen is None else seen
    model = replace(model, artifact=replace(model.artifact, seen=known))
    store, reports = MemoryStore(), []
    memory = recall(HORIZON, rows, model, stored=stored_state(HORIZON, store, version=model.version), now=BEGIN)
    for end in range(every, SLOTS + 1, every):
        now = BEGIN + STEP * end
        memory, report = tick(Monitor(HORIZON, rows.between(0, now), store), memory, now)
        reports.append(report)
    return store, reports


@pytest.mark.parametrize("every", [1, 10])
def test_an_entity_whose_metric_fell_silent_is_unknown_after_a_window(every: int) -> None:
    values = _values()
    values[0, 50:, 1] = NAN

    store, reports = _watch(values, every=every)

    known = {(entity, (slot - BEGIN) // STEP) for _, entity, slot, _, _ in store.scores()}
    assert known == {("a", slot) for slot in range(54)} | {("b", slot) for slot in range(SLOTS)}
    assert [Reason(reason).label for reason in reports[-1].snapshot.reason] == ["no_metric", "known"]
    missing = reports[-1].snapshot.missing
    assert missing is not None
    assert missing.tolist() == [0.0, 0.5, 0.0]


def test_what_is_left_may_still_be_anomalous() -> None:
    values = _values()
    values[0, 50:, 1] = NAN
    values[0, 80:90, 0] = 3000.0

    store, reports = _watch(values)

    (alert,) = store.alerts()
    assert (alert.entity, (alert.episode.opened_slot - BEGIN) // STEP) == ("a", 80)
    assert np.isnan(reports[-1].snapshot.score[0])


def test_a_metric_that_an_entity_never_had_is_left_out() -> None:
    values = _values()
    values[0, :, 1:] = NAN  # two of three: more than may be missing of a window

    store, reports = _watch(values, seen=np.array([[True, False, False], [True, True, True]]))

    assert {entity for _, entity, _, _, _ in store.scores()} == {"a", "b"}
    assert reports[-1].snapshot.reason.tolist() == [Reason.KNOWN, Reason.KNOWN]


def test_a_metric_that_comes_back_makes_its_entity_known_at_once() -> None:
    values = _values()
    values[0, 50:70, 1] = NAN

    store, _ = _watch(values)

    slots = sorted((slot - BEGIN) // STEP for _, entity, slot, _, _ in store.scores() if entity == "a")
    assert slots == [*range(54), *range(70, SLOTS)]


def test_a_metric_is_lost_after_as_many_slots_without_it_while_others_are_there() -> None:
    values = np.zeros((1, 6, 2), dtype=np.float32)
    values[0, 2:, 0] = NAN
    values[0, 5] = NAN  # nothing at all: no data, not a lost metric

    found = window.lost(values, np.array([[True, True]]), 2)

    assert found[0, :, 0].tolist() == [False, False, False, True, True, False]
    assert not found[0, :, 1].any()
    assert not window.lost(values, np.array([[False, True]]), 2).any()
