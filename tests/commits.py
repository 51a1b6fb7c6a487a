"""Commits and changes of alerts as a tick makes them, for tests of what stores them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from detector.core.decide import Change, Episode, Severity
from detector.ports import NO_SCORES, AlertChange, Commit

T0 = 1_704_110_400_000
STEP = 60_000


def commit(**values: Any) -> Commit:
    """The first commit of monitor `web`: nothing but a cursor unless given."""
    first = Commit(
        monitor="web",
        expected_cursor=None,
        cursor=T0,
        now=T0 + 10,
        model_version=7,
        scores=NO_SCORES,
        replaced=NO_SCORES,
        changes=(),
    )
    return replace(first, **values)


def change(kind: Change | None, entity: str = "a", slot: int = T0, **values: Any) -> AlertChange:
    made = AlertChange(
        change=kind,
        entity=entity,
        slot=slot,
        episode=Episode(T0, slot, Severity.WARNING, peak_score=1.5, peak_slot=slot),
        detected_at=slot + STEP,
        explanation='{"metrics": []}',
    )
    of_episode = {name: values.pop(name) for name in Episode.__dataclass_fields__ if name in values}
    return replace(made, episode=replace(made.episode, **of_episode), **values)
