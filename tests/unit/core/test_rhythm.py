"""Daily jobs: which are expected, and when one has not run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
import pytest

from detector.core import rhythm
from detector.core.deviation import Usual
from detector.core.rhythm import BIN, Bins, Jobs, Norm
from detector.core.rules import MetricRules
from detector.core.series import Float32, Float64, Int64
from detector.times import DAY_MS

MINUTE = 60_000
MONDAY = 1_772_409_600_000  # 2026-03-02
DAY = 1440  # slots of a minute
TRAINED = 8  # days, a weekend among them
NAN = math.nan
ALL = range(TRAINED + 1)


def _slots(days: int, step: int = MINUTE) -> Int64:
    return MONDAY + step * np.arange(days * DAY_MS // step, dtype=np.int64)


def _day(
    *, days: range = ALL, at: int = 150, length: int = 20, size: float = 28.0, shift: dict[int, int] | None = None
) -> Float32:
    """A metric of 10 ± 2 with a job of some slots on some of nine days, (1, 9 · DAY, 1); shift: slots later by day."""
    values = np.random.default_rng(0).normal(10.0, 2.0, (1, (TRAINED + 1) * DAY, 1)).astype(np.float32)
    for day in days:
        begin = day * DAY + at + (shift or {}).get(day, 0)
        values[0, begin : begin + length] += size
    return values


def _norm(values: Float32, *, days: int = TRAINED, rules: MetricRules | None = None, step: int = MINUTE) -> Norm:
    slots, trained = _slots(days, step), values[:, : days * DAY_MS // step]
    usual = Usual.fit(trained, slots, step=step)
    jobs = Jobs.fit(trained, slots, usual, step=step)
    return Norm(usual, jobs, rules or MetricRules.none(values.shape[2]), step)


def _lacks(norm: Norm, values: Float32) -> Float32:
    """What a job lacks in each slot of nine days, (9 · DAY,)."""
    padded = np.pad(values, ((0, 0), (rhythm.LASTS - 1, 0), (0, 0)), constant_values=NAN)
    none = Bins.none(1, values.shape[2], slot=MONDAY)
    _, missed = none.follow(norm, padded, _slots(values.shape[1] // DAY), np.zeros(1, dtype=np.int64))
    return np.asarray(missed[0])


def _at(jobs: Jobs) -> set[tuple[int, int]]:
    """Bins and columns of the jobs of the first entity."""
    return {(b, c) for b, c in zip(jobs.bin[0].tolist(), jobs.column[0].tolist(), strict=True) if b >= 0}


# -- what is expected


def test_a_job_of_every_day_is_expected_in_its_own_bins() -> None:
    jobs = _norm(_day()).jobs

    assert _at(jobs) == {(10, 0), (11, 0)}  # 02:30 to 02:50
    spread = float(_norm(_day()).usual.spread[0, 0])
    # the least of eight days lies a few deviations below 38, and what is around it a little above 10
    np.testing.assert_allclose(jobs.level[0], 28.0 / spread, atol=1.5)
    np.testing.assert_allclose(jobs.gap[0], 27.0 / spread, atol=1.5)


def test_a_dip_is_expected_as_a_fall() -> None:
    assert _at(_norm(_day(size=-28.0)).jobs) == {(10, 1), (11, 1)}


def test_a_job_at_midnight_is_expected_on_both_sides_of_it() -> None:
    assert _at(_norm(_day(at=DAY - 10, length=20, days=range(TRAINED))).jobs) == {(95, 0), (0, 0)}


@pytest.mark.parametrize(
    "values",
    [
        _day(days=range(0)),
        _day(size=6.0),
        _day(days=range(5)),
        _day(length=2),
        _day(at=540, length=480),
    ],
    ids=["none", "too small", "on working days", "too short", "a working day"],
)
def test_what_is_no_job_of_every_day_is_not_expected(values: Float32) -> None:
    assert _at(_norm(values).jobs) == set()


def test_a_slow_wave_is_no_job() -> None:
    hours = np.arange((TRAINED + 1) * DAY) / 60 % 24
    wave = 20.0 * np.exp(-(((hours - 20.0) / 1.5) ** 2))

    assert _at(_norm(_day(days=range(0)) + wave[None, :, None].astype(np.float32)).jobs) == set()


def test_a_job_that_begins_now_and_then_ten_minutes_later_is_expected_and_not_missed() -> None:
    values = _day(at=145, shift={day: 10 * (day % 2) for day in ALL})
    norm = _norm(values)

    assert (10, 0) in _at(norm.jobs)
    assert _lacks(norm, values).max() < 0.4


@pytest.mark.parametrize(("days", "is_expected"), [(3, False), (5, False), (6, True)])
def test_four_days_and_one_of_a_weekend_must_be_known(days: int, is_expected: bool) -> None:
    jobs = _norm(_day(), days=days).jobs

    assert bool(_at(jobs)) == is_expected


def test_a_day_without_most_of_the_bins_values_does_not_tell_that_the_job_did_not_run() -> None:
    values = _day()
    values[0, 3 * DAY + 150 : 3 * DAY + 170] = NAN

    assert _at(_norm(values).jobs) == {(10, 0), (11, 0)}


@pytest.mark.parametrize(("weeks", "is_expected"), [(1, False), (2, True)])
def test_one_day_of_fourteen_may_be_without_it(weeks: int, is_expected: bool) -> None:
    values = np.concatenate([_day(days=range(7))[:, : 7 * DAY]] * weeks, axis=1)
    values[0, 2 * DAY + 150 : 2 * DAY + 170] -= 28.0

    assert bool(_at(_norm(values, days=7 * weeks).jobs)) == is_expected


@pytest.mark.parametrize(("minutes", "is_expected"), [(5, True), (6, False), (15, False)])
def test_nothing_is_expected_where_a_bin_has_fewer_than_three_slots(minutes: int, is_expected: bool) -> None:
    step = minutes * MINUTE
    values = _day(length=30)[:, ::minutes]

    assert bool(_at(_norm(values, step=step).jobs)) == is_expected


def test_the_clearest_jobs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.concatenate([_day(at=150), _day(at=600, size=40.0)], axis=2)
    values[..., 1] += 20.0 * (_day(at=900)[..., 0] > 25.0)
    monkeypatch.setattr(rhythm, "MOST_JOBS", 2)

    jobs = _norm(np.concatenate([values, values * NAN])).jobs

    assert jobs.bin.shape == (2, 2)
    assert (np.diff(jobs.gap[0]) <= 0).all()
    assert _at(jobs) == {(40, 1), (41, 1)}
    assert (jobs.bin[1] == -1).all()


def test_entities_are_fitted_alone_as_they_are_together() -> None:
    values = np.concatenate([_day(), _day(at=600, size=-40.0), _day(days=range(0))])

    together = _norm(values).jobs

    for row in range(3):
        alone = _norm(values[[row]]).jobs
        width = alone.bin.shape[1]
        for column in fields(Jobs):
            np.testing.assert_array_equal(getattr(together, column.name)[[row], :width], getattr(alone, column.name))
        assert (together.bin[row, width:] == -1).all()


# -- what is missed


def test_a_job_that_does_not_run_is_told_while_the_next_bins_go_on() -> None:
    values = _day(days=range(TRAINED))

    lacks = _lacks(_norm(values), values)

    told = np.flatnonzero(lacks > 0.4) - TRAINED * DAY
    # bins 10 and 11 are over with the bins after them: told from 03:00 to 03:30
    assert told.tolist() == list(range(180, 210))
    assert lacks[TRAINED * DAY + 180 : TRAINED * DAY + 210] == pytest.approx(1.0, abs=0.2)


def test_a_dip_that_does_not_come_is_told() -> None:
    values = _day(days=range(TRAINED), size=-28.0)

    assert _lacks(_norm(values), values)[TRAINED * DAY :].max() == pytest.approx(1.0, abs=0.2)


def test_a_job_at_midnight_that_does_not_run_is_told_after_it() -> None:
    values = _day(days=range(TRAINED - 1), at=DAY - 10)  # the last one begins on the seventh day

    told = np.flatnonzero(_lacks(_norm(values, days=TRAINED - 1), values) > 0.4)

    # of bin 95 after bin 0, of bin 0 after bin 1
    assert told.tolist() == list(range(TRAINED * DAY + 15, TRAINED * DAY + 45))


@pytest.mark.parametrize("shift", [-10, 10])
def test_a_job_that_runs_ten_minutes_early_or_late_is_not_missed(shift: int) -> None:
    values = _day(shift={TRAINED: shift})

    assert _lacks(_norm(values), values).max() < 0.4


def test_a_gap_in_the_data_says_nothing_of_a_job() -> None:
    values = _day(days=range(TRAINED))
    values[0, TRAINED * DAY + 150 : TRAINED * DAY + 160] = NAN

    assert _lacks(_norm(values), values).max() < 0.4


def test_a_job_is_not_missed_where_the_level_changes_but_the_rise_is_there() -> None:
    values = _day()
    values[0, TRAINED * DAY :] -= 25.0

    assert _lacks(_norm(values), values).max() < 0.4


@pytest.mark.parametrize(
    ("changes", "is_told"),
    [
        ({"counts_down": False}, False),
        ({"counts_up": False}, True),
        ({"least": 24.0}, True),
        ({"least": 35.0}, False),
        ({"least_share": 0.5}, True),
        ({"least_share": 0.9}, False),
    ],
    ids=str,
)
def test_a_rise_that_is_missing_is_a_fall_to_the_rules(changes: dict[str, float], is_told: bool) -> None:
    values, none = _day(days=range(TRAINED)), MetricRules.none(1)
    rules = replace(none, **{name: np.full(1, v, dtype=getattr(none, name).dtype) for name, v in changes.items()})

    lacks = _lacks(_norm(values, rules=rules), values)

    assert bool((lacks > 0.4).any()) == is_told


def test_of_an_entity_that_was_not_there_nothing_is_expected() -> None:
    values = _day(days=range(TRAINED))
    none = Bins.none(1, 1, slot=MONDAY)

    missed = none.follow(_norm(values), values, _slots(TRAINED + 1)[2:], np.array([-1]))[1]

    assert not missed.any()


# -- against a slow loop


def _noisy(entities: int = 3, days: int = 2) -> tuple[Norm, Float32, Int64, Int64]:
    """Values with gaps, and jobs in every bin of the day."""
    rng = np.random.default_rng(4)
    values = rng.normal(0.0, 2.0, (entities, 2 + days * DAY, 2)).astype(np.float32)
    values[rng.random(values.shape) < 0.05] = NAN
    values[0, 300:420] = NAN
    one = np.ones((entities, 2), dtype=np.float32)
    jobs = Jobs(
        np.tile(np.arange(96), (entities, 1)),
        rng.integers(0, 4, (entities, 96)),
        rng.uniform(0.5, 4.0, (entities, 96)).astype(np.float32),
        rng.uniform(1.0, 3.0, (entities, 96)).astype(np.float32),
    )
    norm = Norm(Usual(0 * one, one, 0 * one[:, None]), jobs, MetricRules.none(2), MINUTE)
    return norm, values, MONDAY + 7 * MINUTE + MINUTE * np.arange(days * DAY, dtype=np.int64), np.array([2, 0, -1])


def _slow(norm: Norm, values: Float32, slots: Int64, row: int) -> Iterator[float]:
    """What a job of one entity lacks at each slot; values: (2 + K, 2)."""
    v = values.astype(float)
    moves: dict[int, list[list[float]]] = {}
    known: dict[int, list[int]] = {}
    for k, slot in enumerate(slots.tolist()):
        last = [v[k : k + 3, f] for f in (0, 1)]
        move = [min(x) for x in last] + [-max(x) for x in last]
        whole = [not any(map(math.isnan, x)) for x in last] * 2
        moves.setdefault(slot // BIN, []).append(
            [m if is_whole else NAN for m, is_whole in zip(move, whole, strict=True)]
        )
        counts = known.setdefault(slot // BIN, [0, 0])
        for f in (0, 1):
            counts[f] += not math.isnan(v[k + 2, f])

    def largest(b: int, column: int) -> float:
        if known.get(b, [0, 0])[column % 2] < 10:
            return NAN
        return max((m[column] for m in moves[b] if not math.isnan(m[column])), default=NAN)

    first = slots[0] // BIN
    for slot in slots.tolist():
        now, found = slot // BIN, 0.0
        for j in range(96) if row >= 0 else ():
            if norm.jobs.bin[row, j] != (now - 2) % 96:
                continue
            column = int(norm.jobs.column[row, j])
            around = NAN
            for b in range(first, now - 3):
                value = largest(b, column)
                if math.isnan(around):
                    around = value
                elif not math.isnan(value):
                    around += (1 - 0.5**0.25) * (value - around)
            reached = [largest(b, column) for b in (now - 3, now - 2, now - 1)]
            if math.isnan(sum(reached) + around):
                continue
            level, gap = float(norm.jobs.level[row, j]), float(norm.jobs.gap[row, j])
            found = max(found, min(level - max(reached), gap - (max(reached) - around)) / gap)
        yield found


def test_what_a_job_lacks_is_what_a_slow_loop_finds() -> None:
    norm, values, slots, rows = _noisy(days=1)

    _, missed = Bins.none(3, 2, slot=int(slots[0])).follow(norm, values, slots, rows)

    slow: Float64 = np.array([list(_slow(norm, values[e], slots, row)) for e, row in enumerate(rows.tolist())])
    np.testing.assert_allclose(missed, slow, atol=1e-5)
    assert (missed[:2] > 0.4).any(axis=1).all()
    assert (missed[2] == 0.0).all()


@pytest.mark.parametrize("cuts", [[*range(1, 2 * DAY)], [1, 8, 9, 1000]], ids=["slot by slot", "odd"])
def test_slots_come_to_the_same_in_whatever_pieces(cuts: list[int]) -> None:
    norm, values, slots, rows = _noisy()
    none = Bins.none(3, 2, slot=int(slots[0]))
    at_once, missed = none.follow(norm, values, slots, rows)

    state, found = none, []
    for begin, end in zip([0, *cuts], [*cuts, len(slots)], strict=True):
        state, part = state.follow(norm, values[:, begin : end + 2], slots[begin:end], rows)
        found.append(part)

    np.testing.assert_array_equal(np.concatenate(found, axis=1), missed)
    for column in fields(Bins):
        np.testing.assert_array_equal(getattr(state, column.name), getattr(at_once, column.name))


def test_entities_at_times_of_their_own_are_judged_as_alone() -> None:
    norm, values, slots, rows = _noisy()
    own = slots + np.array([[0], [7], [300]]) * MINUTE
    none = Bins.none(3, 2, slot=int(slots[0]))

    _, missed = none.follow(norm, values, own, rows)

    for e in range(3):
        alone = Bins.none(1, 2, slot=int(slots[0])).follow(norm, values[[e]], own[e], rows[[e]])[1]
        np.testing.assert_array_equal(missed[[e]], alone)
