"""A tick over arrays, with a source and a store in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import timedelta

import made_versions
import numpy as np
import pytest

from detector.config.sections import EmbeddedSource, MonitorSection, RuleSection
from detector.core.rejects import Reject
from detector.core.series import Reason, Samples
from detector.detect import history as reading
from detector.detect.horizon import Horizon
from detector.detect.memory import Memory, no_model
from detector.detect.recall import recall, stored_state
from detector.detect.tick import Monitor, tick
from detector.models.artifact import NetworkSpec
from detector.models.inference import Autoencoder, weight_shapes
from detector.ports import Commit, ModelVersion, Source, Store
from detector.sources.memory import MemorySource
from detector.store.memory import MemoryStore

STEP = 60_000
NOW = 1_767_225_600_000 + 30 * STEP
MONITOR = MonitorSection(
    name="disks",
    source=EmbeddedSource(type="embedded"),
    metrics=("used_percent",),
    delay=timedelta(0),
    lateness=timedelta(0),
    rules=(RuleSection(metric="used_percent", valid_max=95.0),),
)


class _Store(MemoryStore):
    """Keeps its commits too."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[Commit] = []

    def commit(self, commit: Commit) -> None:
        super().commit(commit)
        self.commits.append(commit)


def _source(newest: float) -> MemorySource:
    """One host, half an hour at 50 %, then a last slot."""
    times = NOW - STEP * np.arange(30, 0, -1)
    values = np.full((30, 1), 50.0)
    values[-1] = newest
    return MemorySource.of(("web-1",), np.zeros(30, dtype=np.int32), times, values)


@pytest.mark.parametrize(("newest", "reason"), [(50.0, Reason.NO_MODEL), (99.0, Reason.KNOWN)])
def test_without_a_model_only_an_invalid_value_is_known_however_often_it_is_asked(
    newest: float, reason: Reason
) -> None:
    source, store = _source(newest), _Store()
    memory = _recalled(MONITOR, source, store, no_model(Horizon.of(MONITOR), NOW), NOW)

    for _ in range(2):  # the second tick has nothing to do
        memory, report = tick(Monitor(Horizon.of(MONITOR), source, store), memory, NOW)

        assert report.snapshot.reason.tolist() == [reason]

    assert len(store.commits) == 1


def test_a_tick_with_nothing_to_do_shows_what_the_last_one_did() -> None:
    source, store = _source(99.0), _Store()
    memory = _recalled(MONITOR, source, store, no_model(Horizon.of(MONITOR), NOW), NOW)

    memory, first = tick(Monitor(Horizon.of(MONITOR), source, store), memory, NOW)
    _, second = tick(Monitor(Horizon.of(MONITOR), source, store), memory, NOW)

    assert first.snapshot.share.tolist() == [[1.0]]
    assert second.snapshot is first.snapshot


# a fleet whose entities come and go

BEGIN = 1_767_225_600_000
SLOTS = 400
TIMESTEPS = 8
FLEET = MonitorSection(
    name="fleet",
    source=EmbeddedSource(type="embedded"),
    metrics=("cpu", "load"),
    delay=timedelta(0),
    lateness=timedelta(minutes=3),
    timesteps=TIMESTEPS,
    max_catch_up=timedelta(days=3650),
)
THERE = {  # slots in which each entity has data; the model knows the first two
    "always": [(0, SLOTS)],
    "with a hole": [(0, 200), (205, SLOTS)],
    "late": [(180, SLOTS)],
    "away": [(0, 200), (230, 300), (360, SLOTS)],
    "gone": [(0, 150)],
}


def _model() -> ModelVersion:
    spec, rng = NetworkSpec(TIMESTEPS, 2, units=4), np.random.default_rng(0)
    weights = {name: rng.normal(0.0, 0.3, shape).astype(np.float32) for name, shape in weight_shapes(spec).items()}
    return made_versions.by_size(
        ("always", "with a hole"),
        2,
        threshold=0.767,
        since=BEGIN + 20 * STEP,
        timesteps=TIMESTEPS,
        network=Autoencoder(spec, weights),
    )


def _recalled(section: MonitorSection, source: Source, store: Store, model: ModelVersion, now: int) -> Memory:
    horizon = Horizon.of(section)
    return recall(horizon, source, model, stored=stored_state(horizon, store, version=model.version), now=now)


def _fleet() -> MemorySource:
    values = np.random.default_rng(1).normal(size=(len(THERE), SLOTS, 2))
    entity, slot = np.nonzero(
        [[any(first <= slot < end for first, end in spans) for slot in range(SLOTS)] for spans in THERE.values()]
    )
    return MemorySource.of(tuple(THERE), entity.astype(np.int32), BEGIN + STEP * slot, values[entity, slot])


