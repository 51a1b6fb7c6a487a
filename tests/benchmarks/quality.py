"""How well anomalies are found, and what each choice inside the program is worth, on labelled recordings.

    python tests/benchmarks/quality.py --data ../shared/data --out quality.json
    python tests/benchmarks/quality.py --parts ablation --sets SMD ASD --seeds 0 --set training.epochs=5

--data holds a folder for each set, as `detector backtest --data` reads it. Labels are for judging alone: nothing is
trained, calibrated or chosen by them. Prints JSON, progress goes to stderr; with --out FILE.json each part is also
written to FILE_<part>.json as soon as it is done. Parts:

    vus       VUS-PR, average precision and events of the program as it comes, beside scores that cost nothing
    ablation  VUS-PR with one choice changed at a time, all on the residuals of the same networks
    faults    share of injected faults that open an alert, and after how many slots, by kind and size
    budget    false alerts observed for each one promised, in quiet recordings and in synthetic errors of known law
    networks  VUS-PR of settings that need another training, each changed alone; not by default, first seed only

Costs on two busy cores: one to three minutes for each set and seed, whose network all parts of a run share; two minutes
for each set of `faults`, one for each seed of synthetic errors; for `networks` eight times what a set costs.
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
from detector.core import decide, evaluate, score
from detector.core.faults import SCALED, Fault
from detector.core.series import Bool, Float32, Float64, Windows
from detector.models import fitting
from detector.ports import Fitted, ModelVersion
from detector.progress import Progress, silent
from detector.replay import groups, rescore, results
from detector.replay import recordings as dataset
from detector.replay import verdicts as judging
from detector.replay.recordings import Recording
from detector.replay.rescore import EntityResiduals
from detector.sources.memory import MemorySource
from detector.train import calibrate, division, trial
from detector.train.division import Plan
from detector.train.fit import train

Row = dict[str, Any]

SETS = ("SMD", "ASD", "MSL", "SKAB", "NAB")
NORMAL_SETS = ("SMD", "ASD", "NAB")  # whose history is mostly normal, and long enough to count false alerts
REAL = "realAWSCloudwatch"  # of NAB, the recordings that are not artificial
FAULT_SIZES = (2.0, 4.0, 8.0, 16.0)
FAULTS_PER_KIND = 60
BUDGETS = (0.2, 1.0, 5.0)
ECHO_SLOTS = 60  # behind an event, in which an alert may still belong to it
DAY_MS = 24 * 3_600_000
WEEK_MS = 7 * DAY_MS

FLEET = 20
DAY_SLOTS = 1440
CALIBRATION_SLOTS = round(0.3 * 14 * DAY_SLOTS)  # the newest part of two weeks, as in training
TEST_SLOTS = 8 * 7 * DAY_SLOTS


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


def vus(asked: Namespace) -> list[Row]:
    """The program as it comes, one row a set: numbers that differ by seed as mean, least and most."""
    rows = []
    for name in asked.sets:
        found = []
        for seed in asked.seeds:
            outcome, total = replayed(asked, name, seed)
            kinds = {"kinds": [model.get("kind") for monitor in outcome.monitors for model in monitor["models"]]}
            found.append(kinds | total | (flagged_rows(outcome.entities) if name == "SKAB" else {}))
            told(f"vus {name} seed {seed}: {kinds}, VUS-PR {total['vus_pr']}")
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
    # two spans, for the second one tells when an episode is over; the first alone scores
    "spans 1": {"core.score.SPANS": (1, 2), "core.threshold.worst": lambda by_span: by_span[..., 0]},
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
    calibration = calibrate.fit_threshold(Plan.of(monitor), errors)
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
    """Faults found in normal data, one row for each set, model, kind and size."""
    rows = []
    for name in asked.normal_sets:
        recordings = [one for one in read(asked.data / name) if name != "NAB" or one.entity.startswith(REAL)]
        for model in ("network", "baseline"):
            trained = list(cases(asked, recordings, model))
            for size in FAULT_SIZES:
                by_kind = np.concatenate([_delays(case, size) for case in trained], axis=1)
                for fault, delays in zip(Fault, by_kind, strict=True):
                    if fault in SCALED or size == FAULT_SIZES[0]:
                        strength = size if fault in SCALED else None
                        rows.append(_found(delays, set=name, model=model, fault=fault.value, size=strength))
            told(f"faults {name} {model}")
    return rows


def _delays(case: Case, size: float) -> Float64:
    """Slots until faults of a size open an alert, NaN if never, by kind (kinds, n); in the same places at each size."""
    rng = np.random.default_rng(case.monitor.training.seed)
    delays = trial.delays(case.data, case.model, rng, per_kind=FAULTS_PER_KIND, sizes=(size,))
    return delays.reshape(len(Fault), FAULTS_PER_KIND)


def _found(delays: Float64, **what: object) -> Row:
    found = delays[~np.isnan(delays)]
    median = float(np.median(found)) if found.size else None
    return what | {"injected": len(delays), "found": round(len(found) / len(delays), 3), "median_delay_slots": median}


def budgets(asked: Namespace) -> list[Row]:
    """False alerts for each one promised, each entity as a monitor of its own."""
    rows = []
    for name in asked.normal_sets:
        trained = cases(asked, read(asked.data / name), "network")
        rows += _budget_rows(name, [counts for case in trained for counts in _recorded(case)])
    for law in LAWS:
        rows += _budget_rows(law, [_synthetic(law, seed) for seed in asked.seeds])
    return rows


def _recorded(case: Case) -> Iterator[Float64]:
    """Counts outside labelled events and `ECHO_SLOTS` behind them; of entities that were seen in calibration."""
    monitor, step, residuals = case.monitor, case.monitor.step_ms, case.calibration()
    for replay in case.replays():
        own, recording = residuals[replay.row], replay.recording
        if replay.row[0] < 0 or np.isnan(own).all():
            continue
        noise, _ = calibrate.noise(own)
        (errors, _), (later, _) = (score.error(one, noise[:, None]) for one in (own, replay.residuals))
        times = recording.time[recording.train_rows :]
        is_event = np.isin(replay.slots, times[_label(recording)] // step * step)
        is_event = np.convolve(is_event, np.ones(1 + ECHO_SLOTS))[: len(is_event)] > 0.5
        first = times[times != dataset.NO_TIME].min() // step * step
        yield _counts(monitor, errors, later, ~np.isnan(later) & ~is_event & (replay.slots >= first))


def _counts(monitor: MonitorSection, errors: Float32, later: Float32, is_normal: Bool) -> Float64:
    """False alerts observed and promised in normal slots of each entity at each budget, (E, budgets, 2).

    errors: (E, N), on which each entity is calibrated alone; later, is_normal: (E, K)
    """
    plans = [replace(Plan.of(monitor), alert_budget_per_week=budget) for budget in BUDGETS]
    rules, row = plans[0].horizon.rules, np.zeros(1, dtype=np.int64)
    scores, recovered = [], []
    for own, after in zip(errors, later, strict=True):
        for plan in plans:
            calibration = calibrate.fit_threshold(plan, own[None])
            smoothed = calibration.smoothed(after[None], row)
            scores.append(calibration.by_span(smoothed, row))
            recovered.append(calibration.recovered(smoothed, row))
    _, events = decide.decide(
        decide.AlertStates.none_open(len(scores)),
        np.concatenate(scores),
        np.concatenate(recovered),
        slots=np.arange(rules.before + max(score.SPANS) - 1, later.shape[1]),
        rules=rules,
        spans=score.SPANS,
        step=1,
    )
    observed = np.zeros((len(errors), len(BUDGETS)))
    for event in events:
        entity, budget = divmod(event.entity, len(BUDGETS))
        observed[entity, budget] += event.change is decide.Change.OPENED and is_normal[entity, event.slot]
    weeks = is_normal.sum(axis=1, keepdims=True) * monitor.step_ms / WEEK_MS
    return np.stack([observed, weeks * BUDGETS], axis=2)


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


def _synthetic(law: str, seed: int) -> Float64:
    """Counts in errors of known law: the root mean square of eight metrics' noise, larger at one time of the day."""
    monitor = groups.settings(None, ["step=60s"], ["value"])
    noise = LAWS[law](np.random.default_rng(seed), (FLEET, CALIBRATION_SLOTS + TEST_SLOTS, 8))
    season = 1.0 + 0.2 * np.sin(2.0 * np.pi * np.arange(noise.shape[1]) / DAY_SLOTS)
    errors = (season * np.sqrt((noise**2).mean(axis=2))).astype(np.float32)
    is_normal = np.broadcast_to(np.arange(errors.shape[1]) >= CALIBRATION_SLOTS, errors.shape)
    return _counts(monitor, errors[:, :CALIBRATION_SLOTS], errors, is_normal)


def _budget_rows(data: str, parts: list[Float64]) -> list[Row]:
    """Observed by promised: of the middle entity, of the one that nine in ten do not exceed, and of all together."""
    counts = np.concatenate(parts)
    counts = counts[counts[:, 0, 1] > 0]
    rows = []
    for budget, (observed, promised) in zip(BUDGETS, counts.transpose(1, 2, 0), strict=True):
        numbers = {"promised": promised.sum(), "observed": observed.sum()}
        numbers |= {"median": np.median(observed / promised), "p90": np.quantile(observed / promised, 0.9)}
        numbers |= {"pooled": observed.sum() / promised.sum()}
        row = {"data": data, "budget": budget, "entities": len(counts)}
        rows.append(row | {name: round(float(number), 2) for name, number in numbers.items()})
    told(f"budget {data}: pooled {[row['pooled'] for row in rows]}")
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
    "vus": vus,
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
