"""Counters in a recording are rates in its replay."""

from __future__ import annotations

import numpy as np

from detector.core.series import Bool
from detector.replay import groups
from detector.replay.groups import Group
from detector.replay.recordings import Recording
from detector.sources.memory import MemorySource

MINUTE = 60_000


def test_a_counter_of_a_recording_is_its_rate_also_where_the_replay_begins() -> None:
    recording = Recording(
        entity="web-1",
        metrics=("cpu", "bytes"),
        written=[""] * 4,
        time=np.arange(4) * MINUTE,
        values=np.array([[1.0, 0.0], [2.0, 60.0], [3.0, 180.0], [4.0, 30.0]]),
        label=None,
        train_rows=2,
        step_ms=MINUTE,
    )
    monitor = groups.settings(None, ["step=60s", 'rates=["bytes"]'], ["bytes", "cpu"])
    (group,) = groups.groups([recording], monitor, name="x", per_entity=False)
    assert isinstance(group, Group)

    def values(chosen: Bool) -> str:
        source = groups.source_of(group, [chosen], MemorySource.of)
        samples = source.read(0, 10 * MINUTE)
        counter = group.monitor.metrics.index("bytes")
        return repr(samples.value[samples.metric == counter].tolist())

    assert values(np.ones(4, dtype=np.bool_)) == "[nan, 1.0, 2.0, 0.5]"
    assert values(groups.to_replay(recording)) == "[2.0, 0.5]"
