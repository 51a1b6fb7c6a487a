"""Databases as people have them: six shapes of metrics, with days of rows up to a moment."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, text

HOSTS = ("web-1", "web-2", "web-3")


def _daily(minute: int, host: int) -> float:
    return math.sin(2 * math.pi * (minute + 60 * host) / 1440)


def _create(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def _insert(engine: Engine, table: str, columns: Sequence[str], rows: Iterator[Sequence[object]]) -> None:
    marks = ", ".join(f":c{index}" for index in range(len(columns)))
    statement = text(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})")
    values = [{f"c{index}": value for index, value in enumerate(row)} for row in rows]
    with engine.begin() as connection:
        for begin in range(0, len(values), 20_000):
            connection.execute(statement, values[begin : begin + 20_000])


def _minutes(days: float, every: int = 1) -> range:
    return range(-round(days * 1440), 0, every)


def _at(now: datetime, minute: int) -> datetime:
    return now + timedelta(minutes=minute, seconds=7)


def long_timestamptz(engine: Engine, now: datetime, days: float = 2) -> None:
    """(time timestamptz, host, metric, value): a gauge, a constant, a counter."""
    kind = "timestamptz" if engine.dialect.name == "postgresql" else "datetime(3)"
    _create(
        engine,
        f"CREATE TABLE samples (time {kind}, host varchar(50), metric varchar(50), value double precision,"
        " note varchar(100))",
        "CREATE INDEX samples_time ON samples (time)",
    )
    rng = random.Random(1)

    def rows() -> Iterator[Sequence[object]]:
        sent = [0.0] * len(HOSTS)
        for minute in _minutes(days):
            at = _at(now, minute)
            for index, host in enumerate(HOSTS):
                sent[index] += max(0.0, 6000 + 2000 * _daily(minute, index) + rng.gauss(0, 100))
                values = {
                    "cpu_percent": 30 + 10 * _daily(minute, index) + rng.gauss(0, 1),
                    "memory_percent": 50 + 5 * _daily(minute, index) + rng.gauss(0, 0.5),
                    "bytes_sent": sent[index],
                    "cores": 8.0,
                }
                for metric, value in values.items():
                    yield at if kind == "timestamptz" else at.replace(tzinfo=None), host, metric, value, f"n{minute}"

    _insert(engine, "samples", ("time", "host", "metric", "value", "note"), rows())


def wide(engine: Engine, now: datetime, days: float = 2) -> None:
    """(id, measured_at, stored_at, machine, temperature, pressure, always 0, text): every five minutes, stored late."""
    key = "serial PRIMARY KEY" if engine.dialect.name == "postgresql" else "integer PRIMARY KEY"
    key += " AUTO_INCREMENT" if engine.dialect.name in {"mysql", "mariadb"} else ""
    _create(
        engine,
        f"CREATE TABLE readings (id {key}, measured_at timestamp NULL, inserted_at timestamp NULL,"
        " machine varchar(50), temperature double precision, pressure numeric(10, 3), spare integer, remark text,"
        " is_ok boolean)",
        "CREATE INDEX readings_time ON readings (measured_at)",
    )
    rng = random.Random(2)

    def rows() -> Iterator[Sequence[object]]:
        for minute in _minutes(days, 5):
            at = _at(now, minute).replace(tzinfo=None)
            for index in range(4):
                late = timedelta(seconds=rng.choice([5, 10, 15, 40]))
                yield (
                    *(at, at + late, f"press {index}", round(60 + 10 * _daily(minute, index) + rng.gauss(0, 1), 3)),
                    *(round(2 + 0.2 * _daily(minute, index) + rng.gauss(0, 0.02), 3), 0, f"ok {minute}", True),
                )

    columns = ("measured_at", "inserted_at", "machine", "temperature", "pressure", "spare", "remark", "is_ok")
    _insert(engine, "readings", columns, rows())


def telegraf(engine: Engine, now: datetime, days: float = 1) -> None:
    """Telegraf's output: a table for each measurement, tags as columns of text, every ten seconds."""
    _create(
        engine,
        "CREATE TABLE cpu (time timestamp, host text, cpu text, usage_user double precision,"
        " usage_system double precision, usage_iowait double precision, usage_idle double precision)",
        "CREATE TABLE mem (time timestamp, host text, total bigint, used bigint, used_percent double precision,"
        " available_percent double precision)",
        "CREATE TABLE net (time timestamp, host text, interface text, bytes_recv bigint, bytes_sent bigint,"
        " err_in bigint)",
        *(f"CREATE INDEX {name}_time ON {name} (time)" for name in ("cpu", "mem", "net")),
    )
    rng = random.Random(3)
    times = [(minute, second) for minute in _minutes(days) for second in range(0, 60, 10)]

    def at(minute: int, second: int) -> datetime:
        return (now + timedelta(minutes=minute, seconds=second)).replace(tzinfo=None)

    def cpu() -> Iterator[Sequence[object]]:
        for minute, second in times:
            for host in HOSTS[:2]:
                for core in ("cpu-total", "cpu0", "cpu1"):
                    user = 20 + 8 * _daily(minute, 0) + rng.gauss(0, 1)
                    yield at(minute, second), host, core, user, 5 + rng.gauss(0, 0.3), abs(rng.gauss(0, 0.1)), 75 - user

    def mem() -> Iterator[Sequence[object]]:
        for minute, second in times:
            for host in HOSTS[:2]:
                used = 40 + 3 * _daily(minute, 0) + rng.gauss(0, 0.2)
                yield at(minute, second), host, 16_000_000_000, int(used * 160_000_000), used, 100 - used

    def net() -> Iterator[Sequence[object]]:
        received = 0
        for minute, second in times:
            received += 10_000 + int(rng.gauss(0, 500))
            for host in HOSTS[:2]:
                for interface in ("eth0", "eth1"):
                    yield at(minute, second), host, interface, received, received // 3, 0

    _insert(
        engine, "cpu", ("time", "host", "cpu", *(f"usage_{n}" for n in ("user", "system", "iowait", "idle"))), cpu()
    )
    _insert(engine, "mem", ("time", "host", "total", "used", "used_percent", "available_percent"), mem())
    _insert(engine, "net", ("time", "host", "interface", "bytes_recv", "bytes_sent", "err_in"), net())


