"""A stored model version, ready to score."""

from __future__ import annotations

from detector.errors import ArtifactError
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

        try:
            return ModelVersion(number, artifact, Autoencoder(artifact.spec, artifact.weights))
        except ArtifactError:
            raise
        except Exception as exc:  # ONNX Runtime's errors have no class in common
            msg = f"model version {number} makes no network ({' '.join(str(exc).split()):.200}); run: detector retrain"
            raise ArtifactError(msg) from exc
    assert isinstance(artifact.spec, BaselineSpec)  # by `artifacts.SPECS`
    if artifact.weights.get("profile", artifact.noise).shape[:1] != (len(artifact.entities),):
        msg = f"model version {number}: a profile for each entity expected; run: detector retrain"
        raise ArtifactError(msg)
    return ModelVersion(number, artifact, SeasonalBaseline(artifact.spec, artifact.weights))
