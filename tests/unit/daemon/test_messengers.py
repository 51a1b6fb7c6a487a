"""A notifier's thread: what it counts, and that it ends with the daemon."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from detector.daemon.messengers import Messenger
from detector.errors import NotifyError
from detector.export.prometheus import Exporter


class FakeSender:
    """Sends one message at each look, or raises."""

    name = "pager"

    def __init__(self, error: Exception | None = None) -> None:
        self.looks = 0
        self._error = error

    def run(self, clock: Callable[[], int], rng: object, should_stop: Callable[[], bool]) -> dict[str, int]:
        self.looks += 1
        if self._error:
            raise self._error
        return {"sent": 1}

    def unsent(self) -> tuple[int | None, int]:
        return None, 0


def _messenger(sender: Any, stop: threading.Event | None = None) -> tuple[Messenger, Exporter]:
    exporter = Exporter(10)
    return Messenger(sender, exporter, clock=lambda: 1_700_000_000.0, stop=stop or threading.Event()), exporter


def _runs(exporter: Exporter, outcome: str) -> float | None:
    labels = {"task": "notify", "monitor": "", "outcome": outcome}
    return exporter.registry.get_sample_value("detector_job_runs_total", labels)


def test_what_was_sent_is_counted() -> None:
    messenger, exporter = _messenger(FakeSender())

    messenger.send()

    assert _runs(exporter, "success") == 1.0
    assert exporter.last_success("notify", "") == 1_700_000_000.0


@pytest.mark.parametrize("error", [NotifyError("refused"), ZeroDivisionError()], ids=["known", "unknown"])
def test_a_failure_is_counted_and_logged_and_ends_nothing(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    messenger, exporter = _messenger(FakeSender(error))

    messenger.send()

    assert _runs(exporter, "error") == 1.0
    assert "event=notify_failed notifier=pager" in caplog.text


def test_the_thread_looks_at_once_and_ends_with_the_daemon() -> None:
    stop, sender = threading.Event(), FakeSender()
    messenger, _ = _messenger(sender, stop)

    thread = messenger.start()
    stop.set()
    messenger.wake()
    thread.join(60)

    assert not thread.is_alive()
