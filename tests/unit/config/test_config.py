"""`config.toml`: what is accepted, what is refused and in which words, and where secrets come from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from detector import database
from detector.config import loading, values
from detector.config import sections as config
from detector.config.sections import Config, DatabaseSection, EmbeddedSource, HostSource, PrometheusSource, SqlSource
from detector.errors import ConfigError
from detector.times import utc

ROOT = Path(__file__).resolve().parents[3]

SMALLEST = """
[database]
url = "sqlite:///detector.db"

[[monitors]]
name = "web"
metrics = ["cpu", "memory"]
source = { type = "embedded" }
"""

PAGER = """
[[notifiers]]
name = "pager"
type = "webhook"
"""

SQL = """
[database]
url = "sqlite:///detector.db"

[[monitors]]
name = "web"
metrics = ["cpu"]

[monitors.source]
type = "sql"
"""


def _load(tmp_path: Path, text: str, environment: Mapping[str, str] | None = None) -> Config:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return loading.load(path, environment or {})


def _refused(tmp_path: Path, text: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """What is said about a configuration, line by line, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text, environment)
    lines = str(caught.value).splitlines()
    prefix = f"{tmp_path / 'config.toml'}: "
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


def test_the_shipped_file_loads_and_watches_this_machine() -> None:
    shipped = loading.load(ROOT / "config.toml", {})

    assert shipped.database.url == "sqlite:///./detector.db"
    assert shipped.monitors[0].metrics == config.HOST_METRICS


def test_the_shipped_file_shows_the_defaults(tmp_path: Path) -> None:
    shipped = loading.load(ROOT / "config.toml", {})

    smallest = """
        [database]
        url = "sqlite:///./detector.db"
        [[monitors]]
        name = "host"
        source = { type = "host" }
    """
    assert shipped == _load(tmp_path, smallest)


def test_the_shipped_file_keeps_its_database_where_systemd_says() -> None:
    shipped = loading.load(ROOT / "config.toml", {"STATE_DIRECTORY": "/var/lib/detector"})

    assert shipped.database.url == "sqlite:////var/lib/detector/detector.db"


@pytest.mark.parametrize("section", ["export", "monitors", "model", "training", "threshold", "decision", "notifiers"])
def test_the_shipped_file_shows_every_key(section: str) -> None:
    text = (ROOT / "config.toml").read_text(encoding="utf-8")

    for model in loading._SECTIONS[section]:
        assert [key for key in model.model_fields if f"{key} = " not in text and f".{key}]" not in text] == []


def test_the_smallest_file_takes_defaults_for_the_rest(tmp_path: Path) -> None:
    monitor = _load(tmp_path, SMALLEST).monitor("web")

    assert isinstance(monitor.source, EmbeddedSource)
    assert (monitor.step, monitor.timesteps, monitor.score_interval) == (timedelta(minutes=1), 30, timedelta(minutes=1))
    assert monitor.minimum_slots == 300


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("1h30m", timedelta(minutes=90)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(days=14)),
        ("1.5h", timedelta(minutes=90)),
        ("1500ms", timedelta(milliseconds=1500)),
        ("1h 30m", timedelta(minutes=90)),
    ],
)
def test_durations_are_written_with_their_unit(written: str, expected: timedelta) -> None:
    assert values.parse_duration(written) == expected


@pytest.mark.parametrize("written", ["", "5", "m", "five minutes", "5 minutes", "-5m", "5m!", "5y"])
def test_a_duration_that_cannot_be_read_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        values.parse_duration(written)


def test_a_number_without_unit_is_no_duration(tmp_path: Path) -> None:
    lines = _refused(tmp_path, SMALLEST + "step = 60")

    assert lines == ['monitors[0].step: must be a duration with a unit, such as "60s". Received: 60']


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    text = """
        log_level = "loud"
        [database]
        url = "sqlite:///detector.db"
        [export]
        listen = "9788"
        [[monitors]]
        name = "web"
        metrics = ["cpu"]
        step = "10ms"
        timesteps = 1
        source = { type = "embedded" }
        [monitors.decision]
        open_slots = 5
        open_of = 3
    """
    lines = _refused(tmp_path, text)

    places = [line.partition(": ")[0] for line in lines]
    assert places == ["export.listen", "log_level", "monitors[0].step", "monitors[0].timesteps", "monitors[0].decision"]


