"""The roles that adapters play for the use cases, and the values they exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from detector.core.decide import Change, Ended, Severity
from detector.core.scaling import Scaling
from detector.core.series import Bool, Float32, History, Int64, Samples, Windows
from detector.core.threshold import Calibration
from detector.progress import Progress


class Source(Protocol):
    """Where samples come from."""

    def read(self, start: int, end: int) -> Samples:
        """All samples with start ≤ time < end, both in epoch milliseconds.

        Raises: SourceUnavailable if the source does not answer, SourceError if it answers something else.
        """

    def extent(self) -> tuple[int, int] | None:
        """Times of the oldest and the newest sample, None if there is none."""


class Model(Protocol):
    """What turns windows into residuals."""

    def residuals(self, windows: Windows) -> Float32:
        """x − x̂ of each window's newest slot, (B, F) in scaled units; NaN where missing."""


@dataclass(frozen=True)
class StoredAlert:
    """An alert whose episode goes on, or ended not long ago. Slots in epoch milliseconds."""

    id: int
    entity: str
    opened_slot: int
    decided_slot: int
    severity: Severity
    peak_score: float
    peak_slot: int
    reopenings: int = 0
    closed_slot: int | None = None
    is_muted: bool = False
    is_dismissed: bool = False  # somebody closed it though its episode goes on


@dataclass(frozen=True)
class AlertChange:
    """One change to store; `change` None raises the peak of an open alert without an event."""

    change: Change | None
    entity: str
    slot: int
    opened_slot: int
    decided_slot: int
    detected_at: int
    severity: Severity
    peak_score: float
    peak_slot: int
    explanation: str | None  # JSON; None keeps the one stored
    reopenings: int = 0
    ended: Ended | None = None  # why it closed
    is_muted: bool = False
    alert: int | None = None  # which alert late samples changed; None: the entity's open one
    closed_slot: int | None = None  # of an alert that late samples changed; None: its episode goes on


@dataclass(frozen=True)
class AlertCounts:
    """Alerts of a monitor in numbers; those withdrawn do not count."""

    by_severity: Mapping[str, int]  # ever opened, by their severity now
    by_verdict: Mapping[str, int]  # marked real, false
    recent: int  # detected since a time


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
    """Known scores to store, as columns."""

    entity: Sequence[str]
    slot: Sequence[int]
    score: Sequence[float]


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
    notifiers: Sequence[str] = ()  # who is told of the changes
    incident_span: int = 0  # alerts that open within so many milliseconds of each other are one incident


class Store(Protocol):
    """The detector's own memory."""

    def cursor(self, monitor: str) -> int | None:
        """End of the last committed slot, None if there is none."""

    def alerts_since(self, monitor: str, slot: int) -> list[StoredAlert]:
        """Alerts whose episode goes on or ended at `slot` (epoch milliseconds) or later, oldest first."""

    def exclusions(self, monitor: str) -> list[Exclusion]:
        """What is excluded of a monitor, whenever."""

    def commit(self, commit: Commit) -> None:
        """Stores all of it or nothing.

        Raises: StaleState if the cursor is not the expected one, StoreError if the database does not answer.
        """


@dataclass(frozen=True)
class ToldAlert:
    """An alert as notifiers tell of it, as it is now. Slots and times in epoch milliseconds."""

    id: int
    monitor: str
    entity: str
    state: str  # open, acknowledged, closed, withdrawn
    severity: str
    peak_score: float
    peak_slot: int
    opened_slot: int
    detected_at: int
    closed_slot: int | None
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
    """An event of an alert that a notifier is still to be told of, as it was when it happened."""

    event: int
    change: str
    severity: str
    peak_score: float
    created_at: int  # epoch milliseconds
    by: str | None  # who, if it was a person
    detail: str | None
    attempts: int  # how often it was tried to tell of it
    alert: ToldAlert


@dataclass(frozen=True)
class Message:
    """What a notifier is told at once, of one monitor."""

    monitor: str
    notices: tuple[Notice, ...]  # events it tells of, in order
    alerts: tuple[ToldAlert, ...]  # told one by one, with details
    rest: tuple[ToldAlert, ...] = ()  # only summed up
    is_summary: bool = False  # more events than may be told one by one


