"""Alerts by return period on labelled recordings, under other constants, and what each mechanism alone would do.

    python tests/benchmarks/news.py --data ../shared/data --sets SMD ASD CLOUD-1h NAB --seeds 0 1 2
    python tests/benchmarks/news.py --sets SMD --verdicts
    python tests/benchmarks/news.py --sets SMD --change _GROSS=8 SHARES.shape=.3 peaks._BANDWIDTH=.2 --by-mechanism

The program's own code, as far as the return periods of each recording, all slots at once; then its rules, without late
rows, severity or a database. A change is of a constant of `core.news`, or of another module of `core` if it is named.
Labels are for judging alone; with --verdicts also for what people would say of an alert once it has closed.

Prints JSON: for each set events found by an alert that opened no earlier than 60 slots before, the number that the same
alerts find by chance when they are moved, false alerts a week and entity, share of rows inside alerts.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import quality

from detector.core import decide, precedents, score, threshold
from detector.core.decide import THRESHOLD, AlertStates, Change
from detector.core.news import BEFORE, MECHANISMS
from detector.core.precedents import Patterns
from detector.core.series import Bool, Float32, Int64
from detector.detect import news
from detector.detect.history import read_history
from detector.detect.horizon import Horizon
from detector.detect.news import LOOK_BACK, Slots
from detector.detect.residuals import model_rows
from detector.progress import silent
from detector.replay import groups, rescore
from detector.replay.groups import Group
from detector.replay.recordings import Recording
from detector.sources.memory import MemorySource
from detector.times import WEEK_MS

EARLY, GRACE, MOVES = 60, 30, 60
AT_A_TIME = 2000  # slots whose patterns are made
BETWEEN_VERDICTS = 10  # slots

Span = tuple[int, int]


@dataclass
class Entity:
    """One recording, as far as return periods."""

    recording: Recording
    horizon: Horizon
    slots: Int64  # (N,) of the replay
    return_periods: Float32  # (1, N, M) ln of weeks
    patterns: Patterns  # (N, F)


def entities(case: quality.Case) -> Iterator[Entity]:
    """The recordings of a group."""
    model, monitor = case.model, case.monitor
    horizon, artifact = Horizon.of(monitor), model.artifact
    norm = news.norm_of(model, horizon.metric_rules, horizon.step)
    for recording in case.recordings:
        row = model_rows(model, (recording.entity,))
        shown = rescore.residuals(monitor, recording, model, make=MemorySource.of)
        if row[0] < 0 or shown is None:
            continue
        source = groups.source_of(Group(monitor, (recording,)), [groups.to_show(recording, horizon)], MemorySource.of)
        begin = int(recording.time[groups.to_replay(recording)].min()) // horizon.step * horizon.step
        until, look_back = int(shown.slots[-1]) + horizon.step, LOOK_BACK * horizon.step
        replayed = read_history(horizon, source, start=begin - look_back, end=until, progress=silent)
        errors, _ = score.error(shown.residuals, artifact.noise[row][:, None])
        first = int(np.searchsorted(shown.slots, begin))
        slots = Slots(replayed.slots[LOOK_BACK:], row, replayed.values, errors[:, first - BEFORE :])
        _, found = news.advance(norm, news.first(model, row, step=horizon.step), slots)
        yield Entity(recording, horizon, slots.slots, found, _patterns(norm, slots))


def _patterns(norm: news.Norm, slots: Slots) -> Patterns:
    """Of each slot, (N, F)."""
    deviations = norm.habits.usual.deviations(slots.values[:, LOOK_BACK:], slots.slots, slots.rows, norm.rules)[0]
    padded = precedents.padded(deviations, len(deviations) + precedents.SLOTS - 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, precedents.SLOTS, axis=0).swapaxes(1, 2)
    parts = [Patterns.of(windows[begin : begin + AT_A_TIME]) for begin in range(0, len(windows), AT_A_TIME)]
    return Patterns(np.concatenate([part.direction for part in parts]), np.concatenate([part.size for part in parts]))


def alerts(
    entity: Entity, periods: Float32, budget: float, *, is_real: Callable[[Span], bool] | None = None
) -> list[Span]:
    """Slots [first, end) of an entity's alerts by return periods (N,), at so many alerts a week.

    is_real: what people say of an alert when it has closed, [nothing]
    """
    rules, step, slots, patterns = entity.horizon.rules, entity.horizon.step, entity.slots, entity.patterns
    before = np.full(rules.before, np.nan, dtype=np.float32)
    scores = np.concatenate([before, threshold.scores(periods, threshold.level(budget, 1))])
    states, spans, verdicts = AlertStates.none_open(1), list[Span](), dict[int, bool]()
    for begin in range(0, len(slots), len(slots) if is_real is None else BETWEEN_VERDICTS):
        chunk = slice(begin, begin + (len(slots) if is_real is None else BETWEEN_VERDICTS))
        known = np.array(list(verdicts), dtype=np.int64)
        judged = Patterns(patterns.direction[known], patterns.size[known])
        seen = Patterns(patterns.direction[chunk], patterns.size[chunk])
        is_like = precedents.followed(seen, judged, np.array(list(verdicts.values()), dtype=np.bool_)) >= 0
        mine = scores[rules.before :][chunk]  # a view
        mine[is_like] = np.fmax(mine[is_like], np.float32(THRESHOLD))
        states, events = decide.decide(
            states, scores[None, begin : begin + rules.before + len(mine)], slots=slots[chunk], rules=rules, step=step
        )
        for event in events:
            first, end = (event.episode.opened_slot - int(slots[0])) // step, (event.slot - int(slots[0])) // step
            if event.change is Change.OPENED:
                spans.append((first, len(slots)))
            elif event.change is Change.REOPENED:
                spans[-1] = (spans[-1][0], len(slots))
            elif event.change is Change.CLOSED:
                spans[-1] = (spans[-1][0], end)
                peak = (event.episode.peak_slot - int(slots[0])) // step
                if is_real is not None and patterns.direction[peak].any():
                    verdicts[peak] = is_real(spans[-1])
    return spans


@dataclass(frozen=True)
class Judge:
    """Rows before and behind an event that still belong to it."""

    early: int = EARLY
    grace: int = GRACE

    @staticmethod
    def of(folder: Path) -> Judge:
        """As the set's `meta.json` says."""
        facts = json.loads((folder / "meta.json").read_text())
        return Judge(facts.get("early_rows", EARLY), facts.get("grace_rows", GRACE))

    def found(self, mine: Sequence[Span], events: Sequence[Span], *, at_any_time: bool = False) -> tuple[int, int]:
        """Events met by an alert that opened not long before them, or at any time; and alerts that meet none."""
        early = 1 << 60 if at_any_time else self.early
        met = [any(a < e + self.grace and b > s and a >= s - early for a, b in mine) for s, e in events]
        true = [any(a < e + self.grace and b > s for s, e in events) for a, b in mine]
        return sum(met), len(true) - sum(true)


