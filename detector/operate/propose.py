"""What the columns and rows of a table say about a monitor of it: pure, from descriptions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np

from detector.core.series import Float64, Int64
from detector.errors import ConfigError
from detector.sources import rows
from detector.wording import printable

Kind = Literal["time", "number", "text", "other"]

_TIMES = (
    "time",
    "timestamp",
    "ts",
    "clock",
    "datetime",
    "measured_at",
    "recorded_at",
    "event_time",
    "date",
    "at",
    "epoch",
)
_ARRIVALS = (
    "inserted_at",
    "ingested_at",
    "received_at",
    "arrived_at",
    "stored_at",
    "created_at",
    "inserted",
    "ingested",
)
_METRICS = (
    *(
        "metric",
        "metric_name",
        "measurement",
        "measure",
        "parameter",
        "variable",
        "field",
        "item",
        "key",
        "key_",
        "name",
    ),
    *("quantity", "sensor_type", "type", "attribute", "channel"),
)
_VALUES = ("value", "val", "reading", "metric_value", "measured_value", "amount", "v", "data", "state")
_ENTITIES = (
    *("entity", "host", "hostname", "host_name", "instance", "node", "server", "machine", "device_id", "device", "pod"),
    *(
        "sensor_id",
        "sensor",
        "service",
        "location",
        "site",
        "station",
        "unit",
        "container",
        "interface",
        "name",
        "source",
    ),
)
_AMBIGUOUS = 0.05  # share of rows with the same time, entity and metric that another column would tell apart
_FREE_TEXT = 0.5  # share of rows that differ in a text that names nothing
_FEW = 30  # rows, of which nothing is known of a share
MOST_METRICS = 20


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    kind: Kind
    has_zone: bool = False  # of a timestamp
    is_key: bool = False  # alone it is the primary key: it numbers the rows


@dataclass(frozen=True)
class Table:
    """A table and some of its rows."""

    name: str  # with its schema, as a monitor names it
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Any]] = ()  # values in the order of the columns

    def of(self, name: str) -> list[Any]:
        """The values of a column."""
        index = [column.name for column in self.columns].index(name)
        return [row[index] for row in self.rows]


@dataclass(frozen=True)
class Roles:
    """What each column is for; `why` says so for each key of the configuration, `left_out` for each other column."""

    time: str
    time_format: str
    entity: tuple[str, ...]
    metrics: tuple[str, ...]  # columns, or names in the column `metric`
    metric: str = ""
    value: str = ""
    query: str = ""
    arrival: str = ""  # column that says when a row was written
    rates: tuple[str, ...] = ()  # that are known to be counters
    time_zone: str = "UTC"
    why: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def may_be_metrics(table: Table) -> bool:
    """Whether the columns alone may be those of metrics: a time and a number beside it."""
    times = [column for column in table.columns if column.kind == "time" or _is_time(column.name)]
    return any(
        (column.kind == "number" or may_be_value(column)) and not column.is_key and column != time
        for time in times
        for column in table.columns
    )


def may_be_value(column: Column) -> bool:
    """Whether a column of text may hold numbers, by its name."""
    return column.kind == "text" and _is_called(column.name, _VALUES)


def roles(table: Table) -> Roles:
    """What each column of a table with rows is for.

    Raises: ConfigError if it has no time, or nothing that can be a metric.
    """
    time, time_format = time_of(table)
    why = {"time": f"the column {_words(time)} holds times ({time_format.replace('_', ' ')})"}
    numbers = [column.name for column in table.columns if column.kind == "number" and column.name != time]
    ids = [name for name in numbers if _is_id(name) or _is_key(table, name)]
    values = [name for name in numbers if name not in ids]
    texts = [column.name for column in table.columns if column.kind == "text" and column.name != time]
    metric, value = _long(table, texts, values)
    at = _milliseconds(table, time, time_format)
    arrival = _arrival(table, time, at)
    others = [name for name in (*texts, *ids) if name not in {metric, arrival} and not _is_key(table, name)]
    entity, told = _entity(table, others, at, metric)
    why["entity"] = told
    left_out = {name: "it tells no more rows apart" for name in others if name not in entity}
    if metric:
        metrics, left_out = _some(names_of(table, metric), left_out)
        why["metric"] = f"a long table: {_words(metric)} names what {_words(value)} is"
        left_out |= {name: f"the value is in {_words(value)}" for name in values if name != value}
    else:
        metrics, left_out = _wide(table, values, left_out)
        why["metrics"] = "a wide table: a column for each metric"
    if not metrics:
        msg = f"table {printable(table.name)} needs a column of numbers that change; received none"
        raise ConfigError(f"{msg}: {_said(left_out)}" if left_out else msg)
    return Roles(
        time, time_format, entity, metrics, metric=metric, value=value, arrival=arrival, why=why, left_out=left_out
    )


def is_writable(name: str) -> bool:
    """Whether a name can stand in a configuration: blanks around it would be cut off, and ${…} be replaced."""
    return bool(name) and name == name.strip() and "${" not in name


# -- time -------------------------------------------------------------------------------------------------------------


def time_of(table: Table) -> tuple[str, str]:
    """The column of times and its format. Raises: ConfigError if there is none."""
    found = []
    for place, column in enumerate(table.columns):
        time_format = _format(column, table.of(column.name))
        if time_format and not column.is_key:
            rank = _place(column.name, _TIMES) - (10 if _is_called(column.name, _ARRIVALS) else 0)
            found.append((rank + (5 if column.kind == "time" else 0), -place, column.name, time_format))
    if not found:
        kinds = ", ".join(f"{printable(column.name)} ({column.kind})" for column in table.columns[:8])
        raise ConfigError(f"table {printable(table.name)} needs a column of times; received {kinds}")
    return max(found)[2:]


def _format(column: Column, values: Sequence[Any]) -> str | None:
    """The format of a column if it can hold times; None if not."""
    known = [value for value in values if value is not None]
    if column.kind == "time" or (column.kind == "text" and known):
        at = rows.to_milliseconds(known, "timestamp", ZoneInfo("UTC"))
        is_good = column.kind == "time" or not any(_is_number(value) for value in known)
        return "timestamp" if is_good and (at != rows.BAD_TIME).mean() > 0.9 else None
    if column.kind != "number" or not known or not all(_is_number(value) for value in known):
        return None
    size = np.median([float(value) for value in known])
    for time_format, factor in (("epoch_seconds", 1.0), ("epoch_milliseconds", 1000.0)):
        # from 2001 to 2100; other numbers of that size do not grow by the second
        if 1e9 * factor <= size < 4.1e9 * factor and _is_time(column.name):
            return time_format
    return None


def _milliseconds(table: Table, time: str, time_format: str) -> Int64:
    return rows.to_milliseconds(table.of(time), time_format, ZoneInfo("UTC"))


def _arrival(table: Table, time: str, at: Int64) -> str:
    """A second column of times that are never before the first, and say when rows were written; "" if there is none."""
    for column in table.columns:
        if column.kind == "time" and column.name != time and _is_called(column.name, _ARRIVALS):
            written = rows.to_milliseconds(table.of(column.name), "timestamp", ZoneInfo("UTC"))
            known = (written != rows.BAD_TIME) & (at != rows.BAD_TIME)
            if known.any() and (written[known] >= at[known] - 1000).all():
                return column.name
    return ""


# -- entity and metrics -----------------------------------------------------------------------------------------------


def _long(table: Table, texts: Sequence[str], values: Sequence[str]) -> tuple[str, str]:
    """The columns with a metric's name and value, ("", "") of a wide table."""
    value = max(values, key=lambda name: _place(name, _VALUES), default="")
    named = [name for name in texts if _is_called(name, _METRICS)]
    if not named or not _is_called(value, _VALUES):
        return "", ""
    return max(named, key=lambda name: _place(name, _METRICS)), value


