"""Sends alerts to a Prometheus Alertmanager: the open ones again and again, closed ones once (API v2)."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from detector import wording as words
from detector.errors import NotifyError
from detector.notify import http
from detector.ports import Message, NotifiedAlert
from detector.times import utc

REPEAT_MS = 60_000
"""Time after which open alerts are sent again."""

_FORGOTTEN_MS = 5 * REPEAT_MS  # Alertmanager ends an alert that is not sent again for this long
_OPEN = ("open", "acknowledged")
_TOP = 5  # entities a summary names
_TEST = {"summary": words.TEST, "description": "It resolves by itself after five minutes."}

Labels = dict[str, str]


class Alertmanager:
    """The `Notifier` port over Alertmanager."""

    def __init__(self, url: str, *, timeout: float) -> None:
        """url: with the path Alertmanager is served under, if any; timeout: seconds"""
        self._url = url.rstrip("/")
        self._timeout = timeout
        # labels are an alert's identity: when they change, the alert under the old ones must end
        self._notified: dict[str, dict[int, Labels]] = {}  # by monitor and alert; 0: the summary

    def send(self, message: Message, now: int) -> None:
        """Posts what is open and what has closed. now: epoch milliseconds."""
        notified = self._notified.get(message.monitor, {})
        alerts, open_labels = payload(message, notified, now)
        if alerts:
            self._post(alerts)
        self._notified[message.monitor] = open_labels

    def test(self, monitor: str, now: int) -> str:
        """Posts the alert DetectorTest, which ends by itself after five minutes; what was answered."""
        labels = {"alertname": "DetectorTest", "monitor": monitor, "severity": "warning"}
        return self._post([_post(labels, dict(_TEST), begins=now, ends=now + _FORGOTTEN_MS)]).status

    def _post(self, alerts: list[dict[str, Any]]) -> http.Answer:
        body = json.dumps(words.finite(alerts), allow_nan=False).encode()
        headers = {"Content-Type": "application/json"}
        return http.request(f"{self._url}/api/v2/alerts", body=body, headers=headers, timeout=self._timeout)

    def check(self) -> str:
        """Its address without secrets, after it answered with its version."""
        url = f"{self._url}/api/v2/status"
        answer = http.request(url, timeout=self._timeout)
        if not answer.said.lstrip().startswith(b"{"):
            msg = f"{http.redacted(self._url)} must be an Alertmanager; it answers /api/v2/status, but not with JSON"
            raise NotifyError(msg)
        return http.redacted(self._url)


def payload(message: Message, notified: dict[int, Labels], now: int) -> tuple[list[dict[str, Any]], dict[int, Labels]]:
    """Alerts to post, and the labels of those that are open after it, by id (0: the summary).

    notified: labels of those that were open after the last post
    """
    posted: list[dict[str, Any]] = []
    open_labels: dict[int, Labels] = {}
    for alert in message.alerts:
        is_open = alert.state in _OPEN
        labels = {"alertname": "DetectorAnomaly", **_identity(alert)}
        if not is_open:
            labels = notified.get(alert.id, labels)
        if is_open:
            open_labels[alert.id] = labels
        ends = now + _FORGOTTEN_MS if is_open else _ended(alert, now)
        posted.append(_post(labels, _annotations(alert), begins=alert.episode.opened_slot, ends=ends))
    if message.others:
        severity = "critical" if any(alert.episode.severity == "critical" for alert in message.others) else "warning"
        labels = {"alertname": "DetectorManyAlerts", "monitor": message.monitor, "severity": severity}
        open_labels[0] = labels
        begin = min(alert.episode.opened_slot for alert in message.others)
        posted.append(_post(labels, _summary(message), begins=begin, ends=now + _FORGOTTEN_MS))
    closed = {alert.id for alert in message.alerts if alert.state not in _OPEN}
    for identity, labels in notified.items():
        if open_labels.get(identity) != labels and identity not in closed:
            posted.append(_post(labels, {}, begins=now - 1000, ends=now))
    return posted, open_labels


def _identity(alert: NotifiedAlert) -> Labels:
    return {"monitor": alert.monitor, "entity": alert.entity, "severity": alert.episode.severity}


def _annotations(alert: NotifiedAlert) -> dict[str, str]:
    score = f"Score up to {alert.episode.peak_score:.2f}, where 1 is the threshold."
    texts = {
        "summary": f"{alert.entity} behaves unusually ({alert.monitor})",
        "description": f"{words.sentence(alert.explanation)} {score}".strip(),
        "alert": str(alert.id),
        "state": alert.state,
    }
    if alert.incident_size > 1:
        texts["incident"] = f"{alert.incident}: {alert.incident_size} alerts opened together"
    if alert.state == "acknowledged":
        texts["acknowledged_by"] = alert.acknowledged_by or ""
    if alert.comment:
        texts["comment"] = alert.comment
    return texts


def _summary(message: Message) -> dict[str, str]:
    others = message.others
    counted = Counter(alert.episode.severity for alert in others).most_common()
    severities = ", ".join(f"{count} {severity}" for severity, count in counted)
    worst = sorted(others, key=lambda alert: (-alert.episode.peak_score, alert.id))[:_TOP]
    entities = ", ".join(f"{alert.entity} ({alert.episode.peak_score:.2f})" for alert in worst)
    incidents = Counter(alert.incident for alert in others if alert.incident is not None).most_common(1)
    texts = {
        "summary": f"{len(others)} more alerts are open ({message.monitor})",
        "description": f"Beside those sent one by one, {len(others)} alerts are open: {severities}. Worst: {entities}.",
    }
    if incidents:
        texts["incident"] = f"{incidents[0][0]}: {incidents[0][1]} of them opened together"
    return texts


def _ended(alert: NotifiedAlert, now: int) -> int:
    """End of an alert: in the past, and after its beginning, or Alertmanager refuses it."""
    closed = alert.closed_at if alert.closed_at is not None else alert.episode.closed_slot
    return max(min(closed or now, now), alert.episode.opened_slot + 1)


def _post(labels: Labels, annotations: dict[str, str], *, begins: int, ends: int) -> dict[str, Any]:
    """An alert as API v2 takes it; times in epoch milliseconds."""
    return {
        "labels": labels,
        "annotations": annotations,
        "startsAt": utc(begins, "milliseconds"),
        "endsAt": utc(ends, "milliseconds"),
    }
