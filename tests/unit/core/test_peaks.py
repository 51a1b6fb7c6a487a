"""Peaks that are remembered, and the return period that comes from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detector.core.peaks import ANY, HALF_LIFE, NO_NEWS, PEAKS, Peaks, Tails
from detector.core.series import Float32, Float64

NAN, NONE = math.nan, -math.inf
MINUTE, HOUR, WEEK = 60_000, 3_600_000, 604_800_000
START = 1_700_000_040_000


def _column(*values: float) -> Float32:
    """Values (E, 1) of one stream."""
    return np.array(values, dtype=np.float32)[:, None]


def _remembered(*peaks: float, weeks: float = 1.0, ages: Sequence[int] = (), counts: Sequence[float] = ()) -> Peaks:
    """One entity and stream with some peaks, each seen so many milliseconds before START, and known for some weeks."""
    none = Peaks.none(1, 1, slot=START)
    peak, when, count = none.peak.copy(), none.when.copy(), none.count.copy()
    peak[0, 0, : len(peaks)] = peaks
    when[0, 0, : len(ages)] -= np.array(ages, dtype=np.int64)
    count[0, 0, : len(counts)] = counts
    return replace(none, peak=peak, when=when, count=count, weeks=np.full((1, 1), weeks))


def _rarity(peaks: Peaks, x: float, *, scale: float = 1.0, slot: int = START, step: int = MINUTE) -> float:
    return float(peaks.rarity(_column(x), _column(scale), slot=slot, step=step)[0, 0])


def _learned(peaks: Peaks, values: Sequence[float], *, step: int = MINUTE, first: int = START) -> Peaks:
    """One entity and stream after slots from `first` on."""
    for n, value in enumerate(values):
        peaks = peaks.learn(_column(value), slot=first + n * step, step=step)
    return peaks


def _kept(peaks: Peaks) -> list[tuple[float, int]]:
    """Peaks of one entity and stream, the largest first, and when they were, in milliseconds since START."""
    found = zip(peaks.peak[0, 0].tolist(), (peaks.when[0, 0] - START).tolist(), strict=True)
    return sorted(((round(peak, 5), when) for peak, when in found if peak > NONE), reverse=True)


def _nothing() -> Peaks:
    return Peaks.none(1, 1, slot=START)


# -- return periods


def _of(peaks: Peaks, row: int) -> Peaks:
    """Those of one entity."""
    return Peaks(**{column.name: getattr(peaks, column.name)[[row]] for column in fields(Peaks)})


def test_what_one_peak_of_today_reaches_comes_once_and_a_fifth_in_the_known_time() -> None:
    assert _rarity(_remembered(5.0, weeks=3.0), 5.0) == pytest.approx(math.log(3.0 / 1.2), abs=1e-6)


def test_a_peak_counts_whole_for_all_that_it_reaches() -> None:
    assert _rarity(_remembered(9.0), 5.0) == pytest.approx(-math.log(1.2), abs=1e-6)


@pytest.mark.parametrize("scale", [0.15, 1.0, 4.0])
def test_a_peak_that_does_not_reach_a_value_counts_less_by_e_for_every_three_tenths_of_a_scale(scale: float) -> None:
    period = _rarity(_remembered(5.0), 5.0 + 0.6 * scale, scale=scale)

    # the wide tail of a fifth of a peak falls by e for a whole scale
    assert period == pytest.approx(-math.log(math.exp(-2.0) + 0.2 * math.exp(-0.6)), abs=1e-5)


def test_the_wide_tail_begins_at_the_largest_peak_however_old_it_is() -> None:
    period = _rarity(_remembered(5.0, 4.0, ages=[4 * WEEK, 0]), 6.0)

    rate = 0.5 * math.exp(-1.0 / 0.3) + math.exp(-2.0 / 0.3) + 0.2 * math.exp(-1.0)
    assert period == pytest.approx(-math.log(rate), abs=1e-5)


@pytest.mark.parametrize(("weeks", "left"), [(0, 1.0), (2, 0.5**0.5), (4, 0.5), (8, 0.25), (40, 0.5**10)])
def test_a_peak_counts_half_after_four_weeks(weeks: int, left: float) -> None:
    period = _rarity(_remembered(5.0, ages=[weeks * WEEK]), 5.0)

    assert period == pytest.approx(-math.log(left + 0.2), abs=1e-5)


def test_known_time_ages_as_peaks_do() -> None:
    peaks = _remembered(5.0, weeks=3.0)

    assert float(peaks.weeks_at(START + 4 * WEEK)[0, 0]) == pytest.approx(1.5)
    assert _rarity(peaks, 5.0, slot=START + 4 * WEEK) == pytest.approx(math.log(1.5 / (0.5 + 0.2)), abs=1e-5)


def test_a_peak_of_little_weight_counts_by_its_weight() -> None:
    assert _rarity(_remembered(5.0, counts=[0.05]), 5.0) == pytest.approx(-math.log(0.05 + 0.2), abs=1e-6)


@pytest.mark.parametrize(("count", "period"), [(3, math.log(100.0 / 3.2)), (4, NO_NEWS), (12, NO_NEWS)])
def test_what_more_than_four_peaks_reach_is_no_news_however_long_everything_is_known(count: int, period: float) -> None:
    assert _rarity(_remembered(*[5.0] * count, weeks=100.0), 5.0) == pytest.approx(period, abs=1e-5)


def test_what_is_common_and_rarer_than_no_news_stays_as_rare_as_it_is() -> None:
    peaks = _remembered(*[5.0] * 12, weeks=1e-6)

    assert _rarity(peaks, 5.0, step=1) == pytest.approx(math.log(1e-6 / 12.2), abs=1e-4)


def test_at_least_one_slot_is_known() -> None:
    assert _rarity(_remembered(5.0, weeks=0.0), 5.0, step=HOUR) == pytest.approx(math.log(1 / 168 / 1.2), abs=1e-5)


def test_where_nothing_is_remembered_everything_is_as_rare_as_can_be_told() -> None:
    assert _rarity(_remembered(weeks=1.0), 5.0) == pytest.approx(math.log(1e12), abs=1e-4)


def test_what_is_unknown_has_no_return_period() -> None:
    assert math.isnan(_rarity(_remembered(*[5.0] * 12), NAN))


def _by_definition(peaks: Peaks, x: Float32, scale: Float32, slot: int, step: int) -> Float64:
    """Return periods one by one, by the formula."""
    found = np.full(x.shape, np.nan)
    for e in range(x.shape[0]):
        for s in range(x.shape[1]):
            if math.isnan(x[e, s]):
                continue
            rate, nearest = 0.0, NONE
            for p in range(PEAKS):
                behind = min((float(peaks.peak[e, s, p]) - float(x[e, s])) / float(scale[e, s]), 0.0)
                age = 0.5 ** ((slot - int(peaks.when[e, s, p])) / (4 * WEEK))
                rate += float(peaks.count[e, s, p]) * age * math.exp(behind / 0.3)
                nearest = max(nearest, behind)
            rate += 0.2 * math.exp(nearest)
            weeks = float(peaks.weeks[e, s]) * 0.5 ** ((slot - int(peaks.aged[e])) / (4 * WEEK))
            found[e, s] = math.log(max(weeks, step / WEEK) / max(rate, 1e-12))
            if rate > 4.0:
                found[e, s] = min(found[e, s], -9.0)
    return found


def test_every_entity_and_stream_has_its_own_return_period() -> None:
    rng = np.random.default_rng(0)
    shape = (4, 3)
    peaks = replace(
        Peaks.none(*shape, slot=START),
        peak=np.where(rng.random((*shape, PEAKS)) < 0.3, NONE, rng.normal(0, 2, (*shape, PEAKS))).astype(np.float32),
        when=START - rng.integers(0, 6 * WEEK, (*shape, PEAKS)),
        count=rng.choice([0.05, 1.0], (*shape, PEAKS)).astype(np.float32),
        weeks=rng.uniform(0, 8, shape),
    )
    x = np.where(rng.random(shape) < 0.2, NAN, rng.normal(0, 2, shape)).astype(np.float32)
    scale = rng.uniform(0.15, 2, shape).astype(np.float32)
    slot = START + 3 * HOUR

    periods = peaks.rarity(x, scale, slot=slot, step=MINUTE)

    np.testing.assert_allclose(periods, _by_definition(peaks, x, scale, slot, MINUTE), rtol=1e-4, atol=1e-4)
    for row in range(4):
        alone = _of(peaks, row).rarity(x[[row]], scale[[row]], slot=slot, step=MINUTE)
        np.testing.assert_array_equal(alone, periods[[row]])


@given(
    arrays.arrays(np.float32, (PEAKS,), elements=st.one_of(st.just(NONE), st.floats(-10, 10, width=32))),
    st.floats(-10, 10, width=32),
    st.floats(0, 5, width=32),
)
def test_what_is_larger_is_never_less_rare(remembered: Float32, x: float, more: float) -> None:
    peaks = _remembered(*remembered.tolist())

    assert _rarity(peaks, x) <= _rarity(peaks, x + more) + 1e-4


# -- what is learned


def test_the_largest_of_a_run_is_remembered_once_the_run_is_over() -> None:
    rise_and_fall = [1.0, 3.0, 2.5]

    assert _kept(_learned(_nothing(), [*rise_and_fall, *[0.0] * 29])) == []
    assert _kept(_learned(_nothing(), [*rise_and_fall, *[0.0] * 31])) == [(3.0, MINUTE)]


@pytest.mark.parametrize(("quiet", "kept"), [(30, []), (31, [(2.0, 0)])])
def test_a_run_ends_after_more_than_half_an_hour_without_a_comparable_value(
    quiet: int, kept: list[tuple[float, int]]
) -> None:
    assert _kept(_learned(_nothing(), [2.0, *[0.0] * quiet])) == kept


@pytest.mark.parametrize(("comparable", "kept"), [(1.31, []), (1.29, [(2.0, 0)])])
def test_a_value_less_than_seven_tenths_below_the_top_belongs_to_the_run(
    comparable: float, kept: list[tuple[float, int]]
) -> None:
    assert _kept(_learned(_nothing(), [2.0, *[0.0] * 20, comparable, *[0.0] * 20])) == kept


def test_a_run_that_goes_on_is_remembered_every_six_hours() -> None:
    peaks = _learned(_nothing(), [2.0] * 720)

    # the next begins with the slot after the one that ended the last
    assert _kept(peaks) == [(2.0, 0)]
    assert _kept(_learned(peaks, [2.0, 2.0], first=START + 720 * MINUTE)) == [(2.0, 361 * MINUTE), (2.0, 0)]


def test_a_run_that_is_cut_keeps_its_largest_up_to_the_cut() -> None:
    values = [2.0] * 300 + [2.5] + [2.0] * 59

    assert _kept(_learned(_nothing(), values)) == []
    assert _kept(_learned(_nothing(), [*values, 9.0])) == [(9.0, 360 * MINUTE)]


@pytest.mark.parametrize(("quiet", "kept"), [(5, []), (6, [(2.0, 0)])])
def test_at_hourly_steps_a_run_lasts_six_slots(quiet: int, kept: list[tuple[float, int]]) -> None:
    assert _kept(_learned(_nothing(), [2.0, *[0.0] * quiet], step=HOUR)) == kept


@pytest.mark.parametrize(("quiet", "kept"), [(5, []), (6, [(2.0, 0)])])
def test_at_daily_steps_too(quiet: int, kept: list[tuple[float, int]]) -> None:
    assert _kept(_learned(_nothing(), [2.0, *[0.0] * quiet], step=24 * HOUR)) == kept


def test_a_run_ends_while_nothing_is_known() -> None:
    assert _kept(_learned(_nothing(), [2.0, *[NAN] * 31])) == [(2.0, 0)]


def test_what_is_unknown_begins_no_run() -> None:
    peaks = _learned(_nothing(), [NAN] * 10 + [2.0, *[0.0] * 31])

    assert _kept(peaks) == [(2.0, 10 * MINUTE)]


def test_after_a_run_the_next_one_is_its_own() -> None:
    quiet = [0.0] * 181

    peaks = _learned(_nothing(), [3.0, *quiet, 2.0, *quiet])

    assert _kept(peaks) == [(3.0, 0), (2.0, 182 * MINUTE)]


def test_thirteen_peaks_leave_the_twelve_largest() -> None:
    quiet = [-9.0] * 181
    heights = [5.0, 1.0, 7.0, 2.0, 9.0, 3.0, 8.0, 4.0, 6.0, 10.0, 12.0, 11.0, 13.0]

    peaks = _learned(_nothing(), [value for height in heights for value in (height, *quiet)])

    assert [peak for peak, _ in _kept(peaks)] == [float(height) for height in range(13, 1, -1)]


def test_a_peak_below_all_that_are_remembered_is_forgotten() -> None:
    before = _remembered(*np.arange(5.0, 5.0 + PEAKS).tolist())

    after = _learned(before, [4.0, *[0.0] * 31])

    assert _kept(after) == _kept(before)


def test_a_peak_takes_the_place_of_the_smallest_with_its_time_and_weight() -> None:
    before = _remembered(*np.arange(5.0, 5.0 + PEAKS).tolist(), ages=[WEEK] * PEAKS)
    peaks = before.learn(_column(8.5), slot=START, step=MINUTE, count=_column(0.25))
    for n in range(1, 182):
        peaks = peaks.learn(_column(0.0), slot=START + n * MINUTE, step=MINUTE, count=_column(1.0))

    changed = np.flatnonzero(peaks.peak[0, 0] != before.peak[0, 0]).tolist()
    assert changed == [0]
    assert (peaks.peak[0, 0, 0], peaks.when[0, 0, 0], peaks.count[0, 0, 0]) == (8.5, START, 0.25)


def test_a_peak_counts_as_much_as_its_largest_slot() -> None:
    peaks = _nothing()
    for n, (value, count) in enumerate([(2.0, 1.0), (3.0, 0.05), (2.9, 1.0), *[(0.0, 1.0)] * 31]):
        peaks = peaks.learn(_column(value), slot=START + n * MINUTE, step=MINUTE, count=_column(count))

    assert peaks.count[0, 0][peaks.peak[0, 0] > NONE].tolist() == [pytest.approx(0.05)]


def test_unknown_slots_are_no_known_time() -> None:
    peaks = _learned(_nothing(), [0.0, NAN, 0.0, NAN, NAN, 0.0], step=HOUR)

    left = [0.5 ** (hours / 672) for hours in (5, 3, 0)]
    assert float(peaks.weeks[0, 0]) == pytest.approx(sum(left) / 168)
    assert peaks.aged.tolist() == [START + 5 * HOUR]


def test_known_time_ends_at_what_four_weeks_of_half_life_hold() -> None:
    step = 24 * HOUR

    peaks = _learned(_nothing(), [0.0] * 1400, step=step)

    assert float(peaks.weeks[0, 0]) == pytest.approx((1 / 7) / (1 - 0.5 ** (1 / 28)), rel=1e-6)


def test_a_repetition_is_less_rare_than_what_it_repeats_and_a_further_step_is_not() -> None:
    quiet = [0.0] * 181
    peaks = _learned(_remembered(0.5, weeks=4.0), [4.0, *quiet])
    at = START + 182 * MINUTE

    before, after = _rarity(_remembered(0.5, weeks=4.0), 4.0, slot=at), _rarity(peaks, 4.0, slot=at)
    further = _rarity(peaks, 8.0, slot=at)

    assert after < before - 2.0
    assert further > after + 2.0


def test_what_is_learned_leaves_what_was_remembered_as_it_was() -> None:
    before = _remembered(1.0)
    copies = {column.name: getattr(before, column.name).copy() for column in fields(before)}

    _learned(before, [5.0, *[0.0] * 400])

    for name, values in copies.items():
        np.testing.assert_array_equal(getattr(before, name), values)


class _Slow:
    """What `learn` remembers of one entity and stream, one after the other."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.peaks: list[tuple[float, int]] = []
        self.weeks, self.slot = 0.0, START
        self.run: list[tuple[float, int]] = []
        self.began = self.seen = 0

    def learn(self, x: float, slot: int) -> None:
        self.weeks *= 0.5 ** ((slot - self.slot) / (4 * WEEK))
        self.slot = slot
        if not math.isnan(x):
            self.weeks += self.step / WEEK
            if not self.run:
                self.began = slot
            top = max((height for height, _ in self.run), default=NONE)
            if x >= top - 0.7:
                self.seen = slot
            self.run.append((x, slot))
        if self.run:
            is_quiet = slot - self.seen > max(30 * MINUTE, 6 * self.step)
            if is_quiet or slot - self.began >= max(6 * HOUR, 6 * self.step):
                height = max(height for height, _ in self.run)
                self.peaks.append(next(one for one in self.run if one[0] == height))
                if len(self.peaks) > PEAKS:
                    self.peaks.remove(min(self.peaks, key=lambda one: one[0]))
                self.run = []


