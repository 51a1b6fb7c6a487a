"""Faults put into normal data, to see what a detector would find: what labels would say, where there are none."""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from detector.core.series import Float32


class Fault(StrEnum):
    """A fault of one metric, from some slot on."""

    SPIKE = "spike"
    LEVEL_SHIFT = "level_shift"
    DRIFT = "drift"
    FALL_TO_ZERO = "fall_to_zero"
    FROZEN = "frozen"
    NOISE = "noise"
    LOST_RHYTHM = "lost_rhythm"
    DECOUPLED = "decoupled"


SCALED = (Fault.SPIKE, Fault.LEVEL_SHIFT, Fault.DRIFT, Fault.NOISE)
"""Faults that have a strength; the others replace what the metric does."""


def inject(values: Float32, kind: Fault, *, begin: int, metric: int, size: float, rng: np.random.Generator) -> Float32:
    """A copy of one entity's values (L, F) with a fault in one metric from slot `begin` to the end; a spike lasts one.

    size: how far the metric is moved, in its own units; of either sign for spikes and shifts
    """
    changed = values.copy()
    x, slots = changed[begin:, metric], len(values) - begin
    sign = rng.choice([-1.0, 1.0])
    match kind:
        case Fault.SPIKE:
            x[0] += sign * size
        case Fault.LEVEL_SHIFT:
            x += sign * size
        case Fault.DRIFT:
            x += (sign * size * np.linspace(1.0 / slots, 1.0, slots)).astype(np.float32)
        case Fault.FALL_TO_ZERO:
            x[:] = 0.0
        case Fault.FROZEN:
            x[:] = values[max(begin - 1, 0), metric]
        case Fault.NOISE:
            x += rng.normal(0.0, size, slots).astype(np.float32)
        case Fault.LOST_RHYTHM:
            x[:] = _median(values[:, metric]) + rng.permutation(_differences(values[:, metric]))[:slots]
        case Fault.DECOUPLED:
            x[:] = values[:slots, metric][::-1]  # its own past, which the other metrics do not go with
    return changed


def _median(values: Float32) -> float:
    """The middle of the known values, 0 if there are none."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else 0.0


def _differences(values: Float32) -> Float32:
    """Changes of a metric from slot to slot without its rhythm: (L,)."""
    differences = np.diff(values, prepend=values[:1])
    return np.asarray(np.nan_to_num(differences), dtype=np.float32)
