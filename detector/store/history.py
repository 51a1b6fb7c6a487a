"""One monitor's history in the database, as reports read it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine

from detector.core.series import Float64
from detector.store import alerts, models, scores
from detector.store.alerts import AlertRow

_ALL = 1 << 30  # rows


@dataclass(frozen=True)
class StoredHistory:
    """The port `report.rows.History`: one monitor's alerts, scores and model versions in the database."""

    engine: Engine
    monitor: str

    def alerts(self, *, since: int | None = None, until: int | None = None, only_open: bool = False) -> list[AlertRow]:
        """All alerts that opened in [since, until), newest first; epoch milliseconds."""
        return alerts.listing(
            self.engine, monitor=self.monitor, since=since, until=until, only_open=only_open, most=_ALL
        )

    def scores(self, entity: str, slots: range) -> Float64:
        """An entity's scores at some slots, (len(slots),); NaN where none is stored."""
        return scores.of_entity(self.engine, monitor=self.monitor, entity=entity, slots=slots)

    def first_score(self) -> int | None:
        """The oldest slot with a stored score, epoch milliseconds."""
        return scores.first_slot(self.engine, self.monitor)

    def versions_created(self) -> list[int]:
        """Creation times of all model versions, epoch milliseconds."""
        return [row.created_at for row in models.listing(self.engine, self.monitor)]
