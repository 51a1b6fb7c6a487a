"""The tables of `config.toml` as frozen sections with their defaults and rules."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from detector.config import promql
from detector.config.promql import Expression
from detector.config.values import CronLine, Duration, Zone, http_url, more_than_nothing, server_url
from detector.errors import ConfigError
from detector.times import milliseconds

HOST_METRICS = (
    "cpu_percent",
    "cpu_iowait_percent",
    "load_1m",
    "memory_used_percent",
    "swap_used_percent",
    "disk_read_bytes_per_second",
    "disk_write_bytes_per_second",
    "disk_used_percent",
    "network_receive_bytes_per_second",
    "network_transmit_bytes_per_second",
    "processes",
)
"""Metrics that `source.type = "host"` records; `sources.host` reads them in this order."""
PositiveDuration = Annotated[Duration, AfterValidator(more_than_nothing)]
Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""One name, or several."""
Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    """A table of the configuration: frozen; unknown keys are refused, and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, allow_inf_nan=False)


class DatabaseSection(Section):
    """The detector's own database: alerts, scores, models and embedded samples."""

    url: str = ""
    url_file: str = ""

    @model_validator(mode="after")
    def _has_one_url(self) -> DatabaseSection:
        if bool(self.url) == bool(self.url_file):
            msg = "needs exactly one of `url` and `url_file`"
            raise ValueError(msg)
        return self


class ExportSection(Section):
    """The HTTP endpoint."""

    listen: str = "127.0.0.1:9788"
    max_entities: int = Field(default=10_000, ge=1)
    web_config: str = ""

    @field_validator("listen")
    @classmethod
    def _is_host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
            msg = "must be HOST:PORT, such as 127.0.0.1:9788"
            raise ValueError(msg)
        return value

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


class DisplaySection(Section):
    """How commands print and take times."""

    timezone: Zone | Literal[""] = ""  # "": the machine's


class HostSource(Section):
    """This machine's own metrics, recorded into the embedded store at every step."""

    type: Literal["host"]
    entity: str = ""


class EmbeddedSource(Section):
    """Samples that `detector import` loads into the detector's own database."""

    type: Literal["embedded"]


class SqlSource(Section):
    """A table or query of any database that SQLAlchemy supports."""

    type: Literal["sql"]
    url: str = ""
    url_file: str = ""
    table: str = ""
    query: str = ""
    entity: Names = ()
    time: str = "time"
    time_format: Literal["timestamp", "epoch_seconds", "epoch_milliseconds"] = "timestamp"
    time_zone: Zone = "UTC"
    metric: str = ""
    value: str = ""
    timeout: PositiveDuration = timedelta(seconds=30)

    @model_validator(mode="after")
    def _is_complete(self) -> SqlSource:
        if bool(self.table) == bool(self.query):
            msg = "needs exactly one of `table` and `query`"
            raise ValueError(msg)
        if self.url and self.url_file:
            msg = "takes `url` or `url_file`, not both"
            raise ValueError(msg)
        if bool(self.metric) != bool(self.value):
            msg = "a long table needs both `metric` and `value`; a wide one (a column per metric) neither"
            raise ValueError(msg)
        if self.query and not (":start" in self.query and ":end" in self.query):
            msg = "`query` must select one time range by :start and :end"
            raise ValueError(msg)
        return self


class PrometheusSource(Section):
    """Queries to a Prometheus, or what answers like one; a metric without a query is asked for by its name."""

    type: Literal["prometheus"]
    url: str = ""
    url_file: str = ""
    queries: dict[str, str] = {}
    entity: Names = ()
    token: str = ""
    token_file: str = ""
    ca_file: str = ""
    timeout: PositiveDuration = timedelta(seconds=30)

    @field_validator("url")
    @classmethod
    def _is_of_a_server(cls, value: str) -> str:
        return server_url(value) if value else value

    @model_validator(mode="after")
    def _is_complete(self) -> PrometheusSource:
        if bool(self.url) == bool(self.url_file):
            msg = "needs exactly one of `url` and `url_file`"
            raise ValueError(msg)
        if self.token and self.token_file:
            msg = "takes `token` or `token_file`, not both"
            raise ValueError(msg)
        return self

    def expression(self, metric: str) -> Expression:
        """The query of a metric. Raises: ValueError if it is none, or its value would depend on the range."""
        return promql.parsed(self.queries.get(metric, metric))


