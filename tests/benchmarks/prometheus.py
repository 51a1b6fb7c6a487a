"""How long reads from a real Prometheus and a real VictoriaMetrics take: python tests/benchmarks/prometheus.py [SERIES]

Half an hour of so many series of two metrics, a sample a minute; one is asked for by its name, one by a sum.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from query_servers import SERVERS, Series

from detector.config import promql
from detector.sources.prometheus import PrometheusSource, QuerySpec
from detector.sources.prometheus_api import Api

MINUTE = 60_000
NOW = int(time.time() * 1000) // MINUTE * MINUTE
QUERIES = ("m0", "sum by (instance) (m1)")


def _series(count: int) -> Iterator[Series]:
    for metric in range(len(QUERIES)):
        for n in range(count):
            labels = {"instance": f"host-{n:06d}.example.com:9100", "job": "node", "region": "eu-central-1"}
            samples = [(NOW - minute * MINUTE - 30_000, float(minute * n % 97)) for minute in range(29, -1, -1)]
            yield Series(f"m{metric}", samples, labels)


def main() -> None:
    """Prints a line for each server: the first extent, a tick's read of six slots, half an hour."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    spec = QuerySpec(("a", "b"), tuple(map(promql.parsed, QUERIES)), ("mean", "mean"), ("instance",), MINUTE)
    for kind, server in SERVERS.items():
        with tempfile.TemporaryDirectory() as folder, server(Path(folder), list(_series(count))) as url:
            source = PrometheusSource(Api(url, timeout=60.0), spec)
            began = time.perf_counter()
            source.extent(NOW)
            times = [time.perf_counter() - began]
            for slots in (6, 30):
                began = time.perf_counter()
                samples = source.read(NOW - slots * MINUTE, NOW)
                times.append(time.perf_counter() - began)
                assert len(samples) == slots * count * len(QUERIES)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{kind}: extent {times[0]:.2f} s, 6 slots {times[1]:.2f} s, 30 slots {times[2]:.2f} s, {peak} MB")


if __name__ == "__main__":
    main()
