"""Residuals to one score per entity and slot, and each metric's share of it."""

from __future__ import annotations

import numpy as np

from detector.core.series import Float32

SPANS = (1, 15)
"""Slots a score looks back over: the newest alone finds spikes, the mean of the last 15 finds long, small faults."""

_CLIP = 100.0  # one metric gone mad must not drown what the others say


def error(residuals: Float32, noise: Float32) -> tuple[Float32, Float32]:
    """Root mean square of all metrics' residuals in units of their usual size, and each metric's share of it.

    residuals: (B, F) of the newest slot, ≥ 0, NaN where missing
    noise: (B, F) usual size of each metric's residual, > 0
    Returns (B,) and (B, F); shares sum to 1; both NaN where every metric is missing.
    """
    squares = np.minimum(residuals / noise, _CLIP) ** 2  # (B, F)
    known = ~np.isnan(squares)
    total = np.where(known, squares, 0.0).sum(axis=1)  # (B,)
    count = known.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.sqrt(total / count).astype(np.float32)
        share = np.where(known, squares, 0.0) / total[:, None]
    share[total == 0.0] = 0.0
    share[count == 0] = np.nan
    return mean, share.astype(np.float32)


def smooth(errors: Float32, span: int) -> Float32:
    """Mean of the last `span` slots' known errors, NaN where the newest is unknown: (E, L) -> (E, L − span + 1)."""
    if span == 1:
        return errors
    slid = np.lib.stride_tricks.sliding_window_view(errors, span, axis=1)  # (E, K, span)
    known = ~np.isnan(slid)
    count = known.sum(axis=2)
    mean = np.where(known, slid, 0.0).sum(axis=2) / np.maximum(count, 1)
    return np.where(known[..., -1], mean, np.nan).astype(np.float32)


def smoothed(errors: Float32) -> Float32:
    """All spans side by side, (E, L) -> (E, L − max(SPANS) + 1, len(SPANS))."""
    slots = errors.shape[1] - max(SPANS) + 1
    return np.stack([smooth(errors, span)[:, -slots:] for span in SPANS], axis=2)
