"""What all commands share: one rule for times, tables without control characters, strict JSON, errors in one line."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from detector import cli
from detector.commands import shared
from detector.commands.shared import Moment
from detector.config.sections import EmbeddedSource, MonitorSection
from detector.errors import ConfigError, ModelError, SchemaOutdated

NOON = 1_795_089_600_000  # 2026-11-19T12:00:00Z


@pytest.fixture(autouse=True)
def _display() -> Iterator[None]:
    yield
    shared.display.is_utc, shared.display.zone = False, ""


@pytest.fixture
def _berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine in Berlin."""
    before = os.environ["TZ"]
    os.environ["TZ"] = "Europe/Berlin"
    time.tzset()
    yield
    os.environ["TZ"] = before
    time.tzset()


@pytest.mark.usefixtures("_berlin")
def test_what_a_command_prints_it_also_takes() -> None:
    shown = str(Moment(NOON))  # c30

    assert shown == "2026-11-19T13:00:00+01:00"
    assert shared.time_of("--at", shown) == NOON
    assert shared.time_of("--at", shown.removesuffix("+01:00")) == NOON


@pytest.mark.usefixtures("_berlin")
@pytest.mark.parametrize(("is_utc", "zone"), [(True, ""), (True, "Asia/Tokyo"), (False, "UTC")])
def test_utc_may_be_wanted_by_an_option_or_by_the_configuration(is_utc: bool, zone: str) -> None:
    shared.display.is_utc, shared.display.zone = is_utc, zone

    assert str(Moment(NOON)) == "2026-11-19T12:00:00Z"
    assert shared.time_of("--at", "2026-11-19T12:00") == NOON
    assert shared.zone_name() == "UTC"


def test_the_zone_of_the_configuration_changes_both(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        '[database]\nurl = "sqlite://"\n[display]\ntimezone = "Asia/Tokyo"\n'
        '[[monitors]]\nname = "web"\nmetrics = ["cpu"]\nsource = { type = "embedded" }\n'
    )

    shared.load(path)

    assert str(Moment(NOON)) == "2026-11-19T21:00:00+09:00"
    assert shared.time_of("--at", "2026-11-19T21:00") == NOON
    assert shared.zone_name() == "Asia/Tokyo"


@pytest.mark.parametrize("written", ["2026-11-19T12:00Z", "2026-11-19T13:00+01:00", "2026-11-19T07:00-05:00"])
def test_an_offset_of_its_own_always_counts(written: str) -> None:
    shared.display.zone = "Asia/Tokyo"

    assert shared.time_of("--at", written) == NOON


def test_a_time_before_the_calendar_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared.display, "zone", "Asia/Tokyo")

    with pytest.raises(ConfigError, match="--at must be a time such as"):
        shared.time_of("--at", "0000-12-31")
    assert shared.time_of("--at", "9999-12-31T23:59-12:00") > NOON


@pytest.mark.usefixtures("_berlin")
def test_json_has_times_in_utc_and_null_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    shared.print_rows([{"at": Moment(NOON), "loss": float("nan"), "peak": [float("inf"), 1.5]}], as_json=True)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found == [{"at": "2026-11-19T12:00:00Z", "loss": None, "peak": [None, 1.5]}]


@pytest.mark.parametrize("as_list", [False, True])
def test_a_table_has_one_line_a_row_whatever_names_hold(capsys: pytest.CaptureFixture[str], as_list: bool) -> None:
    name = "\x1b[31mred\x1b[0m\nnew\tline\r\u2028\u202e\udcff 漢字 1\u202f000"  # c24

    shared.print_rows([{"entity": [name] if as_list else name, "score": 1.0}])

    printed = capsys.readouterr().out
    assert printed.count("\n") == 2
    assert r"\x1b[31mred\x1b[0m\nnew\tline\r\u2028\u202e\udcff 漢字 1" + "\u202f000" in printed


def test_a_log_line_stays_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    shared.log_to_stderr("info")

    logging.getLogger("test").warning("entity=%s", "a\x1b[2J\nb")

    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert r"entity=a\x1b[2J\nb" in written


def _ended(monkeypatch: pytest.MonkeyPatch, error: Exception, *arguments: str) -> int:
    """Status of a program whose commands raise an error."""

    def app(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["detector", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(str(caught.value.code))


def test_an_unexpected_error_is_one_line_that_says_how_to_see_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = _ended(monkeypatch, OverflowError("too\nlarge \x1b[31m postgresql://a:hush@db"), "alerts", "show")  # x14

    assert status == 1
    assert capsys.readouterr().err == (
        "detector: unexpected OverflowError: too large \\x1b[31m postgresql://***db; to see where, add --traceback\n"
    )


def test_a_traceback_is_shown_to_those_who_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OverflowError):
        _ended(monkeypatch, OverflowError("too large"), "alerts", "show", "--traceback")


def test_options_of_the_program_may_stand_after_the_command() -> None:
    assert cli._global_first(["alerts", "list", "--utc"]) == ["--utc", "alerts", "list"]
    assert cli._global_first(["alerts", "list", "--", "--utc"]) == ["alerts", "list", "--", "--utc"]


def _sections(*names: str) -> list[MonitorSection]:
    source = EmbeddedSource(type="embedded")
    return [MonitorSection(name=name, source=source, metrics=("cpu",)) for name in names]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ModelError("monitor 'b' has too little history"), "detector: monitor 'b' has too little history"),
        (IndexError("out of\nrange"), "detector: monitor 'b': unexpected IndexError: out of range"),
    ],
)
def test_work_goes_on_after_a_monitor_that_fails_and_the_status_tells(
    capsys: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    done: list[str] = []  # bug 16

    def work(section: MonitorSection) -> None:
        if section.name == "b":
            raise error
        done.append(section.name)

    with pytest.raises(typer.Exit) as caught:
        shared.for_each(_sections("a", "b", "c"), work, then=lambda: done.append("then"))

    assert done == ["a", "c", "then"]
    assert caught.value.exit_code == 1
    assert capsys.readouterr().err == f"{line}\n"


def test_the_error_of_a_single_monitor_keeps_its_own_status() -> None:
    def work(_section: MonitorSection) -> None:
        raise SchemaOutdated("outdated")

    with pytest.raises(SchemaOutdated):
        shared.for_each(_sections("a"), work)
