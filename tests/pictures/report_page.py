"""Takes the README's picture of the report page: the demo's alert on the memory leak, in headless Chromium.

detector demo --once && python tests/pictures/report_page.py detector-demo/config.toml tests/pictures/report.png
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime
from importlib import resources
from pathlib import Path

FAULT = "memory_leak"
SIZE = "1100,1070"  # the whole page of that alert
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main(config: Path, picture: Path) -> None:
    noted = json.loads((resources.files("detector.demo") / "recording/faults.json").read_text())
    start, end = next((_moment(f["start"]), _moment(f["end"])) for f in noted if f["name"] == FAULT)
    alerts = json.loads(_detector("alerts", "list", "--json", "--config", config))
    number = next(alert["id"] for alert in alerts if start <= _moment(alert["detected"]) <= end)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"needs one of {', '.join(BROWSERS)}; on Debian: sh tests/services.sh")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        _detector("report", "--alert", number, "--out", page, "--config", config)
        fixed = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}/p")
        drawn = ("--virtual-time-budget=10000", "--blink-settings=preferredColorScheme=1", f"--window-size={SIZE}")
        shot = f"--screenshot={picture.resolve()}"
        command = [browser, *fixed, *drawn, shot, page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def _detector(*arguments: str | Path | int) -> str:
    command = [sys.executable, "-m", "detector", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _moment(written: str) -> datetime:
    return datetime.fromisoformat(written)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
