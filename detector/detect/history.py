"""History of a source, read piece by piece: what one piece takes does not grow with the span."""

from __future__ import annotations

import numpy as np

from detector.core import grid
from detector.core.series import Float32, History, Samples
from detector.detect import seen
from detector.detect.horizon import Horizon
from detector.ports import Source
from detector.progress import Progress

_CELLS = 4_000_000  # values gridded at a time
_MOST_SLOTS = 1440
_FIRST_SLOTS = 10  # while it is not known how many entities there are


def slots_at_a_time(entities: int, metrics: int) -> int:
    """Slots that are read at a time for a number of entities; 0 entities: it is not known how many there are."""
    return _FIRST_SLOTS if entities == 0 else max(1, min(_MOST_SLOTS, _CELLS // (entities * metrics)))


def gridded(horizon: Horizon, samples: Samples, entities: tuple[str, ...], *, start: int, slots: int) -> Float32:
    """Samples on a monitor's grid, (E, slots, F); start in epoch milliseconds."""
    return grid.grid(
        samples,
        entities=entities,
        metrics=len(horizon.metrics),
        start=start,
        slots=slots,
        step=horizon.step,
        aggregate=horizon.aggregate,
    )


def read_history(horizon: Horizon, source: Source, *, start: int, end: int, progress: Progress) -> History:
    """All entities' slots in [start, end), epoch milliseconds, floored to the grid.

    Raises: SourceError.
    """
    step, metrics = horizon.step, len(horizon.metrics)
    start, end = grid.floor(start, step), grid.floor(end, step)
    slots = max(0, (end - start) // step)
    entities: tuple[str, ...] = ()
    values = np.empty((0, slots, metrics), dtype=np.float32)
    first, newest = 0, seen.Seen.none(horizon, 0)
    while first < slots:
        count = min(slots_at_a_time(len(entities), metrics), slots - first)
        begin = start + first * step
        samples = source.read(begin, begin + count * step)
        known = entities
        entities, values = _with_new(entities, values, samples)
        newest = newest.of(horizon, grid.positions(entities, known))
        made = gridded(horizon, samples, entities, start=begin, slots=count)
        filled = seen.filled(horizon, made, start=begin, seen=newest)
        values[:, first : first + count], newest = filled.values, filled.seen
        first += count
        progress(first / slots, f"reading history, {len(entities)} entities")
    return History(entities, start, step, values)


def _with_new(entities: tuple[str, ...], values: Float32, samples: Samples) -> tuple[tuple[str, ...], Float32]:
    """Entities and values (E, L, F) with rows of missing values for those the samples bring."""
    new = sorted(set(samples.entities).difference(entities))
    if not new:
        return entities, values
    rows = np.full((len(new), *values.shape[1:]), np.nan, dtype=np.float32)
    return (*entities, *new), np.concatenate([values, rows])
