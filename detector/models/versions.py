"""A stored model version, ready to score."""

from __future__ import annotations

from detector.models import artifact as artifacts
from detector.models.artifact import BaselineSpec, NetworkSpec
from detector.models.baseline import SeasonalBaseline
from detector.ports import ModelVersion


def load(data: bytes, number: int) -> ModelVersion:
    """The version with these bytes.

    Raises: ArtifactError if they are no artifact, one of another format, or its weights do not fit its network.
    """
    artifact = artifacts.load(data)
    if isinstance(artifact.spec, NetworkSpec):
        from detector.models.inference import Autoencoder  # ONNX Runtime, which a baseline does without

        return ModelVersion(number, artifact, Autoencoder(artifact.spec, artifact.weights))
    assert isinstance(artifact.spec, BaselineSpec)  # by `artifacts.SPECS`
    return ModelVersion(number, artifact, SeasonalBaseline(artifact.spec, artifact.weights))
