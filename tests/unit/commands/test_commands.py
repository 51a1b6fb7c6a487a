"""Commands on a database of their own: what they refuse, in which words and with which status."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NoReturn

import pytest
from in_process import Commands
from sqlalchemy import text

from detector.core.decide import Change, Episode, Severity
from detector.ports import AlertChange, Commit, JudgedRanges, ScoreRows
from detector.store import models, schema
from detector.store.state import StateStore


@pytest.mark.parametrize(
    "words",
    [
        ("alerts", "show"),
        ("alerts", "ack"),
        ("alerts", "close"),
        ("exclude", "remove"),
        ("models", "show"),
        ("incident", "--real"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("number", ["9223372036854775808", "0", "123456789012345678901234567890"])
def test_a_number_that_nothing_has_is_one_line(run: Commands, words: tuple[str, ...], number: str) -> None:
    ended = run(*words, number)  # x14

    assert ended.status == 2
    assert ended.errors.startswith("detector: no ")
    assert ended.errors.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "ignored"),
    [
        (("--from", "2026-11-20"), "--from"),
        (("--from", "2026-11-20", "--to", "2026-11-21"), "--from, --to"),
        (("--entity", "web-*"), "--entity"),
        (("--monitor", "web"), "--monitor"),
    ],
)
def test_a_verdict_refuses_options_that_it_would_ignore(run: Commands, options: tuple[str, ...], ignored: str) -> None:
    ended = run("incident", "5", "--real", *options)  # bug 31

    assert (ended.status, ended.errors) == (
        2,
        f"detector: an ALERT says when, where and of which monitor; leave out {ignored}\n",
    )


def test_models_are_listed_as_strict_json(run: Commands) -> None:
    header = {"entities": 3, "kind": "baseline"}  # bug 14
    models.save(run.engine, monitor="web", artifact=b"x", header=header, now=1)

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(constant)

    (row,) = json.loads(run("models", "list", "--json").output, parse_constant=refuse)

    assert row["validation_loss"] is None
    assert "nan" not in run("models", "list").output


@pytest.mark.parametrize("command", ["db check", "db upgrade", "alerts list", "run"])
def test_a_database_of_a_newer_version_says_so(run: Commands, command: str) -> None:
    with run.engine.begin() as connection:  # x09
        connection.execute(text("UPDATE detector_alembic_version SET version_num = '9999'"))

    ended = run(*command.split())

    assert ended.status == 3
    assert ended.errors.endswith(
        f"detector.db is at schema 9999, newer than this program, which knows {schema.HEAD};"
        " install the version that made it, or a later one\n"
    )
    assert ended.errors.count("\n") == 1


def test_a_url_file_that_cannot_be_read_ends_with_the_status_of_a_wrong_configuration(run: Commands) -> None:
    secret = run.folder / "database_url"  # bug 15
    secret.write_bytes(b"sqlite:///hush\xff.db")
    run.config.write_text(run.config.read_text().replace(f'url = "{run.url}"', f'url_file = "{secret}"', 1))

    ended = run("check")

    assert ended.status == 2
    assert ended.errors == f"detector: url_file: '{secret}' cannot be read: it is not UTF-8 text\n"


def test_every_monitor_that_cannot_be_trained_is_named(run: Commands) -> None:
    ended = run("retrain")  # bug 16

    assert ended.status == 1
    lines = [line for line in ended.errors.splitlines() if line.startswith("detector: ")]
    assert ["'web'" in lines[0], "'db'" in lines[1]] == [True, True]


def test_score_judges_valid_ranges_without_a_model_as_the_daemon_does(run: Commands) -> None:
    rules = 'rules = [{ metric = "cpu", valid_max = 95.0 }]\n'  # bug 17
    run.config.write_text(run.config.read_text().replace('name = "web"\n', f'name = "web"\n{rules}', 1))
    rows = [f"2026-11-20T10:{n:02}:00Z,{host},{cpu}" for n in range(20) for host, cpu in (("full", 99), ("fine", 50))]
    _csv(run.folder, "web.csv", "timestamp,entity,cpu", *rows)
    assert run("import", run.folder / "web.csv", "--monitor", "web").status == 0

    run("score", "web", "--at", "2026-11-20T10:10:00Z")  # without a model, what is to come is judged
    scored = json.loads(run("score", "web", "--at", "2026-11-20T10:20:00Z", "--json").output)

    assert {row["entity"]: row["alert"] for row in scored} == {"full": True, "fine": False}
    assert {row["state"] for row in scored if row["entity"] == "fine"} == {"unknown (no_model)"}
    (alert,) = json.loads(run("alerts", "list", "--json").output)
    assert (alert["entity"], alert["severity"]) == ("full", "critical")


def test_a_verdict_is_recorded_without_any_model(run: Commands) -> None:
    now = 1_795_000_000_000  # bug 16
    opened = AlertChange(Change.OPENED, "a", now, Episode(now, now, Severity.WARNING, 1.5, now), now, None)
    nothing = ScoreRows(entity=[], slot=[], score=[])
    StateStore(run.engine).commit(Commit("web", None, now, now, 1, nothing, nothing, changes=(opened,)))

    ended = run("incident", "1", "--false")

    assert (ended.status, ended.errors) == (0, "")
    assert ended.output == "alert 1 is marked false: its scores count as normal from the next training on\n"
    assert json.loads(run("alerts", "show", "1", "--json").output)["verdict"] == "false"


def _csv(folder: Path, name: str | bytes, *lines: str) -> None:
    path = os.fsencode(folder) + b"/" + (name if isinstance(name, bytes) else name.encode())
    Path(os.fsdecode(path)).write_text("\n".join(lines) + "\n")


def test_a_folder_is_imported_whatever_one_of_its_files_is_like(run: Commands) -> None:
    folder = run.folder / "in"  # x14, c09
    folder.mkdir()
    _csv(folder, "a.csv", "timestamp,cpu", "2026-11-24T10:00:00Z,31")
    _csv(folder, b"web-\xff.csv", "timestamp,cpu", "2026-11-24T10:00:00Z,32")
    _csv(folder, "header.csv", "date;cpu", "2026-11-24;1")
    _csv(folder, "serial.csv", "timestamp,cpu", "46350.41667,31", "46350.41736,32")
    _csv(folder, "z.csv", "timestamp,cpu", "2026-11-24T10:00:00Z,33")
    (folder / "folder.csv").mkdir()

    ended = run("import", folder, "--monitor", "web", "--json")

    assert ended.status == 1
    assert [(row["file"], row["samples"]) for row in json.loads(ended.output)] == [
        ("a.csv", 1),
        ("serial.csv", 0),
        ("web-\udcff.csv", 1),
        ("z.csv", 1),
    ]
    assert "serial.csv: not a single line of it could be used" in ended.errors
    assert "header.csv: the header must have a column named" in ended.errors
    assert "folder.csv: cannot be read" in ended.errors
    assert "Traceback" not in ended.errors


def test_a_file_with_some_bad_lines_is_imported_with_status_0(run: Commands) -> None:
    _csv(run.folder, "a.csv", "timestamp,cpu", "2026-11-24T10:00:00Z,31", "soon,32")

    ended = run("import", run.folder / "a.csv", "--monitor", "web")

    assert ended.status == 0
    assert "line 3: time expected, 'soon' received" in ended.errors


HOSTILE = "\x1b[31mred\x1b[0m\nnew line"


def test_an_alert_of_a_hostile_name_is_shown_without_control_characters(run: Commands) -> None:
    now = 1_795_000_000_000  # c24
    episode = Episode(now, now, Severity.WARNING, 1.5, now)
    explanation = json.dumps({"metrics": [{"metric": f"cpu {HOSTILE}", "observed": 1.0, "share": 1.0}]})
    opened = AlertChange(Change.OPENED, HOSTILE, now, episode, now, explanation)
    nothing = ScoreRows(entity=[], slot=[], score=[])
    StateStore(run.engine).commit(Commit("web", None, now, now, 1, nothing, nothing, changes=(opened,)))

    shown = [run("alerts", "list"), run("alerts", "show", "1"), run("alerts", "close", "1")]

    assert [ended.status for ended in shown] == [0, 0, 0]
    assert all("\x1b" not in ended.output for ended in shown)
    assert all(r"\x1b[31mred\x1b[0m\nnew line" in ended.output for ended in shown)
    assert shown[0].output.count("\n") == 2


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("alerts", "list", "--limit", "99999999999999999999"), 0),
        (("alerts", "list", "--since", "0001-01-01"), 2),
        (("retrain", "web", "--from", "0001-01-01"), 2),
        (("score", "--at", "9999-12-31T23:59-14:00"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_is_far_beyond_is_taken_or_refused_in_one_line(run: Commands, words: tuple[str, ...], status: int) -> None:
    ended = run(*words)

    assert ended.status == status
    assert ended.errors.count("\n") <= 1
    assert "unexpected" not in ended.errors


def test_an_exclusion_says_whom_it_is_about_and_that_nobody_is_like_it(run: Commands) -> None:
    judged = JudgedRanges(["web-1", "web-2"], [0, 0], ["known", "known"])
    opened = Commit("web", None, 60_000, 0, 1, ScoreRows(), ScoreRows(), [], judged=judged)
    StateStore(run.engine).commit(opened)

    everybody, nobody = (
        run("exclude", "add", "--monitor", "web", "--for", "1w", *words) for words in ((), ("--entity", "wbe-1"))
    )

    assert everybody.output.startswith("exclusion 1 mutes alerts of all entities of monitor web from ")
    assert everybody.errors == ""
    assert "entities like wbe-1" in nobody.output
    assert nobody.errors == "detector: no entity of monitor web is like 'wbe-1' so far; the nearest one is 'web-1'\n"
    assert nobody.status == 0