def _entity(table: Table, others: Sequence[str], at: Int64, metric: str) -> tuple[tuple[str, ...], str]:
    """The columns that name an entity, and why these."""
    usable = [name for name in others if is_writable(name) and not _is_free_text(table, name)]
    usable.sort(key=lambda name: -_place(name, _ENTITIES))
    named = [table.of(metric)] if metric else []
    key = [_buckets(at, [*named, *(table.of(name) for name in usable)]), *named]
    chosen = [name for name in usable[:1] if _is_called(name, _ENTITIES)]
    key += [table.of(name) for name in chosen]
    while (shared := _shared(key)) > _AMBIGUOUS:
        rest = {name: _shared([*key, table.of(name)]) for name in usable if name not in chosen}
        best = min(rest, key=lambda name: rest[name], default="")
        if not best or rest[best] >= shared:
            break
        chosen.append(best)
        key.append(table.of(best))
    if shared > _AMBIGUOUS:
        return tuple(chosen), f"{shared:.0%} of the rows share time and entity with another, and are averaged"
    if not chosen:
        return (), "no column tells rows of about the same time apart: the table is one entity"
    count = len(set(zip(*(table.of(name) for name in chosen), strict=True)))
    tell = "tells" if len(chosen) == 1 else "tell"
    return tuple(
        chosen
    ), f"{' and '.join(map(_words, chosen))} {tell} rows of about the same time apart; {count} so far"


