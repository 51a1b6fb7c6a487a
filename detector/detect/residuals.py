"""Residuals, errors and expectations of a model over gridded values of whole fleets, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from detector.core import grid, scaling, score, window
from detector.core.rules import MetricRules
from detector.core.scaling import Scaling
from detector.core.series import Bool, Float32, Int8, Int64, Reason, Windows
from detector.ports import Model, ModelVersion

_BLOCK = 4096  # windows gathered at a time: bounds memory, and is plenty for the scorer


@dataclass(frozen=True)
class Selection:
    """Windows chosen from gridded values of some entities, K = L − timesteps + 1 of each."""

    values: Float32  # (E, L, F)
    rows: Int64  # (E,) each entity's row in the model's per-entity arrays, −1 for one the model has not seen
    slots: Int64  # (L,) epoch milliseconds
    chosen: Bool  # (E, K) by a window's newest slot

    @property
    def shape(self) -> tuple[int, int, int]:
        """(E, K, F)."""
        return (*self.chosen.shape, self.values.shape[2])


def gather(selection: Selection, timesteps: int, scales: Scaling) -> Windows:
    """The chosen windows (B, T, F) in scaled units, entity after entity."""
    entity, k = np.nonzero(selection.chosen)
    slid = window.slide(selection.values, timesteps)
    scaled = np.empty((len(entity), timesteps, selection.values.shape[2]), dtype=np.float32)
    for block in range(0, len(entity), _BLOCK):
        e, n = entity[block : block + _BLOCK], k[block : block + _BLOCK]
        scaled[block : block + _BLOCK] = scaling.transform(slid[e, n], selection.rows[e], scales)
    return Windows(scaled, selection.rows[entity], selection.slots[k + timesteps - 1])


@dataclass(frozen=True)
class _Block:
    """Some of the chosen windows, and how they were scaled."""

    entity: Int64  # (B,)
    k: Int64  # (B,) the window, by its newest slot
    raw: Float32  # (B, T, F) own units
    center: Float32  # (B, F)
    scale: Float32  # (B, F) own units to one scaled unit
    windows: Windows  # (B, T, F) scaled


def _blocks(selection: Selection, timesteps: int, scales: Scaling) -> Iterator[_Block]:
    entity, k = np.nonzero(selection.chosen)
    slid = window.slide(selection.values, timesteps)
    for block in range(0, len(entity), _BLOCK):
        e, n = entity[block : block + _BLOCK], k[block : block + _BLOCK]
        raw = slid[e, n]  # (B, T, F)
        center, scale = scaling.factors(raw, selection.rows[e], scales)
        scaled = scaling.apply(raw, center, scale)
        yield _Block(e, n, raw, center, scale, Windows(scaled, selection.rows[e], selection.slots[n + timesteps - 1]))


def residuals(network: Model, selection: Selection, *, timesteps: int, scales: Scaling, rules: MetricRules) -> Float32:
    """Each chosen window's residual with 0 where the rules do not count it, (E, K, F), NaN elsewhere."""
    result = np.full(selection.shape, np.nan, dtype=np.float32)
    for block in _blocks(selection, timesteps, scales):
        found = network.residuals(block.windows)
        result[block.entity, block.k] = rules.counted(found, block.raw[:, -1], block.scale)
    return result


def errors(version: ModelVersion, selection: Selection, rules: MetricRules) -> tuple[Float32, Float32]:
    """Error (E, K) and each metric's share of it (E, K, F) of the chosen windows, NaN elsewhere."""
    artifact = version.artifact
    found = residuals(version.network, selection, timesteps=version.timesteps, scales=artifact.scaling, rules=rules)
    return score.error(found, usual_sizes(version, selection.rows)[:, None])


def usual_sizes(version: ModelVersion, rows: Int64) -> Float32:
    """Usual size of each metric's residual in scaled units, (E, F); rows: (E,) as in `Selection`."""
    artifact = version.artifact
    return np.asarray(np.where((rows < 0)[:, None], artifact.fleet_noise, artifact.noise[rows]))


def reasons(version: ModelVersion, values: Float32, rows: Int64, *, max_missing: float) -> Int8:
    """What is known of each window of values (E, L, F) by its newest slot, (E, K); rows: (E,) as in `Selection`."""
    expected = expected_metrics(version, rows)
    found = window.reasons(values, version.timesteps, max_missing=max_missing, expected=expected)
    found[without_model(version, rows)[:, None] & (found == Reason.KNOWN)] = Reason.NO_MODEL
    return found


def without_model(version: ModelVersion, rows: Int64) -> Bool:
    """Entities that a version can say nothing of, (E,); rows: (E,) as in `Selection`.

    One that it has not seen is judged by its own movements in the window; in one of a single slot, as a baseline's,
    there are none.
    """
    return np.asarray((rows < 0) & (version.timesteps == 1))


def expected_metrics(version: ModelVersion, rows: Int64) -> Bool | None:
    """Metrics that each entity should have, (E, F): those it had in training, all where that is not known.

    rows: (E,) as in `Selection`; None: the version does not say
    """
    seen = version.artifact.seen
    return np.where((rows < 0)[:, None], True, seen[rows]) if seen.size else None


def model_rows(version: ModelVersion, entities: Sequence[str]) -> Int64:
    """Row of each entity in the model's per-entity arrays, (E,); −1 for one the model has not seen."""
    return grid.positions(entities, version.artifact.entities)


@dataclass(frozen=True)
class Expectations:
    """Expected values of chosen windows' newest slots, NaN elsewhere."""

    expected: Float32  # (E, K, F) own units
    deviation: Float32  # (E, K, F) scaled units, 0 where the rules do not count it
    scale: Float32  # (E, K, F) own units to one scaled unit


def expectations(version: ModelVersion, selection: Selection, rules: MetricRules) -> Expectations:
    """Expected value of each chosen window's newest slot, and how far the observed one deviates."""
    expected, deviation, scales = np.full((3, *selection.shape), np.nan, dtype=np.float32)
    for block in _blocks(selection, version.timesteps, version.artifact.scaling):
        found = version.network.residuals(block.windows)
        at = block.entity, block.k
        expected[at] = block.center + (block.windows.values[:, -1] - found) * block.scale
        deviation[at] = rules.counted(found, block.raw[:, -1], block.scale)
        scales[at] = block.scale
    return Expectations(expected, deviation, scales)
