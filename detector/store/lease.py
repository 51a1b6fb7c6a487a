"""A lease that is kept while its holder lives, and free soon after it has died."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from detector.errors import ModelError, StoreError
from detector.store.models import acquire_lease, release_lease

logger = logging.getLogger(__name__)

LASTS = 90.0
"""Seconds after its last heartbeat in which a lease is not given to anybody else."""

BEAT = 25.0
"""Seconds between two heartbeats: three may fail before the lease is lost."""


class Lease:
    """The right to do something, such as to train a monitor, held by this object and prolonged by a thread."""

    def __init__(self, engine: Engine, name: str, *, beat: float = BEAT, lasts: float = LASTS) -> None:
        """beat, lasts: seconds"""
        self._engine = engine
        self._name = name
        self._beat = beat
        self._lasts = lasts
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(8)}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease {name}", daemon=True)
        self._offset = 0.0  # of the caller's clock to this machine's, seconds
        self.is_lost = False  # somebody else holds it: this process was suspended for too long

    def acquire(self, now: int) -> bool:
        """Takes the lease if it is free, and tells whether it did. now: epoch milliseconds."""
        self._offset = now / 1000 - time.time()
        if not self._prolonged():
            return False
        self._thread.start()
        return True

    def release(self) -> None:
        """Gives it back."""
        self._stop.set()
        self._thread.join()
        release_lease(self._engine, self._name, self._holder)

    def check(self) -> None:
        """Raises: ModelError if the lease was lost."""
        if self.is_lost:
            msg = f"lease {self._name!r} was lost: this process was suspended, and another one has it now"
            raise ModelError(msg)

    def _prolonged(self) -> bool:
        now = time.time() + self._offset
        until = round((now + self._lasts) * 1000)
        return acquire_lease(self._engine, self._name, self._holder, now=round(now * 1000), expires_at=until)

    def _keep(self) -> None:
        while not self._stop.wait(self._beat):
            try:
                if self._prolonged():
                    continue
            except StoreError as exc:  # the next heartbeat may come through
                logger.warning("event=lease_not_prolonged lease=%s reason=%r", self._name, str(exc))
                continue
            self.is_lost = True
            logger.error("event=lease_lost lease=%s", self._name)
            return


@contextmanager
def right_to_train(engine: Engine, monitor: str, now: int) -> Iterator[Lease]:
    """The right to make model versions of a monitor. now: epoch milliseconds.

    Raises: ModelError if another process holds it.
    """
    lease = Lease(engine, f"retrain:{monitor}")
    if not lease.acquire(now):
        msg = f"monitor {monitor!r} is being trained by another process; wait for it to end"
        raise ModelError(msg)
    try:
        yield lease
    finally:
        lease.release()
