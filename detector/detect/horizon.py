"""Look-back of a monitor: how many slots of values, errors and decisions it keeps."""

from __future__ import annotations

import numpy as np

from detector.config.sections import MonitorSection
from detector.core import frozen, score
from detector.core.decide import Rules
from detector.core.rules import MetricRules
from detector.core.series import Int64
from detector.ports import ModelVersion
from detector.times import milliseconds


def memory_slots(monitor: MonitorSection) -> int:
    """Slots before the newest that a tick looks back on: windows, smoothing, decisions, late samples."""
    return monitor.timesteps - 1 + error_slots(monitor)


def value_slots(monitor: MonitorSection) -> int:
    """Slots whose values are kept: two windows back from the oldest slot that is decided on or corrected again."""
    rules = decision_rules(monitor)
    decided_again = rules.memory + lateness_slots(monitor)
    silent = monitor.no_data_slots + decided_again + 1 if monitor.no_data_slots else 0
    return max(2 * monitor.timesteps - 2 + decided_again, silent, scored_again(monitor))


def error_slots(monitor: MonitorSection) -> int:
    """Slots whose errors are kept: smoothing, decisions, late samples; never fewer than those with values."""
    return max(max(score.SPANS) - 1 + scored_again(monitor), value_slots(monitor))


def scored_again(monitor: MonitorSection) -> int:
    """Newest slots whose scores are needed to go on: for alerts that are open, for decisions and late samples."""
    rules = decision_rules(monitor)
    return max(1, rules.reach, rules.memory + lateness_slots(monitor))


def lateness_slots(monitor: MonitorSection) -> int:
    """Slots behind the cursor that are read again for late samples."""
    return -(-milliseconds(monitor.lateness) // monitor.step_ms)


def has_ranges(monitor: MonitorSection) -> bool:
    """Whether some values of the monitor's metrics are never valid."""
    return metric_rules(monitor).has_range


def rest_limits(monitor: MonitorSection, model: ModelVersion, rows: Int64) -> Int64:
    """Slots each metric must stay the same for to count as frozen, (E, F); rows: (E,) as of `scoring.model_rows`.

    `NEVER` where that is longer than is remembered before the oldest slot that late samples may change: whether it is
    frozen must not depend on how many slots a tick happens to see.
    """
    if model.rest is None or not model.rest.size:
        return np.full((len(rows), len(model.fleet_noise)), frozen.NEVER, dtype=np.int64)
    seen = value_slots(monitor) - lateness_slots(monitor) - decision_rules(monitor).memory
    limits = np.where((rows < 0)[:, None], frozen.NEVER, model.rest[rows])
    return np.where(limits <= seen, limits, frozen.NEVER)


def decision_rules(monitor: MonitorSection) -> Rules:
    """When alerts of a monitor open, escalate and close."""
    return Rules(**monitor.decision.model_dump(exclude={"incident_slots"}))


def metric_rules(monitor: MonitorSection) -> MetricRules:
    """What is known of a monitor's metrics."""
    rules = MetricRules.none(len(monitor.metrics))
    for rule in monitor.rules:
        f = monitor.metrics.index(rule.metric)
        rules.counts_up[f], rules.counts_down[f] = rule.direction != "down", rule.direction != "up"
        rules.least[f], rules.least_share[f] = rule.min_deviation, rule.min_deviation_percent / 100.0
        rules.lowest[f] = -np.inf if rule.valid_min is None else rule.valid_min
        rules.highest[f] = np.inf if rule.valid_max is None else rule.valid_max
    return rules
