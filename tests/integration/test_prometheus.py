"""The shipped Prometheus and Grafana files against a real Prometheus that scrapes a real daemon with an open alert."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from running import EVERY_SECOND, configure, until

from detector.config.sections import ExportSection

pytestmark = pytest.mark.slow

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
EXPRESSIONS = {
    f"{panel['title']}:{target['refId']}": target["expr"] for panel in PANELS for target in panel.get("targets", [])
}
VARIABLES = {"$monitor": ".*", "$entity": ".*", "$__rate_interval": "10s"}


promtool = shutil.which("promtool")
prometheus = shutil.which("prometheus")
needs_promtool = pytest.mark.skipif(promtool is None, reason="no promtool: sh tests/services.sh")
needs_prometheus = pytest.mark.skipif(
    promtool is None or prometheus is None, reason="no prometheus: sh tests/services.sh"
)

ABSENT = {"type": "webhook", "name": "absent", "url": "http://127.0.0.1:1"}
MONITOR = {
    **EVERY_SECOND,
    "name": "hosts",
    "metrics": ["load", "errors"],
    "timesteps": 10,
    "retrain": "0 3 * * sun",
    "model": {"units": 8},
    "training": {"epochs": 3},
}


@dataclass(frozen=True)
class Api:
    """The query API of a running Prometheus."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}") as answer:
            return json.load(answer)["data"]

    def values(self, expression: str) -> list[float]:
        """The values an expression has now, without NaN."""
        numbers = [float(series["value"][1]) for series in self.get("query", query=expression)["result"]]
        return [number for number in numbers if not math.isnan(number)]


@dataclass(frozen=True)
class Live:
    """A daemon with an open alert, and the Prometheus that scrapes it."""

    metrics_url: str
    prometheus: Api


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    config = _monitor_with_fault(folder)
    with _running(folder / "detector.log", sys.executable, "-m", "detector", "run", "--config", config) as log:
        port = until(lambda: re.search(r"event=started .*listen_port=(\d+)", log()), "the daemon to start")[1]
        with _prometheus(folder, f"127.0.0.1:{port}") as api:
            until(lambda: api.values("detector_residual_share"), "an alert in Prometheus")
            yield Live(f"http://127.0.0.1:{port}/metrics", api)


def _monitor_with_fault(folder: Path) -> Path:
    """A trained monitor of two entities, one of which is at fault from now until in ten minutes."""
    config, samples = configure(folder, MONITOR, notifiers=[ABSENT]), folder / "samples.csv"
    now = int(time.time())
    with samples.open("w") as file:
        file.write("timestamp,entity,load,errors\n")
        for second in range(-900, 600):
            for phase, entity in enumerate(["web-1", "web-2"]):
                load = math.sin(second / 5 + phase) + math.sin(second * 12.9898 + phase) / 10
                errors = math.cos(second / 7) + math.sin(second * 78.233) / 10
                if entity == "web-2" and second >= 0:
                    errors = 50.0
                file.write(f"{now + second},{entity},{load},{errors}\n")
    _detector("import", samples, "--monitor", "hosts", "--config", config)
    until = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    _detector("retrain", "hosts", "--to", until, "--config", config)
    return config


