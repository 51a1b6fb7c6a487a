"""Recordings through the daemon's own pipeline: trained on what comes first, the rest replayed under its own clock.

A replay never sees what is still to come, and labels never get as far as a source.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detector.config.sections import MonitorSection
from detector.core import grid
from detector.detect import tick
from detector.detect.horizon import Horizon
from detector.detect.memory import Memory
from detector.detect.recall import recall, stored_state
from detector.errors import DetectorError
from detector.ports import EntityScores, Fit, ModelVersion, Store
from detector.progress import Progress, part, silent
from detector.replay import groups
from detector.replay.groups import Group, MakeSource, Recorded
from detector.replay.recordings import Failure, Recording
from detector.replay.results import Alert, Outcome, Replayed, result
from detector.replay.schedule import Schedule
from detector.replay.trainer import Trainer
from detector.train.division import Plan

logger = logging.getLogger(__name__)

_BASELINE = ":baseline"  # added to the name of a monitor; no monitor of a user's can have it
_TRAINING_SHARE = 0.7  # of a group's progress


@dataclass(frozen=True)
class Workspace:
    """Everything a replay works with beside the recordings."""

    store: Store
    source: MakeSource
    fit: Callable[[MonitorSection], Fit]
    scores: Callable[[str], dict[str, EntityScores]]  # of a monitor, by entity
    alerts: Callable[[str], list[Alert]]  # of a monitor


def run(
    recordings: Sequence[Recording],
    wanted: MonitorSection,
    workspace: Workspace,
    *,
    name: str,
    per_entity: bool,
    progress: Progress,
) -> Outcome:
    """Trains and replays group after group; one that fails does not stop the others."""
    entities: list[Replayed] = []
    failures: list[Failure] = []
    replays = []
    rows_done, rows = 0, sum(len(recording.written) for recording in recordings)
    for group in groups.groups(recordings, wanted, name=name, per_entity=per_entity):
        mine = sum(len(recording.written) for recording in group.recordings)
        replay = _GroupReplay(group, workspace, part(progress, rows_done / rows, mine / rows))
        try:
            entities.extend(replay.run())
        except Exception as exc:  # the work done for other groups must not be lost with this one
            if not isinstance(exc, DetectorError):
                logger.exception("event=backtest_failed monitor=%s", group.monitor.name)
            reason = str(exc) if isinstance(exc, DetectorError) else f"{type(exc).__name__}: {exc}"
            failures.extend(Failure(recording.entity, reason) for recording in group.recordings)
        replays.append(replay)
        rows_done += mine
    return Outcome(
        monitors=[replay.facts() for replay in replays],
        entities=entities,
        failures=failures,
        train_seconds=sum(replay.trainer.seconds for replay in replays),
        replay_seconds=sum(replay.seconds for replay in replays),
    )


class _GroupReplay:
    """One group: its first training, its replay, and its results. What it took is known even if it fails."""

    def __init__(self, group: Group, workspace: Workspace, progress: Progress) -> None:
        self._group = group
        self._plan = Plan.of(group.monitor)
        self._workspace = workspace
        self._progress = progress
        self.trainer = Trainer(self._plan, workspace.fit(group.monitor))
        self.seconds = 0.0  # without its own trainings

    def run(self) -> list[Replayed]:
        """Trains, replays, and reads back what the store then holds.

        Raises: ModelError if there is too little history.
        """
        monitor, recordings = self._group.monitor, self._group.recordings
        starts = [int(one.time[rows].min()) for one in recordings if (rows := groups.to_replay(one)).any()]
        if starts:
            begin = grid.floor(min(starts), monitor.step_ms)
            chosen = [groups.to_train_on(recording, monitor) for recording in recordings]
            source = groups.source_of(self._group, chosen, self._workspace.source)
            model = self.trainer.train(source, now=begin, progress=part(self._progress, 0.0, _TRAINING_SHARE))
            self._replay(model, begin)
        return self._beside_baseline(self._results())

    def facts(self) -> dict[str, Any]:
        """The group, its settings and its model versions, fit for JSON."""
        monitor = self._group.monitor
        return {
            "monitor": monitor.name,
            "entities": [recording.entity for recording in self._group.recordings],
            "metrics": len(monitor.metrics),
            "step_seconds": monitor.step_ms / 1000,
            "settings": monitor.model_dump(mode="json", exclude={*groups.FROM_DATA, "step"}),
            "models": self.trainer.notes,
        }

    def _replay(self, model: ModelVersion, begin: int) -> None:
        began, trained_before = time.monotonic(), self.trainer.seconds
        progress = part(self._progress, _TRAINING_SHARE, 1.0 - _TRAINING_SHARE)
        _Course(self._group, self._workspace, self.trainer, model=model, begin=begin).run(progress)
        self.seconds += time.monotonic() - began - (self.trainer.seconds - trained_before)

    def _results(self) -> list[Replayed]:
        monitor = self._group.monitor
        scores, alerts = self._workspace.scores(monitor.name), self._workspace.alerts(monitor.name)
        nothing = EntityScores(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0))
        found = []
        for recording in self._group.recordings:
            mine = scores.get(recording.entity, nothing)
            raised = [alert for alert in alerts if alert.entity == recording.entity]
            found.append(
                result(recording, monitor, slots=mine.slots, scores=mine.score, surprises=mine.surprise, alerts=raised)
            )
        return found

    def _beside_baseline(self, results: list[Replayed]) -> list[Replayed]:
        """The results with a baseline's surprises for labelled recordings: the floor of a network."""
        monitor = self._group.monitor
        if monitor.model.kind == "baseline" or all(one.recording.label is None for one in results):
            return results
        changes = {
            "name": f"{monitor.name}{_BASELINE}",
            "model": monitor.model.model_copy(update={"kind": "baseline"}),
            "retrain": "off",
        }
        group = replace(self._group, monitor=monitor.model_copy(update=changes))
        floor = _GroupReplay(group, self._workspace, silent)
        try:
            scores = [one.surprise for one in floor.run()]
        finally:
            self.seconds += floor.trainer.seconds + floor.seconds
        return [replace(one, baseline=score) for one, score in zip(results, scores, strict=True)]


