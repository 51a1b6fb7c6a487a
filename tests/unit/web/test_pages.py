"""The pages as they are sent: complete without scripts, and safe whatever names there are."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import watched
from watched import STRANGE, Acting, Fleet, Site

PAGES = ("/", "/monitor?name=web", "/alerts", "/alerts/1", "/incidents", "/models", "/models/1")


class Read(HTMLParser):
    """Text, links and elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.words: list[str] = []
        self.scripts: list[dict[str, str | None]] = []
        self.inline: list[str] = []
        self._is_script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        self.links += [of["href"] or ""] if tag == "a" else []
        self.scripts += [of] if tag == "script" else []
        self.inline += [name for name in of if name.startswith("on") or name == "style"]
        self._is_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._is_script = False

    def handle_data(self, data: str) -> None:
        self.words += [] if self._is_script else [data]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _page(site: Site, path: str) -> Read:
    found = site.ask(path)
    assert found.status == 200, found.text
    return Read(found.text)


def test_the_fleet_at_a_glance(site: Site) -> None:
    page = _page(site, "/")

    assert "1 open alert in 1 incident, 5 entities, 1 monitor." in page.text
    assert "Scores 5 of 5 entities with a baseline" in page.text
    assert "Newest sample 2026-01-01 18:39" in page.text
    assert "/alerts/1" in page.links


@pytest.mark.slow
def test_every_link_of_every_page_leads_somewhere(site: Site) -> None:
    waiting, seen = ["/"], {"/"}
    while waiting:
        for link in _page(site, waiting.pop()).links:
            if link.startswith("/") and not link.startswith(("/metrics", "/api")) and link not in seen:
                seen.add(link)
                waiting.append(link)

    assert seen >= {"/", "/alerts", "/incidents", "/models", "/alerts/1", "/models/1", "/monitor?name=web"}
    assert len([link for link in seen if link.startswith("/entity?") and "span" not in link]) == 5


def test_an_alert_has_its_sentence_metrics_and_history(site: Site) -> None:
    page = _page(site, "/alerts/1")

    assert "Alert 1: web-01" in page.text
    assert re.search(r"Since 2026-01-01 18:2\d; peak score", page.text)
    assert all(metric in page.text for metric in ("latency_ms", "opened"))


@pytest.mark.parametrize("path", PAGES)
def test_a_page_needs_nothing_from_elsewhere_and_no_script_within(site: Site, path: str) -> None:
    found = site.ask(path)
    page = Read(found.text)

    assert not page.inline
    for script in page.scripts:
        assert script.get("type") == "application/json" or urlsplit(script["src"] or "").netloc == ""
    policy = found.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", STRANGE)
def test_a_name_that_looks_like_markup_is_only_text(site: Site, name: str) -> None:
    found = site.ask(f"/entity?monitor=web&entity={quote(name)}")
    listed = site.ask("/monitor?name=web").text

    assert found.status == 200
    for text in (found.text, listed):
        assert "<script>alert" not in text
        assert "\u202e" not in text  # which would turn round what follows
    assert not [script for script in Read(found.text).scripts if not script.get("src") and not script.get("type")]


def test_without_users_a_page_says_that_it_is_read_only(site: Site, acting: Acting) -> None:
    mine = Read(acting.ask("/alerts/1").text).text

    assert "Read-only, since nobody can be told apart" in _page(site, "/").text
    assert "Acknowledge" not in _page(site, "/alerts/1").text
    assert "You are ana" in mine
    assert "Acknowledge" in mine


def test_before_there_is_a_model_the_page_shows_what_is_seen_and_waited_for(tmp_path: Path) -> None:
    with watched.young(tmp_path, slots=20).endpoint() as site:
        fleet, entity = _page(site, "/"), _page(site, "/entity?monitor=web&entity=web-02")
        values = site.json("/entity?monitor=web&entity=web-02")["window"][0]["observed"]

    until = "has 20 of the 60 slots it needs (until about 11:00 UTC), then trains a model and scores."
    assert f"Sees 5 entities; {until}" in fleet.text
    assert "20 of 60 slots" in fleet.text
    assert "unknown no model" in entity.text
    assert "No score of this time is stored." in entity.text
    assert "Metrics in the slot of 2026-01-01 10:19" in entity.text
    assert len([value for value in values if value is not None]) == 20


def test_without_any_sample_the_page_says_so(tmp_path: Path) -> None:
    with watched.young(tmp_path, slots=0).endpoint() as site:
        assert "Waits for the first samples: its source has none yet." in _page(site, "/").text
        assert "No entity has been seen yet." in _page(site, "/monitor?name=web").text


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/entity?monitor=web&entity=gone", 404, "entity 'gone' of monitor web is not known"),
        ("/monitor?name=%3Cb%3E", 404, "no monitor named '<b>'"),
        ("/alerts/99", 404, "no alert 99"),
        ("/nothing", 404, "there is no such page; begin at /"),
        ("/alerts?page=0", 422, "page: Input should be greater than or equal to 1"),
    ],
)
def test_a_page_that_is_not_there_says_so(site: Site, path: str, status: int, words: str) -> None:
    found = site.ask(path)

    assert found.status == status
    assert words in Read(found.text).text


def test_a_daemon_that_does_not_do_its_work_says_so_on_every_page(fleet: Fleet) -> None:
    with fleet.endpoint(lambda: "monitor web: the last successful tick was 900 s ago") as site:
        page = _page(site, "/alerts")
        ready = site.ask("/readyz")

    assert "The daemon does not do its work: monitor web: the last successful tick was 900 s ago" in page.text
    assert (ready.status, ready.text) == (503, "monitor web: the last successful tick was 900 s ago\n")


def test_a_table_of_a_thousand_pages_shows_one(site: Site) -> None:
    page = _page(site, "/monitor?name=web&text=web&order=entity&page=1")

    assert page.text.index("web-01") < page.text.index("web-02")
    assert watched.STRANGE[1].split()[0] not in page.text
