"""Everything the API answers. Times are UTC; scores are relative to the threshold, 1."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

Item = TypeVar("Item")
State = Literal["normal", "anomalous", "unknown"]


class Page(BaseModel, Generic[Item]):
    """A part of a list."""

    items: list[Item]
    total: int = Field(description="Items there are in all")
    limit: int
    offset: int


class Health(BaseModel):
    """Whether the daemon does its work, and what whoever asks may do."""

    status: Literal["ok", "problem"]
    problem: str | None
    version: str
    now: datetime
    user: str | None = Field(description="Whoever asks; null without authentication")
    may_act: bool = Field(description="Whether alerts may be answered and exclusions made")
    why_not: str | None = Field(description="Why nothing can be changed here")


class Training(BaseModel):
    """A training that runs."""

    doing: str
    done: float = Field(description="Share, 0 to 1")


class Collected(BaseModel):
    """History that the next training waits for."""

    slots: int
    needed: int


class LiveModel(BaseModel):
    """The model version that scores."""

    version: int
    kind: str
    created: datetime | None


class Monitor(BaseModel):
    """One monitor as it is now."""

    name: str
    stage: str = Field(description="What it does, or what it waits for, in a sentence")
    is_well: bool = Field(description="Whether the stage is nothing to look after")
    metrics: list[str]
    step_seconds: float
    entities: int
    normal: int
    anomalous: int
    unknown: dict[str, int] = Field(description="Unknown entities by reason")
    open_alerts: int
    budget_per_week: float = Field(description="False alerts a week that the operator accepts")
    observed_per_week: int = Field(description="Alerts of the last seven days that nobody has marked real")
    judged_real: int
    judged_false: int
    model: LiveModel | None
    training: Training | None
    collected: Collected | None
    promise: str | None = Field(description="What the model cannot promise yet")
    blind_ratio: float | None = Field(description="Share of metrics that no alert can come from")
    missing: dict[str, float] = Field(description="Share of the entities that have lost a metric, by metric")
    newest_sample: datetime | None
    scored_until: datetime | None
    next_tick: datetime | None
    next_training: datetime | None


class Entity(BaseModel):
    """The newest slot of an entity."""

    monitor: str
    entity: str
    state: State
    reason: str | None = Field(description="Why it is unknown")
    score: float | None
    surprise: float | None
    has_alert: bool = Field(description="Whether an alert is open that is not muted, and that nobody has closed")
    is_critical: bool


class MetricNow(BaseModel):
    """A metric in an explained slot, in words and numbers."""

    metric: str
    share: str
    observed: str
    expected: str
    usual: str


class EntityDetail(Entity):
    """An entity, and what its newest slot was judged by."""

    slot: datetime | None = Field(description="The slot that is explained")
    metrics: list[MetricNow]
    window: list[dict[str, Any]] = Field(
        description="Observed and expected values, and the band around them, by metric"
    )


class Span(BaseModel):
    """A time in a plot, [start, end) in epoch milliseconds."""

    start: int
    end: int
    what: str


class Scores(BaseModel):
    """Stored scores of an entity, as equally spaced points; times in epoch milliseconds."""

    monitor: str
    entity: str
    start: int
    step: int = Field(description="Of a long time, some slots together: then each point is their highest score")
    scores: list[float | None] = Field(description="null: unknown, or not stored")
    unknown: list[Span] = Field(description="By reason")
    alerts: list[Span] = Field(description="By number")
    excluded: list[Span] = Field(description="By effect")


class Alert(BaseModel):
    """One alert."""

    id: int
    monitor: str
    entity: str
    state: str
    severity: str
    is_muted: bool
    opened: datetime
    detected: datetime
    closed: datetime | None
    closed_by: str | None
    acknowledged: datetime | None
    acknowledged_by: str | None
    peak_score: float
    peak: datetime
    what: str = Field(description="What happened, in a sentence")
    metrics: list[str] = Field(description="The metrics it shows in, the worst first")
    verdict: Literal["real", "false"] | None
    comment: str | None
    incident: int | None
    incident_size: int
    model_version: int


class Event(BaseModel):
    """What became of an alert."""

    at: datetime
    change: str
    slot: datetime
    severity: str
    peak_score: float
    by: str | None
    detail: str | None


class AlertDetail(Alert):
    """One alert, why, and what became of it."""

    events: list[Event]
    explanation: dict[str, Any] = Field(description="As stored: mechanism, metrics, window")
    related: list[int] = Field(description="Alerts of the same incident")


class Incident(BaseModel):
    """Alerts of a monitor that opened together."""

    id: int
    monitor: str
    state: Literal["open", "closed"]
    severity: str
    opened: datetime
    closed: datetime | None
    size: int = Field(description="Alerts it has")
    alerts: list[int] = Field(description="The first hundred of them")
    entities: list[str] = Field(description="Theirs")
    metrics: list[str] = Field(description="The worst metric of each alert, the most frequent first")


class Model(BaseModel):
    """One stored model version."""

    version: int
    monitor: str
    kind: str | None
    is_live: bool
    created: datetime
    trained_from: datetime | None
    trained_until: datetime | None
    entities: int | None
    bytes: int
    found: dict[str, float] = Field(description="Share of the injected faults found, by kind of model")


class ModelDetail(Model):
    """A model version, and what it takes to open an alert under it."""

    blind_ratio: float | None
    deviations_to_alert: float | None = Field(description="Robust deviations of the middle metric, for ten minutes")
    header: dict[str, Any]


class Exclusion(BaseModel):
    """A time that mutes alerts or is kept out of training."""

    id: int
    monitor: str
    entity: str | None
    metric: str | None
    start: datetime
    end: datetime | None
    effect: str
    rule: str | None
    time_zone: str
    comment: str | None
    created: datetime
    created_by: str | None


class Refusal(BaseModel):
    """Why a request was not answered."""

    detail: str
