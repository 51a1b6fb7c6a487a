"""Moments of a replay: when it ticks and retrains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detector.config import values
from detector.config.sections import MonitorSection
from detector.core.series import Int64
from detector.times import milliseconds

_SLICES = 100  # ticks of a replay, so that its progress moves
_JUMP_SLOTS = 1440  # without any row for longer, one tick takes the replay over it


@dataclass(frozen=True)
class Schedule:
    """Moments in epoch milliseconds."""

    ticks: list[int]  # rising
    retrainings: frozenset[int]

    @staticmethod
    def of(monitor: MonitorSection, times: Int64, begin: int) -> Schedule:
        """The schedule for rows at these times, (N,), at least one of which is not before `begin`."""
        ticks = _tick_times(monitor, np.sort(times[times >= begin]))
        return Schedule(
            ticks=ticks,
            retrainings=_firings(monitor, monitor.retrain, begin, ticks[-1]),
        )

    @property
    def moments(self) -> list[int]:
        """All of them in order; a tick comes before what else happens at its moment."""
        return sorted({*self.ticks, *self.retrainings})


def _tick_times(monitor: MonitorSection, times: Int64) -> list[int]:
    """Ticks for rows at these times, sorted: as many as progress needs, and around long times without a row."""
    ends = (times // monitor.step_ms + 1) * monitor.step_ms
    slices = ends[np.linspace(0, len(ends) - 1, _SLICES + 1).astype(np.int64)]
    is_jump = np.diff(ends) > _JUMP_SLOTS * monitor.step_ms
    around = np.concatenate([ends[:-1][is_jump], ends[1:][is_jump] - monitor.step_ms])
    found: list[int] = np.unique(np.concatenate([slices, around]) + milliseconds(monitor.delay)).tolist()
    return found


def _firings(monitor: MonitorSection, cron: str, begin: int, end: int) -> frozenset[int]:
    return frozenset() if cron == "off" else frozenset(values.firing_times(cron, begin, end, monitor.schedule_zone))
