"""The API over a fleet that was watched: what it answers, refuses and lets people do."""

from __future__ import annotations

import json
import logging
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import watched
from watched import ANA, FAULT, STEP, STRANGE, T0, Acting, Fleet, Site

from detector.web import guard

END = T0 + (watched.TRAINED + watched.WATCHED) * STEP


def _opened(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = site.json("/alerts")["items"][0]
    return found


def test_a_monitor_says_what_it_does_and_what_it_knows(site: Site) -> None:
    (monitor,) = site.json("/monitors")

    assert monitor == site.json("/monitors/web")
    assert (monitor["entities"], monitor["normal"], monitor["anomalous"], monitor["unknown"]) == (5, 4, 1, {})
    assert (monitor["open_alerts"], monitor["observed_per_week"], monitor["budget_per_week"]) == (1, 1, 1.0)
    assert monitor["stage"].startswith("Scores 5 of 5 entities with a baseline; its alert budget may be overdrawn")
    assert monitor["scored_until"] == "2026-01-01T18:40:00Z"
    assert monitor["model"]["kind"] == "baseline"


def test_entities_are_searched_sorted_and_paged(site: Site) -> None:
    def names(query: str) -> list[str]:
        return [item["entity"] for item in site.json(f"/entities?monitor=web&{query}")["items"]]

    assert names("order=score&limit=1") == ["web-01"]
    assert names("state=anomalous") == ["web-01"]
    assert names("state=unknown") == []
    assert names("text=WEB&order=entity") == ["web-01", "web-02"]
    assert names("order=entity") == sorted(watched.ENTITIES)
    assert names("order=entity&offset=1&limit=2") == sorted(watched.ENTITIES)[1:3]
    assert site.json("/entities?monitor=web&limit=2")["total"] == 5


@pytest.mark.parametrize("name", watched.ENTITIES)
def test_an_entity_of_any_name_has_its_metrics_and_scores(site: Site, name: str) -> None:
    detail = site.json(f"/entity?monitor=web&entity={quote(name)}")
    scores = site.json(f"/scores?monitor=web&entity={quote(name)}")

    assert detail["entity"] == scores["entity"] == name
    assert {metric["metric"] for metric in detail["window"]} <= set(watched.METRICS)
    assert detail["slot"] == "2026-01-01T18:39:00Z"
    assert len([score for score in scores["scores"] if score is not None]) == watched.WATCHED
    assert scores["start"] + scores["step"] * len(scores["scores"]) == END


def test_the_scores_of_an_entity_come_with_its_alerts_and_what_was_not_known(site: Site) -> None:
    scores = site.json("/scores?monitor=web&entity=web-01&from=2026-01-01T17:00:00Z")

    assert [span["end"] for span in scores["alerts"]] == [END]
    assert scores["alerts"][0]["start"] - (T0 + FAULT * STEP) in {0, STEP, 2 * STEP}
    assert max(score or 0 for score in scores["scores"]) == pytest.approx(_opened(site)["peak_score"], abs=1e-4)


def test_an_alert_says_what_happened_since_when_and_why(site: Site) -> None:
    alert = _opened(site)
    detail = site.json(f"/alerts/{alert['id']}")

    assert (alert["entity"], alert["state"], alert["closed"]) == ("web-01", "open", None)
    assert "expected" in alert["what"]
    assert detail["events"][0]["change"] == "opened"
    assert set(detail["explanation"]) >= {"metrics", "part", "window"}
    assert {key: detail[key] for key in alert} == alert


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 1),
        ("open=true", 1),
        ("state=closed", 0),
        ("severity=critical", 1),
        ("entity=web-*", 1),
        ("entity=web-02", 0),
        ("monitor=other", 0),
        ("to=2026-01-01T12:00:00Z", 0),
        ("from=2026-01-01T12:00:00%2B01:00", 1),
        ("offset=1", 0),
    ],
)
def test_alerts_are_filtered(site: Site, query: str, count: int) -> None:
    assert len(site.json(f"/alerts?{query}")["items"]) == count


def test_an_incident_names_its_alerts_entities_and_metrics(site: Site) -> None:
    (incident,) = site.json("/incidents?open=true")["items"]

    assert (incident["alerts"], incident["entities"], incident["state"]) == ([_opened(site)["id"]], ["web-01"], "open")
    assert set(incident["metrics"]) <= set(watched.METRICS)


def test_a_model_says_what_it_takes_to_open_an_alert(site: Site) -> None:
    (model,) = site.json("/models")
    detail = site.json(f"/models/{model['version']}")

    assert (model["kind"], model["is_live"], model["entities"]) == ("baseline", True, 5)
    assert detail["blind_ratio"] == 0.0
    assert detail["deviations_to_alert"] > 0


