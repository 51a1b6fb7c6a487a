"""Metrics of a Prometheus that somebody wants to watch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from detector.config import promql
from detector.config.sections import PrometheusSource as PrometheusSection
from detector.detect import pace
from detector.errors import ConfigError
from detector.operate import presets
from detector.operate.proposal import Proposal, Seen, proposed
from detector.operate.propose import Roles
from detector.sources import prometheus_api
from detector.sources.prometheus import PrometheusSource, QuerySpec
from detector.sources.prometheus_api import Api
from detector.wording import printable

_SLOTS = 120  # looked at
_SCRAPES = 4  # in the range of a rate: two may fail
_SUMMED = ("_count", "_sum")  # of a histogram or summary, which has both
_MOMENTS = 300  # seconds in which scrapes are counted
_SHORTEST = 60_000  # step, milliseconds
_NAMED = 8


def proposal(
    section: PrometheusSection, *, wanted: Sequence[str], entity: str, now: int, connection: Mapping[str, Any]
) -> Proposal:
    """The monitor of a Prometheus: of some metrics by name, or of its machines by what a node_exporter tells.

    entity: the label that names an entity; connection: how the source is reached, as the configuration has it

    Raises: ConfigError if there is no such metric, or no node_exporter and none is wanted; SourceError.
    """
    api = prometheus_api.of(section, "init")
    names = api.names()
    _refuse_unknown(wanted, names)
    known = next(iter(wanted), "") or next((one for one, _ in presets.NODE_EXPORTER.values() if one in names), "")
    if not known:
        has = ", ".join(names[:_NAMED]) or "none"
        msg = f"{api.shown} has no metrics of a node_exporter; name some with --metric. It has {len(names)}: {has}, …"
        raise ConfigError(printable(msg))
    if not wanted and entity != "instance":
        msg = f"--entity needs --metric: what is known of a node_exporter is by instance. Received: --entity {entity!r}"
        raise ConfigError(printable(msg))
    interval = _interval(api, known, now)
    step = max(_SHORTEST, interval)
    span = pace.written(max(2 * _SHORTEST, _SCRAPES * interval))
    queries = {name: _query(api, name, entity, span, now, names=names) for name in wanted} or presets.node_exporter(
        names, span
    )
    source = PrometheusSource(
        api,
        QuerySpec(
            metrics=tuple(queries),
            queries=tuple(map(promql.parsed, queries.values())),
            aggregates=("mean",) * len(queries),
            entity=(entity,),
            step=step,
        ),
    )
    extent = source.extent(now)
    if extent is None:
        raise ConfigError(f"{api.shown} must have values of {', '.join(queries)}; received none of the last 400 days")
    oldest, newest = extent
    samples = source.read(newest + 1 - _SLOTS * step, newest + 1)
    there = set(samples.metric[np.isfinite(samples.value)].tolist())
    without = [name for index, name in enumerate(queries) if index not in there]
    why = {"entity": f"the label {entity}", "metrics": "of a node_exporter" if not wanted else ""}
    roles = Roles("", "", (entity,), tuple(queries), why=why, left_out=dict.fromkeys(without, "it has no value"))
    seen = Seen(samples, samples, oldest, newest, now)
    found = proposed("nodes" if not wanted else "prometheus", roles, seen, {}, wanted=wanted)
    kept = [name for name in found.settings["metrics"] if name not in without]
    told = {**found.why, "step": f"series are scraped every {interval / 1000:g} s", "delay": "", "lateness": ""}
    return replace(
        found,
        settings={**found.settings, "metrics": kept, "step": pace.written(step), "rates": []},
        source={**connection, "entity": [entity]},
        queries={name: queries[name] for name in kept if queries[name] != name},
        why=told,
    )


def _refuse_unknown(wanted: Sequence[str], names: Sequence[str]) -> None:
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f"; perhaps {near[0]!r}" if near else ""
            raise ConfigError(printable(f"--metric must be a metric that there is. Received: {name!r}{hint}"))


def _interval(api: Api, name: str, now: int) -> int:
    """Time between two scrapes of a metric in the last minutes, milliseconds; a minute if it has hardly any."""
    count = _now(api, f"max(count_over_time({name}[{_MOMENTS}s]))", now)
    return max(1, round(_MOMENTS / count)) * 1000 if count > 1 else _SHORTEST


def _query(api: Api, name: str, entity: str, span: str, now: int, *, names: Sequence[str]) -> str:
    """One series for each entity, of a metric by its name."""
    stem = name.rpartition("_")[0]
    is_of_histogram = name.endswith(_SUMMED) and all(stem + end in names for end in _SUMMED)
    if name.endswith("_total") or is_of_histogram:
        return f"sum by ({entity}) (rate({name}[{span}]))"
    many = _now(api, f"max(count by ({entity}) (last_over_time({name}[1h])))", now)
    return f"avg by ({entity}) ({name})" if many > 1 else name


def _now(api: Api, query: str, now: int) -> float:
    """The largest value of a query now, 0 if it has none."""
    moment = str(now // 1000)
    found = api.series(query, name="of init", start=moment, end=moment, step="60")
    return max(map(float, found.written), default=0.0)
