"""Model versions of a replay, made only from rows that are known by then."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

from detector.core import grid
from detector.errors import ModelError
from detector.ports import Fit, ModelVersion
from detector.progress import Progress
from detector.replay import groups
from detector.replay.groups import Recorded
from detector.times import utc
from detector.train import division
from detector.train.division import Plan
from detector.train.fit import train

logger = logging.getLogger(__name__)

_READING_SHARE = 0.1  # of a training's progress


class Trainer:
    """Trains and retrains one monitor, and notes what is known of each version."""

    def __init__(self, plan: Plan, fit: Fit) -> None:
        self._plan = plan
        self._fit = fit
        self.notes: list[dict[str, Any]] = []  # of each training, in order; `version` is None if it failed
        self.seconds = 0.0  # of all trainings

    def train(self, source: Recorded, *, now: int, progress: Progress) -> ModelVersion:
        """The next model version, from all rows of a source. now: epoch milliseconds, for the notes.

        Raises: ModelError if there are too few rows.
        """
        began = time.monotonic()
        version = 1 + sum(note["version"] is not None for note in self.notes)
        note: dict[str, Any] = {"version": None, "trained_at": utc(now, "auto")}
        try:
            trained = self._trained(source, progress)
            note["version"] = version
            # times are left out: the history was closed up
            facts = trained.artifact.provenance
            note |= {key: value for key, value in facts.items() if not key.startswith("trained_")}
        except ModelError as exc:
            note["error"] = str(exc)
            raise
        finally:
            note["seconds"] = round(time.monotonic() - began, 1)
            self.seconds += time.monotonic() - began
            self.notes.append(note)
        return replace(trained, version=version)

    def retrain(self, known: Recorded, *, now: int, progress: Progress) -> ModelVersion | None:
        """A new version from the rows known by now; None if they are too few: the daemon keeps its old one."""
        step = self._plan.horizon.step
        try:
            start, end = division.span(self._plan, known, now=now)
            rows = known.between(grid.floor(start, step), grid.floor(end, step))
            return self.train(rows, now=now, progress=progress)
        except ModelError as exc:
            logger.warning("event=retrain_failed monitor=%s reason=%r", self._plan.horizon.monitor, str(exc))
            return None

    def _trained(self, source: Recorded, progress: Progress) -> ModelVersion:
        plan = self._plan

        def part(begin: float, share: float) -> Progress:
            return lambda done, what: progress(begin + share * done, f"{plan.horizon.monitor}: {what}")

        history = groups.training_history(plan.horizon, source, part(0.0, _READING_SHARE))
        return train(plan, history, self._fit, progress=part(_READING_SHARE, 1.0 - _READING_SHARE))
