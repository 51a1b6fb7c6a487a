"""How far apart the rows of an entity usually are, and the step that is proposed."""

from __future__ import annotations

import numpy as np
import pytest

from detector.config.sections import EmbeddedSource, MonitorSection
from detector.core.series import Samples
from detector.detect import pace
from detector.detect.horizon import Horizon


@pytest.mark.parametrize(
    ("milliseconds", "expected"), [(298_000, "5m"), (3_600_000, "1h"), (90_000, "90s"), (400, "1s"), (86_000_000, "1d")]
)
def test_a_step_is_proposed_as_people_would_write_it(milliseconds: int, expected: str) -> None:
    assert pace.written(milliseconds) == expected


def test_the_usual_distance_is_that_of_one_metric_of_one_entity_without_doubles() -> None:
    zeros = np.zeros(5, np.int32)
    time = np.array([0, 60, 60, 120, 30], np.int64)
    samples = Samples(("a", "b"), np.array([0, 0, 0, 0, 1], np.int32), zeros, time, np.ones(5))

    assert pace.usual_distance(samples) == 60


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 'set step = "20m", or fill = "last"'),
        ({"fill": "last", "fill_limit": "10m"}, "a value holds for 10m; raise fill_limit"),
        ({"fill": "last"}, None),  # for an hour
        ({"aggregate": "count"}, None),  # no row is a count of 0
    ],
)
def test_rows_every_twenty_minutes_ask_for_another_step_unless_slots_between_them_have_a_value(
    settings: dict[str, str], expected: str | None
) -> None:
    monitor = {"name": "m", "metrics": ("cpu",), "source": EmbeddedSource(type="embedded"), **settings}
    zeros = np.zeros(4, np.int32)
    samples = Samples(("a",), zeros, zeros, np.arange(4) * 1_200_000, np.ones(4))

    advice = pace.too_fine_a_step(Horizon.of(MonitorSection.model_validate(monitor)), samples)

    assert advice is None if expected is None else expected in str(advice)
