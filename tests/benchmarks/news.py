"""A trial of alerts by return period: how long ago was something this strange last seen?

    python tests/benchmarks/news.py --data ../shared/data --sets SMD ASD CLOUD-1h NAB --seeds 0
    python tests/benchmarks/news.py --data FOLDER --sets fleet1 --budget 0.05 --change k_gross=8 one10=0.1

Nothing of it is in the program yet. Each entity has several streams, numbers that are larger the stranger a slot is:
the network's error over 1, 3 and 10 slots; the distance from the median of the time of day, over all metrics and of the
worst metric alone, each metric discounted by what it has shown lately; and the distance of a window's statistics from
those of training. A dozen peaks of each stream are remembered with ageing weights, from held-out history on, and give
every value a return period. An alert opens where that is longer than the budget allows. Beside these are `gross`, a
fixed fence over all metrics that what was told raises, a broad incident least; `rose`, beyond everything ever seen; and
`pool`, one metric on many entities at once. Labels are for judging alone.

Prints JSON: for each set events found by an alert that opened no earlier than 60 slots before, the number that the same
alerts find by chance when they are moved, false alerts a week and entity, share of rows inside alerts.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import quality
from numpy.lib.stride_tricks import sliding_window_view

from detector.core import scaling, score
from detector.core.series import Bool, Float64, Int64
from detector.detect.history import read_history
from detector.detect.horizon import Horizon
from detector.detect.residuals import model_rows
from detector.progress import silent
from detector.replay import groups, rescore
from detector.replay.groups import Group
from detector.replay.recordings import Recording
from detector.sources.memory import MemorySource
from detector.times import DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS

CHANGEABLE: dict[str, float] = {
    # shares of the budget
    "net1": 0.15,
    "net3": 0.2,
    "net10": 0.15,
    "shape": 0.15,
    "far1": 0.3,
    "far3": 0.3,
    "one3": 0.3,  # the worst metric's least deviation of three slots
    "one10": 0.3,  # of ten minutes
    "rose": 0.5,
    "pool": 1.0,
    # constants
    "bin_samples": 60.0,  # values of a time of day that its median needs
    "half_hours": 6.0,  # half-life of what a metric has shown lately
    "k_gross": 7.0,  # mean deviation over all metrics
    "told": 2.0,  # gross alerts of one size a week until they are no news
    "broad": 3.0,  # metrics, from which on what was told hardly counts
    "broad_weight": 0.05,
    "fence": 0.2,  # of the logarithm of a deviation: one nat
    "floor_one": 6.0,  # deviations below which one metric alone is no reason
    "floor_far": 3.0,
    "rose_scale": 0.1,
    "pool_from": 3.0,  # deviations
}

NEWS = ("net1", "net3", "net10", "shape", "far1", "far3", "one3", "one10")
MOST = 1000.0  # deviations that one metric counts at most
MOST_IN_MEAN = 100.0  # in a mean over all metrics: a single slot of one metric must not carry it
PEAKS, HALF_LIFE = 12, 2.0  # remembered, and weeks until one counts half
CLUSTER_HOURS, LONGEST_HOURS, FEWEST = 3.0, 6.0, 6  # of slots that are one peak
COMPARABLE, BANDWIDTH, BEYOND, COMMON, FIRST_PEAK = 0.7, 0.3, 0.2, 4.0, 2.0
TAIL, PRIOR_SCALE, PRIOR_WEIGHT, LEAST_SCALE = 0.98, 0.4, 30.0, 0.15
EARLY, GRACE, MOVES = 60, 30, 60

Span = tuple[int, int]


@dataclass
class Entity:
    """One recording on the grid: its history, of which the last part was held out, and what is replayed."""

    recording: Recording
    step: int
    slots: Int64  # (N,) of the replay
    values: Float64  # (H + N, F)
    times: Int64  # (H + N,)
    trained: int  # slots before the held-out ones
    history: int  # H
    errors: Float64  # (H + N,) of the network
    scaled: Float64  # (H + N, F)
    streams: dict[str, Float64] = field(default_factory=dict)


def entities(case: quality.Case) -> Iterator[Entity]:
    """The recordings of a group."""
    data, model, monitor = case.data, case.model, case.monitor
    horizon, timesteps, artifact = Horizon.of(monitor), model.timesteps, model.artifact
    held_out = case.calibration()
    for recording in case.recordings:
        row = int(model_rows(model, (recording.entity,))[0])
        shown = rescore.residuals(monitor, recording, model, make=MemorySource.of)
        if row < 0 or shown is None:
            continue
        first, divide, end = int(data.first[row]), int(data.divide[row]), int(data.end[row])
        rows = groups.to_show(recording, horizon)
        source = groups.source_of(Group(monitor, (recording,)), [rows], MemorySource.of)
        begin = int(recording.time[groups.to_replay(recording)].min()) // horizon.step * horizon.step
        until = int(shown.slots[-1]) + horizon.step
        replayed = read_history(horizon, source, start=begin, end=until, progress=silent)
        noise = artifact.noise[row]
        errors = np.full(end - first, np.nan)
        begins = max(divide, timesteps - 1)
        errors[begins - first :] = score.error(held_out[row, begins - timesteps + 1 : end - timesteps + 1], noise)[0]
        later, _ = score.error(shown.residuals[0][shown.slots >= begin], noise)
        values = np.concatenate([data.history.values[row, first:end], replayed.values[0]])
        yield Entity(
            recording=recording,
            step=horizon.step,
            slots=replayed.slots,
            values=values.astype(np.float64),
            times=np.concatenate([data.history.slots[first:end], replayed.slots]),
            trained=divide - first,
            history=end - first,
            errors=np.concatenate([errors, later]).astype(np.float64),
            scaled=scaling.transform(values[None], np.array([row]), artifact.scaling)[0].astype(np.float64),
        )


# -- streams ----------------------------------------------------------------------------------------------------------


def mean_of(errors: Float64, span: int) -> Float64:
    """Mean of the last `span` known slots, NaN where the newest or half of them are unknown."""
    padded = np.concatenate([np.full(span - 1, np.nan), errors])
    windows = sliding_window_view(padded, span)
    known = ~np.isnan(windows)
    enough = known[:, -1] & (2 * known.sum(axis=1) >= span)
    return np.where(enough, np.nanmean(np.where(enough[:, None], windows, 0.0), axis=1), np.nan)


def least_of(values: Float64, slots: int) -> Float64:
    """The least of the last slots, (N, F)."""
    padded = np.concatenate([np.full((slots - 1, values.shape[1]), -np.inf), values])
    return np.asarray(sliding_window_view(padded, slots, axis=0).min(axis=-1))


def deviations(entity: Entity, change: dict[str, float]) -> Float64:
    """Distance of each value from the median of its time of day in robust deviations, (H + N, F)."""
    values, trained = entity.values, np.arange(len(entity.values)) < entity.trained
    center = np.nanmedian(values[trained], axis=0)
    around = np.broadcast_to(center, values.shape).copy()
    a_day = max(1, round(DAY_MS / entity.step))
    days = entity.trained / a_day
    if days >= 3:
        width = max(1, int(np.ceil(change["bin_samples"] / days)), round(5 * MINUTE_MS / entity.step))
        count = max(1, a_day // min(width, max(1, a_day // 8)))
        part = (entity.times % DAY_MS) // entity.step * count // a_day
        for each in range(count):
            inside = trained & (part == each)
            if inside.any():
                own = np.nanmedian(values[inside], axis=0)
                around[part == each] = np.where(np.isnan(own), center, own)
    off = values - around
    usual = np.maximum(1.4826 * np.nanmedian(np.abs(off[trained]), axis=0), 0.1 * np.nanstd(off[trained], axis=0))
    return np.asarray(np.minimum(np.abs(off) / (np.maximum(usual, 1e-3 * np.abs(center)) + 1e-9), MOST))


def discounted(found: Float64, half: float) -> Float64:
    """Deviations less what each metric has shown lately: a lasting change fades, and others are heard."""
    lately, rate = np.zeros(found.shape[1]), 1.0 - 0.5 ** (1.0 / half)
    result = np.empty_like(found)
    for n, now in enumerate(found):
        result[n] = np.maximum(0.0, now - np.expm1(lately))
        lately = lately + rate * (np.log1p(np.nan_to_num(now)) - lately)
    return result


def shape(scaled: Float64, trained: int, slots: int = 30, kept: int = 500) -> Float64:
    """Distance of each window's statistics from the nearest of training."""
    at = np.maximum.accumulate(np.where(np.isnan(scaled), 0, np.arange(len(scaled))[:, None]), axis=0)
    filled = np.nan_to_num(np.take_along_axis(scaled, at, axis=0))
    squeezed = np.sign(filled) * np.log1p(np.abs(filled))
    windows = sliding_window_view(np.concatenate([np.repeat(squeezed[:1], slots - 1, axis=0), squeezed]), slots, axis=0)
    around = np.arange(slots) - (slots - 1) / 2
    parts = [windows.mean(-1), windows.std(-1), windows.max(-1), windows.min(-1)]
    parts.append(np.sqrt((np.diff(windows, axis=-1) ** 2).mean(-1)))
    parts.append((windows * around).sum(-1) / np.sqrt((around**2).sum() * slots))
    features = np.concatenate(parts, axis=1)
    features /= features[:trained].std(axis=0) + 0.05
    known = features[slots:trained][:: max(1, (trained - slots) // kept)]
    result = np.empty(len(features))
    for block in range(0, len(features), 2048):
        some = features[block : block + 2048]
        squares = (some**2).sum(1)[:, None] + (known**2).sum(1) - 2.0 * some @ known.T
        result[block : block + 2048] = np.sqrt(np.maximum(squares.min(axis=1), 0.0))
    return np.asarray(result / np.sqrt(features.shape[1]) + 0.02)


def rose(values: Float64, slots: int = 3) -> Float64:
    """log(1 + how far the last slots all lie outside what came before them, in units of its range)."""
    highest, lowest = np.fmax.accumulate(values, axis=0), np.fmin.accumulate(values, axis=0)
    nothing = np.full((slots, values.shape[1]), np.nan)
    highest, lowest = (np.concatenate([nothing, edge[:-slots]]) for edge in (highest, lowest))
    unit = np.maximum(highest - lowest, 0.01 * np.maximum(np.abs(highest), np.abs(lowest)))
    padded = np.concatenate([nothing[1:], values])
    recent = sliding_window_view(padded, slots, axis=0)
    outside = np.maximum(recent.min(-1) - highest, lowest - recent.max(-1)) / np.maximum(unit, 1e-12)
    return np.asarray(np.log1p(np.nan_to_num(np.maximum(outside, 0.0), posinf=MOST)).max(axis=1))


def with_streams(entity: Entity, change: dict[str, float]) -> Entity:
    """The entity with all its streams, (H + N,) each; `deep` (H + N, F) is what a pool is made of."""
    half = max(6.0, change["half_hours"] * HOUR_MS / entity.step)
    deep = discounted(deviations(entity, change), half)
    filled, known = np.nan_to_num(deep), ~np.isnan(deep).all(axis=1)
    far = np.where(known, np.nanmean(np.minimum(deep, MOST_IN_MEAN), axis=1), np.nan)
    minutes = max(3, round(10 * MINUTE_MS / entity.step))
    entity.streams = {f"net{span}": mean_of(entity.errors, span) for span in (1, 3, 10)}
    entity.streams |= {"far1": far, "far3": mean_of(far, 3)}
    for name, slots in (("one3", 3), ("one10", minutes)):
        entity.streams[name] = np.where(known, np.maximum(least_of(filled, slots).max(axis=1), 1e-6), np.nan)
    entity.streams["shape"] = shape(entity.scaled, entity.trained)
    entity.streams["shape"][: entity.trained] = np.nan
    entity.streams["broad"] = (least_of(filled, 2) > 6.0).sum(axis=1).astype(np.float64)
    entity.streams["rose"] = rose(entity.values)
    entity.streams["deep"] = least_of(filled, 3)
    return entity


# -- return periods ---------------------------------------------------------------------------------------------------


class Peaks:
    """What was worst in each of S streams of E entities, and how long ago."""

    def __init__(self, start: Float64, scale: Float64, weeks_a_slot: float, *, is_empty: bool = False) -> None:
        self.scale, self.dt, self.decay = scale, weeks_a_slot, 0.5 ** (weeks_a_slot / HALF_LIFE)
        self.peak = np.full((*scale.shape, PEAKS), -np.inf)
        self.weight = np.zeros_like(self.peak)
        if not is_empty:
            self.peak[..., 0], self.weight[..., 0] = start + FIRST_PEAK * scale, 1.0
        self.weeks = np.zeros(scale.shape)
        self.top = np.full(scale.shape, -np.inf)
        self.counts = np.ones(scale.shape)
        self.seen, self.began = np.zeros((2, *scale.shape), dtype=np.int64)
        self.cluster = max(FEWEST, int(CLUSTER_HOURS / 168 / weeks_a_slot))
        self.longest = max(FEWEST, int(LONGEST_HOURS / 168 / weeks_a_slot))

    def rate(self, x: Float64, *, beyond: float) -> Float64:
        """Peaks that reach x (E, S), softly counted by weight."""
        behind = np.minimum((self.peak - x[..., None]) / self.scale[..., None], 0.0)
        return np.asarray((np.exp(behind / BANDWIDTH) * self.weight).sum(-1) + beyond * np.exp(behind.max(-1)))

    def rarity(self, x: Float64) -> Float64:
        """Logarithm of the return period in weeks; what four peaks reach is no news at any budget."""
        rate = self.rate(x, beyond=BEYOND)
        found = np.log(np.maximum(self.weeks, self.dt)) - np.log(np.maximum(rate, 1e-12))
        return np.where(rate > COMMON, np.minimum(found, -9.0), found)

    def learn(self, x: Float64, n: int, counts: Float64 | float = 1.0) -> None:
        """Remembers slot n; counts: how much a peak of it will."""
        known = ~np.isnan(x)
        self.weight *= self.decay
        self.weeks = np.where(known, self.weeks * self.decay + self.dt, self.weeks)
        higher, comparable = known & (x > self.top), known & (x >= self.top - COMPARABLE)
        self.began = np.where(np.isinf(self.top) & known, n, self.began)
        self.counts = np.where(higher, counts, self.counts)
        self.top, self.seen = np.where(higher, x, self.top), np.where(comparable, n, self.seen)
        ended = (n - self.seen > self.cluster) | (n - self.began >= self.longest)
        done = np.nonzero(np.isfinite(self.top) & ended)
        least = self.peak[done].argmin(axis=-1)
        is_larger = self.peak[(*done, least)] < self.top[done]
        at = (*(index[is_larger] for index in done), least[is_larger])
        self.peak[at], self.weight[at] = self.top[done][is_larger], self.counts[done][is_larger]
        self.top[done] = -np.inf


def tails(logs: Float64) -> tuple[Float64, Float64]:
    """Start and scale (E, S) of the tail of held-out logarithms (n, E, S), drawn to the fleet's and to a prior."""
    start = np.nanquantile(logs, TAIL, axis=0)
    above = logs > start
    total, count = np.where(above, logs - start, 0.0).sum(axis=0), above.sum(axis=0)
    fleet = (total.sum(axis=0) + PRIOR_WEIGHT * PRIOR_SCALE) / (count.sum(axis=0) + PRIOR_WEIGHT)
    scale = np.maximum((total + PRIOR_WEIGHT * fleet) / (count + PRIOR_WEIGHT), LEAST_SCALE)
    return np.nan_to_num(np.where(np.isnan(start), np.nanmedian(start, axis=0), start)), scale


def aligned(fleet: Sequence[Entity], name: str, *, floor: float = 1e-6) -> tuple[Float64, int]:
    """A stream of all entities side by side from the oldest history on, (n, E, …), and where replays begin."""
    begin = max(one.history for one in fleet)
    some = fleet[0].streams[name]
    result = np.full((begin + max(len(one.slots) for one in fleet), len(fleet), *some.shape[1:]), np.nan)
    for row, one in enumerate(fleet):
        values, at = one.streams[name], begin - one.history
        result[at : at + len(values), row] = values if floor == 0.0 else np.log(np.maximum(values, floor))
    return result, begin


def gross(fleet: Sequence[Entity], change: dict[str, float]) -> Float64:
    """The fence over all metrics, raised by what was there before, (n, E)."""
    far, _ = aligned(fleet, "far3")
    broad, _ = aligned(fleet, "broad", floor=0.0)
    counts = np.where(broad >= change["broad"], change["broad_weight"], 1.0)
    one = np.zeros((len(fleet), 1))
    told = Peaks(one, one + 0.3, fleet[0].step / WEEK_MS, is_empty=True)
    fence, result = np.log(change["k_gross"]), np.full(far.shape, np.nan)
    for n, x in enumerate(far[..., None]):
        often = np.log(np.maximum(told.rate(x, beyond=0.0)[:, 0], 1e-3)) - np.log(np.maximum(told.weeks[:, 0], 1e-9))
        result[n] = np.minimum((x[:, 0] - fence) / change["fence"], np.log(change["told"]) - often)
        told.learn(np.where(x >= fence - 1.0, x, np.where(np.isnan(x), np.nan, -9.0)), n, counts[n][:, None])
    return result


def pool(fleet: Sequence[Entity], change: dict[str, float]) -> Float64 | None:
    """How rare it is that so many entities deviate in one metric at once, (n, E); None of fewer than three."""
    if len(fleet) < 3 or len({int(one.slots[0]) for one in fleet}) > 1:
        return None
    deep, begin = aligned(fleet, "deep", floor=0.0)  # (n, E, F)
    over = np.clip(np.log(np.maximum(np.nan_to_num(deep), 1e-6) / change["pool_from"]), 0.0, 1.5)
    known: Bool = np.any(~np.isnan(deep), axis=2)
    share = over.sum(axis=1) / np.maximum(1, known.sum(axis=1))[:, None]
    is_any: Bool = np.any(known, axis=1)
    x = np.where(is_any[:, None], np.log(np.maximum(share, 0.02)), np.nan)[:, None]  # (n, 1, F)
    held = min(one.history - one.trained for one in fleet)
    peaks, result = Peaks(*tails(x[begin - held : begin]), fleet[0].step / WEEK_MS), np.full(known.shape, np.nan)
    for n in range(begin - held, len(x)):
        found = peaks.rarity(x[n])[0] + np.log(change["pool"] / x.shape[2])
        peaks.learn(x[n], n)
        found = np.where((over[n] > 0).sum(axis=0) >= max(3, 0.1 * len(fleet)), found, np.nan)
        if np.isfinite(found).any():
            result[n] = np.fmax.reduce(np.where(over[n] > 0, found, np.nan), axis=1) + np.log(len(fleet))
    return result


def rarities(fleet: Sequence[Entity], change: dict[str, float]) -> tuple[dict[str, Float64], int]:
    """Logarithm of the return period in weeks by mechanism, (n, E) each, and where replays begin."""
    names = [name for name in NEWS if change[name] > 0]
    stacked = np.stack([aligned(fleet, name)[0] for name in names], axis=2)
    begin, weeks = max(one.history for one in fleet), fleet[0].step / WEEK_MS
    for row, one in enumerate(fleet):
        stacked[: begin - one.history + one.trained, row] = np.nan
    peaks = Peaks(*tails(stacked[:begin]), weeks)
    floors = np.log([_floor(name, change) for name in names])
    found = np.full(stacked.shape, np.nan)
    for n, x in enumerate(stacked):
        found[n] = np.minimum(
            peaks.rarity(x) + np.log([change[name] for name in names]), (x - floors) / change["fence"]
        )
        peaks.learn(x, n)
    result = {name: found[..., s] for s, name in enumerate(names)}
    if change["k_gross"] > 0:
        result["gross"] = gross(fleet, change)
    if change["rose"] > 0:
        beyond, _ = aligned(fleet, "rose", floor=0.0)
        seen = np.cumsum(~np.isnan(beyond), axis=0) * weeks
        rare = np.log(np.maximum(seen, 1e-9) / (2 * fleet[0].values.shape[1])) + beyond / change["rose_scale"]
        result["rose"] = np.where(beyond > 0, rare + np.log(change["rose"]), np.nan)
    pooled = pool(fleet, change) if change["pool"] > 0 else None
    return result if pooled is None else result | {"pool": pooled}, begin


def _floor(name: str, change: dict[str, float]) -> float:
    return change["floor_one"] if name.startswith("one") else change["floor_far"] if name.startswith("far") else 1e-9


# -- alerts -----------------------------------------------------------------------------------------------------------


def alerts(rarity: Float64, level: float) -> list[tuple[int, int]]:
    """Slots [first, end) of one entity's alerts: 2 of 3 above the level or one far above; 5 calm ones close."""
    found: list[tuple[int, int]] = []
    known, x = ~np.isnan(rarity), np.nan_to_num(rarity, nan=-np.inf)
    above, begin, calm = x >= level, -1, 0
    for n in range(len(x)):
        if begin < 0:
            recent = above[max(0, n - 2) : n + 1]
            if above[n] and (recent.sum() >= 2 or x[n] >= level + 4.0):
                begin, calm = n - len(recent) + 1 + int(recent.argmax()), 0
                if found and n - found[-1][1] <= 3:
                    begin = found.pop()[0]
        elif known[n]:
            calm = 0 if x[n] >= level - 0.5 else calm + 1
            if calm >= 5:
                found.append((begin, n))
                begin = -1
    return [*found, (begin, len(x))] if begin >= 0 else found


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


def judged(fleet: Sequence[Entity], rarity: Float64, begin: int, budget: float, judge: Judge) -> dict[str, Any]:
    """Alerts against labels, at so many alerts a week and entity."""
    rng, total = np.random.default_rng(0), dict.fromkeys(("events", "fresh", "alerts", "false", "rows", "inside"), 0)
    chance = weeks = 0.0
    for row, one in enumerate(fleet):
        spans = alerts(rarity[begin : begin + len(one.slots), row], -np.log(budget))
        recording = one.recording
        assert recording.label is not None
        order = np.argsort(recording.time[recording.train_rows :], kind="stable")
        times, label = (column[recording.train_rows :][order] for column in (recording.time, recording.label))
        at = [np.searchsorted(times, one.slots[0] + one.step * np.array(span)) for span in spans]
        mine = [(int(first), int(max(last, first + 1))) for first, last in at]
        edges = np.flatnonzero(np.diff(np.concatenate([[0], label.astype(int), [0]])))
        events = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
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
        weeks += len(label) * one.step / WEEK_MS
        for _ in range(MOVES if mine and events else 0):
            moved = int(rng.integers(len(label)))
            shifted = [((a + moved) % len(label), (a + moved) % len(label) + b - a) for a, b in mine]
            chance += judge.found(shifted, events, at_any_time=True)[0] / MOVES
    share = total.pop("inside") / max(1, total.pop("rows"))
    rate = round(total["false"] / weeks, 3)
    return total | {"chance": round(chance, 1), "false_per_week_and_entity": rate, "rows_in_alerts": round(share, 3)}


def fleets(data: Path, name: str, seed: int) -> list[list[Entity]]:
    """The groups of a set at a seed, as far as the network's errors."""
    asked = Namespace(changes=[], seeds=[seed])
    return [list(entities(case)) for case in quality.cases(asked, quality.read(data / name), "network")]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", default=["SMD", "ASD", "NAB"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--budget", type=float, default=1.0, help="alerts a week and entity [1]")
    parser.add_argument("--change", nargs="*", default=[], metavar="NAME=VALUE", help=f"one of {', '.join(CHANGEABLE)}")
    parser.add_argument("--by-mechanism", action="store_true", help="what each mechanism alone would do, too")
    asked = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # medians of metrics that have no value
    change = CHANGEABLE | {name: float(value) for name, value in (each.split("=") for each in asked.change)}
    if unknown := change.keys() - CHANGEABLE.keys():
        parser.error(f"--change: unknown {', '.join(sorted(unknown))}")
    rows = []
    for name in asked.sets:
        for seed in asked.seeds:
            for fleet in fleets(asked.data, name, seed):
                found, begin = rarities([with_streams(one, change) for one in fleet], change)
                everything = np.fmax.reduce(list(found.values()))
                judge = Judge.of(asked.data / name)
                row = {"set": name, "seed": seed} | judged(fleet, everything, begin, asked.budget, judge)
                if asked.by_mechanism:
                    row["by_mechanism"] = {
                        key: judged(fleet, each, begin, asked.budget, judge) for key, each in found.items()
                    }
                rows.append(row)
                quality.told(json.dumps(row))
    print(json.dumps({"change": asked.change, "budget": asked.budget, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
