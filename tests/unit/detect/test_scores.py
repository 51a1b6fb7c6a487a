"""Scores of entities that deviate at once."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from untrained import START, STEP, monitor_of, network_version, noise_history

from detector.core.news import MECHANISMS, POOL, POOLED
from detector.detect import scores
from detector.detect.horizon import Horizon
from detector.detect.memory import Memory
from detector.detect.recall import Stored, recall
from detector.sources.memory import MemorySource

SLOTS, ENTITIES = 900, 8
END = START + STEP * SLOTS


@pytest.fixture(scope="module")
def memory() -> Memory:
    """Eight entities, nothing of which is unusual."""
    history = noise_history(SLOTS, ENTITIES)
    model = network_version(monitor_of(), history)
    rows = MemorySource.of(
        history.entities,
        np.repeat(np.arange(ENTITIES, dtype=np.int32), SLOTS),
        np.tile(history.slots, ENTITIES),
        history.values.reshape(-1, 2).astype(np.float64),
    )
    horizon = Horizon.of(monitor_of())
    return recall(horizon, rows, model, stored=Stored(END), now=END + horizon.delay)


def _with(memory: Memory, own: dict[int, float]) -> Memory:
    """The memory with return periods of some rows by the mechanism that is pooled, in the newest slot."""
    periods = memory.return_periods.copy()
    for row, period in own.items():
        periods[row, -1, MECHANISMS.index(POOLED)] = period
    return replace(memory, return_periods=periods)


@pytest.mark.slow
def test_several_at_once_open_what_none_of_them_would_alone(memory: Memory) -> None:
    horizon = Horizon.of(monitor_of())
    together = _with(memory, dict.fromkeys(range(5), 0.5))

    parts = scores.scores_by_mechanism(horizon, together, 3)

    assert math.log(ENTITIES / horizon.alert_budget_per_week) > 0.5  # alone it is below the level
    newest = parts[:, -1, MECHANISMS.index(POOL)]
    assert (newest[:5] > 1.0).all()
    assert np.isnan(newest[5:]).all()
    assert np.isnan(parts[:, :-1, MECHANISMS.index(POOL)]).all()
    assert (scores.surprises(together, 1)[:5] > scores.surprises(memory, 1)[:5]).all()


def test_two_at_once_are_no_more_than_each(memory: Memory) -> None:
    parts = scores.scores_by_mechanism(Horizon.of(monitor_of()), _with(memory, {0: 0.5, 1: 0.5}), 3)

    assert np.isnan(parts[..., MECHANISMS.index(POOL)]).all()


def test_some_entities_alone_are_scored_as_among_all(memory: Memory) -> None:
    together, only = _with(memory, dict.fromkeys(range(5), 0.5)), np.array([1, 6])

    alone = scores.scores_by_mechanism(Horizon.of(monitor_of()), together, 3, only=only)

    np.testing.assert_array_equal(alone, scores.scores_by_mechanism(Horizon.of(monitor_of()), together, 3)[only])
