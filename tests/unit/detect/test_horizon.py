"""The horizon of a monitor: computed once, after which no tick looks at the configuration."""

from __future__ import annotations

from datetime import timedelta

import made_versions
import numpy as np
import pytest

from detector.config.sections import DecisionSection, EmbeddedSource, MonitorSection, RuleSection
from detector.core import score
from detector.detect.horizon import Horizon
from detector.detect.recall import recall, stored_state
from detector.detect.tick import Monitor, tick
from detector.sources.memory import MemorySource
from detector.store.memory import MemoryStore

STEP = 60_000
BEGIN = 1_767_225_600_000


def _section(**values: object) -> MonitorSection:
    settings = {"name": "web", "source": EmbeddedSource(type="embedded"), "metrics": ("cpu", "load"), "timesteps": 10}
    return MonitorSection.model_validate(settings | values)


def test_values_reach_two_windows_back_from_the_oldest_slot_that_is_decided_again() -> None:
    decision = DecisionSection(open_of=4, close_slots=5, close_unknown_slots=6, flapping_slots=7)

    horizon = Horizon.of(_section(decision=decision, lateness="3m", timesteps=50))

    # three slots before a decision, twice three late ones: 2 × 50 − 2 + 9
    assert (horizon.late, horizon.values) == (3, 107)


def test_scores_reach_back_as_far_as_an_alert_takes_to_close() -> None:
    decision = DecisionSection(close_slots=5, close_unknown_slots=60, flapping_slots=30)

    horizon = Horizon.of(_section(decision=decision, lateness="0s"))

    # the oldest of these scores needs a whole window before it, and thirty slots, to tell what was seen before
    assert (horizon.scores, horizon.values) == (60, 60 + 30)
    assert horizon.errors == 2 + max(score.SPANS) - 1
    # a restart judges 60 slots again from the last but one of what is stored every 60 slots
    assert horizon.slots == 30 + 9 + 60 + 2 * 60


def test_lateness_counts_whole_slots() -> None:
    assert [Horizon.of(_section(lateness=late)).late for late in ("0s", "1s", "60s", "61s")] == [0, 1, 1, 2]


def test_an_alert_matters_after_its_closing_as_long_as_it_may_open_again() -> None:
    assert Horizon.of(_section(decision=DecisionSection(reopen_slots=500))).reopening == 500 * STEP


def test_a_metric_without_a_rule_has_none() -> None:
    rules = Horizon.of(_section(rules=(RuleSection(metric="load", valid_max=9.0),))).metric_rules

    assert rules.outside(np.array([1e9, 9.5])).tolist() == [False, True]


def test_a_tick_never_looks_at_the_section(monkeypatch: pytest.MonkeyPatch) -> None:
    section = _section(delay=timedelta(0), lateness="5m")
    horizon, store = Horizon.of(section), MemoryStore()
    values = np.random.default_rng(0).normal(size=(40, 2))
    source = MemorySource.of(("a",), np.zeros(40, dtype=np.int32), BEGIN + STEP * np.arange(40), values)
    model = made_versions.by_size(("a",), 2, threshold=11.9, since=BEGIN)

    def refuse(_self: MonitorSection, name: str) -> object:
        raise AssertionError(name)

    monkeypatch.setattr(MonitorSection, "__getattribute__", refuse)
    memory = recall(horizon, source, model, stored=stored_state(horizon, store, version=model.version), now=BEGIN)
    _, report = tick(Monitor(horizon, source, store), memory, BEGIN + 40 * STEP)

    assert report.windows == 40
