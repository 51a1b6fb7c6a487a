"""Series of entities: bounded, and the worst of them first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detector.core.decide import AlertStates
from detector.core.series import Reason
from detector.export.prometheus import Exporter, MonitorView


def _exporter(
    most: int,
    peaks: list[float],
    critical: list[bool],
    *,
    score: Sequence[float] = (),
    surprise: Sequence[float] | None = None,
) -> Exporter:
    """One monitor, whose entities all have an open alert and no score unless given."""
    count = len(peaks)
    states = AlertStates.none_open(count)
    columns = states.columns() | {"is_open": np.ones(count, dtype=np.bool_), "is_critical": np.array(critical)}
    states = AlertStates(**columns | {"peak_score": np.array(peaks, dtype=np.float32)})
    view = MonitorView(monitor="pods", metrics=("cpu",), alert_budget_per_week=1.0, step=60_000)
    exporter = Exporter(most)
    exporter.show(
        replace(
            view,
            entities=tuple(f"pod-{row}" for row in range(count)),
            score=np.array(score or [np.nan] * count, dtype=np.float32),
            surprise=None if surprise is None else np.array(surprise, dtype=np.float32),
            reason=np.full(count, Reason.KNOWN if score else Reason.NO_DATA, dtype=np.int8),
            states=states,
            share=np.full((count, 1), np.nan, dtype=np.float32),
        )
    )
    return exporter


def _series(exporter: Exporter, name: str) -> dict[str, float]:
    return {
        sample.labels.get("entity", ""): sample.value
        for family in exporter.collect()
        for sample in family.samples
        if sample.name == name
    }


def test_only_the_worst_open_alerts_are_exported_where_there_are_too_many() -> None:
    exporter = _exporter(2, [3.0, 9.0, 2.0, 4.0], [False, False, True, False])

    assert _series(exporter, "detector_alert_active") == {"pod-2": 1, "pod-1": 1}
    assert _series(exporter, "detector_entities_dropped") == {"": 2}


def test_every_open_alert_is_exported_where_there_are_few() -> None:
    exporter = _exporter(4, [3.0, 9.0, 2.0, 4.0], [False, False, True, False])

    assert len(_series(exporter, "detector_alert_active")) == 4
    assert _series(exporter, "detector_entities_dropped") == {"": 0}


def test_a_surprise_stands_beside_the_score_of_the_entities_that_have_one() -> None:
    scores, surprises = [0.0, 2.5, 0.5], [7.0, np.nan, 1.0]  # an invalid value has a score, whatever a model says

    few = _exporter(2, [3.0] * 3, [False] * 3, score=scores, surprise=surprises)
    unknown = _exporter(3, [3.0] * 3, [False] * 3, score=scores)

    assert _series(few, "detector_score") == {"pod-1": 2.5, "pod-2": 0.5}
    assert _series(few, "detector_surprise") == {"pod-2": 1.0}
    assert _series(unknown, "detector_surprise") == {}


def test_the_share_of_blind_metrics_is_told_with_a_model_only() -> None:
    exporter = _exporter(2, [1.0], [False])
    before = _series(exporter, "detector_metrics_blind_ratio")

    exporter.update("pods", blind=0.25)

    assert (before, _series(exporter, "detector_metrics_blind_ratio")) == ({}, {"": 0.25})
