"""A model over gridded values, with a model whose residuals can be reckoned window by window."""

from __future__ import annotations

import math
from dataclasses import replace

import made_versions
import numpy as np
import pytest

from detector.config.sections import EmbeddedSource, MonitorSection, RuleSection
from detector.core.rules import MetricRules
from detector.core.scaling import Scaling
from detector.core.series import Bool, Float32, Int64, Windows
from detector.detect import residuals
from detector.detect.horizon import decision_rules, metric_rules
from detector.detect.residuals import Selection

NAN = math.nan
STEP, TIMESTEPS, START = 60_000, 4, 6_000_000

SCALES = Scaling(
    center=np.array([[10.0, 0.0], [20.0, -5.0]], dtype=np.float32),
    scale=np.array([[2.0, 1.0], [4.0, 0.5]], dtype=np.float32),
    fleet_scale=np.array([1.0, 3.0], dtype=np.float32),
)


class _Reckons:
    """Expects half the oldest value, more by the row and the minute of the hour: all of a window matters."""

    def residuals(self, windows: Windows) -> Float32:
        more = windows.rows + windows.slots // STEP % 60
        expected = windows.values[:, 0] / 2 + more[:, None]
        return np.asarray(windows.values[:, -1] - expected, dtype=np.float32)


class _ExpectsTheMedian:
    """What is left is the newest slot itself, in scaled units."""

    def residuals(self, windows: Windows) -> Float32:
        return windows.values[:, -1]


METRICS = ("load", "errors")


def _monitor() -> MonitorSection:
    return MonitorSection(name="web", source=EmbeddedSource(type="embedded"), metrics=METRICS)


def _slots(count: int) -> Int64:
    return START + STEP * np.arange(count, dtype=np.int64)


def _noise(entities: int, slots: int) -> Float32:
    """Values with holes, (E, L, 2)."""
    rng = np.random.default_rng(3)
    values = rng.normal(10.0, 3.0, (entities, slots, 2)).astype(np.float32)
    values[rng.random(values.shape) < 0.05] = NAN
    return values


def _residuals(
    values: Float32, rows: Int64, chosen: Bool, rules: MetricRules | None = None, timesteps: int = TIMESTEPS
) -> Float32:
    return residuals.residuals(
        _Reckons() if rules is None else _ExpectsTheMedian(),
        Selection(values, rows, _slots(values.shape[1]), chosen),
        timesteps=timesteps,
        scales=SCALES,
        rules=rules or MetricRules.none(2),
    )


def test_residuals_are_those_of_every_window_by_itself() -> None:
    values, rows = _noise(2, 2503), np.array([1, 0])  # 5,000 windows: more than are gathered at a time
    chosen = np.ones((2, 2500), dtype=np.bool_)

    found = _residuals(values, rows, chosen)

    for entity, row in enumerate(rows.tolist()):
        for k, slot in enumerate(_slots(2503)[TIMESTEPS - 1 :].tolist()):
            scaled = (values[entity, k : k + TIMESTEPS] - SCALES.center[row]) / SCALES.scale[row]
            one = _Reckons().residuals(Windows(scaled[None], np.array([row]), np.array([slot])))[0]
            np.testing.assert_allclose(found[entity, k], one, rtol=1e-5, atol=1e-5)


def test_what_is_not_chosen_stays_unknown() -> None:
    chosen = np.random.default_rng(1).random((3, 17)) < 0.5
    values = np.ones((3, 20, 2), dtype=np.float32)

    found = _residuals(values, np.array([0, 1, 0]), chosen)

    np.testing.assert_array_equal(np.isnan(found), np.broadcast_to(~chosen[..., None], found.shape))


def test_choosing_some_windows_does_not_change_their_residuals() -> None:
    values, rows = _noise(2, 40), np.array([0, -1])
    some = np.random.default_rng(2).random((2, 37)) < 0.3

    of_all, of_some = (_residuals(values, rows, chosen) for chosen in (np.ones_like(some), some))

    np.testing.assert_array_equal(of_some[some], of_all[some])


def test_where_nothing_is_chosen_the_model_is_not_asked() -> None:
    found = _residuals(_noise(2, 10), np.array([0, 1]), np.zeros((2, 7), dtype=np.bool_))

    assert found.shape == (2, 7, 2)
    assert np.isnan(found).all()


def test_an_entity_that_appears_is_centered_on_its_window_in_the_scale_of_the_fleet() -> None:
    values = np.array([[[7.0, 1.0], [7.0, 1.0], [7.0, 1.0], [8.0, 4.0]]], dtype=np.float32)

    found = _residuals(values, np.array([-1]), np.ones((1, 1), dtype=np.bool_), MetricRules.none(2))

    np.testing.assert_allclose(found[0, 0], [1.0 / 1.0, 3.0 / 3.0])


