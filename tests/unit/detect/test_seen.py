"""Slots without rows, and entities that are gone: the same however the process ran."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import made_versions
import numpy as np
import pytest

from detector.config.sections import EmbeddedSource, MonitorSection
from detector.detect.horizon import Horizon
from detector.detect.memory import Snapshot
from detector.detect.recall import recall, stored_state
from detector.detect.tick import Monitor, tick
from detector.sources.memory import MemorySource
from detector.store.memory import MemoryStore

pytestmark = pytest.mark.slow

STEP = 60_000
BEGIN = 1_767_225_600_000
FIRST, SLOTS = 20, 420
MONITOR = MonitorSection(
    name="web",
    source=EmbeddedSource(type="embedded"),
    metrics=("cpu", "load"),
    delay=timedelta(0),
    lateness=timedelta(minutes=3),
    timesteps=4,
    forget_after=timedelta(minutes=100),
    fill_limit=timedelta(minutes=10),
)
FILLS: dict[str, dict[str, Any]] = {
    "count": {"aggregate": "count"},
    "sum": {"aggregate": "sum"},
    "last": {"fill": "last"},
    "none": {"no_data_alert_after": timedelta(minutes=5)},
}
NAMES = ("busy", "quiet", "dead", "back", "young")


def _rows(seed: int) -> MemorySource:
    """`quiet` has few rows, `dead` ends at 60, `back` has none from 60 to 300, `young` begins at 150."""
    rng = np.random.default_rng(seed)
    there = rng.random((len(NAMES), SLOTS, 2)) < np.array([0.9, 0.05, 0.5, 0.5, 0.3])[:, None, None]
    there[2, 60:] = there[3, 60:300] = there[4, :150] = False
    entity, slot, metric = np.nonzero(there)
    values = rng.choice([1.0, 1.0, 2.0, 400.0], size=len(entity))
    times = BEGIN + STEP * slot + rng.integers(0, STEP, len(slot))
    return _source(entity, times, values, metric)


def _source(entity: Any, times: Any, values: Any, metric: Any) -> MemorySource:
    wide = np.full((len(entity), 2), np.nan)
    wide[np.arange(len(entity)), metric] = values
    return MemorySource.of(NAMES, entity.astype(np.int32), times, wide)


def _watch(section: MonitorSection, rows: MemorySource, ticks: list[int], *, restarts: bool) -> tuple[Any, Snapshot]:
    horizon, store = Horizon.of(section), MemoryStore()
    model = made_versions.by_size(NAMES[:4], 2, threshold=11.9, since=BEGIN + FIRST * STEP, timesteps=4)
    memory = None
    for slot in ticks:
        now = BEGIN + slot * STEP
        known = rows.between(0, now)
        if memory is None or restarts:
            stored = stored_state(horizon, store, version=model.version)
            memory = recall(horizon, known, model, stored=stored, now=now)
        memory, report = tick(Monitor(horizon, known, store), memory, now)
    alerts = [(a.entity, a.episode.opened_slot, a.episode.closed_slot, str(a.closed_by)) for a in store.alerts()]
    judged = store.judged_since("web", 0)
    ranges = zip(judged.entity, judged.start, judged.reason, strict=True)
    scores = [(entity, slot, round(score, 4)) for _, entity, slot, score, _ in store.scores()]
    return (sorted(alerts), scores, sorted(ranges)), report.snapshot


EVERY = list(range(FIRST + 1, SLOTS + 1))


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(("seed", "minutes"), [(0, 100), (1, 200)])  # less and more than memory looks back on
def test_what_is_filled_and_who_is_gone_does_not_depend_on_what_the_process_did(
    fill: str, seed: int, minutes: int
) -> None:
    settings = FILLS[fill] | {"forget_after": timedelta(minutes=minutes)}
    section, rows = MonitorSection.model_validate(MONITOR.model_dump() | settings), _rows(seed)
    undisturbed, _ = _watch(section, rows, EVERY, restarts=False)

    assert undisturbed[1]
    for ticks, restarts in (([SLOTS], False), ([*EVERY[9::13], SLOTS], True), (EVERY[4::7], False)):
        found, _ = _watch(section, rows, ticks if ticks[-1] == SLOTS else [*ticks, SLOTS], restarts=restarts)
        for one, other in zip(found, undisturbed, strict=True):
            assert one == other


def _events(last: int) -> MemorySource:
    """Three events of `busy` in every slot, of `quiet` up to a slot."""
    slots = {0: range(SLOTS), 1: range(last)}
    places = [(entity, slot, k) for entity, there in slots.items() for slot in there for k in range(3)]
    entity, slot, k = np.array(places).T
    return _source(entity, BEGIN + STEP * slot + 1000 * k, np.ones(len(entity)), k % 2)


def test_a_stop_of_events_is_a_count_of_zero_until_the_entity_is_gone() -> None:
    section = MonitorSection.model_validate(MONITOR.model_dump() | FILLS["count"])

    (_, scores, ranges), _ = _watch(section, _events(200), EVERY, restarts=False)

    # rows until slot 199; a hundred minutes after it, at 299, it is gone
    judged = [(slot - BEGIN) // STEP for entity, slot, _ in scores if entity == "quiet"]
    assert judged == list(range(FIRST, 299))
    mine = [((slot - BEGIN) // STEP, reason) for entity, slot, reason in ranges if entity == "quiet"]
    horizon = Horizon.of(section)
    assert mine == [(FIRST, "known"), (199 + horizon.values, "no_rows"), (299, "gone")]


@pytest.mark.parametrize("restarts", [False, True])
def test_the_alert_of_an_entity_that_is_gone_closes_and_it_leaves_the_fleet(restarts: bool) -> None:
    section = MonitorSection.model_validate(MONITOR.model_dump() | FILLS["none"])

    (alerts, _, ranges), snapshot = _watch(section, _events(200), EVERY, restarts=restarts)

    # silent for five slots at 204, gone a hundred minutes after slot 199
    assert alerts == [("quiet", BEGIN + 204 * STEP, BEGIN + 299 * STEP, "gone")]
    assert [((slot - BEGIN) // STEP, reason) for entity, slot, reason in ranges if entity == "quiet"] == [
        (FIRST, "known"),
        (200, "no_data"),
        (299, "gone"),
    ]
    assert "quiet" not in snapshot.entities
    assert "busy" in snapshot.entities
