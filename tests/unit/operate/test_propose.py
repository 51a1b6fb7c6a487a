"""What columns and rows say about a monitor."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from detector.core.series import Samples
from detector.errors import ConfigError
from detector.operate import presets, proposal, propose
from detector.operate.proposal import Proposal, Seen
from detector.operate.propose import Column, Kind, Roles, Table

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOW = int(NOON.timestamp()) * 1000
MINUTE = 60_000
HOUR = 60 * MINUTE


def _table(columns: dict[str, tuple[Kind, Sequence[Any]]], *, key: str = "") -> Table:
    described = tuple(Column(name, kind, is_key=name == key) for name, (kind, _) in columns.items())
    return Table("metrics", described, list(zip(*(values for _, values in columns.values()), strict=True)))


def _times(count: int, each: int = 1) -> list[datetime]:
    """The newest first, as many rows at each of them."""
    return [NOON - timedelta(minutes=n // each) for n in range(count)]


def test_one_text_tells_rows_of_a_time_apart_and_what_depends_on_it_does_not() -> None:
    table = _table(
        {
            "time": ("time", _times(60, 3)),
            "region": ("text", ["eu", "eu", "us"] * 20),
            "host": ("text", ["a", "b", "c"] * 20),
            "load": ("number", list(range(60))),
        }
    )

    found = propose.roles(table)

    assert (found.time, found.entity, found.metrics) == ("time", ("host",), ("load",))
    assert found.left_out == {"region": "it tells no more rows apart"}


def test_entities_need_not_be_in_step() -> None:
    at = [NOON - timedelta(seconds=30 * (n // 3) + 9 * (n % 3)) for n in range(90)]
    table = _table(
        {
            "time": ("time", at),
            "which": ("text", ["a", "b", "c"] * 30),
            "status": ("text", [("ok", "warn")[n // 40 % 2] for n in range(90)]),
            "load": ("number", list(range(90))),
        }
    )

    assert propose.roles(table).entity == ("which",)


def test_one_series_that_is_a_little_irregular_is_one_entity() -> None:
    at = [NOON - timedelta(seconds=60 * n + (7 * n) % 11) for n in range(90)]
    table = _table(
        {
            "time": ("time", at),
            "status": ("text", [("ok", "warn")[n // 40 % 2] for n in range(90)]),
            "load": ("number", list(range(90))),
        }
    )

    assert propose.roles(table).entity == ()


def test_as_many_columns_name_an_entity_as_are_needed() -> None:
    table = _table(
        {
            "time": ("time", _times(60, 4)),
            "rack": ("text", ["1", "1", "2", "2"] * 15),
            "slot": ("text", ["x", "y", "x", "y"] * 15),
            "load": ("number", list(range(60))),
        }
    )

    assert sorted(propose.roles(table).entity) == ["rack", "slot"]


def test_a_usual_name_is_an_entity_also_of_one_machine() -> None:
    table = _table({"time": ("time", _times(40)), "host": ("text", ["a"] * 40), "load": ("number", list(range(40)))})

    assert propose.roles(table).entity == ("host",)


def test_free_text_and_numbers_of_rows_name_nothing() -> None:
    table = _table(
        {
            "id": ("number", list(range(60))),
            "time": ("time", _times(60, 2)),
            "message": ("text", [f"message {n}" for n in range(60)]),
            "device_id": ("number", [7, 8] * 30),
            "load": ("number", [n % 5 for n in range(60)]),
        },
        key="id",
    )

    found = propose.roles(table)

    assert (found.entity, found.metrics) == (("device_id",), ("load",))


def test_rows_that_nothing_tells_apart_are_said_to_be_averaged() -> None:
    table = _table({"time": ("time", _times(60, 2)), "load": ("number", list(range(60)))})

    found = propose.roles(table)

    assert found.entity == ()
    assert found.why["entity"] == "50% of the rows share time and entity with another, and are averaged"


@pytest.mark.parametrize("metric", ["metric", "name", "key_", "parameter"])
def test_a_column_of_names_beside_a_value_makes_a_long_table(metric: str) -> None:
    table = _table(
        {
            "ts": ("time", _times(60, 4)),
            "host": ("text", ["a", "a", "b", "b"] * 15),
            metric: ("text", ["load", "cpu"] * 30),
            "value": ("number", list(range(60))),
        }
    )

    found = propose.roles(table)

    assert (found.metric, found.value, found.entity) == (metric, "value", ("host",))
    assert found.metrics == ("cpu", "load")


def test_metrics_of_a_long_table_beyond_the_first_twenty_are_told() -> None:
    names = [f"m{n:02d}" for n in range(24)] + ["${x}"]
    table = _table(
        {
            "time": ("time", _times(50, 25)),
            "metric": ("text", names * 2),
            "value": ("number", list(range(50))),
        }
    )

    found = propose.roles(table)

    assert found.metrics == tuple(names[:20])
    assert found.left_out["m20"] == "it is beyond the first 20"
    assert found.left_out["${x}"] == "its name cannot be written into a configuration"


def test_columns_without_news_are_left_out_with_the_reason() -> None:
    table = _table(
        {
            "time": ("time", _times(40)),
            "none": ("number", [None] * 40),
            "flag": ("other", [True] * 40),
            "load": ("number", list(range(40))),
        }
    )

    assert propose.roles(table).left_out == {
        "none": "it has no value",
        "flag": "neither number nor text",
    }


@pytest.mark.parametrize(
    ("name", "kind", "first", "expected"),
    [
        ("time", "time", NOON, "timestamp"),
        ("anything", "time", NOON, "timestamp"),
        ("ts", "text", "2026-11-20T12:00:00Z", "timestamp"),
        ("clock", "number", NOW // 1000, "epoch_seconds"),
        ("ts", "number", NOW, "epoch_milliseconds"),
        ("uptime_ms", "number", 5_000, None),
        ("serial", "number", NOW // 1000, None),
        ("ts", "text", "soon", None),
    ],
)
def test_times_are_recognised_by_type_name_and_size(name: str, kind: Kind, first: Any, expected: str | None) -> None:
    table = _table({name: (kind, [first]), "load": ("number", [1])})

    if expected is None:
        with pytest.raises(ConfigError, match="table metrics needs a column of times"):
            propose.roles(table)
    else:
        assert propose.roles(table).time_format == expected


def test_the_time_of_a_measurement_is_not_that_of_its_arrival() -> None:
    at = _times(40)
    table = _table(
        {
            "inserted_at": ("time", [time + timedelta(seconds=9) for time in at]),
            "measured_at": ("time", at),
            "load": ("number", list(range(40))),
        }
    )

    found = propose.roles(table)

    assert (found.time, found.arrival) == ("measured_at", "inserted_at")


def test_a_table_of_telegraf_is_known_by_its_columns() -> None:
    names: dict[str, tuple[Kind, Sequence[Any]]] = {
        "time": ("time", []),
        "host": ("text", []),
        "interface": ("text", []),
        "bytes_recv": ("number", []),
        "speed": ("number", []),
    }
    table = replace(_table(names), name="public.net")

    found = presets.telegraf(table)

    assert found is not None
    assert (found.entity, found.metrics, found.rates) == (("host", "interface"), ("bytes_recv",), ("bytes_recv",))
    assert presets.telegraf(replace(table, name="public.other")) is None


def test_keys_of_zabbix_are_values_of_its_query_also_with_colons() -> None:
    columns = {"history": presets.ZABBIX["history"]}

    query = presets.zabbix_query(columns, ["a[b:c]", "d"])

    assert "IN ('a[b\\:c]', 'd')" in query
    assert "UNION" not in query


# -- settings ---------------------------------------------------------------------------------------------------------

ROLES = Roles("time", "timestamp", ("host",), ("load", "bytes", "fixed"), why={"entity": "host"})


def _samples(step: int = MINUTE, count: int = 60, last: int = NOW) -> Samples:
    """Of two hosts: a gauge, a counter, a value that never moves."""
    time = last - step * np.arange(count)[::-1]
    values = np.stack([np.arange(count) % 7, np.arange(count) * 100.0, np.full(count, 8.0)], axis=1)
    return Samples(
        entities=("a", "b"),
        entity=np.repeat(np.array([0, 1], np.int32), 3 * count),
        metric=np.tile(np.arange(3, dtype=np.int32), 2 * count),
        time=np.tile(np.repeat(time, 3), 2),
        value=np.tile(values.ravel(), 2),
    )


def _seen(samples: Samples | None = None, **changes: Any) -> Seen:
    looked_at = _samples() if samples is None else samples
    usual = {"samples": looked_at, "spread": looked_at, "oldest": NOW - 100 * HOUR, "newest": NOW, "now": NOW}
    return Seen(**{**usual, **changes})


def _proposed(seen: Seen, **roles: Any) -> Proposal:
    return proposal.proposed("web", replace(ROLES, **roles), seen, {"type": "sql", "url": "sqlite:///x", "table": "t"})


def test_counters_become_rates_and_what_never_moves_is_left_out() -> None:
    found = _proposed(_seen())

    assert found.settings["metrics"] == ["load", "bytes"]
    assert found.settings["rates"] == ["bytes"]
    assert "left out fixed: it does not change" in found.notes


@pytest.mark.parametrize(
    ("distance", "step"), [(1000, "1m"), (10_000, "1m"), (30_000, "30s"), (59_800, "1m"), (300_000, "5m")]
)
def test_the_step_is_the_distance_of_rows_or_a_minute(distance: int, step: str) -> None:
    assert _proposed(_seen(_samples(distance))).settings["step"] == step


def test_a_late_column_says_delay_and_lateness() -> None:
    lags = np.array([2000] * 90 + [12_000] * 9 + [240_000])

    settings = _proposed(_seen(lags=lags)).settings

    assert (settings["delay"], settings["lateness"]) == ("15s", "8m")


def test_a_newest_row_that_is_old_says_the_delay() -> None:
    assert _proposed(_seen(now=NOW + 133_000)).settings["delay"] == "75s"  # 73 s behind, in steps of 5
    assert _proposed(_seen(now=NOW + 50_000)).settings["delay"] == "10s"
    assert _proposed(_seen(now=NOW + 50 * HOUR)).settings["delay"] == "10s"  # it has stopped


@pytest.mark.parametrize(
    ("newest", "local", "zone"),
    [
        (NOW - 30_000, ("Europe/Berlin", HOUR), "UTC"),
        (NOW + HOUR - 30_000, ("Europe/Berlin", HOUR), "Europe/Berlin"),
        (NOW - 5 * HOUR - 30_000, ("America/New_York", -5 * HOUR), "America/New_York"),
        (NOW + 9 * HOUR, ("Europe/Berlin", HOUR), "UTC"),
        (NOW - 90 * HOUR, ("Europe/Berlin", HOUR), "UTC"),
    ],
)
def test_times_without_a_zone_have_that_of_the_clock_they_agree_with(
    newest: int, local: tuple[str, int], zone: str
) -> None:
    found = _proposed(_seen(newest=newest, local=local, has_zone=False))

    assert found.source["time_zone"] == zone
    assert "time_zone" not in _proposed(_seen(newest=newest, local=local)).source


def test_nothing_that_moves_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"none of its metrics changes in its newest rows \(fixed\)"):
        proposal.proposed("web", replace(ROLES, metrics=("fixed",)), _seen(_only_fixed()), {})


def _only_fixed() -> Samples:
    samples = _samples()
    kept = samples.metric == 2
    columns = {name: getattr(samples, name)[kept] for name in ("entity", "time", "value")}
    return replace(samples, **columns, metric=np.zeros(int(kept.sum()), np.int32))


def test_what_is_written_is_read_as_it_was_meant() -> None:
    odd = 'it\'s "odd"\n\\ \u202e\x7f#'
    found = Proposal("web", {"metrics": [odd], "rates": []}, {"table": odd}, {odd: 'x{a="b"}'}, why={"table": odd})

    written = proposal.written(found)

    (monitor,) = tomllib.loads(written)["monitors"]
    assert monitor["metrics"] == [odd]
    assert monitor["source"] == {"table": odd, "queries": {odd: 'x{a="b"}'}}
    assert "rates" not in monitor
    assert "query = 'x{a=\"b\"}'" in proposal.written(replace(found, source={"query": 'x{a="b"}'}))


@pytest.mark.parametrize("name", ["", " blank", "a${HOME}"])
def test_a_name_that_a_configuration_would_change_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="a name must not be empty"):
        proposal.refuse_unwritable([name])


@pytest.mark.parametrize(("wanted", "name"), [("public samples", "public-samples"), ("日本", "metrics"), ("_a.", "a")])
def test_a_monitor_has_a_name_that_it_may_have(wanted: str, name: str) -> None:
    assert proposal.monitor_name(wanted) == name
