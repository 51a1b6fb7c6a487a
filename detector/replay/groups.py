"""Groups of recordings that share a monitor: its settings, and the rows that each part of a replay may see."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.config import loading
from detector.config.sections import MonitorSection
from detector.core import grid
from detector.core.rates import per_second
from detector.core.series import Bool, Float64, History, Int64
from detector.detect import rates
from detector.detect.history import read_history
from detector.detect.horizon import Horizon
from detector.errors import ConfigError, ModelError
from detector.ports import Source
from detector.progress import Progress
from detector.replay.recordings import Recording
from detector.times import milliseconds

EVER = int(np.iinfo(np.int64).min)
"""A time before every row, epoch milliseconds."""

FROM_DATA = ("name", "source", "metrics")
"""Settings that a backtest takes from the data."""

_LONGEST_NAME = 48  # of a monitor that is named after a file or a folder; room for a number and for ":baseline"


class Recorded(Source, Protocol):
    """A source of recorded rows, of which a part may be taken."""

    def between(self, start: int, end: int) -> Recorded:
        """The rows with start ≤ time < end, both in epoch milliseconds."""

    def closed_up(self, step: int, gap: int) -> Recorded:
        """The rows with times without any row made shorter, down to `gap` milliseconds and something over."""


MakeSource = Callable[[Sequence[str], NDArray[np.int32], Int64, Float64], Recorded]
"""Makes a source of rows: names of entities; entity (N,), time (N,) and values (N, F) of each row."""


@dataclass(frozen=True)
class Group:
    """Recordings that one network is trained for."""

    monitor: MonitorSection
    recordings: tuple[Recording, ...]


def settings(section: MonitorSection | None, assignments: Sequence[str], metrics: Iterable[str]) -> MonitorSection:
    """Settings for a backtest: those of a configured monitor or the defaults, changed by assignments `key=value`.

    There is no delay and no lateness in recorded data unless they are set; without a configuration no retraining.

    Raises: ConfigError if an assignment names no setting, or one that the data decides.
    """
    for key in (assignment.partition("=")[0].strip() for assignment in assignments):
        if key.split(".")[0] in FROM_DATA:
            msg = f"--set {key}: a backtest takes it from the data; leave it out"
            raise ConfigError(msg)
    table: dict[str, Any] = {"delay": timedelta(0), "lateness": timedelta(0)}
    if section is None:
        table["retrain"] = "off"
    else:
        table |= section.model_dump(exclude_unset=True, exclude={"step"})
        metrics = {*metrics, *section.metrics}
    table |= {"name": "backtest", "source": {"type": "embedded"}, "metrics": tuple(metrics)}
    # results are read back from the stored scores
    return loading.monitor(table, assignments).model_copy(update={"store_scores": "all"})


def groups(recordings: Sequence[Recording], wanted: MonitorSection, *, name: str, per_entity: bool) -> list[Group]:
    """Recordings of the same metrics and the same step together, or each alone.

    With a step that is set, which all of them are aggregated to, recordings of different steps go together.
    """
    has_step = "step" in wanted.model_fields_set
    members: dict[tuple[object, ...], list[Recording]] = {}
    for recording in recordings:
        step_ms = wanted.step_ms if has_step else recording.step_ms
        key = (recording.entity,) if per_entity else (step_ms, *sorted(recording.metrics))
        members.setdefault(key, []).append(recording)
    result = []
    for number, together in enumerate(members.values(), 1):
        metrics = together[0].metrics
        changes = {
            "name": _monitor_name(together[0].entity if per_entity else name, number if len(members) > 1 else None),
            "metrics": metrics,
            "rates": tuple(metric for metric in wanted.rates if metric in metrics),
            "rules": tuple(rule for rule in wanted.rules if rule.metric in metrics),
            "step": wanted.step if has_step else timedelta(milliseconds=together[0].step_ms),
        }
        result.append(Group(wanted.model_copy(update=changes), tuple(together)))
    return result


def _monitor_name(wanted: str, number: int | None) -> str:
    usable = re.sub(r"[^A-Za-z0-9_.-]+", "-", wanted).strip("_.-")[:_LONGEST_NAME] or "backtest"
    return usable if number is None else f"{usable}-{number}"


# -- rows -------------------------------------------------------------------------------------------------------------


def to_train_on(recording: Recording, monitor: MonitorSection) -> Bool:
    """True for rows of the first training, (N,): the newest `training.span` of those before the replay."""
    rows = recording.has_time & (np.arange(len(recording.time)) < recording.train_rows)
    end = int(recording.time[rows].max(initial=EVER)) // monitor.step_ms * monitor.step_ms + monitor.step_ms
    start = grid.floor(end - milliseconds(monitor.training.span), monitor.step_ms)
    return rows & (recording.time >= start)


def to_replay(recording: Recording) -> Bool:
    """True for rows after the history, (N,)."""
    return recording.has_time & (np.arange(len(recording.time)) >= recording.train_rows)


def to_show(recording: Recording, horizon: Horizon) -> Bool:
    """True for rows that ticks may read, (N,): those replayed, and the slots before them that a tick looks back on.

    More history of an entity that begins later than others would be scored and open alerts before its replay begins.
    """
    rows = to_replay(recording)
    if not rows.any():
        return rows
    first = grid.floor(int(recording.time[rows].min()), horizon.step)
    return recording.has_time & (recording.time >= first - horizon.slots * horizon.step)


def source_of(group: Group, chosen: Sequence[Bool], make: MakeSource) -> Recorded:
    """A source of the chosen rows (N,) of each recording, without labels."""
    columns = [[one.metrics.index(metric) for metric in group.monitor.metrics] for one in group.recordings]
    parts = list(zip(group.recordings, chosen, columns, strict=True))
    values = [_rated(group.monitor, recording)[rows][:, order] for recording, rows, order in parts]
    return make(
        [recording.entity for recording in group.recordings],
        np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in values]),
        np.concatenate([recording.time[rows] for recording, rows, _ in parts]),
        np.concatenate(values),
    )


def _rated(monitor: MonitorSection, recording: Recording) -> Float64:
    """Values of a recording, (N, F), whose counters are rates; those depend on earlier rows only."""
    if not monitor.rates:
        return recording.values
    values = recording.values.copy()
    rows = np.flatnonzero(recording.has_time)
    alone, longest = np.zeros(len(rows), dtype=np.int64), rates.longest(monitor)
    for column in (recording.metrics.index(metric) for metric in monitor.rates):
        values[rows, column] = per_second(alone, recording.time[rows], values[rows, column], longest)
    return values


def training_history(horizon: Horizon, source: Recorded, progress: Progress) -> History:
    """History of all rows of a source, to train on.

    Long times without a row are made shorter: entities recorded in different months would make a history of mostly
    nothing. So its times are not those of the recordings.

    Raises: ModelError if there is no row.
    """
    step = horizon.step
    source = source.closed_up(step, step * horizon.slots)
    extent = source.extent(-1 - EVER)  # of all rows
    if extent is None:
        msg = f"monitor {horizon.monitor!r}: no entity has a row to train on; see `train_rows` in meta.json"
        raise ModelError(msg)
    end = grid.floor(extent[1], step) + step
    return read_history(horizon, source, start=extent[0], end=end, progress=progress)
