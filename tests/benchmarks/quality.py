"""How well anomalies are found, and what each choice inside the program is worth, on labelled recordings.

    python tests/benchmarks/quality.py --data ../shared/data --out quality.json
    python tests/benchmarks/quality.py --parts ablation --sets SMD ASD --seeds 0 --set training.epochs=5

--data holds a folder for each set, as `detector backtest --data` reads it. Labels are for judging alone: nothing is
trained, calibrated or chosen by them. Prints JSON, progress goes to stderr; with --out FILE.json each part is also
written to FILE_<part>.json as soon as it is done. Parts:

    ranking   VUS-PR and average precision of the program's surprises, beside scores that cost nothing, and its events
    ablation  VUS-PR of what a network's residuals surprise, with one choice changed at a time; the same networks
    faults    share of injected faults that open an alert, and after how many slots, by kind
    budget    alerts observed for each one promised, in synthetic errors of known law
    networks  VUS-PR of settings that need another training, each changed alone; not by default, first seed only

A fault of `faults` is in one metric that moves where it is put, 4, 8 or 16 robust deviations large. It is found if any
mechanism, or the rule for frozen metrics, opens an alert within 30 slots, and none would without it. One that changes
no value is drawn again. What is told is the mean over sizes and seeds.

Costs on two busy cores: one to three minutes for each set and seed, whose network all parts of a run share; two minutes
for each set of `faults`, one for each law and seed of `budget`; for `networks` eight times what a set costs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
import zlib
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np

from detector import wiring
from detector.config.sections import MonitorSection
from detector.core import decide, evaluate, faults, frozen, scaling, score, threshold
from detector.core.faults import SCALED, Fault
from detector.core.news import BEFORE, Experience
from detector.core.series import Bool, Float32, Float64, History, Windows
from detector.detect import news
from detector.detect.news import LOOK_BACK, Norm, Slots
from detector.models import fitting
from detector.ports import Fitted, ModelVersion
from detector.progress import Progress, silent
from detector.replay import groups, rescore, results
from detector.replay import recordings as dataset
from detector.replay import verdicts as judging
from detector.replay.recordings import Recording
from detector.replay.rescore import EntityResiduals
from detector.sources.memory import MemorySource
from detector.times import WEEK_MS
from detector.train import calibrate, division, habits, trial
from detector.train.division import Plan
from detector.train.fit import train
from detector.train.trial import Pieces

Row = dict[str, Any]

SETS = ("SMD", "ASD", "MSL", "SKAB", "NAB")
NORMAL_SETS = ("SMD", "ASD", "NAB")  # whose history is mostly normal, and long enough to count false alerts
REAL = "realAWSCloudwatch"  # of NAB, the recordings that are not artificial
FAULT_SIZES = (4.0, 8.0, 16.0)  # robust deviations
FAULTS_PER_KIND = 60
DRAWS = 100  # until a fault changes something
BUDGETS = (0.2, 1.0, 5.0)  # alerts a week and entity

FLEET = 20
DAY_SLOTS = 1440
CALIBRATION_SLOTS = round(0.3 * 14 * DAY_SLOTS)  # the newest part of two weeks, as in training
TEST_WEEKS = 8


class SharedFit(fitting.MonitorFit):
    """Trains no network twice: two that would be trained alike are the same."""

    _known: ClassVar[dict[tuple[int, str], Fitted]] = {}

    def network(self, windows: Windows, validation: Windows, *, days: float, seed: int, progress: Progress) -> Fitted:
        """The network of these windows and settings."""
        settings = self._monitor.model_dump_json(include={"model", "training"}, exclude={"model": {"kind"}})
        key = zlib.crc32(windows.values.tobytes()), f"{seed} {settings}"
        if key not in self._known:
            self._known[key] = super().network(windows, validation, days=days, seed=seed, progress=progress)
        return self._known[key]


@dataclass(frozen=True)
class Case:
    """A group of recordings with its model."""

    monitor: MonitorSection
    recordings: tuple[Recording, ...]
    data: division.Division
    model: ModelVersion

    def calibration(self) -> Float32:
        """Residuals that training calibrates on, (E, K, F)."""
        return calibrate.calibration_residuals(self.data, self.model.network, self.model.timesteps)

    def replays(self) -> Iterator[EntityResiduals]:
        """The entities as a backtest replays them, but only as far as residuals."""
        for recording in self.recordings:
            found = rescore.residuals(self.monitor, recording, self.model, make=MemorySource.of)
            if found is not None:
                yield found


def told(what: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%T')} {what}", file=sys.stderr, flush=True)


@cache
def read(folder: Path) -> list[Recording]:
    """All recordings of a set."""
    return dataset.read_folder(folder, silent)[0]


def settings(asked: Namespace, recordings: Sequence[Recording], seed: int, changes: Iterable[str]) -> MonitorSection:
    """The program's defaults for these recordings, with changes."""
    metrics = dict.fromkeys(metric for recording in recordings for metric in recording.metrics)
    return groups.settings(None, [*asked.changes, f"training.seed={seed}", *changes], metrics)


