"""`detector alerts watch`: every event once, through an outage, to a clean end."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commits import T0, change, commit
from migrated import migrate
from running import DETECTOR, START_SECONDS, configure
from sqlalchemy import Engine, create_engine, insert, make_url, text

from detector import database
from detector.commands.watch import followed
from detector.core.decide import Change
from detector.store.state import StateStore
from detector.tables import alert_event

pytestmark = pytest.mark.slow

STEP = 60_000
MONITOR = {"name": "web", "metrics": ["cpu"]}


class Fleet:
    """Alerts that open in a database, one tick each."""

    def __init__(self, url: str) -> None:
        self.engine = database.connect(url)
        migrate(self.engine)
        self._cursor: int | None = None

    def opens(self, entity: str) -> None:
        end = T0 if self._cursor is None else self._cursor + STEP
        opened = change(Change.OPENED, entity=entity, slot=end)
        StateStore(self.engine).commit(commit(expected_cursor=self._cursor, cursor=end, changes=[opened]))
        self._cursor = end


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(f"sqlite:///{tmp_path}/detector.db")
    yield made
    made.engine.dispose()


def _watch(config: Path, *words: str) -> subprocess.Popen[str]:
    command = [*DETECTOR, "alerts", "watch", *words, "--config", str(config)]
    # whoever runs the tests may have it ignored, as nohup does, and so would the process that begins here
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_new_events_come_as_json_lines_until_ctrl_c(tmp_path: Path, fleet: Fleet) -> None:
    config = configure(tmp_path, MONITOR)
    fleet.opens("web-1")

    with _watch(config, "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = json.loads(process.stdout.readline())
        fleet.opens('web "2"\n')
        second = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=START_SECONDS)

    assert [(told["entity"], told["change"], told["monitor"]) for told in (first, second)] == [
        ("web-1", "opened", "web"),
        ('web "2"\n', "opened", "web"),
    ]
    assert (process.returncode, rest, errors) == (130, "", "")


def test_it_ends_when_nobody_reads_any_more_though_nothing_happens(tmp_path: Path, fleet: Fleet) -> None:
    config = configure(tmp_path, MONITOR)
    fleet.opens("web-1")

    with _watch(config) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "opened" in process.stdout.readline()
        process.stdout.close()
        status = process.wait(timeout=START_SECONDS)
        errors = process.stderr.read()

    assert (status, errors) == (0, "")


def test_only_what_was_asked_for_is_shown(tmp_path: Path, fleet: Fleet) -> None:
    for entity in ("web-1", "db-1", "web-2", "web-3"):
        fleet.opens(entity)

    (last, new) = _first_two(fleet.engine, last=2, entity="web-*")

    assert (last, new) == (["web-2", "web-3"], [])


def _first_two(engine: Engine, *, last: int, entity: str) -> tuple[list[str], list[str]]:
    looks = followed(engine, last, monitor="web", entity=entity, pause=lambda: None)
    first, second = ([event.entity for event in next(looks)] for _ in range(2))
    return first, second


def test_an_event_that_is_committed_after_one_with_a_later_id_is_not_missed(fleet: Fleet) -> None:
    fleet.opens("web-1")
    looks = followed(fleet.engine, 0, monitor=None, entity=None, pause=lambda: None)
    assert next(looks) == []

    told = []
    for identity in (50, 49, 51):
        _add_event(fleet.engine, identity)
        told.append([event.id for event in next(looks)])

    assert told == [[50], [49], [51]]
    assert next(looks) == []


def _add_event(engine: Engine, identity: int) -> None:
    event = {"id": identity, "alert_id": 1, "change": "revised", "slot": T0, "severity": "warning"}
    with engine.begin() as connection:
        connection.execute(insert(alert_event).values(**event, peak_score=1.0, created_at=T0))


def test_an_outage_of_the_database_is_told_once_and_outlived(
    postgres_url: str, postgres_database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet(postgres_database)
    name, server = make_url(postgres_database).database, create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    looks = followed(fleet.engine, 0, monitor=None, entity=None, pause=lambda: None)
    next(looks), next(looks)

    with server.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
        )
        down = [next(looks) for _ in range(3)]
        told_down = capsys.readouterr().err
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
    fleet.opens("web-1")
    up = [event.entity for event in next(looks)]
    fleet.engine.dispose()
    server.dispose()

    assert (down, up) == ([[], [], []], ["web-1"])
    assert told_down.count("trying again until it answers") == 1
    assert capsys.readouterr().err == "detector: the database answers again\n"
