"""Nothing secret is printed or logged, whatever characters a secret holds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest
from running import DETECTOR, daemon

pytestmark = pytest.mark.slow

CHARACTERS = "@ : / % # ? & = + '"
SECRETS = {
    name: f"{name.title()}Aaa{mark}{name.title()}Bbb{mark}{name.title()}Ccc"
    for name in ("database", "source", "file", "pager", "key", "token")
    for mark in (CHARACTERS.replace(" ", ""),)
}
WORDS = sorted({word for secret in SECRETS.values() for word in (secret[:9], secret[-9:])} | {"FileBbb", "PagerBbb"})


def _configuration(folder: Path, database: str) -> Path:
    """A monitor each for a secret from the environment and from a file, and a notifier with two secrets."""
    (folder / "source_url").write_text(f"postgresql://reader:{SECRETS['file']}@127.0.0.1:1/metrics")
    path = folder / "config.toml"
    path.write_text(
        f"""
[database]
url = "{database}"
[export]
listen = "127.0.0.1:0"
[[monitors]]
name = "web"
metrics = ["load"]
source = {{ type = "sql", url = "postgresql://r:${{SOURCE}}@127.0.0.1:1/metrics", table = "samples" }}
[[monitors]]
name = "db"
metrics = ["load"]
source = {{ type = "sql", url_file = "{folder}/source_url", table = "samples" }}
[[monitors]]
name = "prom"
metrics = ["load"]
source = {{ type = "prometheus", url = "http://user:${{SOURCE}}@127.0.0.1:1/${{SOURCE}}", token = "${{TOKEN}}" }}
[[notifiers]]
name = "pager"
type = "webhook"
url = "http://user:${{PAGER}}@127.0.0.1:1/${{PAGER}}"
secret = "${{KEY}}"
"""
    )
    return path


def _said(folder: Path, database: str, *arguments: str, config: Path | None = None) -> tuple[int, str]:
    """Status of a command and everything it prints."""
    path = config or _configuration(folder, database)
    environment = os.environ | {name.upper(): secret for name, secret in SECRETS.items()}
    done = subprocess.run(
        [*DETECTOR, *arguments, "--config", str(path)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("command", ["check", "db check", "run"])
@pytest.mark.parametrize(
    "database",
    [
        "postgresql://detector:${DATABASE}@127.0.0.1:1/detector",
        "postgresql://detector:" + SECRETS["database"].replace("'", "") + "@127.0.0.1:1/detector",
    ],
    ids=["environment", "literal"],
)
def test_no_command_shows_a_secret_when_the_database_does_not_answer(
    tmp_path: Path, database: str, command: str
) -> None:
    status, said = _said(tmp_path, database, *command.split())  # c07, x07

    assert status in {1, 2}
    assert [word for word in WORDS if word in said] == []
    assert "Traceback" not in said


def test_check_shows_no_secret_of_sources_and_notifiers(tmp_path: Path) -> None:
    status, said = _said(tmp_path, f"sqlite:///{tmp_path}/detector.db", "check")

    assert status == 1
    assert "postgresql+psycopg://r:***@127.0.0.1:1/metrics" in said
    assert "write @ as %40" in said  # the one in the file holds a bare @
    assert [word for word in WORDS if word in said] == []


def test_a_mistake_in_the_configuration_shows_no_secret(tmp_path: Path) -> None:
    path = _configuration(tmp_path, f"sqlite:///{tmp_path}/detector.db")
    path.write_text(path.read_text().replace("127.0.0.1:1", "127.0.0.1:port") + 'timeout = "soon"\n')

    status, said = _said(tmp_path, "", "check", config=path)

    assert status == 2
    assert [word for word in WORDS if word in said] == []


def test_a_daemon_whose_sources_do_not_answer_shows_no_secret(tmp_path: Path) -> None:
    path = _configuration(tmp_path, f"sqlite:///{tmp_path}/detector.db")
    (tmp_path / "source_url").write_text(f"postgresql://reader:{quote(SECRETS['file'], safe='')}@127.0.0.1:1/metrics")
    path.write_text('log_level = "debug"\n' + path.read_text())

    with daemon(path, environment={name.upper(): secret for name, secret in SECRETS.items()}) as running:  # x07
        for monitor in ("web", "db"):
            running.until_logged(f"event=tick_failed monitor={monitor}")
        pages = "".join(running.get(path)[1] for path in ("/metrics", "/readyz", "/healthz", "/"))
        log = running.log

    assert "detector_build_info" in pages
    assert "postgresql+psycopg://r:***@127.0.0.1:1/metrics" in log
    assert [word for word in WORDS if word in log + pages] == []