def replayed(asked: Namespace, name: str, seed: int, *changes: str) -> tuple[results.Outcome, Row]:
    """What `detector backtest` makes of a set, and its judgement of all entities."""
    recordings = read(asked.data / name)
    wanted = settings(asked, recordings, seed, changes)
    outcome = wiring.backtest(recordings, wanted, name=name, per_entity=False, progress=silent)
    for failure in outcome.failures:
        told(f"{name}: {failure.entity}: {failure.reason}")
    total: Row = judging.report(outcome, [judging.judge(one) for one in outcome.entities])["total"]
    return outcome, total


def ranking(asked: Namespace) -> list[Row]:
    """The program as it comes, one row a set: numbers that differ by seed as mean, least and most."""
    rows = []
    for name in asked.sets:
        found = []
        for seed in asked.seeds:
            outcome, total = replayed(asked, name, seed)
            kinds = {"kinds": [model.get("kind") for monitor in outcome.monitors for model in monitor["models"]]}
            found.append(kinds | total | (flagged_rows(outcome.entities) if name == "SKAB" else {}))
            told(f"ranking {name} seed {seed}: {kinds}, VUS-PR {total['vus_pr']}")
        rows.append({"set": name} | {key: _spread([row[key] for row in found]) for key in found[0]})
    return rows


def _spread(values: list[Any]) -> Any:
    if all(isinstance(value, int | float) for value in values) and min(values) < max(values):
        return [round(float(np.mean(values)), 4), min(values), max(values)]
    return values[0] if values.count(values[0]) == len(values) else values


def flagged_rows(entities: Sequence[results.Replayed]) -> Row:
    """F1, false alarm and missed alarm rate of rows inside alerts, counted as SKAB's leaderboard does."""
    chosen = [one for one in entities if one.recording.entity.startswith("other_")]
    label = np.concatenate([_label(one.recording) for one in chosen])
    alert = np.concatenate([one.is_alert for one in chosen])
    hits, false, missed = (int(rows.sum()) for rows in (label & alert, ~label & alert, label & ~alert))
    shares = (2 * hits / (2 * hits + false + missed), 100 * false / (~label).sum(), 100 * missed / label.sum())
    return {name: round(float(share), 4) for name, share in zip(("f1", "far", "mar"), shares, strict=True)}


def _label(recording: Recording) -> Bool:
    assert recording.label is not None
    return recording.label[recording.train_rows :]


def cases(asked: Namespace, recordings: Sequence[Recording], kind: str) -> Iterator[Case]:
    """Each group of recordings at each seed, trained as a backtest does."""
    for seed in asked.seeds:
        wanted = settings(asked, recordings, seed, [f"model.kind={kind}"])
        for group in groups.groups(recordings, wanted, name="quality", per_entity=False):
            monitor = group.monitor
            rows = [groups.to_train_on(recording, monitor) for recording in group.recordings]
            plan = Plan.of(monitor)
            history = groups.training_history(plan.horizon, groups.source_of(group, rows, MemorySource.of), silent)
            model = train(plan, history, fitting.MonitorFit(monitor), progress=silent)
            yield Case(monitor, group.recordings, division.divide(plan, history), model)


def _over_metrics(combine: Callable[..., Float32]) -> Callable[[Float32, Float32], tuple[Float32, Float32]]:
    """Stands for `score.error`, without shares."""
    return lambda residuals, noise: (combine(np.minimum(np.abs(residuals) / noise, score.CLIP), axis=-1), residuals)