_HEIGHTS = st.sampled_from([NAN, NAN, 0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 4.0])


@given(st.sampled_from([MINUTE, 20 * MINUTE, HOUR, 3 * HOUR]), st.lists(_HEIGHTS, max_size=60))
def test_what_is_remembered_is_what_a_list_of_runs_holds(step: int, values: list[float]) -> None:
    slow, peaks = _Slow(step), _nothing()
    for n, value in enumerate(values):
        slow.learn(value, START + n * step)
        peaks = peaks.learn(_column(value), slot=START + n * step, step=step)

    assert _kept(peaks) == sorted(((height, when - START) for height, when in slow.peaks), reverse=True)
    assert float(peaks.weeks[0, 0]) == pytest.approx(slow.weeks)


def test_entities_and_streams_learn_apart() -> None:
    rng = np.random.default_rng(1)
    values = np.where(rng.random((200, 3, 2)) < 0.1, NAN, rng.normal(0, 2, (200, 3, 2))).astype(np.float32)
    together = Peaks.none(3, 2, slot=START)
    alone = [[_nothing() for _ in range(2)] for _ in range(3)]
    for n, x in enumerate(values):
        slot = START + n * 20 * MINUTE
        together = together.learn(x, slot=slot, step=20 * MINUTE)
        for e in range(3):
            for s in range(2):
                alone[e][s] = alone[e][s].learn(x[[e]][:, [s]], slot=slot, step=20 * MINUTE)

    for e in range(3):
        for s in range(2):
            for column in fields(Peaks):
                mine = getattr(together, column.name)[e]
                np.testing.assert_array_equal(
                    mine if column.name == "aged" else mine[s],
                    getattr(alone[e][s], column.name).reshape(mine.shape[1:]),
                )


