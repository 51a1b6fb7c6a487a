"""Samples to slots: aggregation, duplicates, missing values; and the history the slots are kept in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Literal

import numpy as np

from detector.core.series import Bool, Float32, Float64, History, Int64, Samples

Aggregate = Literal["mean", "last", "min", "max", "sum", "count"]

LARGEST = float(np.finfo(np.float32).max)
"""Values beyond it cannot be scored, and count as missing."""

_MOST_INT32 = int(np.iinfo(np.int32).max)
_BLOCK = 4096  # entities moved at a time


def floor(time: int, step: int) -> int:
    """Start of the slot a time lies in, both in epoch milliseconds."""
    return time // step * step


def complete_until(now: int, step: int, delay: int) -> int:
    """End of the newest complete slot: complete means now ≥ slot end + delay; all epoch milliseconds."""
    return floor(now - delay, step)


def grid(
    samples: Samples,
    *,
    entities: tuple[str, ...],
    metrics: int,
    start: int,
    slots: int,
    step: int,
    aggregate: Aggregate = "mean",
) -> Float32:
    """One value per entity, slot and metric, (E, slots, metrics); NaN where there is no usable sample.

    Samples outside [start, start + slots·step), of entities not named, and values that are NaN, infinite or beyond
    float32 are left out. Of samples with the same entity, metric and time the one read last counts.
    """
    row_of = positions(samples.entities, entities)
    row = row_of[samples.entity] if len(samples) else np.empty(0, dtype=np.int64)
    slot = (samples.time - start) // step
    keep = (row >= 0) & (slot >= 0) & (slot < slots) & (np.abs(samples.value) <= LARGEST)  # NaN compares False
    cell = ((row * slots + slot) * metrics + samples.metric)[keep]

    del row, slot
    value = samples.value[keep]
    result = np.full(len(entities) * slots * metrics, np.nan, dtype=np.float32)
    result[cell] = value if aggregate != "count" else 1.0
    # mostly a cell has one sample; only where there are more they have to be put in order
    crowded = _crowded(cell, result.size)
    if crowded.any():
        cells, values = _aggregate(cell[crowded], samples.time[keep][crowded], value[crowded], how=aggregate)
        result[cells] = values
    return result.reshape(len(entities), slots, metrics)


def positions(names: Sequence[str], among: Sequence[str]) -> Int64:
    """Index of each name in the other sequence, (len(names),); −1 for one that is not there."""
    index = dict(zip(among, range(len(among)), strict=True))
    return np.fromiter(map(index.get, names, repeat(-1)), np.int64, len(names))


def _crowded(cell: Int64, cells: int) -> Bool:
    """Which samples share their cell with another, (N,)."""
    last = np.empty(cells, dtype=np.int32 if len(cell) < _MOST_INT32 else np.int64)
    order = np.arange(len(cell), dtype=last.dtype)
    last[cell] = order
    is_overwritten: Bool = last[cell] != order
    if not is_overwritten.any():
        return is_overwritten
    shared = np.zeros(cells, dtype=np.bool_)
    shared[cell[is_overwritten]] = True
    return shared[cell]


def _aggregate(cell: Int64, time: Int64, value: Float64, *, how: Aggregate) -> tuple[Int64, Float64]:
    """Groups samples by cell: the cells that have any, and the aggregate of each."""
    order = np.lexsort((time, cell))  # stable, so rows of one time stay in reading order
    cell, time, value = cell[order], time[order], value[order]
    is_newest_reading = np.append((cell[1:] != cell[:-1]) | (time[1:] != time[:-1]), True)
    cell, value = cell[is_newest_reading], value[is_newest_reading]
    first = np.flatnonzero(np.append(True, cell[1:] != cell[:-1]))
    count = np.diff(np.append(first, len(cell)))
    match how:
        case "mean":
            values = np.add.reduceat(value, first) / count
        case "sum":
            values = np.add.reduceat(value, first)
        case "min":
            values = np.minimum.reduceat(value, first)
        case "max":
            values = np.maximum.reduceat(value, first)
        case "last":
            values = value[first + count - 1]
        case "count":
            values = count.astype(np.float64)
    return cell[first], np.clip(values, -LARGEST, LARGEST)


def cover(history: History, *, entities: Iterable[str], start: int, end: int) -> Float32:
    """Values of a history over exactly [start, end) and other entities, (E, L, F): a copy, NaN where not known."""
    names = tuple(entities)
    slots = (end - start) // history.step
    values = np.empty((len(names), slots, history.values.shape[2]), dtype=np.float32)
    overlap_start, overlap_end = max(start, history.start), min(end, history.end)
    if overlap_start < overlap_end:
        old = slice((overlap_start - history.start) // history.step, (overlap_end - history.start) // history.step)
        new = slice((overlap_start - start) // history.step, (overlap_end - start) // history.step)
        values[:, : new.start] = values[:, new.stop :] = np.nan
        if names == history.entities:
            values[:, new] = history.values[:, old]
        else:
            before = positions(names, history.entities)
            for block in range(0, len(names), _BLOCK):
                row = before[block : block + _BLOCK]
                known = np.flatnonzero(row >= 0)
                values[block : block + _BLOCK, new] = np.nan
                values[block + known, new] = history.values[row[known], old]
    else:
        values[...] = np.nan
    return values
