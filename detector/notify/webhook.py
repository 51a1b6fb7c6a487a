"""Sends events to an HTTP endpoint as JSON, signed if there is a secret."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter
from typing import Any

from detector import wording as words
from detector.notify import http
from detector.ports import Message, Notice, NotifiedAlert
from detector.times import utc

SIGNATURE, TIMESTAMP, KEY = "X-Detector-Signature", "X-Detector-Timestamp", "Idempotency-Key"


class Webhook:
    """The `Notifier` port over an HTTP endpoint."""

    def __init__(self, name: str, url: str, *, secret: str, timeout: float) -> None:
        """timeout: seconds"""
        self._name = name
        self._url = url
        self._secret = secret
        self._timeout = timeout

    def send(self, message: Message, now: int) -> None:
        """Posts a message; only a 2xx answer means that it has arrived. now: epoch milliseconds."""
        self._post(body(message), key(self._name, message), now)

    def test(self, monitor: str, now: int) -> str:
        """Posts a message of the kind `test`; what was answered. now: epoch milliseconds."""
        found = {"kind": "test", "monitor": monitor, "text": words.TEST, "at": utc(now, "milliseconds")}
        return self._post(_json(found), f"test-{now}", now).status

    def _post(self, posted: bytes, idempotency_key: str, now: int) -> http.Answer:
        headers = {"Content-Type": "application/json", KEY: idempotency_key}
        if self._secret:
            stamp = str(now // 1000)
            headers |= {TIMESTAMP: stamp, SIGNATURE: f"sha256={signature(self._secret, stamp, posted)}"}
        return http.request(self._url, body=posted, headers=headers, timeout=self._timeout)

    def check(self) -> str:
        """Its address without secrets. Only connects: a message would cause alarm."""
        http.reach(self._url, self._timeout)
        return http.redacted(self._url)


def signature(secret: str, timestamp: str, posted: bytes) -> str:
    """HMAC-SHA256 of timestamp, a dot and the body, in hexadecimal."""
    return hmac.new(secret.encode(), timestamp.encode() + b"." + posted, hashlib.sha256).hexdigest()


def key(notifier: str, message: Message) -> str:
    """A key that is the same for the same events, by which a target recognises a repeated message."""
    events = ",".join(str(notice.event) for notice in message.notices)
    return hashlib.sha256(f"{notifier}:{message.monitor}:{events}".encode()).hexdigest()[:32]


def body(message: Message) -> bytes:
    """A message as JSON."""
    found = _summary(message) if message.is_summary else _event(message.notices[0], message.alerts[0])
    return _json(found)


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(words.finite(value), ensure_ascii=False, allow_nan=False).encode(errors="replace")


def _event(notice: Notice, alert: NotifiedAlert) -> dict[str, Any]:
    head = f"{notice.severity} alert {notice.change}: {alert.entity} ({alert.monitor})"
    text = " ".join(filter(None, [f"{head}.", _course(notice, alert), _what(notice, alert)]))
    return {
        "kind": "event",
        "monitor": alert.monitor,
        "text": text,
        "event": {
            "id": notice.event,
            "change": notice.change,
            "at": utc(notice.created_at, "milliseconds"),
            "severity": notice.severity,
            "peak_score": notice.peak_score,
            "by": notice.by,
            "detail": notice.detail,
        },
        "alert": _alert(alert) | {"metrics": alert.explanation.get("metrics", [])},
    }


def _course(notice: Notice, alert: NotifiedAlert) -> str:
    """Who did it and why; of a closing how long the alert lasted and how bad it was."""
    detail = f": {notice.detail}" if notice.by and notice.detail else ""
    by = f"by {notice.by}{detail}" if notice.by else ""
    if notice.change != "closed":
        return f"{by[:1].upper()}{by[1:]}." if by else ""
    why = f"closed {by}" if by else words.ENDED.get(notice.detail or "", "closed by itself")
    closed, opened = _closed(alert), alert.episode.opened_slot
    lasted = "" if closed is None else f"lasted {words.duration(closed - opened)}, "
    return f"It {lasted}scored up to {alert.episode.peak_score:.2f}; {why}."


def _what(notice: Notice, alert: NotifiedAlert) -> str:
    """What was strange, as something of the past once it is over."""
    sentence = words.sentence(alert.explanation)
    return f"It was: {sentence}" if sentence and notice.change in {"closed", "withdrawn"} else sentence


def _summary(message: Message) -> dict[str, Any]:
    alerts = [*message.alerts, *message.others]
    changes = Counter(notice.change for notice in message.notices)
    incidents = Counter(alert.incident for alert in alerts if alert.incident is not None)
    severities = Counter(alert.episode.severity for alert in alerts)
    counted = ", ".join(f"{count} {change}" for change, count in changes.most_common())
    return {
        "kind": "summary",
        "monitor": message.monitor,
        "text": f"{len(alerts)} alerts of {message.monitor} at once: {counted}",
        "events": len(message.notices),
        "first_at": utc(message.notices[0].created_at, "milliseconds"),
        "last_at": utc(message.notices[-1].created_at, "milliseconds"),
        "alerts": len(alerts),
        "changes": dict(changes),
        "severities": dict(severities),
        "states": dict(Counter(alert.state for alert in alerts)),
        "incidents": [{"incident": incident, "alerts": count} for incident, count in incidents.most_common(10)],
        "worst": [_alert(alert) for alert in message.alerts],
    }


def _alert(alert: NotifiedAlert) -> dict[str, Any]:
    return {
        "id": alert.id,
        "entity": alert.entity,
        "state": alert.state,
        "severity": alert.episode.severity,
        "opened_at": utc(alert.episode.opened_slot, "milliseconds"),
        "detected_at": utc(alert.detected_at, "milliseconds"),
        "closed_at": None if (closed := _closed(alert)) is None else utc(closed, "milliseconds"),
        "closed_by": alert.closed_by,
        "acknowledged_by": alert.acknowledged_by,
        "comment": alert.comment,
        "peak_score": alert.episode.peak_score,
        "peak_at": utc(alert.episode.peak_slot, "milliseconds"),
        "model_version": alert.model_version,
        "incident": alert.incident,
        "incident_alerts": alert.incident_size,
        "sentence": words.sentence(alert.explanation),
    }


def _closed(alert: NotifiedAlert) -> int | None:
    return alert.closed_at if alert.closed_at is not None else alert.episode.closed_slot
