"""The program as its users run it: commands and daemons as processes, seen from outside."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from prometheus_client.parser import text_string_to_metric_families

DETECTOR = (sys.executable, "-m", "detector")
START_SECONDS = 60.0  # on a busy machine; on an idle one it takes two

T = TypeVar("T")
Labels = frozenset[tuple[str, str]]
Table = Mapping[str, object]

EMBEDDED: Table = {"type": "embedded"}
EVERY_SECOND: Table = {"step": "1s", "delay": "0s", "lateness": "2s"}


def usage_table(file: Path) -> Table:
    """The source of a monitor: the table `usage` of a SQLite file."""
    url = f"sqlite:///{file}"
    return {"type": "sql", "url": url, "table": "usage", "entity": "host", "time_format": "epoch_seconds"}


def configure(
    folder: Path, *monitors: Table, url: str = "", listen: str = "127.0.0.1:0", notifiers: Sequence[Table] = ()
) -> Path:
    """Writes `config.toml` into a folder. url: of the detector's own database, by default a file in the folder"""
    tables = {
        "database": {"url": url or f"sqlite:///{folder}/detector.db"},
        "export": {"listen": listen},
        "monitors": [{"source": EMBEDDED, **monitor} for monitor in monitors],
        "notifiers": notifiers,
    }
    path = folder / "config.toml"
    path.write_text("".join(f"{name} = {_toml(table)}\n" for name, table in tables.items()))
    return path


def _toml(value: object) -> str:
    """A value on one line of TOML."""
    match value:
        case Mapping():
            return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # strings, numbers, true and false look the same in JSON


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    output: str
    seconds: float
    peak_megabytes: float


def detector(*arguments: str | Path, cwd: Path | None = None) -> Finished:
    """Runs a command to its end, which must be a good one, and measures it."""
    began = time.monotonic()
    with subprocess.Popen([*DETECTOR, *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        output, errors = _drained(process)
        # not Popen.wait: only wait4 gives what this one child has used
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, errors[-3000:]
    return Finished(output, time.monotonic() - began, usage.ru_maxrss / 1024)


def _drained(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """What a process prints until it closes its streams, without reaping it."""
    assert process.stdout is not None
    assert process.stderr is not None
    errors: list[bytes] = []
    stream = process.stderr
    reader = threading.Thread(target=lambda: errors.append(stream.read()))
    reader.start()
    output = process.stdout.read()
    reader.join()
    return output.decode(), b"".join(errors).decode(errors="replace")


@dataclass(frozen=True)
class Daemon:
    """A process of `detector run`."""

    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        """What it has logged; it must still be alive."""
        text = self.log_file.read_text(errors="replace")
        assert self.process.poll() is None, f"the daemon has ended with {self.process.returncode}:\n{text[-3000:]}"
        return text

    def until_logged(self, pattern: str, seconds: float = START_SECONDS) -> re.Match[str]:
        """Waits for a line."""
        return until(lambda: re.search(pattern, self.log), pattern, seconds)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.until_logged(r"event=started .*listen_port=(\d+)")[1])

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metrics(self) -> dict[str, dict[Labels, float]]:
        """Everything on /metrics: name, labels, value."""
        status, body = self.get("/metrics")
        assert status == 200
        found: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(body):
            for sample in family.samples:
                found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
        return found

    def megabytes(self, field: str) -> float:
        """A field of /proc/PID/status, such as VmRSS (now) and VmHWM (the most there ever was)."""
        found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text(), re.MULTILINE)
        assert found
        return int(found[1]) / 1024

    def end(self, number: signal.Signals) -> tuple[int, float]:
        """Sends a signal; exit status and seconds until the end."""
        began = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(timeout=START_SECONDS), time.monotonic() - began


@contextmanager
def daemon(
    config: Path, *, environment: Mapping[str, str] | None = None, command: Sequence[str] = DETECTOR
) -> Iterator[Daemon]:
    """Runs the daemon until the block ends, unless the block ends it."""
    log = config.with_suffix(".log")
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [*command, "run", "--config", str(config)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        ) as process,
    ):
        try:
            yield Daemon(process, log)
        finally:
            process.kill()  # no effect on one that has ended


def until(probe: Callable[[], T | None], what: str, seconds: float = START_SECONDS, *, pause: float = 0.05) -> T:
    """Asks until the answer is not empty."""
    end = time.monotonic() + seconds
    while not (answer := probe()):
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds:g} s for {what}")
        time.sleep(pause)
    return answer


def labelled(series: Mapping[Labels, float], **labels: str) -> float:
    """Sum of the series that have these labels, among others."""
    wanted = set(labels.items())
    return sum(value for found, value in series.items() if wanted <= found)


def values_of(series: Mapping[Labels, float], label: str) -> set[str]:
    """The values of one label."""
    return {value for found in series for name, value in found if name == label}
