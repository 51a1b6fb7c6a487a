"""`detector backtest` with a network that needs no training: what goes in, what comes out, and what must not matter."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_versions import OneSlot

from detector import cli, wiring
from detector.config.sections import MonitorSection
from detector.core.faults import Fault
from detector.core.news import RECENT
from detector.core.series import Float32, Windows
from detector.ports import Fitted
from detector.replay import groups
from detector.train import fit

pytestmark = pytest.mark.slow

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
ROWS = 700
HISTORY = 350
FAULT = range(600, 620)

Row = tuple[str, float, float, int]  # time, load, errors, label


class MedianNetwork:
    """Takes every value for its median."""

    def residuals(self, windows: Windows) -> Float32:
        return windows.values[:, -1]


@dataclass
class Training:
    """Stands in for Keras, and notes how many windows it was given."""

    windows: list[int]
    timesteps: int = 0

    def of(self, monitor: MonitorSection) -> Training:
        """The same for a monitor."""
        self.timesteps = monitor.timesteps
        return self

    def network(self, windows: Windows, *_rest: object, **_named: object) -> Fitted:
        self.windows.append(len(windows))
        return Fitted("network", MedianNetwork(), OneSlot(self.timesteps), {}, {"epochs": 1})

    def baseline(self, *_rest: object) -> Fitted:
        return Fitted("baseline", MedianNetwork(), OneSlot(), {}, {})


def _stands_in(training: Training, patched: pytest.MonkeyPatch) -> None:
    """Trains by it; network and baseline find all faults, since to look for them takes most of a training."""
    patched.setattr(wiring, "MonitorFit", training.of)
    patched.setattr(fit, "finds_faults", lambda *_: np.ones(len(Fault), dtype=np.bool_))


@pytest.fixture(autouse=True)
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    stand_in = Training([])
    _stands_in(stand_in, monkeypatch)
    return stand_in


@dataclass(frozen=True)
class Run:
    """A command that has ended."""

    status: int
    output: str
    errors: str
    out: Path

    @property
    def report(self) -> dict[str, Any]:
        found = json.loads(self.output, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
        assert isinstance(found, dict)
        return found

    def rows(self, entity: str) -> list[dict[str, str]]:
        with (self.out / f"{entity}.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def scores(self, entity: str) -> list[str]:
        return self.column(entity, "score")

    def column(self, entity: str, name: str) -> list[str]:
        return [row[name] for row in self.rows(entity)]


def _backtest(data: Path, out: Path, *options: str | Path) -> Run:
    """Runs `detector backtest` on a folder in this process."""
    arguments = ["detector", "backtest", "--data", data, "--out", out, "--json", *options]
    with (
        pytest.MonkeyPatch.context() as patched,
        redirect_stdout(io.StringIO()) as printed,
        redirect_stderr(io.StringIO()) as errors,
    ):
        patched.setattr(sys, "argv", [str(argument) for argument in arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return Run(int(ended.value.code or 0), printed.getvalue(), errors.getvalue(), out)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    """Runs `detector backtest` on a folder; what it writes goes into one of this test's own."""
    return lambda data, *options, out="out": _backtest(data, tmp_path / out, *options)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A backtest of `data` without options, for all tests that only read what it has found."""
    folder = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patched:
        _stands_in(Training([]), patched)
        return _backtest(_fleet(folder), folder / "out")


def _signal(
    phase: int = 0,
    *,
    start: datetime = BEGIN,
    rows: int = ROWS,
    fault: Iterable[int] = FAULT,
    size: float = 9.0,
) -> list[Row]:
    """Two quiet metrics with a fault in the replayed part."""
    rng = np.random.default_rng(phase)
    load = np.sin(np.arange(rows) / 20 + phase) + rng.normal(0, 0.1, rows)
    errors = np.cos(np.arange(rows) / 30) + rng.normal(0, 0.1, rows)
    faulty = np.isin(np.arange(rows), list(fault))
    load[faulty] += size
    times = [f"{start + timedelta(minutes=minute):%Y-%m-%d %H:%M:%S}" for minute in range(rows)]
    return list(zip(times, load.tolist(), errors.tolist(), faulty.astype(int).tolist(), strict=True))


def _write(folder: Path, entity: str, rows: Sequence[Row], *, with_labels: bool = True) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / f"{entity}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["timestamp", "load", "errors", "label"][: 4 if with_labels else 3])
        writer.writerows(row[: 4 if with_labels else 3] for row in rows)


def _facts(folder: Path, **entities: dict[str, Any]) -> None:
    (folder / "meta.json").write_text(json.dumps({"entities": entities}))


def _fleet(parent: Path) -> Path:
    folder = parent / "fleet"
    _write(folder, "web-1", _signal())
    _write(folder, "web-2", _signal(1, fault=()))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two entities of one monitor; the first has a fault after its history."""
    return _fleet(tmp_path)


