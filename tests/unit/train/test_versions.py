"""Retraining, recalibrating and reconsidering, on sources and versions in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from untrained import START, STEP, FakeFit, MemoryVersions, monitor_of, noise_history

from detector.config.sections import ModelSection
from detector.errors import ModelError
from detector.progress import silent
from detector.sources.memory import MemorySource
from detector.store.memory import MemoryStore
from detector.train import versions
from detector.train.calibrate import Alerted
from detector.train.division import Plan
from detector.train.versions import Inputs, Span

SLOTS = 1000
NOW = START + SLOTS * STEP + 3_600_000
BASELINE = monitor_of(model=ModelSection(kind="baseline"))


@dataclass(frozen=True)
class Raised:
    """An alert as the store lists it."""

    id: int
    model_version: int
    scores: dict[str, float | None]
    kind: str = "spike"
    entity: str = "web-1"
    state: str = "closed"
    explanation: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.explanation["part"] = {"kind": self.kind, "scores": self.scores}


def _source(noise: float = 1.0) -> MemorySource:
    """Two entities, whose noise is so many times the usual one."""
    history = noise_history(SLOTS)
    entity, slot = np.divmod(np.arange(2 * SLOTS), SLOTS)
    values = 50.0 + noise * (history.values[entity, slot].astype(np.float64) - 50.0)
    return MemorySource.of(history.entities, entity.astype(np.int32), START + slot * STEP, values)


def _inputs(alerts: Sequence[Alerted] = (), *, fit: FakeFit | None = None) -> Inputs:
    """A monitor with a history of noise, and no version yet."""
    return Inputs(
        plan=Plan.of(BASELINE),
        source=_source(),
        store=MemoryStore(),
        versions=MemoryVersions(MemoryVersions.Shared(), BASELINE),
        fit=fit or FakeFit(),
        alerts=lambda: list(alerts),
    )


def _retrain(inputs: Inputs, span: Span | None = None) -> int:
    return versions.retrain(inputs, now=NOW, span=span or Span(), progress=silent)[0]


def _recalibrate(inputs: Inputs) -> tuple[int, float]:
    return versions.recalibrate(inputs, now=NOW, progress=silent)


def test_a_retrained_version_is_live_and_says_how_long_it_took() -> None:
    inputs = _inputs()

    number, provenance = versions.retrain(inputs, now=NOW, span=Span(), progress=silent)

    assert inputs.versions.live_number() == number == 1
    assert provenance["seconds"] >= 0.0
    assert inputs.versions.load(1).artifact.provenance["seconds"] == provenance["seconds"]


@pytest.mark.parametrize("rows", [2000, 100])  # enough slots, and too few
def test_training_on_rows_every_five_minutes_proposes_the_step_that_fits(rows: int) -> None:  # c32
    back = 300_000 * np.arange(rows, dtype=np.int64)
    late = 1000 * np.random.default_rng(32).integers(0, 21, rows)
    source = MemorySource.of(("web",), np.zeros(rows, np.int32), NOW - back - 20_000 + late, np.ones((rows, 1)))
    network = monitor_of(metrics=("cpu",), model=ModelSection(kind="network"))
    inputs = replace(_inputs(), plan=Plan.of(network), source=source)

    with pytest.raises(ModelError, match="every 300 s, so 80% of the slots of 60 s") as caught:
        _retrain(inputs)

    assert '; set step = "5m", or fill = "last"' in str(caught.value)
    assert "max_missing" not in str(caught.value)


def test_training_reads_the_span_that_is_asked_for() -> None:
    inputs = _inputs()

    _retrain(inputs, Span(START + 100 * STEP, START + 600 * STEP))

    model = inputs.versions.load(1)
    assert (model.trained_from, model.trained_until) == (START + 100 * STEP, START + 600 * STEP)


def test_training_on_a_span_that_is_told_asks_for_no_extent() -> None:
    """That of a query ends with its last 30 days."""

    class Old(MemorySource):
        def extent(self, now: int) -> tuple[int, int] | None:
            return None

    source = _source()
    inputs = replace(_inputs(), source=Old(source.entities, source.entity, source.time, source.values))

    version = _retrain(inputs, Span(START, START + 600 * STEP))

    assert inputs.versions.load(version).trained_until == START + 600 * STEP


def test_training_leaves_out_the_time_of_real_alerts() -> None:
    fit = FakeFit()
    spans = {"real": (100, 150), "false": (200, 250)}
    alerts = [
        Alerted("web-1", START + first * STEP, START + last * STEP, 2.0, verdict)
        for verdict, (first, last) in spans.items()
    ]

    _retrain(_inputs(alerts, fit=fit))

    assert fit.fitted_to is not None
    history, _ = fit.fitted_to
    is_missing = np.isnan(history.values[1]).all(axis=1)
    assert is_missing[100:150].all()
    assert not is_missing[200:250].any()


def test_a_recalibration_keeps_the_network_and_says_where_it_comes_from() -> None:
    inputs = _inputs()
    _retrain(inputs)

    number, drift = _recalibrate(inputs)

    trained, fresh = inputs.versions.load(1), inputs.versions.load(number)
    assert drift == pytest.approx(1.0, rel=0.1)
    provenance = fresh.artifact.provenance
    assert fresh.network is trained.network
    assert fresh.artifact.weights is trained.artifact.weights
    assert (provenance["recalibrated_from"], provenance["recalibrated_at"]) == (1, NOW)
    assert provenance["drift"] == fresh.drift == round(drift, 4)


def test_of_recalibrations_only_the_newest_stays_beside_the_trained_version() -> None:
    inputs = _inputs()
    _retrain(inputs)

    numbers = [_recalibrate(inputs)[0] for _ in range(3)]

    assert isinstance(inputs.versions, MemoryVersions)
    assert sorted(inputs.versions.shared.saved) == [1, numbers[-1]]
    assert inputs.versions.load(numbers[-1]).artifact.provenance["recalibrated_from"] == 1


def test_without_a_live_version_there_is_nothing_to_recalibrate() -> None:
    with pytest.raises(ModelError, match="has no live model to recalibrate; run: detector retrain web"):
        _recalibrate(_inputs())


def test_alerts_are_judged_by_the_threshold_of_the_next_recalibration() -> None:
    inputs = _inputs()
    _retrain(inputs)
    alert = Raised(7, model_version=1, scores={"1": 1.5, "10": 1.1, "60": None, "120": 0.5})

    calm, loud = (
        versions.reconsidered(replace(inputs, source=_source(noise)), [alert], now=NOW, progress=silent)
        for noise in (1.0, 3.0)
    )

    assert (calm.judged[0][0], calm.unjudged) == (7, 0)
    assert loud.judged[0][1] < 0.7 * calm.judged[0][1]


@pytest.mark.parametrize(
    ("alert", "unjudged"),
    [
        (Raised(7, model_version=2, scores={}), 1),
        (Raised(7, model_version=1, scores={}, kind="frozen"), 1),
        (Raised(7, model_version=1, scores={}, state="withdrawn"), 0),
    ],
    ids=["of another version", "of a rule", "withdrawn"],
)
def test_alerts_that_no_calibration_decides_are_not_judged(alert: Raised, unjudged: int) -> None:
    inputs = _inputs()
    _retrain(inputs)

    found = versions.reconsidered(inputs, [alert], now=NOW, progress=silent)

    assert (found.judged, found.unjudged) == ([], unjudged)


def test_reconsidering_stores_nothing() -> None:
    inputs = _inputs()
    _retrain(inputs)

    versions.reconsidered(inputs, [], now=NOW, progress=silent)

    assert isinstance(inputs.versions, MemoryVersions)
    assert list(inputs.versions.shared.saved) == [1]
