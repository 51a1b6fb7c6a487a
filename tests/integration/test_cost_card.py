"""`detector check` against a fleet that is too large for this machine, and `detector bench`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from running import DETECTOR, detector

from detector import database

pytestmark = pytest.mark.slow

ENTITIES, SLOTS = 2_000, 40
FILL = f"""
    WITH RECURSIVE slot(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM slot WHERE n < {SLOTS} - 1),
                   host(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM host WHERE n < {ENTITIES} - 1)
    INSERT INTO measured SELECT 1767225600 + slot.n, 'host-' || host.n, random() / 9.3e18, random() / 9.3e18
    FROM slot, host"""
MONITOR = """
[[monitors]]
name = "{name}"
step = "{step}"
metrics = ["cpu", "memory"]
model = {{ units = {units} }}
timesteps = {timesteps}
source = {{ type = "sql", table = "measured", entity = ["host"], time = "ts", time_format = "epoch_seconds" }}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration without monitors, and two thousand hosts with a row a second."""
    engine = database.connect(f"sqlite:///{tmp_path}/detector.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE measured (ts bigint, host text, cpu double precision, memory real)")
        connection.exec_driver_sql(FILL)
        connection.exec_driver_sql("CREATE INDEX measured_ts ON measured (ts)")
    engine.dispose()
    path = tmp_path / "config.toml"
    path.write_text(f'[database]\nurl = "sqlite:///{tmp_path}/detector.db"\n')
    return path


def _with_monitors(config: Path, *monitors: dict[str, object]) -> Path:
    config.write_text(config.read_text() + "".join(MONITOR.format(**monitor) for monitor in monitors))
    return config


def test_check_shows_what_a_tick_takes(config: Path) -> None:
    path = _with_monitors(config, {"name": "small", "step": "10s", "units": 8, "timesteps": 4})

    rows = json.loads(detector("check", "--json", "--config", path).output)

    assert "of 10 s on this machine" in rows[1]["capacity"]


def test_check_refuses_what_this_machine_cannot_carry_and_says_what_to_change(config: Path) -> None:
    fine = {"name": "small", "step": "10s", "units": 8, "timesteps": 4}
    path = _with_monitors(config, fine, {"name": "large", "step": "1s", "units": 1024, "timesteps": 160})

    done = subprocess.run(
        [*DETECTOR, "check", "--config", path], capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "monitor 'large': 2,000 entities take about " in done.stderr
    assert "a tick comes every 1 s; raise step to " in done.stderr
    assert "lower model.units" in done.stderr


@pytest.mark.slow
def test_bench_measures_every_figure_of_a_small_monitor(config: Path) -> None:
    config.write_text(f'{config.read_text()}[[monitors]]\nname = "small"\nsource = {{ type = "host" }}\n')
    # a host has other metrics, but the fleet is synthetic
    asked = ["--entities", "200", "--metrics", "3", "--timesteps", "10", "--units", "16"]

    done = detector("bench", "--json", "--config", config, *asked)

    card = json.loads(done.output)[0]
    assert card["model"].startswith("lstm, 16 units")
    assert card["window"] == "10 slots of 3 metrics"
    figures = {name: value for name, value in card.items() if not isinstance(value, str)}
    assert min(figures.values()) > 0, figures
    assert card["windows_per_second_and_core"] * card["cores"] == pytest.approx(card["windows_per_second"], rel=0.01)
    assert card["share_of_matrix_peak"] < 1.0