def _detector(*arguments: str | Path) -> None:
    done = subprocess.run([sys.executable, "-m", "detector", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@contextmanager
def _prometheus(folder: Path, target: str) -> Iterator[Api]:
    """A Prometheus with the shipped configuration and rules, only faster and without an Alertmanager."""
    text = (DEPLOY / "prometheus/scrape.yml").read_text()
    for shipped, wanted in {"15s": "1s", ExportSection().listen: target, "127.0.0.1:9093": "127.0.0.1:1"}.items():
        assert shipped in text
        text = text.replace(shipped, wanted)
    (folder / "prometheus.yml").write_text(text)
    shutil.copy(DEPLOY / "prometheus/rules.yml", folder)
    assert prometheus is not None
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]
    with _running(folder / "prometheus.log", prometheus, *options, "--web.listen-address=127.0.0.1:0") as log:
        found = until(lambda: re.search(r'msg="Listening on" address=(127\S+)', log()), "Prometheus to listen")
        until(lambda: "Server is ready" in log(), "Prometheus to be ready")
        yield Api(f"http://{found[1]}")


@contextmanager
def _running(log: Path, *command: str | Path) -> Iterator[Callable[[], str]]:
    """Runs a command until the block ends; gives a function that reads what it has printed."""

    def printed() -> str:
        text = log.read_text(errors="replace")
        assert process.poll() is None, f"{command[0]} has ended:\n{text[-3000:]}"
        return text

    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            yield printed
        finally:
            process.terminate()


def _promtool(*arguments: str | Path, given: bytes = b"") -> tuple[int, str]:
    assert promtool is not None
    done = subprocess.run(
        [promtool, *arguments], input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return done.returncode, done.stdout.decode()


# -- without a server -------------------------------------------------------------------------------------------------


@needs_promtool
@pytest.mark.parametrize("command", ["check rules rules.yml", "check config scrape.yml", "test rules rules_test.yml"])
def test_promtool_accepts_what_is_shipped(command: str) -> None:
    *verb, file = command.split()
    status, output = _promtool(*verb, DEPLOY / "prometheus" / file)
    assert status == 0, output
    assert "SUCCESS" in output
    assert not re.search(r"warn|error|fail", output, re.IGNORECASE), output


def test_scraped_address_is_the_default_one() -> None:
    assert f'targets: ["{ExportSection().listen}"]' in (DEPLOY / "prometheus/scrape.yml").read_text()


def test_every_rule_has_a_test() -> None:
    rules = re.findall(r"- alert: (\w+)", (DEPLOY / "prometheus/rules.yml").read_text())
    tests = (DEPLOY / "prometheus/rules_test.yml").read_text()
    assert rules
    assert [name for name in rules if f"name: {name} " not in tests] == []


def test_panels_have_unique_ids_and_do_not_overlap() -> None:
    cells = Counter(
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in PANELS
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    )
    assert [identity for identity, times in Counter(panel["id"] for panel in PANELS).items() if times > 1] == []
    assert [cell for cell, times in cells.items() if times > 1 or cell[0] >= 24] == []
    for panel in PANELS:
        references = [target["refId"] for target in panel.get("targets", [])]
        assert len(references) == len(set(references)), panel["title"]


def test_provisioning_names_the_dashboard_and_a_prometheus() -> None:
    yaml = pytest.importorskip("yaml", reason="no PyYAML: pip install pyyaml")
    folder = DEPLOY / "grafana/provisioning"
    dashboards = yaml.safe_load((folder / "dashboards/detector.yml").read_text())
    datasources = yaml.safe_load((folder / "datasources/detector.yml").read_text())
    assert dashboards["apiVersion"] == datasources["apiVersion"] == 1
    assert [provider["type"] for provider in dashboards["providers"]] == ["file"]
    folder_shown = dashboards["providers"][0]["options"]["path"]
    assert f"deploy/grafana/dashboard.json {folder_shown}/" in (folder / "dashboards/detector.yml").read_text()
    assert [source["type"] for source in datasources["datasources"]] == ["prometheus"]
    scrape = yaml.safe_load((DEPLOY / "prometheus/scrape.yml").read_text())
    interval = datasources["datasources"][0]["jsonData"]["timeInterval"]
    assert interval == scrape["global"]["scrape_interval"]


# -- with a daemon and a Prometheus -----------------------------------------------------------------------------------


@pytest.mark.slow
@needs_prometheus
def test_metrics_are_clean(live: Live) -> None:
    with urllib.request.urlopen(live.metrics_url) as answer:
        assert _promtool("check", "metrics", given=answer.read()) == (0, "")


@pytest.mark.slow
@needs_prometheus
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_panel_has_data(live: Live, name: str) -> None:
    expression = EXPRESSIONS[name]
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    until(lambda: live.prometheus.values(expression), expression)


@pytest.mark.slow
@needs_prometheus
def test_queries_of_the_alert_table_make_one_row_of_an_alert(live: Live) -> None:
    """Grafana merges rows whose common labels are equal: all queries have monitor, entity and severity."""
    (table,) = (panel for panel in PANELS if (panel["title"], panel["type"]) == ("Open alerts", "table"))
    found = []
    for target in table["targets"]:
        expression = target["expr"].replace("$monitor", ".*").replace("$entity", ".*")
        until(lambda expression=expression: live.prometheus.values(expression), expression)  # type: ignore[misc]
        found.append([series["metric"] for series in live.prometheus.get("query", query=expression)["result"]])
    assert [len(rows) for rows in found] == [1, 1, 1]
    alert, score, top = (rows[0] for rows in found)
    assert alert == score
    assert top == alert | {"metric": "errors"}


@pytest.mark.slow
@needs_prometheus
def test_variables_have_values(live: Live) -> None:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert found
            selector, label = found[1].replace("$monitor", ".*"), found[2]
            assert live.prometheus.get(f"label/{label}/values", **{"match[]": selector}), variable["name"]


@pytest.mark.slow
@needs_prometheus
def test_every_metric_of_every_rule_has_data(live: Live) -> None:
    rules = live.prometheus.get("rules")["groups"][0]["rules"]
    selectors = {
        selector for rule in rules for selector in re.findall(r"\b(?:detector_\w+|up)\b(?:{[^}]*})?", rule["query"])
    }
    assert len(rules) > 5
    for selector in sorted(selectors):
        until(lambda selector=selector: live.prometheus.values(selector), selector)  # type: ignore[misc]


@pytest.mark.slow
@needs_prometheus
def test_only_the_fault_is_alerted(live: Live) -> None:
    def firing() -> list[dict[str, Any]]:
        return [alert for alert in live.prometheus.get("alerts")["alerts"] if alert["state"] == "firing"]

    until(firing, "a firing alert")
    (alert,) = firing()
    labels, said = alert["labels"], alert["annotations"]["description"]
    assert (labels["alertname"], labels["monitor"], labels["entity"]) == ("DetectorAnomaly", "hosts", "web-2")
    assert labels["severity"] in {"warning", "critical"}  # the detector's own
    assert re.search(r"Score \d+\.\d\d, where 1 is the threshold\.", said)
    assert "Most unusual: errors " in said
