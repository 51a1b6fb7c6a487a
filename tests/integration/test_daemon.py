"""The daemon as a process: its start and end, what it serves, what it loads, and what becomes of its work when it or
its database is killed."""

from __future__ import annotations

import itertools
import math
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import DETECTOR, EVERY_SECOND, Daemon, configure, daemon, detector, labelled, until, usage_table, values_of
from sqlalchemy import Engine, create_engine, func, make_url, select, text

from detector import database
from detector.tables import alert, alert_event, cursor, score

pytestmark = pytest.mark.slow

Record = Callable[[str, object], None]

MONITOR = {
    **EVERY_SECOND,
    "name": "web",
    "metrics": ["load", "errors"],
    "timesteps": 10,
    "retrain": "off",
    "model": {"units": 4},
    "training": {"epochs": 2},
}

READY_SECONDS = 60.0  # the aim is 2 s on an idle machine; tests share theirs
MEGABYTES = 150.0


def _write_samples(path: Path, now: int) -> None:
    """A quarter of an hour up to now and half an hour to come; one of the entities fell silent five minutes ago."""
    with path.open("w") as file:
        file.write("timestamp,entity,load,errors\n")
        for second in range(-900, 1800):
            for phase, entity in enumerate(["web-1", "web-2", "silent"]):
                if entity != "silent" or second < -300:
                    load = math.sin(second / 5 + phase) + math.sin(second * 12.9898 + phase) / 10
                    errors = math.cos(second / 7) + math.sin(second * 78.233 + phase) / 10
                    file.write(f"{now + second},{entity},{load},{errors}\n")


def _import_and_train(config: Path) -> None:
    now = int(time.time())
    samples = config.parent / "samples.csv"
    _write_samples(samples, now)
    detector("import", samples, "--monitor", "web", "--config", config)
    until_now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    detector("retrain", "--to", until_now, "--config", config)


def _copy(source: Path, target: Path) -> None:
    """A copy of a SQLite database that does not miss what is still in its log."""
    connection = sqlite3.connect(source)
    try:
        connection.execute("VACUUM INTO ?", [str(target)])
    finally:
        connection.close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with samples and a live model."""
    folder = tmp_path_factory.mktemp("trained")
    _import_and_train(configure(folder, MONITOR))
    return folder / "detector.db"


@pytest.fixture
def config(trained: Path, tmp_path: Path) -> Path:
    """The configuration of a trained monitor that this test has for itself."""
    _copy(trained, tmp_path / "detector.db")
    return configure(tmp_path, MONITOR)


@dataclass
class Supervisor:
    """What systemd is to a service: the receiving end of its notification socket."""

    connection: socket.socket

    def receive(self, wanted: str, seconds: float) -> str:
        """The next message that has a line beginning so."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.connection.settimeout(left)
            try:
                message = self.connection.recv(4096).decode()
            except TimeoutError:
                break
            if any(line.startswith(wanted) for line in message.splitlines()):
                return message
        return pytest.fail(f"no {wanted} within {seconds:g} s")


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[tuple[Supervisor, dict[str, str]]]:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.bind(str(path))
        yield Supervisor(connection), {"NOTIFY_SOCKET": str(path)}


def _note(record_property: Record, name: str, value: float) -> None:
    record_property(name, round(value, 3))
    print(f"{name} = {value:.3f}")


def _until_scored(running: Daemon) -> None:
    until(lambda: running.metrics().get("detector_score"), "a score")


# -- start and end ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_supervisor_is_told_of_start_state_life_and_end(
    config: Path, supervisor: tuple[Supervisor, dict[str, str]], record_property: Record
) -> None:
    receiver, environment = supervisor
    began = time.monotonic()
    with daemon(config, environment=environment | {"WATCHDOG_USEC": "600000"}) as running:
        ready = receiver.receive("READY=1", READY_SECONDS)
        _note(record_property, "seconds_from_start_to_ready", time.monotonic() - began)
        assert "STATUS=watching 1 monitors" in ready
        # 200 ms apart: a third of what the supervisor allows
        receiver.receive("WATCHDOG=1", READY_SECONDS)
        assert "3 entities, model 1" in receiver.receive("STATUS=web", READY_SECONDS)

        status, seconds = running.end(signal.SIGTERM)

        _note(record_property, "seconds_from_SIGTERM_to_end_of_a_supervised_daemon", seconds)
        receiver.receive("STOPPING=1", READY_SECONDS)
        assert status == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: str(number.name))