def _scores(store: _Store) -> dict[tuple[str, int], float]:
    """What is stored after all commits, by entity and slot."""
    found: dict[tuple[str, int], float] = {}
    for commit in store.commits:
        for rows in (commit.scores, commit.replaced):
            slots = [(slot - BEGIN) // STEP for slot in rows.slot]
            found |= dict(zip(zip(rows.entity, slots, strict=True), rows.score, strict=True))
    return found


def _watch(slots: list[int], restart_at: frozenset[int] = frozenset()) -> _Store:
    """Ticks after so many slots each; before some of them the process is another one."""
    rows, store, model = _fleet(), _Store(), _model()
    memory = _recalled(FLEET, rows, store, model, BEGIN + 20 * STEP)
    for slot in slots:
        now = BEGIN + slot * STEP
        known = rows.between(0, now)
        if slot in restart_at:
            memory = _recalled(FLEET, known, store, model, now)
        memory, _ = tick(Monitor(Horizon.of(FLEET), known, store), memory, now)
    return store


@pytest.fixture(scope="module")
def undisturbed() -> dict[tuple[str, int], float]:
    """Scores after a tick for each slot, by entity and slot."""
    return _scores(_watch(list(range(21, SLOTS + 1))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slots", "restart_at"),
    [
        ([SLOTS], frozenset[int]()),
        (list(range(25, SLOTS + 1, 25)), frozenset[int]()),
        (list(range(21, SLOTS + 1)), frozenset(range(30, SLOTS, 9))),
    ],
    ids=["caught up at once", "seldom ticks", "restarts"],
)
@pytest.mark.parametrize("cells", [60, 4_000_000], ids=["few slots at a time", "many"])
def test_scores_do_not_depend_on_what_the_process_did_before(
    slots: list[int],
    restart_at: frozenset[int],
    cells: int,
    undisturbed: dict[tuple[str, int], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "_CELLS", cells)

    found = _scores(_watch(slots, restart_at))

    assert found.keys() == undisturbed.keys()
    # windows come in other batches, which may change the last bit
    assert [found[key] for key in undisturbed] == pytest.approx(list(undisturbed.values()), abs=1e-6)
    assert {entity for entity, slot in found if slot > 370} == {"always", "with a hole", "late", "away"}


class _LateSource:
    """Rows of which some are not there until a time has come."""

    def __init__(self, rows: MemorySource, hidden: range, until: int) -> None:
        self._rows, self._hidden, self._until, self.now = rows, hidden, until, 0

    def read(self, start: int, end: int) -> Samples:
        found = self._rows.read(start, end)
        if self.now >= self._until:
            return found
        slot = (found.time - BEGIN) // STEP
        is_there = (
            (found.entity != found.entities.index("always")) | (slot < self._hidden[0]) | (slot > self._hidden[-1])
        )
        return Samples(
            found.entities, found.entity[is_there], found.metric[is_there], found.time[is_there], found.value[is_there]
        )

    def extent(self, now: int) -> tuple[int, int] | None:
        return self._rows.extent(now)

    def rejects(self, now: int) -> tuple[Reject, ...]:
        return ()


def _watch_late(monitor: MonitorSection, slots: Iterable[int]) -> _Store:
    """Ticks; two samples arrive two slots late."""
    store, source = _Store(), _LateSource(_fleet(), range(249, 251), BEGIN + 252 * STEP)
    memory = _recalled(monitor, source, store, _model(), BEGIN + 20 * STEP)
    for slot in slots:
        source.now = BEGIN + slot * STEP
        memory, _ = tick(Monitor(Horizon.of(monitor), source, store), memory, source.now)
    return store


@pytest.mark.slow
@pytest.mark.parametrize("tick_after", [1, 2, 60], ids=["in time", "just in time", "after a downtime"])
def test_late_samples_correct_the_scores_they_belong_to(
    tick_after: int, undisturbed: dict[tuple[str, int], float]
) -> None:
    expected = {key: value for key, value in undisturbed.items() if key[1] < 320}

    found = _scores(_watch_late(FLEET, (*range(21, 252), 251 + tick_after, 320)))

    assert found.keys() == expected.keys()
    assert [found[key] for key in expected] == pytest.approx(list(expected.values()), abs=1e-6)


@pytest.fixture(scope="module")
def everything() -> _Store:
    """What is stored of late samples if all scores are."""
    return _watch_late(FLEET, range(21, 321))


@pytest.mark.slow
@pytest.mark.parametrize(("stored", "least"), [("anomalous", 1.0), ("none", math.inf)])
def test_of_scores_only_those_asked_for_are_stored_and_late_samples_may_end_that(
    stored: str, least: float, everything: _Store
) -> None:
    wanted = FLEET.model_copy(update={"store_scores": stored})

    store = _watch_late(wanted, range(21, 321))

    expected = {key: value for key, value in _scores(everything).items() if value >= least}
    assert {key: value for key, value in _scores(store).items() if not math.isnan(value)} == expected
    assert 0 < len(expected) < len(_scores(everything)) or stored == "none"
    all_replaced = [(rows.entity, rows.slot) for rows in (commit.replaced for commit in everything.commits)]
    assert [(rows.entity, rows.slot) for rows in (commit.replaced for commit in store.commits)] == all_replaced
    assert not any(math.isnan(value) for commit in store.commits for value in commit.scores.score)


def test_what_is_remembered_does_not_grow() -> None:
    rows, store = _fleet(), _Store()
    memory = _recalled(FLEET, rows, store, _model(), BEGIN + 20 * STEP)

    for slot in (21, 150, 151, SLOTS):
        memory, _ = tick(Monitor(Horizon.of(FLEET), rows, store), memory, BEGIN + slot * STEP)

        # 60 slots tell for how long an entity has been unknown, and records look back on 30 more; three are late
        assert FLEET.decision.close_unknown_slots == 60
        assert memory.history.values.shape[1] == 60 + 30 + 3
        # surprise looks back on 119 slots; two before a decision and twice three late ones
        assert memory.errors.shape[1] == memory.scores.shape[1] == 119 + 2 + 6
        assert memory.return_periods.shape[1] == 60
