"""What is usual for entities, and what they have shown, from the history that a model is trained on."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.typing import ArrayLike
from untrained import START, STEP, monitor_of, noise_history

from detector.core import shape
from detector.core.news import STREAMS, Experience, Habits, long_slots
from detector.core.peaks import HALF_LIFE, NO_NEWS
from detector.core.series import Float32, History
from detector.detect import news
from detector.times import WEEK_MS
from detector.train import habits
from detector.train.division import Plan, divide

pytestmark = pytest.mark.slow

SLOTS = 3000
DIVIDE = 2099  # fewer than 70 % train; the newer ones are long enough for runs of at most six hours to end
FAR, NET = STREAMS.index("far1"), STREAMS.index("net1")


def _errors(entities: int = 2, slots: int = SLOTS) -> Float32:
    """Errors of a network in the calibration part."""
    errors = np.random.default_rng(2).uniform(0.5, 1.5, (entities, slots)).astype(np.float32)
    errors[:, :DIVIDE] = np.nan
    return errors


def _fit(history: History, errors: Float32 | None = None) -> tuple[Habits, Experience]:
    known = _errors(len(history.entities)) if errors is None else errors
    return habits.fit(divide(Plan.of(monitor_of()), history), known)


def _changed(history: History, begin: int, end: int, by: ArrayLike, entity: int = 0) -> History:
    """The same history with the values of an entity moved for some slots."""
    values = history.values.copy()
    values[entity, begin:end] += np.asarray(by, dtype=np.float32)
    return replace(history, values=values)


def test_habits_come_from_the_training_part_only() -> None:
    history = noise_history(SLOTS)

    before, _ = _fit(history)
    same, _ = _fit(_changed(history, DIVIDE, SLOTS, 30.0))
    other, _ = _fit(_changed(history, 0, DIVIDE, 30.0))

    for one, two in ((before.usual, same.usual), (before.shapes, same.shapes)):
        for column in fields(one):
            np.testing.assert_array_equal(getattr(one, column.name), getattr(two, column.name))
    np.testing.assert_allclose(other.usual.center[0], before.usual.center[0] + 30.0, rtol=1e-6)


def test_only_peaks_of_the_calibration_part_are_remembered() -> None:
    history = noise_history(SLOTS)
    first = START + DIVIDE * STEP

    found, experience = _fit(_changed(history, 200, 203, 60.0))

    peaks = experience.peaks
    is_seen = np.isfinite(peaks.peak) & (peaks.when != START)  # one stands for what was not seen before the history
    assert is_seen.any(axis=2).all()  # in each stream
    assert (peaks.when[is_seen] >= first).all()
    start, scale = found.tails.at(np.arange(2))
    stands_for = np.where(peaks.when == START, peaks.peak, -np.inf).max(axis=2)
    np.testing.assert_allclose(stands_for, start + 2.0 * scale, rtol=1e-6)
    weeks = STEP / WEEK_MS * (0.5 ** (np.arange(SLOTS - DIVIDE) * STEP / HALF_LIFE)).sum()
    np.testing.assert_allclose(peaks.weeks[:, [FAR, NET]], weeks)


def test_the_network_s_peaks_are_those_of_its_errors() -> None:
    errors = _errors()
    errors[1, DIVIDE + 100] = 20.0

    _, experience = _fit(noise_history(SLOTS), errors)

    at = experience.peaks.peak[:, NET].argmax(axis=1)
    assert experience.peaks.peak[1, NET, at[1]] == pytest.approx(math.log(20.0))
    assert experience.peaks.when[1, NET, at[1]] == START + (DIVIDE + 100) * STEP


def test_what_was_gross_in_training_is_remembered_as_told() -> None:
    history = noise_history(SLOTS)  # a standard deviation of 2

    found, experience = _fit(_changed(history, 200, 210, 100.0))

    deviation = 100.0 / found.usual.spread[0].mean()
    told = experience.told.peak[:, 0]  # (E, PEAKS)
    assert told[0].max() == pytest.approx(math.log(deviation), abs=0.05)  # noise is a fiftieth of it
    assert START + 200 * STEP <= experience.told.when[0, 0, told[0].argmax()] < START + 210 * STEP
    assert told[1].max() <= NO_NEWS  # nothing of the other one's was


def test_how_far_values_went_is_remembered_of_both_parts_but_the_newest_slots() -> None:
    history, newest = noise_history(SLOTS), long_slots(STEP)
    for begin, by in ((50, 70.0), (DIVIDE + 50, -70.0), (SLOTS - newest, 500.0)):
        history = _changed(history, begin, begin + 1, by)

    _, experience = _fit(history)

    np.testing.assert_array_equal(experience.highest, history.values[:, :-newest].max(axis=1))
    np.testing.assert_array_equal(experience.lowest, history.values[:, :-newest].min(axis=1))
    assert (experience.highest[0] > 110.0).all()
    assert (experience.lowest[0] < -10.0).all()


def test_slots_without_any_value_are_not_known() -> None:
    history = noise_history(SLOTS, holes=[(0, slice(100, 150)), (0, slice(SLOTS - 10, None))])

    _, experience = _fit(history)

    assert experience.known.tolist() == [SLOTS - 60, SLOTS]


def _with_jobs(days: int, missing: int | None = None) -> tuple[History, int]:
    """Some days of a job at 02:00 UTC that lasts for twenty minutes, all but one; and slots to train on."""
    slots = days * 1440
    history = noise_history(slots)
    minute = history.slots // STEP % 1440
    is_job = (minute >= 120) & (minute < 140)
    if missing is not None:
        is_job &= np.arange(slots) // 1440 != missing
    values = history.values.copy()
    values[0, is_job, 0] += 40.0
    return replace(history, values=values), int(0.7 * slots)


@pytest.mark.parametrize(("days", "is_expected"), [(4, False), (14, True)])
def test_a_job_of_every_day_is_expected_of_enough_days(days: int, is_expected: bool) -> None:
    history, _ = _with_jobs(days)

    found, _ = _fit(history, np.full((2, days * 1440), np.nan, dtype=np.float32))

    expected = set(found.jobs.bin[0].tolist()) - {-1}
    assert expected == ({8, 9} if is_expected else set())
    assert not (found.jobs.bin[1] >= 0).any()


def test_a_job_that_did_not_run_in_the_calibration_part_is_remembered_as_a_peak() -> None:
    history, divided = _with_jobs(14, missing=12)
    ran, _ = _with_jobs(14)
    errors, at = np.full((2, 14 * 1440), np.nan, dtype=np.float32), STREAMS.index("missed")

    missed, never = (_fit(one, errors)[1].peaks for one in (history, ran))

    assert divided < 12 * 1440
    assert missed.peak[0, at].max() == pytest.approx(0.0, abs=0.2)
    assert never.peak[0, at].max() < -1.5
    assert never.peak[0, at].max() == pytest.approx(missed.peak[1, at].max())
    # every slot with a value is known, whether a job is due in it or not
    far = STREAMS.index("far1")
    np.testing.assert_array_equal(missed.weeks[:, at], missed.weeks[:, far])


def test_what_was_shown_before_the_end_is_what_fit_leaves_behind() -> None:
    history, errors = noise_history(SLOTS), _errors()
    data = divide(Plan.of(monitor_of()), history)
    usual, experience = habits.fit(data, errors)

    shown = habits.shown(data, usual, errors[1:], rows=np.array([1]), until=np.array([SLOTS]))

    for name, values in experience.columns().items():
        np.testing.assert_array_equal(shown.columns()[name][0], values[1], err_msg=name)


def test_what_was_shown_before_a_slot_does_not_depend_on_later_ones() -> None:
    history, errors, cut = noise_history(SLOTS), _errors(), 2600
    data = divide(Plan.of(monitor_of()), history)
    usual, _ = habits.fit(data, errors)
    later = replace(data, history=_changed(history, cut, SLOTS, 50.0))

    before, same = (habits.shown(one, usual, errors, rows=data.rows, until=np.full(2, cut)) for one in (data, later))

    for name, values in before.columns().items():
        np.testing.assert_array_equal(same.columns()[name], values, err_msg=name)
    remembered = before.peaks.when[np.isfinite(before.peaks.peak)]
    assert remembered.max() < history.slots[cut]


def test_entities_do_not_influence_each_other_but_through_the_scales_of_the_tails() -> None:
    history = noise_history(SLOTS)

    before, one = _fit(history)
    after, two = _fit(_changed(_changed(history, 300, 305, 80.0, entity=1), 2300, 2305, 80.0, entity=1))

    assert (before.tails.start[0] == after.tails.start[0]).all()
    assert (before.usual.center[0] == after.usual.center[0]).all()
    assert (before.shapes.centres[0] == after.shapes.centres[0]).all()
    mine, same = one.rows(np.array([0])).columns(), two.rows(np.array([0])).columns()
    is_first = mine["peaks/when"] == START  # it comes from the tails
    for name in mine:
        expected, found = (
            np.where(is_first, 0.0, own[name]) if name == "peaks/peak" else own[name] for own in (mine, same)
        )
        np.testing.assert_array_equal(found, expected, err_msg=name)
    assert (one.told.peak[1] != two.told.peak[1]).any()


def test_entities_that_are_judged_one_after_the_other_are_judged_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    history = noise_history(SLOTS, entities=3)

    together = _fit(history)[1].columns()
    monkeypatch.setattr(news, "_CELLS", 1)
    apart = _fit(history)[1].columns()

    for name, values in together.items():
        np.testing.assert_allclose(apart[name], values, rtol=1e-5, err_msg=name)


def test_an_entity_too_young_for_a_window_in_training_has_no_usual_shape() -> None:
    history = noise_history(SLOTS, holes=[(0, slice(0, SLOTS - 60))])  # 42 slots train, a window of 30 and a few
    younger = noise_history(SLOTS, holes=[(0, slice(0, SLOTS - 40))])  # 28 train
    plan = replace(Plan.of(monitor_of()), minimum_slots=40)

    known, unknown = (habits.fit(divide(plan, one), _errors()) for one in (history, younger))

    assert not np.isnan(known[0].shapes.centres[0]).any()
    assert np.isnan(unknown[0].shapes.centres[0]).all()
    at = STREAMS.index("shape")
    assert known[1].peaks.weeks[0, at] > 0.0
    assert unknown[1].peaks.weeks[0, at] == 0.0
    assert shape.SLOTS == 30


def test_a_metric_without_any_value_says_nothing() -> None:
    history = _changed(noise_history(SLOTS), 0, SLOTS, np.array([0.0, np.nan]))

    found, experience = _fit(history)

    assert np.isnan([experience.lowest[0, 1], experience.highest[0, 1]]).all()
    assert np.isfinite(experience.peaks.peak[0].max(axis=1)).all()
    assert all(np.isfinite(tail).all() for tail in (found.tails.start, found.tails.scale))
