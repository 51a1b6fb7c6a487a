"""Sensitivity: values that open an alert, by hand, and held against the path that slots take."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.config.sections import DecisionSection, RuleSection
from detector.core import decide, scaling, threshold
from detector.core.decide import AlertStates, Change
from detector.core.deviation import Usual
from detector.core.news import BEFORE, STREAMS, Experience, Habits, long_slots
from detector.core.peaks import Tails
from detector.core.rhythm import Jobs
from detector.core.rules import MetricRules
from detector.core.sensitivity import Sensitivity, Terms, blind, sensitivity
from detector.core.series import Float32
from detector.core.shape import Shapes
from detector.detect import news
from detector.detect.horizon import decision_rules, metric_rules
from detector.detect.news import LOOK_BACK, Norm, Slots

MINUTE, HOUR, WEEK = 60_000, 3_600_000, 604_800_000
START = 1_700_006_400_000  # midnight
DECISION = decision_rules(DecisionSection())  # two of three scores of 1, or one of 2
LEVEL = math.log(100.0)
F = 20  # so many that one metric hardly moves their mean


def _terms(metrics: int = F, *, rules: MetricRules | None = None) -> Terms:
    """Of one entity whose metrics are 50 ± 2 at any time."""
    of_metric, of_stream = np.ones((1, metrics), np.float32), np.zeros((1, len(STREAMS)), np.float32)
    usual = Usual(50 * of_metric, 2 * of_metric, 0 * of_metric[:, None])
    tails = Tails(of_stream, of_stream + 1, of_stream[0], of_stream[0] + 1)
    habits = Habits(usual, Shapes.none(0, metrics), Jobs.none(), tails)
    return Terms(habits, rules or MetricRules.none(metrics), DECISION, LEVEL, MINUTE)


def _experience(metrics: int = F, *, lowest: float = -1e6, highest: float = 1e6, weeks: float = 1.0) -> Experience:
    """Nothing was ever near to a peak, within a range, for some weeks."""
    start = np.full((1, len(STREAMS)), -1e3, dtype=np.float32)
    none = Experience.none(start, start * 0 + 1, metrics=metrics, slot=START, step=MINUTE)
    peaks = replace(none.peaks, weeks=np.full_like(none.peaks.weeks, weeks))
    return replace(
        none,
        peaks=peaks,
        lowest=np.full((1, metrics), lowest, dtype=np.float32),
        highest=np.full((1, metrics), highest, dtype=np.float32),
        known=np.array([round(weeks * WEEK / MINUTE)]),
    )


def _sensitivity(terms: Terms, experience: Experience, held: int = 3, row: int = 0) -> Sensitivity:
    return sensitivity(terms, experience, np.array([row]), slot=START, held=held)


# -- by hand


@pytest.mark.parametrize(
    ("held", "nats"),
    # the worst metric is asked from the third slot on: once within three slots, which takes a score of 2
    [(3, LEVEL + 4.0), (4, LEVEL), (10, LEVEL)],
)
def test_one_metric_opens_an_alert_where_its_least_deviation_leaves_the_fence(held: int, nats: float) -> None:
    found = _sensitivity(_terms(), _experience(), held)

    deviations = 6.0 * math.exp(0.12 * nats)  # of what peaks allow: nothing was ever seen
    np.testing.assert_allclose(found.above, 50.0 + 2.0 * deviations, rtol=0.01)
    np.testing.assert_allclose(found.below, 50.0 - 2.0 * deviations, rtol=0.01)
    np.testing.assert_array_equal(found.usual, np.full((1, F), 50.0))


def test_the_only_metric_opens_one_by_the_mean_over_all() -> None:
    found = _sensitivity(_terms(1), _experience(1))

    np.testing.assert_allclose(found.above, 50.0 + 2.0 * 3.0 * math.exp(0.12 * LEVEL), rtol=0.01)


def test_a_record_opens_one_where_it_is_nearer() -> None:
    experience = _experience(lowest=46.0, highest=54.0, weeks=2.0 * F / 0.5)

    found = _sensitivity(_terms(), experience)

    # so many weeks are one nat of a record; its score must be 2, since only the third of three slots is one
    outside = math.expm1(0.1 * (LEVEL + 4.0))
    np.testing.assert_allclose(found.above, 54.0 + 8.0 * outside, rtol=0.01)
    # what was never negative falls to a share of it, too; .54 is a hundredth of the largest value
    fallen = np.log1p((46.0 - found.below) / 8.0) + 0.4 * np.log(46.54 / (found.below + 0.54))
    np.testing.assert_allclose(fallen, 0.1 * (LEVEL + 4.0), rtol=0.01)


def test_what_a_metric_has_shown_lately_is_needed_on_top() -> None:
    experience = _experience()
    lately = experience.lately.copy()
    lately[0, 3] = math.log1p(40.0)

    found = _sensitivity(_terms(), replace(experience, lately=lately), 10)

    needed = 6.0 * math.exp(0.12 * LEVEL)
    assert found.above[0, 3] == pytest.approx(50.0 + 2.0 * (40.0 + needed), rel=0.01)
    assert found.above[0, 4] == pytest.approx(50.0 + 2.0 * needed, rel=0.01)


def test_a_metric_that_has_shown_the_most_lately_is_left_with_records() -> None:
    experience = _experience(weeks=2.0 * F / 0.5)
    lately = np.full_like(experience.lately, math.log1p(1000.0))

    found = _sensitivity(_terms(), replace(experience, lately=lately), 10)

    outside = math.expm1(0.1 * LEVEL)
    np.testing.assert_allclose(found.above, 1e6 + 2e6 * outside, rtol=0.01)


def test_an_episode_that_goes_on_is_left_out() -> None:
    experience = _experience()

    found = _sensitivity(_terms(), replace(experience, recent=np.full_like(experience.recent, 1000.0)))

    np.testing.assert_array_equal(found.above, _sensitivity(_terms(), experience).above)


def test_the_usual_value_is_that_of_the_time_of_day() -> None:
    terms = _terms(1)
    offset = np.zeros((1, 24, 1), dtype=np.float32)
    offset[0, 7] = 5.0
    habits = replace(terms.habits, usual=replace(terms.habits.usual, offset=offset))

    found = sensitivity(replace(terms, habits=habits), _experience(1), np.array([0]), slot=START + 7 * HOUR, held=3)

    assert found.usual[0, 0] == 60.0
    assert found.above[0, 0] == pytest.approx(60.0 + 2.0 * 3.0 * math.exp(0.12 * LEVEL), rel=0.01)


# -- what cannot open one


@pytest.mark.parametrize(
    ("rule", "above", "below"),
    [
        ({"direction": "down"}, False, True),
        ({"direction": "up"}, True, False),
        ({"valid_max": 80.0}, False, True),
        ({"valid_min": 20.0, "valid_max": 80.0}, False, False),
        ({"valid_min": -20.0, "valid_max": 120.0}, True, True),
    ],
    ids=str,
)
def test_no_value_opens_one_that_rules_do_not_count_or_call_invalid(
    rule: dict[str, object], above: bool, below: bool
) -> None:
    names = [f"m{f}" for f in range(F)]
    rules = metric_rules(names, [RuleSection(metric="m2", **rule)])

    found = _sensitivity(_terms(rules=rules), _experience())

    assert (math.isfinite(found.above[0, 2]), math.isfinite(found.below[0, 2])) == (above, below)
    assert np.isfinite(found.above[0, 3:]).all()
    np.testing.assert_array_equal(_blind(_terms(rules=rules)), np.isinf(found.above) & np.isinf(found.below))


def test_a_deviation_must_be_as_large_as_the_rules_say() -> None:
    rules = metric_rules(["m0"], [RuleSection(metric="m0", min_deviation=80.0)])

    found = _sensitivity(_terms(1, rules=rules), _experience(1))

    assert found.above[0, 0] == pytest.approx(130.0, rel=1e-3)
    assert found.below[0, 0] == pytest.approx(-30.0, rel=1e-2)


def _blind(terms: Terms) -> np.ndarray:
    return blind(terms, _experience(), np.array([0]), slot=START, held=3)


def test_nothing_opens_one_of_a_metric_or_an_entity_that_nothing_is_known_of() -> None:
    terms = _terms()
    center = terms.habits.usual.center.copy()
    center[0, 5] = np.nan
    habits = replace(terms.habits, usual=replace(terms.habits.usual, center=center))

    found = _sensitivity(replace(terms, habits=habits), _experience())
    stranger = _sensitivity(terms, _experience(), row=-1)

    for unreached in (np.isnan(found.usual), np.isinf(found.above), np.isinf(found.below)):
        np.testing.assert_array_equal(np.flatnonzero(unreached), [5])
    assert np.isnan(stranger.usual).all()
    assert np.isinf([stranger.above, stranger.below]).all()


def test_nothing_is_known_without_habits() -> None:
    terms = replace(_terms(), habits=replace(_terms().habits, usual=Usual.none(F)))

    assert _blind(terms).all()


# -- held against the path that slots take

E, M = 3, 4  # entities, metrics


def _norm(rng: np.random.Generator, rules: MetricRules, step: int) -> Norm:
    """Habits of entities with metrics of all sizes, of which one has never had a value."""
    slots = START - step * np.arange(800, 0, -1, dtype=np.int64)
    history = rng.normal([50.0, 0.0, 1000.0, 0.0], [5.0, 1.0, 300.0, 0.0], (E, len(slots), M)).astype(np.float32)
    history[0, :, 1] = np.nan
    streams = rng.normal(0, 1, (E, 500, len(STREAMS))).astype(np.float32)
    habits = Habits(Usual.fit(history, slots, step=step), Shapes.none(0, M), Jobs.none(), Tails.fit(streams))
    return Norm(habits, scaling.fit(history), rules, step)


def _run(norm: Norm, experience: Experience, values: Float32, first: int) -> tuple[Experience, Float32]:
    """The experience and the return periods after slots; values: (E, LOOK_BACK + K, F)."""
    count = values.shape[1] - LOOK_BACK
    slots = first + norm.step * np.arange(count, dtype=np.int64)
    errors = np.full((len(values), BEFORE + count), np.nan, dtype=np.float32)
    return news.advance(norm, experience, Slots(slots, np.arange(E), values, errors))


def _lived(norm: Norm, rng: np.random.Generator) -> tuple[Experience, int]:
    """What entities have shown in some hundred slots with episodes, and then usual ones; and the slot after them."""
    episodes, calm = int(rng.integers(1, 400)), long_slots(norm.step)
    first = START + norm.step * int(rng.integers(0, 300))
    slots = first + norm.step * np.arange(-LOOK_BACK, episodes + calm, dtype=np.int64)
    values = norm.habits.usual.medians(slots, np.arange(E))
    far = np.cumsum(rng.random(values.shape) < 0.02, axis=1) % 3 == 1
    spread = np.minimum(norm.habits.usual.spread, np.float32(1e6))[:, None]
    off = (rng.normal(0, 1, values.shape) * np.where(far, rng.uniform(1, 60), 1.0)).astype(np.float32)
    values[:, :-calm] += (off * spread)[:, :-calm]
    start = norm.habits.tails.at(np.arange(E))
    return _run(norm, Experience.none(*start, metrics=M, slot=first, step=norm.step), values, first)[0], int(
        slots[-1] + norm.step
    )


def _alerts(norm: Norm, experience: Experience, held: Float32, *, entity: int, metric: int, slot: int) -> bool:
    """Whether an alert opens while a metric is held, by the path that slots of a monitor take; held: (K,)."""
    slots = slot + norm.step * np.arange(-LOOK_BACK, len(held), dtype=np.int64)
    values = norm.habits.usual.medians(slots, np.arange(E))
    values[entity, LOOK_BACK:, metric] = held
    _, periods = _run(norm, experience, values, slot)
    scores = threshold.scores(threshold.worst(periods), LEVEL)
    before = np.full((E, DECISION.before), np.nan, dtype=np.float32)
    _, events = decide.decide(
        AlertStates.none_open(E),
        np.concatenate([before, scores], axis=1),
        slots=slots[LOOK_BACK:],
        rules=DECISION,
        step=norm.step,
    )
    return any(event.change is Change.OPENED and event.entity == entity for event in events)


_RULES = [
    [],
    [RuleSection(metric="a", direction="up"), RuleSection(metric="c", direction="down")],
    [RuleSection(metric="a", min_deviation=300.0), RuleSection(metric="c", min_deviation_percent=900.0)],
    [RuleSection(metric="a", valid_min=0.0, valid_max=100.0)],
]


@pytest.mark.slow
@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from(_RULES), st.sampled_from([MINUTE, HOUR]), st.booleans())
def test_a_little_further_opens_an_alert_and_a_little_less_does_not(
    seed: int, sections: list[RuleSection], step: int, is_long: bool
) -> None:
    rng = np.random.default_rng(seed)
    rules = metric_rules("abcd", sections)
    norm = _norm(rng, rules, step)
    experience, slot = _lived(norm, rng)
    held = max(4, long_slots(step)) if is_long else 3

    terms = Terms(norm.habits, rules, DECISION, LEVEL, step)

    found = sensitivity(terms, experience, np.arange(E), slot=slot, held=held)

    is_blind = blind(terms, experience, np.arange(E), slot=slot, held=held)
    np.testing.assert_array_equal(is_blind, np.isinf(found.above) & np.isinf(found.below))
    assert is_blind[0, 1]
    for entity, metric in np.argwhere(~np.isnan(found.usual)).tolist():
        usual = float(found.usual[entity, metric])
        for told, most in ((found.above, rules.highest), (found.below, rules.lowest)):
            value = float(told[entity, metric])
            further, less = (usual + (value - usual) * share for share in (1.01, 0.99))
            if math.isinf(value):
                spread = float(norm.habits.usual.spread[entity, metric])
                value = (
                    float(most[metric]) if np.isfinite(most[metric]) else usual + math.copysign(1e12 * spread, value)
                )
                further, less = math.nan, value
            opened = [
                _alerts(norm, experience, np.full(held, one, np.float32), entity=entity, metric=metric, slot=slot)
                for one in (less, further)
            ]
            assert opened == [False, not math.isnan(further)], (entity, metric, value)
