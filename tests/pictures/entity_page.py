"""Takes the README's picture of the page: the demo's machine with all its faults, in headless Chromium.

Beside a `detector demo` that serves: python tests/pictures/entity_page.py http://127.0.0.1:9788 tests/pictures/page.png
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = "/entity?monitor=demo&entity=host&span=3h"
SIZE = "1100,1080"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main(url: str, picture: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"needs one of {', '.join(BROWSERS)}; on Debian: sh tests/services.sh")
    with tempfile.TemporaryDirectory() as folder:
        fixed = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}")
        drawn = ("--virtual-time-budget=5000", "--blink-settings=preferredColorScheme=1", f"--window-size={SIZE}")
        command = [browser, *fixed, *drawn, f"--screenshot={picture.resolve()}", url.rstrip("/") + PAGE]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