# -- where it begins


def test_nothing_seen_yet_stands_as_one_peak_two_scales_above_the_start_of_the_tail() -> None:
    first = Peaks.first(_column(1.0, -2.0), _column(0.5, 0.25), slot=START)

    assert first.peak[:, 0, 0].tolist() == [2.0, -1.5]
    assert np.isneginf(first.peak[:, 0, 1:]).all()
    assert (first.weeks == 0.0).all()


def test_normal_weeks_stand_as_twelve_peaks_in_the_two_scales_above_the_start_of_the_tail() -> None:
    normal = Peaks.normal(_column(1.0), _column(0.5), slot=START, weeks=3.0)

    np.testing.assert_allclose(normal.peak[0, 0], [1.0 + 0.5 * 2.0 * n / 11 for n in range(11, -1, -1)], rtol=1e-6)
    assert (normal.weeks.tolist(), normal.aged.tolist()) == ([[3.0]], [START])


# -- tails


def _uniform_tail(length: int, *, top: float = 0.0, excess: Sequence[float] = ()) -> list[float]:
    """As many values ≤ `top` as make `top` their 98th percentile below some that lie above it."""
    return [top] * (length - len(excess)) + [top + more for more in excess]


def _fit(*entities: Sequence[float]) -> Tails:
    length = max(len(values) for values in entities)
    padded = [[*values, *[NAN] * (length - len(values))] for values in entities]
    return Tails.fit(np.array(padded, dtype=np.float32)[..., None])


