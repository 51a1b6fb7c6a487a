"""Content of a report, from stored rows: plain text, numbers and lists, fit for JSON and the page's template."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np

from detector import wording as words
from detector.config.sections import MonitorSection
from detector.core.series import Float64
from detector.detect import exclusions
from detector.detect.packed import unpack
from detector.ports import Exclusion
from detector.times import WEEK_MS

if TYPE_CHECKING:
    from detector.store.alerts import AlertRow

_POINTS = 2000  # of a score plot; in a longer alert each point is the highest score of several slots
_MOST_SLOTS = 50_000  # of a score plot; of a longer alert the newest
_RANKED = 20  # entities
_TOP_SHARE = 0.01  # smallest share of the score that a top metric may have
SHOWN = 500
"""Alerts shown one by one, the newest first; of a period with more, the others are only counted."""

_EFFECTS = {"mute": "muted", "mask": "kept out of training", "both": "muted and kept out of training"}


@dataclass(frozen=True)
class Rows:
    """Stored rows of one monitor for a report. Times in epoch milliseconds."""

    monitor: MonitorSection
    alerts: Sequence[AlertRow]  # newest first
    scores: Mapping[int, Float64]  # of each alert's entity at its `plotted` slots, by the alert's id
    exclusions: Sequence[Exclusion]
    first: int  # start of what the report covers
    until: int  # end of what is scored


def plotted(monitor: MonitorSection, alert: AlertRow, until: int) -> range:
    """The slots whose scores are plotted with an alert: its own, and some before and after."""
    step = monitor.step_ms
    end = _end(alert, until)
    context = max(monitor.timesteps * step, (end - alert.episode.opened_slot) // 4 // step * step)
    last = min(end + context, max(until, end)) + step
    return range(max(alert.episode.opened_slot - context, last - _MOST_SLOTS * step), last, step)


def _end(alert: AlertRow, until: int) -> int:
    return max(until if alert.episode.closed_slot is None else alert.episode.closed_slot, alert.episode.peak_slot)


def build(rows: Sequence[Rows], *, now: int, zone: str = "UTC", is_whole: bool = True) -> dict[str, Any]:
    """The content of a report; without an overview if it is not of a whole period.

    now: epoch milliseconds
    zone: of all its times and days
    """
    clock = Clock(zone, has_seconds=any(of.monitor.step_ms % 60_000 for of in rows))
    newest = sorted(
        (alert for of in rows for alert in of.alerts),
        key=lambda alert: (alert.episode.opened_slot, alert.id),
        reverse=True,
    )
    by_name = {of.monitor.name: of for of in rows}
    incidents: dict[int, list[int]] = {}
    for alert in newest[:SHOWN]:
        if alert.incident is not None:
            incidents.setdefault(alert.incident, []).append(alert.id)
    return {
        "title": "Anomaly report" if is_whole else f"Alert {newest[0].id}",
        "monitors": [of.monitor.name for of in rows],
        "zone": zone,
        "made": clock.time(now),
        "overview": _overview(rows, newest, clock) if is_whole else None,
        "untold": max(0, len(newest) - SHOWN),
        "alerts": [_alert(by_name[alert.monitor], alert, clock, incidents=incidents) for alert in newest[:SHOWN]],
    }


class Clock:
    """Times as a zone's clocks show them."""

    def __init__(self, zone: str, *, has_seconds: bool) -> None:
        """has_seconds: whether times are shown to the second"""
        self._zone = ZoneInfo(zone)
        self._format = "%Y-%m-%d %H:%M:%S" if has_seconds else "%Y-%m-%d %H:%M"

    def local(self, milliseconds: int) -> datetime:
        """The time on the zone's clocks."""
        return datetime.fromtimestamp(milliseconds / 1000, UTC).astimezone(self._zone)

    def time(self, milliseconds: int) -> str:
        """The same in words."""
        return self.local(milliseconds).strftime(self._format)

    def span(self, start: int, end: int) -> str:
        """From … to …, with the date once if both are of the same day."""
        begun, ended = self.time(start), self.time(end)
        return f"{begun} to {ended[11:] if begun[:10] == ended[:10] else ended}"


