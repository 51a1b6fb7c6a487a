"""Scores to alerts: k of n to open, hysteresis to close, unknown does neither, what was told is not told again."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detector.core import decide
from detector.core.decide import AlertStates, Change, Ended, Event, Rules, Severity
from detector.core.series import Float32

NAN = math.nan
OPENED, REOPENED, ESCALATED, CLOSED = Change.OPENED, Change.REOPENED, Change.ESCALATED, Change.CLOSED

RULES = Rules(
    open_slots=2,
    open_of=3,
    score_at_once=5.0,
    score_calm=0.8,
    close_slots=2,
    close_unknown_slots=50,
    score_critical=3.0,
    critical_slots=50,
    reopen_slots=0,
    flapping_reopenings=2,
    flapping_slots=1,
)
START = 1_000_000
STEP = 1000


def _decide(
    scores: Float32, *, rules: Rules = RULES, states: AlertStates | None = None, first: int = START
) -> tuple[AlertStates, list[Event]]:
    """Decides scores (E, before + K) at K slots from `first` on."""
    slots = first + STEP * np.arange(scores.shape[1] - rules.before, dtype=np.int64)
    before = states or AlertStates.none_open(len(scores))
    return decide.decide(before, scores, slots=slots, rules=rules, step=STEP)


def _run(
    *rows: list[float], rules: Rules = RULES, states: AlertStates | None = None
) -> tuple[AlertStates, list[Event]]:
    """Decides rows of scores at slots from START on; nothing is known before."""
    before = np.full((len(rows), rules.before), NAN, dtype=np.float32)
    return _decide(np.hstack([before, np.array(rows, dtype=np.float32)]), rules=rules, states=states)


def _changes(row: list[float], rules: Rules = RULES) -> list[tuple[Change, int]]:
    """What changed, and at which position of the row."""
    return [(event.change, (event.slot - START) // STEP) for event in _run(row, rules=rules)[1]]


def test_before_is_what_opening_looks_back() -> None:
    assert replace(RULES, open_of=7).before == 6
    assert replace(RULES, open_slots=1, open_of=1).before == 0


def test_reach_is_what_the_longest_of_the_closing_rules_looks_back() -> None:
    assert replace(RULES, close_slots=5, flapping_slots=7, close_unknown_slots=6).reach == 7
    assert replace(RULES, close_slots=9, flapping_slots=7, close_unknown_slots=6).reach == 9
    assert replace(RULES, close_slots=5, flapping_slots=7, close_unknown_slots=60).reach == 60


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

    _, events = _decide(np.array([[1.0, 1.0, 0.5]], dtype=np.float32), rules=rules)

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
        ([0.7, NAN, 0.7], [(CLOSED, 4)]),
        ([0.7, NAN, NAN, 0.9, 0.7, NAN, 0.7], [(CLOSED, 8)]),
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
    assert events[2].episode.opened_slot == START + 5 * STEP


def test_an_alert_is_dated_to_its_first_strange_slot() -> None:
    event = _run([0.5, 1.0, 0.5, 1.2])[1][0]

    assert event.slot == START + 3 * STEP
    assert event.episode.opened_slot == START + STEP


def test_a_later_higher_score_becomes_the_peak_without_an_event() -> None:
    states, events = _run([1.1, 1.2, 2.5, 1.4])

    assert len(events) == 1
    assert (states.peak_score[0], states.peak_slot[0]) == (2.5, START + 2 * STEP)


def test_a_closing_alert_tells_its_peak() -> None:
    closed = _run([1.1, 1.2, 2.5, 0.5, 0.5])[1][-1]

    assert (closed.change, closed.episode.peak_score, closed.episode.peak_slot) == (CLOSED, 2.5, START + 2 * STEP)


def test_an_open_alert_escalates_once_when_it_reaches_the_critical_level() -> None:
    assert _changes([1.1, 1.1, 2.9, 3.0, 4.0, 4.0]) == [(OPENED, 1), (ESCALATED, 3)]


def test_an_alert_that_opens_critical_does_not_also_escalate() -> None:
    states, events = _run([5.0, 5.0])

    assert [(event.change, event.episode.severity) for event in events] == [(OPENED, Severity.CRITICAL)]
    assert states.is_critical.tolist() == [True]


def test_severity_is_kept_until_the_alert_closes_and_starts_anew_after() -> None:
    _, events = _run([1.1, 3.5, 0.5, 0.5, 1.1, 1.1])

    severities = [event.episode.severity for event in events]
    assert severities == [Severity.CRITICAL, Severity.CRITICAL, Severity.WARNING]


def test_an_alert_that_lasts_becomes_critical_whatever_its_peak() -> None:
    rules = replace(RULES, critical_slots=4)

    # dated to position 0, so four slots old at position 4
    assert _changes([1.1] * 8, rules) == [(OPENED, 1), (ESCALATED, 4)]


def test_an_alert_closes_when_nothing_is_known_of_its_entity_for_long() -> None:
    rules = replace(RULES, close_unknown_slots=3)

    events = _run([1.1, 1.1, NAN, NAN, NAN, NAN], [1.1, 1.1, NAN, NAN, 1.1, NAN], rules=rules)[1]

    closed = [(event.entity, (event.slot - START) // STEP, event.ended) for event in events if event.change is CLOSED]
    assert closed == [(0, 4, Ended.UNKNOWN)]


def test_an_alert_that_is_quiet_ends_as_normal() -> None:
    closed = _run([1.1, 1.1, 0.5, 0.5])[1][-1]

    assert (closed.change, closed.ended) == (CLOSED, Ended.NORMAL)


def test_an_alert_of_an_entity_that_is_gone_closes_at_once_whatever_its_score() -> None:
    scores = np.array([[NAN, NAN, 1.1, 1.1, 1.1], [NAN, NAN, 0.5, 0.5, 0.5]], dtype=np.float32)
    slots = START + STEP * np.arange(3, dtype=np.int64)
    gone = np.array([[False, False, True], [False, False, True]])

    states, events = decide.decide(AlertStates.none_open(2), scores, slots=slots, rules=RULES, step=STEP, gone=gone)

    assert [(event.change, event.entity, event.ended) for event in events] == [
        (OPENED, 0, None),
        (CLOSED, 0, Ended.GONE),
    ]
    assert (states.is_open.tolist(), states.closed_slot[0]) == ([False, False], START + 2 * STEP)


@pytest.mark.parametrize(("reopen_slots", "third"), [(2, OPENED), (3, REOPENED)])
def test_soon_after_closing_the_same_alert_opens_again(reopen_slots: int, third: Change) -> None:
    rules = replace(RULES, reopen_slots=reopen_slots)

    # closes at position 3, is strange again at 5 and 6: the second of them is three slots later
    _, events = _run([1.1, 1.1, 0.5, 0.5, 0.5, 1.1, 1.1], rules=rules)

    assert [event.change for event in events] == [OPENED, CLOSED, third]


def test_an_alert_that_opens_again_goes_on_where_it_was() -> None:
    rules = replace(RULES, reopen_slots=9)

    states, events = _run([1.1, 3.5, 0.5, 0.5, 1.1, 1.1], rules=rules)

    again = events[-1]
    assert (again.change, again.episode.opened_slot, again.episode.decided_slot) == (REOPENED, START, START + STEP)
    assert (again.episode.peak_score, again.episode.severity, again.episode.reopenings) == (3.5, Severity.CRITICAL, 1)
    assert states.reopenings.tolist() == [1]


def test_an_alert_that_flaps_closes_only_after_a_longer_quiet() -> None:
    rules = replace(RULES, reopen_slots=4, flapping_reopenings=1, flapping_slots=4)

    changes = _changes([5.0, 0.5, 0.5, 5.0, 0.5, 0.5, 0.5, 5.0, 0.5, 0.5, 0.5, 0.5], rules)

    # open again at 3, from then on four quiet slots are needed: 4 to 6 are three, 8 to 11 are four
    assert changes == [(OPENED, 0), (CLOSED, 2), (REOPENED, 3), (CLOSED, 11)]


def test_a_new_alert_has_no_reopenings_of_the_last_one() -> None:
    rules = replace(RULES, reopen_slots=1)

    _, events = _run([5.0, 0.5, 0.5, 5.0, 0.5, 0.5, 0.5, 0.5, 5.0], rules=rules)

    assert [(event.change, event.episode.reopenings) for event in events][2:] == [
        (REOPENED, 1),
        (CLOSED, 1),
        (OPENED, 0),
    ]


def test_the_slot_that_closes_an_alert_is_remembered_and_no_other() -> None:
    states, _ = _run([1.1, 1.1, 0.5, 0.5, 0.5], [1.1, 1.1, 1.1, 1.1, 1.1])

    assert states.closed_slot.tolist() == [START + 3 * STEP, decide.LONG_AGO]


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

    states, events = _decide(np.full((entities, RULES.before + slots), 9.0, dtype=np.float32))

    assert events == []
    assert not states.is_open.any()


_SCORE = st.sampled_from([NAN, 0.0, 0.5, 0.79, 0.8, 0.99, 1.0, 1.2, 1.7, 2.5, 6.0, 1e30])


@st.composite
def _rules(draw: st.DrawFn) -> Rules:
    open_of = draw(st.integers(1, 5))
    return Rules(
        open_slots=draw(st.integers(1, open_of)),
        open_of=open_of,
        score_at_once=draw(st.sampled_from([1.0, 1.5, 6.0])),
        score_calm=draw(st.sampled_from([0.5, 0.8, 1.0])),
        close_slots=draw(st.integers(1, 5)),
        close_unknown_slots=draw(st.integers(1, 10)),
        score_critical=draw(st.sampled_from([1.0, 2.0, 6.0])),
        critical_slots=draw(st.integers(1, 20)),
        reopen_slots=draw(st.integers(0, 6)),
        flapping_reopenings=draw(st.integers(1, 2)),
        flapping_slots=draw(st.integers(1, 6)),
    )


@dataclass(frozen=True)
class _Case:
    rules: Rules
    scores: Float32  # (2, N) of two entities, memory included

    @property
    def slots(self) -> int:
        return int(self.scores.shape[1]) - self.rules.before


@st.composite
def _cases(draw: st.DrawFn) -> _Case:
    rules = draw(_rules())
    slots = rules.before + draw(st.integers(1, 20))
    return _Case(rules, draw(arrays.arrays(np.float32, (2, slots), elements=_SCORE)))


def _decide_part(case: _Case, states: AlertStates, first: int, slots: int) -> tuple[AlertStates, list[Event]]:
    scores = case.scores[:, first : first + case.rules.before + slots]
    return _decide(scores, rules=case.rules, states=states, first=START + STEP * first)


def _decide_all(case: _Case) -> tuple[AlertStates, list[Event]]:
    return _decide_part(case, AlertStates.none_open(2), 0, case.slots)


@given(_cases())
def test_openings_and_closings_of_an_entity_alternate(case: _Case) -> None:
    states, events = _decide_all(case)

    for entity in (0, 1):
        changes = [event.change for event in events if event.entity == entity and event.change is not ESCALATED]
        assert all(change in {OPENED, REOPENED} for change in changes[::2])
        assert changes[1::2] == [CLOSED] * len(changes[1::2])
        assert states.is_open[entity] == (len(changes) % 2 == 1)


@given(_cases())
def test_an_alert_is_new_only_if_the_last_one_closed_long_ago(case: _Case) -> None:
    _, events = _decide_all(case)

    for entity in (0, 1):
        closed = decide.LONG_AGO
        for event in (event for event in events if event.entity == entity):
            if event.change in {OPENED, REOPENED}:
                is_soon = event.slot - closed <= case.rules.reopen_slots * STEP
                assert event.change is (REOPENED if is_soon else OPENED)
            closed = event.slot if event.change is CLOSED else closed


@given(_cases())
def test_deciding_slot_by_slot_equals_deciding_all_at_once(case: _Case) -> None:
    at_once, events_at_once = _decide_all(case)

    states, events = AlertStates.none_open(2), []
    for first in range(case.slots):
        states, new = _decide_part(case, states, first, 1)
        events += new

    assert events == events_at_once
    np.testing.assert_equal(states.columns(), at_once.columns())


@given(_cases())
def test_a_slot_that_is_unknown_opens_nothing_and_closes_only_what_was_unknown_for_long(case: _Case) -> None:
    _, events = _decide_all(case)

    for event in events:
        index = case.rules.before + (event.slot - START) // STEP
        if np.isnan(case.scores[event.entity, index]) and event.change is not ESCALATED:
            assert (event.change, event.ended) == (CLOSED, Ended.UNKNOWN)
            assert np.isnan(case.scores[event.entity, index - case.rules.close_unknown_slots + 1 : index + 1]).all()


@given(_cases())
def test_an_alert_has_its_peak_between_its_beginning_and_now(case: _Case) -> None:
    _, events = _decide_all(case)

    for event in events:
        assert event.episode.opened_slot <= event.episode.peak_slot <= event.slot
        assert event.episode.peak_score >= decide.THRESHOLD
        is_long = event.slot - event.episode.opened_slot >= case.rules.critical_slots * STEP
        if event.episode.peak_score >= case.rules.score_critical:
            assert event.episode.severity is Severity.CRITICAL
        if event.episode.severity is Severity.CRITICAL:
            assert event.episode.peak_score >= case.rules.score_critical or is_long or event.episode.reopenings


@given(_cases())
def test_the_next_alert_begins_after_the_last_one_closed_if_closing_takes_as_long_as_opening(case: _Case) -> None:
    assume(min(case.rules.close_slots, case.rules.close_unknown_slots) >= case.rules.before)

    _, events = _decide_all(case)

    for entity in (0, 1):
        closed = decide.LONG_AGO
        for event in (event for event in events if event.entity == entity and event.episode.reopenings == 0):
            assert event.episode.opened_slot > closed
            closed = event.slot if event.change is CLOSED else closed


def test_the_next_alert_begins_after_the_last_one_was_lost() -> None:
    rules = replace(RULES, close_unknown_slots=1)

    _, events = _run([1.1, 1.1, NAN, 1.1, 1.1], rules=rules)

    assert [(event.change, event.slot) for event in events] == [
        (OPENED, START + STEP),
        (CLOSED, START + 2 * STEP),
        (OPENED, START + 4 * STEP),
    ]
    assert events[2].episode.opened_slot == START + 3 * STEP
