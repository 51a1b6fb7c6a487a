"""What of a slot is news: numbers of every mechanism, their return periods, and what is remembered between slots."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from detector.core import decide, news, threshold
from detector.core.decide import AlertStates, Change, Rules
from detector.core.deviation import Usual
from detector.core.news import (
    BEFORE,
    GROSS,
    MECHANISMS,
    POOL,
    PRECEDENT,
    RECENT,
    RECORD,
    SHARES,
    STREAMS,
    Experience,
    Habits,
    Observed,
    Seen,
)
from detector.core.peaks import ANY, Peaks, Tails
from detector.core.rules import MetricRules
from detector.core.series import Float32, Float64, Int64
from detector.core.threshold import Calibration

NAN = math.nan
MINUTE, HOUR, DAY, WEEK = 60_000, 3_600_000, 86_400_000, 604_800_000
START = 1_700_000_040_000
TINY = 1e-6  # of a stream


def _slots(count: int, step: int = MINUTE, first: int = START) -> Int64:
    return first + step * np.arange(count, dtype=np.int64)


def _rules(metrics: int, **columns: Sequence[float] | Sequence[bool]) -> MetricRules:
    none = MetricRules.none(metrics)
    kinds = {name: getattr(none, name).dtype for name in columns}
    return replace(none, **{name: np.array(values, dtype=kinds[name]) for name, values in columns.items()})


def _none(entities: int = 1, metrics: int = 1, step: int = MINUTE) -> Experience:
    start = np.zeros((entities, len(STREAMS)), dtype=np.float32)
    return Experience.none(start, start + 1, metrics=metrics, slot=START, step=step)


def _seen(
    count: int,
    *,
    entities: int = 1,
    metrics: int = 1,
    step: int = MINUTE,
    values: Float32 | None = None,
    errors: Float32 | None = None,
    deviations: Float32 | None = None,
    shape: Float32 | None = None,
    missed: Float32 | None = None,
) -> Seen:
    """Slots of which only what is given is known; values and errors (E, K, …) without those before."""

    def or_unknown(given: Float32 | None, before: int, *columns: int) -> Float32:
        unknown = np.full((entities, before + count, *columns), NAN, dtype=np.float32)
        if given is not None:
            unknown[:, before:] = given
        return unknown

    return Seen(
        slots=_slots(count, step),
        values=or_unknown(values, news.long_slots(step), metrics),
        errors=or_unknown(errors, BEFORE),
        deviations=or_unknown(deviations, 0, metrics),
        shape=or_unknown(shape, 0),
        missed=or_unknown(missed, 0),
    )


def _observe(
    experience: Experience,
    seen: Seen,
    *,
    spread: Float32 | None = None,
    rules: MetricRules | None = None,
    step: int = MINUTE,
) -> tuple[Experience, Observed]:
    entities, _, metrics = seen.deviations.shape
    usual = np.zeros((entities, metrics), dtype=np.float32) if spread is None else spread
    return news.observe(experience, seen, spread=usual, rules=rules or MetricRules.none(metrics), step=step)


def _random(entities: int, count: int, metrics: int, *, step: int = MINUTE, seed: int = 0) -> Seen:
    """Slots with gaps, of whole entities too, and some that are far out."""
    rng = np.random.default_rng(seed)
    far = np.where(rng.random((entities, count, 1)) < 0.05, 50.0, 1.0)
    deviations = np.abs(rng.normal(0, 3, (entities, count, metrics)) * far).astype(np.float32)
    before = news.long_slots(step)
    values = rng.normal(50, 5, (entities, before + count, metrics)).astype(np.float32)
    values += np.cumsum(rng.random(values.shape) < 0.05, axis=1, dtype=np.float32) * 20.0
    errors = np.abs(rng.normal(0, 1, (entities, BEFORE + count))).astype(np.float32)
    shape, missed = rng.uniform(0.02, 3, (2, entities, count)).astype(np.float32)
    values[rng.random(values.shape) < 0.05] = NAN
    deviations[np.isnan(values[:, before:])] = NAN
    errors[rng.random(errors.shape) < 0.2] = NAN
    gap = slice(count // 3, count // 3 + 8)
    deviations[0, gap], values[0, before:][gap], errors[0, BEFORE:][gap], shape[0, gap] = NAN, NAN, NAN, NAN
    return Seen(_slots(count, step), values, errors, deviations, shape, missed)


def _stream(observed: Observed, name: str) -> Float64:
    """What a stream says of each slot of the first entity, no logarithm."""
    return np.exp(observed.streams[0, :, STREAMS.index(name)].astype(np.float64))


# -- the mechanisms


def test_every_mechanism_but_those_of_what_is_gross_or_a_record_has_a_share_of_the_budget() -> None:
    assert (*SHARES, GROSS, RECORD, POOL, PRECEDENT) == MECHANISMS
    assert all(0 < share < 1 for share in SHARES.values())


@pytest.mark.parametrize(
    ("step", "slots"), [(1000, 30), (10_000, 30), (MINUTE, 10), (2 * MINUTE, 5), (5 * MINUTE, 3), (HOUR, 3), (DAY, 3)]
)
def test_the_longer_look_at_the_worst_metric_is_ten_minutes_of_three_to_thirty_slots(step: int, slots: int) -> None:
    assert news.long_slots(step) == slots
    assert _none(step=step).recent.shape == (1, slots - 1, 1)


def test_errors_of_the_network_are_means_over_one_three_and_ten_slots() -> None:
    errors = np.arange(1.0, 13.0, dtype=np.float32)[None]

    _, observed = _observe(_none(), _seen(12, errors=errors))

    assert _stream(observed, "net1")[-1] == pytest.approx(12.0)
    assert _stream(observed, "net3")[-1] == pytest.approx(11.0)
    assert _stream(observed, "net10")[-1] == pytest.approx(7.5)
    # half of the ten must be known
    assert np.isnan(_stream(observed, "net10")).tolist() == [True] * 4 + [False] * 8


def test_no_number_of_a_stream_is_nought_lest_it_has_no_logarithm() -> None:
    _, observed = _observe(_none(), _seen(1, errors=np.zeros((1, 1), np.float32), shape=np.zeros((1, 1), np.float32)))

    assert _stream(observed, "net1").tolist() == [pytest.approx(TINY)]
    assert _stream(observed, "shape").tolist() == [pytest.approx(TINY)]


def _deviating(rows: Sequence[Sequence[float]], experience: Experience | None = None) -> tuple[Experience, Observed]:
    """One entity with deviations (K, F)."""
    deviations = np.array([rows], dtype=np.float32)
    metrics = deviations.shape[2]
    return _observe(experience or _none(1, metrics), _seen(len(rows), metrics=metrics, deviations=deviations))


def _fresh(rows: Sequence[Sequence[float]]) -> Observed:
    """The same, where nothing has been shown lately that it is compared with."""
    deviations = np.array(rows, dtype=np.float32)
    experience = _none(1, deviations.shape[1])
    length = news.long_slots(MINUTE) - 1
    recent = np.full((1, length, deviations.shape[1]), NAN, dtype=np.float32)
    recent[0, length - len(rows) + 1 :] = deviations[:-1]
    _, observed = _deviating(rows[-1:], replace(experience, recent=recent))
    return observed


def test_far_is_the_mean_of_the_known_metrics_and_of_three_slots_of_it() -> None:
    observed = _fresh([[3.0, NAN, 5.0], [NAN, NAN, 1.0], [2.0, 6.0, 1.0]])

    assert _stream(observed, "far1")[0] == pytest.approx(3.0)
    assert _stream(observed, "far3")[0] == pytest.approx((4.0 + 1.0 + 3.0) / 3)


def test_one_metric_counts_no_more_than_a_hundred_deviations_in_a_mean() -> None:
    assert _stream(_fresh([[1000.0, 2.0]]), "far1")[0] == pytest.approx(51.0)


def test_one_is_the_least_deviation_of_the_worst_metric_over_three_slots_and_ten() -> None:
    lasting, short = [5.0 + n / 10 for n in range(10)], [1.0] * 7 + [90.0, 40.0, 80.0]
    observed = _fresh([list(pair) for pair in zip(lasting, short, strict=True)])

    assert _stream(observed, "one3")[0] == pytest.approx(40.0)
    assert _stream(observed, "one10")[0] == pytest.approx(5.0)


def test_a_slot_without_a_value_interrupts_what_lasts() -> None:
    observed = _fresh([[9.0], [NAN], [9.0]])

    assert _stream(observed, "one3")[0] == pytest.approx(TINY)
    assert _stream(observed, "far3")[0] == pytest.approx(9.0)


def test_of_a_slot_without_any_value_nothing_is_known() -> None:
    observed = _fresh([[9.0, 9.0], [9.0, 9.0], [NAN, NAN]])

    assert np.isnan(observed.streams).all()
    assert np.isnan(observed.gross).all()
    assert np.isnan(observed.record).all()
    assert not observed.broad.any()


@pytest.mark.parametrize(
    ("rows", "is_broad"),
    [
        ([[6.1, 6.1, 6.1], [6.1, 6.1, 6.1]], True),
        ([[6.1, 6.1, 5.9], [6.1, 6.1, 6.1]], False),
        ([[6.1, 6.1, NAN], [6.1, 6.1, 6.1]], False),
        ([[6.1, 6.1], [6.1, 6.1]], False),
    ],
    ids=["three", "one too short", "one unknown before", "two"],
)
def test_three_metrics_that_deviate_for_two_slots_are_many(rows: list[list[float]], is_broad: bool) -> None:
    assert _fresh(rows).broad.tolist() == [[is_broad]]


def test_the_gross_is_the_mean_deviation_of_all_metrics_over_three_slots() -> None:
    observed = _fresh([[3.0, 5.0], [1.0, 1.0], [2.0, 4.0]])

    assert math.exp(float(observed.gross[0, 0])) == pytest.approx((4.0 + 1.0 + 3.0) / 3)


@pytest.mark.parametrize(("missed", "told"), [(0.0, 0.02), (0.5, 0.5), (1.1, 1.1)])
def test_what_a_daily_job_lacks_is_told_of_slots_with_a_value(missed: float, told: float) -> None:
    deviations = np.array([[[1.0], [NAN]]], dtype=np.float32)

    _, observed = _observe(_none(), _seen(2, deviations=deviations, missed=np.full((1, 2), missed, np.float32)))

    assert _stream(observed, "missed").tolist() == [pytest.approx(told), pytest.approx(NAN, nan_ok=True)]


# -- what has been shown lately


@pytest.mark.parametrize(("step", "half_life"), [(MINUTE, 360), (HOUR, 6), (3 * HOUR, 6)])
def test_a_lasting_deviation_fades_by_half_of_its_logarithm_in_six_hours(step: int, half_life: int) -> None:
    deviations = np.full((1, half_life + 1, 1), 99.0, dtype=np.float32)

    after, _ = _observe(_none(step=step), _seen(half_life + 1, deviations=deviations, step=step), step=step)

    # the last slot is compared with what the half-life before it has left: √100 − 1
    assert after.recent[0, -1, 0] == pytest.approx(99.0 - 9.0, rel=1e-4)


def test_a_deviation_is_new_in_its_first_slot_and_old_after_a_day() -> None:
    first, _ = _deviating([[99.0]])
    after, _ = _deviating([[99.0]] * 1441)

    assert first.recent[0, -1, 0] == 99.0
    left = 100.0 ** (1.0 - 0.5**4)
    assert after.recent[0, -1, 0] == pytest.approx(99.0 - (left - 1.0), rel=1e-3)


def test_a_further_step_behind_a_lasting_one_is_seen() -> None:
    settled, _ = _deviating([[20.0]] * 2000)

    after, _ = _deviating([[60.0]], settled)

    assert settled.recent[0, -1, 0] < 2.0
    assert after.recent[0, -1, 0] == pytest.approx(60.0 - 20.0, abs=2.0)


def test_less_than_lately_is_no_deviation() -> None:
    settled, _ = _deviating([[20.0]] * 2000)

    after, _ = _deviating([[10.0]], settled)

    assert after.recent[0, -1, 0] == 0.0


def test_while_a_metric_is_missing_what_it_has_shown_fades() -> None:
    settled, _ = _deviating([[99.0]] * 360)

    after, _ = _deviating([[NAN]] * 360, settled)

    assert np.isnan(after.recent[0, -1, 0])
    assert after.lately[0, 0] == pytest.approx(settled.lately[0, 0] / 2, rel=1e-4)


def test_metrics_have_their_own_lately() -> None:
    after, _ = _deviating([[99.0, 0.0]] * 360)

    np.testing.assert_allclose(after.lately, [[math.log(10.0), 0.0]], rtol=1e-4)


def _slow_streams(experience: Experience, seen: Seen, step: int) -> tuple[Float64, Float64]:
    """Streams (E, K, S), no logarithms, and how many metrics are far out (E, K), slot by slot."""
    entities, count, metrics = seen.deviations.shape
    rate = 1.0 - 0.5 ** (1.0 / max(6.0, 6 * HOUR / step))
    longest = max(3, min(30, round(10 * MINUTE / step)))
    found, many = np.full((entities, count, len(STREAMS)), NAN), np.zeros((entities, count))

    def mean(values: Sequence[float]) -> float:
        """Of what is known, if the newest is and half of all."""
        known = [value for value in values if not math.isnan(value)]
        return sum(known) / len(known) if not math.isnan(values[-1]) and 2 * len(known) >= len(values) else NAN

    for e in range(entities):
        lately = experience.lately[e].astype(float)
        deep = experience.recent[e].astype(float).tolist()
        for k in range(count):
            now = []
            for f in range(metrics):
                deviation = float(seen.deviations[e, k, f])
                now.append(NAN if math.isnan(deviation) else max(0.0, deviation - math.expm1(lately[f])))
                shown = 0.0 if math.isnan(deviation) else math.log1p(deviation)
                lately[f] += rate * (shown - lately[f])
            deep.append(now)
            far = []
            for row in deep[-3:]:
                known = [min(value, 100.0) for value in row if not math.isnan(value)]
                far.append(sum(known) / len(known) if known else NAN)
            least = [
                max(min(0.0 if math.isnan(row[f]) else row[f] for row in deep[-length:]) for f in range(metrics))
                for length in (3, longest)
            ]
            many[e, k] = sum(all(row[f] > 6.0 for row in deep[-2:]) for f in range(metrics))
            errors = seen.errors[e, : BEFORE + k + 1].astype(float).tolist()
            is_known = not all(math.isnan(value) for value in now)
            found[e, k] = [
                *(mean(errors[-span:]) for span in (1, 3, 10)),
                seen.shape[e, k],
                far[-1],
                mean(far),
                *(least if is_known else [NAN, NAN]),
                max(0.02, float(seen.missed[e, k])) if is_known else NAN,
            ]
    return found, many


@pytest.mark.parametrize("step", [20_000, MINUTE, HOUR])
def test_streams_are_those_of_a_slow_loop(step: int) -> None:
    experience, seen = _none(3, 2, step), _random(3, 120, 2, step=step)

    _, observed = _observe(experience, seen, step=step)

    streams, many = _slow_streams(experience, seen, step)
    np.testing.assert_allclose(observed.streams, np.log(np.maximum(streams, TINY)), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(observed.gross, observed.streams[..., STREAMS.index("far3")])
    np.testing.assert_array_equal(observed.broad, many >= 3)


# -- records


FEW = 5 * MINUTE  # a step at which ten minutes are no more than the three slots of a record


def _record(
    values: Sequence[Sequence[float]],
    *,
    rules: MetricRules | None = None,
    spread: Sequence[float] | None = None,
    step: int = FEW,
) -> list[float]:
    """How far out the slots of one entity lie, (K, F), in units of its range; NaN: unknown."""
    seen = _seen(len(values), metrics=len(values[0]), values=np.array([values], dtype=np.float32), step=step)
    usual = None if spread is None else np.array([spread], dtype=np.float32)
    _, observed = _observe(_none(1, len(values[0]), step=step), seen, rules=rules, spread=usual, step=step)
    return [float(value) for value in np.expm1(observed.record[0].astype(np.float64))]


RANGE = [[10.0], [20.0], [10.0], [20.0]]
BELOW = [[-10.0], [-20.0], [-10.0], [-20.0]]


def _fallen(value: float) -> float:
    """Units of the range that a value below RANGE, but above zero, counts."""
    return float((1.0 + (10.0 - value) / 10.0) * (10.2 / (value + 0.2)) ** 0.4 - 1.0)


def test_a_value_beyond_everything_seen_is_a_record_once_it_has_lasted_three_slots() -> None:
    assert _record([*RANGE, [40.0], [41.0], [45.0]]) == [*[0.0] * 6, pytest.approx(2.0)]
    assert _record([*BELOW, [-40.0], [-41.0], [-45.0]])[-1] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("lasts", "outside", "times"),
    [
        # what was never below 100 has a floor; both sides are raised by a hundredth of the largest, 2
        ([10.0, 8.0, 9.0], 0.9, 102.0 / 12.0),
        ([0.0, 0.0, 0.0], 1.0, 102.0 / 2.0),
        ([-100.0, -100.0, -100.0], 2.0, 102.0 / 2.0),
    ],
)
def test_a_fall_counts_by_how_many_times_lower_than_everything_seen_it_is_too(
    lasts: Sequence[float], outside: float, times: float
) -> None:
    found = _record([[100.0], [200.0], [100.0], [200.0], *([value] for value in lasts)])

    assert found[-1] == pytest.approx((1.0 + outside) * times**0.4 - 1.0, rel=1e-5)


def test_the_nearest_of_the_three_slots_counts() -> None:
    assert _record([*RANGE, [80.0], [25.0], [90.0]])[-1] == pytest.approx(0.5)


@pytest.mark.parametrize("between", [20.0, 12.0, -40.0, NAN])
def test_two_slots_are_no_record(between: float) -> None:
    assert _record([*RANGE, [40.0], [between], [40.0]])[-1] == 0.0


def test_what_has_lasted_three_slots_has_been_seen_in_the_fourth() -> None:
    found = _record([*RANGE, [40.0], [40.0], [40.0], [40.0], [40.0]])

    assert found[6:] == [pytest.approx(2.0), 0.0, 0.0]


def test_what_falls_for_some_minutes_is_a_record_of_what_was_before_them() -> None:
    falling = [[90.0], [70.0], [50.0], [30.0], [10.0], [8.0], [9.0]]
    before, after = [[100.0], [200.0]] * 6, [[9.0]] * 8

    found = _record([*before, *falling, *after], step=MINUTE)

    # of 10, 8 and 9 the nearest is 10, as if they had come at once; both sides are raised by a hundredth of the largest
    fallen = (1.0 + 0.9) * (102.0 / 12.0) ** 0.4 - 1.0
    assert found[18] == pytest.approx(fallen, rel=1e-5)
    assert found[11:14] == [0.0, 0.0, 0.0]  # 200, 90 and 70: not three slots yet


def test_what_has_lasted_ten_minutes_has_been_seen() -> None:
    found = _record([*RANGE, *RANGE, *RANGE, *[[40.0]] * 12], step=MINUTE)

    assert found[14:22] == [pytest.approx(2.0)] * 8
    assert found[22:] == [0.0, 0.0]


def test_of_several_metrics_the_farthest_counts() -> None:
    both = [[10.0, 0.0], [20.0, 1.0], [15.0, 0.5]]

    assert _record([*both, *[[30.0, 9.0]] * 3])[-1] == pytest.approx(8.0)


def test_the_range_is_taken_to_be_at_least_a_hundredth_of_the_level() -> None:
    resting = [[-1000.0]] * 3

    assert _record([*resting, *[[-980.0]] * 3])[-1] == pytest.approx(2.0)


def test_and_at_least_the_usual_spread() -> None:
    assert _record([*RANGE, *[[70.0]] * 3], spread=[25.0])[-1] == pytest.approx(2.0)
    assert _record([*RANGE, *[[40.0]] * 3], spread=[5.0])[-1] == pytest.approx(2.0)


@pytest.mark.parametrize("spread", [0.0, 1e-9])
def test_a_metric_that_was_always_nought_has_a_record_when_it_is_not(spread: float) -> None:
    calm = [[0.0]] * 4

    assert _record(calm, spread=[spread]) == [0.0] * 4
    assert _record([*calm, *[[5.0]] * 3], spread=[spread])[-1] > 1e6
    assert math.isfinite(_record([*calm, *[[3e38]] * 3], spread=[spread])[-1])


@pytest.mark.parametrize("spread", [math.inf, 1e30], ids=["of an entity", "of a metric"])
def test_where_the_model_knows_no_spread_nothing_is_a_record(spread: float) -> None:
    assert _record([[45.0], [0.0], [80.0], [80.0], [80.0]], spread=[spread])[-1] == pytest.approx(0.0, abs=1e-9)


def test_before_anything_was_seen_there_is_no_record() -> None:
    assert _record([[10.0]] * 4) == [0.0] * 4
    assert _record([[NAN, 5.0]] * 3 + [[9.0, 5.0]] * 3)[-1] == 0.0


def test_of_a_slot_without_any_value_no_record_is_known() -> None:
    found = _record([*RANGE, [NAN]])

    assert math.isnan(found[-1])


@pytest.mark.parametrize(("up", "down"), [(True, False), (False, True)])
def test_in_a_direction_that_does_not_count_there_is_no_record(up: bool, down: bool) -> None:
    rules = _rules(1, counts_up=[up], counts_down=[down])

    higher, lower = [*RANGE, *[[40.0]] * 3], [*BELOW, *[[-40.0]] * 3]

    assert _record(higher, rules=rules)[-1] == pytest.approx(2.0 if up else 0.0)
    assert _record(lower, rules=rules)[-1] == pytest.approx(2.0 if down else 0.0)


@pytest.mark.parametrize(("value", "record"), [(24.9, 0.0), (25.1, 0.51), (5.1, 0.0), (4.9, _fallen(4.9))])
def test_a_record_is_at_least_the_least_deviation(value: float, record: float) -> None:
    assert _record([*RANGE, *[[value]] * 3], rules=_rules(1, least=[5.0]))[-1] == pytest.approx(record, abs=1e-5)


@pytest.mark.parametrize(("value", "record"), [(21.9, 0.0), (22.1, 0.21), (9.1, 0.0), (8.9, _fallen(8.9))])
def test_a_record_is_at_least_the_least_share_of_the_edge(value: float, record: float) -> None:
    assert _record([*RANGE, *[[value]] * 3], rules=_rules(1, least_share=[0.1]))[-1] == pytest.approx(record, abs=1e-5)


def test_rules_of_one_metric_do_not_silence_another() -> None:
    both, out = [[10.0, 10.0], [20.0, 20.0], [15.0, 15.0]], [[40.0, 30.0]] * 3

    assert _record([*both, *out], rules=_rules(2, counts_up=[False, True]))[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(("step", "newest"), [(FEW, 3), (MINUTE, 10)])
def test_the_edges_are_those_of_all_slots_but_the_newest(step: int, newest: int) -> None:
    values = np.array([[[NAN], [5.0], [NAN], [9.0], [2.0], *[[1.0]] * newest]], dtype=np.float32)

    after, _ = _observe(_none(step=step), _seen(5 + newest, values=values, step=step), step=step)

    assert (after.lowest.tolist(), after.highest.tolist()) == ([[2.0]], [[9.0]])


# -- return periods


def _observed(
    count: int,
    *,
    streams: Float32 | None = None,
    gross: Float32 | None = None,
    is_broad: bool = False,
    record: Float32 | None = None,
) -> Observed:
    """Slots of one entity of which only what is given is known."""
    unknown = np.full((1, count), NAN, dtype=np.float32)
    return Observed(
        np.full((1, count, len(STREAMS)), NAN, dtype=np.float32) if streams is None else streams,
        np.full((1, count, len(STREAMS)), ANY, dtype=np.int16),
        unknown if gross is None else gross,
        np.full((1, count), is_broad),
        unknown if record is None else record,
    )


def _judge(
    experience: Experience, observed: Observed, *, step: int = MINUTE, metrics: int = 1, first: int = START
) -> tuple[Experience, Float32]:
    scale = np.ones(observed.streams[:, 0].shape, dtype=np.float32)
    slots = _slots(observed.gross.shape[1], step, first)
    return news.judge(experience, observed, slots=slots, scale=scale, step=step, metrics=metrics)


def _told(weeks: float, *peaks: float) -> Experience:
    """One entity that has been known for some weeks, and what gross was told of it just now, in deviations."""
    told = Peaks.none(1, 1, slot=START)
    peak = told.peak.copy()
    peak[0, 0, : len(peaks)] = [math.log(height) for height in peaks]
    return replace(_none(), told=replace(told, peak=peak, weeks=np.array([[weeks]])))


def _logs(*values: float) -> Float32:
    return np.log(np.array([values], dtype=np.float32))


def _gross(experience: Experience, size: float) -> float:
    _, found = _judge(experience, _observed(1, gross=_logs(size)))
    return float(found[0, 0, MECHANISMS.index(GROSS)])


def test_return_periods_of_streams_are_those_of_their_peaks_for_their_share_of_the_budget() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(2.5, 0.5, (1, 40, len(STREAMS))).astype(np.float32)
    x[0, rng.random((40, len(STREAMS))) < 0.1] = NAN

    _, found = _judge(_none(), _observed(40, streams=x), step=HOUR)

    peaks, scale = _none().peaks, np.ones((1, len(STREAMS)), dtype=np.float32)
    for k, slot in enumerate(_slots(40, HOUR).tolist()):
        rare = peaks.rarity(x[:, k], scale, slot=slot, step=HOUR)[0]
        peaks = peaks.learn(x[:, k], slot=slot, step=HOUR)
        for s, (name, share) in enumerate(SHARES.items()):
            least = {"far1": 3.0, "far3": 3.0, "one3": 6.0, "one10": 6.0, "missed": 0.4}.get(name, TINY)
            expected = min(rare[s] + math.log(share), (x[0, k, s] - math.log(least)) / 0.12)
            np.testing.assert_allclose(found[0, k, s], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_job_that_is_given_up_is_told_in_its_first_night_only() -> None:
    days, at = 6, STREAMS.index("missed")
    slots = _slots(days * 1440)
    streams = np.full((1, len(slots), len(STREAMS)), NAN, dtype=np.float32)
    streams[..., at] = news.NOT_MISSED
    for day in range(2, days):
        streams[0, day * 1440 + 180 : day * 1440 + 210, at] = 0.0  # all of it is missing for two bins
    start, scale = np.full((2, 1, len(STREAMS)), 0.4, dtype=np.float32)
    start[:, at] = news.NOT_MISSED
    experience = Experience.none(start, scale, metrics=1, slot=START, step=MINUTE)

    _, found = news.judge(
        experience, _observed(len(slots), streams=streams), slots=slots, scale=scale, step=MINUTE, metrics=1
    )

    periods = found[0, :, MECHANISMS.index("missed")].reshape(days, 1440).max(axis=1)
    # known for two days and three hours, and the peak that stands for what was not seen two scales above the start;
    # later by 1.2 peaks; of a share of .3
    unseen = math.log(2.125 / 7 / 0.2) + (0.0 - (news.NOT_MISSED + 2 * 0.4)) / 0.4 + math.log(0.3)
    assert periods[2] == pytest.approx(unseen, abs=0.1)
    assert periods[3] == pytest.approx(math.log(0.3 * 3.1 / 7 / 1.2), abs=0.1)
    assert (periods[[0, 1, 3, 4, 5]] < 0.0).all()


@pytest.mark.parametrize(
    ("name", "least"), [("far1", 3.0), ("far3", 3.0), ("one3", 6.0), ("one10", 6.0), ("missed", 0.4)]
)
def test_small_deviations_are_no_reason_however_rare(name: str, least: float) -> None:
    streams = np.full((1, 1, len(STREAMS)), math.log(least), dtype=np.float32)
    low = np.full((1, len(STREAMS)), -50.0, dtype=np.float32)
    peaks = Peaks.normal(low, low * 0 + 1, slot=START, weeks=100.0)

    _, found = _judge(replace(_none(), peaks=peaks), _observed(1, streams=streams))

    assert found[0, 0, MECHANISMS.index(name)] == pytest.approx(0.0, abs=1e-5)
    assert found[0, 0, MECHANISMS.index("net1")] > 5.0


@pytest.mark.parametrize(("size", "nats"), [(5.0, 0.0), (5.0 * math.exp(0.12), 1.0), (5.0 * math.exp(-0.24), -2.0)])
def test_the_gross_has_a_return_period_by_its_distance_from_the_fence(size: float, nats: float) -> None:
    assert _gross(_told(4.0), size) == pytest.approx(nats, abs=1e-5)


@pytest.mark.parametrize(
    ("weeks", "peaks", "period"),
    [
        (1.0, [70.0], math.log(2.5)),  # once in a week is less often than it may be told
        (1.0, [70.0, 80.0], math.log(2.5 / 2)),
        (1.0, [70.0] * 4, math.log(2.5 / 4)),
        (8.0, [70.0] * 4, math.log(2.5 / 4 * 8)),
        (1.0, [70.0 * math.exp(-0.09)], math.log(2.5) + 1.0),  # counts by how near it comes
    ],
)
def test_the_gross_of_one_size_is_told_some_times_a_week(weeks: float, peaks: list[float], period: float) -> None:
    assert _gross(_told(weeks, *peaks), 70.0) == pytest.approx(period, abs=1e-4)


@pytest.mark.parametrize("size", [6.0, 7.0, 9.0, 11.0])
def test_the_gross_is_told_more_often_with_the_square_of_its_size(size: float) -> None:
    assert _gross(_told(1.0, size), size) == pytest.approx(2.0 * math.log(size / 7.0), abs=1e-4)


def test_something_more_gross_is_told_anew() -> None:
    told = _told(1.0, *[20.0] * 12)

    assert _gross(told, 20.0) < -1.5
    assert _gross(told, 60.0) > 4.0


def test_the_gross_is_remembered_and_what_hit_many_metrics_hardly() -> None:
    quiet = [1.0] * 181
    few, many = (
        _judge(_none(), _observed(182, gross=_logs(50.0, *quiet), is_broad=is_broad))[0] for is_broad in (False, True)
    )

    for after, count in ((few, 1.0), (many, 0.05)):
        row = int(after.told.peak[0, 0].argmax())
        assert after.told.peak[0, 0, row] == pytest.approx(math.log(50.0))
        assert after.told.count[0, 0, row] == pytest.approx(count)


def test_what_is_far_below_the_fence_is_not_remembered_as_gross_but_known() -> None:
    after, _ = _judge(_none(), _observed(400, gross=_logs(*[1.8] * 400)))

    assert after.told.peak.max() == pytest.approx(-9.0)
    assert float(after.told.weeks[0, 0]) == pytest.approx(400 / 10_080, rel=1e-2)


def _records(known: int, record: float, *, step: int = MINUTE, metrics: int = 1) -> float:
    """Return period of a record of one entity that has been known for some slots before it."""
    before = replace(_none(), known=np.array([known - 1]))
    found = _judge(before, _observed(1, record=np.array([[record]], np.float32)), step=step, metrics=metrics)[1]
    return float(found[0, 0, MECHANISMS.index(RECORD)])


@pytest.mark.parametrize(("step", "metrics"), [(MINUTE, 1), (MINUTE, 8), (HOUR, 3)])
def test_a_record_comes_once_in_the_known_time_for_each_side_of_each_metric(step: int, metrics: int) -> None:
    period = _records(5000, math.log(3.0), step=step, metrics=metrics)

    weeks = 5000 * step / WEEK
    assert period == pytest.approx(math.log(weeks * 0.5 / (2 * metrics)) + math.log(3.0) / 0.1, abs=1e-4)


def test_a_slot_within_everything_seen_is_no_record() -> None:
    assert math.isnan(_records(5000, 0.0))


def test_slots_with_any_value_are_known() -> None:
    record = np.array([[0.0, NAN, 0.0, 1.0, NAN]], dtype=np.float32)

    after, _ = _judge(_none(), _observed(5, record=record))

    assert after.known.tolist() == [3]


def test_what_is_unknown_has_no_return_period_and_is_no_known_time() -> None:
    before = _none()

    after, found = _judge(before, _observed(3))

    assert np.isnan(found).all()
    assert (after.peaks.weeks == 0).all()
    assert (after.told.weeks == 0).all()


# -- the promise


@st.composite
def _outages(draw: st.DrawFn) -> tuple[Float32, int, int, float]:
    """A history (L, F), the metric and the direction of an outage, and how much farther it goes than it must."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    metrics, length = draw(st.integers(1, 8)), draw(st.integers(100, 400))
    sizes = st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 50.0, 1e6, 1e12])
    level = np.array(draw(st.lists(sizes, min_size=metrics, max_size=metrics))) * rng.choice([-1, 1], metrics)
    width = np.array(draw(st.lists(sizes, min_size=metrics, max_size=metrics)))
    laws = [rng.normal(0, 1, length), rng.exponential(1, length), rng.random(length) < 0.05, rng.standard_t(2, length)]
    values = level + width * laws[draw(st.integers(0, 3))][:, None]
    values[rng.random(values.shape) < draw(st.sampled_from([0.0, 0.3]))] = NAN
    metric, sign = draw(st.integers(0, metrics - 1)), draw(st.sampled_from([-1, 1]))
    values[0, metric] = level[metric]  # one at least is known
    return values.astype(np.float32), metric, sign, draw(st.floats(0.001, 1000.0))


