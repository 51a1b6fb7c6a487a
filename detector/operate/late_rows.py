"""Imported samples that come too late: their slots are judged already, and no tick reads them again."""

from __future__ import annotations

from collections.abc import Sequence

from detector.csv_files import Sink
from detector.detect.horizon import Horizon
from detector.ports import Store
from detector.times import utc


class LateRows:
    """A sink that passes samples on, and counts those that lie before what late samples may still change."""

    def __init__(self, sink: Sink, horizon: Horizon, store: Store) -> None:
        cursor = store.cursor(horizon.monitor)
        self._sink, self._horizon, self._cursor = sink, horizon, cursor
        self._limit = None if cursor is None else cursor - horizon.late * horizon.step
        self._count, self._first = 0, 0

    def write(
        self, entity: Sequence[str], metric: Sequence[str], *, time: Sequence[int], value: Sequence[float]
    ) -> None:
        """Stores samples given as columns. Raises: as the sink it passes them to."""
        self._sink.write(entity, metric, time=time, value=value)
        late = [] if self._limit is None else [at for at in time if at < self._limit]
        if late:
            self._first = min([self._first, *late]) if self._count else min(late)
            self._count += len(late)

    def line(self) -> str | None:
        """How many samples came too late, and the command that judges them; None if none did."""
        if not self._count or self._cursor is None:
            return None
        name = self._horizon.monitor
        first = utc(max(self._first, self._cursor - self._horizon.max_catch_up))  # none further back can be judged
        return (
            f"{self._count} samples came too late for monitor {name!r}, which has judged everything up to"
            f" {utc(self._cursor)} and judges again only what is newer than {utc(self._limit or 0)} (`lateness`);"
            f" to judge them again: detector db rewind {name} --to {first}"
        )
