"""A fleet whose metrics are in a Prometheus: from `detector check` to an alert."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from in_process import ended_in
from query_servers import SERVERS, Series, prometheus
from running import configure

pytestmark = pytest.mark.slow

MINUTE = 60_000
NOW = int(time.time() * 1000) // MINUTE * MINUTE
DAYS = 4
FAULT = 20  # minutes before now from which on one host is at fault


def _fleet() -> Iterator[Series]:
    """Three hosts until in half an hour: load, and a counter of requests, every minute; the requests of one stop."""
    rng = np.random.default_rng(7)
    minutes = np.arange(-DAYS * 1440, 30)
    times = [NOW + int(minute) * MINUTE + 7_000 for minute in minutes]
    for host in range(3):
        daily = np.sin(2 * math.pi * (minutes + 100 * host) / 1440)
        load = 2 + daily + 0.1 * rng.standard_normal(len(minutes))
        rate = 50 + 20 * daily + rng.standard_normal(len(minutes))
        if host == 1:
            rate[minutes >= -FAULT] = 0.0
            load[minutes >= -FAULT] = 9.0
        labels = {"instance": f"web-{host}:9100", "job": "node"}
        yield Series("node_load1", list(zip(times, load.round(3).tolist(), strict=True)), labels)
        yield Series("requests_total", list(zip(times, np.cumsum(60 * rate).round().tolist(), strict=True)), labels)


def _monitor(url: str, **source: object) -> dict[str, object]:
    queries = {"requests": "sum by (instance) (rate(requests_total[3m]))"}
    return {
        "name": "web",
        "metrics": ["node_load1", "requests"],
        "source": {"type": "prometheus", "url": url, "entity": "instance", "queries": queries, **source},
        "model": {"kind": "baseline"},
    }


def _check(config: Path) -> tuple[int, str, dict[str, object]]:
    done = ended_in(config.parent, "check", "--json", "--config", config)
    rows = json.loads(done.output) if done.output else []
    return done.status, done.errors, next((row for row in rows if row.get("monitor")), {})


def _run(config: Path, *words: str) -> str:
    done = ended_in(config.parent, *words, "--config", config)
    assert done.status == 0, done.errors
    return done.output


@pytest.fixture(scope="module", params=sorted(SERVERS))
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Each of the servers, with the fleet."""
    with SERVERS[request.param](tmp_path_factory.mktemp(request.param), list(_fleet())) as found:
        yield found


def test_a_fleet_is_checked_trained_and_scored(url: str, tmp_path: Path) -> None:
    config = configure(tmp_path, _monitor(url))
    status, _, row = _check(config)
    assert status == 0
    assert row["newest_window"] == "180 samples of 3 entities"
    assert str(row["daemon"]).startswith("would train a model at once")

    _run(config, "db", "upgrade")
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW // 1000 - 60 * (FAULT + 10)))
    _run(config, "retrain", "--to", at)
    for minutes in (FAULT + 5, 10, 0):
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW // 1000 - 60 * minutes + 15))
        _run(config, "score", "web", "--at", at)
    alerts = json.loads(_run(config, "alerts", "list", "--json"))

    assert {alert["entity"] for alert in alerts} == {"web-1:9100"}


def test_a_misspelt_metric_is_named_with_the_nearest(url: str, tmp_path: Path) -> None:
    status, _, row = _check(configure(tmp_path, _monitor(url) | {"metrics": ["node_laod1", "requests"]}))

    assert status == 1
    assert "for 'node_laod1' perhaps 'node_load1'" in str(row["problem"])


def test_labels_that_do_not_tell_series_apart_are_a_problem_that_names_them(url: str, tmp_path: Path) -> None:
    source = {"type": "prometheus", "url": url, "entity": "job"}
    status, _, row = _check(configure(tmp_path, _monitor(url) | {"metrics": ["node_load1"], "source": source}))

    assert status == 1
    assert "differ in labels, such as 'node: instance'" in str(row["rejects"])


# a password of Prometheus's own documentation: test
WEB = """
tls_server_config: {{cert_file: {folder}/cert.pem, key_file: {folder}/key.pem}}
basic_auth_users: {{admin: $2b$12$hNf2lSsxfm0.i4a.1kVpSOVyBCfIB51VRjgBUyv6kdnyTlgWj81Ay}}
"""


def test_tls_and_a_password_are_those_of_a_real_prometheus(tmp_path: Path) -> None:
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", f"{tmp_path}/key.pem", "-out", f"{tmp_path}/cert.pem"]
    subprocess.run([*made, *names, *files], check=True, capture_output=True)
    (tmp_path / "web.yml").write_text(WEB.format(folder=tmp_path))
    (tmp_path / "url").write_text("")

    with prometheus(tmp_path, list(_fleet()), web=tmp_path / "web.yml") as url:
        (tmp_path / "url").write_text(url.replace("https://", "https://admin:test@"))
        secret = {"url_file": f"{tmp_path}/url"}
        good = _check(configure(tmp_path, _monitor("", **secret, ca_file=f"{tmp_path}/cert.pem")))
        unknown = _check(configure(tmp_path, _monitor("", **secret)))
        closed = _check(configure(tmp_path, _monitor(url, ca_file=f"{tmp_path}/cert.pem")))

    assert good[0] == 0
    assert "name its authority in ca_file" in str(unknown[2]["problem"])
    assert "does not let this program in (401)" in str(closed[2]["problem"])
