"""One thread for each notifier, which sends what is due from the outbox."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from detector.errors import DetectorError
from detector.export.prometheus import Exporter
from detector.notify.sender import Sender

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0  # between looks into the outbox, beside one after each tick


class Messenger:
    """Sends one notifier's messages on a thread of its own: a target that hangs holds up nothing else.

    Not a job of the scheduler, which would count a look that falls into a slow one as skipped.
    """

    def __init__(
        self, sender: Sender, exporter: Exporter, *, clock: Callable[[], float], stop: threading.Event
    ) -> None:
        """clock: epoch seconds; stop: set when the daemon stops."""
        self._sender = sender
        self._exporter = exporter
        self._clock = clock
        self._stop = stop
        self._wake = threading.Event()
        self._rng = random.Random()  # noqa: S311 - spreads retries
        exporter.notifier(sender.name)
        exporter.task("notify", "")

    def start(self) -> threading.Thread:
        """Starts sending until the stop; returns the thread, to be joined."""
        thread = threading.Thread(target=self._run, name=f"notify:{self._sender.name}", daemon=True)
        thread.start()
        return thread

    def wake(self) -> None:
        """Asks for a look into the outbox now."""
        self._wake.set()

    def send(self) -> None:
        """Sends everything that is due; counts and logs as a task does, and raises nothing."""
        began, outcome, name = time.monotonic(), "success", self._sender.name
        try:
            sent = self._sender.run(lambda: round(self._clock() * 1000), self._rng, self._stop.is_set)
            for what, count in sent.items():
                self._exporter.notifications.labels(name, what).inc(count)
            self._exporter.show_unsent(name, *self._sender.unsent())
        except DetectorError as exc:
            outcome = "error"
            logger.error("event=notify_failed notifier=%s reason=%r", name, str(exc))
        except Exception:
            outcome = "error"
            logger.exception("event=notify_failed notifier=%s", name)
        else:
            self._exporter.succeeded("notify", "", self._clock())
        self._exporter.job_runs.labels("notify", "", outcome).inc()
        self._exporter.job_duration.labels("notify", "").observe(time.monotonic() - began)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            self.send()
            self._wake.wait(_LOOK_SECONDS)