# -- overview ---------------------------------------------------------------------------------------------------------


def _counts(alert: AlertRow) -> bool:
    return not alert.is_muted and alert.state != "withdrawn"


def _overview(rows: Sequence[Rows], alerts: Sequence[AlertRow], clock: Clock) -> dict[str, Any]:
    first, until = min(of.first for of in rows), max(of.until for of in rows)
    within = [alert for alert in alerts if alert.episode.opened_slot >= first]
    return {
        "span": clock.span(first, until),
        "earlier": len(alerts) - len(within),
        "budgets": [_budget(of) for of in rows],
        "days": _days([alert for alert in within if _counts(alert)], clock, first=first, until=until),
        "entities": _ranking([alert for alert in within if _counts(alert)]),
    }


def _budget(of: Rows) -> dict[str, Any]:
    """Alerts of one monitor that opened in the period, against its budget of false ones.

    Less than a week says nothing of a week's rate, but may have used up more than a week's budget.
    """
    opened = [alert for alert in of.alerts if alert.episode.opened_slot >= of.first]
    counted = [alert for alert in opened if _counts(alert)]
    verdicts = Counter(alert.verdict for alert in counted)
    weeks = max(of.until - of.first, of.monitor.step_ms) / WEEK_MS
    budget, observed = of.monitor.threshold.alert_budget_per_week, len(counted) - verdicts["real"]
    return {
        "monitor": of.monitor.name,
        "watched": words.duration(of.until - of.first),
        "alerts": len(counted),
        "observed": words.number(observed / weeks) if weeks >= 1.0 else "–",
        "budget": words.number(budget),
        "is_over": observed > budget * max(weeks, 1.0),
        "muted": sum(alert.is_muted and alert.state != "withdrawn" for alert in opened),
        "withdrawn": sum(alert.state == "withdrawn" for alert in opened),
        **{
            name: f"{verdicts[verdict]} ({verdicts[verdict] / len(counted):.0%})" if counted else "0"
            for name, verdict in (("real", "real"), ("false", "false"), ("unjudged", None))
        },
    }


def _days(alerts: Sequence[AlertRow], clock: Clock, *, first: int, until: int) -> dict[str, Any]:
    """Alerts on every day of the period: `total`, and `critical` among them."""
    begin, end = clock.local(first).date(), clock.local(max(until - 1, first)).date()
    days = [str(begin + timedelta(days=n)) for n in range((end - begin).days + 1)]
    total = Counter(str(clock.local(alert.episode.opened_slot).date()) for alert in alerts)
    critical = Counter(
        str(clock.local(a.episode.opened_slot).date()) for a in alerts if a.episode.severity == "critical"
    )
    return {"days": days, "total": [total[day] for day in days], "critical": [critical[day] for day in days]}


def _ranking(alerts: Sequence[AlertRow]) -> dict[str, Any]:
    """Entities with the most alerts."""
    of: dict[tuple[str, str], list[AlertRow]] = {}
    for alert in alerts:
        of.setdefault((alert.monitor, alert.entity), []).append(alert)
    order = sorted(of.items(), key=lambda item: (-len(item[1]), -max(a.episode.peak_score for a in item[1]), item[0]))
    rows = [
        {
            "monitor": monitor,
            "entity": entity,
            "alerts": len(mine),
            "critical": sum(alert.episode.severity == "critical" for alert in mine),
            "peak": words.number(max(alert.episode.peak_score for alert in mine)),
        }
        for (monitor, entity), mine in order[:_RANKED]
    ]
    return {"rows": rows, "others": len(order) - len(rows)}


# -- one alert --------------------------------------------------------------------------------------------------------


