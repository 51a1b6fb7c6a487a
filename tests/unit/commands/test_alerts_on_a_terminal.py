"""A list of alerts on a terminal: every line fits, in a pipe every column is there."""

from __future__ import annotations

import sys

import pytest
from commits import T0, change, commit
from in_process import Commands

from detector.core.decide import Change
from detector.store.state import StateStore

LONG = "an-entity-with-a-name-that-no-terminal-has-room-for.example.org"


@pytest.fixture
def listed(run: Commands) -> Commands:
    explanation = '{"metrics": [{"metric": "disk_write_bytes_per_second"}, {"metric": "cpu_percent"}]}'
    opened = change(Change.OPENED, entity=LONG, explanation=explanation)
    StateStore(run.engine).commit(commit(changes=[opened]))
    return run


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_lines_fit_the_terminal(listed: Commands, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))

    head, line = listed("alerts", "list").output.splitlines()

    assert max(len(head), len(line)) <= columns
    assert line.endswith("…") == (columns < 150)
    assert line.split()[:5] == ["1", "open", "warning", "2024-01-01", "12:00"]  # T0 is noon


def test_a_pipe_gets_every_column(listed: Commands) -> None:
    head, line = listed("alerts", "list", "--monitor", "web").output.splitlines()

    assert {"incident", "reopened", "muted", "notified"} <= set(head.split())
    assert LONG in line
    assert "…" not in line


def test_how_long_an_alert_lasted_is_said(listed: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = change(Change.CLOSED, entity=LONG, slot=T0 + 90 * 60_000)
    StateStore(listed.engine).commit(commit(expected_cursor=T0, cursor=T0 + 90 * 60_000, changes=[closed]))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    assert " 1 h 30 min " in listed("alerts", "list").output


def test_no_alerts_of_a_monitor_without_a_model_is_not_said_as_if_all_were_well(run: Commands) -> None:
    assert run("alerts", "list").output == "no alerts; still without a model: web, db (detector check)\n"
    assert run("alerts", "list", "--monitor", "db").output == "no alerts; still without a model: db (detector check)\n"
    assert run("alerts", "list", "--json").output == "[]\n"
