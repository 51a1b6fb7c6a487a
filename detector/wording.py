"""A stored explanation in words, for people who read of an alert."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

TEST = "TEST of detector: notifications arrive here. Nothing is wrong."
"""The text of a message that is sent to see whether it arrives."""

ENDED = {
    "normal": "scores were normal again",
    "unknown": "the entity was unknown for too long",
    "gone": "the entity is gone: it had no row for too long",
}
"""Why an alert closed by itself, by what is stored."""

MOST = 3
"""Metrics that a sentence names."""

_KINDS = {
    "network": "Unexpected over {slots} slots",
    "shape": "Unusual movement over {slots} slots",
    "far": "Far from usual over {slots} slots",
    "metric": "One metric far from usual for {slots} slots",
    "pool": "One metric far from usual for {slots} slots, of several entities at once",
    "record": "Beyond everything seen for {slots} slots",
    "precedent": "Like {precedent}, which was real",
    "missed": "No {move} at {time} UTC as on every day before",
    # of alerts that earlier versions raised
    "spike": "Spike",
    "drift": "Drift over the last {slots} slots",
    "range": "Outside its valid range",
    "frozen": "Frozen",
    "no_data": "No data for {slots} slots",
}
_BREAKS = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029"  # blanks that break a line or a column
_ENDS = (("_ms", " ms"), ("_milliseconds", " ms"), ("_seconds", " s"))
_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000))
_PREFIXES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def sentence(explanation: Mapping[str, Any]) -> str:
    """An alert's kind and metrics in one sentence; "" if neither is known.

    explanation: as stored with an alert
    """
    metrics = explanation.get("metrics") or []
    part = explanation.get("part") or {}
    kind = str(part.get("kind", ""))
    begin = _KINDS.get(kind, kind.replace("_", " ").capitalize() or "Unusual").format(
        slots=part.get("slots"), move=part.get("move"), time=_time_of_day(part), precedent=_precedent(part)
    )
    begin = re.sub(r"\b1 slots\b", "1 slot", begin)
    if not metrics:
        return f"{begin}." if kind == "no_data" else ""
    more = f"; and {len(metrics) - MOST} more" if len(metrics) > MOST else ""
    return f"{begin}: {'; '.join(metric_line(metric) for metric in metrics[:MOST])}{more}."


def _precedent(part: Mapping[str, Any]) -> str:
    return f"alert {part['alert']}" if part.get("alert") else "an alert before it"


def _time_of_day(part: Mapping[str, Any]) -> str:
    """From when to when a job is expected, "" of other kinds."""
    minutes = [part[name] // 60_000 for name in ("start", "end") if name in part]
    return "–".join(f"{minute // 60 % 24:02}:{minute % 60:02}" for minute in minutes)


def metric_line(metric: Mapping[str, Any]) -> str:
    """One metric of an explanation: observed value, expected range, share of the score."""
    observed, low, high = (metric.get(name) for name in ("observed", "low", "high"))
    name, is_rate = str(metric["metric"]), bool(metric.get("is_rate"))
    words = [f"{name} {'missing' if observed is None else quantity(name, observed, is_rate=is_rate)}"]
    if low is not None and high is not None:
        words.append(f"expected {quantity(name, low, high, is_rate=is_rate)}")
    if metric.get("share") is not None:
        share = metric["share"]
        words.append(f"{f'{share * 100:.0f}' if share >= 0.01 or share == 0 else '<1'} % of the score")
    return ", ".join(words)


def quantity(metric: str, *values: float, is_rate: bool = False) -> str:
    """A value, or a range, in the unit that the metric's name implies: bytes, percent, time, bytes per second.

    is_rate: whether it is the rate of a counter of that name
    """
    size, unit = 1.0, " %" if "percent" in metric else next((u for end, u in _ENDS if metric.endswith(end)), "")
    if "bytes" in metric:
        most = max(map(abs, values))
        size, unit = next(((size, f" {unit}") for size, unit in _PREFIXES if most >= size), (1.0, " B"))
        unit += "/s" if "per_second" in metric else ""
    unit += "/s" if is_rate else ""
    return span(values[0] / size, values[-1] / size) + unit


def span(low: float, high: float) -> str:
    """A range; one number if both ends look the same."""
    first, last = number(low), number(high)
    if first == last:
        return first
    return f"{first} to {last}" if "-" in first + last else f"{first}–{last}"


def number(value: float) -> str:
    """Three significant digits, with thousands apart; powers of ten only for very large and very small numbers."""
    size = abs(value)
    if size != 0 and not 1e-4 <= size < 1e12:
        return f"{value:.2e}"
    digits = f"{value:.3g}"
    return f"{float(digits):,.0f}".replace(",", "\u202f") if size >= 999.5 else digits


def duration(milliseconds: int) -> str:
    """A duration in its two largest units."""
    parts = []
    for unit, size in _UNITS:
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count} {unit}")
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"


def printable(text: str, *, keep: str = "") -> str:
    """Text without control characters, which would move the cursor or colour the terminal: they are escaped.

    keep: control characters that stay
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep or _is_blank(c) else _escaped(c) for c in text)


def _is_blank(character: str) -> bool:
    return character.isspace() and character not in _BREAKS  # as the thin one between thousands


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def finite(value: object) -> Any:
    """A value of dicts, lists and numbers, fit for strict JSON: None for a number that is not finite."""
    if isinstance(value, Mapping):
        return {str(name): finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def amount(count: int, noun: str, plural: str = "") -> str:
    """A number of things: 1 entity, 2 entities. plural: where it is not made of the noun like this"""
    plural = plural or (noun[:-1] + "ies" if noun.endswith("y") else noun + "s")
    return f"{count:,} {noun if count == 1 else plural}"
