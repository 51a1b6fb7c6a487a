"""How far apart the rows of an entity usually are, and the step that fits them."""

from __future__ import annotations

import numpy as np

from detector.core.series import Samples
from detector.detect.horizon import Horizon

_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"))


def too_fine_a_step(horizon: Horizon, samples: Samples) -> str | None:
    """What to say if the rows of an entity are usually so far apart that its windows have too many gaps; or None."""
    usual = usual_distance(samples)
    if usual is None or horizon.filled == "zero":
        return None
    share = 1.0 - horizon.step / usual
    if horizon.filled == "last":
        share = 1.0 - horizon.hold / usual
    if share <= horizon.max_missing:
        return None
    if horizon.filled == "last":
        held = f"a value holds for {written(horizon.hold)}"
        return f"rows of an entity usually come every {usual / 1000:g} s, but {held}; raise fill_limit"
    empty = f"{share:.0%} of the slots of {horizon.step / 1000:g} s"
    return (
        f"rows of an entity usually come every {usual / 1000:g} s, so {empty} would be"
        f' empty and no window could be scored; set step = "{written(usual)}",'
        ' or fill = "last" if a value holds until the next row'
    )


def usual_distance(samples: Samples) -> int | None:
    """Usual time between two samples of the same metric of an entity, milliseconds; None if none has three."""
    is_value = np.isfinite(samples.value)
    series_of = samples.entity[is_value].astype(np.int64) << 32 | samples.metric[is_value].astype(np.int64)
    order = np.lexsort((samples.time[is_value], series_of))
    series_of, time = series_of[order], samples.time[is_value][order]
    distances = np.diff(time)[(np.diff(series_of) == 0) & (np.diff(time) > 0)]
    return int(np.median(distances)) if len(distances) > 1 else None


def written(milliseconds: int) -> str:
    """A duration as the configuration writes it, rounded to what people would choose: 298 s is 5m."""
    for size, unit in _UNITS:
        count = round(milliseconds / size)
        if count and abs(milliseconds - count * size) <= 0.05 * milliseconds:
            return f"{count}{unit}"
    return f"{max(1, round(milliseconds / 1000))}s"
