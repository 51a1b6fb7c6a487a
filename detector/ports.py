"""The roles that adapters play for the use cases, and the values they exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.core.decide import Change, Ended, Episode
from detector.core.news import Experience, Habits
from detector.core.rejects import Reject
from detector.core.scaling import Scaling
from detector.core.series import Bool, Float32, Float64, History, Int64, Samples, Windows
from detector.core.threshold import Calibration
from detector.progress import Progress


class Source(Protocol):
    """A place that samples come from."""

    def read(self, start: int, end: int) -> Samples:
        """All samples with start ≤ time < end, both in epoch milliseconds; rows that cannot be read are its rejects.

        Raises: SourceUnavailable if the source does not answer, SourceError if it answers something else.
        """

    def extent(self, now: int) -> tuple[int, int] | None:
        """Times of the oldest and the newest sample, None if there is none; all in epoch milliseconds.

        Only rows that can be read count, and none that lies in the future.
        """

    def rejects(self, now: int) -> tuple[Reject, ...]:
        """Rows that no read comes upon, since their time cannot be read or lies in the future. Raises: as `read`."""


class Model(Protocol):
    """A model that turns windows into residuals."""

    def residuals(self, windows: Windows) -> Float32:
        """x − x̂ of each window's newest slot, (B, F) in scaled units; NaN where missing."""


class AlertState(StrEnum):
    """State of an alert as people see it."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    CLOSED = "closed"
    WITHDRAWN = "withdrawn"  # late samples left nothing of it

    @property
    def waits(self) -> bool:
        """Whether the alert waits for somebody."""
        return self in {AlertState.OPEN, AlertState.ACKNOWLEDGED}


class DeliveryState(StrEnum):
    """State of an event that a notifier is to be notified of."""

    PENDING = "pending"
    SENT = "sent"
    DEAD = "dead"  # given up


@dataclass(frozen=True)
class StoredAlert:
    """An alert whose episode goes on, or ended not long ago."""

    id: int
    entity: str
    episode: Episode
    is_muted: bool = False
    is_dismissed: bool = False  # somebody closed it though its episode goes on

    @property
    def is_silent(self) -> bool:
        """Whether its episode goes on without anybody being notified of it."""
        return self.episode.closed_slot is None and (self.is_muted or self.is_dismissed)


@dataclass(frozen=True)
class AlertChange:
    """One change to store; `change` None raises the peak of an open alert without an event."""

    change: Change | None
    entity: str
    slot: int  # that decided it, epoch milliseconds
    episode: Episode  # as it is now
    detected_at: int  # epoch milliseconds
    explanation: str | None  # JSON; None keeps the one stored
    ended: Ended | None = None  # why it closed
    is_muted: bool = False
    alert: int | None = None  # which alert late samples changed; None: the entity's open one


@dataclass(frozen=True)
class AlertCounts:
    """Alerts of a monitor in numbers."""

    by_severity: Mapping[str, int]  # that were ever of a severity, also if withdrawn since: these only grow
    by_verdict: Mapping[str, int]  # marked real, false; without those withdrawn
    recent: int  # detected since a time; without those withdrawn or marked real: the budget is for false ones


@dataclass(frozen=True)
class Exclusion:
    """A time range that mutes alerts, masks training data, or both. Times in epoch milliseconds."""

    id: int
    monitor: str
    entity: str | None  # glob; None: all
    metric: str | None
    start: int
    end: int | None  # None: open-ended
    effect: str  # mute, mask, both
    rule: str | None  # RFC 5545, how [start, end) recurs
    time_zone: str
    comment: str | None
    created_at: int
    created_by: str | None


@dataclass(frozen=True)
class ScoreRows:
    """Known scores, as columns."""

    entity: Sequence[str] = ()
    slot: Sequence[int] = ()
    score: Sequence[float] = ()
    surprise: Sequence[float] = ()  # NaN: not known; empty: of none


NO_SCORES = ScoreRows()


@dataclass(frozen=True)
class ScoredSlot:
    """A stored score."""

    score: float
    surprise: float | None  # None: not known
    model_version: int


@dataclass(frozen=True)
class EntityScores:
    """Stored scores of one entity, by rising slots."""

    slots: Int64  # (K,) epoch milliseconds
    score: Float64  # (K,)
    surprise: Float64  # (K,) NaN = not known


@dataclass(frozen=True)
class JudgedRanges:
    """What was known of entities, as columns: each range lasts until the entity's next one, or the cursor."""

    entity: Sequence[str] = ()
    start: Sequence[int] = ()  # slot, epoch milliseconds
    reason: Sequence[str] = ()  # known, or why it is unknown


NOTHING_JUDGED = JudgedRanges()


