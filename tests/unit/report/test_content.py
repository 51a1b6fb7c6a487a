"""What a report says, and that nothing in it can become code."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from detector.config import loading
from detector.config.sections import MonitorSection
from detector.core.decide import Episode, Severity
from detector.detect.packed import pack
from detector.ports import AlertState, Exclusion
from detector.report import content, page
from detector.store.alerts import AlertRow

STEP = 60_000
HOUR = 3_600_000
DAY = 24 * HOUR
T0 = 1_767_261_600_000  # 2026-01-01 10:00 UTC
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u2028'\"&{{ 7*7 }}"


def _monitor(name: str = "web", **values: Any) -> MonitorSection:
    settings = {"name": name, "metrics": ["cpu", "memory"], "source": {"type": "embedded"}, "timesteps": 4}
    return loading.monitor(settings | values)


def _alert(identity: int = 1, **values: Any) -> AlertRow:
    row: dict[str, Any] = {
        "id": identity,
        "monitor": "web",
        "entity": "a",
        "state": AlertState.CLOSED,
        "detected_at": T0 + STEP,
        "model_version": 7,
        "explanation": {},
        "acknowledged_at": None,
        "acknowledged_by": None,
        "closed_at": None,
        "closed_by": "normal",
        "comment": None,
        "verdict": None,
        "is_muted": False,
        "incident": None,
        "incident_size": 0,
        "revision": 1,
    }
    episode = Episode(T0, T0, Severity.WARNING, peak_score=2.5, peak_slot=T0 + STEP, closed_slot=T0 + 10 * STEP)
    of_episode = {name: values.pop(name) for name in Episode.__dataclass_fields__ if name in values}
    return AlertRow(**row | values, episode=replace(episode, **of_episode))


def _explanation(values: list[list[float]], names: tuple[str, str] = ("cpu", "memory")) -> dict[str, Any]:
    """Of a window that ends at T0 + STEP; the second metric has most of the share, 10 ± 2 was expected of both."""
    slots = len(values)
    named = [names[1], names[0]]
    shares = [0.996, 0.004]
    return {
        "metrics": [
            {"metric": name, "share": share, "observed": 20.0, "expected": 10.0, "low": 8.0, "high": 12.0}
            for name, share in zip(named, shares, strict=True)
        ],
        "part": {"kind": "drift", "slots": 10, "scores": {}},
        "window": {
            "start": T0 + STEP - (slots - 1) * STEP,
            "step": STEP,
            "metrics": list(names),
            "values": pack(np.array(values, dtype=np.float32)),
            "named": named,
            "expected": pack(np.full((slots, 2), 10.0, dtype=np.float32)),
            "band": pack(np.full((slots, 2), 2.0, dtype=np.float32)),
            "scores": pack(np.arange(slots, dtype=np.float32)),
        },
    }


def _rows(*alerts: AlertRow, monitor: MonitorSection | None = None, **values: Any) -> content.Rows:
    rows: dict[str, Any] = {"scores": {}, "exclusions": [], "first": T0 - 6 * DAY, "until": T0 + DAY}
    return content.Rows(monitor=monitor or _monitor(), alerts=alerts, **rows | values)


def _build(*alerts: AlertRow, **values: Any) -> dict[str, Any]:
    return content.build([_rows(*alerts, **values)], now=T0 + DAY)


# what it says


def test_an_alert_is_one_sentence_that_says_what_since_when_and_how_bad() -> None:
    explanation = _explanation([[1.0, 20.0]] * 4)

    (shown,) = _build(_alert(explanation=explanation))["alerts"]

    assert shown["sentence"] == (
        "Drift over the last 10 slots: memory 20, expected 8–12, 100 % of the score; cpu 20, expected 8–12, <1 % of the"
        " score. From 2026-01-01 10:00 to 10:10 (10 min); peak score 2.5 at 2026-01-01 10:01, where 1 is the threshold."
    )


def test_an_open_alert_without_an_explanation_is_shown_as_well() -> None:
    (shown,) = _build(_alert(state="open", closed_slot=None, closed_by=None))["alerts"]

    assert shown["sentence"].startswith("Unusual behaviour. Since 2026-01-01 10:00; peak score 2.5 ")
    assert shown["lasted"] == "still open"
    assert shown["plots"] is None


def test_silence_has_no_metrics_to_name() -> None:
    explanation = {"metrics": [], "part": {"kind": "no_data", "slots": 5, "scores": {}}}

    (shown,) = _build(_alert(explanation=explanation))["alerts"]

    assert shown["sentence"].startswith("No data for 5 slots. From ")


def test_an_alert_that_somebody_closed_may_go_on() -> None:
    (shown,) = _build(_alert(closed_slot=None, closed_at=T0 + STEP, closed_by="bob"))["alerts"]

    assert shown["lasted"] == "goes on"
    assert (
        dict(shown["facts"])["Closed"]
        == "by bob, 2026-01-01 10:01; its episode goes on, and opens no other alert meanwhile"
    )


def test_answers_of_people_are_shown() -> None:
    (shown,) = _build(
        _alert(
            state="closed",
            acknowledged_at=T0 + 2 * STEP,
            acknowledged_by="anna",
            closed_at=T0 + 5 * STEP,
            closed_by="bob",
            comment="new release",
            verdict="false",
            reopenings=3,
            incident=1,
            incident_size=2,
        )
    )["alerts"]

    assert dict(shown["facts"]) == {
        "Monitor": "web",
        "Detected": "2026-01-01 10:01",
        "Incident": "1, one of 2 alerts that opened together",
        "Acknowledged": "by anna, 2026-01-01 10:02",
        "Closed": "by bob, 2026-01-01 10:05",
        "Reopened": "3 times, flapping",
        "Verdict": "false",
        "Comment": "new release",
        "Model version": "7",
    }


def test_alerts_of_an_incident_name_each_other() -> None:
    shown = _build(_alert(3, incident=1), _alert(2), _alert(1, incident=1))["alerts"]

    assert {alert["id"]: alert["peers"] for alert in shown} == {3: [1], 2: [], 1: [3]}


def test_a_week_with_its_budget() -> None:
    """Seven days: as many alerts a week as there are; muted, withdrawn and earlier ones apart."""
    (budget,) = _build(
        _alert(1, verdict="real"),
        _alert(2, verdict="false"),
        _alert(3),
        _alert(4),
        _alert(5, is_muted=True),
        _alert(6, state="withdrawn"),
        _alert(7, opened_slot=T0 - 30 * DAY, closed_slot=None, state="open"),
    )["overview"]["budgets"]

    assert budget == {
        "monitor": "web",
        "watched": "7 d",
        "alerts": 4,
        "observed": "3",  # of four one was real
        "budget": "1",
        "is_over": True,
        "muted": 1,
        "withdrawn": 1,
        "real": "1 (25%)",
        "false": "1 (25%)",
        "unjudged": "2 (50%)",
    }


@pytest.mark.parametrize(("alerts", "is_over"), [(1, False), (2, True)])
def test_less_than_a_week_has_no_rate_but_may_use_up_the_budget(alerts: int, is_over: bool) -> None:
    """Two days with a budget of one a week; alerts that were real do not count against it."""
    raised = [_alert(number) for number in range(1, alerts + 1)]
    rows = _rows(*raised, _alert(8, verdict="real"), _alert(9, verdict="real"), first=T0 - 2 * DAY, until=T0)

    (budget,) = content.build([rows], now=T0)["overview"]["budgets"]

    assert (budget["observed"], budget["is_over"], budget["alerts"]) == ("–", is_over, alerts + 2)


def test_days_are_those_of_the_zone_in_which_commands_print() -> None:
    """10:00 UTC on New Year's Day is 23:00 in Auckland; two hours later it is the next day there."""
    alerts = (_alert(2, opened_slot=T0 + 2 * HOUR, severity="critical"), _alert(1))

    rows = _rows(*alerts, first=T0 - DAY, until=T0 + 3 * HOUR)
    shown = content.build([rows], now=T0, zone="Pacific/Auckland")

    assert shown["zone"] == "Pacific/Auckland"
    assert shown["overview"]["days"] == {
        "days": ["2025-12-31", "2026-01-01", "2026-01-02"],
        "total": [0, 1, 1],
        "critical": [0, 0, 1],
    }


