"""Commands that only read, where there is no database: they say so and create nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from detector.cli import main
from detector.config import loading

pytestmark = pytest.mark.slow

CONFIG = """
[database]
url = "sqlite:///detector.db"

[[monitors]]
name = "web"
metrics = ["load"]
source = { type = "embedded" }

[[monitors]]
name = "table"
metrics = ["load"]
source = { type = "sql", url = "sqlite:///samples.db", table = "samples" }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with nothing but a configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTOR_CONFIG", raising=False)
    (tmp_path / "config.toml").write_text(CONFIG)
    return tmp_path


def _status(monkeypatch: pytest.MonkeyPatch, words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["detector", *words.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.mark.parametrize(
    "words",
    [
        "alerts list",
        "alerts show 1",
        "alerts ack 1",
        "exclude list",
        "explain web host --at 2h",
        "models list",
        "models show 1",
        "report --out report.html",
        "db check",
        "db prune",
        "score",
        "retrain",
        "incident 1 --real",
    ],
)
def test_missing_database_is_one_line_and_stays_missing(
    words: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = _status(monkeypatch, words)

    said = capsys.readouterr()
    assert (status, said.out) == (3, "")
    assert said.err.count("\n") == 1
    assert said.err.startswith("detector: the detector's database must exist. Received: sqlite:///detector.db, but ")
    assert f"{folder / 'detector.db'};" in said.err
    assert [path.name for path in folder.iterdir()] == ["config.toml"]


@pytest.mark.parametrize("has_folder", [True, False])
def test_command_beside_the_service_finds_its_database_or_says_which_one_it_uses(
    has_folder: bool, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, state = folder / "config.toml", folder / "state"
    config.write_text(CONFIG.replace("sqlite:///detector.db", "sqlite:///${STATE_DIRECTORY:-.}/detector.db"))
    monkeypatch.setattr(loading, "SERVICE", loading.Service(config, (state,)))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    if has_folder:
        state.mkdir()

    status = _status(monkeypatch, "alerts list")

    *notes, error = capsys.readouterr().err.splitlines()
    assert (status, f"{state if has_folder else folder}/detector.db;" in error) == (3, True)
    assert [note.partition(" Using ")[2] for note in notes] == (
        [] if has_folder else [f"sqlite:///./detector.db, in {folder}"]
    )


def test_check_says_that_the_daemon_would_create_the_database(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = _status(monkeypatch, "check --json")

    own, web, table = json.loads(capsys.readouterr().out)
    assert own["schema"] == "no such file; the daemon will create it and its tables"
    assert web["daemon"] == "would wait for `detector import` and train after 60 slots"
    assert (status, "unable to open database file: it does not exist" in table["problem"]) == (1, True)
    assert [path.name for path in folder.iterdir()] == ["config.toml"]
