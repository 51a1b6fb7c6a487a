"""A cursor moved back: slots that were committed before they could have data are judged again."""

from __future__ import annotations

import logging
from dataclasses import replace

from detector.core import grid
from detector.core.decide import Change
from detector.detect.horizon import Horizon
from detector.detect.judged import data_end
from detector.ports import NO_SCORES, AlertChange, Commit, Store, StoredAlert

logger = logging.getLogger(__name__)


def is_ahead(horizon: Horizon, cursor: int, now: int) -> bool:
    """Whether a cursor is further ahead of the clock than a clock that is set a little can explain.

    One slot is not: rows of it that come later are late rows. Times: epoch milliseconds
    """
    return cursor > grid.complete_until(now, horizon.step, horizon.delay) + horizon.step


def rewound(horizon: Horizon, store: Store, now: int) -> bool:
    """Moves a cursor that ran ahead of the clock back to where the data ended that it has judged; whether it did.

    Where nothing is on record it goes back to the present. Nothing is done to a cursor that is not ahead.
    """
    cursor = store.cursor(horizon.monitor)
    if cursor is None or not is_ahead(horizon, cursor, now):
        return False
    complete = grid.complete_until(now, horizon.step, horizon.delay)
    ended = data_end(horizon, store.judged_since(horizon.monitor, cursor), cursor)
    to = complete if ended is None else min(complete, ended)
    rewind(horizon, store, to=to, now=now)
    ahead, slots = (cursor - complete) // 1000, (cursor - to) // horizon.step
    logger.warning(
        "event=cursor_rewound monitor=%s ahead_seconds=%d slots=%d reason=%r",
        horizon.monitor,
        ahead,
        slots,
        "the cursor was ahead of the clock; was the clock wrong?",
    )
    return True


def rewind(horizon: Horizon, store: Store, *, to: int, now: int) -> None:
    """Moves the cursor back to a slot, as if nothing after it had been judged; times in epoch milliseconds.

    Scores from there on are removed, alerts decided there are withdrawn, and those that closed there go on.

    Raises: StaleState if another process moves the cursor at the same time.
    """
    to = grid.floor(to, horizon.step)
    stored = store.alerts_since(horizon.monitor, to)
    withdrawn = [_withdrawn(alert, to, now) for alert in stored if alert.episode.decided_slot >= to]
    reopened = [_reopened(alert, to, now) for alert in stored if _closed_after(alert, to)]
    commit = Commit(
        monitor=horizon.monitor,
        expected_cursor=store.cursor(horizon.monitor),
        cursor=to,
        now=now,
        model_version=0,
        scores=NO_SCORES,
        replaced=NO_SCORES,
        changes=[*withdrawn, *reopened],  # in this order: an entity has one open alert at most
        forget_from=to,
    )
    store.commit(commit)


def _closed_after(alert: StoredAlert, slot: int) -> bool:
    closed = alert.episode.closed_slot
    return alert.episode.decided_slot < slot and closed is not None and closed >= slot


def _withdrawn(alert: StoredAlert, slot: int, now: int) -> AlertChange:
    return AlertChange(
        Change.WITHDRAWN, alert.entity, slot, alert.episode, detected_at=now, explanation=None, alert=alert.id
    )


def _reopened(alert: StoredAlert, slot: int, now: int) -> AlertChange:
    goes_on = replace(alert.episode, closed_slot=None)
    return AlertChange(Change.REOPENED, alert.entity, slot, goes_on, detected_at=now, explanation=None, alert=alert.id)