def test_an_error_shows_what_was_received(tmp_path: Path) -> None:
    lines = _refused(tmp_path, SMALLEST + "timesteps = 1")

    assert lines == ["monitors[0].timesteps: input should be greater than or equal to 2. Received: 1"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("log_levl = 'info'" + SMALLEST, "log_levl: unknown key; the nearest known one is `log_level`"),
        (SMALLEST + "timestep = 5", "monitors[0].timestep: unknown key; the nearest known one is `timesteps`"),
        (SMALLEST + "[exprt]\n", "exprt: unknown key; the nearest known one is `export`"),
        (
            SMALLEST + "[monitors.model]\nunit = 5",
            "monitors[0].model.unit: unknown key; the nearest known one is `units`",
        ),
        (
            SMALLEST + "[monitors.training]\nepoch = 5",
            "monitors[0].training.epoch: unknown key; the nearest known one is `epochs`",
        ),
        (
            SQL + "table = 'a'\ntimezone = 'UTC'",
            "monitors[0].source.timezone: unknown key; the nearest known one is `time_zone`",
        ),
    ],
    ids=["file", "monitor", "section", "model", "training", "source"],
)
def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path, text: str, line: str) -> None:
    assert _refused(tmp_path, text) == [line]


def test_a_key_of_an_earlier_version_says_what_to_do_about_it(tmp_path: Path) -> None:
    advice = "recalibrate: no longer needed, since alerts adapt to what was seen lately; leave it out"

    assert _refused(tmp_path, SMALLEST + "recalibrate = 'off'") == [f"monitors[0].{advice}"]
    with pytest.raises(ConfigError, match=f"^--set {advice}$"):
        loading.monitor(TABLE, ["recalibrate=off"])


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("open_at_once", "`score_at_once`, 2.0"),
        ("close_below", "`score_calm`, 0.875"),
        ("critical_at", "`score_critical`, 3.0"),
    ],
)
def test_a_level_of_the_earlier_scale_of_scores_says_what_to_write_instead(
    tmp_path: Path, key: str, instead: str
) -> None:
    advice = f"decision.{key}: write {instead} unless you know better: scores have another scale"

    assert _refused(tmp_path, SMALLEST + f"decision = {{ {key} = 0.9 }}") == [f"monitors[0].{advice}"]
    with pytest.raises(ConfigError, match=f"^--set {re.escape(advice)}$"):
        loading.monitor(TABLE, [f"decision.{key}=1.5"])


def test_what_an_earlier_level_is_replaced_by_is_what_a_monitor_has_unless_told(tmp_path: Path) -> None:
    decision = _load(tmp_path, SMALLEST).monitors[0].decision

    assert (decision.score_at_once, decision.score_calm, decision.score_critical) == (2.0, 0.875, 3.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[monitors]]\nname = 'a'\nmetrics = ['x']\nsource = {type = 'embedded'}", "database: must be set"),
        ("[database]\nurl = 'sqlite://'", "monitors: must be set"),
        (SMALLEST.replace('metrics = ["cpu", "memory"]', ""), "monitors[0]: `metrics` must name at least one metric"),
        (SMALLEST.replace('"memory"', '"cpu"'), "monitors[0]: `metrics` must not name a metric twice"),
        (SMALLEST.replace('url = "sqlite:///detector.db"', ""), "database: needs exactly one of `url` and `url_file`"),
        (SMALLEST + "retrain = 'weekly'", 'monitors[0].retrain: must be "off" or a cron line such as "0 3 * * sun"'),
        (SMALLEST + "max_missing = 1.0", "monitors[0].max_missing: input should be less than 1. Received: 1.0"),
        (SMALLEST + "delay = '-1s'", "monitors[0].delay: must be a duration"),
        (SQL, "monitors[0].source: needs exactly one of `table` and `query`"),
        (SQL + "table = 'a'\nquery = 'b'", "monitors[0].source: needs exactly one of `table` and `query`"),
        (SQL + "query = 'SELECT 1'", "monitors[0].source: `query` must select one time range by :start and :end"),
        (SQL + "table = 'a'\nmetric = 'name'", "monitors[0].source: a long table needs both `metric` and `value`"),
        (SQL + "table = 'a'\ntime_zone = 'Mars'", "monitors[0].source.time_zone: must be a time zone"),
        (SQL + "table = 'a'\nurl = 'x'\nurl_file = 'y'", "monitors[0].source: takes `url` or `url_file`, not both"),
        (SMALLEST.replace('"web"', '"a b"'), "monitors[0].name: string should match pattern"),
        (SMALLEST.replace("embedded", "csv"), "monitors[0].source: input tag 'csv'"),
        (SMALLEST + PAGER, "notifiers[0]: needs exactly one of `url` and `url_file`"),
        (SMALLEST + PAGER + "url = 'ftp://x'", "notifiers[0].url: must be a URL such as https://host:9093"),
        (SMALLEST + PAGER + "url = 'http://x'\ntimeout = '0s'", "notifiers[0].timeout: must be more than 0s"),
        (SMALLEST + 2 * (PAGER + "url = 'http://x'\n"), "file: notifier names must be unique; received 'pager' twice"),
        (
            SMALLEST + PAGER + "url = 'http://x'\nmonitors = ['db']",
            "file: `monitors` of notifier 'pager' must be among",
        ),
        (SMALLEST + PAGER + "url = 'http://x'\nmax_alerts = 1", "notifiers[0].max_alerts: unknown key"),
        (
            SMALLEST + PAGER + "url = 'http://x'\nsecret = 'a'\nsecret_file = 'b'",
            "notifiers[0]: takes `secret` or `secret_file`, not both",
        ),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_that_says_why(tmp_path: Path, text: str, expected: str) -> None:
    lines = _refused(tmp_path, text)

    assert len(lines) == 1
    assert lines[0].startswith(expected)


