"""A trained version as the bytes of its artifact, and back ready to score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from detector.models import artifact as artifacts
from detector.models.artifact import Artifact, NetworkSpec
from detector.models.baseline import SeasonalBaseline
from detector.ports import Fitted, Model, ModelVersion, TrainedVersion


def dump(version: TrainedVersion, provenance: Mapping[str, Any]) -> bytes:
    """The bytes of a version, which say `provenance` of it."""
    model, fitted = version.model, version.fitted
    artifact = Artifact(
        spec=fitted.spec,
        weights=fitted.weights,
        entities=model.entities,
        scaling=model.scaling,
        noise=model.noise,
        fleet_noise=model.fleet_noise,
        calibration=model.calibration,
        rest=np.zeros((0, 0), dtype=np.int64) if model.rest is None else model.rest,
        provenance=provenance,
    )
    return artifacts.dump(artifact)


def load(data: bytes, number: int) -> TrainedVersion:
    """The version with these bytes.

    Raises: ArtifactError if they are no artifact, one of another format, or its weights do not fit its network.
    """
    artifact = artifacts.load(data)
    provenance, spec, network = artifact.provenance, artifact.spec, _network(artifact)
    kind = provenance["kind"]
    model = ModelVersion(
        version=number,
        kind=kind,
        timesteps=spec.timesteps,
        trained_from=int(provenance["trained_from"]),
        trained_until=int(provenance["trained_until"]),
        network=network,
        entities=artifact.entities,
        scaling=artifact.scaling,
        noise=artifact.noise,
        fleet_noise=artifact.fleet_noise,
        calibration=artifact.calibration,
        rest=artifact.rest,
        drift=provenance.get("drift"),
        detectability={name: shares["all"] for name, shares in provenance["detectability"].items()},
    )
    weights = dict(artifact.weights)
    fitted = Fitted(kind=kind, model=network, timesteps=spec.timesteps, spec=spec, weights=weights, facts={})
    return TrainedVersion(model, fitted, provenance)


def _network(artifact: Artifact) -> Model:
    """The model that scores with an artifact's weights."""
    if isinstance(artifact.spec, NetworkSpec):
        from detector.models.inference import Autoencoder  # ONNX Runtime, which a baseline does without

        return Autoencoder(artifact.spec, artifact.weights)
    return SeasonalBaseline(artifact.spec, artifact.weights)
