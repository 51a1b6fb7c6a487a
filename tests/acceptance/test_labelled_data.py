"""Real, labelled data of other people, the whole way: imported, trained on, replayed by the daemon, alerts exported.

How good the alerts are is judged by `detector backtest`; here it only matters that all of the way is gone.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from running import Finished, configure, daemon, detector, labelled, values_of

CHECKOUT = Path(__file__).parents[2]
DATA = Path(os.environ.get("DETECTOR_TEST_DATA", CHECKOUT.parent / "shared/data"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no labelled data at {DATA}; set DETECTOR_TEST_DATA"),
]

Record = Callable[[str, object], None]

NAB_BEGIN = datetime(2014, 1, 1, tzinfo=UTC)
NAB_TRAINED = NAB_BEGIN + timedelta(minutes=5 * 750)  # at most 750 rows of a file are history
SMD_HISTORY = 23_687  # rows of each file that are history
SMD_ROWS = slice(20_000, 29_000)  # days of both parts; the files have two weeks of each
SMD_TRAINED = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(minutes=SMD_HISTORY)


@dataclass(frozen=True)
class Run:
    """What one set went through."""

    imported: list[dict[str, Any]]
    retrained: Finished
    replay_seconds: float
    daemon_peak_megabytes: float
    metrics: dict[str, Any]
    alerts: list[dict[str, Any]]
    scores: int


def _run(folder: Path, name: str, step: str, metrics: list[str], data: Path, trained_until: datetime) -> Run:
    settings = {"retrain": "off", "max_catch_up": "36500d", "keep_scores": "36500d", "training": {"epochs": 3}}
    config = configure(folder, {"name": name, "step": step, "metrics": metrics, **settings})
    imported = detector("import", data, "--monitor", name, "--config", config, "--json")
    retrained = detector("retrain", name, "--config", config, "--to", f"{trained_until:%Y-%m-%dT%H:%M:%S}")
    with daemon(config) as running:
        tick = running.until_logged(r"event=tick_done .*seconds=(\S+)", 600)
        metrics_now = running.metrics()
        peak = running.megabytes("VmHWM")
        assert "tensorflow" not in Path(f"/proc/{running.process.pid}/maps").read_text()
        assert running.end(signal.SIGTERM)[0] == 0
    alerts = json.loads(detector("alerts", "list", "--config", config, "--json").output)
    with sqlite3.connect(folder / "detector.db") as connection:
        (scores,) = connection.execute("SELECT count(*) FROM detector_score").fetchone()
    connection.close()
    return Run(json.loads(imported.output), retrained, float(tick[1]), peak, metrics_now, alerts, scores)


def _record(record_property: Record, name: str, run: Run) -> None:
    figures = {
        "alerts": len(run.alerts),
        "scores": run.scores,
        "retrain_seconds": round(run.retrained.seconds, 1),
        "retrain_peak_megabytes": round(run.retrained.peak_megabytes),
        "replay_seconds": round(run.replay_seconds, 1),
        "daemon_peak_megabytes": round(run.daemon_peak_megabytes),
    }
    print(name, json.dumps(figures))
    for figure, value in figures.items():
        record_property(f"{name}_{figure}", value)


def _without_labels(source: Path, target: Path, shift: Callable[[datetime], timedelta] | None = None) -> int:
    """Copies a file, gunzipped, without its labels; `shift` moves its times by what it says of the first. Its rows."""
    with gzip.open(source, "rt", newline="") as read, target.open("w", newline="") as written:
        rows, out = csv.reader(read), csv.writer(written)
        out.writerow(next(rows)[:-1])
        by, count = timedelta(0), 0
        for count, (time, *values) in enumerate(rows, 1):
            moment = datetime.fromisoformat(time).replace(tzinfo=UTC)
            if count == 1 and shift is not None:
                by = shift(moment)
            out.writerow([f"{moment + by:%Y-%m-%dT%H:%M:%SZ}", *values[:-1]])
    return count


def _part(source: Path, target: Path, rows: slice) -> None:
    """Copies some rows of a file, gunzipped."""
    with gzip.open(source, "rt") as read, target.open("w") as written:
        written.write(next(read))
        written.writelines(itertools.islice(read, rows.start, rows.stop))


def test_cloud_metrics_of_seventeen_machines_become_alerts(tmp_path: Path, record_property: Record) -> None:
    data = tmp_path / "data"
    data.mkdir()
    files = sorted((DATA / "NAB").glob("realAWSCloudwatch__*.csv.gz"))
    # they were recorded in different months: moved to begin together, so that they are one fleet
    rows = [
        _without_labels(file, data / f"{file.name.split('.')[0]}.csv", lambda first: NAB_BEGIN - first)
        for file in files
    ]

    run = _run(tmp_path, "cloud", "5m", ["value"], data, NAB_TRAINED)

    _record(record_property, "nab", run)
    assert sum(outcome["rows"] for outcome in run.imported) == sum(rows)
    assert sum(outcome["bad_lines"] for outcome in run.imported) == 0
    assert values_of(run.metrics["detector_alerts_total"], "monitor") == {"cloud"}
    # one that got worse counts under both severities
    total = labelled(run.metrics["detector_alerts_total"], monitor="cloud")
    assert 0 < len(run.alerts) <= total <= 2 * len(run.alerts)
    assert {alert["monitor"] for alert in run.alerts} == {"cloud"}
    # every file is scored from the end of the history on, but for slots without a row
    assert run.scores > 0.9 * (sum(rows) - 750 * len(files))


def test_three_server_machines_with_38_metrics_become_alerts(tmp_path: Path, record_property: Record) -> None:
    metrics, data = [f"m{index:02}" for index in range(38)], tmp_path / "data"
    data.mkdir()
    for file in (DATA / "SMD").glob("*.csv.gz"):
        _part(file, data / file.name.removesuffix(".gz"), SMD_ROWS)

    run = _run(tmp_path, "servers", "60s", metrics, data, SMD_TRAINED)

    _record(record_property, "smd", run)
    assert [outcome["bad_lines"] for outcome in run.imported] == [0, 0, 0]
    # labels are a column that is no metric: left out
    assert [outcome["samples"] for outcome in run.imported] == [38 * outcome["rows"] for outcome in run.imported]
    # one that got worse counts under both severities
    total = labelled(run.metrics["detector_alerts_total"], monitor="servers")
    assert 0 < len(run.alerts) <= total <= 2 * len(run.alerts)
    assert run.scores == 3 * (SMD_ROWS.stop - SMD_HISTORY)
    assert all(set(alert["top_metrics"]) <= set(metrics) and alert["top_metrics"] for alert in run.alerts)
