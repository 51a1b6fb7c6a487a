"""The page in a real browser: clicks, keys, colours, sizes, and what assistive technology is told."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import matplotlib.image as mpimg
import numpy as np
import pytest
from axe_core_python.base import AXE_SCRIPT
from running import until
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from watched import STRANGE, Acting, Fleet, Site

browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
driver = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser is None or driver is None, reason="no Chromium or its driver: sh tests/services.sh"),
]

PATIENCE = 60.0  # seconds, on a busy machine


class Chromium:
    """A browser that looks at one site."""

    def __init__(self, *arguments: str) -> None:
        options = webdriver.ChromeOptions()
        assert browser is not None
        options.binary_location = browser
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *arguments):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(driver))

    def open(self, site: Site, path: str, *, width: int = 1300, height: int = 1000) -> None:
        """Shows a page, whole."""
        self.driver.set_window_size(width, height)
        self.driver.get(site.endpoint.url.rstrip("/") + path)

    def find(self, css: str) -> WebElement:
        """The first such element, waited for."""
        return until(lambda: next(iter(self.driver.find_elements(By.CSS_SELECTOR, css)), None), css, PATIENCE)

    def text(self) -> str:
        """All that is to be read."""
        return self.driver.find_element(By.TAG_NAME, "body").text

    def until_text(self, words: str) -> None:
        """Waits until it is to be read."""
        until(lambda: words in self.text(), words, PATIENCE)

    def complaints(self) -> list[str]:
        """What the browser complains of: errors of scripts, and what the page's policy forbids."""
        return [str(entry["message"]) for entry in self._log() if entry["level"] == "SEVERE"]

    def _log(self) -> list[dict[str, Any]]:
        return list(self.driver.get_log("browser"))  # type: ignore[no-untyped-call]

    def look(self, file: Path) -> np.ndarray:
        """A screenshot (H, W, 3), also kept in a file."""
        self.driver.save_screenshot(str(file))
        return np.asarray(mpimg.imread(file))[:, :, :3]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    found = Chromium()
    yield found
    found.driver.quit()


def _has_plot(chromium: Chromium) -> bool:
    """Whether something is drawn in the first plot."""
    drawn = chromium.driver.execute_script(
        "const c = document.querySelector('.plot canvas'); if (!c) return 0;"
        "return new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
    )
    return int(drawn) > 5


def test_from_the_fleet_by_clicks_to_an_alert_and_its_entity(chromium: Chromium, site: Site) -> None:
    chromium.open(site, "/")
    chromium.find('a[href="/alerts/1"]').click()
    chromium.until_text("Alert 1: web-01")
    until(lambda: _has_plot(chromium), "the score's plot", PATIENCE)
    chromium.find('h1 a[href^="/entity"]').click()
    chromium.until_text("Metrics in the slot of 2026-01-01 18:39")
    until(lambda: _has_plot(chromium), "the entity's plot", PATIENCE)
    chromium.find('a[href$="span=7d"]').click()
    chromium.until_text("web-01")

    assert chromium.find('nav a[aria-current="true"]').text == "7d"
    assert chromium.complaints() == []


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_name_is_followed_and_runs_nothing(chromium: Chromium, site: Site, name: str) -> None:
    chromium.open(site, "/monitor?name=web&order=entity")
    links = chromium.driver.find_elements(By.CSS_SELECTOR, "td.name a")
    next(one for one in links if _entity_of(one.get_attribute("href") or "") == name).click()
    until(lambda: _has_plot(chromium), "the entity's plot", PATIENCE)

    assert chromium.complaints() == []
    assert chromium.driver.execute_script("return document.querySelectorAll('main script').length") == 1  # its data


def _entity_of(link: str) -> str:
    return parse_qs(urlsplit(link).query)["entity"][0]


