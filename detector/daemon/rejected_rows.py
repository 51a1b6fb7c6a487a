"""Rows of a source that cannot be read: counted with every tick, told of once an hour."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from detector.core.rejects import Reject
from detector.errors import SourceError
from detector.ports import Source

logger = logging.getLogger(__name__)

_PAUSE = 3600.0  # seconds between two lines about one reason, and between two looks at rows that no read comes upon


class RejectedRows:
    """What one monitor's source has that cannot be read."""

    def __init__(
        self, monitor: str, count: Callable[[str, int], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """count: adds rows to a reason's counter; clock: seconds, never set back"""
        self._monitor = monitor
        self._count = count
        self._clock = clock
        self._outside: dict[str, int] = {}  # rows that no read comes upon, at the last look
        self._looked_at = -_PAUSE + clock()
        self._logged_at: dict[str, float] = {}
        self._untold: dict[str, int] = {}

    def note(self, found: Iterable[Reject]) -> None:
        """Counts rejects of a tick; the first of a reason is logged, and a sum of the others every hour."""
        for reject in found:
            self._count(reject.reason, reject.rows)
            self._untold[reject.reason] = self._untold.get(reject.reason, 0) + reject.rows
            now, logged = self._clock(), self._logged_at.get(reject.reason)
            if logged is None or now - logged >= _PAUSE:
                rows = self._untold.pop(reject.reason)
                self._logged_at[reject.reason] = now
                logger.warning(
                    "event=rows_rejected monitor=%s reason=%s rows=%d example=%r",
                    self._monitor,
                    reject.reason,
                    rows,
                    reject.example,
                )

    def look_outside(self, source: Source, now: int) -> None:
        """Once an hour, notes how many rows there are more that no read comes upon. now: epoch milliseconds."""
        if self._clock() - self._looked_at < _PAUSE:
            return
        self._looked_at = self._clock()
        try:
            found = source.rejects(now)
        except SourceError as exc:  # a look that takes too long must not cost the tick
            logger.info("event=rejects_unknown monitor=%s reason=%r", self._monitor, str(exc))
            return
        more = [Reject(one.reason, one.rows - self._outside.get(one.reason, 0), one.example) for one in found]
        self._outside = {reject.reason: reject.rows for reject in found}
        self.note(reject for reject in more if reject.rows > 0)