def _after_outage(history: Float32, metric: int, sign: int, deviation: float) -> tuple[Float64, float]:
    """Values of an outage of three slots, and the return period of its record."""
    slots, metrics = history.shape
    usual = Usual.fit(history[None], _slots(slots), step=MINUTE)
    edge = float(np.nanmax(sign * history[:, metric]))
    outage = np.repeat(history[-1:], RECENT, axis=0)
    outage[:, metric] = sign * (edge + deviation * np.array([1.05, 1.0, 1.1]))
    columns = ("counts_up", "counts_down") if sign > 0 else ("counts_down", "counts_up")
    allowed = np.arange(metrics) == metric
    rules = _rules(metrics, **{columns[0]: allowed, columns[1]: ~allowed})
    seen = _seen(slots + RECENT, metrics=metrics, values=np.concatenate([history, outage])[None], step=FEW)
    experience, observed = _observe(_none(1, metrics, step=FEW), seen, spread=usual.spread, rules=rules, step=FEW)
    before = np.count_nonzero(~np.isnan(observed.record[0, :-1]))
    newest = Observed(*(getattr(observed, column.name)[:, -1:] for column in fields(Observed)))
    _, found = _judge(replace(experience, known=np.array([before])), newest, metrics=metrics)
    return outage[:, metric].astype(np.float64), float(found[0, 0, MECHANISMS.index(RECORD)])


