"""Counters as rates per second."""

from __future__ import annotations

import math

import numpy as np
import pytest

from detector.core import rates
from detector.core.series import Samples

NAN = math.nan
MINUTE = 60_000


def _of(*rows: tuple[int, float], longest: int = 5) -> list[float]:
    """Rates per second of one counter; times and `longest` in minutes."""
    time = np.array([MINUTE * minute for minute, _ in rows], dtype=np.int64)
    value = np.array([value for _, value in rows], dtype=np.float64)
    return list(rates.per_second(np.zeros(len(rows), np.int64), time, value, longest * MINUTE).tolist())


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], []),
        ([(0, 7.0)], [NAN]),
        ([(0, 0.0), (1, 60.0), (3, 300.0)], [NAN, 1.0, 2.0]),
        ([(0, 600.0), (1, 30.0), (2, 90.0)], [NAN, 0.5, 1.0]),  # began anew, and was 30 since
        ([(0, 5.0), (1, 5.0), (2, 5.0)], [NAN, 0.0, 0.0]),
        ([(0, 0.0), (5, 300.0), (11, 660.0)], [NAN, 1.0, NAN]),  # a gap that is too long
        ([(0, 0.0), (1, NAN), (2, 120.0)], [NAN, NAN, 1.0]),
        ([(0, 0.0), (1, math.inf), (2, 120.0)], [NAN, NAN, 1.0]),
        ([(2, 120.0), (0, 0.0), (1, 60.0)], [1.0, NAN, 1.0]),  # in any order
        ([(0, 0.0), (1, 999.0), (1, 60.0), (2, 120.0)], [NAN, NAN, 1.0, 1.0]),  # the last of one time counts
        ([(0, 0.0), (1, 60.0), (1, NAN), (2, 120.0)], [NAN, 1.0, NAN, 1.0]),
        ([(0, 1.0), (1, -5.0), (2, 5.0)], [NAN, NAN, pytest.approx(10 / 60)]),  # no counter is below 0
        ([(0, 2.0**52), (1, 2.0**52 + 60)], [NAN, 1.0]),
    ],
)
def test_a_rate_is_the_increase_per_second_since_the_sample_before(
    rows: list[tuple[int, float]], expected: list[float]
) -> None:
    assert _of(*rows) == pytest.approx(expected, nan_ok=True)


def test_series_do_not_mix() -> None:
    series, time = np.array([0, 1, 0, 1]), np.array([0, 0, MINUTE, MINUTE])

    found = rates.per_second(series, time, np.array([0.0, 1000.0, 60.0, 1120.0]), MINUTE)

    assert found.tolist() == pytest.approx([NAN, NAN, 1.0, 2.0], nan_ok=True)


def _samples(entities: tuple[str, ...], *rows: tuple[int, int, int, float]) -> Samples:
    entity, metric, time, value = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Samples(
        entities,
        np.array(entity, np.int32),
        np.array(metric, np.int32),
        np.array(time, np.int64),
        np.array(value, float),
    )


def test_only_counters_change_and_what_came_before_is_of_the_same_entity() -> None:
    before = _samples(("b", "a"), (0, 0, 0, 40.0), (1, 0, 0, 10.0), (1, 1, 0, 5.0))
    samples = _samples(("a", "c"), (0, 0, 1000, 12.0), (0, 1, 1000, 6.0), (1, 0, 1000, 3.0))

    found = rates.of_samples(before, samples, np.array([True, False]), 5000)

    assert found.entities == ("a", "c")
    assert found.value.tolist() == pytest.approx([2.0, 6.0, NAN], nan_ok=True)
    assert samples.value.tolist() == [12.0, 6.0, 3.0]


def _series(*values: list[float]) -> Samples:
    """A metric for each list, of one entity."""
    rows = [(0, metric, n, value) for metric, row in enumerate(values) for n, value in enumerate(row)]
    return _samples(("a",), *rows)


GROWING = [float(n * n) for n in range(40)]
ANEW = [*GROWING[:20], *GROWING[:20]]
WAVE = [math.sin(n) for n in range(40)]
RARE = [float(n // 10) for n in range(40)]
FEW = GROWING[:10]
LOSING = [100.0 + n % 7 for n in range(40)]
BELOW = [n - 20.0 for n in range(40)]


def test_what_only_grows_and_begins_anew_looks_like_a_counter() -> None:
    samples = _series(GROWING, ANEW, WAVE, RARE, FEW, LOSING, BELOW, [1.0] * 40)

    assert list(rates.like_counters(samples, 8)) == [0, 1]


def test_a_metric_is_no_counter_if_one_of_its_series_falls() -> None:
    growing, falling = [(0, 0, n, value) for n, value in enumerate(GROWING)], [(1, 0, n, 100.0 - n) for n in range(40)]

    assert list(rates.like_counters(_samples(("a", "b"), *growing), 1)) == [0]
    assert list(rates.like_counters(_samples(("a", "b"), *growing, *falling), 1)) == []


def test_nothing_looks_like_nothing() -> None:
    assert list(rates.like_counters(_samples(()), 2)) == []
