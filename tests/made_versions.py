"""Model versions made by hand, for tests that need a model but no network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from detector.core.scaling import Scaling
from detector.core.series import Float32, Windows
from detector.core.threshold import Calibration
from detector.ports import Artifact, Model, ModelVersion


@dataclass(frozen=True)
class OneSlot:
    """Shape of a model that reads only the newest slot."""

    timesteps: int = 1


class ExpectsNothing:
    """A model that expects 0 everywhere, so that a residual is the value itself."""

    def residuals(self, windows: Windows) -> Float32:
        return windows.values[:, -1]


def by_size(
    entities: tuple[str, ...],
    metrics: int,
    *,
    start: ArrayLike,
    level: float,
    since: int,
    freeze_limit: int | None = None,
    step: int = 60_000,
    timesteps: int = 1,
    network: Model | None = None,
    version: int = 1,
) -> ModelVersion:
    """A version that scores values by their size.

    start: error at which the tail begins, for all spans or (S,) of each; level: surprise of score 1
    since: end of its training data, epoch milliseconds
    """
    count = len(entities)
    ones, spans = np.ones((count, metrics), dtype=np.float32), np.ones((count, 4), dtype=np.float32)
    starts = spans * np.asarray(start, dtype=np.float32)
    artifact = Artifact(
        spec=OneSlot(timesteps),
        weights={},
        entities=entities,
        scaling=Scaling(0.0 * ones, ones, ones[0]),
        noise=ones,
        fleet_noise=ones[0],
        calibration=Calibration(starts, spans, starts[0], spans[0], level),
        freeze_limits=np.zeros((0, 0), dtype=np.int64) if freeze_limit is None else np.full(ones.shape, freeze_limit),
        provenance={"kind": "baseline", "trained_from": since - step, "trained_until": since},
    )
    return ModelVersion(version, artifact, network or ExpectsNothing())
