"""What a Prometheus source promises, on a real Prometheus and a real VictoriaMetrics."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from query_servers import SERVERS, Series

from detector import database, wiring
from detector.config import promql
from detector.config.sections import Config
from detector.core.rejects import Reject
from detector.core.series import Samples
from detector.errors import SourceError
from detector.sources import prometheus
from detector.sources.prometheus import PrometheusSource, QuerySpec
from detector.sources.prometheus_api import Api

pytestmark = pytest.mark.slow

T0 = 1_795_435_200_000  # 2026-11-23T12:00:00Z, a full hour
MINUTE = 60_000
HOUR = 60 * MINUTE
GAP = (5, 6)  # minutes without a sample
LIVED = [minute for minute in range(30) if minute not in GAP]

STORED = [
    # each sample at the very beginning of its slot, at its end, within it, four times in it
    Series("begins", [(T0 + m * MINUTE, 10.0 + m) for m in LIVED], {"instance": "a"}),
    Series("ends", [(T0 + m * MINUTE + 59_999, 10.0 + m) for m in LIVED], {"instance": "a"}),
    Series("middle", [(T0 + m * MINUTE + 20_000, 10.0 + m) for m in LIVED], {"instance": "a"}),
    Series("middle", [(T0 + m * MINUTE + 20_000, 20.0 + m) for m in LIVED], {"instance": "b"}),
    Series("often", [(T0 + s * 15_000, float(s % 4)) for s in range(40)], {"instance": "a"}),
    Series("total", [(T0 + m * MINUTE, 60.0 * m) for m in range(30)], {"instance": "a"}),
    Series("load", [(T0, 1.0)], {"rack": "1", "host": "a"}),
    Series("load", [(T0, 2.0)], {"rack": "2", "host": "a"}),
    Series("load", [(T0, 3.0)], {"rack": "3"}),
    Series("odd", [(T0, math.nan), (T0 + MINUTE, math.inf), (T0 + 2 * MINUTE, 1.0)], {"instance": "a"}),
    # a new version of the program: one series ends, the next begins in the same slot
    Series("deployed", [(T0 + m * MINUTE, 1.0) for m in range(5)], {"instance": "a", "version": "1"}),
    Series("deployed", [(T0 + m * MINUTE + 9000, 2.0) for m in range(4, 9)], {"instance": "a", "version": "2"}),
    Series("names", [(T0, 1.0)], {"instance": 'it\'s "odd"\n\u202e{}'}),
    Series("weeks", [(T0 - 40 * 24 * HOUR + m * MINUTE, 1.0) for m in range(2000)], {"instance": "a"}),
    Series("begun", [(T0 - 600 * MINUTE + m * MINUTE, 1.0) for m in range(610)], {"instance": "a"}),
]


@pytest.fixture(scope="module", params=sorted(SERVERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with SERVERS[kind](tmp_path_factory.mktemp("server"), STORED) as url:
        yield url


@dataclass(frozen=True)
class Asked:
    url: str

    def source(
        self, *queries: str, entity: tuple[str, ...] = ("instance",), aggregate: str = "mean", step: int = MINUTE
    ) -> PrometheusSource:
        spec = QuerySpec(
            metrics=tuple(f"m{index}" for index in range(len(queries))),
            queries=tuple(map(promql.parsed, queries)),
            aggregates=(aggregate,) * len(queries),
            entity=entity,
            step=step,
        )
        return PrometheusSource(Api(self.url, timeout=20.0), spec)

    def values(self, query: str, end: int = 10, **options: str) -> dict[int, float]:
        """The values of the first minutes, by minute."""
        samples = self.source(query, **options).read(T0, T0 + end * MINUTE)  # type: ignore[arg-type]
        return {(at - T0) // MINUTE: value for _, _, at, value in _rows(samples)}


@pytest.fixture
def asked(server: str) -> Asked:
    return Asked(server)


def _rows(samples: Samples) -> list[tuple[str, int, int, float]]:
    columns = (samples.entity, samples.metric, samples.time, samples.value)
    listed = zip(*(column.tolist() for column in columns), strict=True)
    return sorted((samples.entities[entity], metric, at, value) for entity, metric, at, value in listed)


@pytest.mark.parametrize("name", ["begins", "ends", "middle{instance='a'}"])
@pytest.mark.parametrize("around", ["{}", "sum by (instance) ({})", "abs(-{})", "{} * 1"])
def test_a_gap_of_two_slots_is_missing_and_no_value_is_repeated(asked: Asked, name: str, around: str) -> None:
    expected = {m: 10.0 + m for m in range(10) if m not in GAP}

    assert asked.values(around.format(name)) == expected


def test_a_query_with_a_range_of_its_own_says_itself_how_far_it_looks_back(asked: Asked) -> None:
    values = asked.values("max_over_time(begins[2m])")

    assert values[5] == 14.0
    assert 6 not in values


@pytest.mark.parametrize(
    ("aggregate", "expected"), [("mean", 1.5), ("last", 3.0), ("min", 0.0), ("max", 3.0), ("sum", 6.0), ("count", 4.0)]
)
def test_samples_of_a_slot_are_aggregated_as_configured(asked: Asked, aggregate: str, expected: float) -> None:
    assert set(asked.values("often", aggregate=aggregate).values()) == {expected}


def test_a_slot_has_the_time_of_its_last_moment(asked: Asked) -> None:
    samples = asked.source("begins").read(T0, T0 + 2 * MINUTE)

    assert samples.time.tolist() == [T0 + MINUTE - 1, T0 + 2 * MINUTE - 1]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, 60, [0]), (0, 119.999, [0]), (59.999, 60, [0]), (60, 120, [1]), (30, 31, []), (60, 60, []), (120, 60, [])],
)
def test_a_read_holds_its_start_but_not_its_end(asked: Asked, start: float, end: float, expected: list[int]) -> None:
    samples = asked.source("begins").read(T0 + round(1000 * start), T0 + round(1000 * end))

    assert [(at - T0) // MINUTE for at in samples.time.tolist()] == expected


@pytest.mark.parametrize(
    "query", ["begins", "ends", "sum(middle) by (instance)", "rate(total[3m])", "max_over_time(begins[5m:1m])"]
)
def test_the_result_is_the_same_however_the_range_is_cut(
    asked: Asked, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _rows(asked.source(query).read(T0, T0 + 30 * MINUTE))
    single = [row for m in range(30) for row in _rows(asked.source(query).read(T0 + m * MINUTE, T0 + (m + 1) * MINUTE))]
    monkeypatch.setattr(prometheus, "_MOST_VALUES", 7)
    pieces = _rows(asked.source(query).read(T0 - HOUR, T0 + 30 * MINUTE))

    assert len(whole) > 20
    assert whole == sorted(single) == pieces


def test_a_rate_is_that_of_the_query(asked: Asked) -> None:
    assert asked.values("rate(total[5m])")[9] == pytest.approx(1.0)  # 60 a minute


def test_several_labels_make_one_name_and_a_series_without_one_is_a_reject(asked: Asked) -> None:
    samples = asked.source("load", entity=("rack", "host")).read(T0, T0 + MINUTE)

    assert [(row[0], row[3]) for row in _rows(samples)] == [("1/a", 1.0), ("2/a", 2.0)]
    assert samples.rejects == (Reject("entity", 1, samples.rejects[0].example),)
    assert 'rack="3"' in samples.rejects[0].example


def test_series_that_are_one_entity_at_the_same_time_are_missing_and_the_labels_are_named(asked: Asked) -> None:
    samples = asked.source("load", entity=("host",)).read(T0, T0 + MINUTE)

    assert np.isnan(samples.value).all()
    assert Reject("series", 2, "a: rack") in samples.rejects


def test_series_that_follow_each_other_are_one_entity(asked: Asked) -> None:
    values = asked.values("deployed")

    assert [values[m] for m in (0, 1, 2, 3, 5, 6, 7, 8)] == [1.0] * 4 + [2.0] * 4
    assert math.isnan(values[4])


def test_a_query_without_labels_is_of_one_entity(asked: Asked) -> None:
    samples = asked.source("sum(middle)", entity=()).read(T0, T0 + MINUTE)

    assert _rows(samples) == [("all", 0, T0 + MINUTE - 1, 30.0)]


def test_nan_is_missing_and_an_infinity_is_counted(asked: Asked) -> None:
    samples = asked.source("odd", aggregate="last").read(T0, T0 + 3 * MINUTE)

    assert [value for value in samples.value.tolist() if math.isfinite(value)] == [1.0]
    assert [(reject.reason, reject.rows) for reject in samples.rejects] == [("value", 1)]


def test_names_come_as_they_are(asked: Asked) -> None:
    assert asked.source("names").read(T0, T0 + MINUTE).entities == ('it\'s "odd"\n\u202e{}',)


def test_the_extent_is_from_the_oldest_to_the_newest_slot(asked: Asked) -> None:
    assert asked.source("begins").extent(T0 + 40 * MINUTE) == (T0 + MINUTE - 1, T0 + 30 * MINUTE - 1)


def test_the_extent_leaves_out_what_is_not_over(asked: Asked) -> None:
    assert asked.source("begins").extent(T0 + 10 * MINUTE + 30_000) == (T0 + MINUTE - 1, T0 + 10 * MINUTE - 1)
    assert asked.source("begins").extent(T0 - HOUR) is None


def test_the_extent_reaches_back_for_weeks_and_over_all_metrics(asked: Asked) -> None:
    oldest = T0 - 40 * 24 * HOUR + MINUTE - 1

    assert asked.source("weeks").extent(T0) == (oldest, oldest + 1999 * MINUTE)
    assert asked.source("begins", "weeks").extent(T0 + HOUR) == (oldest, T0 + 30 * MINUTE - 1)


def test_the_extent_of_what_began_today_is_known(asked: Asked) -> None:
    assert asked.source("begun").extent(T0 + 10 * MINUTE) == (T0 - 599 * MINUTE - 1, T0 + 10 * MINUTE - 1)


def test_the_extent_of_no_series_is_unknown(asked: Asked) -> None:
    assert asked.source("nothing").extent(T0) is None
    assert len(asked.source("nothing").read(T0, T0 + HOUR)) == 0


def test_more_slots_than_the_server_answers_at_once_are_read_in_pieces(asked: Asked) -> None:
    samples = asked.source("begins", step=1000).read(T0 - 6 * HOUR, T0 + HOUR)

    assert len(samples) == len(LIVED)


def test_a_bad_query_is_one_line(asked: Asked) -> None:
    with pytest.raises(SourceError, match=r"refused query 'm0' \(4\d\d\): ") as caught:
        asked.source("no_such_function(up)").read(T0, T0 + MINUTE)

    assert len(str(caught.value).splitlines()) == 1


def test_the_server_says_which_metrics_it_has(asked: Asked) -> None:
    assert {"begins", "ends", "load"} <= set(asked.source("begins").names())


@pytest.mark.parametrize("step", [5000, 15_000])
def test_short_slots_of_the_last_seconds_have_their_own_values(kind: str, step: int, tmp_path: Path) -> None:
    now = int(time.time()) * 1000
    samples = [(now - 300_000 + 5000 * n, float(n)) for n in range(54)]  # the last one half a minute ago
    with SERVERS[kind](tmp_path, [Series("live", samples, {"instance": "a"})]) as url:
        end = now // step * step
        found = Asked(url).source("live", aggregate="last", step=step).read(end - 120_000, end)

    expected = {at // step: value for at, value in samples if end - 120_000 <= at < end}
    assert {at // step: value for _, _, at, value in _rows(found)} == expected


def test_a_counter_is_read_as_its_rate(asked: Asked, tmp_path: Path) -> None:
    table = {
        "name": "web",
        "metrics": ["total", "begins"],
        "rates": ["total"],
        "source": {"type": "prometheus", "url": asked.url, "entity": "instance"},
    }
    config = Config.model_validate({"database": {"url": f"sqlite:///{tmp_path}/own.db"}, "monitors": [table]})
    engine = database.connect(config.database.url)
    source = wiring.source(config, config.monitors[0], engine)

    samples = source.read(T0, T0 + 4 * MINUTE)

    engine.dispose()
    values = [(metric, value) for _, metric, _, value in _rows(samples)]
    assert repr(values) == repr([(0, math.nan), *[(0, 1.0)] * 3, *((1, 10.0 + m) for m in range(4))])