def test_a_host_source_records_only_metrics_it_knows(tmp_path: Path) -> None:
    text = SMALLEST.replace("embedded", "host")

    assert "received 'cpu'" in _refused(tmp_path, text)[0]


def test_a_host_source_may_record_some_of_its_metrics(tmp_path: Path) -> None:
    text = SMALLEST.replace("embedded", "host").replace('"cpu", "memory"', '"load_1m"')

    monitor = _load(tmp_path, text).monitor("web")

    assert isinstance(monitor.source, HostSource)
    assert monitor.metrics == ("load_1m",)


def test_two_monitors_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = SMALLEST + "[[monitors]]\nname = 'web'\nmetrics = ['x']\nsource = { type = 'embedded' }"

    assert _refused(tmp_path, twice) == ["file: monitor names must be unique; received 'web' twice"]


def test_one_entity_column_may_be_written_without_a_list(tmp_path: Path) -> None:
    source = _load(tmp_path, SQL + "table = 'a'\nentity = 'host'").monitors[0].source

    assert isinstance(source, SqlSource)
    assert source.entity == ("host",)


def test_asking_for_an_unknown_monitor_names_those_there_are(tmp_path: Path) -> None:
    loaded = _load(tmp_path, SMALLEST)

    with pytest.raises(ConfigError, match="no monitor named 'wbe' in the configuration; there is: web"):
        loaded.monitor("wbe")


def test_a_file_that_is_no_toml_is_refused_with_the_place(tmp_path: Path) -> None:
    assert "line 2" in _refused(tmp_path, "log_level = 'info'\nmonitors = ?")[0]


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        loading.load(path, {})


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({"WHERE": "/data"}, "sqlite:////data/x.db"), ({}, "sqlite:///./x.db"), ({"WHERE": ""}, "sqlite:///./x.db")],
    ids=["set", "not set", "empty"],
)
def test_a_placeholder_takes_the_environment_or_its_default(
    tmp_path: Path, environment: dict[str, str], expected: str
) -> None:
    text = SMALLEST.replace("sqlite:///detector.db", "sqlite:///${WHERE:-.}/x.db")

    assert _load(tmp_path, text, environment).database.url == expected


def test_placeholders_work_within_lists_and_tables(tmp_path: Path) -> None:
    text = SMALLEST.replace('"memory"', '"${METRIC}"')

    assert _load(tmp_path, text, {"METRIC": "load"}).monitors[0].metrics == ("cpu", "load")


def test_every_placeholder_that_is_not_set_is_reported_with_the_other_mistakes(tmp_path: Path) -> None:
    text = SMALLEST.replace('"memory"', '"${METRIC}"').replace("detector.db", "${NAME}") + "timesteps = 1"

    lines = _refused(tmp_path, text)

    assert [line.partition(": ")[0] for line in lines] == [
        "database.url",
        "monitors[0].metrics[1]",
        "monitors[0].timesteps",
    ]
    assert "environment variable NAME must be set" in lines[0]


def test_a_dollar_sign_alone_stays(tmp_path: Path) -> None:
    text = SMALLEST.replace("detector.db", "a$b.db")

    assert _load(tmp_path, text).database.url == "sqlite:///a$b.db"


AWKWARD = ["simple123", "s3cret@9Kfz", "a@b/TopSecret", "pa%41ss", "100%sure", "x@y:zz/Hidden9", "? #:;&=+ ü"]