@pytest.mark.slow
@given(_outages(), st.integers(1, 10_000))
def test_a_value_ten_ranges_beyond_everything_seen_opens_an_alert(
    case: tuple[Float32, int, int, float], entities: int
) -> None:
    history, metric, sign, more = case
    known = history[~np.isnan(history[:, metric]), metric].astype(np.float64)
    unit = max(float(np.ptp(known)), 0.01 * float(np.abs(known).max()))
    deviation = max(10.0 * unit, 1e-6) * (1.0 + more)

    values, period = _after_outage(history, metric, sign, deviation)
    _, farther = _after_outage(history, metric, sign, deviation * 1.01)

    outside = float(sign * values.min() if sign > 0 else -values.max()) - float((sign * known).max())
    assume(outside > 10.0 * unit)  # as it is in single precision
    level = threshold.level(1.0, entities)
    assert threshold.scores(np.array([period], dtype=np.float32), level)[0] >= 1.0
    assert farther > period


# -- pieces, rows and round trips


def _columns_equal(one: Experience, other: Experience) -> None:
    mine, others = one.columns(), other.columns()
    assert mine.keys() == others.keys()
    for name, values in mine.items():
        np.testing.assert_array_equal(values, others[name], err_msg=name)
        assert values.dtype == others[name].dtype


