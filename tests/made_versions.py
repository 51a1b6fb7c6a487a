"""Model versions made by hand, for tests that need a model but no network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from detector.core.deviation import Usual
from detector.core.news import STREAMS, Experience, Habits
from detector.core.peaks import Tails
from detector.core.rhythm import Jobs
from detector.core.scaling import Scaling
from detector.core.series import Float32, Windows
from detector.core.shape import Shapes
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
    threshold: ArrayLike,
    since: int,
    freeze_limit: int | None = None,
    step: int = 60_000,
    timesteps: int = 1,
    network: Model | None = None,
    version: int = 1,
) -> ModelVersion:
    """A version that scores values by their size: with a budget of one alert a week, `threshold` scores 1.

    A score is above 2 at twice the threshold, and 0 at half of it.
    threshold: for slots and means of ten of them, or (2,) of each; since: end of its training data, epoch milliseconds
    """
    count = len(entities)
    ones, spans = np.ones((count, metrics), dtype=np.float32), np.ones((count, 4), dtype=np.float32)
    one, ten = np.broadcast_to(np.asarray(threshold, dtype=np.float32), 2)
    peak = np.log(np.array([ten if name == "net10" else one for name in STREAMS], dtype=np.float32))
    start, scale = peak - np.float32(0.5), np.full(len(STREAMS), 0.25, dtype=np.float32)
    tails = Tails(np.tile(start, (count, 1)), np.tile(scale, (count, 1)), start, scale)
    habits = Habits(Usual.none(metrics), Shapes.none(0, metrics), Jobs.none(), tails)
    weeks = 2.4 * max(1, count)  # so often the largest of these peaks is reached, softly counted
    experience = Experience.normal(habits, count, metrics=metrics, slot=since, step=step, weeks=weeks)
    artifact = Artifact(
        spec=OneSlot(timesteps),
        weights={},
        entities=entities,
        scaling=Scaling(0.0 * ones, ones, ones[0]),
        noise=ones,
        fleet_noise=ones[0],
        calibration=Calibration(spans, spans, np.ones(4, dtype=np.float32), np.ones(4, dtype=np.float32)),
        habits=habits,
        experience=experience,
        freeze_limits=np.zeros((0, 0), dtype=np.int64) if freeze_limit is None else np.full(ones.shape, freeze_limit),
        provenance={"kind": "baseline", "trained_from": since - step, "trained_until": since},
    )
    return ModelVersion(version, artifact, network or ExpectsNothing())
