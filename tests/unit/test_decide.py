"""Scores to alerts: k of n to open, hysteresis to close, unknown does neither."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.core import decide
from detector.core.decide import AlertStates, Change, Event, Rules, Severity

NAN = math.nan
OPENED, ESCALATED, CLOSED = Change.OPENED, Change.ESCALATED, Change.CLOSED

RULES = Rules(open_slots=2, open_of=3, open_at_once=5.0, close_below=0.8, close_slots=2, critical_at=3.0)
START = 1_000_000
STEP = 1000


def _run(
    *rows: list[float], rules: Rules = RULES, states: AlertStates | None = None
) -> tuple[AlertStates, list[Event]]:
    """Decides rows of scores at slots from START on; nothing is known before them."""
    before = np.full((len(rows), rules.memory), NAN, dtype=np.float32)
    scores = np.hstack([before, np.array(rows, dtype=np.float32)])
    slots = START + STEP * np.arange(len(rows[0]), dtype=np.int64)
    return decide.decide(states or AlertStates.none_open(len(rows)), scores, slots, rules, step=STEP)


def _changes(row: list[float], rules: Rules = RULES) -> list[tuple[Change, int]]:
    """What changed, and at which position of the row."""
    return [(event.change, (event.slot - START) // STEP) for event in _run(row, rules=rules)[1]]


def test_memory_is_what_the_longest_rule_looks_back() -> None:
    assert replace(RULES, open_of=7, close_slots=5).memory == 6
    assert replace(RULES, open_of=3, close_slots=9).memory == 8
    assert replace(RULES, open_slots=1, open_of=1, close_slots=1).memory == 0


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0.5, 0.99, 0.99, 0.99], []),
        ([0.5, 1.0, 0.5, 0.5], []),
        ([1.0, 1.0, 1.0], [(OPENED, 1)]),
        ([1.0, 0.5, 1.0], [(OPENED, 2)]),
        ([1.0, 0.5, 0.5, 1.0], []),
        ([1.0, NAN, 1.0], [(OPENED, 2)]),
        ([1.0, NAN, NAN, 1.0], []),
        ([NAN, NAN, NAN, NAN], []),
        ([5.0], [(OPENED, 0)]),
        ([4.9], []),
    ],
)
def test_an_alert_opens_when_two_of_three_scores_are_strange_or_one_is_very(
    row: list[float], expected: list[tuple[Change, int]]
) -> None:
    assert _changes(row) == expected


def test_an_alert_opens_only_on_a_strange_score() -> None:
    rules = replace(RULES, open_slots=1)
    scores = np.array([[1.0, 1.0, 0.5]], dtype=np.float32)

    _, events = decide.decide(AlertStates.none_open(1), scores, np.array([START], dtype=np.int64), rules, step=STEP)

    assert events == []


@pytest.mark.parametrize("open_of", [1, 2, 3, 5])
def test_all_of_n_opens_at_the_nth_strange_score(open_of: int) -> None:
    rules = replace(RULES, open_slots=open_of, open_of=open_of)

    assert _changes([1.2] * 6, rules) == [(OPENED, open_of - 1)]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ([0.7, 0.7], [(CLOSED, 3)]),
        ([0.7, 0.8, 0.7, 0.7], [(CLOSED, 5)]),
        ([0.9, 0.9, 0.9, 0.9], []),
        ([0.7, NAN, 0.7], []),
        ([0.7, NAN, 0.7, 0.7], [(CLOSED, 5)]),
        ([NAN, NAN, NAN, NAN], []),
        ([0.7, 1.2, 0.7, 0.7], [(CLOSED, 5)]),
    ],
)
def test_an_alert_closes_after_two_known_scores_in_a_row_below_the_close_level(
    after: list[float], expected: list[tuple[Change, int]]
) -> None:
    assert _changes([1.1, 1.1, *after]) == [(OPENED, 1), *expected]


def test_a_closed_alert_opens_again_as_a_new_one() -> None:
    _, events = _run([1.1, 1.1, 0.5, 0.5, 0.5, 1.1, 1.1])

    assert [event.change for event in events] == [OPENED, CLOSED, OPENED]
    assert events[2].opened_slot == START + 5 * STEP


def test_an_alert_is_dated_to_its_first_strange_slot() -> None:
    event = _run([0.5, 1.0, 0.5, 1.2])[1][0]

    assert event.slot == START + 3 * STEP
    assert event.opened_slot == START + STEP


def test_a_later_higher_score_becomes_the_peak_without_an_event() -> None:
    states, events = _run([1.1, 1.2, 2.5, 1.4])

    assert len(events) == 1
    assert (states.peak_score[0], states.peak_slot[0]) == (2.5, START + 2 * STEP)


def test_a_closing_alert_tells_its_peak() -> None:
    closed = _run([1.1, 1.2, 2.5, 0.5, 0.5])[1][-1]

    assert (closed.change, closed.peak_score, closed.peak_slot) == (CLOSED, 2.5, START + 2 * STEP)


def test_an_open_alert_escalates_once_when_it_reaches_the_critical_level() -> None:
    assert _changes([1.1, 1.1, 2.9, 3.0, 4.0, 4.0]) == [(OPENED, 1), (ESCALATED, 3)]


def test_an_alert_that_opens_critical_does_not_also_escalate() -> None:
    states, events = _run([5.0, 5.0])

    assert [(event.change, event.severity) for event in events] == [(OPENED, Severity.CRITICAL)]
    assert states.is_critical.tolist() == [True]


def test_severity_is_kept_until_the_alert_closes_and_starts_anew_after() -> None:
    _, events = _run([1.1, 3.5, 0.5, 0.5, 1.1, 1.1])

    severities = [event.severity for event in events]
    assert severities == [Severity.CRITICAL, Severity.CRITICAL, Severity.WARNING]


def test_entities_are_decided_apart() -> None:
    states, events = _run([1.1, 1.1, 0.5], [0.5, 1.1, 1.1], [NAN, NAN, NAN], [0.5, 0.5, 0.5])

    assert [(event.entity, event.slot) for event in events] == [(0, START + STEP), (1, START + 2 * STEP)]
    assert states.is_open.tolist() == [True, True, False, False]


def test_events_come_in_order_of_slots() -> None:
    _, events = _run([0.5, 0.5, 1.1, 1.1], [1.1, 1.1, 0.5, 0.5])

    assert [event.slot for event in events] == sorted(event.slot for event in events)


def test_the_states_passed_in_stay_as_they_were() -> None:
    before = AlertStates.none_open(1)

    _run([5.0], states=before)

    assert before.is_open.tolist() == [False]
    assert before.peak_score.tolist() == [0.0]


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)], ids=["no entities", "no slots"])
def test_nothing_to_decide_gives_no_events(shape: tuple[int, int]) -> None:
    entities, slots = shape
    scores = np.full((entities, RULES.memory + slots), 9.0, dtype=np.float32)

    states, events = decide.decide(
        AlertStates.none_open(entities), scores, START + STEP * np.arange(slots, dtype=np.int64), RULES, step=STEP
    )

    assert events == []
    assert not states.is_open.any()


_SCORE = st.sampled_from([NAN, 0.0, 0.5, 0.79, 0.8, 0.99, 1.0, 1.2, 1.7, 2.5, 6.0, 1e30])


@st.composite
def _rules(draw: st.DrawFn) -> Rules:
    open_of = draw(st.integers(1, 5))
    return Rules(
        open_slots=draw(st.integers(1, open_of)),
        open_of=open_of,
        open_at_once=draw(st.sampled_from([1.0, 1.5, 6.0])),
        close_below=draw(st.sampled_from([0.5, 0.8, 1.0])),
        close_slots=draw(st.integers(1, 5)),
        critical_at=draw(st.sampled_from([1.0, 2.0, 6.0])),
    )


@dataclass(frozen=True)
class _Case:
    rules: Rules
    scores: list[list[float]]  # two entities, memory included


@st.composite
def _cases(draw: st.DrawFn) -> _Case:
    rules = draw(_rules())
    slots = rules.memory + draw(st.integers(1, 20))
    row = st.lists(_SCORE, min_size=slots, max_size=slots)
    return _Case(rules, [draw(row), draw(row)])


def _decide(case: _Case, states: AlertStates, first: int, slots: int) -> tuple[AlertStates, list[Event]]:
    scores = np.array(case.scores, dtype=np.float32)[:, first : first + case.rules.memory + slots]
    times = START + STEP * np.arange(first, first + slots, dtype=np.int64)
    return decide.decide(states, scores, times, case.rules, step=STEP)


@given(_cases())
def test_openings_and_closings_of_an_entity_alternate(case: _Case) -> None:
    slots = len(case.scores[0]) - case.rules.memory
    states, events = _decide(case, AlertStates.none_open(2), 0, slots)

    for entity in (0, 1):
        changes = [event.change for event in events if event.entity == entity and event.change is not ESCALATED]
        assert changes[::2] == [OPENED] * len(changes[::2])
        assert changes[1::2] == [CLOSED] * len(changes[1::2])
        assert states.is_open[entity] == (len(changes) % 2 == 1)


@given(_cases())
def test_deciding_slot_by_slot_equals_deciding_all_at_once(case: _Case) -> None:
    slots = len(case.scores[0]) - case.rules.memory
    at_once, events_at_once = _decide(case, AlertStates.none_open(2), 0, slots)

    states, events = AlertStates.none_open(2), []
    for first in range(slots):
        states, new = _decide(case, states, first, 1)
        events += new

    assert events == events_at_once
    np.testing.assert_equal(vars(states), vars(at_once))


@given(_cases())
def test_a_slot_that_is_unknown_decides_nothing(case: _Case) -> None:
    _, events = _decide(case, AlertStates.none_open(2), 0, len(case.scores[0]) - case.rules.memory)

    deciding = [case.scores[event.entity][case.rules.memory + (event.slot - START) // STEP] for event in events]

    assert not any(math.isnan(score) for score in deciding)


@given(_cases())
def test_an_alert_has_its_peak_between_its_beginning_and_now(case: _Case) -> None:
    _, events = _decide(case, AlertStates.none_open(2), 0, len(case.scores[0]) - case.rules.memory)

    for event in events:
        assert event.opened_slot <= event.peak_slot <= event.slot
        assert event.peak_score >= decide.THRESHOLD
        assert (event.severity is Severity.CRITICAL) == (event.peak_score >= case.rules.critical_at)
