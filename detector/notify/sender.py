"""Sends events of alerts to notifiers: those that are due, in how many messages, and again after a failure."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from detector.errors import NotifyError, NotifyUnavailable
from detector.ports import Message, Notice, NotifiedAlert, Notifier, Outbox

logger = logging.getLogger(__name__)

_FIRST_RETRY = 5_000  # milliseconds
_LAST_RETRY = 180_000
_LEASE_MARGIN = 15_000  # by which a lease outlives the timeout of a message
_TOP = 10  # alerts that a summary names one by one

Clock = Callable[[], int]
"""The present, epoch milliseconds."""


@dataclass(frozen=True)
class Limits:
    """Limits of a notifier. Times in milliseconds."""

    timeout: int  # of one message
    give_up_after: int  # an event older than this is given up after its next failure
    max_messages: int = 0  # about one monitor within `rate_span`
    rate_span: int = 0
    repeat: int = 0  # time after which a target that keeps track of open alerts is sent them again; 0: it takes events
    max_alerts: int = 0  # sent to such a target one by one; the others are summed up


def back_off(attempts: int, rng: random.Random) -> int:
    """Milliseconds to wait after the n-th failed attempt: twice as long each time, up to three minutes.

    Up to half of it is taken off at random, so that not all come at once.
    """
    longest = min(_LAST_RETRY, _FIRST_RETRY * (1 << min(attempts - 1, 16)))
    return round(longest * rng.uniform(0.5, 1.0))


def messages(monitor: str, notices: Sequence[Notice], allowed: int) -> list[Message]:
    """Events of a monitor, in order, as at most `allowed` messages: one each, or one for all if that is too many."""
    if allowed <= 0:
        return []
    if len(notices) <= allowed:
        return [Message(monitor, (notice,), (notice.alert,)) for notice in notices]
    alerts = {notice.alert.id: notice.alert for notice in notices}.values()
    worst = sorted(alerts, key=lambda alert: (-alert.episode.peak_score, alert.id))
    return [Message(monitor, tuple(notices), tuple(worst[:_TOP]), tuple(worst[_TOP:]), is_summary=True)]


def standing_message(
    monitor: str, notices: Sequence[Notice], standing: Sequence[NotifiedAlert], *, max_alerts: int
) -> Message:
    """A message of a monitor's open alerts and of those with events: some one by one, other open ones summed up.

    standing: alerts that are open
    max_alerts: named one by one; the first to be stored come first, so a named alert stays named until it closes
    """
    known = {notice.alert.id: notice.alert for notice in notices} | {alert.id: alert for alert in standing}
    ordered = [known[identity] for identity in sorted(known)]
    is_open = {alert.id for alert in standing}
    others = tuple(alert for alert in ordered[max_alerts:] if alert.id in is_open)
    return Message(monitor, tuple(notices), tuple(ordered[:max_alerts]), others, is_summary=bool(others))


@dataclass(frozen=True)
class _Run:
    """One run of a sender."""

    clock: Clock
    rng: random.Random
    outcomes: Counter[str] = field(default_factory=Counter)  # messages


class Sender:
    """Notifies one notifier of the alerts of its monitors; used by one thread at a time."""

    def __init__(
        self, name: str, notifier: Notifier, outbox: Outbox, *, monitors: Sequence[str], limits: Limits
    ) -> None:
        self.name = name
        self._notifier = notifier
        self._outbox = outbox
        self._limits = limits
        self._repeat_at = dict.fromkeys(monitors, 0) if limits.repeat else {}
        self._failures = 0  # in a row
        self._last_sent = 0
        self._unmarked: list[tuple[Sequence[Notice], int]] = []  # sent, but not yet marked so in the store

    def run(self, clock: Clock, rng: random.Random, should_stop: Callable[[], bool] = lambda: False) -> Counter[str]:
        """Sends everything that is due and allowed now; returns messages by outcome.

        If the target does not answer, the run ends; later runs try again.

        Raises: StoreError; what was sent is not sent again as long as this process lives.
        """
        run, now = _Run(clock, rng), clock()
        repeats = [monitor for monitor, at in self._repeat_at.items() if now >= at]
        if not (repeats or self._outbox.due(self.name, now)) or not self._claim(now):
            return run.outcomes
        try:
            self._mark_sent()
            notices = self._outbox.due(self.name, now)
            waiting = {notice.event: notice for notice in notices}
            for message in self._messages(notices, repeats, now):
                if should_stop() or not self._claim(clock()):
                    break
                try:
                    self._notifier.send(replace(message, alerts=self._outbox.detailed(message.alerts)), clock())
                except NotifyUnavailable as exc:
                    # all others would wait in vain for the same target
                    self._note_failure(run, exc, list(waiting.values()), monitors={message.monitor, *repeats})
                    break
                except NotifyError as exc:
                    self._note_failure(run, exc, message.notices, monitors={message.monitor})
                else:
                    self._note_success(run, message)
                for notice in message.notices:
                    del waiting[notice.event]
        finally:
            self._outbox.release(self.name)
        return run.outcomes

    def unsent(self) -> tuple[int | None, int]:
        """Time of the oldest event not sent yet, None if there is none; and the number of events given up."""
        return self._outbox.unsent(self.name)

    def _claim(self, now: int) -> bool:
        return self._outbox.claim(self.name, now, now + self._limits.timeout + _LEASE_MARGIN)

    def _messages(self, notices: Sequence[Notice], repeats: Sequence[str], now: int) -> list[Message]:
        found: list[Message] = []
        for monitor in dict.fromkeys([*(notice.alert.monitor for notice in notices), *repeats]):
            mine = [notice for notice in notices if notice.alert.monitor == monitor]
            if self._limits.repeat:
                standing = self._outbox.standing(monitor)
                found.append(standing_message(monitor, mine, standing, max_alerts=self._limits.max_alerts))
            else:
                recent = self._outbox.messages_since(self.name, monitor, now - self._limits.rate_span)
                found.extend(messages(monitor, mine, self._limits.max_messages - recent))
        return found

    def _note_success(self, run: _Run, message: Message) -> None:
        now = run.clock()
        self._failures = 0
        if self._limits.repeat:
            self._repeat_at[message.monitor] = now + self._limits.repeat
        self._last_sent = max(now, self._last_sent + 1)  # distinguishes messages
        self._unmarked.append((message.notices, self._last_sent))
        run.outcomes["sent"] += 1
        self._mark_sent()
        if message.notices:
            logger.info(
                "event=notified notifier=%s monitor=%s events=%d summary=%s",
                self.name,
                message.monitor,
                len(message.notices),
                message.is_summary,
            )

    def _mark_sent(self) -> None:
        while self._unmarked:
            self._outbox.sent(self.name, *self._unmarked[0])
            del self._unmarked[0]

    def _note_failure(
        self, run: _Run, error: NotifyError, failed: Sequence[Notice], *, monitors: Collection[str]
    ) -> None:
        """Puts events off, or gives them up when they are too old. monitors: whose open alerts are repeated later"""
        now, reason = run.clock(), str(error)
        self._failures += 1
        run.outcomes["failed"] += 1
        wait = back_off(max([1, *(notice.attempts + 1 for notice in failed)]), run.rng)
        old = [notice for notice in failed if now - notice.created_at >= self._limits.give_up_after]
        young = [notice for notice in failed if now - notice.created_at < self._limits.give_up_after]
        self._outbox.failed(self.name, young, error=reason, next_at=now + wait)
        self._outbox.failed(self.name, old, error=reason, next_at=None)
        if self._limits.repeat:
            self._repeat_at |= dict.fromkeys(monitors, now + back_off(self._failures, run.rng))
        run.outcomes["dead"] += len(old)
        logger.warning(
            "event=notify_failed notifier=%s monitors=%s events=%d given_up=%d failures=%d reason=%r",
            self.name,
            ",".join(sorted(monitors)),
            len(failed),
            len(old),
            self._failures,
            reason,
        )
