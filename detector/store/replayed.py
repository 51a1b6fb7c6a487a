"""What a replay finds, in memory; and read back as a report reads what is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from detector.core.series import Float32, Float64, Int64
from detector.ports import NO_SCORES, Commit, Exclusion, ScoreRows
from detector.store.alerts import AlertRow
from detector.store.memory import MemoryStore


@dataclass(frozen=True)
class _Scores:
    """Scores of one commit, (N,) each: a score takes 16 bytes, in a dictionary it takes hundreds."""

    row_of: dict[str, int]  # of the entities in it
    row: Int64
    slot: Int64
    score: Float32


class ReplayStore(MemoryStore):
    """The `Store` port in memory for one monitor, with scores as arrays: a replay makes millions of them."""

    def __init__(self, exclusions: Iterable[Exclusion] = ()) -> None:
        super().__init__()
        self._scores: list[_Scores] = []
        for exclusion in exclusions:
            self.exclude(exclusion)

    def commit(self, commit: Commit) -> None:
        """Stores all of it or nothing. Raises: as its parent."""
        super().commit(replace(commit, scores=NO_SCORES, replaced=NO_SCORES))
        self._scores += [_columns(rows) for rows in (commit.replaced, commit.scores) if rows.slot]

    def judged_slots(self, start: int) -> dict[str, int]:
        """Number of slots from `start` (epoch milliseconds) on with a score, by entity; those without any are left out.

        One that late samples changed counts twice, of which a replay has none.
        """
        found: Counter[str] = Counter()
        for part in self._scores:
            counted = np.bincount(part.row[part.slot >= start], minlength=len(part.row_of)).tolist()
            found.update({name: counted[row] for name, row in part.row_of.items() if counted[row]})
        return dict(found)

    def scores_of(self, entity: str, slots: range) -> Float64:
        """An entity's scores at some slots, (len(slots),); NaN where there is none."""
        found = np.full(len(slots), np.nan)
        for part in self._scores:  # what replaces a score comes after it
            mine = part.row == part.row_of.get(entity, -1)
            at = (part.slot[mine] - slots.start) // slots.step
            inside = (at >= 0) & (at < len(slots))
            found[at[inside]] = part.score[mine][inside]
        return found


def _columns(rows: ScoreRows) -> _Scores:
    row_of = {name: index for index, name in enumerate(dict.fromkeys(rows.entity))}
    row = np.fromiter((row_of[name] for name in rows.entity), dtype=np.int64, count=len(rows.entity))
    return _Scores(row_of, row, np.array(rows.slot, dtype=np.int64), np.array(rows.score, dtype=np.float32))


@dataclass(frozen=True)
class ReplayedHistory:
    """The port `report.rows.History` over what a replay has found. Times in epoch milliseconds."""

    store: ReplayStore
    start: int  # of what was asked for

    def alerts(self, *, since: int | None = None, until: int | None = None, only_open: bool = False) -> list[AlertRow]:
        """All alerts that opened in [since, until), newest first."""
        return [
            row
            for row in self.store.alerts()
            if (since is None or row.episode.opened_slot >= since)
            and (until is None or row.episode.opened_slot < until)
            and (row.state.waits or not only_open)
        ]

    def scores(self, entity: str, slots: range) -> Float64:
        """An entity's scores at some slots, (len(slots),); NaN where there is none."""
        return self.store.scores_of(entity, slots)

    def first_score(self) -> int | None:
        """The oldest slot that was asked for."""
        return self.start

    def versions_created(self) -> list[int]:
        """Nothing: a replay makes no model versions."""
        return []
