"""The `Store` port in memory: for ticks whose results need not outlive the process."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from detector.core.decide import Change, Ended
from detector.errors import StaleState, StoreError
from detector.ports import (
    AlertChange,
    AlertState,
    Commit,
    Exclusion,
    JudgedRanges,
    Precedent,
    ScoreRows,
    StoredAlert,
    StoredExperience,
)
from detector.store.alerts import AlertRow
from detector.store.state import NOTIFIED, closing, newest_marks


@dataclass(frozen=True)
class StoredEvent:
    """An event of an alert, and who is notified of it."""

    alert: int
    change: str
    slot: int  # epoch milliseconds
    notifiers: tuple[str, ...] = ()


@dataclass
class _Tables:
    """Everything stored; replaced as a whole by each commit."""

    cursors: dict[str, int] = field(default_factory=dict)
    checkpoints: dict[str, str | None] = field(default_factory=dict)
    experiences: dict[str, list[tuple[int, StoredExperience]]] = field(default_factory=dict)
    scores: dict[tuple[str, int, str], tuple[float, float, int]] = field(default_factory=dict)
    judged: dict[tuple[str, str, int], str] = field(default_factory=dict)
    alerts: dict[int, AlertRow] = field(default_factory=dict)
    events: list[StoredEvent] = field(default_factory=list)

    def copy(self) -> _Tables:
        return replace(
            self,
            cursors=dict(self.cursors),
            checkpoints=dict(self.checkpoints),
            experiences=dict(self.experiences),
            scores=dict(self.scores),
            judged=dict(self.judged),
            alerts=dict(self.alerts),
            events=list(self.events),
        )


class MemoryStore:
    """Keeps the same promises as `store.state.StateStore`, without a database."""

    def __init__(self) -> None:
        self._tables = _Tables()
        self._exclusions: list[Exclusion] = []
        self._judged_at: dict[int, int] = {}
        self._ids = count(1)

    def cursor(self, monitor: str) -> int | None:
        """End of the last committed slot, None if there is none."""
        return self._tables.cursors.get(monitor)

    def alerts_since(self, monitor: str, slot: int) -> list[StoredAlert]:
        """Alerts whose episode goes on or ended at `slot` (epoch milliseconds) or later, oldest first."""
        rows = [row for row in self._tables.alerts.values() if row.monitor == monitor]
        kept = [row for row in rows if _goes_on(row) or (_is_there(row) and (row.episode.closed_slot or 0) >= slot)]
        stored = [
            StoredAlert(row.id, row.entity, row.episode, row.is_muted, row.state is AlertState.CLOSED and _goes_on(row))
            for row in kept
        ]
        return sorted(stored, key=lambda alert: (alert.episode.opened_slot, alert.id))

    def exclusions(self, monitor: str) -> list[Exclusion]:
        """All exclusions of a monitor, past ones too."""
        return [exclusion for exclusion in self._exclusions if exclusion.monitor == monitor]

    def marks(self, monitor: str) -> tuple[tuple[int, bool], ...]:
        """The newest alerts that have closed and that people have judged, in order, and whether each was real."""
        return tuple((one.alert, one.is_real) for one in self.precedents(monitor))

    def precedents(self, monitor: str) -> list[Precedent]:
        """The same with what they looked like."""
        judged = [row for row in self._tables.alerts.values() if row.monitor == monitor and _is_precedent(row)]
        marks = newest_marks((row.id, row.verdict) for row in judged)
        rows = (self._tables.alerts[identity] for identity, _ in marks)
        return [
            Precedent(row.id, row.entity, row.verdict == "real", self._judged_at[row.id], json.dumps(row.explanation))
            for row in rows
        ]

    def checkpoint(self, monitor: str) -> str | None:
        """The checkpoint of the newest commit, None if it had none."""
        return self._tables.checkpoints.get(monitor)

    def judged_since(self, monitor: str, slot: int) -> JudgedRanges:
        """Ranges that reach to `slot` (epoch milliseconds) or later; of each entity the oldest first."""
        mine = sorted((entity, start) for name, entity, start in self._tables.judged if name == monitor)
        before = {entity: start for entity, start in mine if start < slot}  # the last one of each
        kept = [key for key in mine if key[1] >= slot or before.get(key[0]) == key[1]]
        reasons = [self._tables.judged[monitor, entity, start] for entity, start in kept]
        return JudgedRanges([entity for entity, _ in kept], [start for _, start in kept], reasons)

    def scores_since(self, monitor: str, slot: int, *, version: int) -> ScoreRows:
        """Stored scores by a model version, of `slot` (epoch milliseconds) and later ones."""
        rows = [
            (name, at, *values[:2])
            for (owner, at, name), values in sorted(self._tables.scores.items())
            if owner == monitor and at >= slot and values[2] == version
        ]
        columns = zip(*rows, strict=True) if rows else ((), (), (), ())
        return ScoreRows(*columns)

    def experiences(self, monitor: str, *, version: int) -> list[StoredExperience]:
        """The two newest that were committed with a model version, the newest first."""
        return [found for number, found in self._tables.experiences.get(monitor, []) if number == version]

    def commit(self, commit: Commit) -> None:
        """Stores all of it or nothing.

        Raises: StaleState if the cursor is not the expected one, StoreError if a row is there already.
        """
        if self.cursor(commit.monitor) != commit.expected_cursor:
            expected = f"monitor {commit.monitor!r}: its cursor is not at {commit.expected_cursor} any more"
            msg = f"{expected}; another process works on it"
            raise StaleState(msg)
        tables = self._tables.copy()
        tables.cursors[commit.monitor] = commit.cursor
        tables.checkpoints[commit.monitor] = commit.checkpoint
        _forget(tables, commit)
        _remember(tables, commit)
        made = commit.judged
        for entity, start, reason in zip(made.entity, made.start, made.reason, strict=True):
            tables.judged[commit.monitor, entity, start] = reason
        for entity, slot in zip(commit.replaced.entity, commit.replaced.slot, strict=True):
            tables.scores.pop((commit.monitor, slot, entity), None)
        for rows in (commit.replaced, commit.scores):
            _insert_scores(tables, commit, rows)
        for change in commit.changes:
            self._apply(tables, commit, change)
        self._tables = tables

    # -- what is read back, and what people do ------------------------------------------------------------------------

    def alerts(self) -> list[AlertRow]:
        """All alerts, newest first."""
        rows = self._tables.alerts.values()
        sizes = [row.incident for row in rows if _is_there(row)]
        sized = [replace(row, incident_size=sizes.count(row.incident)) for row in rows]
        return sorted(sized, key=lambda row: (row.episode.opened_slot, row.id), reverse=True)

    def scores(self) -> list[tuple[str, str, int, float, int]]:
        """Monitor, entity, slot, score and model version of all scores, in this order."""
        rows = self._tables.scores.items()
        return sorted((monitor, entity, slot, value, version) for (monitor, slot, entity), (value, _, version) in rows)

    def surprises(self) -> dict[tuple[str, int, str], float]:
        """Surprise of each score by monitor, slot and entity."""
        return {key: surprise for key, (_, surprise, _) in self._tables.scores.items()}

    def events(self) -> list[StoredEvent]:
        """All events in the order they were stored in."""
        return list(self._tables.events)

    def exclude(self, exclusion: Exclusion) -> None:
        """Adds an exclusion."""
        self._exclusions.append(exclusion)

    def judge(self, alert: int, verdict: str | None, *, now: int) -> None:
        """Notes whether an alert was real or false, as `store.alerts.judge`. now: epoch milliseconds."""
        self._tables.alerts[alert] = replace(self._tables.alerts[alert], verdict=verdict)
        self._judged_at[alert] = now

    def close(self, alert: int, *, by: str, now: int) -> None:
        """Closes an alert for people, as `store.alerts.close`. now: epoch milliseconds."""
        row = self._tables.alerts[alert]
        self._tables.alerts[alert] = replace(row, state=AlertState.CLOSED, closed_at=now, closed_by=by)

    # -- changes of alerts --------------------------------------------------------------------------------------------

    def _apply(self, tables: _Tables, commit: Commit, change: AlertChange) -> None:
        if change.alert is not None:
            _revise(tables, commit, change)
        elif change.change is Change.OPENED:
            self._open(tables, commit, change)
        elif change.change is Change.REOPENED:
            self._reopen(tables, commit, change)
        else:
            _update(tables, commit, change)

    def _open(self, tables: _Tables, commit: Commit, change: AlertChange) -> None:
        closed = change.episode.closed_slot is not None
        if not closed and _open_alert(tables, commit.monitor, change.entity):
            msg = f"the detector's memory refused: entity {change.entity!r} has an open alert already"
            raise StoreError(msg)
        identity = next(self._ids)
        tables.alerts[identity] = AlertRow(
            id=identity,
            monitor=commit.monitor,
            entity=change.entity,
            state=AlertState.CLOSED if closed else AlertState.OPEN,
            episode=change.episode,
            detected_at=change.detected_at,
            model_version=commit.model_version,
            explanation=json.loads(change.explanation or "{}"),
            acknowledged_at=None,
            acknowledged_by=None,
            closed_at=None,
            closed_by=closing(change).ended if closed else None,
            comment=None,
            verdict=None,
            is_muted=change.is_muted,
            incident=_incident(tables, commit, change) or identity,
            incident_size=0,
            revision=0,
        )
        _note(tables, commit, change, identity)
        if closed:
            _note(tables, commit, closing(change), identity)

    def _reopen(self, tables: _Tables, commit: Commit, change: AlertChange) -> None:
        key = (commit.monitor, change.entity, change.episode.opened_slot, change.episode.decided_slot)
        found = [row for row in tables.alerts.values() if row.state is AlertState.CLOSED and _key(row) == key]
        if not found:  # somebody removed it: it is a new one
            self._open(tables, commit, replace(change, change=Change.OPENED))
            return
        row = replace(found[-1], state=AlertState.OPEN, closed_by=None, closed_at=None)
        _write(tables, row, change, is_muted=row.is_muted or change.is_muted)
        _note(tables, commit, change, row.id)


def _is_precedent(row: AlertRow) -> bool:
    return row.verdict is not None and row.episode.closed_slot is not None and _is_there(row)


def _is_there(row: AlertRow) -> bool:
    return row.state is not AlertState.WITHDRAWN


def _goes_on(row: AlertRow) -> bool:
    return _is_there(row) and row.episode.closed_slot is None


def _key(row: AlertRow) -> tuple[str, str, int, int]:
    return row.monitor, row.entity, row.episode.opened_slot, row.episode.decided_slot


def _open_alert(tables: _Tables, monitor: str, entity: str) -> AlertRow | None:
    mine = (row for row in tables.alerts.values() if row.monitor == monitor and row.entity == entity)
    return next((row for row in mine if _goes_on(row)), None)


def _forget(tables: _Tables, commit: Commit) -> None:
    """Removes scores and ranges that a commit takes back, and ranges that it judges again."""
    if (first := commit.forget_from) is not None:
        for key in [key for key in tables.scores if key[0] == commit.monitor and key[1] >= first]:
            del tables.scores[key]
        for place in [place for place in tables.judged if place[0] == commit.monitor and place[2] >= first]:
            del tables.judged[place]
    for entity, slot in commit.judged_again:
        for place in [place for place in tables.judged if place[:2] == (commit.monitor, entity) and place[2] >= slot]:
            del tables.judged[place]


def _remember(tables: _Tables, commit: Commit) -> None:
    """Keeps the experience of a commit and the one before it, if they are of one model version."""
    kept = tables.experiences.get(commit.monitor, [])
    if (first := commit.forget_from) is not None:
        kept = [(version, found) for version, found in kept if found.slot <= first]
    if (new := commit.experience) is not None:
        others = [one for one in kept if one[0] == commit.model_version and one[1].slot != new.slot]
        kept = sorted([(commit.model_version, new), *others], key=lambda one: -one[1].slot)[:2]
    tables.experiences[commit.monitor] = kept


def _insert_scores(tables: _Tables, commit: Commit, rows: ScoreRows) -> None:
    surprises = rows.surprise or [math.nan] * len(rows.score)
    for entity, slot, value, surprise in zip(rows.entity, rows.slot, rows.score, surprises, strict=True):
        key = (commit.monitor, slot, entity)
        if key in tables.scores:
            msg = f"the detector's memory refused: entity {entity!r} has a score at {slot} already"
            raise StoreError(msg)
        if not math.isnan(value):
            tables.scores[key] = (value, surprise, commit.model_version)


def _incident(tables: _Tables, commit: Commit, change: AlertChange) -> int | None:
    """The newest incident, if its first alert opened not long before; None: this alert begins one."""
    mine = [row for row in tables.alerts.values() if row.monitor == commit.monitor and _is_there(row)]
    newest = max(mine, key=lambda row: (row.episode.opened_slot, row.id), default=None)
    if newest is None or newest.incident is None:
        return None
    began = tables.alerts[newest.incident].episode.decided_slot
    return newest.incident if abs(change.episode.decided_slot - began) <= commit.incident_span else None


def _update(tables: _Tables, commit: Commit, change: AlertChange) -> None:
    """Changes an open alert; one that is not open any more is left as it is."""
    row = _open_alert(tables, commit.monitor, change.entity)
    if row is None:
        return
    is_muted = change.change is not Change.UNMUTED and (row.is_muted or change.is_muted)
    episode = replace(change.episode, decided_slot=row.episode.decided_slot, closed_slot=None)
    after = row
    if change.change is Change.CLOSED:
        episode = replace(episode, closed_slot=change.slot)
        after = replace(row, state=AlertState.CLOSED, closed_by=row.closed_by or change.ended)
    _write(tables, after, replace(change, episode=episode), is_muted=is_muted)
    if change.change is not None and row.state is not AlertState.CLOSED:
        _note(tables, commit, change, row.id)


def _revise(tables: _Tables, commit: Commit, change: AlertChange) -> None:
    """Changes, closes, reopens or withdraws an alert that late samples changed."""
    row = tables.alerts[int(change.alert or 0)]
    is_muted, was_closed = row.is_muted or change.is_muted, row.state is AlertState.CLOSED
    is_back = change.change is Change.REOPENED and row.closed_at is None
    if change.change is Change.WITHDRAWN:
        row = replace(row, state=AlertState.WITHDRAWN)
        change = replace(change, episode=replace(change.episode, closed_slot=change.slot))
    elif change.episode.closed_slot is not None:
        row = replace(row, state=AlertState.CLOSED, closed_by=row.closed_by or Ended.NORMAL)
    elif is_back:
        row = replace(row, state=AlertState.OPEN, closed_by=None)
    _write(tables, row, change, is_muted=is_muted)
    _note(tables, commit, change, row.id, is_silent=was_closed and not is_back)


def _write(tables: _Tables, row: AlertRow, change: AlertChange, *, is_muted: bool) -> None:
    explanation = row.explanation if change.explanation is None else json.loads(change.explanation)
    changed = replace(row, episode=change.episode, explanation=explanation, is_muted=is_muted)
    tables.alerts[row.id] = replace(changed, revision=row.revision + 1)


def _note(tables: _Tables, commit: Commit, change: AlertChange, alert: int, *, is_silent: bool = False) -> None:
    is_silent = is_silent or tables.alerts[alert].is_muted or change.change not in NOTIFIED
    notifiers: Sequence[str] = () if is_silent else commit.notifiers
    tables.events.append(StoredEvent(alert, str(change.change), change.slot, tuple(notifiers)))
