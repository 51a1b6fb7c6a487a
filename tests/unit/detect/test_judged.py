"""Record of what was judged: ranges of slots by entity, the same however the process ran."""

from __future__ import annotations

import logging
from datetime import timedelta

import made_versions
import numpy as np
import pytest

from detector.config.sections import EmbeddedSource, MonitorSection
from detector.detect.horizon import Horizon
from detector.detect.memory import Memory
from detector.detect.recall import recall, stored_state
from detector.detect.rewind import rewind
from detector.detect.tick import Monitor, tick
from detector.ports import Commit
from detector.sources.memory import MemorySource
from detector.store.memory import MemoryStore

pytestmark = pytest.mark.slow

STEP = 60_000
BEGIN = 1_767_225_600_000
FIRST = 20  # slot that the model was trained until
MONITOR = MonitorSection(
    name="web",
    source=EmbeddedSource(type="embedded"),
    metrics=("cpu", "load"),
    delay=timedelta(0),
    lateness=timedelta(minutes=4),
    timesteps=8,
    max_missing=0.2,
)
THERE = {  # slots with data; the model knows the first two
    "always": [(0, 120)],
    "holed": [(0, 60), (65, 120)],
    "young": [(40, 120)],
}
Ranges = dict[str, list[tuple[int, str]]]


def _rows(without: frozenset[tuple[str, int]] = frozenset()) -> MemorySource:
    places = [
        (row, slot)
        for row, (entity, spans) in enumerate(THERE.items())
        for slot in range(120)
        if any(first <= slot < end for first, end in spans) and (entity, slot) not in without
    ]
    entity, slot = np.array(places).T
    values = np.random.default_rng(3).uniform(0.5, 1.5, (3, 120, 2))[entity, slot]
    return MemorySource.of(tuple(THERE), entity.astype(np.int32), BEGIN + STEP * slot, values)


def _recalled(section: MonitorSection, store: MemoryStore, rows: MemorySource, now: int) -> Memory:
    horizon = Horizon.of(section)
    model = made_versions.by_size(("always", "holed"), 2, threshold=11.9, since=BEGIN + FIRST * STEP, timesteps=8)
    stored = stored_state(horizon, store, version=model.version)
    return recall(horizon, rows, model, stored=stored, now=BEGIN + now * STEP)


def _watch(store: MemoryStore, slots: list[int], section: MonitorSection = MONITOR, **late: int) -> None:
    """One process for each tick; late: slots of `always` whose rows come so many slots late."""
    for slot in slots:
        hidden = frozenset(("always", int(name[1:])) for name, by in late.items() if slot <= int(name[1:]) + by)
        known = _rows(hidden).between(0, BEGIN + slot * STEP)
        memory = _recalled(section, store, known, slot)
        tick(Monitor(Horizon.of(section), known, store), memory, BEGIN + slot * STEP)


def _ranges(store: MemoryStore) -> Ranges:
    """What is on record: slots and reasons of each entity."""
    found: Ranges = {}
    judged = store.judged_since("web", 0)
    for entity, start, reason in zip(judged.entity, judged.start, judged.reason, strict=True):
        found.setdefault(entity, []).append(((start - BEGIN) // STEP, reason))
    return found


# A window of 8 slots has a gap with 2 slots missing, and is warming up if its 2 oldest are. The hole of `holed` ends
# at 65: windows that end at 65 and 66 begin before it, those that end at 67 … 70 begin with two slots of it. `young`
# begins at 40: its first windows begin with two empty slots up to 45; the one that ends at 46 begins with one.
EXPECTED: Ranges = {
    "always": [(FIRST, "known")],
    "holed": [(FIRST, "known"), (60, "no_data"), (65, "gap"), (67, "warming_up"), (71, "known")],
    "young": [(40, "warming_up"), (46, "known")],
}


@pytest.mark.parametrize(
    "slots", [[120], list(range(21, 121)), [*range(27, 120, 7), 120]], ids=["at once", "each", "seldom"]
)
def test_each_range_of_an_entity_begins_where_something_else_is_known(slots: list[int]) -> None:
    store = MemoryStore()

    _watch(store, slots)

    assert _ranges(store) == EXPECTED


def test_rows_that_come_late_correct_scores_and_record_across_restarts() -> None:
    in_time, store = MemoryStore(), MemoryStore()
    _watch(in_time, list(range(21, 121)))

    _watch(store, list(range(21, 121)), s80=2, s81=3, s82=1)

    assert _ranges(store) == EXPECTED
    assert store.scores() == in_time.scores()


def test_rows_that_come_too_late_are_told_with_the_command_that_judges_them_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore()
    with caplog.at_level(logging.WARNING):
        _watch(store, list(range(21, 86)), s80=3, s81=20)  # the first comes in time, the second is not there yet
        assert "rows_too_late" not in caplog.text
        _watch(store, list(range(86, 104)), s80=3, s81=20)

    (told,) = (record.getMessage() for record in caplog.records if "rows_too_late" in record.getMessage())  # once
    assert "monitor=web slots=1 entities=1 first=2026-01-01T01:21:00Z" in told
    assert "detector db rewind web --to 2026-01-01T01:21:00Z" in told
    assert (81, "no_data") in _ranges(store)["always"]

    rewind(Horizon.of(MONITOR), store, to=BEGIN + 81 * STEP, now=BEGIN + 103 * STEP)
    _watch(store, [103], s80=3, s81=20)

    assert _ranges(store)["always"] == [(FIRST, "known")]


def test_slots_further_back_than_is_caught_up_are_on_record_as_skipped() -> None:
    store, section = MemoryStore(), MONITOR.model_copy(update={"max_catch_up": timedelta(minutes=10)})

    _watch(store, [30, 90], section)

    assert _ranges(store) == {
        "always": [(FIRST, "known"), (30, "skipped"), (80, "known")],
        "holed": [(FIRST, "known"), (30, "skipped"), (80, "known")],
        "young": [(30, "skipped"), (80, "known")],
    }


@pytest.mark.parametrize("stored", ["all", "none"])
def test_a_step_that_is_made_longer_goes_on_after_the_slot_that_was_judged_in_part(stored: str) -> None:
    store, every = MemoryStore(), MONITOR.model_copy(update={"store_scores": stored})
    _watch(store, [63], every)  # a range of `holed` begins at 60

    longer = every.model_copy(update={"step": timedelta(minutes=5)})
    _watch(store, [90, 120], longer)

    assert store.cursor("web") == BEGIN + 120 * STEP
    assert len(_ranges(store)["holed"]) >= 3


def test_only_what_late_rows_change_is_written_again() -> None:
    class Watched(MemoryStore):
        def commit(self, commit: Commit) -> None:
            commits.append(commit)
            super().commit(commit)

    store, commits = Watched(), list[Commit]()
    _watch(store, [80, 81], s79=1)
    _watch(store, list(range(82, 90)))

    assert [made.judged_again for made in commits[2:]] == [[]] * 8