def test_the_tail_begins_at_the_98th_percentile_of_what_is_known() -> None:
    values = np.random.default_rng(3).normal(0, 1, (2, 501, 3)).astype(np.float32)
    values[0, ::3, 1] = NAN

    tails = Tails.fit(values)

    np.testing.assert_allclose(tails.start, np.nanquantile(values.astype(np.float64), 0.98, axis=1), rtol=1e-5)
    np.testing.assert_allclose(tails.fleet_start, np.median(tails.start, axis=0), rtol=1e-5)


def test_the_fleet_falls_as_all_excesses_do_drawn_to_four_tenths() -> None:
    tails = _fit(_uniform_tail(501, excess=[1.0] * 10), _uniform_tail(251, excess=[2.0] * 5))

    # 10 and 5 excesses of 1 and 2, and 30 of .4
    assert tails.fleet_scale.tolist() == [pytest.approx((10 * 1.0 + 5 * 2.0 + 30 * 0.4) / 45)]


def test_an_entity_falls_as_its_own_excesses_do_drawn_to_the_fleet() -> None:
    tails = _fit(_uniform_tail(501, excess=[1.0] * 10), _uniform_tail(251, excess=[2.0] * 5))

    fleet = (10 * 1.0 + 5 * 2.0 + 30 * 0.4) / 45
    expected = [(10 * 1.0 + 30 * fleet) / 40, (5 * 2.0 + 30 * fleet) / 35]
    np.testing.assert_allclose(tails.scale[:, 0], expected, rtol=1e-5)