def judged(
    fleet: Sequence[Entity], mechanisms: slice, budget: float, judge: Judge, *, verdicts: bool = False
) -> dict[str, Any]:
    """Alerts by some mechanisms against labels, at so many alerts a week and entity."""
    rng, total = np.random.default_rng(0), dict.fromkeys(("events", "fresh", "alerts", "false", "rows", "inside"), 0)
    chance = weeks = 0.0
    for one in fleet:
        step = one.horizon.step
        recording = one.recording
        assert recording.label is not None
        order = np.argsort(recording.time[recording.train_rows :], kind="stable")
        times, label = recording.time[recording.train_rows :][order], recording.label[recording.train_rows :][order]
        edges = np.flatnonzero(np.diff(np.concatenate([[0], label.astype(int), [0]])))
        events = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))

        def rows(span: Span, of: Entity = one, times: Int64 = times) -> Span:
            first, last = np.searchsorted(times, of.slots[0] + of.horizon.step * np.array(span)).tolist()
            return first, max(last, first + 1)

        def is_real(span: Span, events: Sequence[Span] = events, rows: Callable[[Span], Span] = rows) -> bool:
            return judge.found([rows(span)], events)[1] == 0

        periods = threshold.worst(one.return_periods[0, :, mechanisms])
        mine = [rows(span) for span in alerts(one, periods, budget, is_real=is_real if verdicts else None)]
        fresh, false = judge.found(mine, events)
        total["events"] += len(events)
        total["fresh"] += fresh
        total["alerts"] += len(mine)
        total["false"] += false
        inside: Bool = np.zeros(len(label), dtype=np.bool_)
        for first, last in mine:
            inside[first:last] = True
        total["rows"] += len(label)
        total["inside"] += int(inside.sum())
        weeks += len(label) * step / WEEK_MS
        for _ in range(MOVES if mine and events else 0):
            moved = int(rng.integers(len(label)))
            shifted = [((a + moved) % len(label), (a + moved) % len(label) + b - a) for a, b in mine]
            chance += judge.found(shifted, events, at_any_time=True)[0] / MOVES
    share = total.pop("inside") / max(1, total.pop("rows"))
    rate = round(total["false"] / weeks, 3)
    return total | {"chance": round(chance, 1), "false_per_week_and_entity": rate, "rows_in_alerts": round(share, 3)}


def changed(assignment: str) -> None:
    """Makes a change, as `_GROSS=8`, `SHARES.shape=.3` or `peaks._BANDWIDTH=.2`.

    Raises: SystemExit if there is no such constant.
    """
    name, value = assignment.split("=")
    *modules, last = name.split(".")
    home: Any = importlib.import_module("detector.core.news")
    for part in modules:
        home = getattr(home, part) if hasattr(home, part) else importlib.import_module(f"detector.core.{part}")
    is_there = last in home if isinstance(home, dict) else hasattr(home, last)
    if not is_there:
        raise SystemExit(f"--change: there is no {name}")
    if isinstance(home, dict):
        home[last] = float(value)
    else:
        setattr(home, last, type(getattr(home, last))(float(value)))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", default=["SMD", "ASD", "NAB"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--budget", type=float, default=1.0, help="alerts a week and entity [1]")
    parser.add_argument("--change", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--verdicts", action="store_true", help="people say of every alert whether it was real")
    parser.add_argument("--by-mechanism", action="store_true", help="what each mechanism alone would do, too")
    asked = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # recordings that have no value of a metric
    for assignment in asked.change:
        changed(assignment)
    rows = []
    for name in asked.sets:
        judge = Judge.of(asked.data / name)
        settings = Namespace(changes=[], seeds=asked.seeds)
        for case in quality.cases(settings, quality.read(asked.data / name), "network"):
            fleet = list(entities(case))
            row = {"set": name, "seed": case.monitor.training.seed}
            row |= judged(fleet, slice(None), asked.budget, judge, verdicts=asked.verdicts)
            if asked.by_mechanism:
                row["by_mechanism"] = {
                    mechanism: judged(fleet, slice(m, m + 1), asked.budget, judge)
                    for m, mechanism in enumerate(MECHANISMS)
                }
            rows.append(row)
            quality.told(json.dumps(row))
    print(json.dumps({"change": asked.change, "budget": asked.budget, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
