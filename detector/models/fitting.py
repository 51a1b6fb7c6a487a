"""Fitting of a monitor's models; Keras is imported only for a network."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from detector.config.sections import MonitorSection
from detector.errors import ModelError

if TYPE_CHECKING:
    from detector.core.series import Bool, History, Windows
    from detector.models.artifact import NetworkSpec
    from detector.ports import Fitted
    from detector.progress import Progress


def network_spec(monitor: MonitorSection, days: float) -> NetworkSpec:
    """The network of a monitor with some days of history, which decide whether it reads the calendar."""
    from detector.models import calendar
    from detector.models.artifact import NetworkSpec

    return NetworkSpec(
        monitor.timesteps,
        len(monitor.metrics),
        **monitor.model.model_dump(exclude={"kind"}),
        calendar=calendar.channels_for(days),
        time_zone=monitor.time_zone,
        step=monitor.step_ms,
    )


def has_tensorflow() -> bool:
    """Whether networks can be trained here; nothing is imported."""
    return all(importlib.util.find_spec(name) is not None for name in ("tensorflow", "keras"))


def _require_tensorflow(monitor: str) -> None:
    if not has_tensorflow():
        msg = (
            f"monitor {monitor!r} cannot be trained here: this installation has no TensorFlow; run `detector retrain` "
            'on one that has, with the same [database], or set model.kind = "baseline"'
        )
        raise ModelError(msg)


class MonitorFit:
    """The port `Fit`; imports TensorFlow for a network, so use it only in a training process."""

    def __init__(self, monitor: MonitorSection) -> None:
        self._monitor = monitor

    def network(self, windows: Windows, validation: Windows, *, days: float, seed: int, progress: Progress) -> Fitted:
        """A network trained with Keras on scaled windows (N, T, F) from so many days.

        Raises: ModelError if TensorFlow is not installed, as on a machine that only scores.
        """
        _require_tensorflow(self._monitor.name)
        from detector.models import network
        from detector.models.inference import Autoencoder
        from detector.ports import Fitted

        monitor, spec = self._monitor, network_spec(self._monitor, days)
        names = network.TrainingSettings.__dataclass_fields__
        settings = network.TrainingSettings(**monitor.training.model_dump(include=set(names)))
        trained = network.train(spec, windows, validation, settings=settings, seed=seed, progress=progress)
        facts = {
            "loss": trained.loss,
            "validation_loss": trained.validation_loss,
            "epochs": trained.epochs,
            "keras": network.keras_version(),
            "calendar": spec.calendar,
        }
        model = Autoencoder(spec, trained.weights)
        return Fitted("network", model, spec, trained.weights, facts)

    def baseline(self, history: History, chosen: Bool) -> Fitted:
        """A seasonal baseline from scaled history (E, L, F) where `chosen` (E, L) is true."""
        from detector.models import baseline
        from detector.ports import Fitted

        spec, weights = baseline.fit(history, chosen, self._monitor.time_zone)
        model = baseline.SeasonalBaseline(spec, weights)
        return Fitted("baseline", model, spec, weights, {"phases": spec.phases})
