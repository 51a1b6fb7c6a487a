"""Recordings through the daemon's own pipeline: trained on what comes first, the rest replayed under its own clock.

A replay never sees what is still to come, and labels never get as far as a source.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from detector import ports
from detector.config import loading, values
from detector.config.sections import MonitorSection
from detector.core import grid
from detector.core.series import Bool, Float64, Int64
from detector.detect import tick
from detector.detect.history import read_history
from detector.detect.horizon import Horizon
from detector.detect.memory import Memory
from detector.detect.recall import recall, stored_state
from detector.errors import ConfigError, DetectorError, ModelError
from detector.ports import ModelVersion, Source, Store
from detector.progress import Progress
from detector.replay.recordings import Failure, Recording
from detector.replay.results import Alert, Outcome, Replayed, result
from detector.times import milliseconds, utc
from detector.train import calibrate, division
from detector.train.division import Plan
from detector.train.fit import train

logger = logging.getLogger(__name__)

_EVER = int(np.iinfo(np.int64).min)
_FROM_DATA = ("name", "source", "metrics")
_SLICES = 100  # ticks of a replay, so that its progress moves
_JUMP_SLOTS = 1440  # without any row for longer, one tick takes the replay over it
_BASELINE = ":baseline"  # added to the name of a monitor; no monitor of a user's can have it
_TRAINING_SHARE = 0.7  # of a group's progress


class Recorded(Source, Protocol):
    """A source of recorded rows, of which a part may be taken."""

    def between(self, start: int, end: int) -> Recorded:
        """The rows with start ≤ time < end, both in epoch milliseconds."""

    def closed_up(self, step: int, gap: int) -> Recorded:
        """The rows with times without any row made shorter, down to `gap` milliseconds and something over."""


@dataclass(frozen=True)
class Services:
    """What a replay needs beside the recordings; made by `wiring`."""

    store: Store
    source: Callable[[Sequence[str], NDArray[np.int32], Int64, Float64], Recorded]
    fit: Callable[[MonitorSection], ports.Fit]
    scores: Callable[[str], dict[str, tuple[Int64, Float64]]]  # of a monitor: slots and scores of each entity
    alerts: Callable[[str], list[Alert]]


@dataclass(frozen=True)
class Group:
    """Recordings that one network is trained for."""

    monitor: MonitorSection
    recordings: tuple[Recording, ...]


def settings(section: MonitorSection | None, assignments: Sequence[str], metrics: Iterable[str]) -> MonitorSection:
    """Settings for a backtest: those of a configured monitor or the defaults, changed by assignments `key=value`.

    There is no delay and no lateness in recorded data unless they are set; without a configuration neither
    retraining nor recalibration.

    Raises: ConfigError if an assignment names no setting, or one that the data decides.
    """
    for key in (assignment.partition("=")[0].strip() for assignment in assignments):
        if key.split(".")[0] in _FROM_DATA:
            msg = f"--set {key}: a backtest takes it from the data; leave it out"
            raise ConfigError(msg)
    table: dict[str, Any] = {"delay": timedelta(0), "lateness": timedelta(0)}
    if section is None:
        table["retrain"] = table["recalibrate"] = "off"
    else:
        table |= section.model_dump(exclude_unset=True, exclude={"step"})
        metrics = {*metrics, *section.metrics}
    table |= {"name": "backtest", "source": {"type": "embedded"}, "metrics": tuple(metrics)}
    # results are read back from the scores stored
    return loading.monitor(table, assignments).model_copy(update={"store_scores": "all"})


def groups(recordings: Sequence[Recording], wanted: MonitorSection, *, name: str, per_entity: bool) -> list[Group]:
    """Recordings of the same metrics together, or each alone.

    The step is that of the coarsest recording, in whose slots finer ones are aggregated, unless it is set.
    """
    members: dict[tuple[str, ...], list[Recording]] = {}
    for recording in recordings:
        key = (recording.entity,) if per_entity else tuple(sorted(recording.metrics))
        members.setdefault(key, []).append(recording)
    result = []
    for number, together in enumerate(members.values(), 1):
        metrics = together[0].metrics
        step = timedelta(milliseconds=max(recording.step_ms for recording in together))
        changes = {
            "name": _monitor_name(together[0].entity if per_entity else name, number if len(members) > 1 else None),
            "metrics": metrics,
            "rules": tuple(rule for rule in wanted.rules if rule.metric in metrics),
            "step": wanted.step if "step" in wanted.model_fields_set else step,
        }
        result.append(Group(wanted.model_copy(update=changes), tuple(together)))
    return result


def _monitor_name(wanted: str, number: int | None) -> str:
    usable = re.sub(r"[^A-Za-z0-9_.-]+", "-", wanted).strip("_.-")[:48] or "backtest"
    return usable if number is None else f"{usable}-{number}"


def run(
    recordings: Sequence[Recording],
    wanted: MonitorSection,
    services: Services,
    *,
    name: str,
    per_entity: bool,
    progress: Progress,
) -> Outcome:
    """Trains and replays group after group; one that fails does not stop the rest."""
    entities: list[Replayed] = []
    failures: list[Failure] = []
    replays = []
    rows_done, rows = 0, sum(len(recording.written) for recording in recordings)
    for group in groups(recordings, wanted, name=name, per_entity=per_entity):
        mine = sum(len(recording.written) for recording in group.recordings)
        replay = _Replay(group, services, _part(progress, rows_done / rows, mine / rows))
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
        train_seconds=sum(replay.train_seconds for replay in replays),
        replay_seconds=sum(replay.replay_seconds for replay in replays),
    )


def _part(progress: Progress, before: float, share: float) -> Progress:
    return lambda done, what: progress(before + share * done, what)


class _Replay:
    """One group on its way: its model versions so far, and the seconds they took."""

    def __init__(self, group: Group, services: Services, progress: Progress) -> None:
        self._group = group
        self._monitor = group.monitor
        self._plan = Plan.of(group.monitor)
        self._horizon = self._plan.horizon
        self._services = services
        self._progress = progress
        self._models: list[dict[str, Any]] = []
        self.train_seconds = 0.0
        self.replay_seconds = 0.0

    def run(self) -> list[Replayed]:
        """Everything: the first training, the replay with its retrainings, and what the store then holds.

        Raises: ModelError if there is too little history.
        """
        recordings = self._group.recordings
        starts = [int(recording.time[rows].min()) for recording in recordings if (rows := _replayed(recording)).any()]
        if starts:
            begin = grid.floor(min(starts), self._monitor.step_ms)
            history = self._source([_history(recording, self._monitor) for recording in recordings])
            model = self._train(history, begin, lambda done, what: self._progress(_TRAINING_SHARE * done, what))
            self._replay(model, begin)
        return self._beside_baseline(self._results())

    def _beside_baseline(self, results: list[Replayed]) -> list[Replayed]:
        """With what a baseline makes of labelled recordings: the floor of a network."""
        monitor = self._monitor
        if monitor.model.kind == "baseline" or all(one.recording.label is None for one in results):
            return results
        changes = {
            "name": f"{monitor.name}{_BASELINE}",
            "model": monitor.model.model_copy(update={"kind": "baseline"}),
            "retrain": "off",
            "recalibrate": "off",
        }
        group = replace(self._group, monitor=monitor.model_copy(update=changes))
        floor = _Replay(group, self._services, lambda _done, _what: None)
        try:
            scores = [one.score for one in floor.run()]
        finally:
            self.replay_seconds += floor.train_seconds + floor.replay_seconds
        return [replace(one, baseline=score) for one, score in zip(results, scores, strict=True)]

    def facts(self) -> dict[str, Any]:
        """What is known of the group and its model versions."""
        monitor = self._monitor
        return {
            "monitor": monitor.name,
            "entities": [recording.entity for recording in self._group.recordings],
            "metrics": len(monitor.metrics),
            "step_seconds": monitor.step_ms / 1000,
            "settings": monitor.model_dump(mode="json", exclude={*_FROM_DATA, "step"}),
            "models": self._models,
        }

    def _source(self, chosen: list[Bool]) -> Recorded:
        """The chosen rows of each recording, without labels."""
        recordings = self._group.recordings
        values = []
        for recording, rows in zip(recordings, chosen, strict=True):
            columns = [recording.metrics.index(metric) for metric in self._monitor.metrics]
            values.append(recording.values[rows][:, columns])
        return self._services.source(
            [recording.entity for recording in recordings],
            np.repeat(np.arange(len(recordings), dtype=np.int32), [len(part) for part in values]),
            np.concatenate([recording.time[rows] for recording, rows in zip(recordings, chosen, strict=True)]),
            np.concatenate(values),
        )

    def _train(self, source: Recorded, now: int, progress: Progress) -> ModelVersion:
        """The next model version, from all rows of a source.

        Raises: ModelError if there are too few.
        """
        began = time.monotonic()
        version = 1 + sum(facts["version"] is not None for facts in self._models)
        facts: dict[str, Any] = {"version": None, "trained_at": utc(now, "auto")}
        try:
            trained = self._trained(source, progress)
            facts["version"] = version
            # times are left out: the history was closed up
            facts |= {
                key: value for key, value in trained.artifact.provenance.items() if not key.startswith("trained_")
            }
        except ModelError as exc:
            facts["error"] = str(exc)
            raise
        finally:
            facts["seconds"] = round(time.monotonic() - began, 1)
            self.train_seconds += time.monotonic() - began
            self._models.append(facts)
        return replace(trained, version=version)

    def _trained(self, source: Recorded, progress: Progress) -> ModelVersion:
        monitor, step = self._monitor, self._monitor.step_ms
        # entities recorded in different months would make a history of mostly nothing
        source = source.closed_up(step, step * self._horizon.slots)
        extent = source.extent()
        if extent is None:
            msg = f"monitor {monitor.name!r}: no entity has a row to train on; see `train_rows` in meta.json"
            raise ModelError(msg)
        end = grid.floor(extent[1], step) + step
        history = read_history(
            self._horizon,
            source,
            start=extent[0],
            end=end,
            progress=lambda done, what: progress(0.1 * done, f"{monitor.name}: {what}"),
        )
        return train(
            self._plan,
            history,
            self._services.fit(monitor),
            progress=lambda done, what: progress(0.1 + 0.9 * done, f"{monitor.name}: {what}"),
        )

    def _replay(self, model: ModelVersion, begin: int) -> None:
        """Ticks, retrainings and recalibrations in order of time, each of which sees only the rows from before it."""
        began, trained_before = time.monotonic(), self.train_seconds
        monitor, store, recordings = self._monitor, self._services.store, self._group.recordings
        horizon = self._horizon
        everything = self._source([recording.has_time for recording in recordings])
        shown = [_shown(recording, horizon) for recording in recordings]
        visible = self._source(shown)
        times = np.concatenate([recording.time[rows] for recording, rows in zip(recordings, shown, strict=True)])
        ticks = _tick_times(monitor, np.sort(times[times >= begin]))
        retrainings, recalibrations = (
            _firings(when, begin, ticks[-1]) for when in (monitor.retrain, monitor.recalibrate)
        )

        def recalled(model: ModelVersion, now: int) -> Memory:
            known, stored = visible.between(_EVER, now), stored_state(horizon, store)
            return recall(horizon, known, model, stored=stored, now=now, begin=begin)

        memory = recalled(model, begin + milliseconds(monitor.delay))
        trained_until = calibrated_until = begin
        for now in sorted({*ticks, *retrainings, *recalibrations}):
            memory, _ = tick.tick(tick.Monitor(horizon, visible.between(_EVER, now), store), memory, now)
            done = _TRAINING_SHARE + (1.0 - _TRAINING_SHARE) * (now - begin) / (ticks[-1] - begin)
            self._progress(done, f"{monitor.name}: replaying")
            # without new rows they would only find the same again
            if now in recalibrations and everything.between(calibrated_until, now).extent():
                recalibrated = self._recalibrate(model, everything.between(_EVER, now), now, trained_until)
                memory = recalled(recalibrated, now) if recalibrated else memory
                calibrated_until = now
            if now in retrainings and everything.between(trained_until, now).extent():
                retrained = self._retrain(everything.between(_EVER, now), now, done)
                model = retrained or model
                memory = recalled(retrained, now) if retrained else memory
                trained_until = now
        self.replay_seconds += time.monotonic() - began - (self.train_seconds - trained_before)

    def _retrain(self, known: Recorded, now: int, done: float) -> ModelVersion | None:
        """A new model version from what is known by now; None if that is too little: the daemon keeps its old one."""
        monitor, step = self._monitor, self._monitor.step_ms
        try:
            start, end = division.span(self._plan, known, now=now)
            rows = known.between(grid.floor(start, step), grid.floor(end, step))
            return self._train(rows, now, lambda _, what: self._progress(done, f"again {what}"))
        except ModelError as exc:
            logger.warning("event=retrain_failed monitor=%s reason=%r", monitor.name, str(exc))
            return None

    def _recalibrate(self, model: ModelVersion, known: Recorded, now: int, trained_until: int) -> ModelVersion | None:
        """The trained model with its threshold fitted to recent rows; None if these are too few."""
        monitor = self._monitor
        alerts = [
            calibrate.Alerted(
                alert.entity, alert.opened, now if alert.closed is None else alert.closed, alert.peak_score
            )
            for alert in self._services.alerts(monitor.name)
        ]
        try:
            start, end = division.recent(self._plan, known, now=now, trained_until=trained_until)
            history = read_history(self._horizon, known, start=start, end=end, progress=lambda _done, _what: None)
            alerted = calibrate.not_normal(self._plan, history, alerts)
            calibration, _ = calibrate.recalibrated(self._plan, model, history, alerted=alerted)
        except ModelError as exc:
            logger.warning("event=recalibrate_failed monitor=%s reason=%r", monitor.name, str(exc))
            return None
        return replace(model, artifact=replace(model.artifact, calibration=calibration))

    def _results(self) -> list[Replayed]:
        monitor = self._monitor
        scores, alerts = self._services.scores(monitor.name), self._services.alerts(monitor.name)
        nothing = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64))
        return [
            result(
                recording,
                monitor,
                *scores.get(recording.entity, nothing),
                [alert for alert in alerts if alert.entity == recording.entity],
            )
            for recording in self._group.recordings
        ]


def _replayed(recording: Recording) -> Bool:
    """Rows after the history, (N,)."""
    return recording.has_time & (np.arange(len(recording.time)) >= recording.train_rows)


def _history(recording: Recording, monitor: MonitorSection) -> Bool:
    """Rows the first model version is trained on, (N,): the newest `division.span` of those before the replay."""
    rows = recording.has_time & (np.arange(len(recording.time)) < recording.train_rows)
    end = int(recording.time[rows].max(initial=_EVER)) // monitor.step_ms * monitor.step_ms + monitor.step_ms
    start = grid.floor(end - milliseconds(monitor.training.span), monitor.step_ms)
    return rows & (recording.time >= start)


def _shown(recording: Recording, horizon: Horizon) -> Bool:
    """Rows a replay gets to see, (N,): those replayed, and before them what their scores and decisions look back on.

    All of the history of an entity that begins later than others would be judged, and open alerts, on its way there.
    """
    rows = _replayed(recording)
    if not rows.any():
        return rows
    first = grid.floor(int(recording.time[rows].min()), horizon.step)
    return recording.has_time & (recording.time >= first - horizon.slots * horizon.step)


def _tick_times(monitor: MonitorSection, times: Int64) -> list[int]:
    """When to tick for rows at these times, sorted: as often as progress needs, and around long times without a row."""
    ends = (times // monitor.step_ms + 1) * monitor.step_ms
    slices = ends[np.linspace(0, len(ends) - 1, _SLICES + 1).astype(np.int64)]
    is_jump = np.diff(ends) > _JUMP_SLOTS * monitor.step_ms
    around = np.concatenate([ends[:-1][is_jump], ends[1:][is_jump] - monitor.step_ms])
    found: list[int] = np.unique(np.concatenate([slices, around]) + milliseconds(monitor.delay)).tolist()
    return found


def _firings(when: str, begin: int, end: int) -> set[int]:
    return set() if when == "off" else set(values.firing_times(when, begin, end))