def _alert(of: Rows, alert: AlertRow, clock: Clock, *, incidents: Mapping[int, list[int]]) -> dict[str, Any]:
    """One alert as the page shows it. incidents: alerts by incident"""
    metrics = alert.explanation.get("metrics", [])
    slots = plotted(of.monitor, alert, of.until)
    excluded = [
        (exclusion, start, end)
        for exclusion in of.exclusions
        if exclusions.concerns(exclusion, alert.entity)
        for start, end in exclusions.ranges(exclusion, slots.start, slots.stop)
    ]
    peers = [] if alert.incident is None else [peer for peer in incidents[alert.incident] if peer != alert.id]
    return {
        "id": alert.id,
        "monitor": alert.monitor,
        "entity": alert.entity,
        "severity": alert.episode.severity,
        "state": f"{alert.state}, muted" if alert.is_muted else alert.state,
        "is_counted": _counts(alert),
        "opened": clock.time(alert.episode.opened_slot),
        "lasted": _lasted(alert),
        "peak": words.number(alert.episode.peak_score),
        "top": [metric["metric"] for metric in _top(alert)],
        "verdict": alert.verdict,
        "sentence": _sentence(alert, clock),
        "facts": list(_facts(of, alert, clock)) + [_excluded(*which, clock=clock) for which in excluded],
        "peers": peers,
        "metrics": [metric_words(metric) for metric in metrics],
        "plots": _plots(of, alert, slots=slots, excluded=excluded),
    }


def _sentence(alert: AlertRow, clock: Clock) -> str:
    """The alert in a sentence: kind and metrics, time, peak."""
    kind = str(alert.explanation.get("part", {}).get("kind", "unusual behaviour"))
    what = words.sentence(alert.explanation) or f"{kind.replace('_', ' ').capitalize()}."
    if alert.episode.closed_slot is None:
        when = f"Since {clock.time(alert.episode.opened_slot)}"
    else:
        lasted = words.duration(alert.episode.closed_slot - alert.episode.opened_slot)
        when = f"From {clock.span(alert.episode.opened_slot, alert.episode.closed_slot)} ({lasted})"
    highest = words.number(alert.episode.peak_score)
    peak = f"peak score {highest} at {clock.time(alert.episode.peak_slot)}, where 1 is the threshold"
    return f"{what} {when}; {peak}."


def _lasted(alert: AlertRow) -> str:
    if alert.episode.closed_slot is not None:
        return words.duration(alert.episode.closed_slot - alert.episode.opened_slot)
    return "still open" if alert.closed_at is None else "goes on"


def _top(alert: AlertRow) -> list[dict[str, Any]]:
    """The metrics with the largest shares, at most three."""
    metrics: list[dict[str, Any]] = alert.explanation.get("metrics", [])[:3]
    return [metric for metric in metrics if metric["share"] >= _TOP_SHARE] or metrics[:1]


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= _TOP_SHARE else "<1%"


def _facts(of: Rows, alert: AlertRow, clock: Clock) -> Iterable[tuple[str, str]]:
    flapping = alert.episode.reopenings >= of.monitor.decision.flapping_reopenings
    yield "Monitor", alert.monitor
    yield "Detected", clock.time(alert.detected_at)
    if alert.incident is not None and alert.incident_size > 1:
        yield "Incident", f"{alert.incident}, one of {alert.incident_size} alerts that opened together"
    if alert.acknowledged_at is not None:
        yield "Acknowledged", f"by {alert.acknowledged_by or 'somebody'}, {clock.time(alert.acknowledged_at)}"
    if alert.closed_at is not None:
        on = (
            "" if alert.episode.closed_slot is not None else "; its episode goes on, and opens no other alert meanwhile"
        )
        yield "Closed", f"by {alert.closed_by or 'somebody'}, {clock.time(alert.closed_at)}{on}"
    elif alert.episode.closed_slot is not None:
        yield "Closed", words.ENDED.get(alert.closed_by or "", "by itself")
    if alert.episode.reopenings:
        times = "once" if alert.episode.reopenings == 1 else f"{alert.episode.reopenings} times"
        yield "Reopened", f"{times}{', flapping' if flapping else ''}"
    if alert.verdict:
        yield "Verdict", alert.verdict
    if alert.comment:
        yield "Comment", alert.comment
    yield "Model version", str(alert.model_version)


