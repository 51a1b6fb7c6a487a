"""Real servers that answer PromQL, with the samples of a test: Prometheus and VictoriaMetrics."""

from __future__ import annotations

import http
import json
import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from running import until


@dataclass(frozen=True)
class Series:
    """A series to store: its name and labels, and its samples by epoch milliseconds."""

    name: str
    samples: Sequence[tuple[int, float]]
    labels: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def prometheus(folder: Path, stored: Sequence[Series], *, web: Path | None = None) -> Iterator[str]:
    """URL of a Prometheus that has some series, made by `promtool tsdb create-blocks-from`; web: its TLS and users."""
    server, tool = shutil.which("prometheus"), shutil.which("promtool")
    if not server or not tool:
        pytest.skip("no prometheus: sh tests/services.sh")
    text = folder / "stored.txt"
    lines = [line + f" {time // 1000}.{time % 1000:03d}\n" for line, time in _lines(stored)]
    text.write_text("".join(lines) + "# EOF\n")
    made = subprocess.run(
        [tool, "tsdb", "create-blocks-from", "openmetrics", text, folder / "data"], capture_output=True, check=False
    )
    assert made.returncode == 0, made.stderr.decode()
    (folder / "prometheus.yml").write_text("global: {}\n")
    port = free_port()
    options = [
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    options += [f"--web.config.file={web}"] if web else []
    address = f"http{'s' if web else ''}://127.0.0.1:{port}"
    with _running([server, *options], folder / "prometheus.log", address, "/-/ready") as url:
        yield url


def _lines(stored: Sequence[Series]) -> Iterator[tuple[str, int]]:
    """Each sample as both servers take it, without its time; and its time. Those of a name stand together."""
    for series in sorted(stored, key=lambda one: one.name):
        labels = ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in series.labels.items())
        for time, value in series.samples:
            yield f"{series.name}{{{labels}}} {str(value).replace('inf', 'Inf').replace('nan', 'NaN')}", time


@contextmanager
def victoria_metrics(folder: Path, stored: Sequence[Series]) -> Iterator[str]:
    """URL of a VictoriaMetrics that has some series, by its import."""
    server = shutil.which("victoria-metrics")
    if not server:
        pytest.skip("no victoria-metrics: sh tests/services.sh")
    port = free_port()
    options = [f"-storageDataPath={folder}/data", f"-httpListenAddr=127.0.0.1:{port}", "-retentionPeriod=100y"]
    with _running([server, *options], folder / "victoria.log", f"http://127.0.0.1:{port}", "/health") as url:
        body = "".join(f"{line} {time}\n" for line, time in _lines(stored)).encode()
        urllib.request.urlopen(urllib.request.Request(f"{url}/api/v1/import/prometheus", data=body)).close()
        urllib.request.urlopen(f"{url}/internal/force_flush").close()
        yield url


SERVERS = {"prometheus": prometheus, "victoria-metrics": victoria_metrics}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(command: Sequence[str], log: Path, url: str, ready: str) -> Iterator[str]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            until(lambda: process.poll() is not None or _answers(url + ready), f"{command[0]} to start")
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            yield url
        finally:
            process.kill()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1, context=ssl._create_unverified_context()):
            return True
    except urllib.error.HTTPError as exc:
        return exc.code == http.HTTPStatus.UNAUTHORIZED
    except OSError:
        return False


def process_of(url: str) -> psutil.Process:
    """The server that listens at a URL."""
    port = urllib.parse.urlsplit(url).port
    listening = [one for one in psutil.net_connections("tcp") if one.status == "LISTEN"]
    (pid,) = {one.pid for one in listening if one.laddr and one.laddr.port == port}
    return psutil.Process(pid)
