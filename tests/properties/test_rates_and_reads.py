"""Rates do not depend on how a source is read, nor on the order of its rows."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detector.config import loading
from detector.core.series import Samples
from detector.detect.rates import Rates
from detector.sources.memory import MemorySource

STEP = 60_000
SLOTS = 40
MONITOR = loading.monitor(
    {"name": "m", "metrics": ["bytes", "load"], "rates": ["bytes"], "source": {"type": "embedded"}, "step": "60s"}
)

# entity, time in half minutes (so that some are the same), counter or none, gauge; resets are frequent
ROWS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 2 * SLOTS),
        st.one_of(st.none(), st.integers(0, 1000)),
        st.integers(0, 9),
    ),
    max_size=60,
)
Row = tuple[int, int, int | None, int]


def _source(rows: list[Row]) -> Rates:
    values = [[np.nan if count is None else float(count), float(load)] for _, _, count, load in rows]
    memory = MemorySource.of(
        ("a", "b", "c"),
        np.array([entity for entity, *_ in rows], np.int32),
        np.array([time * STEP // 2 for _, time, *_ in rows], np.int64),
        np.array(values, np.float64).reshape(len(rows), 2),
    )
    return Rates(memory, MONITOR)


def _rows(samples: Samples) -> list[tuple[str, int, int, str]]:
    columns = (samples.entity.tolist(), samples.metric.tolist(), samples.time.tolist(), samples.value.tolist())
    return sorted((samples.entities[e], m, t, repr(v)) for e, m, t, v in zip(*columns, strict=True))


@given(rows=ROWS, cuts=st.sets(st.integers(1, 2 * SLOTS - 1)))
def test_a_rate_is_the_same_however_the_range_is_cut(rows: list[Row], cuts: set[int]) -> None:
    source = _source(rows)
    bounds = [0, *(cut * STEP // 2 for cut in sorted(cuts)), (SLOTS + 1) * STEP]

    pieces = [row for start, end in itertools.pairwise(bounds) for row in _rows(source.read(start, end))]

    assert sorted(pieces) == _rows(source.read(0, (SLOTS + 1) * STEP))


@given(rows=ROWS)
def test_a_rate_is_that_of_a_plain_loop(rows: list[Row]) -> None:
    """Another implementation: sample by sample, as the counter's keeper would."""
    expected = {}
    for entity in range(3):
        newest = {
            time: count
            for of, time, count, _ in sorted(rows, key=lambda row: row[1])
            if of == entity and count is not None
        }
        before: tuple[int, int] | None = None
        for time in sorted(newest):
            count = newest[time]
            if before is not None and time - before[0] <= 2 * 5:
                grown = count - before[1] if count >= before[1] else count
                expected["abc"[entity], time * STEP // 2] = grown / ((time - before[0]) * STEP / 2000)
            before = time, count

    samples = _source(rows).read(0, (SLOTS + 1) * STEP)
    known = (samples.metric == 0) & ~np.isnan(samples.value)
    found = zip(
        samples.entity[known].tolist(), samples.time[known].tolist(), samples.value[known].tolist(), strict=True
    )

    assert {(samples.entities[e], time): value for e, time, value in found} == expected


@given(rows=ROWS)
def test_what_is_no_counter_comes_as_it_is(rows: list[Row]) -> None:
    source = _source(rows)
    plain, rated = source._source.read(0, SLOTS * STEP), source.read(0, SLOTS * STEP)

    assert rated.entities == plain.entities
    assert rated.value[plain.metric == 1].tolist() == plain.value[plain.metric == 1].tolist()
