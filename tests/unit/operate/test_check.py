"""What `detector check` says of monitors that one machine cannot keep up with."""

from __future__ import annotations

import pytest

from detector.config.sections import EmbeddedSource, MonitorSection
from detector.operate import check as checking
from detector.operate.check import Load


def _load(name: str, seconds: float, kind: str = "auto") -> Load:
    source = EmbeddedSource(type="embedded")
    table = {"name": name, "source": source, "metrics": ("load",), "model": {"kind": kind}}
    return Load(MonitorSection.model_validate(table), 90_000, seconds)


def test_monitors_that_leave_time_are_fine() -> None:
    assert checking.too_much([_load("web", 29.0), _load("db", 30.0)]) is None


@pytest.mark.parametrize(("kind", "lower"), [("auto", ", lower model.units or timesteps"), ("baseline", "")])
def test_a_tick_longer_than_its_interval_is_refused_with_what_to_change(kind: str, lower: str) -> None:
    error = checking.too_much([_load("web", 75.2, kind), _load("db", 1.0)])

    assert str(error) == (
        "monitor 'web': 90,000 entities take about 75 s a tick on this machine, but a tick comes every 60 s;"
        f" raise step to 160 s or more{lower}, or watch fewer entities"
    )


def test_monitors_that_are_too_much_together_are_refused() -> None:
    error = checking.too_much([_load("web", 45.0), _load("db", 30.0)])

    assert str(error) == (
        "monitors: ticks take about 125% of the time there is on this machine (web 75%, db 50%);"
        " raise step or score_every, or lower model.units, of the largest"
    )