class ModelSection(Section):
    """The kind of model, and the shape of the network."""

    kind: Literal["auto", "network", "baseline"] = "auto"
    cell: Literal["lstm", "gru"] = "lstm"
    units: int = Field(default=64, ge=1, le=1024)
    layers: int = Field(default=1, ge=1, le=8)
    bidirectional: bool = False


class TrainingSection(Section):
    """Data and settings of training."""

    span: Duration = timedelta(days=28)
    minimum_slots: int = Field(default=0, ge=0)
    holdout: float = Field(default=0.3, gt=0.0, lt=0.9)
    max_windows: int = Field(default=20_000, ge=100)
    epochs: int = Field(default=15, ge=1)
    patience: int = Field(default=3, ge=1)
    batch_size: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0.0)
    clipnorm: float = Field(default=1.0, gt=0.0)
    dropout: Share = 0.0
    input_noise: float = Field(default=0.3, ge=0.0)
    trim: Share = 0.01
    seed: int = 0
    timeout: Duration = timedelta(hours=2)

    @field_validator("span", "timeout")
    @classmethod
    def _is_positive(cls, value: timedelta) -> timedelta:
        return more_than_nothing(value)


class ThresholdSection(Section):
    """The alert budget, which defines score 1.0."""

    alert_budget_per_week: float = Field(default=1.0, gt=0.0)


class DecisionSection(Section):
    """Rules by which alerts open and close; scores are relative to the threshold 1.0, in steps of 55 times rarer."""

    open_slots: int = Field(default=2, ge=1)
    open_of: int = Field(default=3, ge=1, le=100)
    score_at_once: float = Field(default=2.0, ge=1.0)
    score_calm: float = Field(default=0.875, gt=0.0, le=1.0)
    close_slots: int = Field(default=5, ge=1, le=100)
    close_unknown_slots: int = Field(default=60, ge=1, le=10_000)
    score_critical: float = Field(default=3.0, ge=1.0)
    critical_slots: int = Field(default=120, ge=1)
    reopen_slots: int = Field(default=3, ge=0, le=1000)
    flapping_reopenings: int = Field(default=3, ge=1)
    flapping_slots: int = Field(default=30, ge=1, le=1000)
    incident_slots: int = Field(default=5, ge=0)

    @model_validator(mode="after")
    def _k_of_n(self) -> DecisionSection:
        if self.open_slots > self.open_of:
            msg = "`open_slots` must not be greater than `open_of`"
            raise ValueError(msg)
        if self.close_slots < self.open_of - 1:
            msg = "`close_slots` must be at least `open_of` − 1, or scores of a closed alert would open the next"
            raise ValueError(msg)
        return self


class RuleSection(Section):
    """Knowledge of one metric: the deviations that count, and the values that are valid."""

    metric: str
    direction: Literal["both", "up", "down"] = "both"
    min_deviation: float = Field(default=0.0, ge=0.0)
    min_deviation_percent: float = Field(default=0.0, ge=0.0)
    valid_min: float | None = None
    valid_max: float | None = None

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> RuleSection:
        if self.valid_min is not None and self.valid_max is not None and self.valid_min > self.valid_max:
            msg = "`valid_min` must not be greater than `valid_max`"
            raise ValueError(msg)
        return self


_HOLD, _FORGET = timedelta(hours=1), timedelta(days=7)
_MOST_HELD = 1000  # steps: memory is rebuilt from as many more