def _advance(
    experience: Experience, seen: Seen, *, spread: Float32, rules: MetricRules, step: int = MINUTE
) -> tuple[Experience, Observed, Float32]:
    after, observed = _observe(experience, seen, spread=spread, rules=rules, step=step)
    scale = np.tile(np.linspace(0.2, 1.0, len(STREAMS), dtype=np.float32), (len(seen.values), 1))
    metrics = seen.values.shape[2]
    judged, found = news.judge(after, observed, slots=seen.slots, scale=scale, step=step, metrics=metrics)
    return judged, observed, found


def _part(seen: Seen, begin: int, end: int) -> Seen:
    before = seen.values.shape[1] - len(seen.slots)
    return Seen(
        seen.slots[begin:end],
        seen.values[:, begin : before + end],
        seen.errors[:, begin : BEFORE + end],
        seen.deviations[:, begin:end],
        seen.shape[:, begin:end],
        seen.missed[:, begin:end],
    )


def _of(seen: Seen, rows: Int64) -> Seen:
    columns = (seen.values, seen.errors, seen.deviations, seen.shape, seen.missed)
    return Seen(seen.slots, *(column[rows] for column in columns))


SPREAD = np.array([[1.0, 4.0, 0.0]] * 4, dtype=np.float32)
DIRECTED = _rules(3, counts_up=[True, False, True], least=[0.0, 0.0, 3.0])


