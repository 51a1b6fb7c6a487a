"""Progress where there is no terminal: a log line for each tenth, with what is left at the present pace."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from detector import progress


def test_what_is_left_follows_the_present_pace(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    times = iter([100.0, 101.0, 107.0, 113.0])  # reading takes 1 s for a tenth, training 6 s
    monkeypatch.setattr("detector.progress.time", SimpleNamespace(monotonic=lambda: next(times)))

    with progress.shown("retrain") as report:
        for done in (0.1, 0.15, 0.2, 0.3):
            report(done, "working")

    assert [record.getMessage() for record in caplog.records] == [
        "event=progress task=retrain percent=10 left_seconds=9 doing='working'",
        "event=progress task=retrain percent=20 left_seconds=48 doing='working'",
        "event=progress task=retrain percent=30 left_seconds=42 doing='working'",
    ]
