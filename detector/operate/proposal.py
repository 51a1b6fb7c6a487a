"""A monitor as it is proposed: its settings, each with the reason, from what its samples say. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from detector.core import rates
from detector.core.series import Int64, Samples
from detector.detect import pace
from detector.errors import ConfigError
from detector.operate.propose import Roles, is_writable
from detector.times import DAY_MS, utc
from detector.wording import printable

_COMMENT = 38  # column of comments
_LONGEST_LINE = 80  # that has its comment beside it
_USUAL_STEP = 60_000  # milliseconds; rows that come faster are averaged
_FASTEST = 30_000  # distance of rows that makes a step of its own
_DELAY, _LATENESS = 10_000, 300_000
_CONSTANT = 30  # values, all the same, of a metric that says nothing
_BEHIND = 3  # usual distances that rows may come late
_SAME_ZONE = 3  # usual distances that a newest row may be old


@dataclass(frozen=True)
class Seen:
    """What was looked at; times in epoch milliseconds."""

    samples: Samples  # of the newest rows, with the metrics in the order of the roles
    spread: Samples  # of many moments, where those are too close together to see what moves; else the same
    oldest: int
    newest: int
    now: int
    lags: Int64 = field(default_factory=lambda: np.empty(0, np.int64))  # (N,) between a row's time and its arrival
    local: tuple[str, int] = ("UTC", 0)  # this machine's zone, and what its clocks are ahead
    has_zone: bool = True  # whether times say their zone


@dataclass(frozen=True)
class Proposal:
    """One monitor; `why` has a comment for each key that needs one."""

    name: str
    settings: Mapping[str, Any]
    source: Mapping[str, Any]
    queries: Mapping[str, str] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()  # sentences about all of it

    def changed(self, **settings: Any) -> Proposal:
        """The same with some settings as somebody wants them; of metrics some of those proposed."""
        metrics = settings.get("metrics", self.settings["metrics"])
        kept = [name for name in self.settings["rates"] if name in metrics]
        queries = {name: query for name, query in self.queries.items() if name in metrics}
        why = {key: text for key, text in self.why.items() if key not in settings}
        return replace(self, settings={**self.settings, **settings, "rates": kept}, queries=queries, why=why)


def monitor_name(wanted: str) -> str:
    """A name that a monitor may have."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", wanted).strip("_.-")[:64] or "metrics"


def proposed(
    name: str, found: Roles, seen: Seen, connection: Mapping[str, Any], *, wanted: Sequence[str] = ()
) -> Proposal:
    """The monitor of a table or a query.

    connection: how its source is reached; wanted: metrics that stay, whatever they are like

    Raises: ConfigError if none of its metrics changes.
    """
    dull = [metric for metric in _constant(found, seen.spread) if metric not in wanted]
    metrics = tuple(metric for metric in found.metrics if metric not in dull)
    if not metrics:
        msg = f"{name}: none of its metrics changes in its newest rows ({', '.join(map(printable, found.metrics[:8]))})"
        raise ConfigError(msg)
    why = dict(found.why)
    step, why["step"] = _step(seen.samples)
    delay, lateness, why["delay"], why["lateness"] = _arrival(seen)
    zone, told = _zone(found, seen)
    why |= {"time_zone": told} if told else {}
    counters = [metric for metric in found.rates or _counters(found, seen.spread) if metric in metrics]
    why["rates"] = "they only grow: watched as increase per second"
    settings = {"step": step, "delay": delay, "lateness": lateness, "metrics": list(metrics), "rates": counters}
    source = dict(connection)
    source |= {"query": found.query} if found.query else {}
    source |= {"entity": list(found.entity), "time": found.time, "time_format": found.time_format}
    source |= {"time_zone": zone} if found.time_format == "timestamp" and not seen.has_zone else {}
    source |= {"metric": found.metric, "value": found.value} if found.metric else {}
    left = {**found.left_out, **dict.fromkeys(dull, "it does not change")}
    notes = [_history(seen), *(f"left out {_listed(names)}: {reason}" for reason, names in _by_reason(left).items())]
    return Proposal(monitor_name(name), settings, source, why=why, notes=notes)


# -- what samples say -------------------------------------------------------------------------------------------------


def _constant(found: Roles, samples: Samples) -> tuple[str, ...]:
    """Metrics of which all values are the same in each series, and there are enough to say so."""
    dull = []
    for index, name in enumerate(found.metrics):
        mine = (samples.metric == index) & np.isfinite(samples.value)
        entity, value = samples.entity[mine], samples.value[mine]
        order = np.argsort(entity, kind="stable")
        moves = (np.diff(value[order]) != 0) & (np.diff(entity[order]) == 0)
        if len(value) >= _CONSTANT and not moves.any():
            dull.append(name)
    return tuple(dull)


def _counters(found: Roles, samples: Samples) -> list[str]:
    return [found.metrics[index] for index in rates.like_counters(samples, len(found.metrics))]


