"""One row that cannot be read: every command uses the others, and says so (cases c02, c34, x01, x02)."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from in_process import Ended, ended_in

pytestmark = pytest.mark.slow

STEP = 60
NOW = int(time.time()) // STEP * STEP

CONFIG = """
log_level = "warning"

[database]
url = "sqlite:///detector.db"

[[monitors]]
name = "web"
metrics = ["cpu"]
timesteps = 10

[monitors.source]
type = "sql"
url = "sqlite:///source.db"
table = "samples"
entity = ["host"]
time_format = "epoch_seconds"

[monitors.model]
kind = "baseline"
"""


def _detector(folder: Path, *words: str) -> Ended:
    return ended_in(folder, *words)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A day of good rows and one whose time is in milliseconds."""
    (tmp_path / "config.toml").write_text(CONFIG)
    with closing(sqlite3.connect(tmp_path / "source.db")) as connection:
        connection.execute("CREATE TABLE samples (time INTEGER, host TEXT, cpu REAL)")
        times = range(NOW - 86_400, NOW, STEP)
        rows = [(at, "web-1", 30 + math.sin(at / 3600) + at * 7919 % 97 / 100) for at in times]
        connection.executemany("INSERT INTO samples VALUES (?, ?, ?)", [*rows, (NOW * 1000, "web-9", 1.0)])
        connection.commit()
    assert _detector(tmp_path, "db", "upgrade").status == 0
    return tmp_path


def test_check_retrain_and_explain_use_the_others_and_name_the_bad_one(folder: Path) -> None:
    told = f"1 row left out: its time cannot be read, such as '{NOW * 1000}'"

    check = _detector(folder, "check", "--json")
    monitor = json.loads(check.output)[1]
    assert monitor["rejects"] == [told]
    assert monitor["daemon"] == "would train a model at once, then score"
    retrain = _detector(folder, "retrain", "web")
    assert retrain.status == 0, retrain.errors
    assert f"monitor web: {told}" in retrain.errors
    explain = _detector(folder, "explain", "web", "web-1", "--at", "10m")
    assert told in explain.output, explain.errors


def test_check_and_score_count_each_row_once(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "source.db")) as connection:
        rows = [(NOW - STEP * n, "web-2", value) for n, value in ((3, "abc"), (4, "1e999"), (5, "17,5"), (6, "n/a"))]
        connection.executemany("INSERT INTO samples VALUES (?, ?, ?)", rows)
        connection.commit()
    until = f"{datetime.fromtimestamp(NOW - 600, UTC):%FT%TZ}"
    assert _detector(folder, "retrain", "--to", until).status == 0

    checked, scored = _detector(folder, "check", "--json"), _detector(folder, "score")

    (monitor,) = [row for row in json.loads(checked.output) if "monitor" in row]
    told = "3 rows counted as missing: its value cannot be read, such as "
    assert sum(told in line for line in monitor["rejects"]) == 1
    assert f"monitor web: {told}" in scored.errors


def test_a_source_of_which_nothing_can_be_used_is_a_problem(folder: Path) -> None:
    (folder / "config.toml").write_text(CONFIG.replace("epoch_seconds", "epoch_milliseconds"))
    with closing(sqlite3.connect(folder / "source.db")) as connection:
        connection.execute("DELETE FROM samples WHERE host = 'web-9'")  # whose time is in milliseconds
        connection.commit()

    checked = _detector(folder, "check", "--json")

    (monitor,) = [row for row in json.loads(checked.output) if "monitor" in row]
    assert checked.status == 1
    assert monitor["problem"] == "none of its rows can be used; see rejects"


def test_a_host_that_a_baseline_has_not_seen_is_unknown_not_normal(folder: Path) -> None:
    assert _detector(folder, "retrain").status == 0
    with closing(sqlite3.connect(folder / "source.db")) as connection:
        rows = [(NOW - STEP * n, "web-new", 99.0 if n < 10 else 40.0) for n in range(1, 60)]
        connection.executemany("INSERT INTO samples VALUES (?, ?, ?)", rows)
        connection.commit()

    at = f"{datetime.fromtimestamp(NOW, UTC):%FT%TZ}"  # the rows end there, whenever this runs
    scored = json.loads(_detector(folder, "score", "--at", at, "--json").output)

    assert {row["entity"]: row["state"] for row in scored} == {"web-1": "normal", "web-new": "unknown (no_model)"}


def test_a_catch_up_of_many_chunks_skips_nothing(folder: Path) -> None:
    """x01: an extent that was unknown counted as "nothing newer"."""
    begin = NOW - 12 * 3600
    moments = [time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) for at in (begin, begin + 20)]
    assert _detector(folder, "retrain", "web", "--to", moments[0]).status == 0

    for at in (moments[1], time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(NOW))):
        score = _detector(folder, "score", "web", "--at", at)
        assert score.status == 0, score.errors

    with closing(sqlite3.connect(folder / "detector.db")) as connection:
        (scored,) = connection.execute(
            "SELECT count(*) FROM detector_score WHERE slot >= ?", [(begin + STEP) * 1000]
        ).fetchone()
    assert scored >= 12 * 60 - 4  # the delay