def test_entities_are_ranked_by_alerts_then_peak() -> None:
    alerts = [_alert(1), _alert(2), _alert(3, entity="b", peak_score=9.0, severity="critical"), _alert(4, entity="c")]

    ranking = _build(*alerts, _alert(5, entity="d", is_muted=True))["overview"]["entities"]

    assert [(row["entity"], row["alerts"], row["critical"]) for row in ranking["rows"]] == [
        ("a", 2, 0),
        ("b", 1, 1),
        ("c", 1, 0),
    ]
    assert ranking["others"] == 0


def test_with_very_many_alerts_the_newest_are_shown_and_all_are_counted() -> None:
    alerts = [_alert(n, opened_slot=T0 + n) for n in range(content.SHOWN + 3)]

    shown = _build(*alerts)

    assert [shown["alerts"][0]["id"], shown["alerts"][-1]["id"]] == [content.SHOWN + 2, 3]
    assert shown["untold"] == 3
    assert shown["overview"]["budgets"][0]["alerts"] == content.SHOWN + 3


def test_a_report_of_one_alert_has_no_overview() -> None:
    shown = content.build([_rows(_alert(5))], now=T0, is_whole=False)

    assert (shown["title"], shown["overview"]) == ("Alert 5", None)
    assert "Alerts by day" not in page.render(shown)