class Notifier(Protocol):
    """Who is told what happens to alerts."""

    def send(self, message: Message, now: int) -> None:
        """Returns when the target has taken the message. now: epoch milliseconds.

        Raises: NotifyUnavailable if it does not answer, NotifyError if it does not take the message.
        """

    def check(self) -> str:
        """Who it is, without secrets, after seeing that it is there. Raises as `send`."""


class Outbox(Protocol):
    """Events that notifiers are still to be told of; a lease lets one process at a time tell a notifier."""

    def claim(self, notifier: str, now: int, until: int) -> bool:
        """Takes or prolongs the right to tell a notifier; False if another process has it."""

    def release(self, notifier: str) -> None:
        """Gives that right back."""

    def due(self, notifier: str, now: int) -> list[Notice]:
        """Events to tell now, in order; none of an alert that has an earlier one whose time has not come."""

    def standing(self, monitor: str) -> list[ToldAlert]:
        """Open alerts that are not muted, in the order they were stored in."""

    def detailed(self, alerts: Sequence[ToldAlert]) -> tuple[ToldAlert, ...]:
        """The same alerts with explanation and size of their incident."""

    def messages_since(self, notifier: str, monitor: str, since: int) -> int:
        """Messages a notifier was sent after a time."""

    def sent(self, notifier: str, notices: Sequence[Notice], at: int) -> None:
        """Notes that one message, at a time of its own, told of events."""

    def failed(self, notifier: str, notices: Sequence[Notice], *, error: str, next_at: int | None) -> None:
        """Notes that an attempt failed, and when the next one is due; None: there will be none."""

    def unsent(self, notifier: str) -> tuple[int | None, int]:
        """When the oldest event happened that is still to be told, None if all were; and how many never will be."""


@dataclass(frozen=True)
class ModelVersion:
    """A trained model with all that turns its residuals into scores."""

    version: int
    kind: str  # network, baseline; none: a stand-in
    timesteps: int  # slots of the windows it reads
    trained_from: int  # the data it has seen, epoch milliseconds
    trained_until: int
    network: Model
    entities: tuple[str, ...]
    scaling: Scaling
    noise: Float32  # (E, F)
    fleet_noise: Float32  # (F,)
    calibration: Calibration
    rest: Int64 | None = None  # (E, F) slots a metric must stay the same for to count as frozen; None: none ever does
    drift: float | None = None  # usual errors at the last recalibration against those at training
    detectability: Mapping[str, float] = field(default_factory=dict)  # share of injected faults found, by model kind


@dataclass(frozen=True)
class Fitted:
    """A model fitted to data, not calibrated yet."""

    kind: str
    model: Model
    timesteps: int  # slots of the windows it reads
    spec: Any  # what its artifact keeps beside the weights
    weights: dict[str, NDArray[Any]]
    facts: dict[str, Any]


class Fit(Protocol):
    """Fits the models of a monitor."""

    def network(self, windows: Windows, validation: Windows, *, days: float, seed: int, progress: Progress) -> Fitted:
        """A network trained on scaled windows from so many days."""

    def baseline(self, history: History, chosen: Bool) -> Fitted:
        """A seasonal baseline from scaled history (E, L, F) where `chosen` (E, L) is true."""


@dataclass(frozen=True)
class TrainedVersion:
    """A model version with everything that is stored of it."""

    model: ModelVersion  # its number is 0 until it is stored
    fitted: Fitted
    provenance: Mapping[str, Any]  # JSON: fingerprint, data range, seed, library versions, evaluation


class Versions(Protocol):
    """Stored model versions of one monitor."""

    def live_number(self) -> int | None:
        """Number of the live version, None if there is none."""

    def live(self) -> TrainedVersion | None:
        """The live version; None if there is none, or if it does not fit the monitor's configuration."""

    def load(self, number: int) -> TrainedVersion:
        """Any stored version, ready to score.

        Raises: ArtifactError if it is missing, damaged or of an unknown format.
        """

    def save(self, version: TrainedVersion, now: int) -> int:
        """Stores a version and makes it the live one; its number. now: epoch milliseconds."""

    def delete(self, number: int) -> None:
        """Removes a version that is not live."""

    def hold(self, now: int) -> AbstractContextManager[None]:
        """Holds the right to make versions of the monitor. now: epoch milliseconds.

        Raises: ModelError if another process holds it.
        """