def _excluded(exclusion: Exclusion, start: int, end: int, *, clock: Clock) -> tuple[str, str]:
    until = f"since {clock.time(start)}" if exclusion.end is None else clock.span(start, end)
    about = f" ({exclusion.metric})" if exclusion.metric else ""
    return (
        "Excluded",
        f"{until}: {_EFFECTS[exclusion.effect]}{about}{f', {exclusion.comment}' if exclusion.comment else ''}",
    )


def metric_words(metric: Mapping[str, Any]) -> dict[str, str]:
    """A metric of an explanation as tables show it."""
    name = metric["metric"]

    def text(*values: float | None) -> str:
        known = [value for value in values if value is not None]
        is_rate = bool(metric.get("is_rate"))
        return words.quantity(name, *known, is_rate=is_rate) if len(known) == len(values) else "–"

    return {
        "metric": name,
        "share": "–" if metric["share"] is None else _share(metric["share"]),
        "observed": text(metric.get("observed")),
        "expected": text(metric.get("expected")),
        "usual": text(metric.get("low"), metric.get("high")),
    }


def _plots(
    of: Rows, alert: AlertRow, *, slots: range, excluded: Sequence[tuple[Exclusion, int, int]]
) -> dict[str, Any] | None:
    """Lines to draw, None if nothing is stored; missing values are None."""
    window = alert.explanation.get("window")
    score = of.scores.get(alert.id, np.full(len(slots), np.nan))
    metrics = [] if window is None else metric_lines(window)
    if window is not None:
        score = _filled(slots, score, window)
    if not metrics and np.isnan(score).all():
        return None
    return {
        "alerts": [[alert.episode.opened_slot, _end(alert, of.until)]],
        "excluded": [[start, end] for _, start, end in excluded],
        "score": {
            "start": slots.start,
            "step": slots.step * math.ceil(len(slots) / _POINTS),
            "values": plain(thinned(score, math.ceil(len(slots) / _POINTS))),
        },
        "metrics": metrics,
    }


def newest_slot(window: Mapping[str, Any]) -> int:
    """The last slot of a stored window, epoch milliseconds."""
    slots = len(unpack(window["values"], len(window["metrics"])))
    return int(window["start"] + window["step"] * (slots - 1))


def metric_lines(window: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Observed and expected values, and the band around them, of the metrics named in a stored window."""
    observed = unpack(window["values"], len(window["metrics"]))
    expected, band = (unpack(window[name], len(window["named"])) for name in ("expected", "band"))
    least = [-math.inf if edge is None else edge for edge in window.get("least") or [None] * len(window["named"])]
    return [
        {
            "metric": name,
            "start": window["start"],
            "step": window["step"],
            "observed": plain(observed[:, window["metrics"].index(name)]),
            "expected": plain(np.maximum(expected[:, k], least[k])),
            "low": plain(np.maximum(expected[:, k] - band[:, k], least[k])),
            "high": plain(np.maximum(expected[:, k] + band[:, k], least[k])),
        }
        for k, name in enumerate(window["named"])
    ]


def _filled(slots: range, score: Float64, window: Mapping[str, Any]) -> Float64:
    """Scores (K,) at slots; those that are not stored are taken from the alert's own window."""
    known = dict(
        zip(range(window["start"], slots.stop, window["step"]), unpack(window["scores"]).tolist(), strict=False)
    )
    own = np.array([known.get(slot, np.nan) for slot in slots], dtype=np.float64)
    return np.where(np.isnan(score), own, score)


def thinned(score: Float64, size: int) -> Float64:
    """The highest of every `size` scores."""
    padded = np.pad(score, (0, -len(score) % size), constant_values=np.nan).reshape(-1, size)
    highest: Float64 = np.fmax.reduce(padded, axis=1)
    return highest


def plain(values: Iterable[float]) -> list[float | None]:
    """Numbers fit for JSON, short; None for those that are not finite."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
