"""The shipped units: checked by systemd's own tools, and run by a real systemd that boots in a container."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from running import until

import detector

pytestmark = pytest.mark.slow

CHECKOUT = Path(detector.__file__).parents[1]
UNITS = Path(__file__).parents[2] / "deploy/systemd"
SHIPPED_CONFIG = Path(__file__).parents[2] / "config.toml"
PROGRAM = "/opt/detector/bin/detector"  # as the units name it
MOST_EXPOSED = 15  # tenths, of systemd-analyze's scale from 0 to 10.0

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
CAN_BOOT = os.geteuid() == 0 and shutil.which("systemd-nspawn") and Path("/usr/lib/systemd/systemd").exists()
needs_boot = pytest.mark.skipif(not CAN_BOOT, reason="needs root and systemd-nspawn: sh tests/services.sh")

SMALL_CONFIG = """
[database]
url = "sqlite:///${STATE_DIRECTORY:-.}/detector.db"

[[monitors]]
name = "web-hosts"
metrics = ["load"]
timesteps = 10
score_every = "1s"

[monitors.source]
type = "embedded"

[monitors.model]
units = 8

[monitors.training]
epochs = 2
"""


@needs_analyze
def test_units_have_no_mistakes(tmp_path: Path) -> None:
    """`verify` succeeds in spite of unknown settings, so it must also be silent."""
    for unit in UNITS.iterdir():
        text = unit.read_text()
        assert text.count(f"ExecStart={PROGRAM} ") == (unit.suffix == ".service")
        (tmp_path / unit.name).write_text(text.replace(PROGRAM, "/bin/true"))
    done = _run("systemd-analyze", "verify", *sorted(tmp_path.iterdir()))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_analyze
@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.glob("*.service")))
def test_units_are_hardened(unit: str) -> None:
    done = _run("systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", UNITS / unit)
    assert done.returncode == 0, done.stdout


def test_both_units_are_hardened_alike() -> None:
    def hardening(unit: str) -> set[str]:
        text = (UNITS / unit).read_text()
        block = text[text.index("\n# Hardening") : text.index("\nUMask=0077")]
        return {line for line in block.splitlines() if line and not line.startswith("#")}

    assert hardening("detector-retrain@.service") - hardening("detector.service") == {"ProtectProc=invisible"}
    assert hardening("detector.service") <= hardening("detector-retrain@.service")


# -- in a booted systemd ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """A booted container."""

    root: Path
    leader: int

    @property
    def inside(self) -> tuple[str, ...]:
        """What to put before a command to run it in the container."""
        return ("nsenter", "-t", str(self.leader), "-a")

    def run(self, *command: str) -> str:
        """What a command prints in the container."""
        done = _run(*self.inside, *command)
        journal = (
            "" if done.returncode == 0 else _run(*self.inside, "journalctl", "-n", "50", "--no-pager", "-q").stdout
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{journal}"
        return done.stdout.strip()

    def show(self, name: str) -> str:
        """A property of detector.service."""
        return self.run("systemctl", "show", "--value", "-p", name, "detector")

    def drop_in(self, text: str) -> None:
        """Adds to detector.service what `systemctl edit` would."""
        folder = self.root / "etc/systemd/system/detector.service.d"
        folder.mkdir()
        (folder / "override.conf").write_text(text)
        self.run("systemctl", "daemon-reload")

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a page of the daemon."""
        code = (
            "import sys, http.client; c = http.client.HTTPConnection('127.0.0.1', 9788, timeout=5);"
            " c.request('GET', sys.argv[1]); r = c.getresponse(); print(r.status, r.read().decode())"
        )
        python = ("env", "LD_LIBRARY_PATH=/opt/python/lib", "/opt/detector/bin/python")
        status, _, body = self.run(*python, "-c", code, path).partition(" ")
        return int(status), body


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Boots a systemd with detector.service enabled, installed as its first lines say."""
    root = tmp_path_factory.mktemp("machine") / "root"
    _make_root(root)
    _install_detector(root)
    name = f"detector-{os.getpid()}"
    binds = {
        "/usr": "/usr",
        sys.base_prefix: "/opt/python",
        sysconfig.get_path("purelib"): "/opt/packages",
        str(CHECKOUT): "/opt/checkout",
    }
    command: list[str | Path] = [
        *("systemd-nspawn", "--quiet", "--boot", "--directory", root, "--machine", name),
        *("--register=no", "--keep-unit", "--private-network", "--console=read-only"),
        *(f"--bind-ro={outside}:{inside}" for outside, inside in binds.items()),
        *("systemd.show_status=0", "systemd.setenv=LD_LIBRARY_PATH=/opt/python/lib"),
    ]
    log = root.parent / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as nspawn,
    ):
        try:
            leader = until(lambda: _booting(nspawn, log), "systemd to start")
            try:
                machine = Machine(root, leader)
                until(lambda: _is_up(machine), "systemd to boot")
                yield machine
            finally:
                os.kill(leader, signal.SIGKILL)  # nspawn ends with it; killed alone, the container would live on
        finally:
            _end(nspawn)


def _booting(nspawn: subprocess.Popen[bytes], log: Path) -> int | None:
    """The container's process 1, as soon as it is a systemd."""
    assert nspawn.poll() is None, log.read_text(errors="replace")
    children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split()
    return next((int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "systemd\n"), None)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()


