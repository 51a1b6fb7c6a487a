"""Return periods of several entities at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from detector.core import pool
from detector.core.series import Float32

MINUTE = 60_000
NAN = math.nan
HALF_HOUR = 0.5 / 168.0  # weeks


def _together(*own: ArrayLike, step: int = MINUTE) -> Float32:
    """Of entities with one slot, or more, each."""
    return pool.together(np.atleast_2d(np.array(own, dtype=np.float32).T).T, step=step)


def _of_group(count: int, fleet: int, least: float, span: float = HALF_HOUR) -> float:
    """ln of weeks between groups of so many, whose least member has a return period of exp(least) weeks."""
    mean = fleet * span / math.exp(least)
    independent = count * math.log(mean / count) - mean + count
    return math.log(span) - 0.4 * independent + math.log(fleet / count)


def test_fewer_than_three_are_not_several() -> None:
    assert np.isnan(_together(5.0, 5.0, -2.0, -9.0, NAN)).all()


def test_five_at_once_are_rarer_than_each() -> None:
    found = _together(*[0.0] * 5, *[-9.0] * 5)[:, 0]

    np.testing.assert_allclose(found[:5], _of_group(5, 10, 0.0), rtol=1e-5)
    assert found[0] > 2.0
    assert np.isnan(found[5:]).all()


def test_the_fleet_is_those_of_whom_something_is_known() -> None:
    found = _together(0.0, 0.0, 0.0, -9.0, NAN, NAN)[:, 0]

    np.testing.assert_allclose(found[:3], _of_group(3, 4, 0.0), rtol=1e-5)


def test_what_each_has_seen_more_often_than_weekly_brings_nothing_together() -> None:
    assert np.isnan(_together(*[-1.1] * 20)).all()
    assert not np.isnan(_together(*[-0.9] * 20)).any()


def test_at_long_steps_three_slots_are_at_once() -> None:
    hour = 60 * MINUTE

    np.testing.assert_allclose(
        _together(1.0, 1.0, 1.0, -9.0, step=hour)[0], _of_group(3, 4, 1.0, span=3.0 / 168.0), rtol=1e-5
    )


def _slowly(own: list[float]) -> list[float]:
    """Each entity's rarest group of those that it belongs to."""
    known = sum(not math.isnan(one) for one in own)
    part = sorted((one for one in own if one > -1.0), reverse=True)
    result = []
    for one in own:
        groups = [
            _of_group(count, known, part[count - 1])
            for count in range(3, len(part) + 1)
            if one > -1.0 and one >= part[count - 1]
        ]
        result.append(max(groups, default=NAN))
    return result


@given(st.lists(st.one_of(st.just(NAN), st.floats(-6, 9, width=32).filter(lambda x: abs(x + 1) > 1e-3)), max_size=12))
def test_everybody_has_the_rarest_group_that_it_belongs_to(own: list[float]) -> None:
    found = pool.together(np.array(own, dtype=np.float32)[:, None], step=MINUTE)[:, 0]

    np.testing.assert_allclose(found, _slowly(own), rtol=1e-4, atol=1e-4)


def test_slots_do_not_influence_each_other() -> None:
    rng = np.random.default_rng(0)
    own = rng.normal(-1, 2, (9, 50)).astype(np.float32)
    own[rng.random(own.shape) < 0.1] = NAN

    together = pool.together(own, step=MINUTE)

    for k in range(50):
        np.testing.assert_array_equal(together[:, k], pool.together(own[:, [k]], step=MINUTE)[:, 0])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_nothing_comes_of_nothing(shape: tuple[int, int]) -> None:
    assert pool.together(np.empty(shape, dtype=np.float32), step=MINUTE).shape == shape
