"""A source's samples as history, read piece by piece: what a piece takes does not grow with the span."""

from __future__ import annotations

import numpy as np

from detector.config.sections import MonitorSection
from detector.core import grid
from detector.core.series import Float32, History, Samples
from detector.ports import Source
from detector.progress import Progress

_CELLS = 4_000_000  # values gridded at a time
_MOST_SLOTS = 1440
_FIRST_SLOTS = 10  # while it is not known how many entities there are


def slots_at_a_time(entities: int, metrics: int) -> int:
    """How many slots of so many entities are read at a time; 0 entities: it is not known how many there are."""
    return _FIRST_SLOTS if entities == 0 else max(1, min(_MOST_SLOTS, _CELLS // (entities * metrics)))


def gridded(monitor: MonitorSection, samples: Samples, entities: tuple[str, ...], start: int, slots: int) -> Float32:
    """Samples on a monitor's grid, (E, slots, F); start in epoch milliseconds."""
    return grid.grid(
        samples,
        entities=entities,
        metrics=len(monitor.metrics),
        start=start,
        slots=slots,
        step=monitor.step_ms,
        aggregate=monitor.aggregate,
    )


def read_history(monitor: MonitorSection, source: Source, start: int, end: int, progress: Progress) -> History:
    """All entities' slots in [start, end), epoch milliseconds, floored to the grid.

    Raises: SourceError.
    """
    step, metrics = monitor.step_ms, len(monitor.metrics)
    start, end = grid.floor(start, step), grid.floor(end, step)
    slots = max(0, (end - start) // step)
    history = History((), start, step, np.empty((0, slots, metrics), dtype=np.float32))
    first = 0
    while first < slots:
        count = min(slots_at_a_time(len(history.entities), metrics), slots - first)
        begin = start + first * step
        history = _with(monitor, history, source.read(begin, begin + count * step), first, count)
        first += count
        progress(first / slots, f"reading history, {len(history.entities)} entities")
    return history


def _with(monitor: MonitorSection, history: History, samples: Samples, first: int, count: int) -> History:
    new = sorted(set(samples.entities).difference(history.entities))
    if new:
        history = grid.cover(history, entities=(*history.entities, *new), start=history.start, end=history.end)
    begin = history.start + first * history.step
    history.values[:, first : first + count] = gridded(monitor, samples, history.entities, begin, count)
    return history