def test_a_search_is_typed_and_sent_by_the_keyboard_alone(chromium: Chromium, site: Site) -> None:
    chromium.open(site, "/monitor?name=web")
    body = chromium.driver.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    assert chromium.driver.switch_to.active_element.text == "To the content"
    for _ in range(30):
        if chromium.driver.switch_to.active_element.get_attribute("id") == "text":
            break
        chromium.driver.switch_to.active_element.send_keys(Keys.TAB)
    chromium.driver.switch_to.active_element.send_keys("web-02", Keys.ENTER)

    chromium.until_text("1 entity like this")
    assert [one.text for one in chromium.driver.find_elements(By.CSS_SELECTOR, "#list td.name")] == ["web-02"]


def test_a_page_stays_fresh_and_says_when_the_server_is_gone(
    chromium: Chromium, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh = "document.dispatchEvent(new Event('visibilitychange'))"  # as coming back to the page does
    problem: list[str | None] = [None]
    with fleet.endpoint(lambda: problem[0]) as site:
        chromium.open(site, "/alerts/1")
        until(lambda: _has_plot(chromium), "the plot", PATIENCE)
        problem[0] = "database: no answer"
        chromium.driver.execute_script(refresh)
        chromium.until_text("The daemon does not do its work: database: no answer")
        until(lambda: _has_plot(chromium), "the plot, drawn again", PATIENCE)
    chromium.driver.execute_script(refresh)

    until(lambda: "No answer since" in chromium.find("#fresh").text, "a word on the server", PATIENCE)


def test_people_answer_an_alert_and_exclude_an_entity_on_the_page(acting: Acting) -> None:
    chromium = Chromium()
    try:
        port = acting.site.endpoint.port
        chromium.driver.get(f"http://ana:right@127.0.0.1:{port}/alerts/1")
        chromium.driver.get(f"http://127.0.0.1:{port}/alerts/1")
        chromium.find("#comment").send_keys("on it")
        chromium.find('button[value="acknowledge"]').click()
        chromium.until_text("by ana,")
        chromium.find('button[value="real"]').click()
        chromium.until_text("marked real")
        chromium.find('button[value="close"]').click()
        until(lambda: not chromium.driver.find_elements(By.CSS_SELECTOR, 'button[value="close"]'), "closed", PATIENCE)
        assert "on it" in chromium.text()
        assert chromium.complaints() == []
    finally:
        chromium.driver.quit()


@pytest.mark.parametrize(
    "path", ["/", "/monitor?name=web", "/entity?monitor=web&entity=web-01", "/alerts", "/alerts/1", "/incidents"]
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_assistive_technology_has_nothing_to_complain_of(
    chromium: Chromium, site: Site, path: str, scheme: str
) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chromium.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    chromium.open(site, path)
    chromium.driver.execute_script(AXE_SCRIPT)

    found = chromium.driver.execute_async_script("axe.run().then(arguments[0])")

    told = [(one["id"], one["help"], [node["html"][:200] for node in one["nodes"]]) for one in found["violations"]]
    assert told == []


@pytest.mark.parametrize("path", ["/", "/monitor?name=web", "/alerts", "/alerts/1", "/incidents", "/models/1"])
def test_nothing_sticks_out_on_a_phone(chromium: Chromium, site: Site, path: str) -> None:
    chromium.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        chromium.open(site, path)
        width = chromium.driver.execute_script("return document.documentElement.scrollWidth")
    finally:
        chromium.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    assert width <= 390


@pytest.mark.parametrize(("scheme", "page"), [("light", 0xF6F7F9), ("dark", 0x12161C)])
def test_the_page_follows_light_and_dark(
    chromium: Chromium, site: Site, tmp_path: Path, scheme: str, page: int
) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chromium.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    chromium.open(site, "/alerts/1")
    until(lambda: _has_plot(chromium), "the plot", PATIENCE)

    corner = (chromium.look(tmp_path / f"{scheme}.png")[2, 2] * 255).round().astype(int)

    assert corner.tolist() == [page >> 16, page >> 8 & 255, page & 255]
