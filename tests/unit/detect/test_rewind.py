"""A cursor that ran ahead of the clock moves back to what was truly scored."""

from __future__ import annotations

from datetime import timedelta

import made_versions
import numpy as np
import pytest

from detector.config.sections import EmbeddedSource, MonitorSection
from detector.core.series import Float32
from detector.detect.horizon import Horizon
from detector.detect.recall import recall, stored_state
from detector.detect.rewind import is_ahead, rewind, rewound
from detector.detect.tick import Monitor, tick
from detector.ports import ModelVersion
from detector.sources.memory import MemorySource
from detector.store.memory import MemoryStore

pytestmark = pytest.mark.slow

STEP = 60_000
BEGIN = 1_767_225_600_000
SLOTS = 200
MONITOR = MonitorSection(
    name="web",
    source=EmbeddedSource(type="embedded"),
    metrics=("cpu",),
    delay=timedelta(0),
    lateness=timedelta(0),
    no_data_alert_after=timedelta(minutes=4),
)
HORIZON = Horizon.of(MONITOR)


def _rows(values: Float32) -> MemorySource:
    return MemorySource.of(
        ("web-1",), np.zeros(SLOTS, dtype=np.int32), BEGIN + STEP * np.arange(SLOTS), values.astype(np.float64)
    )


def _tick(store: MemoryStore, rows: MemorySource, model: ModelVersion, *, there: int, now: int) -> None:
    """A tick of a process of its own; `there`: slots whose rows have come, `now`: the slot the clock shows."""
    known, at = rows.between(0, BEGIN + STEP * there), BEGIN + STEP * now
    rewound(HORIZON, store, at)
    memory = recall(HORIZON, known, model, stored=stored_state(HORIZON, store, version=model.version), now=at)
    tick(Monitor(HORIZON, known, store), memory, at)


@pytest.fixture
def values() -> Float32:
    found = np.random.default_rng(0).uniform(0.5, 1.5, (SLOTS, 1)).astype(np.float32)
    found[90:110] = 3000.0  # an alert that is open when the clock goes wrong
    return found


def _stored(store: MemoryStore) -> list[tuple[object, ...]]:
    alerts = [
        (row.state, row.episode.opened_slot, row.episode.closed_slot, row.episode.severity, row.closed_by)
        for row in store.alerts()
        if row.state != "withdrawn"
    ]
    return [*alerts, *store.scores()]


def test_a_clock_that_was_ahead_for_a_while_leaves_no_trace(values: Float32) -> None:
    model = made_versions.by_size(("web-1",), 1, threshold=11.9, since=BEGIN)
    undisturbed, disturbed = MemoryStore(), MemoryStore()
    for slot in range(1, SLOTS):
        _tick(undisturbed, _rows(values), model, there=slot, now=slot)
        # for three slots the clock is ninety minutes ahead; rows come when they come
        _tick(disturbed, _rows(values), model, there=slot, now=slot + (90 if 100 <= slot < 103 else 0))

    assert disturbed.cursor("web") == undisturbed.cursor("web") == BEGIN + STEP * (SLOTS - 1)
    assert _stored(disturbed) == _stored(undisturbed)


def test_an_alert_of_silence_that_there_never_was_is_withdrawn() -> None:
    model = made_versions.by_size(("web-1",), 1, threshold=11.9, since=BEGIN)
    rows, store = _rows(np.random.default_rng(0).uniform(0.5, 1.5, (SLOTS, 1)).astype(np.float32)), MemoryStore()

    for there, now in ((100, 100), (101, 191), (102, 102)):
        _tick(store, rows, model, there=there, now=now)

    assert [(row.state, row.entity) for row in store.alerts()] == [("withdrawn", "web-1")]


@pytest.mark.parametrize(("ahead", "expected"), [(0, False), (1, False), (2, True), (9000, True)])
def test_a_cursor_one_slot_ahead_is_a_clock_set_a_little(ahead: int, expected: bool) -> None:
    now = BEGIN + 10 * STEP

    assert is_ahead(HORIZON, now + ahead * STEP, now) is expected


def test_a_cursor_that_is_not_ahead_stays(values: Float32) -> None:
    store = MemoryStore()
    model = made_versions.by_size(("web-1",), 1, threshold=11.9, since=BEGIN)
    _tick(store, _rows(values), model, there=50, now=50)

    assert not rewound(HORIZON, store, BEGIN + 49 * STEP)
    assert store.cursor("web") == BEGIN + 50 * STEP


@pytest.mark.parametrize("stored", ["all", "anomalous", "none"])
def test_a_cursor_goes_back_to_where_the_data_ended_whatever_is_stored_of_scores(stored: str, values: Float32) -> None:
    store, some = MemoryStore(), Horizon.of(MONITOR.model_copy(update={"store_scores": stored}))
    model = made_versions.by_size(("web-1",), 1, threshold=11.9, since=BEGIN)
    for there, now in ((100, 100), (150, 190)):
        _tick(store, _rows(values), model, there=there, now=now)

    assert rewound(some, store, BEGIN + 160 * STEP)
    assert store.cursor("web") == BEGIN + 150 * STEP


def test_a_cursor_ahead_of_a_clock_that_went_back_goes_back_to_the_present(values: Float32) -> None:
    store = MemoryStore()
    model = made_versions.by_size(("web-1",), 1, threshold=11.9, since=BEGIN)
    _tick(store, _rows(values), model, there=150, now=150)

    assert rewound(HORIZON, store, BEGIN + 140 * STEP)
    assert store.cursor("web") == BEGIN + 140 * STEP


def test_slots_after_a_rewind_are_judged_as_they_were(values: Float32) -> None:
    model = made_versions.by_size(("web-1",), 1, threshold=11.9, since=BEGIN)
    store = MemoryStore()
    _tick(store, _rows(values), model, there=150, now=150)
    before = _stored(store)

    rewind(HORIZON, store, to=BEGIN + 95 * STEP, now=BEGIN + 150 * STEP)

    assert store.cursor("web") == BEGIN + 95 * STEP
    assert max(slot for _, _, slot, _, _ in store.scores()) == BEGIN + 94 * STEP
    _tick(store, _rows(values), model, there=150, now=150)
    assert _stored(store) == before


def test_an_entity_that_is_gone_does_not_hide_where_the_data_of_the_others_ended() -> None:
    """`dead` has rows up to slot 20 and is gone at 140. From 150 on, where those of `live` end, the clock is ahead."""
    section = MONITOR.model_copy(update={"forget_after": timedelta(minutes=120)})
    horizon, store = Horizon.of(section), MemoryStore()
    slots = np.array([*range(150), *range(20)])
    entity = np.repeat(np.array([0, 1], dtype=np.int32), [150, 20])
    rows = MemorySource.of(("live", "dead"), entity, BEGIN + STEP * slots, np.ones((170, 1)))
    model = made_versions.by_size(("live", "dead"), 1, threshold=11.9, since=BEGIN)
    for slot in (100, 150, 190):
        now = BEGIN + slot * STEP
        memory = recall(horizon, rows, model, stored=stored_state(horizon, store, version=1), now=now)
        tick(Monitor(horizon, rows, store), memory, now)
    judged = store.judged_since("web", 0)
    assert ("dead", "gone") in zip(judged.entity, judged.reason, strict=True)

    assert rewound(horizon, store, BEGIN + 160 * STEP)
    assert store.cursor("web") == BEGIN + 150 * STEP
