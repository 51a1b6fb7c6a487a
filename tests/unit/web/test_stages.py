"""What a monitor says of itself from the first minute on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from detector.config.sections import EmbeddedSource, MonitorSection
from detector.export.prometheus import MonitorView
from detector.web.live import Status
from detector.web.stages import age, stage

NOW = 1_767_261_600_000  # 2026-01-01 10:00 UTC
SECTION = MonitorSection(name="web", source=EmbeddedSource(type="embedded"), metrics=("load",))


def _view(**more: object) -> MonitorView:
    return MonitorView(monitor="web", metrics=("load",), step=60_000, alert_budget_per_week=1.0, **more)  # type: ignore[arg-type]


def _scored(newest: int = NOW - 70_000) -> MonitorView:
    return _view(
        entities=("a", "b"),
        reason=np.array([0, 2], dtype=np.int8),
        model_version=3,
        model_kind="baseline",
        newest_sample=newest,
    )


TICKED: dict[str, Any] = {"has_ticked": True}


@pytest.mark.parametrize(
    ("view", "status", "sentence", "is_well"),
    [
        (_view(), Status(), "Has just started: its first tick has not ended yet.", True),
        (_view(), Status(failure="no answer"), "The newest tick failed: no answer", False),
        (_view(), Status(**TICKED, needed=60), "Waits for the first samples: its source has none yet.", True),
        (
            _view(entities=("a", "b")),
            Status(**TICKED, slots=12, needed=60),
            "Sees 2 entities; has 12 of the 60 slots it needs (until about 10:48 UTC), then trains a model and scores.",
            True,
        ),
        (
            _view(entities=("a",)),
            Status(**TICKED, training="fitting the network", trained=0.4),
            "Sees 1 entity; trains its first model, 40%: fitting the network. It scores as soon as that is ready.",
            True,
        ),
        (
            _view(entities=("a",)),
            Status(**TICKED, missed_training="out of memory"),
            "Sees 1 entity; its training failed: out of memory",
            False,
        ),
        (
            _scored(),
            Status(**TICKED, slots=100, needed=300, promise="may be overdrawn"),
            "Scores 1 of 2 entities with a baseline; has 100 of the 300 slots it needs (until about 13:20 UTC) for a"
            " network; its alert budget may be overdrawn.",
            True,
        ),
        (
            _scored(NOW - 3_600_000),
            Status(**TICKED),
            "Its newest sample is 60 min old: is the source still written to?",
            False,
        ),
    ],
)
def test_the_sentence_of_each_stage(view: MonitorView, status: Status, sentence: str, is_well: bool) -> None:
    assert stage(SECTION, view, status, NOW) == (sentence, is_well)


def test_a_monitor_that_never_trains_names_the_command() -> None:
    off = SECTION.model_copy(update={"retrain": "off"})

    said, is_well = stage(off, _view(), Status(**TICKED), NOW)

    assert (said, is_well) == ("has no model and trains none by itself. Run: detector retrain web", False)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (172_800, "2 d")],
)
def test_ages_are_in_their_largest_unit(seconds: int, words: str) -> None:
    assert age(int(timedelta(seconds=seconds) / timedelta(milliseconds=1))) == words