@pytest.mark.parametrize("password", AWKWARD)
def test_a_password_from_the_environment_arrives_as_it_is(tmp_path: Path, password: str) -> None:
    text = SQL + 'table = "samples"\nurl = "postgresql://reader:${PGPASSWORD}@db.example:5433/metrics"'  # c07

    source = _load(tmp_path, text, {"PGPASSWORD": password}).monitors[0].source

    assert isinstance(source, SqlSource)
    url = database.parse(source.url)
    assert (url.username, url.password, url.host, url.port) == ("reader", password, "db.example", 5433)
    assert url.database == "metrics"


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        ("${X}", "postgresql://a:p%40ss@db/x", "postgresql://a:p%40ss@db/x"),  # a whole URL is one already
        ("${X}/metrics", "postgresql://a@db", "postgresql://a@db/metrics"),
        ("postgresql://${X}@db/x", "user:p@ss", "postgresql://user:p%40ss@db/x"),
        ("postgresql://a:b@${X}/x", "db.example:5433", "postgresql://a:b@db.example:5433/x"),
        ("sqlite:///${X}/a b@c.db", "/var/lib/x y", "sqlite:////var/lib/x y/a b@c.db"),
        ("postgresql://db/x?password=${X}", "a&b=c@d", "postgresql://db/x?password=a%26b%3Dc%40d"),
        ("postgresql://db/x?${X}", "sslmode=require", "postgresql://db/x?sslmode=require"),
    ],
)
def test_what_a_placeholder_puts_into_a_url_is_encoded_where_it_must_be(
    tmp_path: Path, url: str, environment: str, expected: str
) -> None:
    text = SMALLEST.replace("sqlite:///detector.db", url)

    assert _load(tmp_path, text, {"X": environment}).database.url == expected


def test_a_token_in_the_path_of_a_notifier_keeps_its_slashes_and_hides_its_other_marks(tmp_path: Path) -> None:
    text = SMALLEST + PAGER + "url = 'https://user:${PW}@hooks.example/services/${TOKEN}'"

    found = _load(tmp_path, text, {"PW": "p@:/w", "TOKEN": "T0/B1/a?b#c d"})

    assert found.notifiers[0].url == "https://user:p%40%3A%2Fw@hooks.example/services/T0/B1/a%3Fb%23c%20d"


def test_a_url_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "database_url"
    file.write_bytes(b"postgresql://reader:hush\xff@db/x")  # for root no file is closed: text that is no text stands in

    with pytest.raises(ConfigError, match=r"url_file: '.*' cannot be read: it is not UTF-8 text") as caught:
        loading.secret(DatabaseSection(url_file=str(file)), {})

    assert "hush" not in str(caught.value)


def test_a_url_comes_from_the_file_that_is_named(tmp_path: Path) -> None:
    file = tmp_path / "database_url"
    file.write_text("postgresql://reader@db/metrics\n", encoding="utf-8")

    assert loading.secret(DatabaseSection(url_file=str(file)), {}) == "postgresql://reader@db/metrics"