@pytest.mark.parametrize("step", [20_000, MINUTE, HOUR])
@pytest.mark.parametrize("cuts", [[*range(1, 150)], [1, 30, 31, 149], [75]], ids=["slot by slot", "odd", "halves"])
def test_slots_come_to_the_same_in_whatever_pieces(cuts: list[int], step: int) -> None:
    seen, first = _random(4, 150, 3, step=step), _none(4, 3, step)

    at_once, _, periods = _advance(first, seen, spread=SPREAD, rules=DIRECTED, step=step)
    experience, found = first, []
    for begin, end in zip([0, *cuts], [*cuts, 150], strict=True):
        experience, _, part = _advance(experience, _part(seen, begin, end), spread=SPREAD, rules=DIRECTED, step=step)
        found.append(part)

    np.testing.assert_array_equal(np.concatenate(found, axis=1), periods)
    _columns_equal(experience, at_once)
    is_said = np.any(~np.isnan(periods), axis=(0, 1)).tolist()
    assert [name for name, said in zip(MECHANISMS, is_said, strict=True) if not said] == [POOL, PRECEDENT]  # by others


def test_an_entity_alone_is_as_it_is_in_a_fleet() -> None:
    seen, first = _random(4, 150, 3), _none(4, 3)

    together, _, periods = _advance(first, seen, spread=SPREAD, rules=DIRECTED)

    for rows in (np.array([2]), np.array([3, 0])):
        alone, _, found = _advance(first.rows(rows), _of(seen, rows), spread=SPREAD[rows], rules=DIRECTED)
        np.testing.assert_array_equal(found, periods[rows])
        _columns_equal(alone, together.rows(rows))