class MonitorSection(Section):
    """One group of entities with the same metrics, model and schedule."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)
    source: Annotated[HostSource | EmbeddedSource | SqlSource | PrometheusSource, Field(discriminator="type")]
    metrics: tuple[str, ...] = ()
    step: Duration = timedelta(seconds=60)
    delay: Duration = timedelta(seconds=10)
    lateness: Duration = timedelta(minutes=5)
    aggregate: Literal["mean", "last", "min", "max", "sum", "count"] = "mean"
    rates: tuple[str, ...] = ()
    fill: Literal["none", "last"] = "none"
    fill_limit: Duration | None = None
    forget_after: Duration | None = None
    timesteps: int = Field(default=30, ge=2, le=2000)
    max_missing: Share = 0.2
    score_every: Duration | None = None
    retrain: CronLine = "0 3 * * sun"
    schedule_zone: Zone = "UTC"
    max_catch_up: Duration = timedelta(days=7)
    no_data_alert_after: Duration | None = None
    store_scores: Literal["all", "anomalous", "none"] = "all"
    keep_scores: Duration = timedelta(days=30)
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    threshold: ThresholdSection = ThresholdSection()
    decision: DecisionSection = DecisionSection()
    rules: tuple[RuleSection, ...] = ()
    time_zone: Zone = "UTC"

    @field_validator("rates", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("step", "score_every")
    @classmethod
    def _is_a_second_or_more(cls, value: timedelta | None) -> timedelta | None:
        if value is not None and value < timedelta(seconds=1):
            msg = "must be 1s or more"
            raise ValueError(msg)
        return value

    @field_validator("delay", "lateness", "max_catch_up", "keep_scores")
    @classmethod
    def _is_not_negative(cls, value: timedelta) -> timedelta:
        if value < timedelta(0):
            msg = "must not be negative"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _silence_fits_the_history(self) -> MonitorSection:
        if self.no_data_alert_after is not None and not 1 <= self.no_data_slots <= 500:
            most = 500 * self.step
            msg = f"`no_data_alert_after` must be at least one step and at most 500 steps ({most})"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _missing_slots_make_sense(self) -> MonitorSection:
        if self.fill == "last" and self.aggregate in {"count", "sum"}:
            msg = f'`fill = "last"` is not for aggregate = "{self.aggregate}": where no row is, that is 0'
            raise ValueError(msg)
        if not self.step <= self.hold <= _MOST_HELD * self.step:
            msg = f"`fill_limit` must be at least one step and at most {_MOST_HELD} steps ({_MOST_HELD * self.step})"
            raise ValueError(msg)
        if self.forget <= self._longest_absence:
            msg = (
                "`forget_after` must be longer than a window (timesteps × step), `lateness`, `no_data_alert_after` and"
                f" `fill_limit`, here {self._longest_absence}; received {self.forget}"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="before")
    @classmethod
    def _fill_host_metrics(cls, data: object) -> object:
        if not (isinstance(data, dict) and isinstance(data.get("source"), dict)):
            return data
        fill = data["source"].get("type") == "host" and not data.get("metrics")
        return data | {"metrics": HOST_METRICS} if fill else data

    @model_validator(mode="after")
    def _metrics_make_sense(self) -> MonitorSection:
        if not self.metrics:
            msg = "`metrics` must name at least one metric"
            raise ValueError(msg)
        if len(set(self.metrics)) != len(self.metrics):
            msg = "`metrics` must not name a metric twice"
            raise ValueError(msg)
        if isinstance(self.source, HostSource):
            unknown = [metric for metric in self.metrics if metric not in HOST_METRICS]
            if unknown:
                msg = f"`metrics` of a host source must be among {', '.join(HOST_METRICS)}; received {unknown[0]!r}"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _rates_make_sense(self) -> MonitorSection:
        for metric in self.rates:
            if metric not in self.metrics:
                msg = f"`rates` must name metrics of the monitor; received {metric!r}"
                raise ValueError(msg)
        if self.rates and self.aggregate in {"count", "sum"}:
            msg = f'`rates` is not for aggregate = "{self.aggregate}": a slot has one rate, however many rows it has'
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _queries_fit_the_metrics(self) -> MonitorSection:
        if not isinstance(self.source, PrometheusSource):
            return self
        for name in self.source.queries:
            if name not in self.metrics:
                msg = f"`source.queries` must be of metrics of the monitor; received {name!r}"
                raise ValueError(msg)
        for metric in self.metrics:
            if metric not in self.source.queries and not promql.is_metric_name(metric):
                msg = f"`source.queries` must have a query for {metric!r}, which Prometheus cannot have as a name"
                raise ValueError(msg)
            try:
                expression = self.source.expression(metric)
            except ValueError as exc:
                msg = f"the query of {metric!r} {exc}"
                raise ValueError(msg) from None
            if self.aggregate == "count" and not expression.is_selector:
                msg = f'aggregate = "count" needs series by name: the query of {metric!r} has one value in every slot'
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _rules_name_metrics_once(self) -> MonitorSection:
        named = [rule.metric for rule in self.rules]
        for metric in named:
            if metric not in self.metrics:
                msg = f"`rules` must name metrics of the monitor; received {metric!r}"
                raise ValueError(msg)
            if named.count(metric) > 1:
                msg = f"`rules` must name a metric once; received {metric!r} twice"
                raise ValueError(msg)
        return self

    @property
    def step_ms(self) -> int:
        """Grid spacing in milliseconds."""
        return milliseconds(self.step)

    @property
    def no_data_slots(self) -> int:
        """Number of slots without any data that opens an alert; 0: no number does."""
        return 0 if self.no_data_alert_after is None else -(-milliseconds(self.no_data_alert_after) // self.step_ms)

    @property
    def hold(self) -> timedelta:
        """Longest time that a value holds where `fill` says so: an hour or so unless configured, 10 to 1000 steps."""
        usual = min(max(_HOLD, 10 * self.step), _MOST_HELD * self.step)
        return usual if self.fill_limit is None else self.fill_limit

    @property
    def _longest_absence(self) -> timedelta:
        """The longest time without rows in which something of an entity is still known or waited for."""
        held = self.hold if self.fill == "last" else self.step
        return max(self.timesteps * self.step, self.lateness, self.no_data_alert_after or self.step, held)

    @property
    def forget(self) -> timedelta:
        """Time without rows after which an entity is gone: a week, but at least two windows, unless configured."""
        return max(_FORGET, 2 * self._longest_absence) if self.forget_after is None else self.forget_after

    @property
    def score_interval(self) -> timedelta:
        """Time between ticks: `score_every`, or one step."""
        return self.score_every or self.step

    @property
    def minimum_slots(self) -> int:
        """Slots of history that a network needs."""
        return self.training.minimum_slots or max(300, 10 * self.timesteps)

    @property
    def fingerprint(self) -> str:
        """A digest that changes when a model trained under other settings would no longer fit."""
        settings = self.model_dump(
            mode="json", include={"metrics", "step", "aggregate", "timesteps", "model", "time_zone"}
        )
        settings |= {"rates": sorted(self.rates)} if self.rates else {}  # models from before there were any still fit
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


class NotifierSection(Section):
    """A target that is notified when alerts open, get worse and close."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)
    url: str = ""
    url_file: str = ""
    monitors: tuple[str, ...] = ()
    timeout: Duration = timedelta(seconds=10)
    give_up_after: Duration = timedelta(hours=24)

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        return http_url(value) if value else value

    @field_validator("timeout", "give_up_after")
    @classmethod
    def _is_positive(cls, value: timedelta) -> timedelta:
        return more_than_nothing(value)

    @model_validator(mode="after")
    def _has_one_url(self) -> NotifierSection:
        if bool(self.url) == bool(self.url_file):
            msg = "needs exactly one of `url` and `url_file`"
            raise ValueError(msg)
        return self


