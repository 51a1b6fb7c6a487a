"""A model over gridded values: residuals, errors and shares of whole fleets, block by block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detector.core import grid, scaling, score, window
from detector.core.rules import MetricRules
from detector.core.scaling import Scaling
from detector.core.series import Bool, Float32, Int64, Windows
from detector.ports import Model, ModelVersion

_BLOCK = 4096  # windows gathered at a time: bounds memory, and is plenty for the scorer


def gather(values: Float32, rows: Int64, slots: Int64, chosen: Bool, timesteps: int, scales: Scaling) -> Windows:
    """The chosen windows in scaled units, entity after entity.

    values: (E, L, F); rows: (E,) each entity's row in `scales`; slots: (L,) epoch ms
    chosen: (E, K) by a window's newest slot, K = L − timesteps + 1
    """
    entity, k = np.nonzero(chosen)
    slid = window.slide(values, timesteps)
    scaled = np.empty((len(entity), timesteps, values.shape[2]), dtype=np.float32)
    for block in range(0, len(entity), _BLOCK):
        e, n = entity[block : block + _BLOCK], k[block : block + _BLOCK]
        scaled[block : block + _BLOCK] = scaling.transform(slid[e, n], rows[e], scales)
    return Windows(scaled, rows[entity], slots[k + timesteps - 1])


def residuals(
    network: Model,
    timesteps: int,
    scales: Scaling,
    rules: MetricRules,
    *,
    values: Float32,
    rows: Int64,
    slots: Int64,
    chosen: Bool,
) -> Float32:
    """What the rules leave of each chosen window's residual, (E, K, F), NaN elsewhere; arguments as in `gather`."""
    result = np.full((*chosen.shape, values.shape[2]), np.nan, dtype=np.float32)
    entity, k = np.nonzero(chosen)
    slid = window.slide(values, timesteps)
    for block in range(0, len(entity), _BLOCK):
        e, n = entity[block : block + _BLOCK], k[block : block + _BLOCK]
        raw = slid[e, n]  # (B, T, F)
        center, scale = scaling.factors(raw, rows[e], scales)
        windows = Windows(scaling.apply(raw, center, scale), rows[e], slots[n + timesteps - 1])
        result[e, n] = rules.heed(network.residuals(windows), raw[:, -1], scale)
    return result


def errors(
    model: ModelVersion, rules: MetricRules, *, values: Float32, rows: Int64, slots: Int64, chosen: Bool
) -> tuple[Float32, Float32]:
    """Error (E, K) and each metric's share (E, K, F) of the chosen windows, NaN elsewhere; arguments as in `gather`."""
    found = residuals(
        model.network,
        model.timesteps,
        model.scaling,
        rules,
        values=values,
        rows=rows,
        slots=slots,
        chosen=chosen,
    )
    noise = np.where((rows < 0)[:, None], model.fleet_noise, model.noise[rows])
    return score.error(found, noise[:, None])


def model_rows(model: ModelVersion, entities: Sequence[str]) -> Int64:
    """Row of each entity in the model's per-entity arrays, −1 for one the model has not seen."""
    return grid.positions(entities, model.entities)


def expectations(
    model: ModelVersion, rules: MetricRules, values: Float32, rows: Int64, slots: Int64, chosen: Bool
) -> tuple[Float32, Float32, Float32]:
    """What was expected of each chosen window's newest slot, in the metrics' own units, (E, K, F); NaN elsewhere.

    Also the deviations that count, in scaled units, and the scale, own units to one scaled unit; arguments as in
    `gather`.
    """
    shape = (*chosen.shape, values.shape[2])
    expected, deviation, scales = np.full((3, *shape), np.nan, dtype=np.float32)
    entity, k = np.nonzero(chosen)
    slid = window.slide(values, model.timesteps)
    for block in range(0, len(entity), _BLOCK):
        e, n = entity[block : block + _BLOCK], k[block : block + _BLOCK]
        raw = slid[e, n]  # (B, T, F)
        center, scale = scaling.factors(raw, rows[e], model.scaling)
        windows = Windows(scaling.apply(raw, center, scale), rows[e], slots[n + model.timesteps - 1])
        found = model.network.residuals(windows)
        expected[e, n] = center + (windows.values[:, -1] - found) * scale
        deviation[e, n] = rules.heed(found, raw[:, -1], scale)
        scales[e, n] = scale
    return expected, deviation, scales
