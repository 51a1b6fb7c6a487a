"""Explanations in plain words."""

from __future__ import annotations

import math
from typing import Any

import pytest

from detector import wording as words

DISK = {
    "metric": "disk_write_bytes",
    "share": 0.7123,
    "observed": 41_234_567.0,
    "expected": 4.6e6,
    "low": 3.2e6,
    "high": 6.04e6,
}
CPU = {"metric": "cpu", "share": 0.2, "observed": 0.5, "expected": 0.0, "low": -0.1, "high": 0.1}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (99.1234, "99.1"),
        (-0.012345, "-0.0123"),
        (999.4, "999"),
        (999.7, "1 000"),
        (12_345.0, "12 300"),
        (41_234_567.0, "41 200 000"),
        (2.5e-7, "2.50e-07"),
        (3.21e14, "3.21e+14"),
    ],
)
def test_a_number_has_three_significant_digits(value: float, expected: str) -> None:
    assert words.number(value) == expected.replace(" ", "\u202f")


def test_a_metric_is_shown_with_its_expected_range_and_its_share() -> None:
    assert words.metric_line(DISK) == "disk_write_bytes 41.2 MB, expected 3.2–6.04 MB, 71 % of the score"


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("disk_write_bytes_per_second", (41_234_567.0,), "41.2 MB/s"),
        ("network_bytes", (999.0,), "999 B"),
        ("memory_bytes", (0.0, 1.5e9), "0–1.5 GB"),
        ("cpu_percent", (-2.4, 58.2), "-2.4 to 58.2 %"),
        ("load_1m", (1.31,), "1.31"),
        ("requests", (12_345.0,), "12\u202f300"),
    ],
)
def test_a_value_has_the_unit_that_its_metric_is_named_after(
    metric: str, values: tuple[float, ...], expected: str
) -> None:
    assert words.quantity(metric, *values) == expected


def test_the_rate_of_a_counter_is_per_second() -> None:
    assert words.quantity("bytes_total", 1500.0, is_rate=True) == "1.5 kB/s"
    assert words.metric_line(
        {"metric": "requests_total", "observed": 3.0, "low": 1.0, "high": 2.0, "is_rate": True}
    ) == ("requests_total 3/s, expected 1–2/s")


def test_a_range_below_zero_is_written_without_a_dash() -> None:
    assert words.metric_line(CPU) == "cpu 0.5, expected -0.1 to 0.1, 20 % of the score"


def test_what_is_not_known_is_left_out() -> None:
    metric = {"metric": "cpu", "share": 1.0, "observed": None, "expected": None, "low": None, "high": None}

    assert words.metric_line(metric) == "cpu missing, 100 % of the score"


@pytest.mark.parametrize(
    ("part", "begin"),
    [
        ({"kind": "network", "slots": 10}, "Unexpected over 10 slots: "),
        ({"kind": "shape", "slots": 30}, "Unusual movement over 30 slots: "),
        ({"kind": "far", "slots": 3}, "Far from usual over 3 slots: "),
        ({"kind": "metric", "slots": 10}, "One metric far from usual for 10 slots: "),
        ({"kind": "record", "slots": 3}, "Beyond everything seen for 3 slots: "),
        (
            {"kind": "missed", "slots": 3, "start": 9_000_000, "end": 9_900_000, "move": "rise"},
            "No rise at 02:30–02:45 UTC as on every day before: ",
        ),
        ({"kind": "spike", "slots": 1}, "Spike: "),
        ({"kind": "drift", "slots": 60}, "Drift over the last 60 slots: "),
        ({"kind": "range", "slots": 1}, "Outside its valid range: "),
        ({"kind": "frozen", "slots": 1}, "Frozen: "),
        ({}, "Unusual: "),
    ],
)
def test_a_sentence_begins_with_what_kind_of_anomaly_it_is(part: dict[str, Any], begin: str) -> None:
    sentence = words.sentence({"metrics": [CPU], "part": part})

    assert sentence == f"{begin}{words.metric_line(CPU)}."


def test_a_sentence_names_three_metrics_and_counts_the_rest() -> None:
    sentence = words.sentence({"metrics": [CPU] * 5, "part": {"kind": "spike"}})

    assert sentence.count("expected") == 3
    assert sentence.endswith("; and 2 more.")


def test_silence_is_said_without_metrics() -> None:
    assert words.sentence({"metrics": [], "part": {"kind": "no_data", "slots": 10}}) == "No data for 10 slots."


@pytest.mark.parametrize("explanation", [{}, {"metrics": []}, {"metrics": None}])
def test_nothing_known_is_nothing_said(explanation: dict[str, Any]) -> None:
    assert words.sentence(explanation) == ""


def test_what_is_not_finite_is_nothing_in_json() -> None:
    value = {"a": [1.5, math.nan, {"b": (math.inf, "x", None, True)}], 3: -math.inf}

    assert words.finite(value) == {"a": [1.5, None, {"b": [None, "x", None, True]}], "3": None}


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        (0, "0 s"),
        (5000, "5 s"),
        (90_000, "1 min 30 s"),
        (3_600_000, "1 h"),
        (86_459_000, "1 d"),
        (26 * 3_600_000, "1 d 2 h"),
        (257_331_000, "2 d 23 h"),
    ],
)
def test_a_duration_is_in_its_two_largest_units(milliseconds: int, expected: str) -> None:
    assert words.duration(milliseconds) == expected


def test_one_thing_is_not_said_as_many() -> None:
    assert [words.amount(number, "monitor") for number in (0, 1, 2)] == ["0 monitors", "1 monitor", "2 monitors"]
    assert [words.amount(number, "entity") for number in (1, 1200)] == ["1 entity", "1,200 entities"]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("latency_ms", "49–82 ms"), ("uptime_seconds", "49–82 s"), ("items_per_second", "49–82"), ("load", "49–82")],
)
def test_a_metric_of_time_has_its_unit(metric: str, expected: str) -> None:
    assert words.quantity(metric, 49.0, 82.0) == expected
