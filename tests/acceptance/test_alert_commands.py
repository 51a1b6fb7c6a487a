"""People answer alerts: they read why, acknowledge, close, judge, exclude, and ask why there was none."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import DETECTOR, detector

from detector import database
from detector.core.decide import Change, Episode, Severity
from detector.ports import AlertChange, Commit, ScoreRows
from detector.store import alerts
from detector.store.state import StateStore

pytestmark = pytest.mark.slow

Command = Callable[..., str]
NO_SCORES = ScoreRows(entity=[], slot=[], score=[])


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
    return list(json.loads(run("alerts", "list", "--entity", "host", "--json", *words)))


def test_an_alert_is_shown_in_plain_words(run: Command) -> None:
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
    assert set(alert["window"]) == {
        "start",
        "step",
        "metrics",
        "values",
        "named",
        "expected",
        "band",
        "least",
        "scores",
    }


@pytest.fixture
def open_alert(config: Path) -> str:
    """Number of an alert that is open: all of the demo's are over."""
    engine = database.connect(f"sqlite:///{config.parent / 'detector.db'}")
    store = StateStore(engine)
    now, entity = 1_795_000_000_000, f"host-{time.monotonic_ns()}"
    opened = AlertChange(Change.OPENED, entity, now, Episode(now, now, Severity.WARNING, 1.5, now), now, None)
    cursor = store.cursor("demo")
    assert cursor is not None
    store.commit(Commit("demo", cursor, cursor, now, 1, NO_SCORES, NO_SCORES, [opened]))
    number = alerts.listing(engine, entity=entity)[0].id
    engine.dispose()
    return str(number)


def test_somebody_looks_after_an_alert_and_closes_it(run: Command, config: Path, open_alert: str) -> None:
    run("alerts", "ack", open_alert, "--by", "alice", "--comment", "looking")
    shown = json.loads(run("alerts", "show", open_alert, "--json"))
    assert (shown["state"], shown["events"][-1]["by"]) == ("acknowledged", "alice")
    done = subprocess.run([*DETECTOR, "alerts", "list", "--open", "--config", config], capture_output=True, check=False)
    assert done.returncode == 3
    assert "acknowledged already, by alice" in run("alerts", "ack", open_alert)

    run("alerts", "close", open_alert, "--by", "alice")
    assert json.loads(run("alerts", "show", open_alert, "--json"))["state"] == "closed"
    assert run("alerts", "list", "--open") == "no alerts\n"
    assert _refused(config, "alerts", "close", open_alert) == (2, f"detector: alert {open_alert} is closed already\n")


@pytest.mark.parametrize("verdict", ["real", "false"])
def test_an_alert_is_judged_and_its_consequence_is_told(run: Command, verdict: str) -> None:
    number = str(_alerts(run)[0]["id"])

    said = run("incident", number, f"--{verdict}")

    assert said.startswith(f"alert {number} is marked {verdict}: ")
    assert said.endswith(" from the next training on\n")
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


def test_it_is_told_what_it_would_take_to_open_an_alert(run: Command) -> None:
    words = ("explain", "demo", "host", "--sensitivity", "--at", "2026-11-24T14:38:00")

    told, strict = run(*words), json.loads(run(*words, "--json"))

    assert told.startswith("host (demo) from 2026-11-24T14:38:00Z on\n")
    names, *lines = told.splitlines()[3:]
    assert names.split("  ")[0] == "metric"
    assert "above, 15 s" in names
    assert "below, 2 min 30 s" in names
    by_name = {metric["metric"]: metric for metric in strict["metrics"]}
    assert [line.split()[0] for line in lines] == list(by_name)
    assert strict["seconds"] == [15.0, 150.0]
    # 3 processes, hardly ever more or less: two of the demo's faults are told by that
    short, long = by_name["processes"]["above"]["values"]
    assert by_name["processes"]["usual"] < long <= short < 4


def test_a_version_in_use_tells_what_it_takes_to_open_an_alert(run: Command) -> None:
    (shown,) = json.loads(run("models", "show", "1", "--json"))

    assert shown["blind_ratio"] == 0.0
    assert shown["deviations_to_alert"] > 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("explain", "demo", "nobody", "--sensitivity"), "monitor 'demo' knows no entity 'nobody'"),
        (("alerts", "show", "999"), "no alert 999; see: detector alerts list"),
        (("alerts", "list", "--state", "odd"), "--state must be one of open, acknowledged, closed, withdrawn"),
        (("incident", "1"), "--real, --false or --undo"),
        (("incident", "--false", "--monitor", "demo", "--from", "2026-11-24", "--to", "2026-11-25"), "real incident"),
        (("alerts", "list", "--since", "999999d"), "--since"),
        (("exclude", "add", "--monitor", "demo", "--rule", "FREQ=DAILY"), "needs an end"),
        (
            ("explain", "demo", "nobody", "--at", "2026-11-24T14:19:00"),
            "no entity 'nobody' is on record of monitor 'demo'",
        ),
        (("explain", "demo", "host", "--at", "yesterday"), "--at must be a time such as"),
    ],
)
def test_a_mistake_is_answered_in_one_line(config: Path, words: tuple[str, ...], expected: str) -> None:
    status, said = _refused(config, *words)

    assert status in {1, 2}
    assert expected in said