@dataclass(frozen=True)
class Precedent:
    """An alert that people have judged."""

    alert: int
    entity: str
    is_real: bool
    judged_at: int  # epoch milliseconds
    explanation: str  # JSON, as stored


@dataclass(frozen=True)
class StoredExperience:
    """What entities had shown before a slot, epoch milliseconds."""

    slot: int
    data: bytes


@dataclass(frozen=True)
class Commit:
    """Everything one tick changes, for one transaction."""

    monitor: str
    expected_cursor: int | None
    cursor: int
    now: int
    model_version: int
    scores: ScoreRows
    replaced: ScoreRows  # scores of slots already committed, changed by late samples; NaN: no longer stored
    changes: Sequence[AlertChange]
    notifiers: Sequence[str] = ()  # notified of the changes
    judged: JudgedRanges = NOTHING_JUDGED  # that begin
    judged_again: Sequence[tuple[str, int]] = ()  # entities and slots: ranges that began there or later are replaced
    checkpoint: str | None = None  # JSON; what to decide again from when late samples change something
    experience: StoredExperience | None = None  # None keeps those stored
    forget_from: int | None = None  # scores and ranges of this slot and later ones are removed: the cursor moves back
    incident_span: int = 0  # alerts that open within so many milliseconds of each other are one incident


class Store(Protocol):
    """The detector's own memory."""

    def cursor(self, monitor: str) -> int | None:
        """End of the last committed slot, None if there is none."""

    def alerts_since(self, monitor: str, slot: int) -> list[StoredAlert]:
        """Alerts whose episode goes on or ended at `slot` (epoch milliseconds) or later, oldest first."""

    def exclusions(self, monitor: str) -> list[Exclusion]:
        """All exclusions of a monitor, past ones too."""

    def marks(self, monitor: str) -> tuple[tuple[int, bool], ...]:
        """The newest alerts that have closed and that people have judged, in order, and whether each was real."""

    def precedents(self, monitor: str) -> list[Precedent]:
        """The same with what they looked like."""

    def checkpoint(self, monitor: str) -> str | None:
        """The checkpoint of the newest commit, None if it had none."""

    def experiences(self, monitor: str, *, version: int) -> list[StoredExperience]:
        """The two newest that were committed with a model version, the newest first."""

    def judged_since(self, monitor: str, slot: int) -> JudgedRanges:
        """Ranges that reach to `slot` (epoch milliseconds) or later; of each entity the oldest first."""

    def scores_since(self, monitor: str, slot: int, *, version: int) -> ScoreRows:
        """Stored scores by a model version, of `slot` (epoch milliseconds) and later ones."""

    def commit(self, commit: Commit) -> None:
        """Stores all of it or nothing.

        Raises: StaleState if the cursor is not the expected one, StoreError if the database does not answer.
        """


@dataclass(frozen=True)
class NotifiedAlert:
    """An alert as notifiers show it, as it is now. Times in epoch milliseconds."""

    id: int
    monitor: str
    entity: str
    state: AlertState
    episode: Episode
    detected_at: int
    closed_at: int | None  # when somebody closed it
    closed_by: str | None
    acknowledged_by: str | None
    comment: str | None
    model_version: int
    incident: int | None
    incident_size: int = 0  # alerts that opened together with it, and itself; 0 without details
    explanation: Mapping[str, Any] = field(default_factory=dict)  # empty without details


@dataclass(frozen=True)
class Notice:
    """An event that a notifier has not been notified of yet, as it was when it happened."""

    event: int
    change: str
    severity: str
    peak_score: float
    created_at: int  # epoch milliseconds
    by: str | None  # who, if it was a person
    detail: str | None
    attempts: int  # failed so far
    alert: NotifiedAlert


@dataclass(frozen=True)
class Message:
    """One message to a notifier, about one monitor."""

    monitor: str
    notices: tuple[Notice, ...]  # events it is about, in order
    alerts: tuple[NotifiedAlert, ...]  # named one by one, with details
    others: tuple[NotifiedAlert, ...] = ()  # only summed up
    is_summary: bool = False  # more events than may be named one by one


class Notifier(Protocol):
    """Somebody who is notified of what happens to alerts."""

    def send(self, message: Message, now: int) -> None:
        """Returns when the target has taken the message. now: epoch milliseconds.

        Raises: NotifyUnavailable if it does not answer, NotifyError if it does not take the message.
        """

    def test(self, monitor: str, now: int) -> str:
        """Sends a message about a monitor that says it is a test; what was answered. Raises as `send`."""

    def check(self) -> str:
        """Its address without secrets, after seeing that it answers. Raises as `send`."""


