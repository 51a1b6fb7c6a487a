"""What the running daemon knows beside its database, as pages and API ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from detector.export.prometheus import MonitorView


@dataclass(frozen=True)
class Status:
    """How one monitor's work goes. Times in epoch milliseconds."""

    has_ticked: bool = False
    failure: str | None = None  # of the newest tick, in a line
    slots: int = 0  # of history that the source has, counted while a training waits for them
    needed: int = 0  # that the next training waits for; 0: it waits for none
    training: str | None = None  # what the training that runs is doing; "": it has just begun
    trained: float = 0.0  # share of it that is done
    next_tick: int | None = None
    next_training: int | None = None
    promise: str | None = None  # what the live version cannot promise
    missed_training: str | None = None  # why the newest training failed


class Daemon(Protocol):
    """The daemon that serves the page."""

    def views(self) -> Mapping[str, MonitorView]:
        """The newest state of every monitor, by its name."""

    def status(self, monitor: str) -> Status:
        """How a monitor's work goes."""

    def explained(self, monitor: str, entity: str) -> Mapping[str, Any] | None:
        """The newest slot of an entity, explained as alerts are; None if there is nothing to explain."""

    def now(self) -> int:
        """The daemon's own time."""
