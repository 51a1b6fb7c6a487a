"""What is like an alert that people have judged."""

from __future__ import annotations

import math

import numpy as np
import pytest

from detector.core.precedents import NONE, SLOTS, Patterns, followed, padded
from detector.core.series import Float32

NAN = float("nan")


def _window(*newest: float, before: tuple[float, ...] | None = None) -> Float32:
    """Deviations (1, SLOTS, F): the newest three slots, and those before them, are alike."""
    window = np.tile(np.array(before or [0.0] * len(newest), dtype=np.float32), (1, SLOTS, 1))
    window[:, -3:] = newest
    return window


def _pattern(*newest: float, before: tuple[float, ...] | None = None) -> Patterns:
    return Patterns.of(_window(*newest, before=before))


def _joined(*patterns: Patterns) -> Patterns:
    direction, size = (np.concatenate([getattr(one, name) for one in patterns]) for name in ("direction", "size"))
    return Patterns(direction, size)


def test_a_pattern_is_what_three_slots_show_beyond_those_before_them() -> None:
    found = _pattern(12.0, 4.0, before=(2.0, 0.0))

    # 10 and 4 deviations more than before, of which one each counts for nothing
    logs = np.array([math.log1p(9.0), math.log1p(3.0)])
    np.testing.assert_allclose(found.direction[0], logs / math.hypot(*logs), rtol=1e-5)
    assert found.size[0] == pytest.approx(7.0)


def test_what_is_missing_and_what_is_beyond_a_hundred_deviations_tells_nothing_more() -> None:
    assert _pattern(NAN, 40.0).direction.tolist() == _pattern(0.0, 40.0).direction.tolist()
    assert _pattern(1000.0, 40.0).size[0] == pytest.approx(70.0)


def test_nothing_unusual_has_no_direction() -> None:
    found = _pattern(3.0, 1.0, before=(2.5, 0.5))

    assert not found.direction.any()


def test_a_shorter_window_is_one_of_which_the_beginning_is_unknown() -> None:
    window = _window(9.0, 5.0)[0]

    padding = padded(window[-5:])

    assert padding.shape == (SLOTS, 2)
    assert np.isnan(padding[:-5]).all()
    assert Patterns.of(padding[None]).direction.tolist() == _pattern(9.0, 5.0).direction.tolist()


@pytest.mark.parametrize(
    ("seen", "is_followed"),
    [
        ((20.0, 10.0, 0.0), True),
        ((14.1, 7.0, 0.0), True),  # of two thirds of the size and a little more
        ((13.8, 7.0, 0.0), False),
        ((60.0, 30.0, 0.0), True),
        ((10.0, 20.0, 0.0), True),  # metrics are told apart by the logarithm of how far they are
        ((20.0, 0.0, 10.0), False),
        ((30.0, 0.0, 0.0), False),
    ],
)
def test_a_pattern_follows_one_that_points_the_same_way_and_is_not_much_larger(
    seen: tuple[float, ...], is_followed: bool
) -> None:
    found = followed(_pattern(*seen), _pattern(20.0, 10.0, 0.0), np.array([True]))

    assert found.tolist() == [0 if is_followed else NONE]


def test_the_verdict_on_the_nearest_one_counts() -> None:
    real, false = _pattern(20.0, 10.0, 0.0), _pattern(20.0, 10.0, 1.5)
    precedents = _joined(false, real)

    found = followed(_joined(real, false, _pattern(0.0, 0.0, 30.0)), precedents, np.array([False, True]))

    assert found.tolist() == [1, NONE, NONE]


def test_only_precedents_that_count_are_followed() -> None:
    same = _pattern(20.0, 10.0)
    counts = np.array([[True, False], [False, False], [False, True]])

    found = followed(_joined(same, same, same), _joined(same, same), np.array([True, True]), counts=counts)

    assert found.tolist() == [0, NONE, 1]


def test_of_one_metric_a_false_one_of_any_size_counts() -> None:
    false, real = _pattern(8.0), _pattern(20.0)

    assert followed(real, _joined(real), np.array([True])).tolist() == [0]
    assert followed(real, _joined(false, real), np.array([False, True])).tolist() == [NONE]


def test_noise_follows_nothing() -> None:
    noise = np.abs(np.random.default_rng(0).normal(0.0, 1.5, (5_000, SLOTS, 5))).astype(np.float32)

    patterns = Patterns.of(noise)

    assert not patterns.direction.any()


@pytest.mark.parametrize(("worst", "is_pattern"), [(5.9, False), (6.0, True)])
def test_a_pattern_needs_a_metric_that_is_far_from_usual(worst: float, is_pattern: bool) -> None:
    assert _pattern(worst, 3.0).direction.any() == is_pattern


def test_what_lasts_is_known_from_the_slots_there_are() -> None:
    whole = _window(20.0, 8.0, before=(0.0, 8.0))[0]

    short = Patterns.of(padded(whole[-10:])[None])

    assert short.direction.tolist() == Patterns.of(whole[None]).direction.tolist() == [[1.0, 0.0]]


def test_where_nothing_was_real_nothing_is_followed() -> None:
    same = _pattern(20.0, 10.0)

    assert followed(same, same, np.array([False])).tolist() == [NONE]


def test_what_is_found_does_not_depend_on_how_many_are_asked_for_at_once() -> None:
    rng = np.random.default_rng(0)
    windows = rng.exponential(20.0, (400, SLOTS, 7)).astype(np.float32)
    known, is_real = Patterns.of(windows[:12]), rng.random(12) < 0.7

    at_once = followed(Patterns.of(windows), known, is_real)

    one_by_one = [followed(Patterns.of(windows[n : n + 1]), known, is_real)[0] for n in range(len(windows))]
    assert at_once.tolist() == one_by_one
    assert (at_once >= 0).sum() >= is_real.sum()
