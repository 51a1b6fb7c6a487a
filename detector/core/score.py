"""Residuals to one score per entity and slot, and each metric's share of it."""

from __future__ import annotations

import numpy as np

from detector.core import window
from detector.core.series import Float32

SPANS = (1, 10, 60, 120)
"""Slots a surprise looks back over: the newest alone finds spikes, the mean of the last 120 finds drifts.

Ablation (tests/benchmarks/README.md): mean VUS-PR of five sets .446 with the newest slot only, .523 with these; 1, 10,
60 has .528, within what another seed moves.
"""

CLIP = 100.0
"""Most usual sizes that one metric's residual counts: one metric gone mad must not drown what the others say.

Ablation: at 10 the mean of five sets falls from .523 to .487 and SMD from .630 to .433.
"""

_FEW = 100  # means that are made faster at once than slot by slot


def error(residuals: Float32, noise: Float32) -> tuple[Float32, Float32]:
    """Root mean square of all metrics' residuals in units of their usual size, and each metric's share of it.

    residuals: (…, F) of the newest slot, of either sign, NaN where missing
    noise: (…, F) usual size of each metric's residual, > 0
    Returns (…,) and (…, F); shares sum to 1; both NaN where every metric is missing.
    """
    squares = np.minimum(np.abs(residuals) / noise, np.float32(CLIP)) ** 2  # (…, F)
    known = ~np.isnan(squares)
    total = np.where(known, squares, 0.0).sum(axis=-1)  # (…,)
    count = known.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.sqrt(total / count).astype(np.float32)
        share = np.where(known, squares, 0.0) / total[..., None]
    share[total == 0.0] = 0.0
    share[count == 0] = np.nan
    return mean, share.astype(np.float32)


def smooth(errors: Float32, span: int) -> Float32:
    """Mean of the last `span` slots' known errors: (E, L) -> (E, L − span + 1).

    NaN where the newest is unknown, or more than half of them: a mean of a few is not like one of many.
    """
    if span == 1:
        return errors
    known = np.ascontiguousarray(~np.isnan(errors).T)  # (L, E): whole slots lie side by side
    filled = np.where(known, errors.T, np.float32(0.0))
    slots = errors.shape[1] - span + 1
    count = window.rolling_sum(known, span)
    # slot by slot and not by cumulative sums of all, whose rounding would depend on where the errors begin
    if 0 < slots * len(errors) < _FEW:  # the same sums in the same order by fewer, larger steps
        windows = np.lib.stride_tricks.sliding_window_view(filled, span, axis=0)  # (slots, E, span)
        total = np.add.accumulate(windows, axis=2, dtype=np.float64)[..., -1]
    else:
        total = np.zeros((slots, len(errors)))
        for offset in range(span):
            total += filled[offset : offset + slots]
    mean = total / np.maximum(count, 1)
    return np.where(known[span - 1 :] & (2 * count >= span), mean, np.nan).astype(np.float32).T


def smoothed(errors: Float32, limits: Float32 | None = None) -> Float32:
    """Errors over all spans side by side, (E, L) -> (E, L − max(SPANS) + 1, len(SPANS)).

    limits: (E,) the most that one slot's error counts in a mean, lest one huge error fills the long spans for hours
    """
    slots = errors.shape[1] - max(SPANS) + 1
    limited = errors if limits is None else np.minimum(errors, limits[:, None])
    newest = {span: (errors if span == 1 else limited)[:, errors.shape[1] - slots - span + 1 :] for span in SPANS}
    return np.stack([smooth(seen, span) for span, seen in newest.items()], axis=2)
