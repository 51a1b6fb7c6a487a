"""What an operator knows of the metrics: which deviations count, which values are never valid."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from detector.core.rules import MetricRules
from detector.core.series import Float32

NAN = math.nan


def _row(*values: float) -> Float32:
    return np.array([values], dtype=np.float32)


def _counted(rules: MetricRules, residual: float, *, observed: float = 100.0, scale: float = 1.0) -> float:
    """What the rules leave of one residual of one metric."""
    return float(rules.counted(_row(residual), _row(observed), _row(scale))[0, 0])


def _rules(*, up: bool = True, down: bool = True, least: float = 0.0, least_share: float = 0.0) -> MetricRules:
    return replace(
        MetricRules.none(1),
        counts_up=np.array([up]),
        counts_down=np.array([down]),
        least=np.array([least], dtype=np.float32),
        least_share=np.array([least_share], dtype=np.float32),
    )


def test_without_rules_every_residual_stays_as_it_is() -> None:
    residuals = _row(-3.0, 0.0, 1e-6, 7.0)

    counted = MetricRules.none(4).counted(residuals, _row(1.0, 2.0, 3.0, 4.0), _row(1.0, 1.0, 1.0, 1.0))

    np.testing.assert_array_equal(counted, residuals)


@pytest.mark.parametrize(("up", "down", "kept"), [(True, False, [0.0, 2.0]), (False, True, [-2.0, 0.0])], ids=str)
def test_deviations_in_a_direction_that_does_not_count_are_no_residual(up: bool, down: bool, kept: list[float]) -> None:
    rules = _rules(up=up, down=down)

    assert [_counted(rules, residual) for residual in (-2.0, 2.0)] == kept


@pytest.mark.parametrize(("residual", "kept"), [(2.4, 0.0), (2.5, 2.5), (-2.4, 0.0), (-2.5, -2.5)])
def test_the_least_deviation_is_in_the_metrics_own_units(residual: float, kept: float) -> None:
    rules = _rules(least=10.0)

    # a scaled unit is 4 of the metric's own: 2.5 of them are the least that counts
    assert _counted(rules, residual, scale=4.0) == pytest.approx(kept)


@pytest.mark.parametrize(
    ("observed", "residual", "kept"),
    [
        (125.0, 25.0, 25.0),  # 100 expected: a quarter more
        (124.0, 24.0, 0.0),
        (75.0, -25.0, -25.0),
        (-75.0, 25.0, 25.0),  # −100 expected
        (-76.0, 24.0, 0.0),
        (0.5, 0.5, 0.5),  # 0 expected: anything is more than a share of it
    ],
)
def test_the_least_share_is_of_the_expected_value(observed: float, residual: float, kept: float) -> None:
    assert _counted(_rules(least_share=0.25), residual, observed=observed) == kept


def test_a_deviation_must_be_large_enough_by_both_measures() -> None:
    rules = _rules(least=30.0, least_share=0.25)

    # 100 expected: 26 are enough as a share and too few as such; 200 expected: the other way round
    assert [_counted(rules, 26.0, observed=126.0), _counted(rules, 40.0, observed=240.0)] == [0.0, 0.0]
    assert _counted(rules, 60.0, observed=260.0) == 60.0


def test_metrics_have_rules_of_their_own() -> None:
    up, least = np.array([False, True, True]), np.array([0.0, 5.0, 0.0], dtype=np.float32)
    rules = replace(MetricRules.none(3), counts_up=up, least=least)

    counted = rules.counted(_row(3.0, 3.0, 3.0), _row(9.0, 9.0, 9.0), _row(1.0, 1.0, 1.0))

    np.testing.assert_array_equal(counted, [[0.0, 0.0, 3.0]])


def test_rules_refuse_to_be_written_into() -> None:
    rules = MetricRules.none(1)

    with pytest.raises(ValueError, match="read-only"):
        rules.counts_up[0] = False


@pytest.mark.parametrize("rules", [MetricRules.none(1), _rules(up=False, down=False, least=1e9)], ids=["none", "all"])
def test_a_missing_value_stays_missing(rules: MetricRules) -> None:
    assert math.isnan(_counted(rules, NAN, observed=NAN))


def test_residuals_passed_in_stay_as_they_were() -> None:
    residuals = _row(3.0)

    _rules(up=False).counted(residuals, _row(1.0), _row(1.0))

    assert residuals.tolist() == [[3.0]]


def test_a_value_outside_its_range_is_told_and_one_on_its_edge_is_not() -> None:
    lowest, highest = _row(0.0, -math.inf, -math.inf)[0], _row(100.0, 1.0, math.inf)[0]
    rules = replace(MetricRules.none(3), lowest=lowest, highest=highest)
    values = np.array([[-0.1, -1e9, -1e9], [0.0, 1.0, 0.0], [100.0, 1.1, 1e9], [100.1, NAN, NAN]], dtype=np.float32)

    outside = rules.outside(values)

    assert outside.tolist() == [[True, False, False], [False, False, False], [False, True, False], [True, False, False]]


def test_a_range_of_one_end_is_a_range() -> None:
    lowest = replace(MetricRules.none(2), lowest=_row(-math.inf, 0.0)[0])
    highest = replace(MetricRules.none(2), highest=_row(0.0, math.inf)[0])

    assert [rules.has_range for rules in (MetricRules.none(2), lowest, highest)] == [False, True, True]
