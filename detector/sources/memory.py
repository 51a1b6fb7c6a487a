"""Samples in memory, as rows of a wide table: for a replay, which must see nothing of its future."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detector.core.rejects import Reject
from detector.core.series import Float64, Int64, Samples
from detector.times import WEEK_MS


@dataclass(frozen=True)
class MemorySource:
    """The `Source` port over rows in order of time; `of` puts them in order."""

    entities: tuple[str, ...]
    entity: NDArray[np.int32]  # (N,) index into entities
    time: Int64  # (N,) epoch milliseconds, never falling
    values: Float64  # (N, F) NaN = missing

    @staticmethod
    def of(entities: Sequence[str], entity: NDArray[np.int32], time: Int64, values: Float64) -> MemorySource:
        """A source of rows in any order; of rows of the same time the one given first is read first.

        entity: (N,) index into entities; time: (N,) epoch milliseconds; values: (N, F)
        """
        order = np.argsort(time, kind="stable")
        return MemorySource(tuple(entities), entity[order], time[order], values[order])

    def read(self, start: int, end: int) -> Samples:
        """All samples with start ≤ time < end, both in epoch milliseconds."""
        part = self.between(start, end)
        rows, metrics = part.values.shape
        present, entity = np.unique(part.entity, return_inverse=True)
        return Samples(
            entities=tuple(self.entities[index] for index in present.tolist()),
            entity=np.repeat(entity.astype(np.int32), metrics),
            metric=np.tile(np.arange(metrics, dtype=np.int32), rows),
            time=np.repeat(part.time, metrics),
            value=part.values.ravel(),
        )

    def extent(self, now: int) -> tuple[int, int] | None:
        """Times of the oldest and the newest sample up to now, None if there is none; epoch milliseconds."""
        past = self.time[: np.searchsorted(self.time, now, side="right")]
        return (int(past[0]), int(past[-1])) if past.size else None

    def rejects(self, now: int) -> tuple[Reject, ...]:
        """None: what is in memory has been read."""
        return ()

    def between(self, start: int, end: int) -> MemorySource:
        """A source of the rows with start ≤ time < end only; nothing is copied."""
        first, last = np.searchsorted(self.time, (start, max(start, end))).tolist()
        rows = slice(first, last)
        return replace(self, entity=self.entity[rows], time=self.time[rows], values=self.values[rows])

    def closed_up(self, step: int, gap: int) -> MemorySource:
        """The same rows with long times without any row made shorter: rows before them move later.

        For entities that were recorded in different months. Rows move by whole weeks and whole steps, so that they
        keep their time of the week and their place in their slot.

        step: milliseconds
        gap: milliseconds without rows that must remain, so that a window after it sees nothing from before it
        """
        move = math.lcm(step, WEEK_MS)
        cut = np.maximum(np.diff(self.time) - gap, 0) // move * move  # (N − 1,)
        later = np.append(np.cumsum(cut[::-1])[::-1], 0)[: len(self.time)]
        return replace(self, time=self.time + later)