def test_no_tail_falls_faster_than_by_e_in_fifteen_hundredths() -> None:
    flat = [0.0] * 4000 + [1e-3] * 80

    tails = _fit(flat, flat, flat, flat, flat)

    assert tails.scale[:, 0].tolist() == [pytest.approx(0.15)] * 5
    assert tails.fleet_scale.tolist() == [pytest.approx(0.15)]


def test_an_entity_of_which_nothing_is_known_has_the_tail_of_the_fleet() -> None:
    tails = _fit(_uniform_tail(501, top=1.0, excess=[1.0] * 10), [NAN], _uniform_tail(501, top=3.0, excess=[1.0] * 10))

    assert tails.fleet_start.tolist() == [2.0]
    np.testing.assert_array_equal(tails.start[1], tails.fleet_start)
    np.testing.assert_allclose(tails.scale[1], tails.fleet_scale, rtol=1e-6)


def test_a_stream_that_nobody_has_begins_at_nought() -> None:
    tails = Tails.fit(np.full((2, 5, 1), NAN, dtype=np.float32))

    assert (tails.start[:, 0].tolist(), tails.fleet_start.tolist()) == ([0.0, 0.0], [0.0])
    np.testing.assert_allclose(tails.scale[:, 0], [0.4, 0.4])


def test_the_tails_of_entities_that_were_not_there_are_the_fleets() -> None:
    tails = _fit(_uniform_tail(501, top=1.0, excess=[1.0] * 10), _uniform_tail(501, top=3.0))

    start, scale = tails.at(np.array([1, -1, 0]))

    np.testing.assert_array_equal(start, np.stack([tails.start[1], tails.fleet_start, tails.start[0]]))
    np.testing.assert_array_equal(scale, np.stack([tails.scale[1], tails.fleet_scale, tails.scale[0]]))


