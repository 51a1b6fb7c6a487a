"""Everything on record of a monitor's slots, read some slots at a time."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Engine

from detector.detect.told import Record, Told
from detector.store import judged, scores

_ROWS = 100_000  # slots times entities at a time; no transaction lasts longer than it takes to read them
_MOST_SLOTS = 10_000


def told(
    engine: Engine, monitor: str, *, start: int, end: int, step: int, entity: str | None = None
) -> Iterator[list[Told]]:
    """What is known of all entities, or of one, at the slots in [start, end), some slots at a time.

    start, end: on the grid, epoch milliseconds; step: milliseconds
    """
    record = Record(judged.reasons_before(engine, monitor, start, entity=entity))
    entities = len(judged.entities(engine, monitor)) if entity is None else 1
    # of scores that are older than the record nobody knows how many entities they are of
    at_a_time = max(1, min(_MOST_SLOTS, _ROWS // entities)) if entities else 1
    while start < end:
        until = min(end, start + step * at_a_time)
        ranges = judged.between(engine, monitor, start, until, entity=entity)
        slots = range(start, until, step)
        if entity is None:
            found = scores.between(engine, monitor, start, until)
        else:
            mine = scores.at_slots(engine, monitor, entity, slots)
            found = {slot: {entity: scored} for slot, scored in mine.items()}
        rows = list(record.told(slots, ranges, found))
        if rows:
            yield rows
        start = until