def test_a_relative_url_file_comes_from_the_credentials_of_the_service_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "database_url").write_text("sqlite:///service.db", encoding="utf-8")
    (tmp_path / "database_url").write_text("sqlite:///here.db", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    section = DatabaseSection(url_file="database_url")

    assert loading.secret(section, {"CREDENTIALS_DIRECTORY": str(credentials)}) == "sqlite:///service.db"
    assert loading.secret(section, {}) == "sqlite:///here.db"


def test_a_missing_url_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file 'nowhere' here or in \\$CREDENTIALS_DIRECTORY"):
        loading.secret(DatabaseSection(url_file="nowhere"), {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_a_section_without_url_file_has_its_url() -> None:
    assert loading.secret(DatabaseSection(url="sqlite://"), {}) == "sqlite://"


SECRET = "hunter2"


@pytest.mark.parametrize(
    "mistake",
    [
        "url_file = 'x'",
        "ulr = 'postgresql://reader:hunter2@db/x'",
        "query = 'SELECT 1'",
        "table = 5",
        "time_zone = 'Mars'",
        "url = 5",
        "url = ['postgresql://reader:hunter2@db/x']",
        "url_file = ['postgresql://reader:hunter2@db/x']",
    ],
)
@pytest.mark.parametrize("url", ["postgresql://reader:${PGPASSWORD}@db/x", "postgresql://reader:hunter2@db/x"])
def test_a_mistake_beside_a_password_never_shows_it(tmp_path: Path, mistake: str, url: str) -> None:
    source = mistake if mistake.startswith("url =") else f"url = '{url}'\n{mistake}"

    lines = _refused(tmp_path, SQL + source, {"PGPASSWORD": SECRET})

    assert not any(SECRET in line for line in lines)


def test_a_mistyped_key_of_the_database_does_not_show_its_password(tmp_path: Path) -> None:
    text = SMALLEST.replace('url = "sqlite:///detector.db"', f'urll = "postgresql://a:{SECRET}@db/x"')

    assert SECRET not in "".join(_refused(tmp_path, text))


def test_a_url_in_place_of_a_table_does_not_show_its_password(tmp_path: Path) -> None:
    text = SMALLEST.replace('[database]\nurl = "sqlite:///detector.db"', f'database = "postgresql://a:{SECRET}@db/x"')

    assert SECRET not in "".join(_refused(tmp_path, text))


def test_the_fingerprint_changes_with_what_a_model_depends_on(tmp_path: Path) -> None:
    monitor = _load(tmp_path, SMALLEST).monitors[0]

    def changed(**values: Any) -> str:
        return monitor.model_copy(update=values).fingerprint

    assert changed(timesteps=31) != monitor.fingerprint
    assert changed(metrics=("memory", "cpu")) != monitor.fingerprint
    assert changed(step=timedelta(seconds=30)) != monitor.fingerprint
    assert changed(rates=("cpu",)) != monitor.fingerprint
    assert changed(rates=("cpu", "memory")) == changed(rates=("memory", "cpu"))
    assert changed(retrain="off", delay=timedelta(0), max_missing=0.5) == monitor.fingerprint


def test_models_from_before_there_were_rates_still_fit(tmp_path: Path) -> None:
    settings = (
        _load(tmp_path, SMALLEST)
        .monitors[0]
        .model_dump(mode="json", include={"metrics", "step", "aggregate", "timesteps", "model", "time_zone"})
    )
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    assert _load(tmp_path, SMALLEST).monitors[0].fingerprint == digest[:12]


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ('rates = ["cpuu"]', "`rates` must name metrics of the monitor; received 'cpuu'"),
        ('rates = "cpu"\naggregate = "sum"', '`rates` is not for aggregate = "sum"'),
    ],
)
def test_rates_of_what_has_none_are_refused(tmp_path: Path, added: str, said: str) -> None:
    (line,) = _refused(tmp_path, SMALLEST + added)

    assert said in line


def test_rates_may_be_one_or_many(tmp_path: Path) -> None:
    assert _load(tmp_path, SMALLEST + 'rates = "cpu"').monitors[0].rates == ("cpu",)


TABLE = {"name": "web", "metrics": ("cpu",), "source": {"type": "embedded"}, "training": {"epochs": 7}}


@pytest.mark.parametrize(
    ("assignment", "place", "value"),
    [
        ("timesteps=60", "timesteps", 60),
        ("training.patience = 2", "training.patience", 2),
        ("threshold.alert_budget_per_week=0.5", "threshold.alert_budget_per_week", 0.5),
        ("model.bidirectional=true", "model.bidirectional", True),
        ("model.cell=gru", "model.cell", "gru"),
        ('model.cell="gru"', "model.cell", "gru"),
        ("step=5m", "step", timedelta(minutes=5)),
        ("retrain=0 3 * * mon", "retrain", "0 3 * * mon"),
    ],
)
def test_an_assignment_replaces_one_value_of_a_monitor(assignment: str, place: str, value: object) -> None:
    monitor = loading.monitor(TABLE, [assignment])

    found: Any = monitor
    for key in place.split("."):
        found = getattr(found, key)
    assert found == value
    assert monitor.training.epochs == 7
    assert TABLE["training"] == {"epochs": 7}


def test_of_two_assignments_the_last_counts() -> None:
    assert loading.monitor(TABLE, ["training.epochs=1", "training.epochs=2"]).training.epochs == 2


def test_all_wrong_assignments_are_reported_together_with_the_nearest_known_key() -> None:
    with pytest.raises(ConfigError) as caught:
        loading.monitor(TABLE, ["training.epoch=5", "timesteps=1", "timesteps.x=1", "modell=1"])

    assert str(caught.value).splitlines() == [
        "--set timesteps: must be a whole number",
        "--set training.epoch: unknown key; the nearest known one is `epochs`",
        "--set modell: unknown key; the nearest known one is `model`",
    ]


def test_a_cron_line_fires_between_two_times_in_utc() -> None:
    monday, day = 1_704_067_200_000, 86_400_000  # 2024-01-01T00:00:00Z

    def fires(cron: str, start: int, end: int) -> list[float]:
        return [(at - monday) / day for at in values.firing_times(cron, monday + start * day, monday + end * day)]

    assert fires("0 12 * * sun", 0, 15) == [6.5, 13.5]
    assert fires("0 0 * * *", 0, 3) == [1.0, 2.0]  # neither at the first moment nor at the last
    assert fires("0 0 29 2 *", 0, 59) == []


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 3 * * sun", ["2026-11-29T03:00:00Z", "2026-12-06T03:00:00Z"]),
        ("0 3 27 11 *", ["2027-11-27T03:00:00Z", "2028-11-27T03:00:00Z"]),  # now itself does not count
        ("0 3 13 * 5", ["2026-12-04T03:00:00Z", "2026-12-11T03:00:00Z"]),  # the 13th, and every Friday
    ],
)
def test_next_times_of_a_cron_line_come_after_now(cron: str, expected: list[str]) -> None:
    now = round(datetime(2026, 11, 27, 3, 0, tzinfo=UTC).timestamp() * 1000)

    assert [utc(at) for at in values.next_firings(cron, now, 2)] == expected


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ("0", "Sun"),
        ("7", "Sun"),
        ("sun", "Sun"),
        ("SUN", "Sun"),
        ("1-5", "Mon Tue Wed Thu Fri"),
        ("6,0", "Sun Sat"),
        ("5-7", "Sun Fri Sat"),
        ("*", "Sun Mon Tue Wed Thu Fri Sat"),
    ],
)
def test_weekdays_count_from_sunday_as_in_a_crontab(days: str, expected: str) -> None:
    sunday = round(datetime(2026, 11, 22, tzinfo=UTC).timestamp() * 1000)  # c05

    fires = values.firing_times(f"0 3 * * {days}", sunday, sunday + 7 * 86_400_000)

    assert " ".join(f"{datetime.fromtimestamp(at / 1000, UTC):%a}" for at in fires) == expected


