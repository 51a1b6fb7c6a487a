"""`detector retrain --recalibrate`: the network stays, the threshold follows what is usual now."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from running import DETECTOR, configure, detector

from detector import database
from detector.store import models

MONITOR = {"name": "web", "metrics": ["load", "errors"], "timesteps": 10, "model": {"kind": "baseline"}}

MINUTE = 60
SLOTS = 3_000
TRAINED = 1_500


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A monitor whose metrics are noise, three halves as much of it in the second half as in the first."""
    path = configure(tmp_path, MONITOR)
    rng = np.random.default_rng(2)
    now = int(time.time()) // MINUTE * MINUTE
    noise = rng.normal(0.0, 1.0, (SLOTS, 2))
    noise[TRAINED:] *= 1.5
    with (tmp_path / "samples.csv").open("w") as file:
        file.write("timestamp,entity,load,errors\n")
        for slot, (load, errors) in enumerate(noise.tolist()):
            file.write(f"{now - (SLOTS - slot) * MINUTE},web-1,{load},{errors}\n")
    detector("import", tmp_path / "samples.csv", "--monitor", "web", "--config", path)
    until = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now - (SLOTS - TRAINED) * MINUTE))
    detector("retrain", "--to", until, "--config", path)
    return path


def _models(config: Path) -> list[dict[str, object]]:
    return list(json.loads(detector("models", "list", "--config", config, "--json").output))


def test_recalibration_finds_the_drift_and_keeps_what_was_trained(config: Path) -> None:
    # the newest 30 % of 28 days, so all there is: half of it as before, half 1.5 times as much
    said = detector("retrain", "--recalibrate", "--config", config).output

    found = re.fullmatch(
        r"monitor web: model version 2 is live; usual errors are (\d\.\d\d) × those at training\n", said
    )
    assert found
    assert 1.2 < float(found[1]) < 1.6
    assert [(model["version"], model["live"]) for model in _models(config)] == [(2, True), (1, False)]


def test_recalibrating_again_measures_against_training_and_leaves_two_versions(config: Path) -> None:
    first = detector("retrain", "--recalibrate", "--config", config).output
    second = detector("retrain", "--recalibrate", "--config", config).output

    assert first.partition("errors are")[2] == second.partition("errors are")[2]
    assert [(model["version"], model["live"]) for model in _models(config)] == [(3, True), (1, False)]


def test_recalibration_waits_for_a_training_of_the_same_monitor(config: Path) -> None:
    engine = database.connect(f"sqlite:///{config.parent}/detector.db")
    assert models.acquire_lease(engine, "retrain:web", "somebody", now=0, expires_at=1 << 62)
    engine.dispose()

    command: list[str | Path] = [*DETECTOR, "retrain", "--recalibrate", "--config", config]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "monitor 'web' is being trained by another process; wait for it to end" in done.stderr


def test_without_a_model_there_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    path = configure(tmp_path, MONITOR)
    detector("db", "upgrade", "--config", path)

    command: list[str | Path] = [*DETECTOR, "retrain", "--recalibrate", "--config", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    expected = "monitor 'web' has no live model to recalibrate; run: detector retrain web"
    assert done.stderr.splitlines()[-1] == f"detector: {expected}"
