"""What an operator knows of the metrics: which deviations count, and which values are never valid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detector.core.series import Bool, Float32


@dataclass(frozen=True)
class MetricRules:
    """Rules of each metric, as columns over metrics (F,)."""

    counts_up: Bool  # higher than expected counts
    counts_down: Bool  # lower than expected counts
    least: Float32  # smallest deviation that counts, the metric's own units
    least_share: Float32  # the same as a share of the expected value
    lowest: Float32  # values below are never valid; −inf: no such rule
    highest: Float32

    @staticmethod
    def none(metrics: int) -> MetricRules:
        """Everything counts, everything is valid."""
        up, down = np.ones((2, metrics), dtype=np.bool_)  # arrays of their own each: callers set rules in place
        least, least_share = np.zeros((2, metrics), dtype=np.float32)
        endless = np.full(metrics, np.inf, dtype=np.float32)
        return MetricRules(up, down, least, least_share, -endless, endless)

    @property
    def has_range(self) -> bool:
        """Whether any metric has a valid range."""
        return bool(np.isfinite(self.lowest).any() or np.isfinite(self.highest).any())

    def heed(self, residuals: Float32, observed: Float32, scale: Float32) -> Float32:
        """Residuals (B, F) in scaled units with those that do not count set to 0; NaN stays.

        observed: (B, F) values in their own units; scale: (B, F) own units to one scaled unit
        """
        deviation = residuals * scale
        expected = observed - deviation
        counts = np.where(residuals > 0, self.counts_up, self.counts_down)
        counts &= np.abs(deviation) >= self.least
        counts &= np.abs(deviation) >= self.least_share * np.abs(expected)
        return np.where(counts | np.isnan(residuals), residuals, np.float32(0.0))

    def outside(self, values: Float32) -> Bool:
        """Where a value is outside its valid range, (…, F); a missing one is not."""
        return (values < self.lowest) | (values > self.highest)
