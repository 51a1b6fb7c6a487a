"""A tick over arrays, with a source and a store in memory."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from detector import pipeline
from detector.config import EmbeddedSource, MonitorSection, RuleSection
from detector.core.series import Reason
from detector.ports import Commit, Exclusion, StoredAlert
from detector.sources.memory import MemorySource

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


class _Store:
    """Keeps the cursor; there are no alerts to remember."""

    def __init__(self) -> None:
        self.commits: list[Commit] = []

    def cursor(self, monitor: str) -> int | None:
        return self.commits[-1].cursor if self.commits else None

    def alerts_since(self, monitor: str, slot: int) -> list[StoredAlert]:
        return []

    def exclusions(self, monitor: str) -> list[Exclusion]:
        return []

    def commit(self, commit: Commit) -> None:
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
    memory = pipeline.recall(MONITOR, source, store, pipeline.no_model(MONITOR, NOW), NOW)

    for _ in range(2):  # the second tick has nothing to do
        memory, report = pipeline.tick(MONITOR, source, store, memory, NOW)

        assert report.snapshot.reason.tolist() == [reason]

    assert len(store.commits) == 1


def test_a_tick_with_nothing_to_do_shows_what_the_last_one_did() -> None:
    source, store = _source(99.0), _Store()
    memory = pipeline.recall(MONITOR, source, store, pipeline.no_model(MONITOR, NOW), NOW)

    memory, first = pipeline.tick(MONITOR, source, store, memory, NOW)
    _, second = pipeline.tick(MONITOR, source, store, memory, NOW)

    assert first.snapshot.share.tolist() == [[1.0]]
    assert second.snapshot is first.snapshot