def _step(samples: Samples) -> tuple[str, str]:
    usual = pace.usual_distance(samples)
    if usual is None:
        return pace.written(_USUAL_STEP), "not known from so few rows: this is the default"
    comes = f"rows of an entity come every {usual / 1000:.3g} s"
    if usual >= _FASTEST:
        return pace.written(usual), comes
    return pace.written(_USUAL_STEP), f"{comes}: about {_USUAL_STEP / usual:.0f} are averaged"


def _arrival(seen: Seen) -> tuple[str, str, str, str]:
    """Delay and lateness, and why."""
    if seen.lags.size:
        usual, worst = (float(np.quantile(seen.lags, share)) for share in (0.95, 1.0))
        delay = max(_DELAY // 2, math.ceil(usual / 5000) * 5000)
        lateness = max(_LATENESS, math.ceil(2 * worst / 60_000) * 60_000)
        told = f"of 20 rows 19 arrive within {usual / 1000:.0f} s"
        return pace.written(delay), pace.written(lateness), told, f"the latest came {worst / 1000:.0f} s late"
    usual_step = pace.usual_distance(seen.samples) or _USUAL_STEP
    age = seen.newest - seen.now
    behind = -age - usual_step
    if _DELAY < behind < _BEHIND * usual_step:  # else it has stopped
        delay = math.ceil(behind / 5000) * 5000
        return pace.written(delay), "5m", f"the newest row was {-age / 1000:.0f} s old when looked at", ""
    return pace.written(_DELAY), pace.written(_LATENESS), "how late rows arrive is not known: the defaults", ""


def _zone(found: Roles, seen: Seen) -> tuple[str, str]:
    """The zone of times that have none, and why."""
    if found.time_format != "timestamp" or seen.has_zone:
        return "UTC", ""
    name, ahead = seen.local
    tolerance = _SAME_ZONE * (pace.usual_distance(seen.samples) or _USUAL_STEP) + 60_000
    if ahead and 0 <= seen.now + ahead - seen.newest <= tolerance:
        return name, "its newest row has the time of this machine's clock"
    if 0 <= seen.now - seen.newest <= tolerance:
        return "UTC", "its newest row is of just now, in UTC"
    if seen.newest > seen.now + tolerance:
        return "UTC", f"unclear: the newest row is of {utc(seen.newest)}, which is still to come; write its zone"
    return "UTC", "not known: no row is new; write the zone if its times are local"


def _history(seen: Seen) -> str:
    days = (seen.newest - seen.oldest) / DAY_MS
    length = f"{days:.1f} days" if days >= 1 else f"{24 * days:.1f} hours"
    knows = (
        "the hours of the day and the days of the week" if days >= 21 else "the hours of the day" if days >= 3 else ""
    )
    age = (seen.now - seen.newest) / 1000
    old = "" if age < 3600 else f"; the newest row is {age / 3600:.0f} hours old"
    learns = (
        f"enough to learn {knows}" if knows else "hours of the day are learned from three days on, weekdays from 21"
    )
    return f"{length} of history, {len(seen.samples.entities)} entities in the newest rows; {learns}{old}"


def _by_reason(left: Mapping[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, reason in left.items():
        reasons.setdefault(reason, []).append(name)
    return reasons


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(printable(name) for name in names[:6]) + more


# -- as TOML ----------------------------------------------------------------------------------------------------------


def written(proposal: Proposal) -> str:
    """The monitor as text for a configuration, every value with its reason."""
    lines = ["[[monitors]]", *(f"# {printable(note)}" for note in proposal.notes)]
    values = {"name": proposal.name, **proposal.settings}
    lines += [_line(key, value, proposal.why.get(key, "")) for key, value in values.items() if value != []]
    lines += ["", "[monitors.source]"]
    lines += [_line(key, value, proposal.why.get(key, "")) for key, value in proposal.source.items() if value != ""]
    if proposal.queries:
        lines += ["", "[monitors.source.queries]"]
        lines += [_line(_key(name), query, "") for name, query in proposal.queries.items()]
    return "\n".join(lines) + "\n"


def _line(key: str, value: Any, comment: str) -> str:
    text = f"{key} = {toml(value)}"
    if not comment:
        return text
    if len(text) > _LONGEST_LINE:
        return f"# {printable(comment)}:\n{text}"
    return f"{text:<{_COMMENT - 1}} # {printable(comment)}"


def toml(value: Any) -> str:
    """A value as TOML has it: text between the quotes that need the fewest escapes."""
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str) and '"' in value and "'" not in value and value.isprintable():
        return f"'{value}'"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml(name)


def refuse_unwritable(names: Sequence[str]) -> None:
    """Raises: ConfigError if a configuration cannot hold a name."""
    for name in names:
        if not is_writable(name):
            msg = f"a name must not be empty, begin or end with a blank, or hold ${{ . Received: {name!r}"
            raise ConfigError(msg)
