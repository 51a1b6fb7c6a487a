"""Collector of a host monitor: records this machine's metrics, slot by slot."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from detector.config import sections as configuration
from detector.config.sections import MonitorSection

if TYPE_CHECKING:
    from detector.sources.embedded import EmbeddedSource


class HostCollector:
    """Writes this machine's metrics into a monitor's samples."""

    def __init__(self, monitor: MonitorSection, sink: EmbeddedSource) -> None:
        from detector.sources.host import HostSampler

        entity = monitor.source.entity if isinstance(monitor.source, configuration.HostSource) else ""
        self._entity = entity or socket.gethostname()
        self._metrics = monitor.metrics
        self._sink = sink
        self._sampler = HostSampler()
        self._sampler.sample(time.time())  # rates need a predecessor

    def collect(self, slot: int, at: float) -> None:
        """Stores one sample per metric. slot: epoch milliseconds; at: epoch seconds."""
        sampled = dict(zip(configuration.HOST_METRICS, self._sampler.sample(at), strict=True))
        values = [sampled[metric] for metric in self._metrics]
        count = len(values)
        self._sink.write([self._entity] * count, self._metrics, time=[slot] * count, value=values)
