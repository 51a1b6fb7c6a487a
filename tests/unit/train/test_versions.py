"""Retraining, on sources and versions in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from untrained import START, STEP, FakeFit, MemoryVersions, monitor_of, noise_history

from detector.config.sections import ModelSection
from detector.core.series import Spans
from detector.errors import ModelError
from detector.progress import silent
from detector.sources.memory import MemorySource
from detector.store.memory import MemoryStore
from detector.train import versions
from detector.train.division import Plan
from detector.train.versions import Inputs, Span

SLOTS = 1000
NOW = START + SLOTS * STEP + 3_600_000
BASELINE = monitor_of(model=ModelSection(kind="baseline"))


def _source() -> MemorySource:
    """Two entities of noise."""
    history = noise_history(SLOTS)
    entity, slot = np.divmod(np.arange(2 * SLOTS), SLOTS)
    values = history.values[entity, slot].astype(np.float64)
    return MemorySource.of(history.entities, entity.astype(np.int32), START + slot * STEP, values)


def _inputs(real: Spans | None = None, *, fit: FakeFit | None = None) -> Inputs:
    """A monitor with a history of noise, and no version yet."""
    return Inputs(
        plan=Plan.of(BASELINE),
        source=_source(),
        store=MemoryStore(),
        versions=MemoryVersions(MemoryVersions.Shared(), BASELINE),
        fit=fit or FakeFit(),
        real=lambda: real or {},
    )


def _retrain(inputs: Inputs, span: Span | None = None) -> int:
    return versions.retrain(inputs, now=NOW, span=span or Span(), progress=silent)[0]


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

    _retrain(_inputs({"web-1": [(START + 100 * STEP, START + 150 * STEP)]}, fit=fit))

    assert fit.fitted_to is not None
    history, _ = fit.fitted_to
    is_missing = np.isnan(history.values[1]).all(axis=1)
    assert is_missing[100:150].all()
    assert not is_missing[150:].any()
