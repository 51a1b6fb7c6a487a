"""Metrics of this machine: what is not known yet, or not any more, is missing and never 0."""

from __future__ import annotations

import math
from types import SimpleNamespace

import psutil
import pytest

from detector.sources.host import METRICS, HostSampler

RATES = [name for name in METRICS if name.endswith("_per_second")]
DISK = "disk_read_bytes_per_second"


def _sampled(sampler: HostSampler, at: float) -> dict[str, float]:
    return dict(zip(METRICS, sampler.sample(at), strict=True))


def _disk(monkeypatch: pytest.MonkeyPatch, total: int | None) -> None:
    counters = None if total is None else SimpleNamespace(read_bytes=total, write_bytes=total)
    monkeypatch.setattr(psutil, "disk_io_counters", lambda nowrap: counters)


def test_a_rate_is_missing_until_there_are_two_samples() -> None:
    sampler = HostSampler()

    first, second = _sampled(sampler, 100.0), _sampled(sampler, 160.0)

    assert all(math.isnan(first[name]) for name in ("cpu_percent", *RATES))
    assert all(second[name] >= 0.0 for name in RATES)


def test_a_rate_is_the_increase_of_its_counter_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = HostSampler()
    _disk(monkeypatch, 1000)
    sampler.sample(100.0)

    _disk(monkeypatch, 7000)

    assert _sampled(sampler, 160.0)[DISK] == 100.0


@pytest.mark.parametrize(("total", "at"), [(500, 160.0), (None, 160.0), (7000, 40.0)], ids=["reset", "gone", "clock"])
def test_a_rate_is_missing_where_a_counter_or_the_clock_went_back(
    monkeypatch: pytest.MonkeyPatch, total: int | None, at: float
) -> None:
    sampler = HostSampler()
    _disk(monkeypatch, 1000)
    sampler.sample(100.0)

    _disk(monkeypatch, total)

    assert math.isnan(_sampled(sampler, at)[DISK])