def test_without_any_entity_everybody_has_the_tails_of_the_fleet() -> None:
    fleet = np.array([1.0, 2.0], dtype=np.float32)
    tails = Tails(fleet[None][:0], fleet[None][:0], fleet, 2 * fleet)

    start, scale = tails.at(np.array([-1, 0]))

    assert (start.tolist(), scale.tolist()) == ([[1.0, 2.0]] * 2, [[2.0, 4.0]] * 2)


def test_the_half_life_is_four_weeks() -> None:
    assert HALF_LIFE == 4 * WEEK


def test_a_peak_of_another_metric_counts_a_fifth() -> None:
    # one peak, of metric 2, far above everything asked; known for a week
    none = Peaks.none(1, 1, slot=START)
    peak, metric = none.peak.copy(), none.metric.copy()
    peak[0, 0, 0], metric[0, 0, 0] = 9.0, 2
    peaks = replace(none, peak=peak, metric=metric, weeks=np.ones((1, 1)))

    rates = {
        of: float(peaks.rate(_column(1.0), _column(1.0), slot=START, of=np.array([[of]], dtype=np.int16))[0, 0])
        for of in (2, 5, ANY)
    }

    # itself, and a fifth of a peak that is taken to lie just beyond it
    assert rates == {2: pytest.approx(1.2), 5: pytest.approx(0.24), ANY: pytest.approx(1.2)}
    assert float(peaks.rate(_column(1.0), _column(1.0), slot=START)[0, 0]) == pytest.approx(1.2)


def test_a_peak_is_of_the_metric_that_was_largest_in_its_run() -> None:
    peaks = Peaks.none(1, 1, slot=START)
    run = [(3.0, 4), (5.0, 7), (4.9, 4)]
    for n, (value, of) in enumerate([*run, *[(0.0, 1)] * (3 * 60 + 2)], start=1):
        peaks = peaks.learn(_column(value), slot=START + n * MINUTE, step=MINUTE, of=np.array([[of]], dtype=np.int16))

    kept = np.isfinite(peaks.peak[0, 0])
    assert (peaks.peak[0, 0, kept].tolist(), peaks.metric[0, 0, kept].tolist()) == ([5.0], [7])
