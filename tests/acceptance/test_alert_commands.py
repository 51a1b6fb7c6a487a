"""People answer alerts: they read why, acknowledge, close, judge, exclude, and ask why there was none."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import DETECTOR, detector

pytestmark = pytest.mark.slow

Command = Callable[..., str]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration of a demo that has ended, with its alerts."""
    folder = tmp_path_factory.mktemp("commands") / "demo"
    detector("demo", "--once", "--json", "--folder", folder)
    return folder / "config.toml"


@pytest.fixture
def run(config: Path) -> Command:
    def command(*words: str) -> str:
        return detector(*words, "--config", config).output

    return command


def _refused(config: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run([*DETECTOR, *words, "--config", config], capture_output=True, text=True, check=False)
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr


def _alerts(run: Command, *words: str) -> list[dict[str, Any]]:
    return list(json.loads(run("alerts", "list", "--json", *words)))


def test_an_alert_is_told_in_plain_words(run: Command) -> None:
    alert = _alerts(run)[-1]

    shown = run("alerts", "show", str(alert["id"]))

    assert shown.startswith("host (demo): ")
    assert "expected" in shown
    assert "% of the score" in shown
    assert "opened" in shown


def test_an_alert_keeps_what_it_takes_to_draw_it_again(run: Command) -> None:
    alert = json.loads(run("alerts", "show", str(_alerts(run)[-1]["id"]), "--json"))

    metric = alert["metrics"][0]
    assert set(metric) == {"metric", "share", "observed", "expected", "low", "high"}
    assert metric["low"] <= metric["expected"] <= metric["high"]
    assert not metric["low"] <= metric["observed"] <= metric["high"]
    assert {"start", "step", "metrics", "values", "named", "expected", "band", "scores"} == set(alert["window"])


def test_somebody_looks_after_an_alert_and_closes_it(run: Command, config: Path) -> None:
    still_open = [alert for alert in _alerts(run) if alert["state"] == "open"]
    closed = next(alert for alert in _alerts(run) if alert["state"] == "closed")
    assert _refused(config, "alerts", "ack", str(closed["id"]))[0] == 2
    for alert in still_open:
        number = str(alert["id"])
        run("alerts", "ack", number, "--by", "alice", "--comment", "looking")
        shown = json.loads(run("alerts", "show", number, "--json"))
        assert (shown["state"], shown["events"][-1]["by"]) == ("acknowledged", "alice")
        run("alerts", "close", number, "--by", "alice")
        assert json.loads(run("alerts", "show", number, "--json"))["state"] == "closed"


@pytest.mark.parametrize("verdict", ["real", "false"])
def test_an_alert_is_judged_and_what_that_changes_is_told(run: Command, verdict: str) -> None:
    number = str(_alerts(run)[0]["id"])

    said = run("incident", number, f"--{verdict}")

    assert f"alert {number} is marked {verdict}" in said
    assert "with the next recalibration" in said
    assert _alerts(run)[0]["verdict"] == verdict


def test_a_real_incident_marks_the_alerts_in_its_time_and_is_kept_out_of_training(run: Command) -> None:
    oldest = _alerts(run)[-1]

    said = run("incident", "--monitor", "demo", "--from", oldest["opened"], "--to", oldest["closed"])

    assert "kept out of training" in said
    assert _alerts(run)[-1]["verdict"] == "real"
    assert [row["effect"] for row in json.loads(run("exclude", "list", "--json"))] == ["mask"]


def test_an_exclusion_is_added_listed_and_removed(run: Command, config: Path) -> None:
    said = run("exclude", "add", "--monitor", "demo", "--for", "2h", "--rule", "FREQ=WEEKLY;BYDAY=SU", "--comment", "!")
    number = said.split()[1]

    assert "next from" in said
    assert [row["rule"] for row in json.loads(run("exclude", "list", "--json")) if str(row["id"]) == number]
    run("exclude", "remove", number)
    assert _refused(config, "exclude", "remove", number) == (
        2,
        f"detector: no exclusion {number}; see: detector exclude list\n",
    )


def test_it_is_explained_why_there_was_an_alert_and_why_there_was_none(run: Command) -> None:
    alert = _alerts(run)[-1]

    there = run("explain", "demo", "host", "--at", alert["opened"])
    before = run("explain", "demo", "host", "--at", "2026-11-24T14:19:00")

    assert f"alert {alert['id']} was open" in there
    assert "% of the score" in there
    assert "is below the threshold" in before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("alerts", "show", "999"), "no alert 999; see: detector alerts list"),
        (("alerts", "list", "--state", "odd"), "--state must be one of open, acknowledged, closed, withdrawn"),
        (("incident", "1"), "--real or --false"),
        (("incident", "--false", "--monitor", "demo", "--from", "2026-11-24", "--to", "2026-11-25"), "real incident"),
        (("alerts", "list", "--since", "999999d"), "--since"),
        (("exclude", "add", "--monitor", "demo", "--rule", "FREQ=DAILY"), "needs an end"),
        (("explain", "demo", "nobody", "--at", "2026-11-24T14:19:00"), "has no data of entity 'nobody'"),
        (("explain", "demo", "host", "--at", "yesterday"), "--at must be a time such as"),
    ],
)
def test_a_mistake_is_answered_in_one_line(config: Path, words: tuple[str, ...], expected: str) -> None:
    status, said = _refused(config, *words)

    assert status in {1, 2}
    assert expected in said