@pytest.mark.parametrize(
    ("cron", "now", "expected"),
    [
        ("0 3 * * *", "2026-10-24T00:00Z", ["2026-10-24T01:00:00Z", "2026-10-25T02:00:00Z"]),  # winter begins
        ("30 2 * * *", "2026-10-24T12:00Z", ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),  # once, not twice
        ("30 2 * * *", "2026-10-25T01:10Z", ["2026-10-26T01:30:00Z", "2026-10-27T01:30:00Z"]),  # within the second pass
        ("30 2 * * *", "2026-03-28T12:00Z", ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),  # an hour left out
    ],
)
def test_a_cron_line_follows_the_clocks_of_its_zone(cron: str, now: str, expected: list[str]) -> None:
    at = round(datetime.fromisoformat(now).timestamp() * 1000)

    assert [utc(at) for at in values.next_firings(cron, at, 2, "Europe/Berlin")] == expected


@pytest.mark.parametrize("cron", ["* * * *", "0 0 3 * * sun", "0 3 * * 8", "0 0 30 2 *", "60 3 * * *", "hourly", ""])
def test_a_cron_line_that_cannot_fire_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match='must be "off" or a cron line such as'):
        values.cron_line(cron)


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        ("[export]\nhost = '0.0.0.0'", "export.host: unknown key; the nearest known one is"),
        ("[export]\nsql = 1", "export.sql: unknown key; the nearest known one is"),
        (PAGER + "url = 'http://x'\nwebhook = 'u'", "notifiers[0].webhook: unknown key; the nearest known one is"),
    ],
)
def test_an_unknown_key_that_is_called_like_a_type_keeps_its_name(tmp_path: Path, mistake: str, expected: str) -> None:
    (line,) = _refused(tmp_path, SMALLEST + mistake)  # bug 20

    assert line.startswith(expected)


@pytest.mark.parametrize("key", ["sql", "host", "embedded"])
def test_an_unknown_key_of_a_source_that_is_called_like_a_type_keeps_its_name(tmp_path: Path, key: str) -> None:
    (line,) = _refused(tmp_path, SQL + f"table = 'a'\n{key} = 1")

    assert line.startswith(f"monitors[0].source.{key}: unknown key")


@pytest.mark.parametrize("number", ["inf", "-inf", "nan"])
@pytest.mark.parametrize(
    "table",
    [
        "decision = { score_at_once = NUMBER }",
        "decision = { score_critical = NUMBER }",
        "rules = [{ metric = 'cpu', valid_max = NUMBER }]",
        "rules = [{ metric = 'cpu', min_deviation = NUMBER }]",
        "threshold = { alert_budget_per_week = NUMBER }",
        "training = { learning_rate = NUMBER }",
    ],
)
def test_a_number_that_is_not_finite_is_refused_for_it_would_disable_a_rule(
    tmp_path: Path, table: str, number: str
) -> None:
    (line,) = _refused(tmp_path, SMALLEST + table.replace("NUMBER", number))  # bug 28

    assert "must be a finite number" in line or "should be a finite number" in line or "should be greater than" in line


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000 + "]" * 5000,
        "a = " + "[" * 450 + "]" * 450,
        "a = " + "9" * 5000,
        "[database]\nurl = " + "{ a = " * 400 + "1" + " }" * 400,
        "a = 1\0",
    ],
    ids=["deep", "less deep", "digits", "tables", "NUL"],
)
def test_a_configuration_of_no_sense_is_refused_and_ends_nothing(tmp_path: Path, text: str) -> None:
    assert _refused(tmp_path, text)  # x14


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SMALLEST + "score_every = '1ms'", "monitors[0].score_every: must be 1s or more"),
        (SQL + "table = 'a'\ntimeout = '0s'", "monitors[0].source.timeout: must be more than 0s"),
        (SMALLEST + PAGER + "url = 'http://x'\nrate_span = '0s'", "notifiers[0].rate_span: must be more than 0s"),
        (SMALLEST + "training = { timeout = '0s' }", "monitors[0].training.timeout: must be more than 0s"),
        (SMALLEST + "[export]\nlisten = 'h:²'", "export.listen: must be HOST:PORT"),
    ],
)
def test_a_value_that_could_not_work_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    (line,) = _refused(tmp_path, text)

    assert line.startswith(expected)


