"""Stored history of a live source, judged again by a model: the daemon's own ticks under another clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from detector.core import grid, rejects
from detector.core.rejects import Reject
from detector.detect import tick
from detector.detect.horizon import Horizon
from detector.detect.recall import recall, stored_state
from detector.ports import ModelVersion, Source, Store
from detector.progress import Progress

_SLICES = 100  # ticks of a replay, so that its progress moves


@dataclass(frozen=True)
class Judged:
    """What a replay went through."""

    begin: int  # first slot judged, epoch milliseconds
    samples: int
    rejects: tuple[Reject, ...]


def first_slot(horizon: Horizon, model: ModelVersion, start: int) -> int:
    """Where a replay must begin to judge the slots from `start` on as the daemon does; epoch milliseconds.

    At the end of the model's training: what entities have shown since then decides what is news.
    """
    return grid.floor(min(start, model.trained_until), horizon.step)


def run(
    horizon: Horizon, source: Source, store: Store, model: ModelVersion, *, start: int, end: int, progress: Progress
) -> Judged:
    """Ticks through everything from `first_slot` to `end` on a store that nothing is in yet; epoch milliseconds.

    Rows that came late count as if they had come in time.

    Raises: SourceError.
    """
    begin = first_slot(horizon, model, start)
    monitor = tick.Monitor(horizon, source, store)
    stored = stored_state(horizon, store, version=model.version)
    memory = recall(horizon, source, model, stored=stored, now=begin + horizon.delay, begin=begin)
    samples, found = 0, tuple[Reject, ...]()
    for cursor in _cursors(horizon, begin, end):
        memory, report = tick.tick(monitor, memory, cursor + horizon.delay)
        samples, found = samples + report.samples, rejects.added(found, report.rejects)
        progress((cursor - begin) / (end - begin), f"{horizon.monitor}: replaying")
    return Judged(begin, samples, found)


def _cursors(horizon: Horizon, begin: int, end: int) -> Iterator[int]:
    """Ends of slots up to `end`, far enough apart."""
    step = horizon.step
    stride = max(1, (end - begin) // step // _SLICES) * step
    yield from range(begin + stride, end, stride)
    yield grid.floor(end, step)
