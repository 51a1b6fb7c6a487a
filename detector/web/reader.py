"""Everything that pages and API show: what the daemon knows, and what is stored."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Engine

from detector import wording
from detector.config.sections import Config, MonitorSection
from detector.core import grid
from detector.core.series import Reason
from detector.detect import exclusions
from detector.ports import Store
from detector.report import content, rows
from detector.store import alerts, judged, models, scores
from detector.store.alerts import AlertRow, Wanted
from detector.store.history import StoredHistory
from detector.web import answers, stages, told
from detector.web.live import Daemon

_POINTS = 1500  # of a plot
_MOST_SLOTS = 100_000  # whose scores are read for one
_KNOWN = "known"
_ORDERS = ("score", "surprise", "entity", "state")


class NotFound(Exception):
    """There is nothing of that name or number."""


@dataclass(frozen=True)
class Reader:
    """One daemon's state and database."""

    config: Config
    engine: Engine
    store: Store
    daemon: Daemon
    problem: Callable[[], str | None]  # why the daemon does not do its work, None if it does
    zone: str  # whose clocks the pages show
    sight: Callable[[str, int], dict[str, float | None]]  # of a monitor's version: what it takes to open an alert

    @property
    def now(self) -> int:
        """The daemon's time, epoch milliseconds."""
        return self.daemon.now()

    # -- monitors -----------------------------------------------------------------------------------------------------

    def monitors(self) -> list[answers.Monitor]:
        """All monitors, as configured."""
        return [self._monitor(section) for section in self.config.monitors]

    def monitor(self, name: str) -> answers.Monitor:
        """One monitor. Raises: NotFound."""
        return self._monitor(self.section(name))

    def section(self, name: str) -> MonitorSection:
        """The configuration of a monitor. Raises: NotFound."""
        for section in self.config.monitors:
            if section.name == name:
                return section
        known = ", ".join(section.name for section in self.config.monitors)
        raise NotFound(f"no monitor named {name!r}; there is: {known}")

    def _monitor(self, section: MonitorSection) -> answers.Monitor:
        view, status = self.daemon.views()[section.name], self.daemon.status(section.name)
        reason, is_anomalous = told.states(view)
        unknown = Counter(Reason(code).label for code in reason[reason != Reason.KNOWN].tolist())
        stage, is_well = stages.stage(section, view, status, self.now)
        missing = [] if view.missing is None else view.missing.tolist()
        return answers.Monitor(
            name=section.name,
            stage=stage,
            is_well=is_well,
            metrics=list(section.metrics),
            step_seconds=section.step.total_seconds(),
            entities=len(reason),
            normal=int(((reason == Reason.KNOWN) & ~is_anomalous).sum()),
            anomalous=int(is_anomalous.sum()),
            unknown=dict(unknown),
            open_alerts=alerts.count(self.engine, Wanted(monitor=section.name, only_open=True)),
            budget_per_week=section.threshold.alert_budget_per_week,
            observed_per_week=view.alerts.recent,
            judged_real=view.alerts.by_verdict.get("real", 0),
            judged_false=view.alerts.by_verdict.get("false", 0),
            model=None
            if view.model_version is None
            else answers.LiveModel(
                version=view.model_version, kind=view.model_kind or "", created=told.moment(view.model_created)
            ),
            training=None
            if status.training is None
            else answers.Training(doing=status.training, done=round(status.trained, 3)),
            collected=answers.Collected(slots=status.slots, needed=status.needed) if status.needed else None,
            promise=status.promise,
            blind_ratio=view.blind,
            missing={m: round(ratio, 4) for m, ratio in zip(section.metrics, missing, strict=False) if ratio > 0},
            newest_sample=told.moment(view.newest_sample),
            scored_until=told.moment(view.cursor),
            next_tick=told.moment(status.next_tick),
            next_training=told.moment(status.next_training),
        )

    # -- entities -----------------------------------------------------------------------------------------------------

    def entities(
        self,
        monitor: str,
        *,
        state: str | None = None,
        text: str = "",
        order: str = "score",
        limit: int = 50,
        offset: int = 0,
    ) -> answers.Page[answers.Entity]:
        """The entities of a monitor whose name holds a text, in a state. Raises: NotFound."""
        view = self.daemon.views()[self.section(monitor).name]
        reason, is_anomalous = told.states(view)
        wanted = np.ones(len(reason), dtype=np.bool_)
        if text:
            wanted &= np.array([text.lower() in name.lower() for name in view.entities], dtype=np.bool_)
        if state is not None:
            states = {"anomalous": is_anomalous, "unknown": reason != Reason.KNOWN}
            states["normal"] = ~is_anomalous & ~states["unknown"]
            wanted &= states[state]
        found = np.flatnonzero(wanted)
        found = found[told.ranked(view, found, order, is_anomalous)]
        items = [told.entity(view, row, bool(is_anomalous[row])) for row in found[offset : offset + limit].tolist()]
        return answers.Page(items=items, total=len(found), limit=limit, offset=offset)

    def entity(self, monitor: str, name: str) -> answers.EntityDetail:
        """One entity. Raises: NotFound."""
        view = self.daemon.views()[self.section(monitor).name]
        if name not in view.entities:
            known = alerts.count(self.engine, Wanted(monitor=monitor, entity=name, is_glob=False))
            why = "is gone: it has had no row for too long" if known else "is not known"
            raise NotFound(f"entity {name!r} of monitor {monitor} {why}")
        row = view.entities.index(name)
        explained = self.daemon.explained(monitor, name) or {}
        window = explained.get("window")
        now = told.entity(view, row, bool(told.states(view)[1][row]))
        return answers.EntityDetail(
            **now.model_dump(),
            slot=None if window is None else told.moment(content.newest_slot(window)),
            metrics=[answers.MetricNow(**content.metric_words(metric)) for metric in explained.get("metrics", [])],
            window=[] if window is None else content.metric_lines(window),
        )

    def scores(self, monitor: str, entity: str, *, start: int, end: int) -> answers.Scores:
        """Stored scores of an entity in [start, end), epoch milliseconds. Raises: NotFound."""
        section = self.section(monitor)
        step = section.step_ms
        start, end = grid.floor(start, step), min(end, self.daemon.views()[monitor].cursor or end)
        start = max(start, end - _MOST_SLOTS * step)
        slots = range(start, max(start, end), step)
        values = scores.of_entity(self.engine, monitor=monitor, entity=entity, slots=slots)
        size = max(1, math.ceil(len(slots) / _POINTS))
        return answers.Scores(
            monitor=monitor,
            entity=entity,
            start=start,
            step=size * step,
            scores=content.plain(content.thinned(values, size)),
            unknown=self._unknown(monitor, entity, start, end),
            alerts=[
                answers.Span(start=row.episode.opened_slot, end=_ended(row) or end, what=str(row.id))
                for row in alerts.page(
                    self.engine, Wanted(monitor=monitor, entity=entity, is_glob=False, until=end), most=200
                )
                if row.state != "withdrawn" and (_ended(row) or end) >= start
            ],
            excluded=[
                answers.Span(start=begin, end=stop, what=exclusion.effect)
                for exclusion in self.store.exclusions(monitor)
                if exclusions.concerns(exclusion, entity)
                for begin, stop in exclusions.ranges(exclusion, start, end)
            ],
        )

    def _unknown(self, monitor: str, entity: str, start: int, end: int) -> list[answers.Span]:
        before = judged.reasons_before(self.engine, monitor, start, entity=entity).get(entity)
        later = judged.between(self.engine, monitor, start, end, entity=entity)
        found = [(start, before or _KNOWN), *zip(later.start, later.reason, strict=True)]
        ends = [*later.start, end]
        return [
            answers.Span(start=begin, end=stop, what=reason)
            for (begin, reason), stop in zip(found, ends, strict=True)
            if reason != _KNOWN and stop > start
        ]

    # -- alerts -------------------------------------------------------------------------------------------------------

    def alerts(self, wanted: Wanted, *, limit: int = 50, offset: int = 0) -> answers.Page[answers.Alert]:
        """The wanted alerts, newest first."""
        found = alerts.page(self.engine, wanted, most=limit, skip=offset)
        total = alerts.count(self.engine, wanted)
        return answers.Page(items=[told.alert(row) for row in found], total=total, limit=limit, offset=offset)

    def alert(self, identity: int) -> answers.AlertDetail:
        """One alert. Raises: NotFound."""
        row, events = self._stored(identity)
        related = [] if row.incident is None else alerts.page(self.engine, Wanted(incident=row.incident), most=200)
        return answers.AlertDetail(
            **told.alert(row).model_dump(),
            events=[
                answers.Event(
                    at=told.moment(event["created_at"]),
                    slot=told.moment(event["slot"]),
                    **{name: event[name] for name in ("change", "severity", "peak_score", "by", "detail")},
                )
                for event in events
            ],
            explanation=wording.finite(row.explanation),
            related=sorted(other.id for other in related if other.id != row.id),
        )

    def _stored(self, identity: int) -> tuple[AlertRow, list[dict[str, Any]]]:
        found = alerts.show(self.engine, identity) if 0 <= identity < 1 << 63 else None
        if found is None:
            raise NotFound(f"no alert {identity}")
        return found

    def alert_row(self, identity: int) -> AlertRow:
        """One alert as stored. Raises: NotFound."""
        return self._stored(identity)[0]

    def report(self, identity: int) -> dict[str, Any]:
        """One alert as reports show it. Raises: NotFound."""
        row = self.alert_row(identity)
        if all(section.name != row.monitor for section in self.config.monitors):
            told_by = f"detector alerts show {identity}"
            raise NotFound(
                f"alert {identity} is of monitor {row.monitor!r}, which is not configured any more: {told_by}"
            )
        history = StoredHistory(self.engine, row.monitor)
        found = rows.read(self.section(row.monitor), history, self.store, since=0, now=self.now, only=row)
        return content.build([found], now=self.now, zone=self.zone, is_whole=False)

    def incidents(
        self, *, monitor: str | None, only_open: bool, limit: int = 50, offset: int = 0
    ) -> answers.Page[answers.Incident]:
        """Alerts that opened together, newest first."""
        found, total = alerts.incidents(self.engine, monitor=monitor, only_open=only_open, most=limit, skip=offset)
        return answers.Page(items=[told.incident(row) for row in found], total=total, limit=limit, offset=offset)

    # -- models and exclusions ----------------------------------------------------------------------------------------

    def models(self, monitor: str | None = None) -> list[answers.Model]:
        """Stored model versions, newest first."""
        return [told.model(row) for row in models.listing(self.engine, monitor)]

    def model(self, version: int) -> answers.ModelDetail:
        """One model version. Raises: NotFound."""
        for row in models.listing(self.engine):
            if row.version == version:
                is_ours = row.is_live and any(section.name == row.monitor for section in self.config.monitors)
                sight = self.sight(row.monitor, version) if is_ours else {}
                return answers.ModelDetail(
                    **told.model(row).model_dump(),
                    blind_ratio=sight.get("blind_ratio"),
                    deviations_to_alert=sight.get("deviations_to_alert"),
                    header=wording.finite(row.header),
                )
        raise NotFound(f"no model version {version}")

    def exclusions(self, monitor: str | None = None, entity: str | None = None) -> list[answers.Exclusion]:
        """Exclusions of one monitor, or of all; those that are about an entity, or all."""
        return [
            answers.Exclusion(
                start=told.moment(found.start),
                end=told.moment(found.end),
                created=told.moment(found.created_at),
                **{
                    name: getattr(found, name)
                    for name in (
                        *("id", "monitor", "entity", "metric", "effect"),
                        *("rule", "time_zone", "comment", "created_by"),
                    )
                },
            )
            for section in self.config.monitors
            if monitor in {None, section.name}
            for found in self.store.exclusions(section.name)
            if entity is None or exclusions.concerns(found, entity)
        ]


def _ended(row: AlertRow) -> int | None:
    """When an alert ended for people, epoch milliseconds; None if it is open."""
    return row.episode.closed_slot if row.closed_at is None else row.closed_at
