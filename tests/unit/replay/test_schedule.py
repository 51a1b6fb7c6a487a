"""Moments of a replay."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from detector.config.sections import EmbeddedSource, MonitorSection
from detector.replay.schedule import Schedule

MINUTE = 60_000
DAY = 1440 * MINUTE


def _monitor(**changes: object) -> MonitorSection:
    section = MonitorSection(name="web", source=EmbeddedSource(type="embedded"), metrics=("load",))
    off = {"retrain": "off", "delay": timedelta(0)}
    return section.model_copy(update=off | changes)


def _minutes(*minutes: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(minutes, dtype=np.int64) * MINUTE


def test_the_first_and_the_last_slot_are_ticked_at_their_ends() -> None:
    schedule = Schedule.of(_monitor(), np.arange(500, dtype=np.int64) * MINUTE, 0)

    assert (schedule.ticks[0], schedule.ticks[-1]) == (MINUTE, 500 * MINUTE)
    assert len(schedule.ticks) == 101


def test_a_delay_moves_every_tick() -> None:
    times = _minutes(0, 1, 2)

    plain, late = (Schedule.of(_monitor(delay=timedelta(minutes=delay)), times, 0).ticks for delay in (0, 5))

    assert late == [at + 5 * MINUTE for at in plain]


def test_rows_before_the_replay_are_not_ticked() -> None:
    assert Schedule.of(_monitor(), _minutes(0, 1, 2, 3), 2 * MINUTE).ticks == [3 * MINUTE, 4 * MINUTE]


def test_a_long_time_without_rows_is_one_tick() -> None:
    times = np.concatenate([np.arange(1000), np.arange(1000) + 5000]) * MINUTE

    ticks = Schedule.of(_monitor(), times, 0).ticks

    assert {1000 * MINUTE, 5000 * MINUTE} <= set(ticks)  # before it begins, and where it ends


def test_trainings_fall_between_the_first_slot_and_the_last_tick() -> None:
    monitor = _monitor(retrain="0 3 * * *")

    schedule = Schedule.of(monitor, np.arange(0, 2 * DAY, MINUTE, dtype=np.int64), 0)

    assert schedule.retrainings == {3 * 60 * MINUTE, DAY + 3 * 60 * MINUTE}
    assert schedule.moments == sorted({*schedule.ticks, *schedule.retrainings})