# what it draws


def test_metrics_are_drawn_with_what_was_expected_and_missing_values_are_gaps() -> None:
    explanation = _explanation([[1.0, 11.0], [2.0, np.nan], [3.0, 20.0]])

    (shown,) = _build(_alert(explanation=explanation))["alerts"]

    assert shown["plots"]["metrics"][0] == {
        "metric": "memory",
        "start": T0 - STEP,
        "step": STEP,
        "observed": [11.0, None, 20.0],
        "expected": [10.0, 10.0, 10.0],
        "low": [8.0, 8.0, 8.0],
        "high": [12.0, 12.0, 12.0],
    }
    assert shown["plots"]["metrics"][1]["observed"] == [1.0, 2.0, 3.0]


def test_scores_are_those_stored_and_where_there_are_none_those_of_the_window() -> None:
    alert = _alert(explanation=_explanation([[1.0, 11.0]] * 3), closed_slot=T0 + 2 * STEP)
    slots = content.plotted(_monitor(), alert, T0 + DAY)
    stored = np.full(len(slots), np.nan)
    stored[slots.index(T0)] = 7.0

    (shown,) = _build(alert, scores={1: stored})["alerts"]

    score = shown["plots"]["score"]
    drawn = dict(zip(range(score["start"], slots.stop, score["step"]), score["values"], strict=True))
    assert {slot: value for slot, value in drawn.items() if value is not None} == {
        T0 - STEP: 0.0,
        T0: 7.0,
        T0 + STEP: 2.0,
    }


def test_scores_are_shown_with_a_window_or_a_quarter_before_and_after() -> None:
    short, long = _alert(closed_slot=T0 + STEP), _alert(closed_slot=T0 + 100 * STEP)
    going_on = _alert(closed_slot=None)
    monitor, until = _monitor(), T0 + 10 * STEP

    assert content.plotted(monitor, short, T0 + DAY) == range(T0 - 4 * STEP, T0 + 6 * STEP, STEP)
    assert content.plotted(monitor, long, T0 + DAY) == range(T0 - 25 * STEP, T0 + 126 * STEP, STEP)
    assert content.plotted(monitor, going_on, until) == range(T0 - 4 * STEP, T0 + 11 * STEP, STEP)


