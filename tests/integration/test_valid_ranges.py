"""Values that are never valid: an alert without any model, and its end."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

import pytest
from running import EVERY_SECOND, configure, daemon, detector, labelled, until, usage_table

MONITOR = {
    **EVERY_SECOND,
    "name": "disks",
    "metrics": ["used_percent", "load"],
    "timesteps": 10,
    "retrain": "off",
    "rules": [{"metric": "used_percent", "valid_max": 95.0}],
}


@pytest.mark.slow
def test_an_invalid_value_is_a_critical_alert_without_a_model_and_closes_when_it_is_gone(tmp_path: Path) -> None:
    now, full_for = int(time.time()), 8
    rows = [
        (now + second, host, 99.0 if host == "full" and 0 <= second < full_for else 50.0, 1.0)
        for second in range(-30, 120)
        for host in ("full", "fine")
    ]
    with sqlite3.connect(tmp_path / "samples.db") as connection:
        connection.execute("CREATE TABLE usage (time INTEGER, host TEXT, used_percent REAL, load REAL)")
        connection.executemany("INSERT INTO usage VALUES (?, ?, ?, ?)", rows)
    connection.close()
    config = configure(tmp_path, {**MONITOR, "source": usage_table(tmp_path / "samples.db")})

    with daemon(config) as running:
        active = until(lambda: running.metrics().get("detector_alert_active"), "an alert")
        assert labelled(active, entity="full", severity="critical") == 1
        assert labelled(active, entity="fine") == 0
        # whoever is not invalid is not normal either: there is no model that could say so
        entities = running.metrics()["detector_entities"]
        assert labelled(entities, state="unknown", reason="no_model") >= 1
        assert labelled(entities, state="normal") == 0
        until(lambda: not running.metrics().get("detector_alert_active"), "the end of the alert")

    (alert,) = json.loads(detector("alerts", "list", "--config", config, "--json").output)
    assert (alert["entity"], alert["state"], alert["severity"]) == ("full", "closed", "critical")
    assert alert["top_metrics"] == ["used_percent"]