def _experienced(entities: int, seed: int = 0) -> Experience:
    spread = np.ones((entities, 3), dtype=np.float32)
    return _advance(_none(entities, 3), _random(entities, 60, 3, seed=seed), spread=spread, rules=DIRECTED)[0]


def test_experience_is_made_again_of_its_columns() -> None:
    experience = _experienced(3)
    columns = experience.columns()

    _columns_equal(Experience.of(columns), experience)
    assert {name.split("/")[0] for name in columns} == {column.name for column in fields(Experience)}
    assert all(len(values) == 3 for values in columns.values())


def test_experience_of_some_entities_put_back_is_what_it_was() -> None:
    experience, rows = _experienced(4), np.array([2, 0])

    _columns_equal(experience.with_rows(rows, experience.rows(rows)), experience)


def test_experience_of_some_entities_is_replaced_by_that_of_others() -> None:
    experience, others, rows = _experienced(4), _experienced(2, seed=1), np.array([3, 1])

    after = experience.with_rows(rows, others)

    _columns_equal(after.rows(rows), others)
    _columns_equal(after.rows(np.array([0, 2])), experience.rows(np.array([0, 2])))
    _columns_equal(experience, _experienced(4))


def test_experience_in_parts_is_joined() -> None:
    experience = _experienced(4)

    joined = Experience.joined([experience.rows(np.array(rows)) for rows in ([0], [1, 2], [3])])

    _columns_equal(joined, experience)


