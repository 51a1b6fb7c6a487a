"""A source whose counters are read as rates per second."""

from __future__ import annotations

import numpy as np

from detector.config.sections import MonitorSection
from detector.core import rates
from detector.core.rejects import Reject
from detector.core.series import Samples
from detector.ports import Source
from detector.times import milliseconds

LONGEST_STEPS = 5
"""A rate needs a sample so many steps before at most: over a longer gap it says little of the slot it is in."""


class Rates:
    """The port `Source`: the same samples, but those of counters as rates.

    A read also looks at the time before it, as far back as a rate may reach, so that a sample has the same rate in
    whatever read it comes.
    """

    def __init__(self, source: Source, monitor: MonitorSection) -> None:
        self._source = source
        self._counters = np.array([metric in monitor.rates for metric in monitor.metrics])
        self._longest = longest(monitor)

    def read(self, start: int, end: int) -> Samples:
        """As the source does, with rates; missing for a counter's first sample, and the first after a long gap."""
        samples = self._source.read(start, end)
        # a read of its own, whose rejects belong to other reads
        return rates.of_samples(self._source.read(start - self._longest, start), samples, self._counters, self._longest)

    def extent(self, now: int) -> tuple[int, int] | None:
        """As the source does."""
        return self._source.extent(now)

    def rejects(self, now: int) -> tuple[Reject, ...]:
        """As the source does."""
        return self._source.rejects(now)


def longest(monitor: MonitorSection) -> int:
    """Longest time between two samples that make a rate, milliseconds: that for which values hold, if they do."""
    return max(LONGEST_STEPS * monitor.step_ms, milliseconds(monitor.hold) if monitor.fill == "last" else 0)
