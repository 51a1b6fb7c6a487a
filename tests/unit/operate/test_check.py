"""The dry run: what the daemon would do, and monitors that one machine cannot keep up with."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from migrated import migrate

from detector import database
from detector.config.sections import Config, EmbeddedSource, MonitorSection
from detector.errors import SourceUnavailable
from detector.operate import check as checking
from detector.operate.check import Load, Parts
from detector.ports import Notifier, Source
from detector.sources.embedded import EmbeddedSource as EmptySource
from detector.store import schema

NOW = round(datetime(2026, 11, 27, 20, 48, tzinfo=UTC).timestamp() * 1000)  # a Friday


def _monitor(name: str = "web", **settings: object) -> MonitorSection:
    source = EmbeddedSource(type="embedded")
    return MonitorSection.model_validate({"name": name, "source": source, "metrics": ("load",), **settings})


def _load(name: str, seconds: float, kind: str = "auto") -> Load:
    return Load(_monitor(name, model={"kind": kind}), 90_000, seconds)


def _checked(tmp_path: Path, monitor: MonitorSection, *, answers: bool) -> list[dict[str, Any]]:
    """Rows of a check of one monitor whose source is empty, or does not answer."""
    url = f"sqlite:///{tmp_path}/detector.db"
    engine = database.connect(url)
    migrate(engine)

    def opened(_monitor: object) -> Source:
        if not answers:
            msg = "cannot reach the source"
            raise SourceUnavailable(msg)
        return EmptySource(engine, monitor.name, monitor.metrics)

    def notifier(_section: object) -> Notifier:
        raise AssertionError("there is none")

    config = Config.model_validate({"database": {"url": url}, "monitors": [monitor]})
    rows, _ = checking.check(config, Parts(engine, opened, lambda _monitor: None, notifier), NOW)
    engine.dispose()
    return rows


def test_next_runs_show_weekday_and_zone() -> None:
    expected = ["Sun 2026-11-29 03:00 UTC", "Sun 2026-12-06 03:00 UTC"]

    assert checking.next_runs("0 3 * * sun", NOW) == expected


def test_numbered_weekday_is_shown_as_a_crontab_reads_it() -> None:
    assert checking.next_runs("0 3 * * 0", NOW) == ["Sun 2026-11-29 03:00 UTC", "Sun 2026-12-06 03:00 UTC"]  # c05


def test_schedule_is_shown_in_its_own_zone() -> None:
    shown = checking.next_runs("0 3 * * sun", NOW, "Europe/Berlin")

    assert shown == ["Sun 2026-11-29 03:00 Europe/Berlin", "Sun 2026-12-06 03:00 Europe/Berlin"]


def test_schedule_that_is_off_says_so() -> None:
    assert checking.next_runs("off", NOW) == "off"


def test_monitor_is_shown_with_its_next_trainings(tmp_path: Path) -> None:
    monitor = _monitor(retrain="30 2 * * *")

    own, row = _checked(tmp_path, monitor, answers=True)

    assert own["schema"] == schema.HEAD
    assert row["next_retrain"] == ["Sat 2026-11-28 02:30 UTC", "Sun 2026-11-29 02:30 UTC"]
    assert row["daemon"] == "would wait: the source has no samples"


def test_source_that_does_not_answer_is_a_problem_of_its_monitor(tmp_path: Path) -> None:
    _, row = _checked(tmp_path, _monitor(), answers=False)

    assert row == {"monitor": "web", "problem": "cannot reach the source"}


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