def _buckets(at: Int64, key: Sequence[Sequence[Any]]) -> list[int]:
    """Times in parts of half the distance that rows of the same key usually have: entities need not be in step."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for time, *of in zip(at.tolist(), *key, strict=True):
        groups.setdefault(tuple(of), []).append(time)
    distances = np.concatenate([np.empty(0, np.int64), *(np.diff(np.unique(times)) for times in groups.values())])
    width = max(1, int(np.median(distances)) // 2) if distances.size else 1
    return list((at // width).tolist())


def _shared(key: Sequence[Sequence[Any]]) -> float:
    """Share of rows with the same values as another."""
    rows_of = list(zip(*key, strict=True))
    return 1.0 - len(set(rows_of)) / len(rows_of) if rows_of else 0.0


def _is_free_text(table: Table, name: str) -> bool:
    values = table.of(name)
    if _is_called(name, _ENTITIES) or len(values) < _FEW:
        return False
    return len(set(values)) > _FREE_TEXT * len(values)


def names_of(table: Table, metric: str) -> tuple[str, ...]:
    """Names of metrics, those with the most rows first."""
    counts: dict[str, int] = {}
    for name in map(rows.to_text, table.of(metric)):
        if name is not None:
            counts[name] = counts.get(name, 0) + 1
    return tuple(sorted(counts, key=lambda name: (-counts[name], name)))


def _wide(table: Table, values: Iterable[str], left_out: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The columns that are metrics, and the others with the reason."""
    metrics, others = [], dict(left_out)
    for name in values:
        known = _finite(rows.to_values(table.of(name)))
        if not known.size:
            others[name] = "it has no value"
        else:
            metrics.append(name)
    others |= {column.name: "neither number nor text" for column in table.columns if column.kind == "other"}
    return _some(metrics, others)


def _some(names: Sequence[str], others: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The first names that a configuration can hold, and all others with the reason."""
    usable = [name for name in names if is_writable(name)]
    told = {name: "its name cannot be written into a configuration" for name in names if name not in usable}
    told |= dict.fromkeys(usable[MOST_METRICS:], f"it is beyond the first {MOST_METRICS}")
    return tuple(usable[:MOST_METRICS]), {**others, **told}


def _finite(values: Float64) -> Float64:
    return values[np.isfinite(values)]


def without(found: Roles, metrics: Mapping[str, str]) -> Roles:
    """Roles without some metrics, for the reason that stands beside each."""
    kept = tuple(name for name in found.metrics if name not in metrics)
    return replace(found, metrics=kept, left_out={**found.left_out, **metrics})


# -- names ------------------------------------------------------------------------------------------------------------


def _place(name: str, usual: Sequence[str]) -> float:
    """How usual a name is: more for those that stand earlier, 0 for one that is not there."""
    lower = name.lower()
    return 2.0 - usual.index(lower) / len(usual) if lower in usual else 0.0


def _is_called(name: str, usual: Sequence[str]) -> bool:
    return name.lower() in usual


def _is_time(name: str) -> bool:
    lower = name.lower()
    return lower in _TIMES or "time" in lower or lower.endswith(("_ts", "_at", "_date"))


def _is_id(name: str) -> bool:
    lower = name.lower()
    return lower in {"id", "itemid", "hostid"} or lower.endswith(("_id", "_no", "_number"))


def _is_key(table: Table, name: str) -> bool:
    return any(column.is_key and column.name == name for column in table.columns)


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value)) and not isinstance(value, bool)
    except (TypeError, ValueError, OverflowError):
        return False


def _words(name: str) -> str:
    return printable(name) or "(no name)"


def _said(left_out: Mapping[str, str]) -> str:
    return "; ".join(f"{_words(name)}: {reason}" for name, reason in list(left_out.items())[:8])