def test_every_row_after_the_history_gets_a_row_in_order_of_time(run: Callable[..., Run], data: Path) -> None:
    rows = _signal()
    rows[500:500] = [rows[499], rows[480], ("no time", 1.0, 2.0, 0), (rows[490][0], math.nan, math.nan, 0)]
    _write(data, "web-1", rows)
    _facts(data, **{"web-1": {"train_rows": 400}})

    done = run(data)

    found = done.rows("web-1")
    assert list(found[0]) == ["timestamp", "score", "surprise", "state", "alert"]
    in_order = [row[0] for row in rows if row[0] != "no time"]
    in_order.sort()
    in_order[482:482] = ["no time"]  # it stays behind the row before it, which is one of 480 again
    assert [row["timestamp"] for row in found] == in_order[400:]
    assert len(done.rows("web-2")) == ROWS - HISTORY
    unknown = [index for index, row in enumerate(found) if row["state"] == "unknown"]
    assert unknown == [82]  # the one without a time; all others lie in slots with a score
    assert found[82]["score"] == found[82]["surprise"] == ""
    same = ("score", "surprise")
    assert [found[81][name] for name in same] == [found[80][name] for name in same]  # two rows of one slot


def test_a_fault_opens_an_alert_that_its_rows_show(plain: Run) -> None:
    with (plain.out / "alerts.csv").open(newline="") as file:
        (alert,) = csv.DictReader(file)
    assert alert["entity"] == "web-1"
    assert alert["top_metrics"].split(";")[0] == "load"
    fault_begins = BEGIN + timedelta(minutes=FAULT[0])
    detected, closed = (datetime.fromisoformat(alert[name]) for name in ("detected", "closed"))
    told = fault_begins + timedelta(minutes=RECENT - 1)  # after six hours of history only what lasts is news
    assert alert["opened"] == f"{told:%Y-%m-%dT%H:%M:%SZ}"
    assert detected == told + timedelta(minutes=1)
    rows = plain.rows("web-1")
    ends = [datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC) + timedelta(minutes=1) for row in rows]
    assert [row["alert"] for row in rows] == [str(int(detected <= end <= closed)) for end in ends]
    assert {row["alert"] for row in plain.rows("web-2")} == {"0"}
    states = {row["state"] for row in rows}
    assert states == {"normal", "anomalous"}
    assert all((float(row["score"]) >= 1.0) == (row["state"] == "anomalous") for row in rows)


def test_what_was_found_is_judged_by_labels(plain: Run) -> None:
    report = plain.report
    first, second = report["entities"]
    assert (plain.status, plain.errors) == (0, "")
    assert (first["rows"], first["alerts"], first["events"], first["events_found"]) == (350, 1, 1, 1)
    assert (first["precision"], first["recall"], first["false_alerts_per_week"]) == (1.0, 1.0, 0.0)
    assert 0 < first["median_delay_seconds"] <= 180
    assert first["vus_pr"] > first["vus_pr_random"]
    assert first["vus_pr_mean_abs_z"] > 0.9
    assert first["alerts_per_week"] == pytest.approx(7 * 24 * 60 / 350, abs=1e-3)
    assert (second["precision"], second["recall"], second["vus_pr"]) == (None, None, None)  # no event, no alert
    assert report["total"]["vus_pr"] == first["vus_pr"]  # the mean over entities with both kinds of rows
    assert report["total"]["rows"] == 700
    assert set(report["seconds"]) == {"train", "replay", "total"}
    assert report["monitors"][0]["entities"] == ["web-1", "web-2"]


