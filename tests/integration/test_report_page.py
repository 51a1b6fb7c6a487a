"""`detector report` on a stored database, opened in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import matplotlib.image as mpimg
import numpy as np
import pytest
from in_process import detector, ended_in
from migrated import migrate
from running import configure

from detector import database
from detector.core.decide import Change, Episode, Severity
from detector.core.series import Float32
from detector.detect.packed import pack
from detector.ports import AlertChange, Commit, ScoreRows
from detector.store.state import StateStore

pytestmark = pytest.mark.slow

STEP = 60_000
T0 = 1_767_261_600_000  # 2026-01-01 10:00 UTC
SLOTS = 30
OBSERVED = {"light": "1f5fbf", "dark": "6fa8ff"}  # --observed in page.css

browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(browser is None, reason="no Chromium: sh tests/services.sh")


def _explanation() -> str:
    ramp: Float32 = np.linspace(0, 50, SLOTS, dtype=np.float32)
    ramp[5:8] = np.nan
    two = np.stack([ramp, np.full(SLOTS, 3, np.float32)], axis=1)
    metrics = ["cpu", "memory"]
    window = {
        "start": T0 - (SLOTS - 2) * STEP,
        "step": STEP,
        "metrics": metrics,
        "values": pack(two),
        "named": metrics,
        "expected": pack(np.full((SLOTS, 2), 10, np.float32)),
        "band": pack(np.full((SLOTS, 2), 2, np.float32)),
        "scores": pack(np.ones(SLOTS, np.float32)),
    }
    shares = [
        {"metric": name, "share": 0.5, "observed": 50.0, "expected": 10.0, "low": 8.0, "high": 12.0} for name in metrics
    ]
    return json.dumps({"metrics": shares, "part": {"kind": "spike", "slots": 1, "scores": {}}, "window": window})


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration whose database holds an alert with all there is to show and one of an earlier version."""
    folder = tmp_path_factory.mktemp("report")
    path = configure(folder, {"name": "web", "metrics": ["cpu", "memory"]}, {"name": "calm", "metrics": ["cpu"]})
    engine = database.connect(f"sqlite:///{folder}/detector.db")
    migrate(engine)

    def opened(entity: str, explanation: str) -> AlertChange:
        return AlertChange(
            change=Change.OPENED,
            entity=entity,
            slot=T0,
            episode=Episode(T0, T0, Severity.CRITICAL, peak_score=4.0, peak_slot=T0 + STEP),
            detected_at=T0 + STEP,
            explanation=explanation,
        )

    slots = [T0 + n * STEP for n in range(-40, 20) if n not in {-20, -10}]
    StateStore(engine).commit(
        Commit(
            monitor="web",
            expected_cursor=None,
            cursor=T0 + 20 * STEP,
            now=T0 + 20 * STEP,
            model_version=1,
            scores=ScoreRows(["a"] * len(slots), slots, [4.0 if slot >= T0 else 0.2 for slot in slots]),
            replaced=ScoreRows([], [], []),
            changes=[opened("a", _explanation()), opened("<img src=x onerror=alert(1)>", '{"metrics": []}')],
        )
    )
    engine.dispose()
    return path


@pytest.fixture(scope="module")
def report(config: Path) -> Path:
    out = config.parent / "report.html"
    said = detector("report", "--since", "2026-01-01", "--out", out, "--config", config).output
    assert said == f"{out}: 2 alerts of 2 monitors, {-(-out.stat().st_size // 1000)} kB\n"
    return out


def _refused(*arguments: str | Path) -> str:
    done = ended_in(Path.cwd(), "report", *arguments)
    assert done.status == 2
    return done.errors


def test_alerts_that_are_still_open_are_shown_however_old(config: Path, tmp_path: Path) -> None:
    said = detector("report", "web", "--since", "2026-02-01", "--out", tmp_path / "r.html", "--config", config).output
    assert "r.html: 2 alerts of 1 monitor, " in said


def test_one_alert_can_be_reported_alone(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    assert "1 alert of 1 monitor" in detector("report", "--alert", "1", "--out", out, "--config", config).output
    assert re.findall(r'<article id="alert-(\d+)"', out.read_text()) == ["1"]


def test_what_is_not_a_file_is_not_overwritten(config: Path, tmp_path: Path) -> None:
    refusal = f"detector: --out must be a file to write. Received: {str(tmp_path)!r}, which is something else\n"
    assert _refused("--out", tmp_path, "--config", config) == refusal
    said = _refused("--out", tmp_path / "none" / "r.html", "--config", config)
    assert said == f"detector: --out {tmp_path}/none/r.html cannot be written: No such file or directory\n"


def test_errors_are_one_clear_line(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    assert "no alert 9; see: detector alerts list" in _refused("--alert", "9", "--out", out, "--config", config)
    assert "leave out MONITOR and --since" in _refused("web", "--alert", "1", "--out", out, "--config", config)
    assert "no monitor named 'nobody'" in _refused("nobody", "--out", out, "--config", config)
    assert not out.exists()


def _browse(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert browser is not None
    profile = f"--user-data-dir={page.parent}/profile"
    fixed = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", profile]
    command = [browser, *fixed, "--virtual-time-budget=10000", "--window-size=1200,3600", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


@pytest.mark.slow
@needs_browser
def test_a_browser_draws_every_plot_and_minds_nothing(report: Path) -> None:
    done = _browse(report, "--dump-dom")

    assert "CONSOLE" not in done.stderr
    # alerts by day; score and two metrics of the alert that has a window; nothing of the one whose entity has no scores
    assert done.stdout.count("<canvas") == 4
    assert done.stdout.count("uplot") >= 4


@pytest.mark.slow
@needs_browser
def test_the_console_is_heard(report: Path, tmp_path: Path) -> None:
    """What the test above relies on; and a script that is not the page's own does not run."""
    changed = tmp_path / "changed.html"
    changed.write_text(report.read_text().replace("</body>", "<script>document.title = 'run'</script></body>"))

    done = _browse(changed, "--dump-dom")

    assert "CONSOLE" in done.stderr
    assert "Content Security Policy" in done.stderr
    assert "<title>Anomaly report</title>" in done.stdout


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_are_drawn_in_the_colours_of_the_scheme(report: Path, tmp_path: Path, scheme: str) -> None:
    picture = tmp_path / "report.png"

    _browse(report, f"--screenshot={picture}", f"--blink-settings=preferredColorScheme={int(scheme == 'light')}")

    seen = np.round(mpimg.imread(picture)[..., :3] * 255).astype(int)
    wanted = [int(OBSERVED[scheme][k : k + 2], 16) for k in (0, 2, 4)]
    assert (np.abs(seen - wanted).max(axis=-1) <= 3).sum() > 500
