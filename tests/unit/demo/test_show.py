"""The demo's sums: every alert is a fault's, the echo of one, or false."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from detector.config.sections import EmbeddedSource, MonitorSection
from detector.demo import show
from detector.demo.show import Fault

MONITOR = MonitorSection(
    name="demo",
    source=EmbeddedSource(type="embedded"),
    metrics=("cpu",),
    step=timedelta(seconds=5),
    timesteps=30,  # a window of 150 s
)
FAULTS = [Fault("leak", 1_000_000, 1_200_000), Fault("frozen", 2_000_000, 2_100_000)]


def _alert(opened: int, detected: int) -> Any:
    return SimpleNamespace(
        episode=SimpleNamespace(opened_slot=opened), detected_at=detected, explanation={"metrics": []}
    )


def test_each_alert_is_counted_once() -> None:
    during, echo, much_later, before = (
        _alert(1_010_000, 1_015_000),
        _alert(1_345_000, 1_350_000),  # 145 s after the fault's end
        _alert(1_355_000, 1_360_000),  # 155 s after it
        _alert(900_000, 905_000),
    )

    found, echoes, false = show.compare(FAULTS, [before, during, echo, much_later], MONITOR)

    assert [finding.alerts for finding in found] == [[during], []]
    assert echoes == [echo]
    assert false == [before, much_later]
