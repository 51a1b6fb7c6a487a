"""Where a PromQL expression looks at series at one moment."""

from __future__ import annotations

import pytest

from detector.config import promql


def test_a_comment_behind_a_selector_makes_it_no_other_query() -> None:
    assert promql.parsed("up # is it up?").within(60_000, "mean") == "avg_over_time(up[60000ms])"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("up", "avg_over_time(up[9ms])"),
        (' up {job="a}b", x!~"[)"} ', 'avg_over_time(up {job="a}b", x!~"[)"}[9ms])'),
        ('{__name__="up"}', 'avg_over_time({__name__="up"}[9ms])'),
        ("job:rate:5m offset 1h", "avg_over_time(job:rate:5m[9ms] offset 1h)"),
        ("up offset -5m @ 1700000000", "avg_over_time(up[9ms] offset -5m @ 1700000000)"),
        ("up + 1", "last_over_time(up[9ms]) + 1"),
        ("(up)", "(last_over_time(up[9ms]))"),
        ("-up", "-last_over_time(up[9ms])"),
        ("rate(x[5m])", "rate(x[5m])"),
        ('rate(x{a="1"} [5m] offset 1m)', 'rate(x{a="1"} [5m] offset 1m)'),
        ("sum by (instance, cpu) (up)", "sum by (instance, cpu) (last_over_time(up[9ms]))"),
        ("sum(up) by (instance)", "sum(last_over_time(up[9ms])) by (instance)"),
        ("sum without() (a) / on(x) group_left(y) b", "sum without() (last_over_time(a[9ms])) / on(x) group_left(y)"
         " last_over_time(b[9ms])"),
        ("a * ignoring(x) group_right b offset 5m", "last_over_time(a[9ms]) * ignoring(x) group_right"
         " last_over_time(b[9ms] offset 5m)"),
        ("a and b or c unless d", "last_over_time(a[9ms]) and last_over_time(b[9ms]) or last_over_time(c[9ms]) unless"
         " last_over_time(d[9ms])"),
        ("a > bool 1e-5 * Inf - 0x1F", "last_over_time(a[9ms]) > bool 1e-5 * Inf - 0x1F"),
        ("max_over_time(up[1h:1m])", "max_over_time(last_over_time(up[9ms])[1h:1m])"),
        ("max_over_time(rate(x[5m])[1h:] offset 5m)", "max_over_time(rate(x[5m])[1h:] offset 5m)"),
        ("max_over_time(up offset 5m [1h:1m])", "max_over_time(last_over_time(up[9ms] offset 5m) [1h:1m])"),
        ("quantile(0.9, up)", "quantile(0.9, last_over_time(up[9ms]))"),
        ("topk by (x) (5, up)", "topk by (x) (5, last_over_time(up[9ms]))"),
        ("histogram_quantile(0.9, sum by (le) (rate(x[5m])))", "histogram_quantile(0.9, sum by (le) (rate(x[5m])))"),
        ("time() - timestamp(up)", "time() - timestamp(up)"),
        ("timestamp(up + a)", "timestamp(last_over_time(up[9ms]) + last_over_time(a[9ms]))"),
        ('absent(up{a="b"})', 'absent(up{a="b"})'),
        ('label_replace(up, "a", "$1", "b", "(up)")', 'label_replace(last_over_time(up[9ms]), "a", "$1", "b", "(up)")'),
        ("up # is it up?\n + down", "last_over_time(up[9ms])  \n + last_over_time(down[9ms])"),
        ("vector(1)", "vector(1)"),
        ("1", "1"),
        ("count_values('a', up)", "count_values('a', last_over_time(up[9ms]))"),
    ],
)  # fmt: skip
def test_only_what_looks_at_one_moment_is_kept_to_the_slot(query: str, expected: str) -> None:
    assert promql.parsed(query).within(9, "mean") == expected


@pytest.mark.parametrize("query", ["up @ end()", "sum(up offset 5m @ start ())", "rate(x[5m] @ end())"])
def test_a_query_whose_value_depends_on_the_range_is_refused(query: str) -> None:
    with pytest.raises(ValueError, match="@ start"):
        promql.parsed(query)


@pytest.mark.parametrize("query", ['up{a="b"', "rate(up[5m)", "sum by (a up"])
def test_a_bracket_that_is_not_closed_is_refused(query: str) -> None:
    with pytest.raises(ValueError, match="not closed"):
        promql.parsed(query)


@pytest.mark.parametrize("aggregate", promql.OVER_TIME)
def test_a_selector_is_aggregated_as_configured(aggregate: str) -> None:
    assert promql.parsed("up").within(9, aggregate).startswith(promql.OVER_TIME[aggregate])
    assert promql.parsed("up + 0").within(9, aggregate).startswith("last_over_time")


@pytest.mark.parametrize(("name", "expected"), [("node_load1", True), ("a:b", True), ("cpu %", False), ("by", False)])
def test_a_metric_may_be_named_as_prometheus_names_it(name: str, expected: bool) -> None:
    assert promql.is_metric_name(name) is expected