class _Course:
    """The course of a replay: ticks and retrainings, each of which sees only earlier rows."""

    def __init__(
        self, group: Group, workspace: Workspace, trainer: Trainer, *, model: ModelVersion, begin: int
    ) -> None:
        """model: the first version; begin: first slot of the replay, epoch milliseconds."""
        monitor, horizon = group.monitor, Horizon.of(group.monitor)
        shown = [groups.to_show(recording, horizon) for recording in group.recordings]
        parts = zip(group.recordings, shown, strict=True)
        times = np.concatenate([recording.time[rows] for recording, rows in parts])
        self._horizon = horizon
        self._workspace = workspace
        self._trainer = trainer
        self._visible = groups.source_of(group, shown, workspace.source)  # to ticks
        self._everything = groups.source_of(group, [one.has_time for one in group.recordings], workspace.source)
        self._schedule = Schedule.of(monitor, times, begin)
        self._begin = begin
        self._trained_until = begin
        self._memory = self._recalled(model, begin + horizon.delay)

    def run(self, progress: Progress) -> None:
        """Goes through all moments in order."""
        name, last = self._horizon.monitor, self._schedule.ticks[-1]
        for now in self._schedule.moments:
            done = (now - self._begin) / (last - self._begin)
            visible = self._visible.between(groups.EVER, now)
            monitor = tick.Monitor(self._horizon, visible, self._workspace.store)
            self._memory, _ = tick.tick(monitor, self._memory, now)
            progress(done, f"{name}: replaying")
            if now in self._schedule.retrainings:
                self._retrain(now, done, progress)

    def _retrain(self, now: int, done: float, progress: Progress) -> None:
        if not self._has_rows(self._trained_until, now):
            return
        retrained = self._trainer.retrain(
            self._known(now), now=now, progress=lambda _, what: progress(done, f"again {what}")
        )
        if retrained:
            self._memory = self._recalled(retrained, now)
        self._trained_until = now

    def _known(self, now: int) -> Recorded:
        return self._everything.between(groups.EVER, now)

    def _has_rows(self, start: int, end: int) -> bool:
        """Without new rows a training would only find the same again."""
        return self._everything.between(start, end).extent(end) is not None

    def _recalled(self, model: ModelVersion, now: int) -> Memory:
        known = self._visible.between(groups.EVER, now)
        stored = stored_state(self._horizon, self._workspace.store, version=model.version)
        return recall(self._horizon, known, model, stored=stored, now=now, begin=self._begin)
