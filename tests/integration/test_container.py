"""Installations without TensorFlow, as an image and as a virtual environment; and the files of deploy/container."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from running import START_SECONDS, configure, daemon, until, usage_table

CHECKOUT = Path(__file__).parents[2]
CONTAINER = CHECKOUT / "deploy/container"
TRAINED_BY_KERAS = {"keras", "tensorflow"}
BASE, IMAGE = "localhost/detector-tests-base:bookworm", "localhost/detector-tests:scoring"
NO_TENSORFLOW = (
    "monitor 'net' cannot be trained here: this installation has no TensorFlow; run `detector retrain` on one that "
    'has, with the same [database], or set model.kind = "baseline"'
)

pytestmark = pytest.mark.skipif(not CONTAINER.exists(), reason="not run from a checkout")

Detector = Callable[..., subprocess.CompletedProcess[str]]
"""Runs a command of the installation; its status and what it printed."""


# -- files ------------------------------------------------------------------------------------------------------------


def _requirements(lines: Sequence[str]) -> set[str]:
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def test_the_scoring_image_installs_what_the_program_needs_without_tensorflow() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    listed = _requirements((CONTAINER / "scoring.txt").read_text().splitlines())

    needed = {*project["dependencies"], *extras["postgres"], *extras["mysql"]}
    assert listed == {line for line in needed if re.split(r"[<>=\[]", line)[0] not in TRAINED_BY_KERAS}


def _compose() -> dict[str, Any]:
    return dict(yaml.safe_load((CONTAINER / "compose.yml").read_text()))


def test_compose_mounts_files_that_exist_and_volumes_that_it_names() -> None:
    compose = _compose()
    mounts = [mount.split(":")[0] for service in compose["services"].values() for mount in service["volumes"]]

    files = {mount for mount in mounts if mount.startswith(".")} - {"./config.toml"}  # which the user writes

    assert [mount for mount in files if not (CONTAINER / mount).exists()] == []
    assert {mount for mount in mounts if not mount.startswith(".")} == set(compose["volumes"])
    build = compose["services"]["detector"]["build"]
    assert (CONTAINER / build["context"] / build["dockerfile"]).samefile(CONTAINER / "Dockerfile")
    assert f"AS {build['target']}\n" in (CONTAINER / "Dockerfile").read_text()


def test_compose_has_no_secret_and_listens_on_this_machine_only() -> None:
    text = (CONTAINER / "compose.yml").read_text()

    values = re.findall(r"PASSWORD: (.*)", text)
    assert [value for value in values if not re.fullmatch(r"\$\{[A-Z_]+:\?.*\}", value)] == []
    assert len(values) == 3
    assert "0.0.0.0" not in text
    assert [service for service in _compose()["services"].values() if service["network_mode"] != "host"] == []
    assert text.count("listen") >= 4


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("service", "programs", "path"),
    [
        ("prometheus", ["prometheus"], "/api/v1/rules"),
        ("alertmanager", ["prometheus-alertmanager", "alertmanager"], "/api/v2/status"),
    ],
)
def test_a_real_server_takes_the_flags_and_files_of_compose(
    tmp_path: Path, service: str, programs: list[str], path: str
) -> None:
    program = next(filter(None, map(shutil.which, programs)), None)
    if program is None:
        pytest.skip(f"no {programs[0]}: sh tests/services.sh")
    described, port = _compose()["services"][service], _free_port()
    for mount in described["volumes"]:
        source, target = mount.split(":")[:2]
        inside = tmp_path / target.lstrip("/")
        if source.startswith("."):
            inside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CONTAINER / source, inside)
        else:
            inside.mkdir(parents=True)
    words = [re.sub("=/", f"={tmp_path}/", word) for word in described["command"]]
    command = [program, *(re.sub(r"127\.0\.0\.1:\d+$", f"127.0.0.1:{port}", word) for word in words)]

    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            answer = until(lambda: _got(port, path), f"{service} to answer", START_SECONDS)
        finally:
            process.terminate()

    assert "DetectorDown" in answer if service == "prometheus" else '"receiver"' in answer or "oncall" in answer


def _got(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


# -- installations ----------------------------------------------------------------------------------------------------


def _prepare(folder: Path) -> Path:
    """Two monitors of seven hours of two hosts up to now: one wants a network, one a baseline."""
    rng, now = np.random.default_rng(2), int(time.time()) // 60 * 60
    with closing(sqlite3.connect(folder / "usage.db")) as connection, connection:
        connection.execute("CREATE TABLE usage (time INTEGER, host TEXT, load REAL, PRIMARY KEY (time, host))")
        for at in range(now - 420 * 60, now, 60):
            for host in ("web-1", "web-2"):
                connection.execute("INSERT INTO usage VALUES (?, ?, ?)", (at, host, 50 + rng.normal()))
    source = usage_table(folder / "usage.db")
    common = {"metrics": ["load"], "source": source, "delay": "0s"}
    monitors = [{"name": kind[:3], "model": {"kind": kind}, **common} for kind in ("network", "baseline")]
    return configure(folder, *monitors)


def _end(folder: Path) -> str:
    """When the rows end: what is judged then is the same however long the rest takes."""
    with closing(sqlite3.connect(folder / "usage.db")) as connection:
        newest = int(connection.execute("SELECT max(time) FROM usage").fetchone()[0])
    return datetime.fromtimestamp(newest + 60, UTC).isoformat()


def _does_all_but_train_a_network(detector: Detector, end: str) -> None:
    assert detector("db", "upgrade").returncode == 0
    checked = detector("check")
    assert checked.returncode == 0, checked.stderr
    waits = "would wait for a model that is trained elsewhere: this installation has no TensorFlow"
    assert waits in checked.stdout

    refused = detector("retrain", "net")
    assert (refused.returncode, refused.stderr.splitlines()[-1]) == (1, f"detector: {NO_TENSORFLOW}")
    assert "Traceback" not in refused.stderr

    assert detector("retrain", "bas").returncode == 0
    scored = detector("score", "bas", "--at", end, "--json")
    assert [row["state"] for row in json.loads(scored.stdout)] == ["normal", "normal"], scored.stderr


def _lacking() -> list[str]:
    """What is missing to make an image."""
    programs = [name for name in ("podman", "debootstrap") if shutil.which(name) is None]
    return programs or (["root"] if os.geteuid() != 0 else [])


@pytest.fixture(scope="module")
def scoring_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a virtual environment made as the Dockerfile makes the scoring image's.

    Only where no image can be made: it is the same, and takes a minute.
    """
    if not _lacking():
        pytest.skip("the image holds the same")
    folder = tmp_path_factory.mktemp("scoring")
    python = folder / "venv/bin/python"
    for command in (
        [sys.executable, "-m", "venv", folder / "venv"],
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, CHECKOUT],
        [python, "-m", "pip", "install", "-q", "--requirement", CONTAINER / "scoring.txt"],
    ):
        subprocess.run([str(word) for word in command], check=True)
    (wheel,) = folder.glob("detector-*.whl")
    subprocess.run([str(python), "-m", "pip", "install", "-q", "--no-deps", str(wheel)], check=True)
    return python