class AlertmanagerNotifier(NotifierSection):
    """A Prometheus Alertmanager, which is sent open alerts again and again."""

    type: Literal["alertmanager"]
    max_alerts: int = Field(default=50, ge=1)


class WebhookNotifier(NotifierSection):
    """An HTTP endpoint that takes one message per event."""

    type: Literal["webhook"]
    secret: str = ""
    secret_file: str = ""
    max_messages: int = Field(default=5, ge=1)
    rate_span: Duration = timedelta(minutes=10)

    @field_validator("rate_span")
    @classmethod
    def _span_is_positive(cls, value: timedelta) -> timedelta:
        return more_than_nothing(value)

    @model_validator(mode="after")
    def _has_one_secret(self) -> WebhookNotifier:
        if self.secret and self.secret_file:
            msg = "takes `secret` or `secret_file`, not both"
            raise ValueError(msg)
        return self


class Config(Section):
    """The whole configuration file."""

    database: DatabaseSection
    export: ExportSection = ExportSection()
    display: DisplaySection = DisplaySection()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    monitors: tuple[MonitorSection, ...] = Field(min_length=1)
    notifiers: tuple[Annotated[AlertmanagerNotifier | WebhookNotifier, Field(discriminator="type")], ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Config:
        for what, sections in (("monitor", self.monitors), ("notifier", self.notifiers)):
            names = [section.name for section in sections]
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                msg = f"{what} names must be unique; received {sorted(twice)[0]!r} twice"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _notifiers_name_monitors(self) -> Config:
        known = [monitor.name for monitor in self.monitors]
        for notifier in self.notifiers:
            for name in notifier.monitors:
                if name not in known:
                    msg = (
                        f"`monitors` of notifier {notifier.name!r} must be among {', '.join(known)}; received {name!r}"
                    )
                    raise ValueError(msg)
        return self

    def notified(self, monitor: str) -> tuple[str, ...]:
        """Names of the notifiers of a monitor's alerts."""
        return tuple(n.name for n in self.notifiers if not n.monitors or monitor in n.monitors)

    def monitor(self, name: str) -> MonitorSection:
        """The monitor of that name.

        Raises: ConfigError naming the monitors there are.
        """
        for monitor in self.monitors:
            if monitor.name == name:
                return monitor
        known = ", ".join(monitor.name for monitor in self.monitors)
        msg = f"no monitor named {name!r} in the configuration; there is: {known}"
        raise ConfigError(msg)
