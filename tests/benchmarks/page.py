"""What the page costs a browser and the daemon: first paint and bytes by fleet size, and scrapes beside idle clients.

Prints JSON. The fleet's newest states are made up; server, pages and browser (Debian's Chromium) are the real ones.

    python tests/benchmarks/page.py --entities 10 10000
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import watched
from selenium import webdriver
from watched import Fleet, Site

from detector.core.decide import AlertStates

REPEATS = 7
_PAINT = """
const paint = performance.getEntriesByName("first-contentful-paint")[0];
const all = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
return [paint ? paint.startTime : null, all.reduce((sum, one) => sum + one.transferSize, 0), all.length];
"""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, nargs="+", default=[10, 10_000])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fleet = watched.fleet(Path(folder))
        found = {str(count): measured(fleet, count) for count in arguments.entities}
    print(json.dumps(found, indent=2))


def measured(fleet: Fleet, count: int) -> dict[str, Any]:
    """Figures of a fleet with so many entities."""
    grow(fleet, count)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    with fleet.endpoint() as site:
        browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            pages = {path: painted(browser, site, path) for path in ("/", "/monitor?name=web", "/alerts/1")}
        finally:
            browser.quit()
        return {"pages": pages, "server_ms": served(site), "scrape_ms": scraped(site)}


def grow(fleet: Fleet, count: int) -> None:
    """Gives the monitor so many entities."""
    rng = np.random.default_rng(1)
    score = rng.exponential(0.2, count).astype(np.float32)
    fleet.exporter.update(
        "web",
        entities=tuple(f"web-{number:05}" for number in range(count)),
        score=score,
        surprise=score * 3,
        reason=np.where(rng.random(count) < 0.02, 2, 0).astype(np.int8),
        states=AlertStates.none_open(count),
        is_silent=np.zeros(count, dtype=np.bool_),
        share=np.full((count, 2), 0.5, dtype=np.float32),
    )


def painted(browser: webdriver.Chrome, site: Site, path: str) -> dict[str, float]:
    """First paint and bytes of a page, without and with its files in the browser's cache."""
    url = site.endpoint.url.rstrip("/") + path
    cold: list[list[float]] = []
    warm: list[list[float]] = []
    for _ in range(REPEATS):
        browser.execute_cdp_cmd("Network.clearBrowserCache", {})
        for into in (cold, warm):
            browser.get("about:blank")
            browser.get(url)
            time.sleep(0.5)
            into.append(browser.execute_script(_PAINT))
    return {
        "first_paint_ms": statistics.median(one[0] for one in cold),
        "first_paint_cached_ms": statistics.median(one[0] for one in warm),
        "kilobytes": statistics.median(one[1] for one in cold) / 1000,
        "kilobytes_cached": statistics.median(one[1] for one in warm) / 1000,
        "requests": statistics.median(one[2] for one in cold),
    }


def served(site: Site) -> dict[str, float]:
    """Time of the server alone, by path."""
    paths = ("/", "/monitor?name=web", "/monitor?name=web&text=999&order=entity", "/api/v1/entities?monitor=web")
    return {path: timed(lambda path=path: site.ask(path)) for path in paths}


def scraped(site: Site) -> dict[str, float]:
    """Time of a scrape alone, and beside 200 clients that never end their request."""
    alone = timed(lambda: site.ask("/metrics"))
    with ExitStack() as stack:
        for _ in range(200):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", site.endpoint.port)))
            client.sendall(b"GET / HTTP/1.1\r\nHost:")
        return {"alone": alone, "beside_200_half_open": timed(lambda: site.ask("/metrics"))}


def timed(work: Any) -> float:
    """Median of some runs, milliseconds."""
    seconds = []
    for _ in range(2 * REPEATS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return round(1000 * statistics.median(seconds), 2)


if __name__ == "__main__":
    main()