def _is_up(machine: Machine) -> bool:
    done = _run(*machine.inside, "systemctl", "is-system-running")
    return done.stdout.strip() in {"running", "degraded", "starting"}


def _make_root(root: Path) -> None:
    """The smallest tree that systemd boots from, all programs being the host's."""
    for folder in (
        "usr",
        "etc/systemd/system",
        "opt/python",
        "opt/packages",
        "opt/checkout",
        "var",
        "run",
        "tmp",
        "root",
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("dev", "proc", "sys", "home"):
        (root / folder).mkdir()
    root.chmod(0o755)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    etc = root / "etc"
    (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n")
    (etc / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (etc / "shadow").write_text("root:*:19000::::::\n")
    (etc / "nsswitch.conf").write_text("passwd: files systemd\ngroup: files systemd\nhosts: files\n")
    (etc / "os-release").write_text("ID=test\nNAME=test\n")
    (etc / "fstab").touch()
    (etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    shutil.copy("/etc/ld.so.cache", etc)
    units = etc / "systemd/system"
    (units / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    masked = ("firstboot", "logind", "timesyncd", "networkd", "networkd-wait-online", "resolved")
    for unit in [*(f"systemd-{name}.service" for name in masked), "console-getty.service", "getty.target"]:
        (units / unit).symlink_to("/dev/null")


def _install_detector(root: Path) -> None:
    """A virtual environment at /opt/detector that runs the packages and the checkout of this one."""
    home = root / "opt/detector"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = home / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (packages / "test.pth").write_text("/opt/checkout\n/opt/packages\n")
    (home / "pyvenv.cfg").write_text("home = /opt/python/bin\n")
    (home / "bin").mkdir()
    (home / "bin/python").symlink_to(f"/opt/python/bin/{version}")
    program = root / PROGRAM.lstrip("/")
    program.write_text("#!/opt/detector/bin/python\nfrom detector.cli import main\nmain()\n")
    program.chmod(0o755)
    (root / "etc/detector").mkdir()
    shutil.copy(SHIPPED_CONFIG, root / "etc/detector/config.toml")
    for unit in UNITS.iterdir():
        shutil.copy(unit, root / "etc/systemd/system")
    _run("systemctl", f"--root={root}", "enable", "detector").check_returncode()


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def fresh(machine: Machine) -> Machine:
    """The machine with the daemon stopped, its state gone and everything as it is shipped."""
    machine.run("systemctl", "stop", "detector")
    machine.run("systemctl", "reset-failed")
    machine.run("systemctl", "clean", "--what=state", "detector")
    etc = machine.root / "etc"
    shutil.rmtree(etc / "systemd/system/detector.service.d", ignore_errors=True)
    shutil.copy(SHIPPED_CONFIG, etc / "detector/config.toml")
    for unit in UNITS.iterdir():
        shutil.copy(unit, etc / "systemd/system")
    machine.run("systemctl", "daemon-reload")
    return machine


@pytest.mark.root
@needs_boot
def test_daemon_starts_with_the_machine(machine: Machine) -> None:
    until(lambda: machine.show("ActiveState") == "active", "READY=1")
    assert machine.get("/healthz") == (200, "ok")
    state = machine.root / "var/lib/private/detector"
    assert [path.name for path in state.glob("*.db")] == ["detector.db"]
    assert state.stat().st_mode & 0o777 == 0o700
    assert machine.show("StatusText").startswith("host: ") or "monitors" in machine.show("StatusText")


@pytest.mark.root
@needs_boot
def test_command_run_by_hand_as_root_finds_the_database_of_the_service(machine: Machine) -> None:
    until(lambda: machine.show("ActiveState") == "active", "READY=1")

    said = machine.run("env", "LD_LIBRARY_PATH=/opt/python/lib", PROGRAM, "db", "check")

    assert said.startswith("sqlite:////var/lib/detector/detector.db: at schema ")


@pytest.mark.root
@needs_boot
def test_reload_takes_a_changed_configuration_and_refuses_a_wrong_one(fresh: Machine) -> None:
    fresh.run("systemctl", "start", "detector")
    first, config = fresh.show("MainPID"), fresh.root / "etc/detector/config.toml"

    _edit(config, 'log_level = "info"', 'log_level = "debug"')
    fresh.run("systemctl", "reload", "detector")
    until(lambda: fresh.run("journalctl", "-u", "detector", "-o", "cat").count("event=started") >= 2, "a new start")
    until(lambda: fresh.show("ActiveState") == "active", "READY=1")
    _edit(config, 'log_level = "debug"', 'log_level = "loud"')
    fresh.run("systemctl", "reload", "detector")
    until(lambda: "event=reload_refused" in fresh.run("journalctl", "-u", "detector", "-o", "cat"), "a refusal")

    assert (fresh.show("MainPID"), fresh.show("ActiveState"), fresh.show("NRestarts")) == (first, "active", "0")
    assert fresh.get("/healthz") == (200, "ok")


@pytest.mark.root
@needs_boot
def test_killed_daemon_is_restarted_and_a_stopped_one_ends_in_time(fresh: Machine) -> None:
    fresh.run("systemctl", "start", "detector")
    first = fresh.show("MainPID")
    fresh.run("kill", "-9", first)
    until(lambda: fresh.show("NRestarts") == "1" and fresh.show("ActiveState") == "active", "a restart")
    assert fresh.show("MainPID") not in {first, "0"}
    assert fresh.get("/healthz") == (200, "ok")

    fresh.run("systemctl", "stop", "detector")
    # its result would be a timeout if systemd had had to kill it
    assert (fresh.show("Result"), fresh.show("ExecMainStatus")) == ("success", "0")


@pytest.mark.root
@needs_boot
def test_stuck_daemon_is_restarted_by_the_watchdog(fresh: Machine) -> None:
    fresh.drop_in("[Service]\nWatchdogSec=10s\nRestartSec=100ms\n")
    fresh.run("systemctl", "start", "detector")
    fresh.run("kill", "-STOP", fresh.show("MainPID"))
    until(lambda: fresh.show("NRestarts") == "1" and fresh.show("ActiveState") == "active", "a restart")
    time.sleep(12)  # longer than the watchdog waits: so it has been pinged
    assert (fresh.show("NRestarts"), fresh.show("ActiveState")) == ("1", "active")


@pytest.mark.root
@needs_boot
def test_wrong_configuration_is_not_tried_again(fresh: Machine) -> None:
    with (fresh.root / "etc/detector/config.toml").open("a") as config:
        config.write("\nunits = 0\n")
    assert _run(*fresh.inside, "systemctl", "start", "detector").returncode != 0
    assert (fresh.show("ActiveState"), fresh.show("ExecMainStatus"), fresh.show("NRestarts")) == ("failed", "2", "0")


@pytest.mark.root
@needs_boot
def test_secret_url_is_handed_over(fresh: Machine) -> None:
    secret = fresh.root / "etc/detector/database_url"
    secret.write_text("sqlite:////var/lib/detector/named-by-the-secret.db\n")
    secret.chmod(0o600)
    _edit(fresh.root / "etc/systemd/system/detector.service", "#LoadCredential=", "LoadCredential=")
    config = fresh.root / "etc/detector/config.toml"
    _edit(config, 'url = "sqlite:///${STATE_DIRECTORY:-.}/detector.db"', "")
    _edit(config, '# url_file = "database_url"', 'url_file = "database_url"')
    fresh.run("systemctl", "daemon-reload")
    fresh.run("systemctl", "start", "detector")
    assert [path.name for path in (fresh.root / "var/lib/private/detector").glob("*.db")] == ["named-by-the-secret.db"]


@pytest.mark.slow
@pytest.mark.root
@needs_boot
def test_training_works_in_both_units(fresh: Machine) -> None:
    """TensorFlow runs under their hardening: first as the daemon's child, then by detector-retrain@."""
    (fresh.root / "etc/detector/config.toml").write_text(SMALL_CONFIG)
    now = int(time.time()) // 60
    lines = [f"{60 * (now - age)},web-1,{math.sin(age / 5)}\n" for age in range(400)]
    (fresh.root / "etc/detector/samples.csv").write_text("".join(["timestamp,entity,load\n", *lines]))
    as_the_service = [
        *("systemd-run", "--pipe", "--wait", "--collect", "-q"),
        *("-p", "DynamicUser=yes", "-p", "User=detector", "-p", "StateDirectory=detector"),
        *("-E", "DETECTOR_CONFIG=/etc/detector/config.toml"),
    ]
    fresh.run(*as_the_service, PROGRAM, "import", "/etc/detector/samples.csv", "--monitor", "web-hosts")
    fresh.run("systemctl", "start", "detector")
    model = r'detector_model_info{.*monitor="web-hosts",version="%d"} 1\.0'
    until(lambda: re.search(model % 1, fresh.get("/metrics")[1]), "the daemon's first model")
    fresh.run("systemctl", "start", "detector-retrain@web-hosts")
    until(lambda: re.search(model % 2, fresh.get("/metrics")[1]), "the daemon to use the second model")
