"""The `Store` port on every database and in memory: one suite that all of them pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import pytest
from commits import STEP, T0
from commits import change as _change
from commits import commit as _commit
from migrated import migrate
from sqlalchemy import Engine, func, select

from detector import database
from detector.core.decide import Change, Ended, Episode, Severity
from detector.errors import StaleState, StoreError
from detector.ports import AlertChange, Commit, JudgedRanges, ScoreRows, Store, StoredAlert, StoredExperience
from detector.store import alerts
from detector.store.alerts import AlertRow
from detector.store.memory import MemoryStore, StoredEvent
from detector.store.state import StateStore
from detector.tables import alert_event, delivery, score


class Kept(Protocol):
    """A store, and what it has stored."""

    store: Store

    def alerts(self) -> list[AlertRow]:
        """All alerts, newest first."""

    def scores(self) -> list[tuple[str, int, float, int]]:
        """Entity, slot since T0, score and model version of all scores."""

    def events(self) -> list[StoredEvent]:
        """All events in order."""

    def close(self, identity: int) -> None:
        """Closes an alert as alice would, at T0 + 1."""

    def deliveries(self) -> int:
        """Number of events that wait for notifiers, each counted for each notifier."""

    def everything(self) -> object:
        """All of it, to compare."""


class InDatabase:
    """A store in a database."""

    def __init__(self, engine: Engine) -> None:
        self.store: Store = StateStore(engine)
        self._engine = engine

    def alerts(self) -> list[AlertRow]:
        return alerts.listing(self._engine)

    def scores(self) -> list[tuple[str, int, float, int]]:
        columns = (score.c.entity, score.c.slot, score.c.score, score.c.model_version)
        with self._engine.connect() as connection:
            return sorted((row[0], row[1] - T0, row[2], row[3]) for row in connection.execute(select(*columns)))

    def events(self) -> list[StoredEvent]:
        columns = (alert_event.c.id, alert_event.c.alert_id, alert_event.c.change, alert_event.c.slot)
        with self._engine.connect() as connection:
            rows = connection.execute(select(*columns).order_by(alert_event.c.id)).all()
            waiting = connection.execute(select(delivery.c.event_id, delivery.c.notifier)).all()
        return [
            StoredEvent(row[1], row[2], row[3], tuple(sorted(n for e, n in waiting if e == row[0]))) for row in rows
        ]

    def close(self, identity: int) -> None:
        row = next(row for row in self.alerts() if row.id == identity)
        alerts.close(self._engine, row, by="alice", comment=None, now=T0 + 1)

    def deliveries(self) -> int:
        with self._engine.connect() as connection:
            return connection.scalar(select(func.count()).select_from(delivery)) or 0

    def everything(self) -> object:
        return self.alerts(), self.scores(), self.events(), self.deliveries()


class InMemory:
    """A store in memory."""

    def __init__(self) -> None:
        self.kept = MemoryStore()
        self.store: Store = self.kept

    def alerts(self) -> list[AlertRow]:
        return self.kept.alerts()

    def scores(self) -> list[tuple[str, int, float, int]]:
        return [(entity, slot - T0, value, version) for _, entity, slot, value, version in self.kept.scores()]

    def events(self) -> list[StoredEvent]:
        return [replace(event, notifiers=tuple(sorted(event.notifiers))) for event in self.kept.events()]

    def close(self, identity: int) -> None:
        self.kept.close(identity, by="alice", now=T0 + 1)

    def deliveries(self) -> int:
        return sum(len(event.notifiers) for event in self.kept.events())

    def everything(self) -> object:
        return self.alerts(), self.scores(), self.events(), self.deliveries()


@pytest.fixture(
    params=[
        *("memory", "sqlite"),
        pytest.param("postgresql", marks=pytest.mark.slow),
        pytest.param("mariadb", marks=[pytest.mark.mysql, pytest.mark.slow]),
    ]
)
def kept(request: pytest.FixtureRequest) -> Iterator[Kept]:
    """An empty store of each kind."""
    if request.param == "memory":
        yield InMemory()
        return
    url = {
        "sqlite": lambda: f"sqlite:///{request.getfixturevalue('tmp_path')}/detector.db",
        "postgresql": lambda: str(request.getfixturevalue("postgres_database")),
        "mariadb": lambda: str(request.getfixturevalue("mariadb_database")),
    }[request.param]()
    engine = database.connect(url)
    migrate(engine)
    yield InDatabase(engine)
    engine.dispose()


def _open_alerts(store: Store, monitor: str) -> list[StoredAlert]:
    """Those whose episode goes on, oldest first."""
    return [found for found in store.alerts_since(monitor, T0) if found.episode.closed_slot is None]


def _stored(kept: Kept, severity: Severity, peak_score: float, peak_slot: int) -> StoredAlert:
    """The one alert there is, of entity `a` since T0."""
    return StoredAlert(kept.alerts()[0].id, "a", Episode(T0, T0 + STEP, severity, peak_score, peak_slot))


def test_a_monitor_that_never_committed_has_no_cursor_and_no_alerts(kept: Kept) -> None:
    assert kept.store.cursor("web") is None
    assert _open_alerts(kept.store, "web") == []


def test_a_commit_stores_cursor_scores_and_alerts(kept: Kept) -> None:
    scores = ScoreRows(entity=["a", "b"], slot=[T0, T0], score=[1.25, 0.5])

    kept.store.commit(_commit(scores=scores, changes=[_change(Change.OPENED)]))

    assert kept.store.cursor("web") == T0
    assert kept.scores() == [("a", 0, 1.25, 7), ("b", 0, 0.5, 7)]
    assert [found.entity for found in _open_alerts(kept.store, "web")] == ["a"]


def test_the_cursor_moves_on_from_where_it_is_expected(kept: Kept) -> None:
    kept.store.commit(_commit())
    kept.store.commit(_commit(expected_cursor=T0, cursor=T0 + STEP))

    assert kept.store.cursor("web") == T0 + STEP


def test_a_commit_may_leave_the_cursor_where_it_is(kept: Kept) -> None:
    kept.store.commit(_commit())
    again = _commit(expected_cursor=T0, cursor=T0)

    kept.store.commit(again)
    kept.store.commit(again)

    assert kept.store.cursor("web") == T0


def test_monitors_have_cursors_of_their_own(kept: Kept) -> None:
    kept.store.commit(_commit())
    kept.store.commit(_commit(monitor="db", cursor=T0 + 5))

    assert (kept.store.cursor("web"), kept.store.cursor("db")) == (T0, T0 + 5)


@pytest.mark.slow
@pytest.mark.parametrize("expected", [None, T0 - STEP, T0 + STEP], ids=["none", "behind", "ahead"])
def test_a_commit_on_another_cursor_than_expected_is_stale_and_writes_nothing(kept: Kept, expected: int | None) -> None:
    kept.store.commit(_commit())
    before = kept.everything()

    with pytest.raises(StaleState, match="another process works on it"):
        kept.store.commit(
            _commit(
                expected_cursor=expected,
                cursor=T0 + 2 * STEP,
                scores=ScoreRows(["a"], [T0 + STEP], [0.5]),
                changes=[_change(Change.OPENED)],
            )
        )

    assert kept.store.cursor("web") == T0
    assert kept.everything() == before


def test_a_commit_that_expects_a_cursor_where_there_is_none_is_stale(kept: Kept) -> None:
    with pytest.raises(StaleState):
        kept.store.commit(_commit(expected_cursor=T0 - STEP))

    assert kept.store.cursor("web") is None


def test_late_samples_replace_scores_and_leave_the_others(kept: Kept) -> None:
    kept.store.commit(_commit(scores=ScoreRows(["a", "b", "a"], [T0, T0, T0 + STEP], [0.1, 0.2, 0.3])))

    replaced = ScoreRows(["a", "c"], [T0, T0], [0.9, 0.8])
    kept.store.commit(_commit(expected_cursor=T0, cursor=T0, replaced=replaced, model_version=8))

    assert kept.scores() == [("a", 0, 0.9, 8), ("a", STEP, 0.3, 7), ("b", 0, 0.2, 7), ("c", 0, 0.8, 8)]


def test_a_replacement_leaves_the_scores_of_other_monitors(kept: Kept) -> None:
    kept.store.commit(_commit(monitor="db", scores=ScoreRows(["a"], [T0], [0.1])))

    kept.store.commit(_commit(replaced=ScoreRows(["a"], [T0], [0.9])))

    assert [row[2] for row in kept.scores()] == [0.1, 0.9]


def test_a_replaced_score_that_is_not_known_is_only_removed(kept: Kept) -> None:
    kept.store.commit(_commit(scores=ScoreRows(["a", "b"], [T0, T0], [1.5, 1.6])))

    kept.store.commit(
        _commit(expected_cursor=T0, replaced=ScoreRows(["a", "b", "c"], [T0] * 3, [math.nan, 1.7, math.nan]))
    )

    assert kept.scores() == [("b", 0, 1.7, 7)]


def test_many_scores_go_into_one_commit(kept: Kept) -> None:
    entities = [f"host-{index}" for index in range(5000)]

    kept.store.commit(_commit(scores=ScoreRows(entities, [T0] * 5000, [0.5] * 5000)))

    assert len(kept.scores()) == 5000


def test_scores_come_back_to_the_last_bit_whatever_the_entity_is_called(kept: Kept) -> None:
    values = [0.1, 1 / 3, 1e-300, 1.7976931348623157e308, 2.0**-40, 0.0]
    names = ["tab\tnew\nline", "back\\slash", "\\N", "日本", "quote'\"", "a,b;c"]

    kept.store.commit(_commit(scores=ScoreRows(names, [T0] * 6, values)))

    assert {(entity, value) for entity, _, value, _ in kept.scores()} == set(zip(names, values, strict=True))


def test_a_score_that_is_there_already_is_refused_and_nothing_is_stored(kept: Kept) -> None:
    kept.store.commit(_commit(scores=ScoreRows(["a"], [T0], [0.5])))

    with pytest.raises(StoreError) as caught:
        kept.store.commit(
            _commit(expected_cursor=T0, cursor=T0 + STEP, scores=ScoreRows(["b", "a"], [T0, T0], [0.1, 0.2]))
        )

    assert len(str(caught.value).splitlines()) == 1
    assert kept.store.cursor("web") == T0
    assert kept.scores() == [("a", 0, 0.5, 7)]


def test_an_opened_alert_is_stored_with_all_that_is_known_of_it(kept: Kept) -> None:
    opened = _change(Change.OPENED, slot=T0 + STEP, explanation='{"metrics": [{"metric": "cpu"}]}')

    kept.store.commit(_commit(changes=[opened]))

    assert _open_alerts(kept.store, "web") == [_stored(kept, Severity.WARNING, 1.5, T0 + STEP)]
    row = kept.alerts()[0]
    assert (row.state, row.episode.severity, row.episode.opened_slot, row.episode.closed_slot) == (
        "open",
        "warning",
        T0,
        None,
    )
    assert (row.detected_at, row.model_version) == (T0 + 2 * STEP, 7)
    assert row.explanation == {"metrics": [{"metric": "cpu"}]}


def test_an_alert_lives_from_open_through_critical_to_closed(kept: Kept) -> None:
    critical: dict[str, Any] = {"severity": Severity.CRITICAL, "peak_score": 3.0, "peak_slot": T0 + STEP}
    kept.store.commit(_commit(changes=[_change(Change.OPENED, decided_slot=T0 + STEP)]))
    kept.store.commit(_commit(expected_cursor=T0, changes=[_change(Change.ESCALATED, slot=T0 + STEP, **critical)]))

    assert _open_alerts(kept.store, "web") == [_stored(kept, Severity.CRITICAL, 3.0, T0 + STEP)]

    kept.store.commit(_commit(expected_cursor=T0, changes=[_change(Change.CLOSED, slot=T0 + 2 * STEP, **critical)]))

    assert _open_alerts(kept.store, "web") == []
    row, events = kept.alerts()[0], kept.events()
    assert (row.state, row.episode.severity, row.episode.closed_slot, row.episode.peak_score) == (
        "closed",
        "critical",
        T0 + 2 * STEP,
        3.0,
    )
    assert [event.change for event in events] == ["opened", "escalated", "closed"]
    assert [event.slot for event in events] == [T0, T0 + STEP, T0 + 2 * STEP]


def test_an_alert_may_open_and_close_within_one_commit(kept: Kept) -> None:
    kept.store.commit(_commit(changes=[_change(Change.OPENED), _change(Change.CLOSED, slot=T0 + STEP)]))

    assert _open_alerts(kept.store, "web") == []
    assert len(kept.events()) == 2


def test_a_new_peak_is_stored_without_an_event(kept: Kept) -> None:
    kept.store.commit(_commit(changes=[_change(Change.OPENED)]))

    raised = _change(None, slot=T0 + STEP, peak_score=1.9, explanation='{"metrics": [1]}')
    kept.store.commit(_commit(expected_cursor=T0, changes=[raised]))

    row = kept.alerts()[0]
    assert (row.episode.peak_score, row.episode.peak_slot, row.explanation) == (1.9, T0 + STEP, {"metrics": [1]})
    assert len(kept.events()) == 1


def test_alerts_with_and_without_explanation_change_together(kept: Kept) -> None:
    kept.store.commit(_commit(changes=[_change(Change.OPENED, entity) for entity in "abc"]))

    raised = [_change(None, e, explanation='{"metrics": [1]}' if e == "b" else None, peak_score=9.0) for e in "abc"]
    kept.store.commit(_commit(expected_cursor=T0, changes=raised))

    found = {row.entity: (row.episode.peak_score, row.explanation["metrics"]) for row in kept.alerts()}
    assert found == {"a": (9.0, []), "b": (9.0, [1]), "c": (9.0, [])}


def test_a_change_without_explanation_keeps_the_one_stored(kept: Kept) -> None:
    kept.store.commit(_commit(changes=[_change(Change.OPENED, explanation='{"metrics": [1]}')]))

    kept.store.commit(_commit(expected_cursor=T0, changes=[_change(Change.CLOSED, explanation=None)]))

    assert kept.alerts()[0].explanation == {"metrics": [1]}


def test_an_alert_opened_without_explanation_has_an_empty_one(kept: Kept) -> None:
    kept.store.commit(_commit(changes=[_change(Change.OPENED, explanation=None)]))

    assert kept.alerts()[0].explanation == {}


def test_a_second_open_alert_of_one_entity_is_refused(kept: Kept) -> None:
    kept.store.commit(_commit(changes=[_change(Change.OPENED)]))

    with pytest.raises(StoreError):
        kept.store.commit(
            _commit(expected_cursor=T0, cursor=T0 + STEP, changes=[_change(Change.OPENED, slot=T0 + STEP)])
        )

    assert kept.store.cursor("web") == T0
    assert len(kept.alerts()) == 1


def test_after_closing_the_entity_may_have_an_alert_again(kept: Kept) -> None:
    for _ in range(3):
        expected = kept.store.cursor("web")
        kept.store.commit(_commit(expected_cursor=expected, changes=[_change(Change.OPENED), _change(Change.CLOSED)]))

    assert [row.state for row in kept.alerts()] == ["closed"] * 3


def test_other_monitors_and_entities_may_have_open_alerts_at_the_same_time(kept: Kept) -> None:
    kept.store.commit(_commit(changes=[_change(Change.OPENED, "a"), _change(Change.OPENED, "b")]))
    kept.store.commit(_commit(monitor="db", changes=[_change(Change.OPENED, "a")]))

    kept.store.commit(_commit(expected_cursor=T0, changes=[_change(Change.CLOSED, "a")]))

    assert [found.entity for found in _open_alerts(kept.store, "web")] == ["b"]
    assert [found.entity for found in _open_alerts(kept.store, "db")] == ["a"]


def test_alerts_that_ended_recently_enough_are_returned(kept: Kept) -> None:
    for entity, opened, closed in (("a", T0, T0 + STEP), ("a", T0 + 2 * STEP, T0 + 3 * STEP), ("b", T0, T0 + STEP)):
        cursor = kept.store.cursor("web")
        change = [_change(Change.OPENED, entity, opened), _change(Change.CLOSED, entity, closed)]
        kept.store.commit(_commit(expected_cursor=cursor, cursor=closed + STEP, changes=change))
    kept.store.commit(_commit(expected_cursor=kept.store.cursor("web"), changes=[_change(Change.OPENED, "c")]))

    def since(slot: int) -> list[tuple[str, int | None]]:
        return [(found.entity, found.episode.closed_slot) for found in kept.store.alerts_since("web", slot)]

    assert since(T0) == [("a", T0 + STEP), ("a", T0 + 3 * STEP), ("b", T0 + STEP), ("c", None)]
    assert since(T0 + 3 * STEP) == [("a", T0 + 3 * STEP), ("c", None)]
    assert since(T0 + 4 * STEP) == [("c", None)]
    assert kept.store.alerts_since("db", T0) == []


def test_an_alert_that_reopens_is_the_same_one(kept: Kept) -> None:
    opened, closed = _change(Change.OPENED), _change(Change.CLOSED, slot=T0 + STEP, ended=Ended.NORMAL)
    kept.store.commit(_commit(changes=[opened, closed]))

    again = _change(Change.REOPENED, slot=T0 + 3 * STEP, decided_slot=T0, reopenings=1)
    kept.store.commit(_commit(expected_cursor=T0, changes=[again]))

    row = kept.alerts()[0]
    assert (row.state, row.episode.closed_slot, row.closed_by, row.episode.reopenings) == ("open", None, None, 1)
    assert len(kept.alerts()) == 1
    assert [event.change for event in kept.events()] == ["opened", "closed", "reopened"]


def test_an_alert_says_why_it_closed(kept: Kept) -> None:
    vanished = _change(Change.CLOSED, slot=T0 + STEP, ended=Ended.UNKNOWN)
    kept.store.commit(_commit(changes=[_change(Change.OPENED), vanished]))

    assert kept.alerts()[0].closed_by == "unknown"


def test_alerts_that_open_within_the_span_are_one_incident(kept: Kept) -> None:
    def opened(entity: str, slot: int) -> AlertChange:
        return _change(Change.OPENED, entity, slot, opened_slot=slot)

    kept.store.commit(_commit(changes=[opened("a", T0), opened("b", T0)], incident_span=2 * STEP))
    later = [opened("c", T0 + 2 * STEP), opened("d", T0 + 5 * STEP)]
    kept.store.commit(_commit(expected_cursor=T0, changes=later, incident_span=2 * STEP))

    found = {row.entity: (row.incident, row.incident_size) for row in kept.alerts()}
    first = min(row.id for row in kept.alerts())
    assert found["a"] == found["b"] == found["c"] == (first, 3)
    assert found["d"][1] == 1


def test_each_change_waits_for_each_notifier_once(kept: Kept) -> None:
    changes = [_change(Change.OPENED), _change(None, slot=T0 + STEP), _change(Change.CLOSED, slot=T0 + 2 * STEP)]

    kept.store.commit(_commit(changes=changes, notifiers=("pager", "chat")))

    assert [(event.change, event.notifiers) for event in kept.events()] == [
        ("opened", ("chat", "pager")),
        ("closed", ("chat", "pager")),
    ]


def test_no_notifier_hears_of_a_muted_alert_until_it_is_unmuted(kept: Kept) -> None:
    kept.store.commit(_commit(changes=[_change(Change.OPENED, is_muted=True)], notifiers=("pager",)))
    kept.store.commit(_commit(expected_cursor=T0, changes=[_change(Change.ESCALATED)], notifiers=("pager",)))
    assert kept.alerts()[0].is_muted
    assert kept.deliveries() == 0

    kept.store.commit(_commit(expected_cursor=T0, changes=[_change(Change.UNMUTED)], notifiers=("pager",)))

    assert not kept.alerts()[0].is_muted
    assert kept.deliveries() == 1


def test_late_samples_may_change_an_alert(kept: Kept) -> None:
    kept.store.commit(_commit(changes=[_change(Change.OPENED, "a"), _change(Change.OPENED, "b")]))
    ids = {row.entity: row.id for row in kept.alerts()}
    revised = {"opened_slot": T0 - STEP, "peak_score": 1.75, "reopenings": 0}

    changes = [
        _change(Change.WITHDRAWN, "b", T0 + STEP, alert=ids["b"]),
        _change(Change.REVISED, "a", T0 + STEP, alert=ids["a"], **revised),
    ]
    kept.store.commit(_commit(expected_cursor=T0, changes=changes, notifiers=("pager",)))

    rows = {row.entity: row for row in kept.alerts()}
    assert (rows["a"].state, rows["a"].episode.opened_slot, rows["a"].episode.peak_score) == ("open", T0 - STEP, 1.75)
    assert rows["b"].state == "withdrawn"
    assert [found.entity for found in kept.store.alerts_since("web", T0)] == ["a"]
    assert kept.deliveries() == 1  # a withdrawal notifies; a new peak does not


def test_an_alert_that_is_over_when_late_samples_show_it_is_opened_and_closed(kept: Kept) -> None:
    late = _change(Change.OPENED, slot=T0 + 9 * STEP, decided_slot=T0, closed_slot=T0 + STEP)

    kept.store.commit(_commit(changes=[late], notifiers=("pager",)))

    assert [(event.change, event.slot, event.notifiers) for event in kept.events()] == [
        ("opened", T0 + 9 * STEP, ("pager",)),
        ("closed", T0 + STEP, ("pager",)),
    ]
    assert [(row.state, row.closed_by) for row in kept.alerts()] == [("closed", "normal")]


def test_late_samples_may_close_an_alert_and_open_it_again(kept: Kept) -> None:
    kept.store.commit(_commit(changes=[_change(Change.OPENED)]))
    identity = kept.alerts()[0].id

    closed = _change(Change.CLOSED, slot=T0 + STEP, alert=identity, closed_slot=T0 + STEP)
    kept.store.commit(_commit(expected_cursor=T0, changes=[closed]))
    assert (kept.alerts()[0].state, _open_alerts(kept.store, "web")) == ("closed", [])

    kept.store.commit(_commit(expected_cursor=T0, changes=[_change(Change.REOPENED, alert=identity)]))
    assert [found.id for found in _open_alerts(kept.store, "web")] == [identity]


def test_what_late_samples_change_in_an_exclusion_notifies_nobody(kept: Kept) -> None:
    kept.store.commit(_commit(changes=[_change(Change.OPENED)]))

    revised = _change(Change.ESCALATED, alert=kept.alerts()[0].id, is_muted=True)
    kept.store.commit(_commit(expected_cursor=T0, changes=[revised], notifiers=("pager",)))

    assert kept.alerts()[0].is_muted
    assert kept.deliveries() == 0


@pytest.mark.parametrize("change", [Change.ESCALATED, Change.REOPENED])
def test_late_samples_do_not_undo_what_somebody_closed(kept: Kept, change: Change) -> None:
    kept.store.commit(_commit(changes=[_change(Change.OPENED)]))
    kept.close(kept.alerts()[0].id)
    identity = kept.alerts()[0].id

    revised = _change(change, alert=identity, severity=Severity.CRITICAL)
    kept.store.commit(_commit(expected_cursor=T0, changes=[revised], notifiers=("pager",)))

    row = kept.alerts()[0]
    assert (row.state, row.closed_by, row.episode.severity) == ("closed", "alice", "critical")
    assert kept.deliveries() == 0


def test_what_somebody_closed_is_not_open_for_people_and_lasts_for_the_detector(kept: Kept) -> None:
    kept.store.commit(_commit(changes=[_change(Change.OPENED)]))
    kept.close(kept.alerts()[0].id)

    assert [row.state for row in kept.alerts()] == ["closed"]
    assert [(found.episode.closed_slot, found.is_dismissed) for found in kept.store.alerts_since("web", T0)] == [
        (None, True)
    ]

    ended = _change(Change.CLOSED, slot=T0 + STEP, ended=Ended.NORMAL)
    kept.store.commit(_commit(expected_cursor=T0, changes=[ended], notifiers=("pager",)))
    row = kept.alerts()[0]
    assert (row.state, row.closed_by, row.closed_at, row.episode.closed_slot) == ("closed", "alice", T0 + 1, T0 + STEP)
    assert kept.deliveries() == 0  # it was closed for people before


# -- what was judged --------------------------------------------------------------------------------------------------


def _judged(*ranges: tuple[str, int, str], **values: Any) -> Commit:
    entity, start, reason = zip(*ranges, strict=True) if ranges else ((), (), ())
    return _commit(judged=JudgedRanges(entity, [T0 + slot * STEP for slot in start], reason), **values)


def _since(store: Store, slot: int, monitor: str = "web") -> set[tuple[str, int, str]]:
    found = store.judged_since(monitor, T0 + slot * STEP)
    starts = [(start - T0) // STEP for start in found.start]
    return set(zip(found.entity, starts, found.reason, strict=True))


RANGES = (("a", 0, "known"), ("a", 5, "no_data"), ("a", 8, "known"), ("b", 2, "gap"))


def test_ranges_reach_from_where_they_begin_to_where_the_entity_s_next_one_does(kept: Kept) -> None:
    kept.store.commit(_judged(*RANGES))

    assert _since(kept.store, 0) == set(RANGES)
    assert _since(kept.store, 6) == {("a", 5, "no_data"), ("a", 8, "known"), ("b", 2, "gap")}
    assert _since(kept.store, 9) == {("a", 8, "known"), ("b", 2, "gap")}
    assert _since(kept.store, 99) == {("a", 8, "known"), ("b", 2, "gap")}
    assert _since(kept.store, 0, "db") == set()


def test_ranges_judged_again_replace_those_of_their_entity_that_begin_there_or_later(kept: Kept) -> None:
    kept.store.commit(_judged(*RANGES))

    again = [("a", T0 + 5 * STEP)]
    kept.store.commit(_judged(("a", 6, "gap"), expected_cursor=T0, cursor=T0 + STEP, judged_again=again))

    assert _since(kept.store, 0) == {("a", 0, "known"), ("a", 6, "gap"), ("b", 2, "gap")}


def test_a_cursor_moved_back_forgets_the_ranges_that_begin_after_it(kept: Kept) -> None:
    kept.store.commit(_judged(*RANGES))

    kept.store.commit(_judged(expected_cursor=T0, cursor=T0 + 2 * STEP, forget_from=T0 + 2 * STEP))

    assert _since(kept.store, 0) == {("a", 0, "known")}


def test_the_checkpoint_is_that_of_the_newest_commit(kept: Kept) -> None:
    assert kept.store.checkpoint("web") is None
    kept.store.commit(_commit(checkpoint='[{"slot": 1}]'))
    assert kept.store.checkpoint("web") == '[{"slot": 1}]'
    kept.store.commit(_commit(expected_cursor=T0, cursor=T0 + STEP))
    assert kept.store.checkpoint("web") is None


def test_scores_are_found_by_model_version_from_a_slot_on(kept: Kept) -> None:
    rows = ScoreRows(["a", "b", "a"], [T0, T0 + STEP, T0 + STEP], [0.5, 0.25, 2.0])
    kept.store.commit(_commit(scores=rows))

    found = kept.store.scores_since("web", T0 + STEP, version=7)

    assert set(zip(found.entity, found.slot, found.score, strict=True)) == {
        ("b", T0 + STEP, 0.25),
        ("a", T0 + STEP, 2.0),
    }
    assert not kept.store.scores_since("web", T0, version=6).entity


# -- surprise ---------------------------------------------------------------------------------------------------------


def _surprises(store: Store, version: int = 7) -> dict[tuple[str, int], float | None]:
    """By entity and slots since T0; None where it is not known."""
    found = store.scores_since("web", T0, version=version)
    values = [None if math.isnan(value) else value for value in found.surprise]
    return dict(zip(zip(found.entity, [slot - T0 for slot in found.slot], strict=True), values, strict=True))


def test_a_surprise_is_stored_beside_the_score_unless_it_is_not_known(kept: Kept) -> None:
    rows = ScoreRows(["a", "b"], [T0, T0], [0.5, 0.25], [1 / 3, math.nan])

    kept.store.commit(_commit(scores=rows))
    kept.store.commit(_commit(expected_cursor=T0, cursor=T0 + STEP, scores=ScoreRows(["a"], [T0 + STEP], [0.75])))

    assert _surprises(kept.store) == {("a", 0): 1 / 3, ("b", 0): None, ("a", STEP): None}


def test_a_score_that_is_replaced_gets_its_new_surprise(kept: Kept) -> None:
    kept.store.commit(_commit(scores=ScoreRows(["a", "b"], [T0, T0], [0.5, 0.25], [3.0, 4.0])))

    replaced = ScoreRows(["a", "b"], [T0, T0], [0.75, math.nan], [5.0, math.nan])
    kept.store.commit(_commit(expected_cursor=T0, replaced=replaced))

    assert _surprises(kept.store) == {("a", 0): 5.0}


# -- what entities had shown ------------------------------------------------------------------------------------------


def _remember(store: Store, slot: int | None, data: bytes = b"", **values: Any) -> None:
    """Commits an experience of so many slots since T0, or none."""
    experience = None if slot is None else StoredExperience(T0 + slot * STEP, data)
    store.commit(_commit(expected_cursor=store.cursor(values.get("monitor", "web")), experience=experience, **values))


def _remembered(store: Store, *, version: int = 7, monitor: str = "web") -> list[int]:
    """Slots since T0, in order of reading."""
    return [(found.slot - T0) // STEP for found in store.experiences(monitor, version=version)]


def test_a_monitor_that_never_committed_remembers_nothing(kept: Kept) -> None:
    assert kept.store.experiences("web", version=7) == []


def test_what_entities_had_shown_is_read_back_the_newest_first(kept: Kept) -> None:
    older, newer = bytes(range(256)), b"\0newer\n"
    _remember(kept.store, 0, older)
    _remember(kept.store, 60, newer)

    assert kept.store.experiences("web", version=7) == [
        StoredExperience(T0 + 60 * STEP, newer),
        StoredExperience(T0, older),
    ]


def test_only_the_two_newest_are_kept(kept: Kept) -> None:
    for slot in (0, 60, 120, 180):
        _remember(kept.store, slot)

    assert _remembered(kept.store) == [180, 120]


def test_a_commit_without_an_experience_keeps_those_stored(kept: Kept) -> None:
    _remember(kept.store, 0)
    _remember(kept.store, None)

    assert _remembered(kept.store) == [0]


def test_an_experience_of_the_same_slot_replaces_the_one_stored(kept: Kept) -> None:
    _remember(kept.store, 0, b"before")
    _remember(kept.store, 0, b"after")

    assert kept.store.experiences("web", version=7) == [StoredExperience(T0, b"after")]


def test_a_new_model_version_removes_what_another_one_remembered(kept: Kept) -> None:
    _remember(kept.store, 60)
    _remember(kept.store, 120)

    _remember(kept.store, 0, model_version=8)

    assert _remembered(kept.store, version=7) == []
    assert _remembered(kept.store, version=8) == [0]


def test_a_cursor_moved_back_forgets_what_was_remembered_after_it(kept: Kept) -> None:
    _remember(kept.store, 60)
    _remember(kept.store, 120)

    _remember(kept.store, None, forget_from=T0 + 60 * STEP)
    assert _remembered(kept.store) == [60]  # what had been shown before that slot is as it was

    _remember(kept.store, None, forget_from=T0 + 59 * STEP)
    assert _remembered(kept.store) == []


def test_monitors_remember_on_their_own(kept: Kept) -> None:
    for monitor in ("web", "db"):
        for slot in (0, 60):
            _remember(kept.store, slot, monitor=monitor)

    _remember(kept.store, 120)
    _remember(kept.store, None, forget_from=T0)

    assert _remembered(kept.store) == []
    assert _remembered(kept.store, monitor="db") == [60, 0]


def test_a_stale_commit_remembers_nothing(kept: Kept) -> None:
    _remember(kept.store, 0)

    with pytest.raises(StaleState):
        kept.store.commit(_commit(expected_cursor=T0 - STEP, experience=StoredExperience(T0 + STEP, b"")))

    assert _remembered(kept.store) == [0]
