"""Stored rows and states of entities as the API tells of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np

from detector import wording
from detector.core.series import Int64, Reason
from detector.export.prometheus import MonitorView
from detector.store import alerts
from detector.store.alerts import AlertRow
from detector.store.models import ModelRow
from detector.web import answers


def moment(at: int | None) -> Any:
    """A time in epoch milliseconds as the answers give it."""
    return None if at is None else datetime.fromtimestamp(at / 1000, UTC)


def states(view: MonitorView) -> tuple[Int64, Any]:
    """Reason (E,) and whether anomalous (E,) of every entity; nothing before the first tick."""
    if view.reason is None or view.score is None or view.states is None:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.bool_)
    is_known = view.reason == Reason.KNOWN
    return view.reason.astype(np.int64), is_known & ((view.score >= 1.0) | view.states.is_open)


def ranked(view: MonitorView, rows: Int64, order: str, is_anomalous: Any) -> Any:
    """Order of some entities: the most remarkable first, unknown ones last."""
    if not len(rows) or order == "entity" or view.score is None or view.reason is None or view.surprise is None:
        return sorted(range(len(rows)), key=lambda n: view.entities[rows[n]])
    value = view.surprise if order == "surprise" else view.score
    ranked = np.where(np.isnan(value[rows]), -np.inf, value[rows])
    if order == "state":
        return np.lexsort((-ranked, np.where(is_anomalous[rows], 0, np.where(view.reason[rows] > 0, 1, 2))))
    return np.argsort(-ranked, kind="stable")


def entity(view: MonitorView, row: int, is_anomalous: bool) -> answers.Entity:
    assert view.reason is not None
    assert view.score is not None
    assert view.surprise is not None
    assert view.states is not None
    reason = Reason(int(view.reason[row]))
    is_known = reason is Reason.KNOWN
    is_silent = view.is_silent is not None and bool(view.is_silent[row])
    is_told = bool(view.states.is_open[row]) and not is_silent
    surprise = float(view.surprise[row])
    return answers.Entity(
        monitor=view.monitor,
        entity=view.entities[row],
        state="unknown" if not is_known else "anomalous" if is_anomalous else "normal",
        reason=None if is_known else reason.label,
        score=round(float(view.score[row]), 4) if is_known else None,
        surprise=round(surprise, 4) if is_known and math.isfinite(surprise) else None,
        has_alert=is_told,
        is_critical=is_told and bool(view.states.is_critical[row]),
    )


def alert(row: AlertRow) -> answers.Alert:
    kind = str(row.explanation.get("part", {}).get("kind", "unusual behaviour"))
    closed = row.episode.closed_slot if row.closed_at is None else row.closed_at
    metrics: Iterable[dict[str, Any]] = row.explanation.get("metrics", [])
    return answers.Alert(
        id=row.id,
        monitor=row.monitor,
        entity=row.entity,
        state=row.state.value,
        severity=row.episode.severity.value,
        is_muted=row.is_muted,
        opened=moment(row.episode.opened_slot),
        detected=moment(row.detected_at),
        closed=moment(closed),
        closed_by=row.closed_by,
        acknowledged=moment(row.acknowledged_at),
        acknowledged_by=row.acknowledged_by,
        peak_score=round(row.episode.peak_score, 4),
        peak=moment(row.episode.peak_slot),
        what=wording.sentence(row.explanation) or f"{kind.replace('_', ' ').capitalize()}.",
        metrics=[str(metric["metric"]) for metric in metrics],
        verdict=row.verdict,
        comment=row.comment,
        incident=row.incident,
        incident_size=row.incident_size,
        model_version=row.model_version,
    )


def incident(row: alerts.IncidentRow) -> answers.Incident:
    worst = Counter(str(metric["metric"]) for one in row.alerts for metric in one.explanation.get("metrics", [])[:1])
    return answers.Incident(
        id=row.id,
        monitor=row.monitor,
        state="open" if row.closed is None else "closed",
        severity="critical" if any(one.episode.severity == "critical" for one in row.alerts) else "warning",
        opened=moment(row.opened),
        closed=moment(row.closed),
        size=row.size,
        alerts=[one.id for one in row.alerts],
        entities=sorted({one.entity for one in row.alerts}),
        metrics=[metric for metric, _ in worst.most_common()],
    )


def model(row: ModelRow) -> answers.Model:
    header = row.header

    def at(name: str) -> Any:
        return moment(header[name]) if isinstance(header.get(name), int) else None

    found = header.get("detectability")
    return answers.Model(
        version=row.version,
        monitor=row.monitor,
        kind=header.get("kind"),
        is_live=row.is_live,
        created=moment(row.created_at),
        trained_from=at("trained_from"),
        trained_until=at("trained_until"),
        entities=header.get("entities"),
        bytes=row.bytes,
        found={kind: shares["all"] for kind, shares in found.items()} if isinstance(found, dict) else {},
    )