def test_the_newest_slot_with_a_value_is_remembered() -> None:
    values = np.full((3, 4, 2), NAN, dtype=np.float32)
    values[0, 1, 1] = values[1, 3, 0] = 1.0

    after, _ = _observe(_none(3, 2), _seen(4, entities=3, metrics=2, values=values))
    later, _ = _observe(after, replace(_seen(1, entities=3, metrics=2), slots=_slots(1, first=START + 4 * MINUTE)))

    assert (after.last - START).tolist() == [MINUTE, 3 * MINUTE, 0]
    np.testing.assert_array_equal(later.last, after.last)


def test_at_another_step_the_newest_slots_are_not_known() -> None:
    experience = _experienced(3)

    at_hours = experience.at_step(HOUR)

    assert np.isnan(at_hours.recent).all()
    assert at_hours.recent.shape == (3, news.long_slots(HOUR) - 1, 3)
    _columns_equal(replace(at_hours, recent=experience.recent), experience)
    assert experience.at_step(MINUTE) is experience


def test_what_is_passed_in_stays_as_it_was() -> None:
    experience, seen = _experienced(4), _random(4, 400, 3, seed=3)
    copies = {name: values.copy() for name, values in experience.columns().items()}

    _advance(experience, seen, spread=SPREAD, rules=DIRECTED)

    for name, values in copies.items():
        np.testing.assert_array_equal(experience.columns()[name], values)


