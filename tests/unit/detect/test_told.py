"""What is told of slots: a score, or why there is none; never nothing, and never 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from detector.detect.told import Record
from detector.ports import JudgedRanges, ScoredSlot

SLOTS = range(0, 300, 60)  # 0, 60, 120, 180, 240
NONE: Mapping[int, Mapping[str, ScoredSlot]] = {}


def _ranges(*begins: tuple[int, str, str]) -> JudgedRanges:
    return JudgedRanges([name for _, name, _ in begins], [at for at, _, _ in begins], [why for *_, why in begins])


def _states(
    record: Record, ranges: JudgedRanges, scores: Mapping[int, Mapping[str, ScoredSlot]] = NONE
) -> Sequence[tuple[int, str, str]]:
    return [(row.slot, row.state, row.reason) for row in record.told(SLOTS, ranges, scores)]


def test_a_slot_with_a_score_is_normal_or_anomalous_from_the_threshold_on() -> None:
    scores = {slot: {"a": ScoredSlot(slot / 180, None, 7)} for slot in SLOTS}

    rows = list(Record({"a": "known"}).told(SLOTS, _ranges(), scores))

    assert [row.state for row in rows] == ["normal", "normal", "normal", "anomalous", "anomalous"]  # 180 / 180 is 1
    assert {row.model_version for row in rows} == {7}


def test_an_unknown_slot_has_its_reason_from_where_it_begins() -> None:
    scores = {0: {"a": ScoredSlot(0.5, None, 1)}, 240: {"a": ScoredSlot(0.5, None, 1)}}
    ranges = _ranges((60, "a", "no_data"), (180, "a", "gap"), (240, "a", "known"))

    states = _states(Record({"a": "known"}), ranges, scores)

    assert states == [
        (0, "normal", ""),
        (60, "unknown", "no_data"),
        (120, "unknown", "no_data"),
        (180, "unknown", "gap"),
        (240, "normal", ""),
    ]


@pytest.mark.parametrize("reason", ["known", "no_rows"])
def test_a_judged_slot_whose_score_was_not_kept_is_not_unknown_and_not_normal(reason: str) -> None:
    assert {state for _, state, _ in _states(Record({"a": reason}), _ranges())} == {"not_stored"}


def test_an_entity_that_is_gone_or_not_there_yet_has_no_slots() -> None:
    ranges = _ranges((120, "b", "warming_up"), (180, "a", "gone"))

    rows = list(Record({"a": "no_data"}).told(SLOTS, ranges, NONE))

    assert [(row.slot, row.entity) for row in rows] == [
        (0, "a"), (60, "a"), (120, "a"), (120, "b"), (180, "b"), (240, "b"),
    ]  # fmt: skip


def test_a_score_without_any_record_counts_and_slots_of_another_step_are_kept() -> None:
    (row,) = Record({}).told(SLOTS, _ranges(), {90: {"a": ScoredSlot(0.2, 0.3, 1)}})

    assert (row.slot, row.state, row.surprise) == (90, "normal", 0.3)


def test_a_record_goes_on_from_where_it_was() -> None:
    record = Record({"a": "known"})
    list(record.told(SLOTS, _ranges((270, "a", "no_model")), NONE))

    assert [(row.slot, row.reason) for row in record.told([300], _ranges(), NONE)] == [(300, "no_model")]
