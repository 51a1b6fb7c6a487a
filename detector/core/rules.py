"""Rules that an operator sets for metrics: which deviations count, and which values are never valid."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from detector.core.series import Bool, Float32, read_only


@dataclass(frozen=True)
class MetricRules:
    """Rules of each metric, as read-only columns over metrics (F,)."""

    counts_up: Bool  # higher than expected counts
    counts_down: Bool  # lower than expected counts
    least: Float32  # smallest deviation that counts, the metric's own units
    least_share: Float32  # the same as a share of the expected value
    lowest: Float32  # values below are never valid; −inf: no such rule
    highest: Float32

    def __post_init__(self) -> None:
        for column in fields(self):
            read_only(getattr(self, column.name))

    @staticmethod
    def none(metrics: int) -> MetricRules:
        """Everything counts, everything is valid."""
        everything, nothing = np.ones(metrics, dtype=np.bool_), np.zeros(metrics, dtype=np.float32)
        endless = np.full(metrics, np.inf, dtype=np.float32)
        return MetricRules(everything, everything, nothing, nothing, -endless, endless)

    @property
    def has_range(self) -> bool:
        """Whether any metric has a valid range."""
        return bool(np.isfinite(self.lowest).any() or np.isfinite(self.highest).any())

    @property
    def counts_everything(self) -> bool:
        """Whether no deviation of any metric is left out."""
        is_two_sided = bool(self.counts_up.all() and self.counts_down.all())
        return is_two_sided and not (self.least.any() or self.least_share.any())

    def counted(self, residuals: Float32, observed: Float32, scale: Float32) -> Float32:
        """Residuals (B, F) in scaled units, with 0 for those that the rules do not count; NaN stays.

        observed: (B, F) values in their own units; scale: (B, F) own units to one scaled unit
        """
        if self.counts_everything:
            return residuals
        deviation = residuals * scale
        expected = observed - deviation
        counts = np.where(residuals > 0, self.counts_up, self.counts_down)
        counts &= np.abs(deviation) >= self.least
        counts &= np.abs(deviation) >= self.least_share * np.abs(expected)
        return np.where(counts | np.isnan(residuals), residuals, np.float32(0.0))

    def outside(self, values: Float32) -> Bool:
        """Where a value is outside its valid range, (…, F); a missing one is not."""
        return (values < self.lowest) | (values > self.highest)