@pytest.mark.parametrize(
    ("path", "status", "line"),
    [
        ("/monitors/nobody", 404, "no monitor named 'nobody'; there is: web"),
        ("/entities?monitor=nobody", 404, "no monitor named 'nobody'; there is: web"),
        ("/entity?monitor=web&entity=gone", 404, "entity 'gone' of monitor web is not known"),
        ("/alerts/77", 404, "no alert 77"),
        ("/alerts/99999999999999999999999", 404, "no alert 99999999999999999999999"),
        ("/models/77", 404, "no model version 77"),
        ("/nothing", 404, "there is no such page; begin at /"),
        ("/alerts?limit=0", 422, "limit: Input should be greater than or equal to 1. Received: '0'"),
        ("/entities", 422, "monitor: Field required"),
        ("/alerts?from=yesterday", 422, "from: Input should be a valid datetime"),
    ],
)
def test_what_cannot_be_answered_is_one_line(site: Site, path: str, status: int, line: str) -> None:
    found = site.ask(f"/api/v1{path}")

    assert found.status == status
    assert json.loads(found.body)["detail"].startswith(line)


def test_what_has_not_changed_is_not_sent_again(site: Site) -> None:
    first = site.ask("/api/v1/monitors")
    again = site.ask("/api/v1/monitors", headers={"If-None-Match": first.headers["etag"]})
    other = site.ask("/api/v1/alerts", headers={"If-None-Match": first.headers["etag"]})

    assert (again.status, again.body) == (304, b"")
    assert other.status == 200


def test_the_description_of_the_api_is_complete(site: Site) -> None:
    found = site.json("/openapi.json")

    assert set(found["paths"]) >= {
        f"/api/v1/{name}" for name in ("monitors", "entities", "scores", "alerts", "incidents", "models", "health")
    }
    operations = [operation for path in found["paths"].values() for operation in path.values()]
    assert all(operation["description"] for operation in operations)
    assert all(name.startswith("/api/v1/") for name in found["paths"])


