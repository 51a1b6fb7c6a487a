"""What is on record of slots, for people and files: a score, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from detector.core.decide import THRESHOLD
from detector.core.series import Reason
from detector.detect.judged import GONE, NO_ROWS
from detector.ports import JudgedRanges, ScoredSlot

NOT_JUDGED = "not_judged"
"""Nothing is on record: not judged, or pruned since."""

_KNOWN = {Reason.KNOWN.label, NO_ROWS}


@dataclass(frozen=True)
class Told:
    """One slot of one entity."""

    slot: int  # epoch milliseconds
    entity: str
    score: float | None
    surprise: float | None
    state: str  # normal, anomalous, unknown; not_stored: judged, but its score was not kept
    reason: str  # why it is unknown
    model_version: int | None


class Record:
    """What is known of entities as slots go by."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        """reasons: of each entity, before the first slot"""
        self._reasons = dict(reasons)

    def told(
        self, slots: Iterable[int], ranges: JudgedRanges, scores: Mapping[int, Mapping[str, ScoredSlot]]
    ) -> Iterator[Told]:
        """All entities at all slots, and wherever there is a score; ends with what is known after the last slot.

        slots: epoch milliseconds
        ranges: that begin in this time, the oldest first
        scores: by slot and entity
        """
        begins = list(zip(ranges.start, ranges.entity, ranges.reason, strict=True))
        next_range = 0
        for slot in sorted({*slots, *scores}):
            while next_range < len(begins) and begins[next_range][0] <= slot:
                _, entity, reason = begins[next_range]
                self._reasons[entity] = reason
                next_range += 1
            here = scores.get(slot, {})
            present = {entity for entity, reason in self._reasons.items() if reason != GONE}
            for entity in sorted(present.union(here)):
                yield self._of(slot, entity, here.get(entity))
        self._reasons.update((entity, reason) for _, entity, reason in begins[next_range:])

    def _of(self, slot: int, entity: str, found: ScoredSlot | None) -> Told:
        if found is not None:
            state = "anomalous" if found.score >= THRESHOLD else "normal"
            return Told(slot, entity, found.score, found.surprise, state, "", found.model_version)
        reason = self._reasons.get(entity, NOT_JUDGED)
        is_known = reason in _KNOWN
        return Told(slot, entity, None, None, "not_stored" if is_known else "unknown", "" if is_known else reason, None)
