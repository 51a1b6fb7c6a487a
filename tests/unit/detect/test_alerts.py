"""Alerts of a tick: silence, metrics that freeze, what is muted, and what late samples make of stored ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import made_versions
import numpy as np
import pytest

from detector.config.sections import EmbeddedSource, MonitorSection
from detector.core import revise
from detector.core.decide import LONG_AGO, AlertStates, Change, Episode, Severity
from detector.core.news import MECHANISMS
from detector.core.revise import Checkpoint
from detector.core.series import Float32
from detector.detect import history
from detector.detect.horizon import Horizon
from detector.detect.memory import Memory
from detector.detect.packed import unpack
from detector.detect.recall import recall, stored_state
from detector.detect.tick import Monitor, tick
from detector.ports import Exclusion, ModelVersion, Source, Store
from detector.sources.memory import MemorySource
from detector.store.alerts import AlertRow
from detector.store.memory import MemoryStore

STEP = 60_000
BEGIN = 1_767_225_600_000
SLOTS = 200
MONITOR = MonitorSection(
    name="web",
    source=EmbeddedSource(type="embedded"),
    metrics=("cpu", "load"),
    timesteps=3,
    delay=timedelta(0),
    lateness=timedelta(0),
    max_catch_up=timedelta(days=3650),
)


HORIZON = Horizon.of(MONITOR)
HOSTS = ("web-1", "web-2")
FIFTEEN_SLOTS = 15 * 2 * 2
"""Values of as many slots: a tick that reads no more at a time takes a downtime in pieces."""


def _model(freeze_limit: int | None = None, known: tuple[str, ...] = HOSTS) -> ModelVersion:
    """Scores a value by its size: known hosts are normal around 1, anomalous from about 10 on."""
    return made_versions.by_size(known, 2, threshold=11.9, since=BEGIN, freeze_limit=freeze_limit)


def _recalled(horizon: Horizon, source: Source, store: Store, model: ModelVersion) -> Memory:
    return recall(horizon, source, model, stored=stored_state(horizon, store, version=model.version), now=BEGIN)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def _values(slots: int = SLOTS) -> Float32:
    """Two hosts (E, N, F) that are never the same twice."""
    noise = np.random.default_rng(0).uniform(0.5, 1.5, (2, slots, 2))
    return noise.astype(np.float32)


def _watch(
    store: MemoryStore,
    values: Float32,
    *,
    monitor: MonitorSection = MONITOR,
    freeze_limit: int | None = None,
    known: tuple[str, ...] = HOSTS,
    every: int = 1,
    restarts: bool = False,
    calm: int = 95,
) -> list[AlertRow]:
    """The alerts after ticks every few slots, oldest first; NaN rows are not there.

    restarts: before every tick; calm: slots that the first tick takes at once
    """
    entity, slot = np.nonzero(~np.isnan(values).all(axis=2))
    rows = MemorySource.of(
        ("web-1", "web-2"), entity.astype(np.int32), BEGIN + STEP * slot, values[entity, slot].astype(np.float64)
    )
    horizon, model = Horizon.of(monitor), _model(freeze_limit, known)
    memory = _recalled(horizon, rows, store, model)
    for end in (calm, *range(calm + every, values.shape[1] + 1, every)):
        now = BEGIN + STEP * end
        memory = _recalled(horizon, rows.between(0, now), store, model) if restarts else memory
        memory, _ = tick(Monitor(horizon, rows.between(0, now), store, ("pager",)), memory, now)
    return store.alerts()[::-1]


def _slots(row: AlertRow) -> tuple[int, int | None]:
    closed = None if row.episode.closed_slot is None else (row.episode.closed_slot - BEGIN) // STEP
    return (row.episode.opened_slot - BEGIN) // STEP, closed


@pytest.mark.slow
@pytest.mark.parametrize("known", [HOSTS, ("web-1",)], ids=["known", "new to the model"])
@pytest.mark.parametrize("every", [1, 7])
def test_an_entity_that_falls_silent_opens_an_alert_until_it_has_data_again(
    store: MemoryStore, every: int, known: tuple[str, ...]
) -> None:
    values = _values()
    values[1, 100:120] = np.nan
    watchful = MONITOR.model_copy(update={"no_data_alert_after": timedelta(minutes=4)})

    (alert,) = _watch(store, values, monitor=watchful, known=known, every=every, restarts=every == 7)

    # silent from 100 on, so for four slots at 103; data from 120 on, five calm slots later it closes
    assert (alert.entity, *_slots(alert)) == ("web-2", 103, 124)
    assert alert.explanation["part"]["kind"] == "no_data"


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 7, 100])
def test_an_entity_that_has_no_data_yet_is_not_silent(store: MemoryStore, every: int) -> None:
    values = _values()
    values[1, :130] = np.nan
    watchful = MONITOR.model_copy(update={"no_data_alert_after": timedelta(minutes=4)})

    assert _watch(store, values, monitor=watchful, every=every) == []


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 60, 180], ids=["slot by slot", "in pieces", "at once"])
def test_an_alert_whose_source_dies_ends_as_unknown_however_long_nobody_looked(
    store: MemoryStore, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_CELLS", FIFTEEN_SLOTS)
    values = _values()
    values[0, 5:20, 0] = 3000.0
    values[:, 20:] = np.nan

    (alert,) = _watch(store, values, every=every, calm=every)

    # its last known slot is 19, and unknown for sixty slots it closes
    assert (_slots(alert), alert.closed_by) == ((5, 79), "unknown")


@pytest.mark.parametrize("every", [1, 60, 180], ids=["slot by slot", "in pieces", "at once"])
def test_silence_of_a_source_that_died_is_found_however_long_nobody_looked(
    store: MemoryStore, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_CELLS", FIFTEEN_SLOTS)
    values = _values()
    values[:, 20:] = np.nan
    watchful = MONITOR.model_copy(update={"no_data_alert_after": timedelta(minutes=4)})

    found = _watch(store, values, monitor=watchful, every=every, calm=every)

    # silent from 20 on, so for four slots at 23, and critical 120 slots later
    assert [(alert.entity, *_slots(alert), alert.episode.severity) for alert in found] == [
        ("web-1", 23, None, "critical"),
        ("web-2", 23, None, "critical"),
    ]
    assert {(event.change, (event.slot - BEGIN) // STEP) for event in store.events()} == {
        ("opened", 23),
        ("escalated", 143),
    }


def test_without_being_asked_to_silence_opens_nothing(store: MemoryStore) -> None:
    values = _values(125)
    values[1, 100:120] = np.nan

    assert _watch(store, values) == []


@pytest.mark.parametrize("every", [1, 7])
def test_a_metric_that_freezes_opens_an_alert_until_it_moves_again(store: MemoryStore, every: int) -> None:
    values = _values(160)
    values[0, 100:150, 1] = 1.0

    (alert,) = _watch(store, values, freeze_limit=15, every=every)

    # the same as the slot before since 101, for fifteen slots at 115
    assert (alert.entity, *_slots(alert)) == ("web-1", 115, 154)
    assert alert.explanation["part"]["kind"] == "frozen"
    assert [metric["metric"] for metric in alert.explanation["metrics"]] == ["load"]


@pytest.mark.slow
@pytest.mark.parametrize(("every", "restarts"), [(1, False), (5, True), (73, True), (460, False)])
def test_a_metric_that_may_rest_for_longer_than_is_remembered_freezes_then(
    every: int, restarts: bool, store: MemoryStore
) -> None:
    horizon = Horizon.of(MONITOR)
    assert horizon.look_back < 300 * STEP
    values = _values(460)
    values[0, 100:450, 1] = 1.0

    (alert,) = _watch(store, values, freeze_limit=300, every=every, restarts=restarts, calm=max(95, every))

    # the same as the slot before since 101, for three hundred slots at 400
    assert (alert.entity, *_slots(alert)) == ("web-1", 400, 454)
    assert alert.explanation["part"]["kind"] == "frozen"


def _with_spike(slots: int = 130) -> Float32:
    values = _values(slots)
    values[0, 100:110, 0] = 3000.0
    return values


def test_an_explanation_says_what_was_observed_and_expected(store: MemoryStore) -> None:
    (alert,) = _watch(store, _with_spike())

    metric = alert.explanation["metrics"][0]
    assert (metric["metric"], metric["observed"], metric["expected"]) == ("cpu", 3000.0, 0.0)
    assert (metric["low"], metric["high"]) == (0.0, 1.0)  # 0 ± 1, but no value was ever negative
    assert alert.explanation["window"]["least"] == [0.0]
    assert alert.explanation["part"]["kind"] == "network"
    assert alert.model_version == 1


EXCLUSION = Exclusion(0, "web", "web-*", None, BEGIN, BEGIN + SLOTS * STEP, "mute", None, "UTC", None, 0, None)


def test_an_alert_in_an_exclusion_is_stored_muted(store: MemoryStore) -> None:
    store.exclude(EXCLUSION)

    (alert,) = _watch(store, _with_spike())

    assert alert.is_muted


def test_an_alert_from_before_an_exclusion_does_not_escalate_aloud_in_it(store: MemoryStore) -> None:
    store.exclude(replace(EXCLUSION, start=BEGIN + 105 * STEP))
    values = _values(130)
    values[0, 100:, 0] = 3000.0
    quick = MONITOR.decision.model_copy(update={"critical_slots": 20, "score_critical": 99.0})

    (alert,) = _watch(store, values, monitor=MONITOR.model_copy(update={"decision": quick}))

    assert (alert.episode.severity, alert.is_muted) == ("critical", True)


def test_an_alert_closes_though_every_other_slot_is_missing(store: MemoryStore) -> None:
    values = _with_spike()
    values[0, 111::2] = np.nan

    (alert,) = _watch(store, values)

    assert alert.state == "closed"


def test_an_alert_of_silence_that_somebody_closed_ends_though_silence_lasts(store: MemoryStore) -> None:
    values = _values()
    values[1, 50:] = np.nan
    watchful = MONITOR.model_copy(update={"no_data_alert_after": timedelta(minutes=4)})
    rows = MemorySource.of(
        ("web-1", "web-2"),
        np.repeat(np.arange(2, dtype=np.int32), [SLOTS, 50]),
        BEGIN + STEP * np.concatenate([np.arange(SLOTS), np.arange(50)]),
        np.concatenate([values[0], values[1, :50]]).astype(np.float64),
    )
    horizon = Horizon.of(watchful)
    memory = _recalled(horizon, rows, store, _model())
    for end in range(50, SLOTS + 1):
        now = BEGIN + STEP * end
        memory, _ = tick(Monitor(horizon, rows.between(0, now), store), memory, now)
        if end == 60:
            store.close(store.alerts()[0].id, by="alice", now=now)

    (alert,) = store.alerts()
    assert alert.closed_by == "alice"
    assert _slots(alert)[1] is not None


def test_an_alert_that_outlasts_its_exclusion_notifies_then(store: MemoryStore) -> None:
    store.exclude(replace(EXCLUSION, end=BEGIN + 105 * STEP))

    calm = MONITOR.decision.model_copy(update={"score_critical": 99.0})

    (alert,) = _watch(store, _with_spike(), monitor=MONITOR.model_copy(update={"decision": calm}))

    assert not alert.is_muted
    assert [event.change for event in store.events()][:2] == ["opened", "unmuted"]


@pytest.mark.slow
def test_what_somebody_closed_stays_closed_until_its_entity_was_normal_again(store: MemoryStore) -> None:
    values = _with_spike(SLOTS)
    values[0, 130:133, 0] = 3000.0  # half an hour later it would be no news
    rows = MemorySource.of(
        ("web-1", "web-2"),
        np.repeat(np.arange(2, dtype=np.int32), SLOTS),
        BEGIN + STEP * np.tile(np.arange(SLOTS), 2),
        values.reshape(-1, 2).astype(np.float64),
    )
    memory = _recalled(HORIZON, rows, store, _model())
    for end in range(1, SLOTS + 1):
        now = BEGIN + STEP * end
        memory, report = tick(Monitor(HORIZON, rows.between(0, now), store), memory, now)
        if end == 103:
            store.close(store.alerts()[0].id, by="alice", now=now)
        if end == 105:
            assert (report.snapshot.states.is_open & ~report.snapshot.is_silent).sum() == 0

    first, second = store.alerts()[::-1]
    assert (first.closed_by, _slots(first)[0], _slots(second)[0]) == ("alice", 100, 130)


# states and episodes as late samples make them


def _episode(opened: int, closed: int | None, **changes: object) -> Episode:
    return replace(Episode(opened, opened, Severity.WARNING, 1.5, opened, 0, closed), **changes)  # type: ignore[arg-type]


def test_what_is_stored_is_paired_with_what_overlaps_it() -> None:
    stored = [_episode(10, 20), _episode(30, None)]
    rightful = [_episode(12, 18), _episode(22, 25), _episode(31, None)]

    assert revise.match(stored, rightful) == [(0, rightful[0]), (None, rightful[1]), (1, rightful[2])]


def test_what_has_no_partner_should_not_be_there() -> None:
    assert revise.match([_episode(10, 20)], []) == [(0, None)]


@pytest.mark.parametrize(
    ("rightful", "change"),
    [
        (_episode(10, None), None),
        (_episode(10, None, peak_score=1.5001), None),
        (_episode(10, None, peak_score=1.6), Change.REVISED),
        (_episode(9, None), Change.REVISED),
        (_episode(10, 15), Change.CLOSED),
        (_episode(10, None, severity=Severity.CRITICAL, peak_score=3.0), Change.ESCALATED),
    ],
)
def test_a_stored_alert_changes_by_what_differs(rightful: Episode, change: Change | None) -> None:
    assert revise.change(_episode(10, None), rightful) is change
    assert revise.change(_episode(10, 15), _episode(10, None)) is Change.REOPENED


def test_a_checkpoint_keeps_the_states_of_those_that_had_an_alert() -> None:
    columns = AlertStates.none_open(3).columns()
    columns["is_open"][1], columns["opened_slot"][1], columns["closed_slot"][2] = True, 7, 5
    states = AlertStates(**columns)

    checkpoint = Checkpoint.of(100, ["a", "b", "c"], states, since=5)
    there = checkpoint.at(["c", "b", "nobody"])

    assert sorted(checkpoint.rows) == ["b", "c"]
    assert sorted(Checkpoint.of(100, ["a", "b", "c"], states, since=6).rows) == ["b"]
    assert there.is_open.tolist() == [False, True, False]
    assert there.closed_slot.tolist() == [5, LONG_AGO, LONG_AGO]
    again = checkpoint.with_states(["b"], AlertStates.none_open(1))
    assert again.at(["b", "c"]).is_open.tolist() == [False, False]
    assert again.at(["c"]).closed_slot.tolist() == [5]


@pytest.mark.slow
def test_the_window_of_an_alert_is_kept_as_it_was(store: MemoryStore) -> None:
    values = _with_spike()
    (alert,) = _watch(store, values)

    window = alert.explanation["window"]
    first = (window["start"] - BEGIN) // STEP
    slots = slice(first, first + MONITOR.timesteps)
    assert window["start"] + (MONITOR.timesteps - 1) * STEP == alert.episode.peak_slot
    np.testing.assert_array_equal(unpack(window["values"], 2), values[0, slots])
    columns = [window["metrics"].index(name) for name in window["named"]]
    np.testing.assert_array_equal(unpack(window["expected"], len(columns)), 0.0 * values[0, slots, columns].T)


@pytest.mark.parametrize("every", [1, 35])
def test_the_mechanism_that_fired_has_the_score_of_the_alert(store: MemoryStore, every: int) -> None:
    (alert,) = _watch(store, _with_spike(), every=every)

    part = alert.explanation["part"]
    assert part["scores"].keys() == set(MECHANISMS)
    assert max(filter(None, part["scores"].values())) == pytest.approx(alert.episode.peak_score, rel=1e-5)
    assert part["kind"] == "network"


@pytest.mark.parametrize("every", [1, 35])
def test_an_alert_closes_five_slots_after_what_was_strange_though_it_was_huge(store: MemoryStore, every: int) -> None:
    (alert,) = _watch(store, _with_spike(), every=every)

    # nine more slots are in the mean of ten with the last one, clipped at a hundred times the usual size
    assert _slots(alert)[0] == 100
    assert 114 <= (_slots(alert)[1] or 0) <= 123