class Outbox(Protocol):
    """Events that wait for notifiers; a lease lets one process at a time notify each of them."""

    def claim(self, notifier: str, now: int, until: int) -> bool:
        """Takes or prolongs the right to notify; False if another process has it."""

    def release(self, notifier: str) -> None:
        """Gives that right back."""

    def due(self, notifier: str, now: int) -> list[Notice]:
        """Events due now. An alert's events stay in order: while one waits for a retry, later ones wait too."""

    def standing(self, monitor: str) -> list[NotifiedAlert]:
        """Open alerts that are not muted, in the order they were stored in."""

    def detailed(self, alerts: Sequence[NotifiedAlert]) -> tuple[NotifiedAlert, ...]:
        """The same alerts with explanation and size of their incident."""

    def messages_since(self, notifier: str, monitor: str, since: int) -> int:
        """Messages a notifier was sent after a time."""

    def sent(self, notifier: str, notices: Sequence[Notice], at: int) -> None:
        """Notes that one message, at a time of its own, was about these events."""

    def failed(self, notifier: str, notices: Sequence[Notice], *, error: str, next_at: int | None) -> None:
        """Notes that an attempt failed, and when the next one is due; None: there will be none."""

    def unsent(self, notifier: str) -> tuple[int | None, int]:
        """Time of the oldest event that waits, None if there is none; and the number of events given up."""


class Spec(Protocol):
    """Shape of a model."""

    @property
    def timesteps(self) -> int:
        """Slots of the windows it reads."""


@dataclass(frozen=True)
class Artifact:
    """Everything a trained model needs to score: weights, scaling, noise and calibration of its entities."""

    spec: Spec
    weights: Mapping[str, NDArray[Any]]
    entities: tuple[str, ...]
    scaling: Scaling
    noise: Float32  # (E, F) usual residual of each metric, scaled units
    fleet_noise: Float32  # (F,)
    calibration: Calibration
    habits: Habits
    experience: Experience  # (E, …) at the end of the training data
    freeze_limits: Int64  # (E, F) slots a metric must stay the same for to count as frozen; (0, 0): none ever does
    provenance: Mapping[str, Any]  # JSON: kind, fingerprint, data range, seed, versions, evaluation
    seen: Bool = field(default_factory=lambda: np.zeros((0, 0), dtype=np.bool_))
    """(E, F) metrics that each entity had in training; (0, 0): not known."""


@dataclass(frozen=True)
class ModelVersion:
    """A trained model that scores."""

    version: int
    artifact: Artifact
    network: Model

    @property
    def kind(self) -> str:
        """network or baseline; none: a stand-in."""
        return str(self.artifact.provenance["kind"])

    @property
    def timesteps(self) -> int:
        """Slots of the windows it reads."""
        return self.artifact.spec.timesteps

    @property
    def trained_from(self) -> int:
        """Start of the data it has seen, epoch milliseconds."""
        return int(self.artifact.provenance["trained_from"])

    @property
    def trained_until(self) -> int:
        """End of the data it has seen, epoch milliseconds."""
        return int(self.artifact.provenance["trained_until"])

    @property
    def detectability(self) -> dict[str, float]:
        """Share of injected faults found, by model kind."""
        found = self.artifact.provenance.get("detectability", {})
        return {kind: shares["all"] for kind, shares in found.items()}


@dataclass(frozen=True)
class Fitted:
    """A model fitted to data, not calibrated yet."""

    kind: str  # network, baseline
    model: Model
    spec: Spec
    weights: dict[str, NDArray[Any]]
    facts: dict[str, Any]


class Fit(Protocol):
    """Fits the models of a monitor."""

    def network(self, windows: Windows, validation: Windows, *, days: float, seed: int, progress: Progress) -> Fitted:
        """A network trained on scaled windows from so many days."""

    def baseline(self, history: History, chosen: Bool) -> Fitted:
        """A seasonal baseline from scaled history (E, L, F) where `chosen` (E, L) is true."""


class Versions(Protocol):
    """Stored model versions of one monitor."""

    def newest_number(self) -> int | None:
        """Number of the newest version, live or not; None if there is none."""

    def live_number(self) -> int | None:
        """Number of the live version, None if there is none."""

    def live(self) -> ModelVersion | None:
        """The live version; None if there is none, or if it does not fit the monitor's configuration."""

    def load(self, number: int) -> ModelVersion:
        """Any stored version, ready to score.

        Raises: ArtifactError if it is missing, damaged or of an unknown format.
        """

    def save(self, version: ModelVersion, now: int) -> int:
        """Stores a version and makes it the live one; its number. now: epoch milliseconds."""

    def hold(self, now: int) -> AbstractContextManager[None]:
        """Holds the right to make versions of the monitor. now: epoch milliseconds.

        Raises: ModelError if another process holds it.
        """