def _without_checkout() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.mark.slow
def test_an_environment_without_tensorflow_does_all_but_train_a_network(scoring_python: Path, tmp_path: Path) -> None:
    config = _prepare(tmp_path)

    def detector(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(scoring_python), "-m", "detector", *words, "--config", str(config)]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tmp_path, env=_without_checkout()
        )

    _does_all_but_train_a_network(detector, _end(tmp_path))


@pytest.mark.slow
def test_a_daemon_without_tensorflow_logs_that_it_cannot_train_and_scores_on(
    scoring_python: Path, tmp_path: Path
) -> None:
    config = _prepare(tmp_path)

    with daemon(
        config, command=[str(scoring_python), "-P", "-m", "detector"], environment={"PYTHONPATH": ""}
    ) as running:
        running.until_logged(r"event=retrain_failed monitor=net reason=.*this installation has no TensorFlow", 120)
        running.until_logged(r"event=retrain_done monitor=bas", 120)
        log = running.log
        assert running.end(signal.SIGTERM)[0] == 0
    assert "Traceback" not in log


# -- image ------------------------------------------------------------------------------------------------------------


def _podman(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    # crun of Debian 12 refuses cgroups of both versions at once
    runtime = ["--runtime", "runc"] if shutil.which("runc") else []
    command = ["podman", *runtime, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def base_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Debian with Python, made once and kept: no registry is asked for it."""
    if _lacking():
        pytest.skip(f"no {' and no '.join(_lacking())}: sh tests/services.sh, as root")
    if _podman("image", "exists", BASE, check=False).returncode == 0:
        return BASE
    folder = tmp_path_factory.mktemp("base") / "root"
    command = ["debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", "bookworm", folder]
    made = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"debootstrap cannot make a Debian here: {made.stdout.splitlines()[-1:]}")
    archive = folder.with_suffix(".tar")
    subprocess.run(["tar", "-C", str(folder), "-cf", str(archive), "."], check=True)
    shutil.rmtree(folder)
    _podman("import", archive, BASE)
    archive.unlink()
    return BASE


@pytest.fixture(scope="module")
def image(base_image: str) -> Iterator[str]:
    """The scoring image; pip reaches its index as it does on this machine."""
    shared = [path for path in ("/etc/pip.conf", "/etc/xdg/pip", "/etc/ssl/certs") if Path(path).exists()]
    mounts = [word for path in shared for word in ("--volume", f"{path}:{path}:ro")]
    building = ["build", "--format", "docker", "--isolation", "chroot", "--network", "host", "--layers=false", *mounts]
    what = ["--build-arg", f"BASE={base_image}", "--target", "scoring", "--tag", IMAGE]
    _podman(*building, *what, "--file", CONTAINER / "Dockerfile", CHECKOUT)
    yield IMAGE
    _podman("rmi", "--force", IMAGE, check=False)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[str]:
    name = f"detector-tests-{tmp_path.name}-{os.getpid()}"
    yield name
    _podman("volume", "rm", "--force", name, check=False)


def _running(folder: Path, state: str) -> list[str]:
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]
    # its timer would need systemd; the check itself is run by hand
    options = ["--network", "host", "--no-healthcheck", "--read-only", "--cap-drop", "ALL", *limits]
    mounts = [f"{folder}/config.toml:/etc/detector/config.toml:ro", f"{folder}/usage.db:{folder}/usage.db:ro"]
    return [*options, *(word for mount in [*mounts, f"{state}:/var/lib/detector"] for word in ("--volume", mount))]


def _prepare_for_image(folder: Path) -> int:
    """As `_prepare`, with the database in the volume; the port that the daemon listens on."""
    config, port = _prepare(folder), _free_port()
    folder.chmod(0o755)
    text = config.read_text()
    text = text.replace(f"sqlite:///{folder}/detector.db", "sqlite:////var/lib/detector/detector.db")
    config.write_text(text.replace("127.0.0.1:0", f"127.0.0.1:{port}"))
    return port


@pytest.mark.slow
def test_the_scoring_image_does_all_but_train_a_network_as_nobody_special(
    image: str, tmp_path: Path, state: str
) -> None:
    _prepare_for_image(tmp_path)

    def detector(*words: str) -> subprocess.CompletedProcess[str]:
        return _podman("run", "--rm", *_running(tmp_path, state), image, *words, check=False)

    _does_all_but_train_a_network(detector, _end(tmp_path))
    user = _podman("run", "--rm", *_running(tmp_path, state), "--entrypoint", "id", image, "-u").stdout
    assert user == "10001\n"


@pytest.mark.slow
def test_the_image_runs_the_daemon_tells_its_health_and_ends_in_order(image: str, tmp_path: Path, state: str) -> None:
    port, name = _prepare_for_image(tmp_path), f"detector-tests-{os.getpid()}"
    health = json.loads(_podman("image", "inspect", image, "--format", "{{json .HealthCheck.Test}}").stdout)
    url = f"DETECTOR_HEALTH=http://127.0.0.1:{port}/healthz"

    _podman("run", "--detach", "--name", name, *_running(tmp_path, state), "--env", url, image)
    try:
        probe = ["exec", name, *health[1:]]
        until(lambda: _podman(*probe, check=False).returncode == 0, "the daemon to be healthy", START_SECONDS)
        until(lambda: "no TensorFlow" in _podman("logs", name).stderr, "a training that cannot be", START_SECONDS)
        _podman("stop", "--time", "30", name)
        told = _podman("inspect", name, "--format", "{{.State.ExitCode}}").stdout, _podman("logs", name)
    finally:
        _podman("rm", "--force", name, check=False)

    assert health[0] == "CMD"
    assert told[0] == "0\n"
    log = told[1].stdout + told[1].stderr
    assert "event=stopped clean=True" in log
    assert "Traceback" not in log
