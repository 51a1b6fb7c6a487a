"""People answer alerts: several at once, twice, and with second thoughts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from commits import change, commit
from in_process import Commands

from detector.core.decide import Change
from detector.store.state import StateStore


@pytest.fixture
def three(run: Commands) -> Commands:
    """Three open alerts: 1, 2 and 3."""
    changes = [change(Change.OPENED, entity=entity) for entity in ("a", "b", "c")]
    StateStore(run.engine).commit(commit(changes=changes))
    return run


def _shown(run: Commands, number: int) -> dict[str, Any]:
    return dict(json.loads(run("alerts", "show", str(number), "--json").output))


def _history(run: Commands, number: int) -> list[tuple[str, str | None, str | None]]:
    return [(event["change"], event["by"], event["detail"]) for event in _shown(run, number)["events"]]


def _states(run: Commands) -> dict[int, str]:
    return {row["id"]: row["state"] for row in json.loads(run("alerts", "list", "--json").output)}


def test_several_alerts_are_acknowledged_and_closed_at_once(three: Commands) -> None:
    acknowledged = three("alerts", "ack", "1", "2", "--by", "ana")
    closed = three("alerts", "close", "2", "3")

    assert acknowledged.output == "alert 1 is acknowledged by ana\nalert 2 is acknowledged by ana\n"
    assert (acknowledged.status, closed.status) == (0, 0)
    assert _states(three) == {1: "acknowledged", 2: "closed", 3: "closed"}


def test_one_that_cannot_be_answered_does_not_stop_the_others(three: Commands) -> None:
    three("alerts", "close", "1")

    ended = three("alerts", "ack", "1", "2")

    assert ended.status == 2
    assert ended.errors == "detector: alert 1 is closed; only an open one can be acknowledged\n"
    assert _states(three) == {1: "closed", 2: "acknowledged", 3: "open"}


def test_nothing_is_done_where_a_number_is_of_no_alert(three: Commands) -> None:
    ended = three("alerts", "close", "1", "77")

    assert (ended.status, ended.errors) == (2, "detector: no alert 77; see: detector alerts list\n")
    assert set(_states(three).values()) == {"open"}


def test_a_second_acknowledgement_says_who_was_first_and_may_add_a_comment(three: Commands) -> None:
    three("alerts", "ack", "1", "--by", "ana")

    ended = three("alerts", "ack", "1", "--by", "bob", "--comment", "me too")

    assert (ended.status, ended.output) == (0, "alert 1 is acknowledged already, by ana\n")
    assert _history(three, 1)[1:] == [("acknowledged", "ana", None), ("commented", "bob", "me too")]


def test_an_acknowledgement_is_taken_back(three: Commands) -> None:
    three("alerts", "ack", "1", "--by", "ana")

    ended = three("alerts", "unack", "1", "--by", "ana", "--comment", "going home")

    assert ended.output == "alert 1 is open again; nobody is looking at it\n"
    shown = _shown(three, 1)
    assert shown["state"] == "open"
    assert _history(three, 1)[-1] == ("unacknowledged", "ana", "going home")
    assert three("alerts", "unack", "1").errors == (
        "detector: alert 1 is open; only an acknowledged one can be taken back\n"
    )


def test_a_closed_alert_can_be_commented(three: Commands) -> None:
    three("alerts", "close", "1", "--by", "ana")

    ended = three("alerts", "comment", "1", "it was the \x1b[31mdisk", "--by", "bob")

    assert ended.output == "alert 1 has the comment: it was the \\x1b[31mdisk\n"
    assert _history(three, 1)[-1] == ("commented", "bob", "it was the \x1b[31mdisk")
    assert _shown(three, 1)["state"] == "closed"


def test_a_verdict_is_taken_back(three: Commands) -> None:
    three("incident", "1", "--false")

    ended = three("incident", "1", "--undo")

    assert ended.output == "the verdict 'false' on alert 1 is taken back\n"
    assert _shown(three, 1)["verdict"] is None
    assert [name for name, *_ in _history(three, 1)] == ["opened", "marked false", "unmarked"]
    assert three("incident", "1", "--undo").errors == "detector: alert 1 has no verdict to take back\n"


@pytest.mark.parametrize("words", [("1", "--undo", "--real"), ("1",), ("--undo",)])
def test_a_verdict_or_its_undoing_must_be_said(three: Commands, words: tuple[str, ...]) -> None:
    ended = three("incident", *words)

    assert (ended.status, ended.errors.count("\n")) == (2, 1)
