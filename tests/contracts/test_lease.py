"""A lease: kept while its holder lives, free soon after its end, on every database (c18, x12)."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from migrated import migrate
from running import until
from sqlalchemy import Engine, select, update

from detector import database
from detector.store.lease import LASTS, Lease
from detector.tables import lease

NOW = 1_800_000_000_000


@pytest.fixture
def store(engine: Engine) -> Engine:
    migrate(engine)
    return engine


def _expires_at(store: Engine) -> int:
    with store.connect() as connection:
        return int(connection.scalars(select(lease.c.expires_at)).one())


@pytest.mark.slow
def test_one_at_a_time_holds_a_lease(store: Engine) -> None:
    mine, others = Lease(store, "x"), Lease(store, "x")

    assert mine.acquire(NOW)
    assert not others.acquire(NOW + 1000)
    mine.release()
    assert others.acquire(NOW + 1000)
    others.release()


def test_the_lease_of_a_dead_holder_is_free_within_two_minutes(store: Engine) -> None:
    dead = Lease(store, "x", beat=3600)  # no heartbeat comes any more
    assert dead.acquire(NOW)

    heir = Lease(store, "x")
    assert not heir.acquire(NOW + 80_000)
    assert LASTS < 120
    assert heir.acquire(NOW + 120_000)

    dead.release()  # nobody else's
    assert not Lease(store, "x").acquire(NOW + 121_000)
    heir.release()


@pytest.mark.slow
def test_a_living_holder_is_never_robbed(store: Engine) -> None:
    mine = Lease(store, "x", beat=0.1)
    assert mine.acquire(NOW)

    for _ in range(5):
        expires = _expires_at(store)
        until(lambda before=expires: _expires_at(store) > before, "a heartbeat", 60)  # type: ignore[misc]
        assert not Lease(store, "x").acquire(expires)  # it would have been free by then

    assert not mine.is_lost
    mine.release()


def test_a_holder_that_was_suspended_for_too_long_learns_that_it_has_lost(store: Engine) -> None:
    mine = Lease(store, "x", beat=0.1)
    assert mine.acquire(NOW)

    with store.begin() as connection:
        connection.execute(update(lease).values(holder="another", expires_at=NOW + 3_600_000))
    until(lambda: mine.is_lost, "it to learn", 60)

    mine.release()


TRAINS = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may have it ignored, as nohup does
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from detector import database
from detector.commands.train import _end_in_order_when_asked
from detector.store.lease import Lease

_end_in_order_when_asked()
held = Lease(database.connect(sys.argv[1]), "retrain:web")
assert held.acquire(round(time.time() * 1000))
try:
    print("holds it", flush=True)
    time.sleep(60)
finally:
    held.release()
"""


@pytest.fixture
def training(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Engine]]:
    """A process that holds a lease as `detector retrain` does."""
    url = f"sqlite:///{tmp_path}/detector.db"
    engine = database.connect(url)
    migrate(engine)
    with subprocess.Popen([sys.executable, "-c", TRAINS, url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds it\n"
        yield process, engine
        process.kill()
    engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_training_that_is_asked_to_end_gives_its_lease_back(
    training: tuple[subprocess.Popen[str], Engine], number: signal.Signals
) -> None:
    process, engine = training
    process.send_signal(number)

    assert process.wait(60) != 0
    mine = Lease(engine, "retrain:web")
    assert mine.acquire(round(time.time() * 1000))
    mine.release()


def test_a_training_that_was_killed_keeps_its_lease_for_two_minutes_at_most(
    training: tuple[subprocess.Popen[str], Engine],
) -> None:
    process, engine = training
    process.kill()
    process.wait(60)

    now = round(time.time() * 1000)
    assert not Lease(engine, "retrain:web").acquire(now)
    mine = Lease(engine, "retrain:web")
    assert mine.acquire(now + 120_000)
    mine.release()
