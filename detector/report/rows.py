"""One monitor's stored rows, read for a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from detector.config.sections import MonitorSection
from detector.core.series import Float64
from detector.ports import Store
from detector.report import content
from detector.report.content import Rows

if TYPE_CHECKING:
    from detector.store.alerts import AlertRow


class History(Protocol):
    """Stored rows of one monitor: alerts, scores, model versions. Times in epoch milliseconds."""

    def alerts(self, *, since: int | None = None, until: int | None = None, only_open: bool = False) -> list[AlertRow]:
        """All alerts that opened in [since, until), newest first."""

    def scores(self, entity: str, slots: range) -> Float64:
        """An entity's scores at some slots, (len(slots),); NaN where none is stored."""

    def first_score(self) -> int | None:
        """The oldest slot with a stored score, None if there is none."""

    def versions_created(self) -> list[int]:
        """Creation times of all model versions."""


def read(
    monitor: MonitorSection, history: History, store: Store, *, since: int, now: int, only: AlertRow | None = None
) -> Rows:
    """Rows of the alerts that opened since a time or are still open; with `only`, of that alert.

    since, now: epoch milliseconds
    """
    recent = [] if only else history.alerts(since=since) + history.alerts(only_open=True, until=since)
    alerts = [only] if only else recent
    until = store.cursor(monitor.name) or now
    known = history.versions_created() + [row.episode.opened_slot for row in alerts]
    oldest_score = history.first_score()
    first = min(known if oldest_score is None else [*known, oldest_score], default=until)
    return Rows(
        monitor=monitor,
        alerts=alerts,
        scores={
            row.id: history.scores(row.entity, content.plotted(monitor, row, until)) for row in alerts[: content.SHOWN]
        },
        exclusions=store.exclusions(monitor.name),
        first=min(max(first, since), until),
        until=until,
    )
