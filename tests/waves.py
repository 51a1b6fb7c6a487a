"""Windows of sine waves, for networks."""

from __future__ import annotations

import numpy as np

from detector.core.series import Float32, Windows


def at_no_time(values: Float32) -> Windows:
    """Windows of one entity; without a calendar their times do not matter."""
    none = np.zeros(len(values), dtype=np.int64)
    return Windows(values, none, none)


def sines(count: int, seed: int) -> Float32:
    """Windows of two sine waves, a quarter turn apart, at random phases: (count, 8, 2)."""
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi, (count, 1))
    angle = phase + np.arange(8) * 2 * np.pi / 8
    return np.stack([np.sin(angle), np.cos(angle)], axis=2).astype(np.float32)