def test_a_database_that_does_not_answer_is_one_line(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    from detector.errors import StoreError
    from detector.store import alerts

    def fails(*_: object, **__: object) -> None:
        raise StoreError("the database does not answer")

    monkeypatch.setattr(alerts, "count", fails)
    with fleet.endpoint() as site:
        found, page = site.ask("/api/v1/alerts"), site.ask("/alerts")

    assert (found.status, json.loads(found.body)) == (503, {"detail": "the database does not answer"})
    assert page.status == 503
    assert "the database does not answer" in page.text


def test_the_metrics_of_an_open_alert_are_exported_with_what_was_expected(site: Site) -> None:
    lines = site.ask("/metrics").text.splitlines()

    def of(end: str) -> float:
        name = f'detector_metric_{end}{{entity="web-01",metric="latency_ms",monitor="web"}} '
        return float(next(line for line in lines if line.startswith(name)).removeprefix(name))

    (newest,) = (value for *key, value in watched.samples() if key == ["web-01", "latency_ms", END - STEP])
    assert of("observed") == pytest.approx(newest, rel=1e-6)
    assert 100 < of("lower") < of("expected") < of("upper") < 140  # normal values are 120 ± 6
    assert not [line for line in lines if line.startswith("detector_metric_observed") and "web-02" in line]


# -- acting -----------------------------------------------------------------------------------------------------------


def test_without_users_nothing_can_be_changed_and_it_is_said_why(site: Site) -> None:
    health = site.json("/health")
    found = site.ask("/api/v1/alerts/1/close", "POST", body={}, headers={"X-Detector-Request": "test"})

    assert (health["may_act"], health["user"]) == (False, None)
    assert "export.web_config" in health["why_not"]
    assert (found.status, json.loads(found.body)) == (403, {"detail": health["why_not"]})
    assert site.json("/alerts/1")["state"] == "open"


def test_who_is_not_told_apart_is_not_answered(acting: Acting) -> None:
    for path in ("/", "/api/v1/monitors", "/metrics", "/static/app.js"):
        found = acting.site.ask(path)
        assert found.status == 401
        assert found.headers["www-authenticate"].startswith("Basic ")
    assert acting.ask("/api/v1/health").status == 200


def test_people_answer_alerts_and_are_on_record(acting: Acting, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        seen = acting.act("/alerts/1/acknowledge", body={"comment": "on it"})
        judged = acting.act("/alerts/1/verdict", body={"verdict": "real"})
        closed = acting.act("/alerts/1/close", body={})
        again = acting.act("/alerts/1/close", body={})

    assert [found.status for found in (seen, judged, closed, again)] == [200, 200, 200, 409]
    alert = json.loads(closed.body)
    assert (alert["state"], alert["verdict"], alert["closed_by"], alert["comment"]) == (
        *("closed", "real", "ana", "on it"),
    )
    mine = [event["change"] for event in alert["events"] if event["by"] == "ana"]
    assert mine == ["acknowledged", "marked real", "closed"]
    assert [record.getMessage() for record in caplog.records if "event=acted" in record.getMessage()] == [
        f"event=acted by='ana' action={what} alert=1" for what in ("acknowledge", "real", "close")
    ]
    assert json.loads(again.body)["detail"] == "alert 1 is closed already"


def test_people_exclude_times_and_end_that(acting: Acting) -> None:
    wanted = {"monitor": "web", "entity": "web-*", "start": "2026-01-01T18:40:00Z", "effect": "mute"}
    made = acting.act("/exclusions", body={**wanted, "end": "2026-01-01T19:40:00Z", "comment": "deploy"})
    wrong = acting.act("/exclusions", body={**wanted, "end": "2026-01-01T17:40:00Z"})
    removed = acting.act("/exclusions/1", "DELETE")
    gone = acting.act("/exclusions/1", "DELETE")

    assert [found.status for found in (made, wrong, removed, gone)] == [201, 422, 204, 404]
    assert (json.loads(made.body)["created_by"], json.loads(made.body)["comment"]) == ("ana", "deploy")
    assert json.loads(wrong.body)["detail"] == "an exclusion must end after it begins"
    assert json.loads(acting.ask("/api/v1/exclusions").body) == []


@pytest.mark.parametrize(
    ("headers", "line"),
    [
        ({}, "the header X-Detector-Request must be sent"),
        ({"X-Detector-Request": "1", "Origin": "https://evil.example"}, "a page of another site"),
        ({"X-Detector-Request": "1", "Sec-Fetch-Site": "cross-site"}, "a page of another site"),
        ({"X-Detector-Request": "1", "Origin": "null"}, "a page of another site"),
    ],
)
def test_what_another_site_makes_a_browser_send_is_refused(acting: Acting, headers: dict[str, str], line: str) -> None:
    named = {name.replace("-", "_"): value for name, value in headers.items()}
    found = acting.ask("/api/v1/alerts/1/close", "POST", body={}, **named)

    assert found.status == 403
    assert line in json.loads(found.body)["detail"]


def test_a_body_is_not_read_for_whoever_may_not_act_and_not_without_end(site: Site, acting: Acting) -> None:
    large = {"comment": "x" * 70_000}

    nobody = site.ask("/api/v1/alerts/1/close", "POST", body=large, headers={"X-Detector-Request": "test"})
    ana = acting.act("/alerts/1/close", body=large)

    assert (nobody.status, ana.status) == (403, 413)
    assert json.loads(ana.body)["detail"] == "the body must come within 10 s, and have 64 kB at most"
    assert site.json("/alerts/1")["state"] == "open"


def test_a_body_that_does_not_come_is_not_waited_for(acting: Acting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_BODY_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", acting.site.endpoint.port)) as client:
        lines = ["POST /api/v1/alerts/1/close HTTP/1.1", "Host: here", f"Authorization: {ANA['Authorization']}"]
        client.sendall("\r\n".join([*lines, "Content-Length: 9000", "", "{"]).encode())
        client.settimeout(60)

        assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_a_path_that_needs_no_password_lets_nobody_act(fleet: Fleet, tmp_path: Path) -> None:
    with watched.acting(fleet, tmp_path, excluded="/api/v1/exclusions") as found:
        body = {"monitor": "web", "start": "2026-01-01T18:40:00Z"}
        asked = found.site.ask("/api/v1/exclusions", "POST", body=body, headers={"X-Detector-Request": "1"})

        assert asked.status == 403
        assert found.fleet.parts.store.exclusions("web") == []


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"start": "0001-01-01T00:00:00+12:00"}, "between 1970 and the year 9000"),
        ({"start": "1969-12-31T23:00:00Z"}, "between 1970 and the year 9000"),
        ({"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T01:00:00Z", "rule": "FREQ=SECONDLY"}, "by the second"),
    ],
)
def test_times_that_make_no_sense_are_not_stored(acting: Acting, wanted: dict[str, str], words: str) -> None:
    found = acting.act("/exclusions", body={"monitor": "web", **wanted})

    assert found.status == 422
    assert words in json.loads(found.body)["detail"]
    assert json.loads(acting.ask("/api/v1/exclusions").body) == []
    assert acting.act("/exclusions/999999999999999999999999999999", "DELETE").status == 404


@pytest.mark.parametrize("name", STRANGE)
def test_a_comment_cannot_forge_a_line_of_the_log(acting: Acting, caplog: pytest.LogCaptureFixture, name: str) -> None:
    with caplog.at_level(logging.INFO):
        assert acting.act("/alerts/1/acknowledge", body={"comment": f"{name}\nevent=acted by='root'"}).status == 200

    assert not [record for record in caplog.records if "root" in record.getMessage()]
