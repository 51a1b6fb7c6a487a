"""History to windows: which are scorable, and why not; and windows to the network's input."""

from __future__ import annotations

import numpy as np

from detector.core.series import Bool, Float32, Int8, Int32, Reason, any_metric


def slide(values: Float32, timesteps: int) -> Float32:
    """A view of every window of every entity: (E, L, F) -> (E, L − timesteps + 1, timesteps, F), oldest first.

    Raises: ValueError if there are fewer than `timesteps` slots.
    """
    windows = np.lib.stride_tricks.sliding_window_view(values, timesteps, axis=1)  # (E, K, F, T)
    return np.moveaxis(windows, -1, -2)  # (E, K, T, F)


def reasons(values: Float32, timesteps: int, *, max_missing: float, expected: Bool | None = None) -> Int8:
    """Why each window cannot be scored, `KNOWN` where it can: (E, L, F) -> (E, L − timesteps + 1) of `Reason`, or none.

    A window has no data if none of its newest slot's metrics has a value; it is warming up if its oldest slots hold
    nothing at all; it has a gap if more than `max_missing` of its values are missing.

    expected: (E, F) metrics that each entity should have; others may be missing [all]
    """
    if values.shape[1] < timesteps:
        return np.zeros((len(values), 0), dtype=np.int8)
    missing = np.isnan(values)  # (E, L, F)
    empty = ~any_metric(~missing)  # (E, L)
    if expected is None:
        expected = np.ones((len(values), values.shape[2]), dtype=np.bool_)
    holes = np.einsum("elf,ef->el", missing.astype(np.int32), expected.astype(np.int32))
    most = timesteps * np.maximum(expected.sum(axis=1), 1)[:, None]
    # rounding keeps a share that is exactly max_missing from counting as more
    share = np.round(rolling_sum(holes.T, timesteps).T / most, 9).astype(np.float32)  # (E, K)
    result = np.full(share.shape, Reason.KNOWN, dtype=np.int8)
    result[share > max_missing] = Reason.GAP
    result[_starts_empty(empty, timesteps, max_missing)] = Reason.WARMING_UP
    result[empty[:, timesteps - 1 :]] = Reason.NO_DATA
    return result


def lost(values: Float32, seen: Bool, slots: int) -> Bool:
    """True where an entity has data, but a metric it should have has had none for `slots` slots.

    values: (E, L, F); seen: (E, F) metrics that each entity should have. Returns (E, L, F); False before there are so
    many slots.
    """
    known = ~np.isnan(values)  # (E, L, F)
    position = np.arange(values.shape[1])[None, :, None]
    last = np.maximum.accumulate(np.where(known, position, -1), axis=1)  # (E, L, F) newest slot with the metric
    is_gone = (position - last >= slots) & (position >= slots - 1)
    return np.asarray(is_gone & seen[:, None] & known.any(axis=2, keepdims=True), dtype=np.bool_)


def silent(values: Float32, slots: int, *, had_data: Bool) -> Bool:
    """True where an entity that had data has had none for `slots` slots: (E, L, F) -> (E, L).

    had_data: (E,) entities that had some before these slots. Of the slots only those up to each one count: an entity
    that has no data yet is not silent, whatever comes later.
    """
    empty = ~any_metric(~np.isnan(values))
    position = np.arange(values.shape[1])[None, :]
    last = np.maximum.accumulate(np.where(empty, -1, position), axis=1)  # (E, L) newest slot with data
    known = (last >= 0) | had_data[:, None]
    return np.asarray(known & (position - last >= slots), dtype=np.bool_)


def rolling_sum(values: Bool | Int32, span: int) -> Int32:
    """Sum of the last `span` slots of small numbers: (L, E) -> (L − span + 1, E)."""
    slots = len(values) - span + 1
    first = values[:span].sum(axis=0, dtype=np.int32)  # (E,)
    changes = values[span:].astype(np.int32) - values[: max(0, slots - 1)]  # from each slot to the next
    return np.cumsum(np.concatenate([first[None], changes]), axis=0, dtype=np.int32)[:slots]


def _starts_empty(empty: Bool, timesteps: int, max_missing: float) -> Bool:
    """Windows whose oldest slots are all empty, for longer than a window may be missing."""
    leading = int(np.floor(np.round(max_missing * timesteps, 9))) + 1  # 0.29 × 100 is less than 29 before rounding
    oldest = empty[:, : empty.shape[1] - timesteps + leading]
    lead: Bool = np.all(np.lib.stride_tricks.sliding_window_view(oldest, leading, axis=1), axis=2)
    return lead


INPUT_CLIP = 10.0
"""Scaled values beyond this would saturate the network; it rebuilds nothing beyond, so all of that is residual."""


def network_input(windows: Float32, calendar: Float32 | None = None) -> Float32:
    """The network's input from scaled windows (B, T, F) with NaN: (B, T − 1, F + 1 + C) without NaN.

    The newest slot is withheld: the network has to rebuild it from the slots before it. A missing value repeats the
    metric's last value in the window (0, its median, if there is none); channel F is the share of metrics missing in
    the slot, the last C are `calendar` (B, T − 1, C).
    """
    windows = windows[:, :-1]
    missing = np.isnan(windows)  # (B, T − 1, F)
    metrics, calendars = windows.shape[2], 0 if calendar is None else calendar.shape[2]
    inputs = np.empty((*windows.shape[:2], metrics + 1 + calendars), dtype=np.float32)
    values = inputs[..., :metrics]
    values[...] = windows
    inputs[..., metrics] = missing.mean(axis=2, dtype=np.float32)
    holed = np.flatnonzero(missing.any(axis=(1, 2)))
    if holed.size:
        values[holed] = _carry_forward(windows[holed], missing[holed])
    np.clip(values, -INPUT_CLIP, INPUT_CLIP, out=values)
    if calendar is not None:
        inputs[..., metrics + 1 :] = calendar
    return inputs


def _carry_forward(windows: Float32, missing: Bool) -> Float32:
    steps = np.arange(windows.shape[1])[None, :, None]
    last = np.maximum.accumulate(np.where(missing, -1, steps), axis=1)  # (B, T, F) index of the newest known value
    filled = np.take_along_axis(windows, np.maximum(last, 0), axis=1)
    return np.where(last < 0, np.float32(0.0), filled).astype(np.float32, copy=False)
