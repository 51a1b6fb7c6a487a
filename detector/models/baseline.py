"""A seasonal robust z-score per metric: the floor a network has to beat, and the model of the first hours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.series import Bool, Float32, History, Int64, Windows
from detector.errors import ArtifactError
from detector.models import calendar
from detector.models.artifact import BaselineSpec
from detector.times import DAY_MS, HOUR_MS

_LEAST = 3  # values of a phase; with fewer the overall median is expected. Not varied


def phases_for(days: float) -> int:
    """Number of phases that some days of history support: 168 hours of a week, 24 of a day, or 1."""
    return 168 if days >= calendar.WEEKLY_FROM_DAYS else 24 if days >= calendar.DAILY_FROM_DAYS else 1


class SeasonalBaseline:
    """Expects every metric to be at its median for the hour."""

    def __init__(self, spec: BaselineSpec, weights: Mapping[str, NDArray[Any]]) -> None:
        """Takes "profile" (E, P, F) and "fleet_profile" (P, F), scaled units.

        Raises: ArtifactError if they are not of these shapes.
        """
        self.spec = spec
        try:
            self._profile = np.asarray(weights["profile"], dtype=np.float32)
            self._fleet = np.asarray(weights["fleet_profile"], dtype=np.float32)
        except KeyError as exc:
            msg = f"baseline without array {exc}; run: detector retrain"
            raise ArtifactError(msg) from exc
        if set(weights) != {"profile", "fleet_profile"} or self._profile.ndim != 3:
            msg = f"baseline with profile (E, P, F) and fleet_profile expected, {sorted(weights)} received"
            raise ArtifactError(f"{msg:.200}; run: detector retrain")
        expected = (spec.phases, spec.metrics)
        if self._profile.shape[1:] != expected or self._fleet.shape != expected:
            msg = f"baseline of shape {expected} expected, {self._profile.shape[1:]} received; run: detector retrain"
            raise ArtifactError(msg)

    def residuals(self, windows: Windows) -> Float32:
        """Distance of the newest slots from their medians: (B, F) scaled, > 0 if higher; NaN where missing."""
        phase = _phase(windows.slots, self.spec)
        expected = np.where((windows.rows < 0)[:, None], self._fleet[phase], self._profile[windows.rows, phase])
        return np.asarray(windows.values[:, -1] - expected, dtype=np.float32)


def fit(history: History, chosen: Bool, time_zone: str) -> tuple[BaselineSpec, dict[str, NDArray[Any]]]:
    """A baseline from scaled history (E, L, F) where `chosen` (E, L) is true; unseen phases and entities expect 0."""
    metrics = history.values.shape[2]
    days = float(chosen.sum(axis=1).max(initial=0)) * history.step / DAY_MS
    spec = BaselineSpec(metrics, phases_for(days), time_zone)
    phase = _phase(history.slots, spec)
    values = np.where(chosen[:, :, None], history.values, np.float32(np.nan))
    profile = np.zeros((len(values), spec.phases, metrics), dtype=np.float32)
    for p in range(spec.phases if spec.phases > 1 else 0):  # with one phase the scaling has taken the median out
        part = values[:, phase == p]
        known = (~np.isnan(part)).sum(axis=1)  # (E, F)
        median = np.nanmedian(np.where(known[:, None] > 0, part, 0.0), axis=1) if part.shape[1] else np.nan
        profile[:, p] = np.where(known >= _LEAST, median, 0.0)
    return spec, {"profile": profile, "fleet_profile": np.median(profile, axis=0).astype(np.float32)}


def _phase(slots: Int64, spec: BaselineSpec) -> Int64:
    if spec.phases == 1:
        return np.zeros(len(slots), dtype=np.int64)
    return calendar.local(slots, spec.time_zone) // HOUR_MS % spec.phases
