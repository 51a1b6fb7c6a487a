"""An alert that people called real is told again."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from untrained import START, STEP, monitor_of, network_version, noise_history

from detector import wording
from detector.core.series import Float32
from detector.detect import precedents
from detector.detect.explain_slot import Answer, explain_slot
from detector.detect.horizon import Horizon
from detector.detect.packed import pack
from detector.detect.precedents import Precedents
from detector.detect.recall import recall, stored_state
from detector.detect.tick import Monitor, tick
from detector.ports import ModelVersion
from detector.sources.memory import MemorySource
from detector.store.alerts import AlertRow
from detector.store.memory import MemoryStore

TRAINED, AFTER, EVERY = 900, 600, 60
FAULTS = (100, 300, 500)
"""Slots after the training where the same thing happens for four slots."""

JUDGED = START + STEP * (TRAINED + 200)

MONITOR = monitor_of()
HORIZON = Horizon.of(MONITOR)


@pytest.fixture(scope="module")
def model() -> ModelVersion:
    return network_version(MONITOR, noise_history(TRAINED))


def _values() -> Float32:
    values: Float32 = noise_history(TRAINED + AFTER).values[0].copy()
    for n, slot in enumerate(FAULTS):
        # each a little smaller than the one before it: no news
        values[TRAINED + slot : TRAINED + slot + 4] += np.array([100.0, 60.0], np.float32) * (1.0 - 0.1 * n)
    return values


def _watched(
    model: ModelVersion,
    store: MemoryStore,
    verdict: str | None,
    *,
    values: Float32 | None = None,
    every: int = EVERY,
    restarts: bool = False,
    judged_from: int = 0,
) -> list[AlertRow]:
    """Alerts after all ticks, oldest first; the first one gets a verdict when it has closed.

    values: NaN rows are not there; judged_from: slot after the training from which on somebody looks at it
    """
    values = _values() if values is None else values
    slots = np.flatnonzero(~np.isnan(values).all(axis=1))
    times = START + STEP * slots
    source = MemorySource.of(["web-0"], np.zeros(len(times), np.int32), times, values[slots].astype(np.float64))
    begin = START + STEP * TRAINED
    memory = recall(HORIZON, source, model, stored=stored_state(HORIZON, store, version=model.version), now=begin)
    for end in range(TRAINED + every, TRAINED + AFTER + 1, every):
        now = START + STEP * end + HORIZON.delay
        known = source.between(0, START + STEP * end)
        if restarts:
            memory = recall(HORIZON, known, model, stored=stored_state(HORIZON, store, version=model.version), now=now)
        memory, _ = tick(Monitor(HORIZON, known, store), memory, now)
        closed = [row for row in store.alerts() if row.episode.closed_slot is not None and row.verdict is None]
        if verdict and closed and end - TRAINED >= judged_from and len(store.alerts()) == 1:
            store.judge(closed[0].id, verdict, now=now)
    return store.alerts()[::-1]


def _opened(alerts: list[AlertRow]) -> list[int]:
    return [(row.episode.opened_slot - START) // STEP - TRAINED for row in alerts]


def test_what_comes_back_is_told_once(model: ModelVersion) -> None:
    (alert,) = _watched(model, MemoryStore(), None)

    assert _opened([alert])[0] in range(100, 103)


@pytest.mark.parametrize(
    ("every", "restarts"),
    [(EVERY, False), pytest.param(20, True, marks=pytest.mark.slow), pytest.param(7, False, marks=pytest.mark.slow)],
)
def test_what_is_like_a_real_alert_is_told_again_and_says_so(model: ModelVersion, every: int, restarts: bool) -> None:
    first, *others = _watched(model, MemoryStore(), "real", every=every, restarts=restarts)

    assert [slot in range(fault, fault + 4) for slot, fault in zip(_opened(others), FAULTS[1:], strict=True)] == [
        True
    ] * 2
    for alert in others:
        assert alert.episode.peak_score == 1.0
        assert alert.explanation["part"]["kind"] == "precedent"
        assert alert.explanation["part"]["alert"] == first.id
        assert wording.sentence(alert.explanation).startswith(f"Like alert {first.id}, which was real: load 1")
        assert sum(metric["share"] for metric in alert.explanation["metrics"]) == pytest.approx(1.0, abs=1e-3)


def test_a_slot_without_data_is_like_nothing(model: ModelVersion) -> None:
    values = _values()
    values[TRAINED + 301 : TRAINED + 304] = np.nan

    alerts = _watched(model, MemoryStore(), "real", values=values)

    assert [slot // 100 for slot in _opened(alerts)] == [1, 5]


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [False, True])
def test_a_verdict_does_not_change_what_was_judged_before_it(model: ModelVersion, *, restarts: bool) -> None:
    assert HORIZON.late >= 3  # slots that a restart judges again

    alerts = _watched(model, MemoryStore(), "real", every=1, restarts=restarts, judged_from=305)

    assert [slot // 100 for slot in _opened(alerts)] == [1, 5]


def test_an_explanation_knows_of_verdicts_before_its_slot(model: ModelVersion) -> None:
    store, values = MemoryStore(), _values()
    (alert,) = _watched(model, store, None)
    store.judge(alert.id, "real", now=JUDGED)
    times = START + STEP * np.arange(len(values))
    source = MemorySource.of(["web-0"], np.zeros(len(times), np.int32), times, values.astype(np.float64))

    def explained(at: int) -> Answer:
        return explain_slot(
            *(HORIZON, source, model),
            entity="web-0",
            at=at,
            excluded=(),
            past=(),
            remembered=(),
            precedents=store.precedents("web"),
        )

    own, later = explained(alert.episode.peak_slot), explained(START + STEP * (TRAINED + FAULTS[1] + 3))
    assert [one.explanation["part"]["scores"]["precedent"] for one in (own, later)] == [None, 1.0]


def test_what_is_like_a_false_alert_is_not(model: ModelVersion) -> None:
    assert len(_watched(model, MemoryStore(), "false")) == 1


def test_what_people_say_is_read_when_it_changes(model: ModelVersion) -> None:
    store = MemoryStore()
    (alert,) = _watched(model, store, None)
    nothing = precedents.current(HORIZON, store, model, Precedents())
    assert nothing == Precedents()

    store.judge(alert.id, "real", now=JUDGED)
    real = precedents.current(HORIZON, store, model, nothing)
    assert real.marks == ((alert.id, True),)
    assert real.known["web-0"].is_real.tolist() == [True]
    assert precedents.current(HORIZON, store, model, real) is real

    store.judge(alert.id, None, now=JUDGED)
    assert precedents.current(HORIZON, store, model, real) == Precedents()


@pytest.mark.parametrize(
    "changes", [{"metrics": ("load", "other")}, {"step": 2 * STEP}], ids=["of other metrics", "of another step"]
)
def test_windows_that_cannot_be_compared_are_left_out(model: ModelVersion, changes: dict[str, object]) -> None:
    store = MemoryStore()
    (alert,) = _watched(model, store, None)
    store.judge(alert.id, "real", now=JUDGED)

    found = precedents.of(replace(HORIZON, **changes), model, store.precedents("web"))  # type: ignore[arg-type]

    assert (found.marks, dict(found.known)) == (((alert.id, True),), {})


def _spoilt(**changes: object) -> str:
    window = {
        "metrics": list(MONITOR.metrics),
        "step": STEP,
        "start": START,
        "values": pack(np.zeros((10, 2), np.float32)),
    }
    return json.dumps({"window": window | changes})


@pytest.mark.parametrize(
    "explanation", ["{}", "", '{"window": null}', "not JSON", _spoilt(values="bm90IHppcA=="), _spoilt(values=None)]
)
def test_an_alert_without_a_window_is_no_precedent(model: ModelVersion, explanation: str) -> None:
    store = MemoryStore()
    (alert,) = _watched(model, store, None)
    store.judge(alert.id, "real", now=JUDGED)
    (stored,) = store.precedents("web")

    assert dict(precedents.of(HORIZON, model, [replace(stored, explanation=explanation)]).known) == {}