def test_a_long_alert_is_thinned_and_keeps_its_peak() -> None:
    alert = _alert(closed_slot=T0 + 5000 * STEP)
    slots = content.plotted(_monitor(), alert, T0 + 100 * DAY)
    scores = np.zeros(len(slots))
    scores[1234] = 9.0

    (shown,) = _build(alert, scores={1: scores})["alerts"]

    score = shown["plots"]["score"]
    assert len(score["values"]) <= 2000
    assert score["step"] == 4 * STEP  # 7501 slots
    assert score["values"][1234 // 4] == 9.0
    assert sum(score["values"]) == 9.0


def test_exclusions_of_the_entity_are_shaded_and_named() -> None:
    def exclusion(entity: str, start: int) -> Exclusion:
        return Exclusion(1, "web", entity, None, start, start + STEP, "both", None, "UTC", "release", T0, None)

    alert = _alert(explanation=_explanation([[1.0, 11.0]] * 3))

    (shown,) = _build(alert, exclusions=[exclusion("a*", T0), exclusion("b", T0), exclusion("a", T0 + DAY)])["alerts"]

    assert shown["plots"]["excluded"] == [[T0, T0 + STEP]]
    assert shown["facts"][-1] == (
        "Excluded",
        "2026-01-01 10:00 to 10:01: muted and kept out of training, release",
    )


# words


# the page


class _Elements(HTMLParser):
    """Tags in order, and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def _page(word: str) -> str:
    """A page with an alert in which every text that comes from outside is `word`."""
    monitor = _monitor(metrics=[word, "memory"])
    alert = _alert(
        entity=word,
        state="closed",
        comment=word,
        acknowledged_at=T0,
        acknowledged_by=word,
        closed_at=T0,
        closed_by=word,
        explanation=_explanation([[1.0, 2.0]] * 3, (word, "memory")),
    )
    exclusion = Exclusion(1, "web", None, word, T0, T0 + STEP, "mute", None, "UTC", word, T0, word)
    return page.render(_build(alert, monitor=monitor, exclusions=[exclusion]))


def test_hostile_names_and_comments_stay_text() -> None:
    """The page has the same elements and attributes whatever things are called."""
    hostile, harmless = _Elements(_page(HOSTILE)), _Elements(_page("x"))

    assert hostile.tags == harmless.tags
    assert hostile.attributes == harmless.attributes
    assert "{{ 7*7 }}" in _page(HOSTILE)


def test_data_for_the_plots_cannot_end_its_element_and_says_what_it_said() -> None:
    (data,) = re.findall(r'<script type="application/json" id="drawn">(.*?)</script>', _page(HOSTILE), re.DOTALL)

    assert not set(data) & {"<", ">", "&", "\u2028"}
    assert [metric["metric"] for metric in json.loads(data)["alerts"]["1"]["metrics"]] == ["memory", HOSTILE]


def test_the_page_needs_no_network_and_may_not_use_it() -> None:
    shown = _page("x")

    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', shown)
    rules = dict(rule.strip().split(" ", 1) for rule in unescape(policy).split("; "))
    assert rules.keys() == {"default-src", "script-src", "style-src", "base-uri", "form-action"}
    assert {rules["default-src"], rules["base-uri"], rules["form-action"]} == {"'none'"}
    assert len(re.findall(r"'sha256-[A-Za-z0-9+/]{43}='", rules["script-src"])) == 2
    assert "unsafe" not in policy
    elements = _Elements(shown)
    assert {"link", "img", "iframe", "object", "base"} & set(elements.tags) == set()
    assert [value for name, value in elements.attributes if name in {"src", "style"} or name.startswith("on")] == []
    links = [value for name, value in elements.attributes if name == "href"]
    assert links
    assert all(link and re.fullmatch(r"#alert-\d+", link) for link in links)


def test_an_empty_report_says_so() -> None:
    assert "No alerts." in page.render(_build())
