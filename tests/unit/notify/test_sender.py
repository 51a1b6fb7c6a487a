"""Messages to notifiers: how many, when again after a failure, and in which words; no database and no network."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from dataclasses import replace
from typing import Any

import pytest

from detector.core.decide import Episode, Severity
from detector.notify import alertmanager, http, webhook
from detector.notify.sender import back_off, messages, standing_message
from detector.ports import AlertState, Message, Notice, NotifiedAlert

T0 = 1_704_110_400_000  # 2024-01-01T12:00:00Z
STEP = 60_000
METRIC = {"metric": "cpu", "share": 1.0, "observed": 99.0, "expected": 20.0, "low": 10.0, "high": 30.0}
EXPLANATION = {"metrics": [METRIC], "part": {"kind": "spike", "slots": 1}}


def _alert(identity: int = 1, **values: Any) -> NotifiedAlert:
    alert = NotifiedAlert(
        id=identity,
        monitor="web",
        entity=f"web-{identity}",
        state=AlertState.OPEN,
        episode=Episode(T0, T0 + STEP, Severity.WARNING, peak_score=1.0 + identity / 100, peak_slot=T0 + STEP),
        detected_at=T0 + 2 * STEP,
        closed_at=None,
        closed_by=None,
        acknowledged_by=None,
        comment=None,
        model_version=7,
        incident=1,
        incident_size=3,
        explanation=EXPLANATION,
    )
    of_episode = {name: values.pop(name) for name in Episode.__dataclass_fields__ if name in values}
    return replace(alert, episode=replace(alert.episode, **of_episode), **values)


def _notice(event: int, alert: NotifiedAlert | None = None, **values: Any) -> Notice:
    subject = _alert(event) if alert is None else alert
    return replace(Notice(event, "opened", "warning", 1.5, T0 + 2 * STEP, None, None, 0, subject), **values)


# when it is tried again


def test_retries_come_after_seconds_first_and_never_later_than_three_minutes() -> None:
    rng = random.Random(1)

    waits = [[back_off(attempts, rng) for _ in range(200)] for attempts in (1, 2, 3, 7, 1000)]

    for longest, drawn in zip((5_000, 10_000, 20_000, 180_000, 180_000), waits, strict=True):
        assert longest / 2 <= min(drawn) < max(drawn) <= longest
        assert len(set(drawn)) > 100


def test_the_same_luck_gives_the_same_wait() -> None:
    assert back_off(4, random.Random(3)) == back_off(4, random.Random(3))


# how many messages


def test_events_that_may_be_sent_one_by_one_are_in_order() -> None:
    notices = [_notice(event) for event in (3, 4, 9)]

    found = messages("web", notices, allowed=3)

    assert [(message.notices, message.is_summary) for message in found] == [((notice,), False) for notice in notices]


@pytest.mark.parametrize(("events", "allowed"), [(2, 1), (6, 5), (500, 5)])
def test_more_events_than_may_be_sent_are_one_summary_of_all(events: int, allowed: int) -> None:
    notices = [_notice(event) for event in range(1, events + 1)]

    (message,) = messages("web", notices, allowed)

    assert message.is_summary
    assert message.notices == tuple(notices)
    assert len(message.alerts) == min(10, events)
    assert [alert.id for alert in message.alerts] == list(
        range(events, events - len(message.alerts), -1)
    )  # worst first
    assert len(message.alerts) + len(message.others) == events


@pytest.mark.parametrize("allowed", [0, -3])
def test_nothing_is_sent_while_nothing_may_be(allowed: int) -> None:
    assert messages("web", [_notice(1)], allowed) == []


def test_open_alerts_beyond_the_cap_are_summed_up_oldest_sent_one_by_one() -> None:
    standing = [_alert(identity) for identity in (1, 2, 3, 4)]
    closed = _alert(5, state="closed", closed_slot=T0 + STEP)

    message = standing_message("web", [_notice(9, closed)], standing, max_alerts=3)

    assert [alert.id for alert in message.alerts] == [1, 2, 3]
    assert [alert.id for alert in message.others] == [4]  # what is closed is not counted among the open


# Alertmanager


def test_an_open_alert_is_firing_until_long_after_the_next_repetition() -> None:
    now = T0 + 10 * STEP

    (post,), open_labels = alertmanager.payload(Message("web", (), (_alert(),)), {}, now)

    labels = {"alertname": "DetectorAnomaly", "monitor": "web", "entity": "web-1", "severity": "warning"}
    assert post["labels"] == labels == open_labels[1]
    assert (post["startsAt"], post["endsAt"]) == ("2024-01-01T12:00:00.000Z", "2024-01-01T12:15:00.000Z")
    assert post["annotations"]["description"] == (
        "Spike: cpu 99, expected 10–30, 100 % of the score. Score up to 1.01, where 1 is the threshold."
    )
    assert post["annotations"]["incident"] == "1: 3 alerts opened together"


@pytest.mark.parametrize(
    ("state", "closed", "ended"),
    [
        ("closed", {"closed_slot": T0 + 3 * STEP}, "2024-01-01T12:03:00.000Z"),
        ("closed", {"closed_at": T0 + 4 * STEP}, "2024-01-01T12:04:00.000Z"),
        ("closed", {"closed_slot": T0}, "2024-01-01T12:00:00.001Z"),  # not before it began
        ("withdrawn", {"closed_slot": T0 + STEP}, "2024-01-01T12:01:00.000Z"),
    ],
)
def test_a_closed_alert_is_resolved_since_it_closed(state: str, closed: dict[str, int], ended: str) -> None:
    alert = _alert(state=state, **closed)

    (post,), open_labels = alertmanager.payload(Message("web", (), (alert,)), {}, T0 + 10 * STEP)

    assert post["endsAt"] == ended
    assert open_labels == {}


def test_an_acknowledged_alert_stays_firing_and_says_so() -> None:
    alert = _alert(state="acknowledged", acknowledged_by="ada", comment="looking")

    (post,), _ = alertmanager.payload(Message("web", (), (alert,)), {}, T0 + 10 * STEP)

    assert post["endsAt"] > "2024-01-01T12:10:00"
    assert post["annotations"]["state"] == "acknowledged"
    assert (post["annotations"]["acknowledged_by"], post["annotations"]["comment"]) == ("ada", "looking")


def test_an_alert_that_got_worse_ends_under_its_old_labels() -> None:
    now = T0 + 10 * STEP
    _, before = alertmanager.payload(Message("web", (), (_alert(),)), {}, now)

    posts, after = alertmanager.payload(Message("web", (), (_alert(severity="critical"),)), before, now + STEP)

    assert [(post["labels"]["severity"], post["endsAt"]) for post in posts] == [
        ("critical", "2024-01-01T12:16:00.000Z"),
        ("warning", "2024-01-01T12:11:00.000Z"),
    ]
    assert after[1]["severity"] == "critical"


def test_the_summary_is_there_while_alerts_are_beyond_the_cap_and_ends_after() -> None:
    now = T0 + 10 * STEP
    others = (_alert(2), _alert(3, severity="critical"))
    posts, before = alertmanager.payload(Message("web", (), (_alert(1),), others, is_summary=True), {}, now)

    assert posts[1]["labels"] == {"alertname": "DetectorManyAlerts", "monitor": "web", "severity": "critical"}
    assert posts[1]["annotations"]["description"] == (
        "Beside those sent one by one, 2 alerts are open: 1 warning, 1 critical. Worst: web-3 (1.03), web-2 (1.02)."
    )

    posts, after = alertmanager.payload(Message("web", (), (_alert(1),)), before, now + STEP)

    assert [(post["labels"]["alertname"], post["endsAt"] > "2024-01-01T12:11:00.000Z") for post in posts] == [
        ("DetectorAnomaly", True),
        ("DetectorManyAlerts", False),
    ]
    assert set(after) == {1}


# webhooks


def test_a_webhook_is_sent_the_event_as_it_was_and_the_alert_as_it_is() -> None:
    alert = _alert(state="closed", closed_slot=T0 + 9 * STEP, closed_by="normal", peak_score=2.5, severity="critical")

    posted = json.loads(webhook.body(Message("web", (_notice(4, alert),), (alert,))))

    assert (posted["kind"], posted["monitor"]) == ("event", "web")
    assert posted["text"] == "warning alert opened: web-1 (web). Spike: cpu 99, expected 10–30, 100 % of the score."
    assert posted["event"] == {
        "id": 4,
        "change": "opened",
        "at": "2024-01-01T12:02:00.000Z",
        "severity": "warning",
        "peak_score": 1.5,
        "by": None,
        "detail": None,
    }
    assert posted["alert"]["metrics"] == [METRIC]
    assert posted["alert"]["sentence"] == "Spike: cpu 99, expected 10–30, 100 % of the score."
    expected = {"state": "closed", "severity": "critical", "peak_score": 2.5, "closed_at": "2024-01-01T12:09:00.000Z"}
    assert {name: posted["alert"][name] for name in expected} == expected
    assert (posted["alert"]["incident"], posted["alert"]["incident_alerts"]) == (1, 3)


@pytest.mark.parametrize(
    ("change", "by", "detail", "said"),
    [
        ("closed", None, "normal", "It lasted 9 min, scored up to 2.50; scores were normal again. It was: Spike"),
        ("closed", None, "gone", "scored up to 2.50; the entity is gone: it had no row for too long. It was: Spike"),
        ("closed", "ana", "wrong", "It lasted 9 min, scored up to 2.50; closed by ana: wrong. It was: Spike"),
        ("acknowledged", "ana", "looking", "By ana: looking. Spike"),
        ("unacknowledged", "ana", None, "By ana. Spike"),
        ("withdrawn", None, None, "(web). It was: Spike"),
    ],
)
def test_a_message_says_what_became_of_an_alert(change: str, by: str | None, detail: str | None, said: str) -> None:
    closed = {"closed_slot": T0 + 9 * STEP, "opened_slot": T0}
    alert = _alert(state="closed", closed_by="normal", peak_score=2.5, **closed)
    notice = replace(_notice(4, alert), change=change, by=by, detail=detail)

    text = json.loads(webhook.body(Message("web", (notice,), (alert,))))["text"]

    assert text.startswith(f"warning alert {change}: web-1 (web). ")
    assert said in text
    assert text.endswith("cpu 99, expected 10–30, 100 % of the score.")


def test_a_summary_counts_events_and_names_the_worst() -> None:
    opened = [_notice(event, _alert(event, incident=1 + event % 2)) for event in range(1, 21)]
    closed = _notice(30, opened[0].alert, change="closed", created_at=T0 + 5 * STEP)
    (message,) = messages("web", [*opened, closed], allowed=5)

    posted = json.loads(webhook.body(message))

    assert posted["text"] == "20 alerts of web at once: 20 opened, 1 closed"
    assert (posted["kind"], posted["events"], posted["alerts"]) == ("summary", 21, 20)
    assert posted["severities"] == {"warning": 20}
    assert (posted["first_at"], posted["last_at"]) == ("2024-01-01T12:02:00.000Z", "2024-01-01T12:05:00.000Z")
    assert sorted(posted["incidents"], key=lambda one: int(one["incident"])) == [
        {"incident": 1, "alerts": 10},
        {"incident": 2, "alerts": 10},
    ]
    assert [one["entity"] for one in posted["worst"]] == [f"web-{n}" for n in range(20, 10, -1)]


def test_a_signature_is_the_hmac_of_time_and_body() -> None:
    expected = hmac.new(b"hush", b'1700000000.{"a":1}', hashlib.sha256).hexdigest()

    assert webhook.signature("hush", "1700000000", b'{"a":1}') == expected


def test_the_same_events_have_the_same_key_and_others_another() -> None:
    one, other = _notice(1), _notice(2)

    keys = [
        webhook.key(name, Message("web", notices, ()))
        for name, notices in [("chat", (one,)), ("chat", (one,)), ("chat", (one, other)), ("pager", (one,))]
    ]

    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:hush@chat.example:8443/services/hush?key=hush", "https://chat.example:8443"),
        ("http://10.0.0.1/hush", "http://10.0.0.1"),
        ("http://[::1]:9093", "http://[::1]:9093"),
    ],
)
def test_nothing_secret_of_a_url_is_shown(url: str, shown: str) -> None:
    assert http.redacted(url) == shown
