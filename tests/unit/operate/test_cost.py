"""What ticks cost: operations counted by hand, and fleets reckoned from measured ones."""

from __future__ import annotations

from datetime import timedelta

import pytest

from detector.config.sections import EmbeddedSource, ModelSection, MonitorSection
from detector.cores import cores
from detector.models.artifact import NetworkSpec
from detector.operate import cost as capacity
from detector.operate.cost import TickCost

MINUTE = timedelta(minutes=1)


def _monitor(**settings: object) -> MonitorSection:
    source = EmbeddedSource(type="embedded")
    return MonitorSection.model_validate({"name": "web", "source": source, "metrics": ("a", "b"), **settings})


def test_operations_of_a_network_are_those_counted_by_hand() -> None:
    # encoder, 4 slots: 8 rows of 2 states and 3 + 1 channels; decoder, 1 step: 8 rows of 2 + 2; output: 3 of 2
    multiplications = 4 * 8 * (2 + 4) + 8 * (2 + 2) + 3 * 2

    assert capacity.flops_of_newest(NetworkSpec(timesteps=5, metrics=3, units=2)) == 2 * multiplications


def test_both_directions_and_all_layers_count() -> None:
    # each direction of the 1st layer: 8·(2 + 4), of the 2nd: 8·(2 + 4); decoders: 8·(4 + 2), 8·(2 + 2)
    multiplications = 4 * 4 * 8 * 6 + 8 * 6 + 8 * 4 + 3 * 2

    spec = NetworkSpec(timesteps=5, metrics=3, units=2, layers=2, bidirectional=True)

    assert capacity.flops_of_newest(spec) == 2 * multiplications


@pytest.mark.parametrize(
    ("settings", "seconds", "slots"),
    [
        ({}, 60, 1),
        ({"score_every": timedelta(minutes=10)}, 600, 10),
        ({"score_every": timedelta(seconds=10)}, 60, 1),  # ticks in between have nothing to score
    ],
)
def test_a_tick_scores_what_has_come_since_the_last(settings: dict[str, object], seconds: float, slots: int) -> None:
    monitor = _monitor(**settings)

    assert (capacity.interval(monitor), capacity.slots_per_tick(monitor)) == (seconds, slots)


COST = TickCost(
    entities=101,
    seconds=1.35,
    cpu_seconds=2.0,
    read_seconds=0.3,
    least_seconds=0.05,
    bytes_per_entity=1000,
    model_bytes=10_000,
)
"""0.05 s for the first entity, 0.01 s for each one more, 0.3/101 s each to read."""


def test_seconds_of_other_fleets_lie_on_a_line() -> None:
    assert COST.of(101) == pytest.approx(1.35)
    assert COST.of(1) == pytest.approx(0.05 + 0.3 / 101)
    assert COST.of(1001) == pytest.approx(0.05 + 10.0 + 0.3 * 1001 / 101)


def test_a_source_of_its_own_replaces_the_synthetic_one() -> None:
    assert COST.of(101, read_seconds=4.0) == pytest.approx(0.05 + 1.0 + 4.0)


def test_the_largest_fleet_takes_the_time_there_is() -> None:
    fleet = COST.fleet(seconds=30.0)

    assert COST.of(fleet) <= 30.0 < COST.of(fleet + 1)


@pytest.mark.parametrize("kind", ["network", "baseline"])
def test_ticks_are_measured_with_the_monitor_s_own_model(kind: str) -> None:
    monitor = _monitor(timesteps=8, model=ModelSection.model_validate({"kind": kind, "units": 4}))

    cost = capacity.tick_cost(monitor, 20)

    assert cost.entities == 20
    assert 0.0 < cost.read_seconds < cost.seconds
    assert cost.least_seconds > 0.0
    assert cost.cpu_seconds > 0.0
    # entities' names and scaling, noise, calibration: 4·(2 + 2 + 2 + 3 + 3) bytes; a baseline has 168 medians a metric
    assert cost.model_bytes > 20 * 4 * (12 + (168 * 2 if kind == "baseline" else 0))


@pytest.mark.slow
def test_a_large_network_is_measured_with_fewer_entities() -> None:
    monitor = _monitor(timesteps=200, model=ModelSection(units=128))

    assert 2 <= capacity.tick_cost(monitor, 1000).entities < 1000


def test_even_a_large_network_is_measured_with_several_entities_for_each_core() -> None:
    """One for each core takes as long as one in all, so the next one would seem to cost nothing."""
    monitor = _monitor(timesteps=100, model=ModelSection(units=256))

    assert capacity.tick_cost(monitor, 20).entities >= min(20, 4 * cores())