# the service's own files


@pytest.fixture
def service(tmp_path: Path) -> loading.Service:
    """An installed service whose state folder does not exist yet."""
    path = tmp_path / "etc/config.toml"
    path.parent.mkdir()
    path.write_text(SMALLEST.replace("sqlite:///", "sqlite:///${STATE_DIRECTORY:-.}/"))
    return loading.Service(path, (tmp_path / "lib/detector", tmp_path / "lib/private/detector"))


@pytest.mark.parametrize("number", [0, 1])
def test_the_service_s_configuration_finds_its_database_when_read_by_hand(
    service: loading.Service, number: int
) -> None:
    folder = service.folders[number]
    folder.mkdir(parents=True)

    read = loading.load(service.config, {}, service=service)

    assert read.database.url == f"sqlite:///{folder}/detector.db"
    assert not loading.is_guessed(service.config, {}, service=service)


def test_the_service_itself_takes_the_folder_that_systemd_names(service: loading.Service) -> None:
    service.folders[0].mkdir(parents=True)
    environment = {"STATE_DIRECTORY": "/run/elsewhere"}

    read = loading.load(service.config, environment, service=service)

    assert read.database.url == "sqlite:////run/elsewhere/detector.db"
    assert not loading.is_guessed(service.config, environment, service=service)


def test_without_the_service_s_folder_the_database_is_guessed(service: loading.Service) -> None:
    assert loading.load(service.config, {}, service=service).database.url == "sqlite:///./detector.db"
    assert loading.is_guessed(service.config, {}, service=service)


def test_another_file_does_not_take_the_service_s_folder(service: loading.Service, tmp_path: Path) -> None:
    service.folders[0].mkdir(parents=True)
    other = tmp_path / "config.toml"
    other.write_text(service.config.read_text())

    assert loading.load(other, {}, service=service).database.url == "sqlite:///./detector.db"
    assert not loading.is_guessed(other, {}, service=service)


def test_the_file_named_is_used(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text("")

    assert loading.find(path) == path


def test_without_a_name_the_environment_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "other.toml"
    path.write_text("")
    monkeypatch.setenv("DETECTOR_CONFIG", str(path))

    assert loading.find(None) == path


def test_no_file_at_all_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no configuration file found at .*nowhere.toml; name one with --config FILE"
    ):
        loading.find(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("listen", "address"), [("127.0.0.1:9788", ("127.0.0.1", 9788)), ("[::1]:80", ("::1", 80)), ("host:0", ("host", 0))]
)
def test_an_address_is_host_and_port(tmp_path: Path, listen: str, address: tuple[str, int]) -> None:
    assert _load(tmp_path, SMALLEST + f"[export]\nlisten = '{listen}'").export.address == address


@pytest.mark.parametrize("listen", ["9788", ":9788", "host:", "host:port", "host:70000"])
def test_an_address_without_host_or_port_is_refused(tmp_path: Path, listen: str) -> None:
    lines = _refused(tmp_path, SMALLEST + f"[export]\nlisten = '{listen}'")

    assert lines == [f"export.listen: must be HOST:PORT, such as 127.0.0.1:9788. Received: {listen!r}"]


def test_a_notifier_is_notified_of_all_monitors_unless_some_are_named(tmp_path: Path) -> None:
    second = "[[monitors]]\nname = 'db'\nmetrics = ['x']\nsource = {type = 'embedded'}\n"
    only_db = "[[notifiers]]\nname = 'dba'\ntype = 'alertmanager'\nurl = 'http://x:9093'\nmonitors = ['db']\n"

    found = _load(tmp_path, SMALLEST + second + PAGER + "url = 'http://x'\n" + only_db)

    assert (found.notified("web"), found.notified("db")) == (("pager",), ("pager", "dba"))


@pytest.mark.parametrize("written", ["url = 'hush:x@host/hush'", "url = 'https://x'\nsecret = ['hush']"])
def test_secrets_of_a_notifier_are_not_shown_when_they_are_wrong(tmp_path: Path, written: str) -> None:
    assert "hush" not in "".join(_refused(tmp_path, SMALLEST + PAGER + written))


def test_a_secret_may_come_from_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hush\n")
    notifier = _load(tmp_path, SMALLEST + PAGER + f"url = 'http://x'\nsecret_file = '{tmp_path}/key'").notifiers[0]

    assert loading.secret(notifier, {}, key="secret") == "hush"