VARIANTS: dict[str, dict[str, object]] = {
    "default": {},
    "spans 1": {"core.score.SPANS": (1,)},
    "spans 1 10": {"core.score.SPANS": (1, 10)},
    "spans 1 10 60": {"core.score.SPANS": (1, 10, 60)},
    "spans 1 5 15 60": {"core.score.SPANS": (1, 5, 15, 60)},
    "over metrics: mean": {"core.score.error": _over_metrics(np.nanmean)},
    "over metrics: maximum": {"core.score.error": _over_metrics(np.nanmax)},
    "noise: plain 0.98 quantile": {"train.calibrate.upper_quantile": lambda sizes: np.nanquantile(sizes, 0.98, axis=0)},
    "noise: plain 0.75 quantile": {"train.calibrate.upper_quantile": lambda sizes: np.nanquantile(sizes, 0.75, axis=0)},
    "noise: 1": {"train.calibrate.upper_quantile": lambda sizes: np.ones(sizes.shape[1])},
    "over spans: sum": {"core.threshold.worst": lambda by_span: np.sum(by_span, axis=-1)},
    "tail prior of long spans: none": {"core.threshold._SPAN_PRIOR": 0.0},
    "slot in long spans: at most 5": {"core.threshold.LIMIT": 5.0},
    "slot in long spans: at most 20": {"core.threshold.LIMIT": 20.0},
    "slot in long spans: no limit": {"core.threshold.LIMIT": np.inf},
    "clip: 10": {"core.score.CLIP": 10.0},
    "clip: 30": {"core.score.CLIP": 30.0},
    "clip: 1000": {"core.score.CLIP": 1000.0},
}
"""What is put in the place of which part of the program."""


@contextmanager
def replaced(parts: dict[str, object]) -> Iterator[None]:
    """The program with other parts."""
    with ExitStack() as stack:
        for target, part in parts.items():
            stack.enter_context(patch(f"detector.{target}", part))
        yield


def ablation(asked: Namespace) -> list[Row]:
    """VUS-PR with one choice changed at a time, one row a variant; mean over entities and seeds."""
    found: dict[str, dict[str, list[float]]] = {variant: {name: [] for name in asked.sets} for variant in VARIANTS}
    for name in asked.sets:
        for case in cases(asked, read(asked.data / name), "network"):
            residuals, entities = case.calibration(), list(case.replays())
            for variant, parts in VARIANTS.items():
                with replaced(parts):
                    found[variant][name] += _ranked(case, residuals, entities)
        told(f"ablation {name}: VUS-PR {np.nanmean(found['default'][name]):.4f}")
    return [_by_set(variant, found[variant]) for variant in VARIANTS]


def _ranked(case: Case, residuals: Float32, entities: Iterable[EntityResiduals]) -> list[float]:
    """VUS-PR of each entity, NaN where it cannot be told."""
    monitor, result = case.monitor, []
    noise, fleet_noise = calibrate.noise(residuals)
    errors, _ = score.error(residuals, noise[:, None])
    calibration = threshold.calibrate(threshold.smoothed(errors), spans=score.SPANS)
    for entity in entities:
        recording = entity.recording
        by_row = rescore.scores(monitor, entity, noise=noise, fleet_noise=fleet_noise, calibration=calibration)
        label, period = _label(recording), evaluate.dominant_period(recording.values[recording.train_rows :, 0])
        result.append(np.nan if label.all() else evaluate.vus_pr(np.nan_to_num(by_row), label, period))
    return result


def _by_set(variant: str, found: dict[str, list[float]]) -> Row:
    means = {name: float(np.nanmean(values)) for name, values in found.items()}
    means["mean"] = float(np.mean(list(means.values())))
    return {"variant": variant} | {name: round(mean, 4) for name, mean in means.items()}


def injected(asked: Namespace) -> list[Row]:
    """Faults found in normal data, one row for each set, model and kind."""
    rows = []
    for name in asked.normal_sets:
        recordings = [one for one in read(asked.data / name) if name != "NAB" or one.entity.startswith(REAL)]
        for model in ("network", "baseline"):
            delays = [_delays(case) for case in cases(asked, recordings, model)]
            for fault in Fault:
                by_size = {size: np.concatenate([one[fault, size] for one in delays]) for size in _sizes(fault)}
                rows.append(_found(by_size, set=name, model=model, fault=fault.value))
            told(f"faults {name} {model}: { {row['fault']: row['found'] for row in rows[-len(Fault) :]} }")
    return rows


def _sizes(fault: Fault) -> tuple[float, ...]:
    """Sizes that a fault is injected with; one is enough for a fault that has none."""
    return FAULT_SIZES if fault in SCALED else FAULT_SIZES[:1]


