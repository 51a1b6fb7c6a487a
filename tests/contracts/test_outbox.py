"""Messages sent to notifiers from the outbox, on every kind of database: nothing lost, nothing twice, in order."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from migrated import migrate
from running import until
from sqlalchemy import Engine, select

from detector import database
from detector.core.decide import Change, Ended, Episode, Severity
from detector.errors import NotifyError, NotifyUnavailable, StoreError
from detector.notify.sender import Limits, Sender
from detector.ports import AlertChange, Commit, Message, Notice, ScoreRows
from detector.store import alerts, outbox
from detector.store.outbox import OutboxStore
from detector.store.state import StateStore
from detector.tables import delivery

T0 = 1_704_110_400_000
STEP = 60_000
HOUR = 3_600_000
DAY = 24 * HOUR
EVENTS = Limits(timeout=10_000, give_up_after=DAY, max_messages=5, rate_span=600_000)
STANDING = Limits(timeout=10_000, give_up_after=DAY, repeat=60_000, max_alerts=50)

NO_SCORES = ScoreRows(entity=[], slot=[], score=[])


class Target:
    """A notifier that keeps what it is sent, and refuses or is absent when the test wants."""

    def __init__(self) -> None:
        self.taken: list[Message] = []
        self.failure: Exception | None = None
        self.refused: set[str] = set()  # entities
        self.attempts = 0

    def send(self, message: Message, now: int) -> None:
        self.attempts += 1
        if self.failure is not None:
            raise self.failure
        if any(alert.entity in self.refused for alert in message.alerts):
            msg = "http://chat must answer 2xx; received 400"
            raise NotifyError(msg)
        self.taken.append(message)

    def test(self, monitor: str, now: int) -> str:
        return "200 OK"

    def check(self) -> str:
        return "chat"

    @property
    def changes(self) -> list[tuple[str, str]]:
        return [(notice.alert.entity, notice.change) for message in self.taken for notice in message.notices]


ABSENT = NotifyUnavailable("http://chat did not answer: refused")


class Fleet:
    """A monitor whose alerts open and close as the test wants, tick by tick."""

    def __init__(self, engine: Engine, notifiers: Sequence[str] = ("chat",)) -> None:
        self._store = StateStore(engine)
        self._cursor: int | None = None
        self._notifiers = notifiers
        self.now = T0
        self.opened: dict[str, int] = {}

    def tick(self, *changes: tuple[Change, str], **values: Any) -> None:
        self.now += STEP
        made = [self._change(change, entity, **values) for change, entity in changes]
        cursor = self.now
        commit = Commit(
            monitor="web",
            expected_cursor=self._cursor,
            cursor=cursor,
            now=self.now,
            model_version=7,
            scores=NO_SCORES,
            replaced=NO_SCORES,
            changes=made,
            notifiers=self._notifiers,
            incident_span=5 * STEP,
        )
        self._store.commit(commit)
        self._cursor = cursor

    def _change(self, change: Change, entity: str, **values: Any) -> AlertChange:
        if change is Change.OPENED:
            self.opened[entity] = self.now
        made = AlertChange(
            change=change,
            entity=entity,
            slot=self.now,
            episode=Episode(
                opened_slot=self.opened[entity],
                decided_slot=self.opened[entity],
                severity=Severity.CRITICAL if change is Change.ESCALATED else Severity.WARNING,
                peak_score=1.5,
                peak_slot=self.now,
            ),
            detected_at=self.now,
            explanation='{"metrics": [{"metric": "cpu", "share": 1.0}]}',
            ended=Ended.NORMAL if change is Change.CLOSED else None,
        )
        return replace(made, **values)


@pytest.fixture
def migrated(engine: Engine) -> Engine:
    migrate(engine)
    return engine


@pytest.fixture
def fleet(migrated: Engine) -> Fleet:
    return Fleet(migrated)


def _sender(engine: Engine, target: Target, limits: Limits = EVENTS) -> Sender:
    return Sender("chat", target, OutboxStore(engine), monitors=["web"], limits=limits)


def _run(sender: Sender, now: int) -> dict[str, int]:
    return dict(sender.run(lambda: now, random.Random(1)))


def _deliveries(engine: Engine) -> list[tuple[str, int]]:
    query = select(delivery.c.state, delivery.c.attempts).order_by(delivery.c.event_id)
    with engine.connect() as connection:
        return [(row[0], row[1]) for row in connection.execute(query)]


def _due(engine: Engine, now: int) -> list[Notice]:
    return OutboxStore(engine).due("chat", now)


def test_every_change_is_sent_once_and_in_order(migrated: Engine, fleet: Fleet) -> None:
    target = Target()
    sender = _sender(migrated, target)

    fleet.tick((Change.OPENED, "a"))
    assert _run(sender, fleet.now) == {"sent": 1}
    fleet.tick((Change.ESCALATED, "a"), (Change.OPENED, "b"))
    assert _run(sender, fleet.now) == {"sent": 2}
    assert _run(sender, fleet.now + HOUR) == {}

    assert sorted(target.changes[1:]) == [("a", "escalated"), ("b", "opened")]
    assert target.changes[0] == ("a", "opened")
    assert [state for state, _ in _deliveries(migrated)] == ["sent"] * 3


def test_a_single_message_has_the_alert_with_its_details(migrated: Engine, fleet: Fleet) -> None:
    target = Target()
    fleet.tick((Change.OPENED, "a"), (Change.OPENED, "b"))

    _run(_sender(migrated, target), fleet.now)

    alert = target.taken[0].alerts[0]
    assert alert.explanation == {"metrics": [{"metric": "cpu", "share": 1.0}]}
    assert (alert.entity, alert.state, alert.incident_size) == ("a", "open", 2)


def test_answers_of_people_are_sent_with_their_names(migrated: Engine, fleet: Fleet) -> None:
    target = Target()
    sender = _sender(migrated, target)
    fleet.tick((Change.OPENED, "a"))
    row = alerts.listing(migrated)[0]
    alerts.acknowledge(migrated, row, by="ada", comment="looking", now=fleet.now + 1, notifiers=("chat",))

    _run(sender, fleet.now + 2)

    (_, acknowledged) = [message.notices[0] for message in target.taken]
    assert (acknowledged.change, acknowledged.by, acknowledged.detail) == ("acknowledged", "ada", "looking")


@pytest.mark.slow
def test_an_hour_of_outage_loses_nothing_and_repeats_nothing(migrated: Engine, fleet: Fleet) -> None:
    target = Target()
    sender = _sender(migrated, target)
    target.failure = ABSENT
    expected = []
    for minute in range(60):
        changes = {0: (Change.OPENED, "a"), 10: (Change.ESCALATED, "a"), 20: (Change.CLOSED, "a")}
        changes[30] = (Change.OPENED, "b")
        made = [changes[minute]] if minute in changes else []
        expected += [(entity, str(change)) for change, entity in made]
        fleet.tick(*made)
        for second in range(0, 60, 5):
            _run(sender, fleet.now + 1000 * second)
    assert target.taken == []
    assert target.attempts < 90  # 720 looks, but a retry every few minutes only

    target.failure = None
    for second in range(0, 300, 5):
        _run(sender, fleet.now + STEP + 1000 * second)

    assert sorted(target.changes) == sorted(expected)
    assert [pair for pair in target.changes if pair[0] == "a"] == [pair for pair in expected if pair[0] == "a"]
    assert {state for state, _ in _deliveries(migrated)} == {"sent"}


def test_a_later_event_of_an_alert_waits_for_the_earlier_one(migrated: Engine, fleet: Fleet) -> None:
    target = Target()
    sender = _sender(migrated, target)
    target.failure = ABSENT
    fleet.tick((Change.OPENED, "a"))
    _run(sender, fleet.now)
    at = fleet.now
    fleet.now = at - STEP + 100
    fleet.tick((Change.CLOSED, "a"), (Change.OPENED, "b"))

    due = _due(migrated, at + 200)

    assert [(notice.alert.entity, notice.change) for notice in due] == [("b", "opened")]
    assert [notice.change for notice in _due(migrated, at + HOUR)] == ["opened", "closed", "opened"]


def test_a_message_that_is_refused_holds_up_no_other(migrated: Engine, fleet: Fleet) -> None:
    target = Target()
    target.refused = {"a"}
    fleet.tick((Change.OPENED, "a"), (Change.OPENED, "b"))

    assert _run(_sender(migrated, target), fleet.now) == {"failed": 1, "sent": 1, "dead": 0}

    assert target.changes == [("b", "opened")]
    assert _deliveries(migrated) == [("pending", 1), ("sent", 1)]


def test_a_target_that_is_absent_is_asked_once_for_all(migrated: Engine, fleet: Fleet) -> None:
    target = Target()
    target.failure = ABSENT
    fleet.tick((Change.OPENED, "a"), (Change.OPENED, "b"), (Change.OPENED, "c"))

    _run(_sender(migrated, target), fleet.now)

    assert target.attempts == 1
    assert _deliveries(migrated) == [("pending", 1)] * 3
    assert _due(migrated, fleet.now + 2_000) == []
    assert len(_due(migrated, fleet.now + 5_000)) == 3


def test_an_event_is_given_up_after_a_day_and_its_error_kept(migrated: Engine, fleet: Fleet) -> None:
    target = Target()
    target.failure = ABSENT
    sender = _sender(migrated, target)
    fleet.tick((Change.OPENED, "a"))

    _run(sender, fleet.now + DAY - 1)
    assert outbox.summary(migrated, [1]) == {1: "pending"}
    assert _run(sender, fleet.now + DAY + 300_000) == {"failed": 1, "dead": 1}

    assert outbox.summary(migrated, [1, 99]) == {1: "dead", 99: "none"}
    assert sender.unsent() == (None, 1)
    with migrated.connect() as connection:
        assert connection.scalar(select(delivery.c.error)) == str(ABSENT)
    target.failure = None
    assert _run(sender, fleet.now + 2 * DAY) == {}


def test_what_is_unsent_is_known_since_when(migrated: Engine, fleet: Fleet) -> None:
    sender = _sender(migrated, Target())
    assert sender.unsent() == (None, 0)
    fleet.tick((Change.OPENED, "a"))
    first = fleet.now
    fleet.tick((Change.OPENED, "b"))

    assert sender.unsent() == (first, 0)
    _run(sender, fleet.now)
    assert sender.unsent() == (None, 0)
    assert outbox.summary(migrated, [1, 2]) == {1: "sent", 2: "sent"}


@pytest.mark.slow
def test_five_hundred_alerts_at_once_are_at_most_five_messages(migrated: Engine, fleet: Fleet) -> None:
    target = Target()
    sender = _sender(migrated, target)
    names = [f"web-{n:03}" for n in range(500)]
    for begin, end in ((0, 2), (2, 300), (300, 500)):  # not all in the very same slot
        fleet.tick(*((Change.OPENED, name) for name in names[begin:end]))
        _run(sender, fleet.now)
    for _ in range(6):
        fleet.tick(*((Change.ESCALATED, name) for name in names[::2]))
        _run(sender, fleet.now)

    assert len(target.taken) == 5
    named = {entity for entity, change in target.changes if change == "opened"}
    assert named == set(names)
    _run(sender, fleet.now + 600_000)
    assert len(target.taken) == 6
    assert target.taken[-1].is_summary
    assert {state for state, _ in _deliveries(migrated)} == {"sent"}


def test_messages_count_when_they_were_sent_not_when_the_events_happened(migrated: Engine, fleet: Fleet) -> None:
    store, target = OutboxStore(migrated), Target()
    fleet.tick(*((Change.OPENED, name) for name in "abcdef"))
    late = fleet.now + HOUR

    _run(_sender(migrated, target), late)  # a summary
    fleet.tick((Change.CLOSED, "a"), (Change.CLOSED, "b"))
    _run(_sender(migrated, target), late + 1)  # two messages

    assert [store.messages_since("chat", "web", late + after) for after in (-1, 0, 2)] == [3, 2, 0]
    assert store.messages_since("chat", "db", 0) == store.messages_since("pager", "web", 0) == 0


def test_two_processes_never_send_the_same_event(migrated: Engine, database_url: str, fleet: Fleet) -> None:
    other = database.connect(database_url)
    first, second = Target(), Target()
    fleet.tick((Change.OPENED, "a"))
    rival = _sender(other, second)
    # the rival looks while the first one is sending
    send = first.send

    def send_slowly(message: Message, now: int) -> None:
        assert _run(rival, now) == {}
        send(message, now)

    first.send = send_slowly  # type: ignore[method-assign]
    try:
        _run(_sender(migrated, first), fleet.now)
        _run(rival, fleet.now + 1)
    finally:
        other.dispose()

    assert (len(first.taken), len(second.taken)) == (1, 0)


@pytest.mark.slow
def test_processes_that_look_all_the_time_send_everything_once(
    migrated: Engine, database_url: str, fleet: Fleet
) -> None:
    engines, target = [database.connect(database_url) for _ in range(3)], Target()
    limits = replace(EVENTS, max_messages=1000)
    is_over = threading.Event()
    problems: list[Exception] = []

    def look(engine: Engine) -> None:
        sender = _sender(engine, target, limits)
        while not is_over.is_set():
            try:
                sender.run(lambda: round(time.time() * 1000), random.Random(1))
            except StoreError as exc:
                problems.append(exc)

    threads = [threading.Thread(target=look, args=[engine]) for engine in engines]
    for thread in threads:
        thread.start()
    try:
        for n in range(20):
            fleet.tick(*((Change.OPENED, f"{n}-{k}") for k in range(3)))
            time.sleep(0.05)
        until(lambda: len(target.changes) >= 60, "all to be sent", 120)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
        for engine in engines:
            engine.dispose()

    assert sorted(target.changes) == sorted((f"{n}-{k}", "opened") for n in range(20) for k in range(3))
    assert {state for state, _ in _deliveries(migrated)} == {"sent"}
    assert problems == []


def test_a_process_that_died_is_succeeded_when_its_lease_is_over(migrated: Engine, fleet: Fleet) -> None:
    dead, target = OutboxStore(migrated), Target()
    fleet.tick((Change.OPENED, "a"))
    assert dead.claim("chat", fleet.now, fleet.now + 25_000)

    assert _run(_sender(migrated, target), fleet.now + 24_999) == {}
    assert _run(_sender(migrated, target), fleet.now + 25_000) == {"sent": 1}


def test_what_was_sent_is_not_sent_again_when_the_store_fails_to_note_it(
    migrated: Engine, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target()
    sender = _sender(migrated, target)
    fleet.tick((Change.OPENED, "a"))

    def refuse(*_: object) -> None:
        msg = "the detector's database refused: locked"
        raise StoreError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(OutboxStore, "sent", refuse)
        with pytest.raises(StoreError):
            _run(sender, fleet.now)
    _run(sender, fleet.now + 1)

    assert target.changes == [("a", "opened")]
    assert _deliveries(migrated) == [("sent", 1)]


def test_open_alerts_are_sent_again_every_minute_until_they_close(migrated: Engine, fleet: Fleet) -> None:
    target = Target()
    sender = _sender(migrated, target, STANDING)
    fleet.tick((Change.OPENED, "a"), (Change.OPENED, "muted"), is_muted=False)
    at = fleet.now

    runs = [_run(sender, at + seconds * 1000) for seconds in (0, 30, 60, 90, 120)]
    fleet.now = at + 2 * STEP
    fleet.tick((Change.CLOSED, "a"))
    _run(sender, fleet.now)

    assert runs == [{"sent": 1}, {}, {"sent": 1}, {}, {"sent": 1}]
    assert [[(alert.id, alert.state) for alert in message.alerts] for message in target.taken] == [
        *[[(1, "open"), (2, "open")]] * 3,
        [(1, "closed"), (2, "open")],
    ]


def test_an_absent_target_is_not_asked_again_for_each_monitor(migrated: Engine, fleet: Fleet) -> None:
    target = Target()
    target.failure = ABSENT
    sender = Sender("chat", target, OutboxStore(migrated), monitors=["web", "db", "mail"], limits=STANDING)

    for seconds in (0, 1, 2):
        _run(sender, fleet.now + seconds * 1000)

    assert target.attempts == 1


def test_a_muted_alert_is_not_sent(migrated: Engine, fleet: Fleet) -> None:
    events, standing = Target(), Target()
    fleet.tick((Change.OPENED, "a"), is_muted=True)

    _run(_sender(migrated, events), fleet.now)
    _run(_sender(migrated, standing, STANDING), fleet.now)

    assert events.taken == []
    assert [message.alerts for message in standing.taken] == [()]


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    steps=st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from("abc"), st.sampled_from(["open", "worse", "close"]), max_size=3),
            st.booleans(),  # whether the target is there
            st.integers(0, 400),  # seconds until the next look
        ),
        min_size=1,
        max_size=12,
    )
)
def test_whatever_happens_an_alert_that_does_not_change_is_never_sent_twice(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[dict[str, str], bool, int]]
) -> None:
    engine = database.connect(f"sqlite:///{tmp_path_factory.mktemp('outbox')}/detector.db")
    migrate(engine)
    fleet, target = Fleet(engine), Target()
    sender = _sender(engine, target, replace(EVENTS, max_messages=2))
    is_open: dict[str, bool] = {}
    expected: list[tuple[str, str]] = []
    try:
        for wanted, is_there, wait in steps:
            changes = []
            for entity, what in sorted(wanted.items()):
                if what == "open" and not is_open.get(entity):
                    changes.append((Change.OPENED, entity))
                elif what == "worse" and is_open.get(entity):
                    changes.append((Change.ESCALATED, entity))
                elif what == "close" and is_open.get(entity):
                    changes.append((Change.CLOSED, entity))
                else:
                    continue
                is_open[entity] = what != "close"
            changes.sort(key=lambda change: change[0])
            fleet.tick(*changes)
            expected += [(entity, str(change)) for change, entity in changes]
            target.failure = None if is_there else ABSENT
            _run(sender, fleet.now)
            fleet.now += wait * 1000
        target.failure = None
        for later in range(3):
            _run(sender, fleet.now + (later + 1) * HOUR)
    finally:
        engine.dispose()

    assert sorted(target.changes) == sorted(expected)
    for name in "abc":
        assert [pair for pair in target.changes if pair[0] == name] == [pair for pair in expected if pair[0] == name]
