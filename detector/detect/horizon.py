"""Horizon of a monitor: its grid, its rules, and how many slots it keeps of values, errors and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from detector.config.sections import DecisionSection, MonitorSection, RuleSection
from detector.core import score
from detector.core.decide import THRESHOLD, Rules
from detector.core.grid import Aggregate
from detector.core.news import BEFORE
from detector.core.rules import MetricRules
from detector.detect.news import LOOK_BACK
from detector.times import milliseconds

STORED_EVERY = 60
"""Slots between two stored experiences, at least. A restart goes on from the last but one."""

_LEAST_STORED = {"all": -np.inf, "anomalous": THRESHOLD, "none": np.inf}


@dataclass(frozen=True)
class Horizon:
    """Grid, rules and look-back of one monitor, computed once from its section; durations in milliseconds."""

    monitor: str  # its name
    metrics: tuple[str, ...]
    step: int
    delay: int  # after a slot's end, until the slot is complete
    aggregate: Aggregate
    timesteps: int  # slots of a network's window
    max_missing: float  # share of a window's values
    rules: Rules
    metric_rules: MetricRules
    silent: int  # slots without any data that open an alert; 0: none do
    late: int  # slots behind the cursor that are read again for late samples
    scores: int  # newest slots whose scores are needed to go on: open alerts, decisions, late samples
    values: int  # slots whose values are kept: two windows back from the oldest slot that is decided again, and one
    # window back from the oldest that is judged again
    errors: int  # slots whose errors are kept: means over slots, late samples; never fewer than those with values
    replayed: int  # slots before the cursor that a restart judges again, at most
    filled: Literal["none", "zero", "last"]  # what a slot without a row has
    hold: int  # longest time that a value holds, if it does
    forget: int  # time without a row after which an entity is gone
    max_catch_up: int
    alert_budget_per_week: float  # over all entities
    incident_span: int  # alerts that open within it of each other are one incident
    least_stored: float  # score below which none is stored
    rates: frozenset[str] = frozenset()  # metrics whose values are rates per second of a counter

    @staticmethod
    def of(section: MonitorSection) -> Horizon:
        """The horizon of a configured monitor."""
        step, rules = section.step_ms, decision_rules(section.decision)
        late = -(-milliseconds(section.lateness) // step)
        # a stored checkpoint lies up to twice as far back as late samples
        again = rules.before + 2 * late
        # and what entities had shown, up to three times
        judged = 3 * late
        scores = max(1, rules.reach, again)
        silent = section.no_data_slots + again + 1 if section.no_data_slots else 0
        window = max(section.timesteps - 1, LOOK_BACK)
        values = max(2 * (section.timesteps - 1) + again, silent, scores + window + late, LOOK_BACK + judged)
        errors = max(max(score.SPANS) - 1 + again, BEFORE + max(judged, scores + late), values)
        # the last stored experience but one lies so far back
        replayed = 2 * max(STORED_EVERY, scores) + scores + 4 * late
        return Horizon(
            monitor=section.name,
            metrics=section.metrics,
            step=step,
            delay=milliseconds(section.delay),
            aggregate=section.aggregate,
            timesteps=section.timesteps,
            max_missing=section.max_missing,
            rules=rules,
            metric_rules=metric_rules(section.metrics, section.rules),
            silent=section.no_data_slots,
            late=late,
            scores=scores,
            values=values,
            errors=errors,
            replayed=replayed,
            filled="zero" if section.aggregate in {"count", "sum"} else section.fill,
            hold=milliseconds(section.hold),
            forget=milliseconds(section.forget),
            max_catch_up=milliseconds(section.max_catch_up),
            alert_budget_per_week=section.threshold.alert_budget_per_week,
            incident_span=section.decision.incident_slots * step,
            least_stored=_LEAST_STORED[section.store_scores],
            rates=frozenset(section.rates),
        )

    @property
    def slots(self) -> int:
        """Slots before the newest that a restart looks back on: windows, means, decisions, late samples."""
        return max(self.timesteps - 1, LOOK_BACK) + max(self.errors, BEFORE + self.replayed)

    @property
    def look_back(self) -> int:
        """Milliseconds before the cursor that memory is rebuilt from."""
        return self.slots * self.step + (self.hold if self.filled == "last" else 0)

    @property
    def reopening(self) -> int:
        """Milliseconds after its closing in which an alert still matters: it may open again."""
        return self.step * self.rules.reopen_slots


def decision_rules(section: DecisionSection) -> Rules:
    """The rules by which alerts open, escalate and close."""
    return Rules(**section.model_dump(exclude={"incident_slots"}))


def metric_rules(metrics: Sequence[str], sections: Sequence[RuleSection]) -> MetricRules:
    """Rules of metrics as columns over them, (F,) each; a metric without a section has none."""
    of = {section.metric: section for section in sections}
    ruled = [of.get(metric, RuleSection(metric=metric)) for metric in metrics]
    return MetricRules(
        counts_up=np.array([rule.direction != "down" for rule in ruled], dtype=np.bool_),
        counts_down=np.array([rule.direction != "up" for rule in ruled], dtype=np.bool_),
        least=np.array([rule.min_deviation for rule in ruled], dtype=np.float32),
        least_share=np.array([rule.min_deviation_percent / 100.0 for rule in ruled], dtype=np.float32),
        lowest=np.array([-np.inf if rule.valid_min is None else rule.valid_min for rule in ruled], dtype=np.float32),
        highest=np.array([np.inf if rule.valid_max is None else rule.valid_max for rule in ruled], dtype=np.float32),
    )
