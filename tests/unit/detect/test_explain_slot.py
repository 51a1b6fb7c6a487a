"""One slot is judged by what its entity had shown before it, as stored."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from untrained import START, STEP, monitor_of, network_version, noise_history

from detector.detect import checkpoints
from detector.detect.explain_slot import explain_slot
from detector.detect.horizon import Horizon
from detector.detect.memory import Point
from detector.ports import StoredExperience
from detector.sources.memory import MemorySource

SLOTS, AFTER = 900, 40
END = START + STEP * SLOTS


def test_what_is_stored_of_an_entity_counts() -> None:
    history, horizon = noise_history(SLOTS), Horizon.of(monitor_of())
    model = network_version(monitor_of(), history)
    values = np.concatenate([history.values[0], history.values[0, -AFTER:]])
    values[-10:, 0] += 100.0  # some fifty deviations
    times = START + STEP * np.arange(SLOTS + AFTER)
    source = MemorySource.of(["web-0"], np.zeros(len(times), np.int32), times, values.astype(np.float64))
    # as if it had been so far off for hours, and in a wide range
    shown = model.artifact.experience
    wide = np.full_like(shown.lately, 1e6)
    lately = replace(shown, lately=np.full_like(wide, math.log1p(1000.0)), lowest=-wide, highest=wide)
    point = checkpoints.packed(Point(END + STEP * (AFTER - 15), lately), model.artifact.entities)

    def score(*remembered: StoredExperience) -> float:
        answer = explain_slot(
            *(horizon, source, model), entity="web-0", at=int(times[-1]), excluded=(), past=(), remembered=remembered
        )
        assert answer.score is not None
        return answer.score

    # the network and the shape find it as strange as before
    assert score(point) < score() - 0.3


@pytest.mark.parametrize("before", [1, 2, 3, 60])
def test_the_newest_slots_of_a_training_have_scores_too(before: int) -> None:
    history, horizon = noise_history(SLOTS), Horizon.of(monitor_of())
    model = network_version(monitor_of(), history)
    times = START + STEP * np.arange(SLOTS)
    source = MemorySource.of(["web-0"], np.zeros(SLOTS, np.int32), times, history.values[0].astype(np.float64))

    answer = explain_slot(
        *(horizon, source, model), entity="web-0", at=END - STEP * before, excluded=(), past=(), remembered=()
    )

    assert None not in (answer.score, *answer.recent)
    assert answer.why == [f"the score {answer.score:.2f} is below the threshold of 1"]


def test_a_slot_that_was_remembered_at_once_has_a_score_too() -> None:
    history, horizon = noise_history(SLOTS + AFTER), Horizon.of(monitor_of())
    model = network_version(monitor_of(), noise_history(SLOTS))
    times = START + STEP * np.arange(SLOTS + AFTER)
    source = MemorySource.of(["web-0"], np.zeros(len(times), np.int32), times, history.values[0].astype(np.float64))
    point = checkpoints.packed(Point(int(times[-1]) + STEP, model.artifact.experience), model.artifact.entities)

    answer = explain_slot(
        *(horizon, source, model), entity="web-0", at=int(times[-1]), excluded=(), past=(), remembered=(point,)
    )

    assert None not in (answer.score, *answer.recent)
