"""What an older version has left, held as files, goes on with this one: database, model and configuration."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from in_process import detector, ended_in
from running import daemon

from detector.store import schema

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures/first_schema"))

import make

pytestmark = pytest.mark.slow

ANSWERS = sorted((make.HERE / "answers").iterdir())
GONE = ("recalibrate =", "open_at_once =", "close_below =", "critical_at =")
"""Keys of the old configuration that this version refuses."""


@pytest.fixture(autouse=True)
def _folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration takes the folder of its database from the environment, as under systemd."""
    for name in ("STATE_DIRECTORY", "DETECTOR_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the old database, brought up to date, and the old configuration: for commands that only read."""
    folder = tmp_path_factory.mktemp("first_schema")
    _upgraded(folder)
    return folder


def _upgraded(folder: Path) -> Path:
    """The old database in a folder, after what a new version asks for: a command, and a line less."""
    database, config = make.restore(folder), folder / "config.toml"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if not line.startswith(GONE)))
    detector("db", "upgrade", cwd=folder)
    return database


@pytest.mark.parametrize("answer", ANSWERS, ids=[path.stem for path in ANSWERS])
def test_old_database_is_shown_in_the_same_words(answer: Path, restored: Path) -> None:
    asked, expected = answer.read_text().replace("schema 0002", f"schema {schema.HEAD}").split("\n", maxsplit=1)

    assert detector(*asked.removeprefix("$ detector ").split(), cwd=restored).output == expected


def test_old_alerts_live_on_and_the_old_model_scores_what_it_would_have_scored(tmp_path: Path) -> None:
    expected = json.loads((make.HERE / "committed.json").read_text())
    database = _upgraded(tmp_path)
    cursor = make.cursor_of(database)
    before = {alert["id"]: alert for alert in make.committed(database, cursor)["alerts"]}

    printed = detector("score", "--at", make.moment(make.TICK), "--json", cwd=tmp_path).output

    found = make.committed(database, cursor)
    assert found["cursor"] == expected["cursor"]
    places = [[(row["slot"], row["entity"], row["model_version"]) for row in of["scores"]] for of in (found, expected)]
    assert places[0] == places[1]
    assert {row["entity"] for row in json.loads(printed)} == {row["entity"] for row in expected["printed"]}
    after = {alert["id"]: alert for alert in found["alerts"]}
    assert before.keys() <= after.keys()
    for number, alert in before.items():  # one that was open is open, or has closed because what it told is over
        assert after[number]["opened_slot"] == alert["opened_slot"]
        assert alert["closed_slot"] is None or after[number] == alert
    # its notifier does not answer, so this is no success
    checked = ended_in(tmp_path, "check")
    assert "alerts by its errors alone; for all of them run: detector retrain web" in checked.output


def test_daemon_goes_on_with_the_old_model(tmp_path: Path) -> None:
    _upgraded(tmp_path)
    config = tmp_path / "config.toml"
    text = config.read_text().replace("${STATE_DIRECTORY:-.}", str(tmp_path))
    config.write_text(text.replace("127.0.0.1:9788", "127.0.0.1:0"))

    with daemon(config) as running:
        tick = running.until_logged(r"event=tick_done monitor=web .*")

    assert tick[0].endswith("model=1")
