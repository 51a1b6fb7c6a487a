"""What a model version cannot promise of its alert budget."""

from __future__ import annotations

import numpy as np

from detector.ports import ModelVersion

_PROMISING_DAYS = 1.0  # of history behind the training part, without which a budget is not kept


def is_of_an_earlier_program(live: ModelVersion) -> bool:
    """Whether a version knows only the errors of its entities: then alerts come from these alone."""
    return not len(live.artifact.habits.usual.center)


def shortfall(live: ModelVersion) -> str | None:
    """Why a version may overdraw its budget; None if it has seen enough to keep it."""
    if is_of_an_earlier_program(live):
        return None
    weeks = live.artifact.experience.peaks.weeks
    days = 7.0 * float(np.median(weeks[:, 0])) if len(weeks) else 0.0
    if days >= _PROMISING_DAYS:
        return None
    return f"may be overdrawn: {days:.1f} days of history behind the training part say little of a week"
