"""An older model version is looked at, and made the live one again."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from in_process import Ended, ended_in
from running import configure, usage_table

pytestmark = pytest.mark.slow

Run = Callable[..., Ended]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Commands on a monitor with two versions, of which the second is live."""
    rng, now = np.random.default_rng(5), int(time.time()) // 60 * 60
    with closing(sqlite3.connect(tmp_path / "usage.db")) as connection, connection:
        connection.execute("CREATE TABLE usage (time INTEGER, host TEXT, load REAL)")
        rows = [(at, host, 50 + rng.normal()) for at in range(now - 36_000, now, 60) for host in ("a", "b")]
        connection.executemany("INSERT INTO usage VALUES (?, ?, ?)", rows)
    monitor = {"name": "web", "metrics": ["load"], "model": {"kind": "baseline"}}
    config = configure(tmp_path, {**monitor, "source": usage_table(tmp_path / "usage.db")})

    def command(*words: str) -> Ended:
        return ended_in(config.parent, *words, "--config", config)

    for words in (("db", "upgrade"), ("retrain",), ("retrain",)):
        assert command(*words).status == 0
    return command


def test_an_older_version_becomes_the_live_one_and_scores(run: Run) -> None:
    said = run("models", "promote", "1")

    assert said.output == (
        "model version 1 of monitor web is live instead of 2, until the next training (0 3 * * sun);"
        " a daemon takes it at its next tick\n"
    )
    listed = json.loads(run("models", "list", "--json").output)
    assert {row["version"]: row["live"] for row in listed} == {1: True, 2: False}
    assert "would score with model version 1" in run("check").output
    assert run("score").status == 0


def test_a_version_that_does_not_fit_or_is_none_is_refused(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(config.read_text().replace('"load"', '"load", "errors"'))

    misfit, missing = run("models", "promote", "1"), run("models", "promote", "9")

    assert (misfit.status, missing.status) == (1, 2)
    assert "was trained for other settings than monitor 'web' has now" in misfit.errors
    assert missing.errors == "detector: no model version 9; see: detector models list\n"


def test_a_version_is_shown_without_innards_and_whole_as_json(run: Run) -> None:
    shown, as_json = run("models", "show", "2").output, json.loads(run("models", "show", "2", "--json").output)

    assert not {"nan", "calibrated_from"} & set(shown.split())
    assert "{" not in shown
    assert {"fingerprint", "trained_until", "seed", "blind_ratio"} <= set(as_json[0])
