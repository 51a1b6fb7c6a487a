"""The wheel, built and installed as a user's pip does it, away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHECKOUT / "pyproject.toml").exists(), reason="not run from a checkout"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, CHECKOUT)
    (built,) = folder.glob("detector-*.whl")
    return built


def _run(*command: str | Path, environment: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})}, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_ships_migrations_recording_page_and_licences(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    migrations = sorted(path.name for path in (CHECKOUT / "migrations/versions").glob("*.py"))
    assert [name.rpartition("/")[2] for name in names if name.startswith("detector/migrations/versions/")] == migrations
    assert {"detector/migrations/env.py", "detector/demo/recording/host.csv.gz"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {f"detector/report/{name}" for name in ("page.html", "page.css", "plots.js")} <= set(names)
    vendored = {path.name for path in (CHECKOUT / "detector/report/vendor").iterdir()}
    assert vendored == {"uPlot.iife.min.js", "uPlot.min.css", "LICENSE"}
    assert {f"detector/report/vendor/{name}" for name in vendored} <= set(names)
    assert any(name.endswith("licenses/detector/report/vendor/LICENSE") for name in names)
    assert [name for name in names if name.startswith(("tests/", "deploy/"))] == []


def test_installed_wheel_makes_its_tables_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    _run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path / "site", wheel)
    (tmp_path / "config.toml").write_text(
        '[database]\nurl = "sqlite:///detector.db"\n[[monitors]]\nname = "m"\nsource = { type = "host" }\n'
    )
    # -P: the current folder does not count; the installed copy comes before any other
    said = _run(
        *(sys.executable, "-P", "-m", "detector", "db", "upgrade"),
        environment={"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
    )
    assert said.startswith("sqlite:///detector.db: upgraded from nothing to schema ")
    where = "import detector; print(detector.__file__)"
    found = _run(sys.executable, "-P", "-c", where, environment={"PYTHONPATH": str(tmp_path / "site")}, cwd=tmp_path)
    assert found.strip() == str(tmp_path / "site/detector/__init__.py")
