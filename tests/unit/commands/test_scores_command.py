"""`detector scores` and `detector export`: what is unknown is shown as that, with its reason."""

from __future__ import annotations

import csv
import io
import json

import pytest
from commits import STEP, T0, change, commit
from in_process import Commands

from detector.commands.scores import sparkline
from detector.core.decide import Change
from detector.detect.told import Told
from detector.ports import JudgedRanges, ScoreRows
from detector.store import record
from detector.store.state import StateStore
from detector.times import utc

HOSTILE = 'h "1"\n2'


@pytest.fixture
def judged(run: Commands) -> Commands:
    """Five slots: `a` has scores, then two without data, then an anomalous one; another entity has a hostile name."""
    start = T0 - 5 * STEP
    scores = ScoreRows(
        entity=["a", "a", "a", HOSTILE],
        slot=[start, start + STEP, start + 4 * STEP, start + 4 * STEP],
        score=[0.25, 0.5, 1.5, 0.125],
        surprise=[1.0, 2.0, 3.0, 4.0],
    )
    judged = JudgedRanges(
        ["a", "a", "a", HOSTILE],
        [start, start + 2 * STEP, start + 4 * STEP, start + 4 * STEP],
        ["known", "no_data", "known", "known"],
    )
    changes = [change(Change.OPENED, entity=HOSTILE)]
    StateStore(run.engine).commit(commit(scores=scores, judged=judged, changes=changes))
    return run


def test_scores_of_an_entity_are_shown_and_unknown_ones_with_their_reason(judged: Commands) -> None:
    rows = json.loads(judged("scores", "web", "a", "--json").output)

    assert [(row["slot"], row["score"], row["state"], row["reason"]) for row in rows] == [
        (utc(T0 - 5 * STEP), 0.25, "normal", None),
        (utc(T0 - 4 * STEP), 0.5, "normal", None),
        (utc(T0 - 3 * STEP), None, "unknown", "no_data"),
        (utc(T0 - 2 * STEP), None, "unknown", "no_data"),
        (utc(T0 - STEP), 1.5, "anomalous", None),
    ]


def test_a_table_shows_no_number_for_what_is_unknown(judged: Commands) -> None:
    lines = judged("scores", "web", "a", "--from", utc(T0 - 3 * STEP), "--to", utc(T0 - 2 * STEP)).output.splitlines()

    assert [line.split() for line in lines] == [
        ["slot", "score", "surprise", "state", "reason"],
        [utc(T0 - 3 * STEP), "-", "-", "unknown", "no_data"],
    ]


def test_scores_as_csv(judged: Commands) -> None:
    lines = judged("scores", "web", "a", "--csv").output.splitlines()

    assert lines[0] == "slot,score,surprise,state,reason"
    assert lines[2:4] == [f"{utc(T0 - 4 * STEP)},0.5,2,normal,", f"{utc(T0 - 3 * STEP)},,,unknown,no_data"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("web", "aa"), "no entity 'aa' is on record of monitor 'web'; the nearest one is 'a'"),
        (("web", "a", "--from", "2099-01-01"), "--from must be before --to"),
        (("db", "a"), "monitor 'db' has judged nothing yet"),
        (("web", "a", "--csv", "--json"), "--csv and --json cannot be combined"),
    ],
)
def test_what_there_is_nothing_to_show_of_is_one_line(judged: Commands, words: tuple[str, ...], told: str) -> None:
    ended = judged("scores", *words)

    assert (ended.status, ended.errors.count("\n")) == (2, 1)
    assert told in ended.errors


def test_exported_scores_have_a_line_for_each_slot_known_or_not(judged: Commands) -> None:
    out = judged.folder / "scores.csv"

    said = judged("export", "scores", "web", "--out", out).output

    rows = list(csv.reader(io.StringIO(out.read_bytes().decode(), newline="")))
    assert said == f"{out}: 6 slots of entities, 1 kB\n"
    assert [row[1] for row in rows] == ["entity", "a", "a", "a", "a", "a", HOSTILE]
    assert rows[3] == [utc(T0 - 3 * STEP), "a", "", "", "unknown", "no_data", ""]
    assert rows[6] == [utc(T0 - STEP), HOSTILE, "0.125", "4", "normal", "", "7"]


@pytest.mark.slow
def test_many_scores_are_read_some_at_a_time(run: Commands) -> None:
    entities, slots = [f"h{n:03}" for n in range(600)], [T0 - STEP * n for n in range(300, 0, -1)]
    scores = ScoreRows(entities * len(slots), [slot for slot in slots for _ in entities], [0.5] * 180_000)
    judged = JudgedRanges(entities, [slots[0]] * len(entities), ["known"] * len(entities))
    StateStore(run.engine).commit(commit(scores=scores, judged=judged))

    pages = [len(page) for page in record.told(run.engine, "web", start=slots[0], end=T0, step=STEP)]

    # 166 slots of 600 are 99,600, the next would be too many
    assert pages == [99_600, 80_400]


def test_exported_alerts_keep_hostile_names(judged: Commands) -> None:
    out = judged.folder / "alerts.csv"

    judged("export", "alerts", "web", "--out", out)

    (row,) = csv.DictReader(io.StringIO(out.read_bytes().decode(), newline=""))
    assert (row["entity"], row["state"], row["opened"], row["closed"]) == (HOSTILE, "open", utc(T0), "")


def test_only_alerts_that_opened_in_the_time_are_exported(judged: Commands) -> None:
    out = judged.folder / "alerts.csv"

    judged("export", "alerts", "web", "--out", out, "--to", utc(T0))

    assert len(out.read_text().splitlines()) == 1


def _slot(score: float | None, state: str = "unknown") -> Told:
    return Told(0, "a", score, None, state, "", None)


def test_a_sparkline_has_six_heights_below_the_threshold_and_two_above() -> None:
    scores = [0.0, 0.16, 0.17, 0.34, 0.99, 1.0, 1.99, 2.0, 9.0]

    line = sparkline([_slot(score, "normal") for score in scores], 80)

    assert line == "▁▁▂▃▆▇▇██"


def test_a_sparkline_shows_the_highest_of_slots_and_unknown_only_where_all_are() -> None:
    rows = [
        _slot(0.1, "normal"),
        _slot(1.5, "anomalous"),
        _slot(None),
        _slot(None),
        _slot(None, "not_stored"),
        _slot(None),
    ]

    assert sparkline(rows, 3) == "▇?·"
