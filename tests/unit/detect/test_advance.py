"""Values and errors of slots to return periods: the same in whatever pieces, and each entity for itself."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from made_versions import by_size

from detector.core import scaling, shape
from detector.core.deviation import Usual
from detector.core.news import BEFORE, MECHANISMS, POOL, PRECEDENT, STREAMS, Experience, Habits
from detector.core.peaks import Tails
from detector.core.rhythm import BIN, BINS, Jobs
from detector.core.rules import MetricRules
from detector.core.series import Float32, Int64
from detector.core.shape import Shapes
from detector.detect import news
from detector.detect.news import LOOK_BACK, Norm, Slots

MINUTE, HOUR = 60_000, 3_600_000
START, E, K, F = 1_700_000_040_000, 5, 130, 3
JOBS = Jobs(
    np.tile((START // BIN + np.arange(9)) % BINS, (4, 1)),
    np.tile(np.arange(9) % (2 * F), (4, 1)),
    *np.full((2, 4, 9), 0.75, dtype=np.float32),
)
ROWS = np.array([2, -1, 0, 3, 1])


def _values(length: int, seed: int, entities: int = E) -> Float32:
    """Values with holes, and a metric that is missing for longer than a window."""
    rng = np.random.default_rng(seed)
    values = rng.normal([50.0, 0.0, 1000.0], [5.0, 1.0, 1.0], (entities, length, F)).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = np.nan
    values[0, 40:90, 1] = np.nan
    values[entities - 1, 60:64] = np.nan
    values[2, 100:] += 40.0 * np.arange(length - 100, dtype=np.float32)[:, None]
    return values


def _norm(step: int = MINUTE) -> Norm:
    """What four entities are compared with."""
    history = _values(800, seed=1, entities=4)
    slots = START - step * np.arange(800, 0, -1, dtype=np.int64)
    scales = scaling.fit(history)
    rules = replace(MetricRules.none(F), counts_up=np.array([True, False, True]))
    found = shape.statistics(scaling.apply(history, scales.center, scales.scale))
    centres, unit = zip(*(Shapes.fit(entity) for entity in found), strict=True)
    tails = Tails.fit(np.random.default_rng(2).normal(0, 1, (4, 500, len(STREAMS))).astype(np.float32))
    habits = Habits(Usual.fit(history, slots, step=step), Shapes(np.stack(centres), np.stack(unit)), JOBS, tails)
    return Norm(habits, scales, rules, step)


def _slots(step: int = MINUTE) -> Slots:
    errors = np.abs(np.random.default_rng(3).normal(0, 1, (E, BEFORE + K))).astype(np.float32)
    errors[:, ::11] = np.nan
    return Slots(START + step * np.arange(K, dtype=np.int64), ROWS, _values(LOOK_BACK + K, seed=4), errors)


def _first(norm: Norm, rows: Int64 = ROWS) -> Experience:
    return Experience.none(*norm.habits.tails.at(rows), metrics=F, slot=START, step=norm.step)


def _assert_equal(one: Experience, other: Experience) -> None:
    for name, values in one.columns().items():
        np.testing.assert_array_equal(values, other.columns()[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("step", [5_000, MINUTE, HOUR])
@pytest.mark.parametrize("cuts", [[*range(1, K)], [1, 50, 51, 120], [65]], ids=["slot by slot", "odd", "halves"])
def test_slots_come_to_the_same_in_whatever_pieces(cuts: list[int], step: int) -> None:
    norm, slots = _norm(step), _slots(step)

    at_once, periods = news.advance(norm, _first(norm), slots)
    experience, found = _first(norm), []
    for begin, end in zip([0, *cuts], [*cuts, K], strict=True):
        experience, part = news.advance(norm, experience, slots.part(begin, end))
        found.append(part)

    np.testing.assert_array_equal(np.concatenate(found, axis=1), periods)
    _assert_equal(experience, at_once)
    is_said = np.any(~np.isnan(periods), axis=(0, 1)).tolist()
    assert [name for name, said in zip(MECHANISMS, is_said, strict=True) if not said] == [POOL, PRECEDENT]  # by others


def test_an_entity_alone_is_as_it_is_in_a_fleet() -> None:
    norm, slots = _norm(), _slots()

    together, periods = news.advance(norm, _first(norm), slots)

    for rows in (np.array([1]), np.array([4, 0])):
        alone, found = news.advance(norm, _first(norm, ROWS[rows]), slots.of(rows))
        np.testing.assert_array_equal(found, periods[rows])
        _assert_equal(alone, together.rows(rows))


def test_many_entities_are_judged_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, slots = _norm(), _slots()
    at_once, periods = news.advance(norm, _first(norm), slots)

    monkeypatch.setattr(news, "blocks", partial(news.blocks, cells=2 * (LOOK_BACK + K) * F))
    in_blocks, found = news.advance(norm, _first(norm), slots)

    assert [np.arange(E)[rows].tolist() for rows in news.blocks(slots)] == [[0, 1], [2, 3], [4]]
    np.testing.assert_array_equal(found, periods)
    _assert_equal(in_blocks, at_once)


def test_of_an_entity_that_the_model_has_not_seen_its_errors_are_known_and_nothing_else() -> None:
    norm, slots = _norm(), _slots()

    _, periods = news.advance(norm, _first(norm), slots)

    known = (~np.isnan(periods[ROWS.tolist().index(-1)])).any(axis=0)
    assert [name for name, is_known in zip(MECHANISMS, known, strict=True) if is_known] == ["net1", "net3", "net10"]


def test_neither_an_entity_nor_a_metric_that_appears_is_a_record_by_its_first_values() -> None:
    history = _values(800, seed=1, entities=4)
    history[0, :, 1] = np.nan
    slots = START - MINUTE * np.arange(800, 0, -1, dtype=np.int64)
    known = _norm()
    norm = replace(known, habits=replace(known.habits, usual=Usual.fit(history, slots, step=MINUTE)))
    rng = np.random.default_rng(6)
    values = np.full((40, LOOK_BACK + K, F), np.nan, dtype=np.float32)
    values[:20, LOOK_BACK:] = rng.normal(50, 5, (20, K, F))
    values[20:, LOOK_BACK:, 1] = rng.normal(50, 5, (20, K))
    rows = np.repeat([-1, 0], 20)
    fresh = Slots(_slots().slots, rows, values, np.full((40, BEFORE + K), np.nan, dtype=np.float32))

    _, periods = news.advance(norm, _first(norm, rows), fresh)

    for mechanism in ("far1", "one3", "one10", "gross", "record"):
        assert not (periods[..., MECHANISMS.index(mechanism)] > 0.0).any()


def test_without_entities_nothing_changes() -> None:
    norm, nobody = _norm(), np.array([], dtype=np.int64)

    experience, periods = news.advance(norm, _first(norm, nobody), _slots().of(nobody))

    assert periods.shape == (0, K, len(MECHANISMS))
    assert len(experience.known) == 0


def test_a_metric_that_no_rule_counts_changes_no_deviation_and_no_shape() -> None:
    norm, slots = _norm(), _slots()
    none = np.zeros(F, dtype=np.bool_)
    deaf = replace(norm, rules=replace(norm.rules, counts_up=none, counts_down=none))

    _, observed = news.observe(deaf, _first(deaf), slots)

    far, shapes = (observed.streams[..., STREAMS.index(name)] for name in ("far1", "shape"))
    assert np.nanmax(far) == pytest.approx(np.log(1e-6))
    assert (observed.record[~np.isnan(observed.record)] == 0.0).all()
    resting = norm.habits.shapes.distance(np.zeros((E, K, shape.STATISTICS * F), dtype=np.float32), ROWS)
    is_known = news.has_shape(slots)
    assert is_known.any()
    np.testing.assert_array_equal(shapes, np.where(is_known, np.log(resting), np.nan).astype(np.float32))


def test_a_window_of_which_half_is_not_known_or_whose_newest_slot_is_not_has_no_shape() -> None:
    values = np.full((1, news.LOOK_BACK + 3, 2), np.nan, dtype=np.float32)
    values[0, -17:-1, 0] = 1.0  # sixteen slots before the last one
    nothing = np.zeros((1, 0), dtype=np.float32)

    slots = Slots(START + MINUTE * np.arange(3), np.array([0]), values, nothing)

    # 15 and 16 of the thirty are known; then the newest is not
    assert news.has_shape(slots).tolist() == [[True, True, False]]


@pytest.mark.parametrize(("metric", "is_shape"), [(0, True), (1, False)], ids=["up", "down"])
def test_a_rise_of_a_metric_that_counts_only_downward_is_no_shape(metric: int, is_shape: bool) -> None:
    norm, slots = _norm(), _slots()
    values = np.broadcast_to(norm.scales.center[slots.rows][:, None], slots.values.shape).copy()
    calm = news.statistics(norm, replace(slots, values=values))

    values[:, -10:, metric] += 20 * norm.scales.scale[slots.rows][:, [metric]]

    assert np.array_equal(news.statistics(norm, replace(slots, values=values)), calm) != is_shape


def test_nothing_remembered_is_what_training_left_behind() -> None:
    version = by_size(("a", "b"), 2, threshold=3.0, since=START)
    rows = np.array([1, -1, 0])

    first = news.first(version, rows, step=MINUTE)

    left = version.artifact.experience
    _assert_equal(first.rows(np.array([0, 2])), left.rows(np.array([1, 0])))
    tails = version.artifact.habits.tails.at(np.array([-1]))
    _assert_equal(
        first.rows(np.array([1])), Experience.none(*tails, metrics=2, slot=version.trained_until, step=MINUTE)
    )