def timescale(engine: Engine, now: datetime, days: float = 2) -> None:
    """TimescaleDB's tutorials: conditions (time, device_id, temperature, humidity), and the table of the devices."""
    _create(
        engine,
        "CREATE TABLE conditions (time timestamptz NOT NULL, device_id text, location text,"
        " temperature double precision, humidity double precision)",
        "CREATE INDEX conditions_time ON conditions (time DESC)",
        "CREATE TABLE devices (device_id text PRIMARY KEY, model text, installed date)",
    )
    rng = random.Random(4)

    def rows() -> Iterator[Sequence[object]]:
        for minute in _minutes(days):
            for index in range(5):
                yield (
                    *(_at(now, minute), f"pi-{index}", "attic" if index < 3 else "cellar"),
                    *(
                        18 + 4 * _daily(minute, index) + rng.gauss(0, 0.2),
                        55 - 8 * _daily(minute, index) + rng.gauss(0, 1),
                    ),
                )

    _insert(engine, "conditions", ("time", "device_id", "location", "temperature", "humidity"), rows())
    devices = ((f"pi-{index}", "3B+", now.date()) for index in range(5))
    _insert(engine, "devices", ("device_id", "model", "installed"), devices)


def zabbix(engine: Engine, now: datetime, days: float = 1) -> None:
    """Zabbix's history, items and hosts, with templates that have no values."""
    _create(
        engine,
        "CREATE TABLE hosts (hostid bigint PRIMARY KEY, host varchar(128), status integer)",
        "CREATE TABLE items (itemid bigint PRIMARY KEY, hostid bigint, name varchar(255), key_ varchar(255),"
        " value_type integer)",
        "CREATE TABLE history (itemid bigint, clock integer, value double precision, ns integer)",
        "CREATE TABLE history_uint (itemid bigint, clock integer, value numeric(20), ns integer)",
        "CREATE TABLE trends (itemid bigint, clock integer, num integer, value_avg double precision)",
        *(f"CREATE INDEX {name}_1 ON {name} (itemid, clock)" for name in ("history", "history_uint")),
    )
    keys = {"system.cpu.load[all,avg1]": 0, "system.cpu.util[,idle]": 0, "vm.memory.size[available]": 3}
    hosts = [(100 + index, host, 0) for index, host in enumerate(HOSTS)] + [(200, "Template OS Linux", 3)]
    _insert(engine, "hosts", ("hostid", "host", "status"), iter(hosts))
    items = [
        (10 * hostid + number, hostid, key, key, kind)
        for hostid, *_ in hosts
        for number, (key, kind) in enumerate(keys.items())
    ]
    _insert(engine, "items", ("itemid", "hostid", "name", "key_", "value_type"), iter(items))
    rng = random.Random(5)

    def rows(kind: int) -> Iterator[Sequence[object]]:
        for minute in _minutes(days):
            clock = int(_at(now, minute).timestamp())
            for itemid, hostid, _, _, of in items:
                if of != kind or hostid == 200:
                    continue
                value = 50 + 20 * _daily(minute, hostid - 100) + rng.gauss(0, 1)
                yield itemid, clock + itemid % 30, value if kind == 0 else int(1e7 * value), 0

    _insert(engine, "history", ("itemid", "clock", "value", "ns"), rows(0))
    _insert(engine, "history_uint", ("itemid", "clock", "value", "ns"), rows(3))


def epoch(engine: Engine, now: datetime, days: float = 2) -> None:
    """A file of SQLite: whole seconds since 1970, a numbered sensor, and a table with times as text."""
    _create(
        engine,
        "CREATE TABLE log (ts INTEGER, sensor_id INTEGER, watts REAL, volts REAL)",
        "CREATE INDEX log_ts ON log (ts)",
        'CREATE TABLE events ("when" TEXT, what TEXT)',
    )
    rng = random.Random(6)

    def rows() -> Iterator[Sequence[object]]:
        for minute in _minutes(days):
            for index in range(3):
                yield (
                    *(int(_at(now, minute).timestamp()), 40 + index),
                    *(500 + 200 * _daily(minute, index) + rng.gauss(0, 10), 230 + rng.gauss(0, 1)),
                )

    _insert(engine, "log", ("ts", "sensor_id", "watts", "volts"), rows())
    _insert(engine, "events", ('"when"', "what"), iter([(now.astimezone(UTC).isoformat(), "begun")]))