@pytest.mark.parametrize("step", ["1s", "5s", "60s", "1h", "1d"])
@pytest.mark.parametrize("more", ["", 'fill = "last"', "timesteps = 2000", 'fill = "last"\ntimesteps = 2000'])
def test_how_long_values_hold_and_entities_are_waited_for_has_a_default_for_every_step(
    step: str, more: str, tmp_path: Path
) -> None:
    text = SQL.replace("[[monitors]]", f'[[monitors]]\nstep = "{step}"\n{more}', 1)
    (monitor,) = _load(tmp_path, text + 'table = "samples"\nurl = "sqlite:///a.db"').monitors

    assert 10 * monitor.step <= monitor.hold <= 1000 * monitor.step
    assert monitor.forget >= max(timedelta(days=7), 2 * monitor.timesteps * monitor.step)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ('fill = "last"\naggregate = "sum"', '`fill = "last"` is not for aggregate = "sum"'),
        ('fill_limit = "0s"', "`fill_limit` must be at least one step and at most 1000 steps"),
        ('fill_limit = "20h"', "`fill_limit` must be at least one step and at most 1000 steps (16:40:00)"),
        ('forget_after = "0s"', "`forget_after` must be longer than a window"),
        ('forget_after = "30m"', "here 0:30:00; received 0:30:00"),  # 30 slots of a minute
    ],
)
def test_a_time_that_makes_no_sense_is_refused(settings: str, why: str, tmp_path: Path) -> None:
    text = SQL.replace("[[monitors]]", f"[[monitors]]\n{settings}", 1) + 'table = "samples"\nurl = "sqlite:///a.db"'

    (line,) = _refused(tmp_path, text)

    assert why in line


PROMETHEUS = """
[database]
url = "sqlite:///detector.db"

[[monitors]]
name = "web"
metrics = ["cpu", "node_load1"]

[monitors.source]
type = "prometheus"
url = "http://host:9090"
"""


def test_a_metric_of_prometheus_without_a_query_is_asked_for_by_its_name(tmp_path: Path) -> None:
    source = _load(tmp_path, PROMETHEUS + 'queries = { cpu = "sum by (instance) (x)" }').monitors[0].source

    assert isinstance(source, PrometheusSource)
    assert source.expression("cpu").within(9, "mean") == "sum by (instance) (last_over_time(x[9ms]))"
    assert source.expression("node_load1").within(9, "mean") == "avg_over_time(node_load1[9ms])"


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ('queries = { cpuu = "x" }', "`source.queries` must be of metrics of the monitor; received 'cpuu'"),
        ('queries = { cpu = "x @ end()" }', "the query of 'cpu' must not use @ start() or @ end()"),
        ('queries = { cpu = "x{" }', "the query of 'cpu' has a { that is not closed"),
        ('url_file = "x"', "needs exactly one of `url` and `url_file`"),
        ('token = "a"\ntoken_file = "b"', "takes `token` or `token_file`, not both"),
        ('timeout = "0s"', "must be more than 0s"),
        ('quries = { cpu = "x" }', "unknown key; the nearest known one is `queries`"),
    ],
)
def test_what_is_wrong_with_a_prometheus_source_is_said(tmp_path: Path, added: str, said: str) -> None:
    (line,) = _refused(tmp_path, PROMETHEUS + added)

    assert said in line


def test_a_metric_that_prometheus_cannot_have_needs_a_query(tmp_path: Path) -> None:
    (line,) = _refused(tmp_path, PROMETHEUS.replace("node_load1", "load %"))

    assert "must have a query for 'load %'" in line


def test_a_query_that_has_one_value_in_every_slot_is_not_counted(tmp_path: Path) -> None:
    text = PROMETHEUS.replace("[monitors.source]", 'aggregate = "count"\n[monitors.source]')

    _load(tmp_path, text)
    (line,) = _refused(tmp_path, text + 'queries = { cpu = "sum(x)" }')
    assert 'aggregate = "count" needs series by name' in line


@pytest.mark.parametrize("url", ["http://user:hunter2@host:9090?x=1", "ftp://user:hunter2@host", "hunter2"])
def test_a_url_of_a_prometheus_that_is_none_is_not_shown(tmp_path: Path, url: str) -> None:
    (line,) = _refused(tmp_path, PROMETHEUS.replace("http://host:9090", url))

    assert line.startswith("monitors[0].source.url: must be a URL")
    assert "hunter2" not in line


def test_the_token_of_a_prometheus_is_not_shown_when_it_is_wrong(tmp_path: Path) -> None:
    (line,) = _refused(tmp_path, PROMETHEUS + "token = 4711")

    assert "4711" not in line