def _delays(case: Case) -> dict[tuple[Fault, float], Float64]:
    """Slots until faults of a kind and size open an alert, NaN if never; in the same places at each size."""
    places = [(fault, size, n) for fault in Fault for size in _sizes(fault) for n in range(FAULTS_PER_KIND)]
    made = [_injection(case, *place) for place in places]
    clean, faulty = (_joined([one[which] for one in made if one is not None]) for which in (0, 1))
    experience = trial.shown(case.data, case.model, clean.rows)
    opens, opens_anyway = (_opens(case, pieces, experience) for pieces in (faulty, clean))
    delays = iter(np.where(opens.any(axis=1) & ~opens_anyway.any(axis=1), opens.argmax(axis=1), np.nan).tolist())
    found: dict[tuple[Fault, float], list[float]] = {place[:2]: [] for place in places}
    for place, one in zip(places, made, strict=True):
        if one is not None:
            found[place[:2]].append(next(delays))
    return {what: np.array(delays) for what, delays in found.items()}


def _injection(case: Case, fault: Fault, size: float, n: int) -> tuple[Pieces, Pieces] | None:
    """A piece of history without and with a fault; None if that changes nothing wherever it is put."""
    begin, usual = trial.look_back(case.data.plan.horizon), case.model.artifact.habits.usual
    rng = np.random.default_rng([case.monitor.training.seed, list(Fault).index(fault), n])
    for _ in range(DRAWS):
        clean = trial.drawn(case.data, before=begin, count=1, rng=rng)
        if clean is None:
            return None
        values = clean.values[0]
        moving = np.flatnonzero(np.nanmax(values, axis=0) > np.nanmin(values, axis=0))
        if not moving.size:
            continue
        metric = int(rng.choice(moving))
        strength = size * float(usual.spread[clean.rows[0], metric])
        changed = faults.inject(values, fault, begin=begin, metric=metric, size=strength, rng=rng)
        if not np.array_equal(changed, values, equal_nan=True):
            return clean, replace(clean, values=changed[None])
    return None


def _joined(pieces: Sequence[Pieces]) -> Pieces:
    columns = ([getattr(piece, name) for piece in pieces] for name in ("rows", "starts", "values"))
    return Pieces(*(np.concatenate(column) for column in columns))


def _opens(case: Case, pieces: Pieces, experience: Experience) -> Bool:
    """True for the slots in which a mechanism or the rule for frozen metrics would open an alert, (C, FAULT_SLOTS)."""
    limits = case.model.artifact.freeze_limits[pieces.rows]
    is_frozen = frozen.is_frozen(pieces.values, limits, trial.FAULT_SLOTS, rested=np.zeros_like(limits))
    return trial.opens(case.data, case.model, pieces, experience) | is_frozen.any(axis=2)


def _found(by_size: dict[float, Float64], **what: object) -> Row:
    delays = np.concatenate(list(by_size.values()))
    found = delays[~np.isnan(delays)]
    shares = {size: round(float((~np.isnan(one)).mean()), 3) for size, one in by_size.items() if len(one)}
    row = what | {"injected": len(delays), "found": round(float(np.mean(list(shares.values()) or np.nan)), 3)}
    row["by_size"] = shares if len(by_size) > 1 else None
    return row | {"median_delay_slots": float(np.median(found)) if found.size else None}


def budgets(asked: Namespace) -> list[Row]:
    """Alerts for each one promised, one row for each law and budget; of all seeds together."""
    return [row for law in LAWS for row in _budget_rows(law, [_alerts(law, seed) for seed in asked.seeds])]


def _wandering(rng: np.random.Generator, size: tuple[int, ...]) -> Float64:
    """Normal noise whose standard deviation wanders: its logarithm is an AR(1) process, 0.5 wide, 100 slots long."""
    memory, log_deviation = 0.99, rng.normal(0.0, 0.5, size[:2])  # (E, N)
    log_deviation[:, 1:] *= np.sqrt(1.0 - memory**2)
    for n in range(1, size[1]):
        log_deviation[:, n] += memory * log_deviation[:, n - 1]
    return np.asarray(np.exp(log_deviation)[..., None] * rng.normal(size=size))


LAWS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Float64]] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "Laplace": lambda rng, size: rng.laplace(size=size),
    "Student t, 3 degrees of freedom": lambda rng, size: rng.standard_t(3, size),
    "lognormal": lambda rng, size: rng.lognormal(size=size),
    "AR(1) volatility": _wandering,
}