# -- versions that knew nothing but errors


def _tails_of_errors() -> Calibration:
    start = np.array([[1.0, 2.0, 9.0, 9.0], [3.0, 0.0, 9.0, 9.0]], dtype=np.float32)
    fleet = np.array([5.0, 6.0, 9.0, 9.0], dtype=np.float32)
    return Calibration(start, start + np.float32(0.5), fleet, fleet / np.float32(10.0))


def test_habits_of_errors_are_their_tails_for_the_streams_of_the_network() -> None:
    habits = Habits.of_errors(_tails_of_errors(), metrics=2)

    start, scale = habits.tails.at(np.array([0, 1, -1]))
    by_name = {name: (start[:, s].tolist(), scale[:, s].tolist()) for s, name in enumerate(STREAMS)}
    for name in ("net1", "net3"):
        assert by_name[name][0] == pytest.approx([0.0, math.log(3.0), math.log(5.0)])
        assert by_name[name][1] == pytest.approx([1.5, 3.5, 0.5])
    assert by_name["net10"][0] == pytest.approx([math.log(2.0), math.log(TINY), math.log(6.0)])
    assert by_name["net10"][1] == pytest.approx([2.5, 0.5, 0.6])


def test_with_habits_of_errors_other_mechanisms_say_nothing_but_that_of_records() -> None:
    habits, slots = Habits.of_errors(_tails_of_errors(), metrics=2), _slots(3)
    rows, values = np.array([0, 1]), np.full((2, 3, 2), 1e6, dtype=np.float32)

    assert np.isnan(habits.usual.deviations(values, slots, rows, MetricRules.none(2))).all()
    assert np.isnan(habits.shapes.distance(np.zeros((2, 3, 12), dtype=np.float32), rows)).all()


def test_entities_that_were_normal_for_some_weeks_have_twelve_peaks_of_each_stream() -> None:
    habits = Habits.of_errors(_tails_of_errors(), metrics=2)

    experience = Experience.normal(habits, 2, metrics=2, slot=START, step=MINUTE, weeks=1.0)

    assert np.isfinite(experience.peaks.peak).all()
    assert (experience.peaks.weeks == 1.0).all()
    assert experience.peaks.peak[1, STREAMS.index("net1"), 0] == pytest.approx(math.log(3.0) + 2 * 3.5)
    assert np.isnan(experience.lowest).all()
    assert experience.known.tolist() == [0, 0]


# -- the budget

RULES = Rules(
    open_slots=2,
    open_of=3,
    score_at_once=2.0,
    score_calm=0.875,
    close_slots=5,
    close_unknown_slots=60,
    score_critical=3.0,
    critical_slots=120,
    reopen_slots=3,
    flapping_reopenings=3,
    flapping_slots=30,
)
LAWS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Float64]] = {
    "absolute normal": lambda rng, size: np.abs(rng.normal(size=size)),
    "exponential": lambda rng, size: rng.exponential(size=size),
    "lognormal": lambda rng, size: rng.lognormal(size=size),
}


def _opened(scores: Float32) -> int:
    """Alerts that open on scores (E, K)."""
    before = np.pad(scores, ((0, 0), (RULES.before, 0)), constant_values=NAN)
    none, slots = AlertStates.none_open(len(scores)), _slots(scores.shape[1])
    _, events = decide.decide(none, before, slots=slots, rules=RULES, step=MINUTE)
    return sum(event.change is Change.OPENED for event in events)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
def test_errors_of_noise_open_no_more_alerts_a_week_than_the_budget_says(law: str) -> None:
    monitors, entities, history, weeks = 24, 10, 4000, 1
    everyone, slots = monitors * entities, history + weeks * 7 * 24 * 60
    errors = LAWS[law](np.random.default_rng(0), (everyone, slots)).astype(np.float32)

    _, observed = _observe(_none(everyone), _seen(slots, entities=everyone, errors=errors))
    tails = Tails.fit(observed.streams[:, :history])
    first = Experience.none(tails.start, tails.scale, metrics=1, slot=START, step=MINUTE)
    _, found = news.judge(first, observed, slots=_slots(slots), scale=tails.scale, step=MINUTE, metrics=1)

    periods = threshold.worst(found[:, history:])
    for budget in (0.2, 1.0, 5.0):
        scores = threshold.scores(periods, threshold.level(budget, entities))
        assert _opened(scores) / monitors / weeks <= budget
