"""People's answers to alerts: `detector alerts ack|unack|close|comment`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.commands.alerts import find_alert
from detector.commands.shared import By, Comment, ConfigOption, assembled, now_ms, say, user
from detector.errors import ConfigError, DetectorError, StaleState
from detector.wording import printable

if TYPE_CHECKING:
    from detector.store.alerts import AlertRow
    from detector.wiring import Parts

AlertIds = Annotated[
    list[int], typer.Argument(metavar="ID…", help="Numbers of alerts; see: detector alerts list", show_default=False)
]


def acknowledge(identities: AlertIds, config: ConfigOption = None, by: By = None, comment: Comment = None) -> None:
    """Records that somebody is looking at alerts; they stay open."""
    from detector.ports import AlertState
    from detector.store import alerts

    def answer(parts: Parts, row: AlertRow, who: str) -> str:
        if row.state is AlertState.ACKNOWLEDGED:
            _comment(parts, row, who, comment)
            return f"alert {row.id} is acknowledged already, by {printable(row.acknowledged_by or 'somebody')}"
        if row.state is not AlertState.OPEN:
            msg = f"alert {row.id} is {row.state}; only an open one can be acknowledged"
            raise ConfigError(msg)
        notifiers = parts.config.notified(row.monitor)
        alerts.acknowledge(parts.engine, row, by=who, comment=comment, now=now_ms(), notifiers=notifiers)
        return f"alert {row.id} is acknowledged by {printable(who)}"

    _answer(identities, config, by, answer)


def unacknowledge(identities: AlertIds, config: ConfigOption = None, by: By = None, comment: Comment = None) -> None:
    """Takes an acknowledgement back: nobody is looking at these alerts any more."""
    from detector.ports import AlertState
    from detector.store import alerts

    def answer(parts: Parts, row: AlertRow, who: str) -> str:
        if row.state is not AlertState.ACKNOWLEDGED:
            msg = f"alert {row.id} is {row.state}; only an acknowledged one can be taken back"
            raise ConfigError(msg)
        notifiers = parts.config.notified(row.monitor)
        alerts.unacknowledge(parts.engine, row, by=who, comment=comment, now=now_ms(), notifiers=notifiers)
        return f"alert {row.id} is open again; nobody is looking at it"

    _answer(identities, config, by, answer)


def close_alert(identities: AlertIds, config: ConfigOption = None, by: By = None, comment: Comment = None) -> None:
    """Closes alerts; no other one opens while their entities stay anomalous."""
    from detector.store import alerts

    def answer(parts: Parts, row: AlertRow, who: str) -> str:
        if not row.state.waits:
            msg = f"alert {row.id} is {row.state} already"
            raise ConfigError(msg)
        notifiers = parts.config.notified(row.monitor)
        alerts.close(parts.engine, row, by=who, comment=comment, now=now_ms(), notifiers=notifiers)
        return f"alert {row.id} is closed; a new one opens only after {printable(row.entity)} has been normal again"

    _answer(identities, config, by, answer)


def comment_on(
    identity: Annotated[int, typer.Argument(metavar="ID", help="Number of the alert; see: detector alerts list")],
    text: Annotated[str, typer.Argument(help="What those who read of it later should know.")],
    config: ConfigOption = None,
    by: By = None,
) -> None:
    """Adds a comment to an alert, open or closed."""

    def answer(parts: Parts, row: AlertRow, who: str) -> str:
        _comment(parts, row, who, text)
        return f"alert {row.id} has the comment: {printable(text)}"

    _answer([identity], config, by, answer)


def _comment(parts: Parts, row: AlertRow, by: str, text: str | None) -> None:
    from detector.store import alerts

    if text is not None:
        alerts.comment(parts.engine, row, by=by, comment=text, now=now_ms())


def _answer(
    identities: list[int], config: Path | None, by: str | None, answer: Callable[[Parts, AlertRow, str], str]
) -> None:
    """Answers each alert and says so; what is wrong with one does not stop the others, and gives the status 2.

    Nothing is done if there is no alert of one of the numbers.
    """
    parts, who = assembled(config, None), by or user()
    rows = [find_alert(parts, identity)[0] for identity in dict.fromkeys(identities)]
    failed: DetectorError | None = None
    for row in rows:
        try:
            say(answer(parts, row, who))
        except (ConfigError, StaleState) as exc:
            if len(rows) == 1:
                raise
            say(f"detector: {exc}", to_stderr=True)
            failed = exc
    if failed is not None:
        raise typer.Exit(failed.exit_status)
