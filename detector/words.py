"""A stored explanation as a sentence, for people who are told of an alert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST = 3  # metrics a sentence names
_KINDS = {"spike": "Spike", "drift": "Drift over the last {slots} slots", "range": "Outside its valid range"}


def sentence(explanation: Mapping[str, Any]) -> str:
    """What was unusual, in a sentence; "" if nothing is known of it.

    explanation: as stored with an alert
    """
    metrics = explanation.get("metrics") or []
    if not metrics:
        return ""
    part = explanation.get("part") or {}
    kind = str(part.get("kind", ""))
    begin = _KINDS.get(kind, kind.replace("_", " ").capitalize() or "Unusual").format(slots=part.get("slots"))
    more = f"; and {len(metrics) - _MOST} more" if len(metrics) > _MOST else ""
    return f"{begin}: {'; '.join(metric_line(metric) for metric in metrics[:_MOST])}{more}."


def metric_line(metric: Mapping[str, Any]) -> str:
    """One metric of an explanation: what it was, what was expected, how much of the score it explains."""
    observed, low, high = (metric.get(name) for name in ("observed", "low", "high"))
    words = [f"{metric['metric']} {'missing' if observed is None else number(observed)}"]
    if low is not None and high is not None:
        words.append(f"expected {span(low, high)}")
    if metric.get("share") is not None:
        words.append(f"{metric['share'] * 100:.0f} % of the score")
    return ", ".join(words)


def span(low: float, high: float) -> str:
    """A range; one number where both ends look alike."""
    first, last = number(low), number(high)
    if first == last:
        return first
    return f"{first} to {last}" if "-" in first + last else f"{first}–{last}"


def number(value: float) -> str:
    """Three significant digits, thousands apart; powers of ten only where zeros would fill the line."""
    size = abs(value)
    if size != 0 and not 1e-4 <= size < 1e12:
        return f"{value:.2e}"
    digits = f"{value:.3g}"
    return f"{float(digits):,.0f}".replace(",", "\u202f") if size >= 999.5 else digits