def _alerts(law: str, seed: int) -> Float64:
    """Alerts of each entity of a fleet at each budget in `TEST_WEEKS` of errors of known law, (E, budgets).

    An error is the root mean square of eight metrics' noise, larger at one time of the day. Nothing else is known: the
    mechanisms of the network's errors alone may open an alert.
    """
    plan = Plan.of(groups.settings(None, ["step=60s"], ["value"]))
    horizon, step = plan.horizon, plan.horizon.step
    slots = step * np.arange(CALIBRATION_SLOTS + TEST_WEEKS * WEEK_MS // step)
    noise = LAWS[law](np.random.default_rng(seed), (FLEET, len(slots), 8))
    season = 1.0 + 0.2 * np.sin(2.0 * np.pi * np.arange(len(slots)) / DAY_SLOTS)
    errors = (season * np.sqrt((noise**2).mean(axis=2))).astype(np.float32)

    def unknown(count: int) -> Float32:
        return np.full((FLEET, count, 1), np.nan, dtype=np.float32)

    history = History(tuple(map(str, range(FLEET))), 0, step, unknown(CALIBRATION_SLOTS))
    nothing = np.zeros(FLEET, dtype=np.int64)
    data = division.Division(plan, history, scaling.fit(history.values), nothing, nothing)
    usual, experience = habits.fit(data, errors[:, :CALIBRATION_SLOTS])
    norm, periods = Norm(usual, data.scales, horizon.metric_rules, step), []
    for begin in range(CALIBRATION_SLOTS, len(slots), DAY_SLOTS):
        day = slice(begin, begin + DAY_SLOTS)
        seen = Slots(slots[day], data.rows, unknown(LOOK_BACK + DAY_SLOTS), errors[:, begin - BEFORE : day.stop])
        experience, found = news.advance(norm, experience, seen)
        periods.append(threshold.worst(found))
    rarity = np.concatenate(periods, axis=1)
    levels = [threshold.level(budget * FLEET, FLEET) for budget in BUDGETS]
    scores = np.concatenate([threshold.scores(rarity, level) for level in levels])
    before, none_open = horizon.rules.before, decide.AlertStates.none_open(len(scores))
    later = slots[CALIBRATION_SLOTS + before :]
    _, events = decide.decide(none_open, scores, slots=later, rules=horizon.rules, step=step)
    alerts = np.zeros(len(scores))
    for event in events:
        alerts[event.entity] += event.change is decide.Change.OPENED
    return alerts.reshape(len(BUDGETS), FLEET).T


def _budget_rows(law: str, parts: list[Float64]) -> list[Row]:
    """Observed by promised: of the middle entity, of the one that nine in ten do not exceed, and of all together."""
    observed, rows = np.concatenate(parts), []
    for budget, alerts in zip(BUDGETS, observed.T, strict=True):
        ratio = alerts / (TEST_WEEKS * budget)
        numbers = {"median": np.median(ratio), "p90": np.quantile(ratio, 0.9), "pooled": ratio.mean()}
        rows.append({"law": law, "budget": budget} | {name: round(float(one), 2) for name, one in numbers.items()})
    told(f"budget {law}: pooled {[row['pooled'] for row in rows]}")
    return rows


NETWORKS = (
    "model.kind=network",
    "timesteps=60",
    "model.units=32",
    "model.cell=gru",
    "model.bidirectional=true",
    "training.input_noise=0.0",
    "training.input_noise=0.1",
    "training.trim=0.0",
)


def networks(asked: Namespace) -> list[Row]:
    """VUS-PR of other settings of a network, one row each, the defaults first; first seed only."""
    rows = []
    for change in NETWORKS:
        totals = {n: replayed(asked, n, asked.seeds[0], "model.kind=network", change)[1] for n in asked.sets}
        rows.append(_by_set(change, {name: [total["vus_pr"]] for name, total in totals.items()}))
        told(f"networks {rows[-1]}")
    return rows


PARTS: dict[str, Callable[[Namespace], Any]] = {
    "ranking": ranking,
    "ablation": ablation,
    "faults": injected,
    "budget": budgets,
    "networks": networks,
}


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=[name for name in PARTS if name != "networks"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    asked.normal_sets = [name for name in asked.sets if name in NORMAL_SETS]
    warnings.simplefilter("ignore", RuntimeWarning)  # means and quantiles of slots where nothing is known
    result: Row = {"seeds": asked.seeds, "changes": asked.changes}
    with patch.object(wiring, "MonitorFit", SharedFit):
        for name in asked.parts:
            began = time.monotonic()
            result[name] = PARTS[name](asked)
            told(f"{name} took {time.monotonic() - began:.0f} s")
            if asked.out:
                asked.out.with_stem(f"{asked.out.stem}_{name}").write_text(json.dumps(result[name], indent=1))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