def test_signal_ends_a_scoring_daemon_cleanly(config: Path, number: signal.Signals, record_property: Record) -> None:
    with daemon(config) as running:
        _until_scored(running)

        status, seconds = running.end(number)

        _note(record_property, f"seconds_from_{number.name}_to_end", seconds)
        assert status == 0
        assert "event=stopped clean=True" in running.log_file.read_text()


@pytest.mark.slow
def test_a_hangup_reads_the_configuration_again_in_the_same_process(config: Path) -> None:
    right = config.read_text()
    with daemon(config) as running:
        _until_scored(running)
        config.write_text(right.replace("step =", "stepp ="))
        running.process.send_signal(signal.SIGHUP)
        running.until_logged(r"event=reload_refused reason=.*stepp: unknown key; the nearest known one is `step`")
        assert running.metrics()["detector_config_last_reload_successful"] == {frozenset(): 0.0}

        config.write_text(right)
        running.process.send_signal(signal.SIGHUP)

        until(lambda: "event=tick_done" in "".join(running.log.split("event=stopped")[1:]), "a tick afterwards")
        assert "event=stopping" not in running.log
        port = re.findall(r"event=started .*listen_port=(\d+)", running.log)[-1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            body = answer.read().decode()
        assert "detector_config_last_reload_successful 1.0" in body
        assert running.end(signal.SIGTERM)[0] == 0


def test_taken_port_is_one_clear_line_and_a_failure(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = configure(tmp_path, MONITOR, listen=f"127.0.0.1:{port}")

        done = subprocess.run(
            [*DETECTOR, "run", "--config", config], capture_output=True, text=True, timeout=60, check=False
        )

    assert done.returncode == 1  # after 2 systemd would not try again
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"detector: export.listen: cannot listen on 127.0.0.1:{port} (Address already in use)")


# -- what it serves and what it holds ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_endpoint_shows_score_or_state_of_every_entity(config: Path) -> None:
    with daemon(config) as running:
        _until_scored(running)
        metrics = running.metrics()

        assert running.get("/healthz") == (200, "ok\n")
        assert running.get("/readyz") == (200, "ok\n")
        assert running.get("/nothing")[0] == 404

    assert values_of(metrics["detector_score"], "entity") == {"web-1", "web-2"}
    assert labelled(metrics["detector_entities"], monitor="web") == 3
    assert labelled(metrics["detector_entities"], monitor="web", state="unknown", reason="no_data") == 1
    assert labelled(metrics["detector_model_info"], monitor="web", version="1") == 1
    assert labelled(metrics["detector_job_runs_total"], task="tick", monitor="web", outcome="success") >= 1
    assert labelled(metrics["detector_job_runs_total"], task="tick", monitor="web", outcome="error") == 0
    assert labelled(metrics["detector_windows_scored_total"], monitor="web") > 0
    newest = labelled(metrics["detector_cursor_timestamp_seconds"], monitor="web")
    assert abs(newest - time.time()) < 60


SHOW_MODULES = """
import pathlib, signal, sys
def show(*_):
    target = pathlib.Path({target!r})
    target.with_suffix(".part").write_text("\\n".join(sys.modules))
    target.with_suffix(".part").rename(target)
signal.signal(signal.SIGUSR1, show)
from detector.cli import main
main()
"""


@pytest.mark.slow
def test_scoring_daemon_has_no_tensorflow_and_little_memory(
    config: Path, tmp_path: Path, record_property: Record
) -> None:
    listing = tmp_path / "modules"
    command = [sys.executable, "-c", SHOW_MODULES.format(target=str(listing))]
    with daemon(config, command=command) as running:
        _until_scored(running)
        running.process.send_signal(signal.SIGUSR1)
        until(listing.exists, "the list of modules")
        mapped = Path(f"/proc/{running.process.pid}/maps").read_text()
        resident = running.megabytes("VmRSS")
        _note(record_property, "resident_megabytes", resident)
        _note(record_property, "peak_megabytes", running.megabytes("VmHWM"))

    modules = listing.read_text().splitlines()
    assert "detector.models.inference" in modules  # the list is that of a daemon that scores
    assert [name for name in modules if name.split(".")[0] in {"tensorflow", "keras"}] == []
    assert "numpy" in mapped
    assert "tensorflow" not in mapped
    assert resident <= MEGABYTES


# -- killed -----------------------------------------------------------------------------------------------------------

STEP = 60
FIRST = 1_735_689_600  # 2025-01-01
TRAINING_SLOTS = 3_000
REPLAYED_SLOTS = 16 * 1_440
HOSTS = 6
END_MS = (FIRST + (TRAINING_SLOTS + REPLAYED_SLOTS) * STEP) * 1000
LONGEST_FAULT = 4_000
KILLS = 6


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of somebody else's: six hosts for eighteen days, with faults in the part that is replayed."""
    path = tmp_path_factory.mktemp("recording") / "recording.db"
    rng = np.random.default_rng(1)
    slots = np.arange(TRAINING_SLOTS + REPLAYED_SLOTS)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE usage (time INTEGER, host TEXT, load REAL, errors REAL)")
    for host in range(HOSTS):
        load = np.sin(slots / 20 + host) + rng.normal(0, 0.1, len(slots))
        errors = np.cos(slots / 30) + rng.normal(0, 0.1, len(slots))
        for fault in rng.integers(TRAINING_SLOTS, len(slots) - 100, 8):
            load[fault : fault + rng.integers(5, 40)] += rng.choice([-6.0, 6.0])
        if host == 2:  # longer than what is committed at a time, so that it is open while the daemon is down
            middle = TRAINING_SLOTS + REPLAYED_SLOTS // 2
            errors[middle : middle + LONGEST_FAULT] += 8.0
        times = (FIRST + slots * STEP).tolist()
        rows = zip(times, [f"host-{host}"] * len(slots), load.tolist(), errors.tolist(), strict=True)
        connection.executemany("INSERT INTO usage VALUES (?, ?, ?, ?)", rows)
    connection.execute("CREATE INDEX usage_time ON usage (time)")
    connection.commit()
    connection.close()
    return path


def _replay_config(folder: Path, url: str, recording: Path) -> Path:
    folder.mkdir(exist_ok=True)
    replayed = {"source": usage_table(recording), "step": "60s", "max_catch_up": "36500d", "keep_scores": "36500d"}
    return configure(folder, {**MONITOR, **replayed}, url=url)


@pytest.fixture(params=["sqlite", "postgresql"])
def twins(request: pytest.FixtureRequest, tmp_path: Path, recording: Path) -> Iterator[tuple[str, str]]:
    """URLs of two databases that are the same to the last byte: trained, nothing scored."""
    trained_until = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(FIRST + TRAINING_SLOTS * STEP))

    def train(url: str) -> None:
        config = _replay_config(tmp_path / "training", url, recording)
        detector("db", "upgrade", "--config", config)
        detector("retrain", "--to", trained_until, "--config", config)

    if request.param == "sqlite":
        train(f"sqlite:///{tmp_path}/one.db")
        _copy(tmp_path / "one.db", tmp_path / "two.db")
        yield f"sqlite:///{tmp_path}/one.db", f"sqlite:///{tmp_path}/two.db"
        return
    first = make_url(str(request.getfixturevalue("postgres_database")))
    train(first.render_as_string(hide_password=False))
    copy = first.set(database=f"{first.database}_copy")
    server = create_engine(request.getfixturevalue("postgres_url"), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {copy.database} TEMPLATE {first.database}"))
    yield first.render_as_string(hide_password=False), copy.render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {copy.database} WITH (FORCE)"))
    server.dispose()


def _cursor(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(select(cursor.c.slot)) or 0


def _newest_score(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(select(func.max(score.c.slot))) or 0


def _compared() -> list[str]:
    """Columns of alerts; `revision` is left out: a peak that rises is written as often as there are ticks.

    Also `incident`, a row number: PostgreSQL does not give one again that a killed transaction had taken.
    """
    return [column.name for column in alert.columns if column.name not in {"id", "revision", "incident"}]


def _results(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Everything a replay leaves behind but row numbers and the time of day it ran at."""
    events = (
        select(alert.c.entity, alert.c.opened_slot, alert_event.c.change, alert_event.c.slot)
        .add_columns(alert_event.c.severity, alert_event.c.peak_score, alert_event.c.detail)
        .join_from(alert_event, alert)
        .order_by(alert.c.entity, alert.c.opened_slot, alert_event.c.id)
    )
    first = alert.alias()  # of the incident
    alerts = [alert.c[name] for name in _compared()]
    incidents = (
        select(alert.c.entity, alert.c.opened_slot, first.c.entity, first.c.opened_slot)
        .join_from(alert, first, first.c.id == alert.c.incident)
        .order_by(alert.c.entity, alert.c.opened_slot)
    )
    queries = {
        "scores": select(score).order_by(score.c.monitor, score.c.slot, score.c.entity),
        "alerts": select(*alerts).order_by(alert.c.monitor, alert.c.entity, alert.c.opened_slot),
        "incidents": incidents,
        "events": events,
    }
    with engine.connect() as connection:
        return {name: [tuple(row) for row in connection.execute(query)] for name, query in queries.items()}


def _differences(expected: list[tuple[Any, ...]], received: list[tuple[Any, ...]]) -> list[Any]:
    """The first few pairs that differ; a comparison of whole lists would take longer than the replay to show."""
    pairs = itertools.zip_longest(expected, received)
    return list(itertools.islice(((a, b) for a, b in pairs if a != b), 5))


def _spans(alerts: list[tuple[Any, ...]]) -> list[tuple[int, int]]:
    """When each closed alert opened and closed."""
    rows = [dict(zip(_compared(), row, strict=True)) for row in alerts]
    return [(row["opened_slot"], row["closed_slot"]) for row in rows if row["closed_slot"] is not None]


def _replay(config: Path) -> float:
    with daemon(config) as running:
        began = time.monotonic()
        running.until_logged("event=tick_done", 300)
        seconds = time.monotonic() - began
        assert running.end(signal.SIGTERM)[0] == 0
    return seconds


def _replay_with_kills(config: Path, engine: Engine, rng: random.Random) -> int:
    """Kills the daemon again and again while its cursor moves, then lets it finish; how often it was killed."""
    begin, kills = FIRST + TRAINING_SLOTS * STEP, 0
    for share in sorted(rng.uniform(0.02, 0.9) for _ in range(KILLS)):
        goal = int((begin + share * REPLAYED_SLOTS * STEP) * 1000)
        with daemon(config) as running:
            until(lambda goal=goal: _cursor(engine) >= goal, "the cursor to move", 120, pause=0.002)  # type: ignore[misc]
            # so that it meets the daemon now reading, now scoring, now in the middle of a transaction
            time.sleep(rng.uniform(0.0, 0.15))
            running.process.kill()
            running.process.wait()
        reached = _cursor(engine)
        assert _newest_score(engine) < reached  # nothing half done is seen
        kills += reached < END_MS
    _replay(config)
    return kills


@pytest.mark.slow
def test_killed_daemon_arrives_at_the_results_of_an_undisturbed_one(
    twins: tuple[str, str], recording: Path, tmp_path: Path, record_property: Record
) -> None:
    engines = [database.connect(url) for url in twins]
    try:
        seconds = _replay(_replay_config(tmp_path / "undisturbed", twins[0], recording))
        _note(record_property, "seconds_of_undisturbed_replay", seconds)
        kills = _replay_with_kills(
            _replay_config(tmp_path / "killed", twins[1], recording), engines[1], random.Random(5)
        )
        undisturbed, killed = (_results(engine) for engine in engines)
    finally:
        for engine in engines:
            engine.dispose()

    _note(record_property, "kills_before_the_end", kills)
    _note(record_property, "alerts", len(undisturbed["alerts"]))
    assert kills >= 3
    assert len(undisturbed["scores"]) == HOSTS * REPLAYED_SLOTS  # there are no holes in the data
    assert len(undisturbed["alerts"]) > HOSTS
    assert len(undisturbed["incidents"]) == len(undisturbed["alerts"])
    assert len(undisturbed["events"]) > len(undisturbed["alerts"])
    longest = max(closed - opened for opened, closed in _spans(undisturbed["alerts"]))
    assert longest >= 60 * STEP * 1000  # long enough to be open when the process is killed
    for name, rows in undisturbed.items():
        assert _differences(rows, killed[name]) == [], name


# -- without its database ---------------------------------------------------------------------------------------------


def _ticks(running: Daemon, outcome: str) -> float:
    return labelled(running.metrics()["detector_job_runs_total"], task="tick", monitor="web", outcome=outcome)


def test_daemon_waits_for_a_source_table_that_does_not_exist_yet(tmp_path: Path) -> None:
    samples = tmp_path / "samples.db"
    with sqlite3.connect(samples) as connection:
        connection.execute("CREATE TABLE unrelated (x)")
    config = configure(tmp_path, {**MONITOR, "source": usage_table(samples)})

    with daemon(config) as running:
        until(lambda: _ticks(running, "error") >= 2, "two failed ticks")
        assert running.get("/healthz") == (200, "ok\n")
        assert running.get("/readyz") == (503, "monitor web: no tick has succeeded yet\n")
        assert _ticks(running, "success") == 0

        now = int(time.time())
        rows = [(now + second, "web-1", 1.0, 2.0) for second in range(-60, 600)]
        with connection:
            connection.execute("CREATE TABLE usage (time INTEGER, host TEXT, load REAL, errors REAL)")
            connection.executemany("INSERT INTO usage VALUES (?, ?, ?, ?)", rows)
        connection.close()

        until(lambda: _ticks(running, "success") >= 2, "two good ticks")
        assert running.get("/readyz") == (200, "ok\n")
        until(
            lambda: labelled(running.metrics()["detector_entities"], state="unknown", reason="no_model") == 1,
            "the entity of the new table",
        )
        assert running.log.count("event=tick_failed") == 1  # said once, not every second


def _set_reachable(server: Engine, name: str, *, is_reachable: bool) -> None:
    """Lets connections to a PostgreSQL database in, or ends all there are and refuses new ones."""
    with server.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {is_reachable}"))
        if not is_reachable:
            end = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
            connection.execute(end, {"name": name})


@pytest.mark.slow
def test_daemon_outlives_its_database_and_leaves_no_slot_out(
    postgres_url: str, postgres_database: str, tmp_path: Path
) -> None:
    config = configure(tmp_path, MONITOR, url=postgres_database)
    _import_and_train(config)
    server = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    name = str(make_url(postgres_database).database)

    with daemon(config) as running:
        _until_scored(running)
        _set_reachable(server, name, is_reachable=False)
        gone = time.time()
        until(lambda: _ticks(running, "error") >= 3, "three failed ticks")
        assert running.get("/healthz") == (200, "ok\n")
        assert running.get("/readyz")[0] == 503
        assert "database" in running.get("/readyz")[1]

        _set_reachable(server, name, is_reachable=True)
        server.dispose()
        back = time.time()
        good = _ticks(running, "success")
        until(lambda: _ticks(running, "success") >= good + 3, "three good ticks")
        assert running.get("/readyz") == (200, "ok\n")
        assert "Traceback" not in running.log
        assert running.end(signal.SIGTERM)[0] == 0

    engine = database.connect(postgres_database)
    with engine.connect() as connection:
        slots = connection.scalars(select(score.c.slot).where(score.c.entity == "web-1").order_by(score.c.slot)).all()
    engine.dispose()
    assert list(slots) == list(range(slots[0], slots[-1] + 1, 1000))
    assert slots[0] / 1000 < gone < back < slots[-1] / 1000 + 1


# -- from nothing -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_host_monitor_warms_up_trains_itself_and_scores(tmp_path: Path, record_property: Record) -> None:
    host = {"source": {"type": "host", "entity": "here"}, "metrics": [], "retrain": "0 3 * * sun"}
    config = configure(tmp_path, {**MONITOR, **host, "training": {"epochs": 2, "minimum_slots": 25}})

    with daemon(config) as running:
        began = time.monotonic()
        found = running.until_logged(r"event=warming_up monitor=web slots=(\d+) needed=25")
        assert int(found[1]) < 25
        running.until_logged("event=retrain_started monitor=web", 120)
        running.until_logged("event=retrain_done monitor=web", 120)
        running.until_logged(r"event=model_loaded monitor=web version=1 kind=\S+ entities=1")
        _until_scored(running)
        _note(record_property, "seconds_from_nothing_to_score", time.monotonic() - began)

        metrics = running.metrics()
        assert values_of(metrics["detector_score"], "entity") == {"here"}
        assert labelled(metrics["detector_job_runs_total"], task="retrain", outcome="success") == 1
        assert labelled(metrics["detector_job_runs_total"], task="collect", outcome="error") == 0
        assert "tensorflow" not in Path(f"/proc/{running.process.pid}/maps").read_text()
        _note(record_property, "resident_megabytes", running.megabytes("VmRSS"))