def test_gathered_windows_come_entity_after_entity_with_their_rows_and_newest_slots() -> None:
    values = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    chosen = np.array([[True, True], [False, True]])

    windows = residuals.gather(Selection(values, np.array([1, 0]), _slots(3), chosen), 2, SCALES)

    # (x − center) / scale of rows 1, 1 and 0
    expected = np.array([[[-5, 12], [-4.5, 16]], [[-4.5, 16], [-4, 20]], [[-1, 9], [0, 11]]], dtype=np.float32)
    np.testing.assert_allclose(windows.values, expected)
    assert windows.rows.tolist() == [1, 1, 0]
    assert windows.slots.tolist() == [START + STEP, START + 2 * STEP, START + 2 * STEP]


def test_the_rules_of_a_monitor_are_columns_over_its_metrics() -> None:
    rule = RuleSection(metric="errors", direction="up", min_deviation=5.0, min_deviation_percent=20.0, valid_min=0.0)

    rules = metric_rules(METRICS, (rule,))

    assert (rules.counts_up.tolist(), rules.counts_down.tolist()) == ([True, True], [True, False])
    assert rules.least.tolist() == [0.0, 5.0]
    np.testing.assert_allclose(rules.least_share, [0.0, 0.2])
    assert (rules.lowest.tolist(), rules.highest.tolist()) == ([-math.inf, 0.0], [math.inf, math.inf])


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (RuleSection(metric="load"), [-2.0, -1.0, 1.0, 2.0]),
        (RuleSection(metric="load", direction="up"), [0.0, 0.0, 1.0, 2.0]),
        (RuleSection(metric="load", direction="down"), [-2.0, -1.0, 0.0, 0.0]),
        (RuleSection(metric="load", min_deviation=3.0), [-2.0, 0.0, 0.0, 2.0]),
        (RuleSection(metric="load", min_deviation_percent=30.0), [-2.0, 0.0, 0.0, 2.0]),
        (RuleSection(metric="load", direction="up", min_deviation=3.0), [0.0, 0.0, 0.0, 2.0]),
        (RuleSection(metric="errors", direction="up"), [-2.0, -1.0, 1.0, 2.0]),
    ],
    ids=["no rule", "up", "down", "own units", "percent", "both", "of the other metric"],
)
def test_rules_count_by_direction_and_least_deviation_in_the_metrics_own_units(
    rule: RuleSection, kept: list[float]
) -> None:
    # 10 is expected and a scaled unit is 2: deviations of −4, −2, 2 and 4, which are 40 and 20 percent
    values = np.zeros((1, 4, 2), dtype=np.float32)
    values[0, :, 0] = [6.0, 8.0, 12.0, 14.0]

    rules, chosen = metric_rules(METRICS, (rule,)), np.ones((1, 4), dtype=np.bool_)
    found = _residuals(values, np.array([0]), chosen, rules, timesteps=1)

    np.testing.assert_allclose(found[0, :, 0], kept, rtol=1e-6)


def test_the_decision_rules_are_those_of_the_configuration() -> None:
    monitor = _monitor()

    rules = decision_rules(monitor.decision)

    decision = monitor.decision
    assert (rules.open_slots, rules.open_of, rules.close_slots) == (2, 3, 5)
    assert (rules.score_at_once, rules.score_critical) == (decision.score_at_once, decision.score_critical)


def test_errors_are_in_units_of_each_entitys_noise_and_of_the_fleets_for_those_that_appear() -> None:
    version = made_versions.by_size(
        ("a", "b"), 2, threshold=0.256, since=START, timesteps=TIMESTEPS, network=_ExpectsTheMedian()
    )
    noise, fleet = np.array([[1.0, 1.0], [2.0, 4.0]]), np.array([0.5, 0.25])
    artifact = replace(
        version.artifact, scaling=SCALES, noise=noise.astype(np.float32), fleet_noise=fleet.astype(np.float32)
    )
    values = np.zeros((2, 5, 2), dtype=np.float32)
    values[0] = [20.0, -5.0]  # the medians of b
    values[0, 3] = [44.0, -3.0]  # 6 and 4 scaled units above: 3 and 1 times their noise
    values[1, 3] = [1.0, NAN]  # appears: 1 scaled unit above, twice the noise of the fleet

    chosen = np.array([[True, False], [True, False]])
    selection = Selection(values, np.array([1, -1]), _slots(5), chosen)
    error, share = residuals.errors(replace(version, artifact=artifact), selection, MetricRules.none(2))

    np.testing.assert_allclose(error, [[math.sqrt((9 + 1) / 2), NAN], [2.0, NAN]], rtol=1e-6)
    np.testing.assert_allclose(share[:, 0], [[0.9, 0.1], [1.0, 0.0]], rtol=1e-6)
    assert np.isnan(share[:, 1]).all()
