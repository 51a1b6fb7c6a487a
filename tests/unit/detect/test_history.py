"""History read in pieces is the history read at once."""

from __future__ import annotations

import numpy as np
import pytest

from detector.config.sections import EmbeddedSource, MonitorSection
from detector.core.rejects import Reject
from detector.core.series import Samples
from detector.detect import history as reading
from detector.detect.history import read_history
from detector.detect.horizon import Horizon
from detector.sources.memory import MemorySource

STEP = 60_000
BEGIN = 1_767_225_600_000
SLOTS = 100
MONITOR = MonitorSection(name="web", source=EmbeddedSource(type="embedded"), metrics=("cpu", "load"))
HORIZON = Horizon.of(MONITOR)


class _Counting:
    """A source that keeps what it was asked for."""

    def __init__(self, source: MemorySource) -> None:
        self._source = source
        self.asked: list[tuple[int, int]] = []

    def read(self, start: int, end: int) -> Samples:
        self.asked.append((start, end))
        return self._source.read(start, end)

    def extent(self, now: int) -> tuple[int, int] | None:
        return self._source.extent(now)

    def rejects(self, now: int) -> tuple[Reject, ...]:
        return self._source.rejects(now)


def _source() -> tuple[_Counting, np.ndarray[tuple[int, int, int], np.dtype[np.float64]]]:
    """Two hosts of two metrics, the second from slot 60 on, and their values (2, SLOTS, 2)."""
    values = np.random.default_rng(0).normal(size=(2, SLOTS, 2))
    values[1, :60] = np.nan
    slots = np.concatenate([np.arange(SLOTS), np.arange(60, SLOTS)])
    entity = np.repeat(np.arange(2, dtype=np.int32), [SLOTS, SLOTS - 60])
    rows = np.concatenate([values[0], values[1, 60:]])
    return _Counting(MemorySource.of(("web-1", "web-2"), entity, BEGIN + STEP * slots, rows)), values


@pytest.mark.parametrize("cells", [4, 40, 4_000_000])
def test_pieces_of_any_size_make_the_same_history(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_CELLS", cells)
    source, values = _source()
    shares: list[float] = []

    history = read_history(
        HORIZON, source, start=BEGIN + 5, end=BEGIN + SLOTS * STEP, progress=lambda done, _: shares.append(done)
    )

    assert (history.entities, history.start, history.step) == (("web-1", "web-2"), BEGIN, STEP)
    np.testing.assert_allclose(history.values, values, rtol=1e-6)
    assert source.asked[0] == (BEGIN, BEGIN + 10 * STEP)  # a few slots tell how many entities there are
    assert all(end == start for (_, end), (start, _) in zip(source.asked[:-1], source.asked[1:], strict=True))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_no_span_is_no_history_and_asks_nothing() -> None:
    source, _ = _source()

    history = read_history(HORIZON, source, start=BEGIN, end=BEGIN, progress=lambda _done, _what: None)

    assert history.values.shape == (0, 0, 2)
    assert source.asked == []


@pytest.mark.parametrize(
    ("entities", "metrics", "slots"), [(0, 8, 10), (10, 8, 1440), (10_000, 8, 50), (10_000_000, 8, 1)]
)
def test_the_more_entities_the_fewer_slots_at_a_time(entities: int, metrics: int, slots: int) -> None:
    assert reading.slots_at_a_time(entities, metrics) == slots
