"""The scoring benchmark's engines that need no more than a training does; the others come with the extra `bench`."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from detector.models import network
from detector.models.artifact import NetworkSpec

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "scoring.py"


@pytest.mark.slow
def test_keras_is_timed_on_the_network_that_is_trained() -> None:
    spec = NetworkSpec(timesteps=6, metrics=2, units=4)
    model = network.build(spec)
    inputs = np.random.default_rng(1).normal(size=(40, spec.timesteps - 1, spec.channels)).astype(np.float32)
    expected = np.asarray(model(inputs))

    engines = runpy.run_path(str(BENCHMARK))["keras_engines"](model)

    assert list(engines) == ["predict_32", "predict_1024", "tensorflow"]
    for engine in engines.values():
        np.testing.assert_allclose(engine(inputs), expected, rtol=0, atol=1e-5)
