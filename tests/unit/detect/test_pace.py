"""How far apart the rows of an entity usually are, and the step that is proposed."""

from __future__ import annotations

import numpy as np
import pytest

from detector.core.series import Samples
from detector.detect import pace


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
