"""The seasonal baseline: medians by the hour, in the monitor's time zone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from detector.core.series import Float32, History, Int64, Windows
from detector.errors import ArtifactError
from detector.models import baseline
from detector.models.artifact import BaselineSpec
from detector.models.baseline import SeasonalBaseline

NAN = math.nan
HOUR = 3_600_000
BERLIN = ZoneInfo("Europe/Berlin")


def _history(values: Float32, start: datetime = datetime(1970, 1, 1, tzinfo=UTC)) -> History:
    """Hourly history (E, L, 1) from values (E, L)."""
    names = tuple(f"web-{row}" for row in range(len(values)))
    return History(names, round(start.timestamp() * 1000), HOUR, values[..., None].astype(np.float32))


def _everything(history: History) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    return np.ones(history.values.shape[:2], dtype=np.bool_)


def _newest(values: list[float], rows: list[int], slots: Int64) -> Windows:
    """Windows of one slot, (B, 1, 1)."""
    return Windows(np.array(values, dtype=np.float32).reshape(-1, 1, 1), np.array(rows, dtype=np.int64), slots)


def _milliseconds(*times: str) -> Int64:
    return np.array([datetime.fromisoformat(time).timestamp() * 1000 for time in times], dtype=np.int64)


@pytest.mark.parametrize(("days", "phases"), [(0.0, 1), (2.9, 1), (3.0, 24), (20.9, 24), (21.0, 168)], ids=str)
def test_a_rhythm_is_expected_once_it_has_been_seen_three_times(days: float, phases: int) -> None:
    assert baseline.phases_for(days) == phases


def test_every_hour_of_the_day_expects_its_median() -> None:
    hours, days = np.arange(24), np.array([0.0, 1.0, 5.0, 2.0])  # median 1.5
    history = _history((10.0 * hours + days[:, None]).reshape(1, -1))

    spec, weights = baseline.fit(history, _everything(history), "UTC")

    assert spec == BaselineSpec(metrics=1, phases=24, time_zone="UTC")
    np.testing.assert_allclose(weights["profile"][0, :, 0], 10.0 * hours + 1.5)


def test_what_is_not_chosen_or_missing_does_not_count() -> None:
    values = np.tile(np.arange(24.0), (2, 5))
    values[:, :24] += 100.0  # the first day is not chosen
    values[0, 24:48] = NAN
    history = _history(values)
    chosen = _everything(history)
    chosen[:, :24] = False

    _, weights = baseline.fit(history, chosen, "UTC")

    np.testing.assert_allclose(weights["profile"][..., 0], [np.arange(24.0)] * 2)


def test_an_hour_seen_less_than_three_times_is_expected_to_be_as_ever() -> None:
    values = np.full((1, 4 * 24), 7.0)
    values[0, [3, 3 + 24]] = NAN

    _, weights = baseline.fit(_history(values), _everything(_history(values)), "UTC")

    assert weights["profile"][0, :5, 0].tolist() == [7.0, 7.0, 7.0, 0.0, 7.0]


def test_metrics_have_profiles_of_their_own() -> None:
    values = np.stack([np.tile(np.arange(24.0), 3), np.tile(np.arange(24.0, 0.0, -1.0), 3)], axis=1)[None]
    history = History(("a",), 0, HOUR, values.astype(np.float32))

    _, weights = baseline.fit(history, _everything(history), "UTC")

    np.testing.assert_allclose(weights["profile"][0], values[0, :24])


def test_less_than_three_days_expect_zero_which_is_the_median_of_the_scaling() -> None:
    history = _history(np.full((2, 71), 4.0))

    spec, weights = baseline.fit(history, _everything(history), "UTC")

    assert spec.phases == 1
    assert weights["profile"].tolist() == [[[0.0]], [[0.0]]]
    assert weights["fleet_profile"].tolist() == [[0.0]]


def test_the_profile_of_the_fleet_is_that_of_the_middle_entity() -> None:
    history = _history(np.repeat([[1.0], [9.0], [2.0]], 3 * 24, axis=1))

    _, weights = baseline.fit(history, _everything(history), "UTC")

    np.testing.assert_allclose(weights["fleet_profile"], np.full((24, 1), 2.0))


def _local_hours(start: datetime, days: int) -> Float32:
    """What the hour hand shows in Berlin at every hour from `start` on, as the standard library says."""
    moments = [(start + timedelta(hours=hour)).astimezone(BERLIN) for hour in range(24 * days)]
    return np.array([[moment.hour for moment in moments]], dtype=np.float32)


@pytest.mark.parametrize("start", [datetime(2024, 3, 26, tzinfo=UTC), datetime(2024, 10, 22, tzinfo=UTC)], ids=str)
def test_hours_are_those_of_the_time_zone_before_and_after_clocks_are_changed(start: datetime) -> None:
    history = _history(_local_hours(start, days=12), start)

    _, weights = baseline.fit(history, _everything(history), "Europe/Berlin")

    np.testing.assert_array_equal(weights["profile"][0, :, 0], np.arange(24))


def test_three_weeks_tell_the_days_of_the_week_apart_beginning_on_monday() -> None:
    start = datetime(2024, 6, 5, tzinfo=UTC)
    moments = [start + timedelta(hours=hour) for hour in range(21 * 24)]
    history = _history(np.array([[24 * moment.weekday() + moment.hour for moment in moments]]), start)

    spec, weights = baseline.fit(history, _everything(history), "UTC")

    assert spec.phases == 168
    np.testing.assert_array_equal(weights["profile"][0, :, 0], np.arange(168))


def _by_hand(time_zone: str = "UTC") -> SeasonalBaseline:
    """One entity that expects the number of the hour, in a fleet that expects ten times as much."""
    hours = np.arange(24.0)[:, None]
    return SeasonalBaseline(BaselineSpec(1, 24, time_zone), {"profile": hours[None], "fleet_profile": 10.0 * hours})


def test_residuals_are_what_the_newest_slot_is_above_its_median() -> None:
    windows = _newest([9.0, 9.0, NAN], [0, 0, 0], HOUR * np.array([7, 24 + 11, 7]))

    residuals = _by_hand().residuals(windows)

    np.testing.assert_allclose(residuals, [[2.0], [-2.0], [NAN]])
    assert residuals.dtype == np.float32


def test_only_the_newest_slot_of_a_longer_window_counts() -> None:
    values = np.array([[[50.0], [NAN], [8.0]]], dtype=np.float32)

    residuals = _by_hand().residuals(Windows(values, np.array([0]), np.array([7 * HOUR])))

    assert residuals.tolist() == [[1.0]]


def test_an_entity_that_was_not_there_is_held_against_the_profile_of_the_fleet() -> None:
    windows = _newest([72.0, 9.0], [-1, 0], HOUR * np.array([7, 7]))

    np.testing.assert_allclose(_by_hand().residuals(windows), [[2.0], [2.0]])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("2024-03-30T07:30+00:00", "2024-03-31T06:30+00:00"),
        ("2024-10-26T06:30+00:00", "2024-10-27T07:30+00:00"),
    ],
    ids=["to summer time", "to winter time"],
)
def test_the_same_local_hour_is_expected_the_day_clocks_are_changed(before: str, after: str) -> None:
    windows = _newest([8.0, 8.0], [0, 0], _milliseconds(before, after))

    assert _by_hand("Europe/Berlin").residuals(windows).tolist() == [[0.0], [0.0]]


def test_no_windows_give_no_residuals() -> None:
    assert _by_hand().residuals(_newest([], [], np.empty(0, dtype=np.int64))).shape == (0, 1)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"profile": np.zeros((1, 24, 1))}, r"without array 'fleet_profile'; run: detector retrain"),
        ({"profile": np.zeros((1, 168, 1)), "fleet_profile": np.zeros((24, 1))}, r"\(24, 1\) expected, \(168, 1\) rec"),
        ({"profile": np.zeros((1, 24, 2)), "fleet_profile": np.zeros((24, 2))}, r"\(24, 1\) expected, \(24, 2\) rec"),
    ],
    ids=["an array is missing", "other phases", "other metrics"],
)
def test_arrays_that_do_not_fit_the_spec_are_refused(weights: Mapping[str, Float32], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        SeasonalBaseline(BaselineSpec(1, 24), weights)