def test_a_baseline_is_judged_beside_the_network_on_the_same_rows(run: Callable[..., Run], data: Path) -> None:
    _write(data, "web-1", _signal(size=0.5))  # not all of it ranks above the rest
    network = run(data, "--set", "model.kind=network").report
    baseline = run(data, "--set", "model.kind=baseline", out="baseline").report

    assert network["total"]["vus_pr_baseline"] == baseline["total"]["vus_pr"] == baseline["total"]["vus_pr_baseline"]
    assert network["total"]["vus_pr"] != network["total"]["vus_pr_baseline"]
    assert [monitor["monitor"] for monitor in network["monitors"]] == ["fleet"]


def test_labels_do_not_reach_the_scores(run: Callable[..., Run], plain: Run, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    for phase, entity in enumerate(("web-1", "web-2")):
        _write(bare, entity, _signal(phase, fault=() if phase else FAULT), with_labels=False)

    unlabelled = run(bare, out="bare-out")

    for name in ("web-1.csv", "web-2.csv", "alerts.csv"):
        assert (plain.out / name).read_bytes() == (unlabelled.out / name).read_bytes()
    assert unlabelled.report["entities"][0]["events"] is None
    assert unlabelled.report["total"]["vus_pr"] is None


@pytest.mark.parametrize("setting", ["retrain=off", "retrain=0 8 * * *"])
def test_what_is_still_to_come_does_not_reach_the_scores(
    run: Callable[..., Run], data: Path, tmp_path: Path, setting: str
) -> None:
    whole = run(data, "--set", setting)
    cut = tmp_path / "cut"
    _write(cut, "web-1", _signal()[:610])
    _write(cut, "web-2", _signal(1, fault=())[:555])
    _facts(cut, **{"web-1": {"train_rows": HISTORY}, "web-2": {"train_rows": HISTORY}})

    part = run(cut, "--set", setting, out="cut-out")

    assert part.scores("web-1") == whole.scores("web-1")[: 610 - HISTORY]
    assert part.scores("web-2") == whole.scores("web-2")[: 555 - HISTORY]


def test_a_retraining_on_schedule_makes_a_second_model_version(
    run: Callable[..., Run], data: Path, plain: Run, training: Training
) -> None:
    fires = 8 * 60 - HISTORY  # rows of the replay before it

    done = run(data, "--set", "retrain=0 8 * * *", out="retrained")

    models = done.report["monitors"][0]["models"]
    assert [model["version"] for model in models] == [1, 2]
    assert models[1]["trained_at"] == "2024-01-01T08:00:00Z"
    assert training.windows[1] > training.windows[0]
    assert done.scores("web-1")[:fires] == plain.scores("web-1")[:fires]
    after, before = (run.column("web-1", "surprise")[fires:] for run in (done, plain))
    assert all(a != b for a, b in zip(after, before, strict=True))


def test_nothing_is_trained_again_without_new_rows(run: Callable[..., Run], data: Path) -> None:
    _write(data, "web-2", _signal(1, start=BEGIN + timedelta(days=100)))

    models = run(data, "--set", "retrain=0 8 * * *").report["monitors"][0]["models"]

    # of a hundred days two have rows that were not there at the training before
    assert [model["trained_at"][:10] for model in models] == ["2024-01-01", "2024-01-01", "2024-01-02", "2024-04-10"]


def test_a_broken_file_is_reported_and_the_others_are_done(run: Callable[..., Run], data: Path) -> None:
    (data / "broken.csv.gz").write_bytes(b"no gzip at all")
    (data.parent / "out").mkdir()
    (data.parent / "out" / "broken.csv").write_text("of an earlier run")

    done = run(data)

    assert done.status == 1
    assert done.errors.startswith(f"detector: broken: {data / 'broken.csv.gz'}: cannot be read")
    assert len(done.rows("web-1")) == len(done.rows("web-2")) == 350
    assert done.report["entities"][-1]["entity"] == "broken"
    assert "cannot be read" in done.report["entities"][-1]["error"]
    assert not (done.out / "broken.csv").exists()


def test_too_little_history_fails_the_group_but_not_the_others(run: Callable[..., Run], data: Path) -> None:
    (data / "short.csv").write_text("time,heat\n0,1\n60,2\n120,3\n180,4\n")

    done = run(data)

    assert done.status == 1
    assert "detector: short: monitor 'fleet-1': training needs " in done.errors
    assert [entity["entity"] for entity in done.report["entities"]] == ["web-1", "web-2", "short"]


def test_a_young_entity_is_scored_with_what_the_fleet_has_learned(run: Callable[..., Run], data: Path) -> None:
    _write(data, "young", _signal(2, start=BEGIN + timedelta(minutes=500), rows=100, fault=()))

    done = run(data)

    assert done.status == 0
    assert {row["state"] for row in done.rows("young")} == {"normal"}


def test_a_network_for_each_entity(run: Callable[..., Run], data: Path, training: Training) -> None:
    report = run(data, "--per-entity").report

    assert [monitor["entities"] for monitor in report["monitors"]] == [["web-1"], ["web-2"]]
    assert len(training.windows) == 2


def test_files_of_other_metrics_make_another_monitor(run: Callable[..., Run], data: Path) -> None:
    heat = "\n".join(f"{60 * minute},{math.sin(minute / 9)}" for minute in range(ROWS))
    (data / "boiler.csv").write_text(f"time,heat\n{heat}\n")

    report = run(data).report

    assert [monitor["entities"] for monitor in report["monitors"]] == [["boiler"], ["web-1", "web-2"]]
    assert [monitor["monitor"] for monitor in report["monitors"]] == ["fleet-1", "fleet-2"]


def test_files_of_another_step_make_another_monitor(run: Callable[..., Run], data: Path) -> None:
    _facts(data, **{"web-2": {"step_seconds": 120}})

    apart, together = run(data).report, run(data, "--set", "step=2m").report

    assert [(one["entities"], one["step_seconds"]) for one in apart["monitors"]] == [
        (["web-1"], 60.0),
        (["web-2"], 120.0),
    ]
    assert [(one["entities"], one["step_seconds"]) for one in together["monitors"]] == [(["web-1", "web-2"], 120.0)]


def test_entities_of_different_months_are_each_trained_on_their_own_history(
    run: Callable[..., Run], data: Path
) -> None:
    _write(data, "web-2", _signal(1, start=BEGIN + timedelta(days=150, minutes=17)))

    done = run(data)

    assert done.report["monitors"][0]["models"][0]["entities"] == 2
    for entity in ("web-1", "web-2"):
        assert len(done.rows(entity)) == 350
        assert {row["state"] for row in done.rows(entity)} == {"normal", "anomalous"}
    assert done.report["total"]["events_found"] == 2


def test_an_entity_whose_rows_are_all_history_is_only_trained_on(run: Callable[..., Run], data: Path) -> None:
    _facts(data, **{"web-2": {"train_rows": ROWS}})

    done = run(data)

    assert done.rows("web-2") == []
    assert done.report["entities"][1]["rows"] == 0
    assert done.report["monitors"][0]["models"][0]["entities"] == 2


def test_a_table_shows_each_entity_and_the_total(
    run: Callable[..., Run], data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["detector", "backtest", "--data", str(data), "--out", str(data.parent / "table")]
    monkeypatch.setattr(sys, "argv", arguments)

    with pytest.raises(SystemExit):
        cli.main()

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["entity", "rows", "alerts", "a"]
    assert [line.split()[0] for line in lines[1:4]] == ["web-1", "web-2", "total"]
    assert "VUS-PR" in lines[0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("training.epoch=5", "--set training.epoch: unknown key; the nearest known one is `epochs`"),
        ("timestep=5", "--set timestep: unknown key; the nearest known one is `timesteps`"),
        ("timesteps=1", "--set timesteps: input should be greater than or equal to 2. Received: 1"),
        ("timesteps", "--set must be KEY=VALUE, such as training.epochs=5. Received: 'timesteps'"),
        ("metrics=cpu", "--set metrics: a backtest takes it from the data; leave it out"),
        ("source.type=host", "--set source.type: a backtest takes it from the data; leave it out"),
    ],
)
def test_a_wrong_setting_is_the_operators_mistake(
    run: Callable[..., Run], data: Path, change: str, expected: str
) -> None:
    done = run(data, "--set", change)

    assert (done.status, done.errors) == (2, f"detector: {expected}\n")


def test_a_monitor_of_no_configuration_is_the_operators_mistake(run: Callable[..., Run], data: Path) -> None:
    assert run(data, "--monitor", "web").errors.startswith("detector: --monitor names a monitor of a configuration")


CONFIG = """
[database]
url = "sqlite:///detector.db"

[[monitors]]
name = "first"
source = { type = "host" }
step = "5s"
timesteps = 40

[[monitors]]
name = "second"
metrics = ["cpu"]
source = { type = "embedded" }
timesteps = 50
delay = "90s"
retrain = "off"
"""


def test_settings_come_from_a_monitor_of_the_configuration(run: Callable[..., Run], data: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)

    first = run(data, "--config", path, "--set", "retrain=off").report["monitors"][0]
    second = run(data, "--config", path, "--monitor", "second", "--set", "timesteps=20").report["monitors"][0]

    assert (first["settings"]["timesteps"], second["settings"]["timesteps"]) == (40, 20)
    assert (first["settings"]["delay"], second["settings"]["delay"]) == ("PT0S", "PT1M30S")
    assert (first["step_seconds"], first["metrics"]) == (60, 2)  # of the data


def test_without_a_configuration_nothing_is_late_and_nothing_is_trained_again() -> None:
    found = groups.settings(None, ["step=5m", "training.epochs=5"], ["cpu"])

    assert (found.delay, found.lateness) == (timedelta(0), timedelta(0))
    assert found.retrain == "off"
    assert (found.training.epochs, found.step) == (5, timedelta(minutes=5))
    assert found.timesteps == 30


def test_a_backtest_stores_every_score_whatever_is_set() -> None:
    assert groups.settings(None, ["store_scores=none"], ["cpu"]).store_scores == "all"


def test_a_delay_moves_the_alerts_but_not_the_scores(run: Callable[..., Run], data: Path, plain: Run) -> None:
    late = run(data, "--set", "delay=5m", "--set", "lateness=10m", out="late")

    assert late.scores("web-1") == plain.scores("web-1")
    delays = [one.report["entities"][0]["median_delay_seconds"] for one in (plain, late)]
    assert delays[1] == delays[0] + 300


def test_the_step_may_be_set(run: Callable[..., Run], data: Path) -> None:
    done = run(data, "--set", "step=2m", "--set", "training.minimum_slots=100")

    assert done.report["monitors"][0]["step_seconds"] == 120
    scores = done.scores("web-1")
    assert len(scores) == 350
    assert scores[0::2] == scores[1::2]  # two rows in each slot


def test_a_rule_may_name_a_metric_of_the_data_and_holds_where_that_metric_is(
    run: Callable[..., Run], data: Path, tmp_path: Path
) -> None:
    heat = "\n".join(f"{60 * minute},{math.sin(minute / 9)}" for minute in range(ROWS))
    (data / "boiler.csv").write_text(f"time,heat\n{heat}\n")
    path = tmp_path / "config.toml"
    path.write_text(CONFIG + '[[monitors.rules]]\nmetric = "cpu"\n')

    boiler, web = run(data, "--set", 'rules=[{metric="load", direction="down"}]').report["monitors"]
    (configured, _) = run(data, "--config", path, "--monitor", "second").report["monitors"]

    assert boiler["settings"]["rules"] == []
    assert [rule["metric"] for rule in web["settings"]["rules"]] == ["load"]
    assert configured["settings"]["rules"] == []  # there is no `cpu` in the data
