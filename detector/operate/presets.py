"""Tables and metrics that many people have: what is known of them beforehand."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from detector.operate.propose import Roles, Table

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?")


@dataclass(frozen=True)
class _Measurement:
    """A table of Telegraf's PostgreSQL or SQLite output: what is worth watching of it."""

    metrics: tuple[str, ...]
    tags: tuple[str, ...] = ()  # that name an entity beside the host
    only: tuple[str, str] | None = None  # the one value of a tag that is watched
    is_counted: bool = False  # whether its metrics are counters


TELEGRAF: dict[str, _Measurement] = {
    "cpu": _Measurement(("usage_user", "usage_system", "usage_iowait", "usage_steal"), only=("cpu", "cpu-total")),
    "mem": _Measurement(("used_percent", "available_percent", "cached", "dirty")),
    "swap": _Measurement(("used_percent",)),
    "system": _Measurement(("load1", "load5", "n_users")),
    "processes": _Measurement(("total", "running", "blocked", "zombies")),
    "disk": _Measurement(("used_percent", "inodes_used_percent"), tags=("path",)),
    "diskio": _Measurement(
        ("read_bytes", "write_bytes", "reads", "writes", "io_time"), tags=("name",), is_counted=True
    ),
    "net": _Measurement(
        ("bytes_recv", "bytes_sent", "err_in", "err_out", "drop_in", "drop_out"), tags=("interface",), is_counted=True
    ),
    "kernel": _Measurement(("context_switches", "interrupts", "processes_forked"), is_counted=True),
}


def telegraf(table: Table) -> Roles | None:
    """The roles of a table as Telegraf writes it; None if it is not one."""
    name = table.name.rpartition(".")[2]
    known = TELEGRAF.get(name)
    names = {column.name for column in table.columns}
    if known is None or not {"time", "host"} <= names:
        return None
    metrics = tuple(metric for metric in known.metrics if metric in names)
    if not metrics or not set(known.tags) <= names:
        return None
    why = {
        "time": "as Telegraf writes it",
        "entity": "Telegraf's tags",
        "metrics": f"what is worth watching of Telegraf's {name}",
    }
    others = {one.name: "not among what is usually watched" for one in table.columns if one.kind == "number"}
    left_out = {one: reason for one, reason in others.items() if one not in metrics}
    found = Roles(
        *("time", "timestamp", ("host", *known.tags), metrics),
        rates=metrics if known.is_counted else (),
        why=why,
        left_out=left_out,
    )
    if known.only is None or known.only[0] not in names or not _PLAIN.fullmatch(table.name):
        return found
    tag, value = known.only
    columns = ", ".join(("time", "host", *metrics))
    # names of this very file, and that of a table without any sign
    query = f"SELECT {columns} FROM {table.name} WHERE {tag} = '{value}' AND time >= :start AND time < :end"  # noqa: S608
    return replace(found, query=query, why={**why, "query": f"only {value}, not every core"})


ZABBIX = {"history": {"itemid", "clock", "value"}, "items": {"itemid", "hostid", "key_"}, "hosts": {"hostid", "host"}}
"""Tables and columns by which a Zabbix is known; `history_uint` holds whole numbers the same way."""


def is_zabbix(columns: Mapping[str, Collection[str]]) -> bool:
    """Whether a database is a Zabbix's, by the columns of each table."""
    return all(needed <= set(columns.get(table, ())) for table, needed in ZABBIX.items())


def zabbix_query(columns: Mapping[str, Collection[str]], keys: Sequence[str]) -> str:
    """The values of some items, with the names of hosts and keys; no key may hold a quote or a backslash."""
    tables = [name for name in ("history", "history_uint") if ZABBIX["history"] <= set(columns.get(name, ()))]
    listed = ", ".join("'" + key.replace(":", "\\:") + "'" for key in keys)  # a colon would begin a parameter
    selects = (
        f"SELECT h.clock AS clock, hosts.host AS host, items.key_ AS item, h.value AS value FROM {name} h"  # noqa: S608
        " JOIN items ON items.itemid = h.itemid JOIN hosts ON hosts.hostid = items.hostid"
        f" WHERE h.clock >= :start AND h.clock < :end AND items.key_ IN ({listed})"
        for name in tables
    )
    return " UNION ALL ".join(selects)


def zabbix(metrics: Sequence[str], query: str) -> Roles:
    """The roles of Zabbix's history, of some of its items."""
    why = {
        "time": "Zabbix keeps seconds since 1970",
        "entity": "hosts, by their technical name",
        "metric": "items, by their key",
        "query": "Zabbix keeps values, items and hosts apart",
    }
    return Roles(
        *("clock", "epoch_seconds", ("host",), tuple(metrics)), metric="item", value="value", query=query, why=why
    )


NODE_EXPORTER: dict[str, tuple[str, str]] = {
    "cpu_used": (
        "node_cpu_seconds_total",
        '1 - avg by (instance) (rate(node_cpu_seconds_total{{mode="idle"}}[{range}]))',
    ),
    "cpu_iowait": (
        "node_cpu_seconds_total",
        'avg by (instance) (rate(node_cpu_seconds_total{{mode="iowait"}}[{range}]))',
    ),
    "load1": ("node_load1", "node_load1"),
    "memory_used": (
        "node_memory_MemAvailable_bytes",
        "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes",
    ),
    "disk_used": (
        "node_filesystem_avail_bytes",
        'max by (instance) (1 - node_filesystem_avail_bytes{{fstype!~"tmpfs|ramfs|overlay|squashfs"}}'
        " / node_filesystem_size_bytes)",
    ),
    "disk_busy": (
        "node_disk_io_time_seconds_total",
        "max by (instance) (rate(node_disk_io_time_seconds_total[{range}]))",
    ),
    "network_receive_bytes": (
        "node_network_receive_bytes_total",
        'sum by (instance) (rate(node_network_receive_bytes_total{{device!="lo"}}[{range}]))',
    ),
    "network_transmit_bytes": (
        "node_network_transmit_bytes_total",
        'sum by (instance) (rate(node_network_transmit_bytes_total{{device!="lo"}}[{range}]))',
    ),
}
"""Metrics of a machine, by node_exporter: the series that must be there, and the query."""


def node_exporter(names: Collection[str], span: str) -> dict[str, str]:
    """Queries for what a node_exporter tells, {} if there is none. span: of rates, such as 2m"""
    return {
        metric: query.format(range=span) for metric, (needed, query) in NODE_EXPORTER.items() if needed in set(names)
    }
