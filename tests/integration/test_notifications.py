"""Daemons that send alerts to real targets: an HTTP server that fails, hangs and recovers, and an Alertmanager."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from running import DETECTOR, EVERY_SECOND, Daemon, Table, configure, daemon, labelled, until, usage_table, values_of

from detector.errors import NotifyError, NotifyUnavailable
from detector.notify import http, webhook

pytestmark = pytest.mark.slow

DEPLOY = Path(__file__).parents[2] / "deploy"

alertmanager = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
needs_alertmanager = pytest.mark.skipif(alertmanager is None, reason="no Alertmanager: sh tests/services.sh")

MONITOR = {
    **EVERY_SECOND,
    "name": "disks",
    "metrics": ["used_percent"],
    "timesteps": 5,
    "retrain": "off",
    "rules": [{"metric": "used_percent", "valid_max": 95.0}],
}

Answer = Callable[[BaseHTTPRequestHandler, threading.Event], None]
"""Answers a request; the event is set when the test is over."""

PATIENCE = 120.0  # seconds for what takes one or two on an idle machine


def _status(code: int, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler, _over: threading.Event) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def _hang(_request: BaseHTTPRequestHandler, over: threading.Event) -> None:
    over.wait()


def _drip(request: BaseHTTPRequestHandler, over: threading.Event) -> None:
    with contextlib.suppress(OSError):
        for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Slow: 1\r\n" * 100:
            request.wfile.write(bytes([byte]))
            request.wfile.flush()
            over.wait(0.1)


def _taken_then_silent(request: BaseHTTPRequestHandler, over: threading.Event) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    request.wfile.flush()
    over.wait()


@dataclass
class Receiver:
    """An HTTP server that keeps what it is sent and answers as the test wants."""

    answer: Answer = field(default_factory=lambda: accept)
    taken: list[tuple[dict[str, str], bytes]] = field(default_factory=list)  # answered 2xx
    seen: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.taken]

    @property
    def events(self) -> list[int]:
        return [message["event"]["id"] for message in self.messages]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            request = (dict(self.headers), body)
            found.seen.append(request)
            answer = found.answer
            answer(self, found.over)
            if answer is accept:
                found.taken.append(request)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that has gone is what some of these tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    found.over.set()
    server.shutdown()
    server.server_close()


def accept(request: BaseHTTPRequestHandler, over: threading.Event) -> None:
    _status(204)(request, over)


# one request


@pytest.mark.parametrize("answer", [_hang, _drip], ids=["hangs", "drips"])
def test_a_target_that_is_too_slow_is_left_after_the_timeout(receiver: Receiver, answer: Answer) -> None:
    receiver.answer = answer

    with pytest.raises(NotifyUnavailable, match=r"did not answer: no answer within 0\.5 s"):
        http.request(receiver.url, body=b"{}", timeout=0.5)


def test_a_message_is_taken_though_the_rest_of_the_answer_does_not_come(receiver: Receiver) -> None:
    receiver.answer = _taken_then_silent

    http.request(receiver.url, body=b"{}", timeout=PATIENCE)


@pytest.mark.parametrize(
    ("code", "error"),
    [(302, NotifyError), (400, NotifyError), (404, NotifyError), (429, NotifyUnavailable), (500, NotifyUnavailable)],
)
def test_only_2xx_is_success(receiver: Receiver, code: int, error: type[NotifyError]) -> None:
    receiver.answer = _status(code, Location=receiver.url)

    with pytest.raises(NotifyError, match=f"must answer 2xx; received {code}$") as caught:
        http.request(receiver.url, body=b"{}", timeout=PATIENCE)

    assert type(caught.value) is error
    assert len(receiver.seen) == 1  # and a redirect is not followed


def test_user_and_password_go_into_the_header_and_into_no_message(receiver: Receiver) -> None:
    url = receiver.url.replace("http://", "http://ada:hu%20sh@") + "/services/hush"

    http.request(url, body=b"{}", timeout=PATIENCE)
    receiver.answer = _status(500)
    with pytest.raises(NotifyUnavailable) as caught:
        http.request(url, body=b"{}", timeout=PATIENCE)

    assert base64.b64decode(receiver.seen[0][0]["Authorization"].removeprefix("Basic ")) == b"ada:hu sh"
    assert str(caught.value) == f"{receiver.url} must answer 2xx; received 500"


def test_nobody_there_is_said_in_one_line() -> None:
    with pytest.raises(NotifyUnavailable, match=r"^http://127\.0\.0\.1:1 did not answer: .*refused"):
        http.request("http://127.0.0.1:1/hush", body=b"{}", timeout=PATIENCE)
    with pytest.raises(NotifyUnavailable, match=r"is the URL right, does it run\?"):
        http.reach("http://127.0.0.1:1/hush", PATIENCE)


# daemons


def _webhook(url: str, **options: object) -> Table:
    chat = {"type": "webhook", "name": "chat", "url": f"{url}/services/hush", "timeout": "1s", "secret": "hush"}
    return {**chat, **options}


def _configure(folder: Path, notifier: Table, disks: Mapping[str, float], *, last: int = 600) -> Path:
    """A monitor of disks, with their use in per cent until so many seconds from now."""
    now = int(time.time())
    rows = [(now + second, disk, used) for second in range(-30, last) for disk, used in disks.items()]
    with sqlite3.connect(folder / "samples.db") as connection:
        connection.execute("CREATE TABLE usage (time INTEGER, host TEXT, used_percent REAL)")
        connection.executemany("INSERT INTO usage VALUES (?, ?, ?)", rows)
    connection.close()
    return configure(folder, {**MONITOR, "source": usage_table(folder / "samples.db")}, notifiers=[notifier])


def _use(folder: Path, used: float, disks: str = "%", *, ahead: int = 3, seconds: int = 600) -> None:
    """Changes the use of some disks from so many seconds ahead, of every other one a second later.

    disks: a pattern of SQL; ahead: seconds that a busy machine may take for it
    """
    begin = int(time.time()) + ahead
    with sqlite3.connect(folder / "samples.db", timeout=PATIENCE) as connection:
        connection.execute(
            "UPDATE usage SET used_percent = ? WHERE host LIKE ? AND time >= ? + substr(host, -1) % 2 AND time < ?",
            (used, disks, begin, begin + seconds),
        )
    connection.close()


def _notified(running: Daemon, outcome: str, notifier: str = "chat") -> float:
    counted = running.metrics().get("detector_notifications_total", {})
    return labelled(counted, notifier=notifier, outcome=outcome)


def _alerts(running: Daemon) -> tuple[set[str], float]:
    """Disks with an open alert, and the number of alerts there have been."""
    metrics = running.metrics()
    return values_of(metrics.get("detector_alert_active", {}), "entity"), labelled(metrics["detector_alerts_total"])


def _is_all_sent(running: Daemon) -> bool:
    return not running.metrics().get("detector_notification_oldest_unsent_timestamp_seconds")


@pytest.mark.slow
def test_a_target_that_fails_hangs_and_recovers_is_sent_everything_once(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answer = _status(503)
    config = _configure(tmp_path, _webhook(receiver.url, max_messages=100), {"a": 99.0, "b": 50.0, "fine": 50.0})

    with daemon(config) as running:
        until(lambda: receiver.seen, "a first attempt", PATIENCE)
        until(lambda: _notified(running, "failed") >= 1, "a failure", PATIENCE)
        receiver.answer = _hang
        hangs = len(receiver.seen)
        until(lambda: len(receiver.seen) > hangs, "an attempt that hangs", PATIENCE)
        cursor = labelled(running.metrics()["detector_cursor_timestamp_seconds"])
        until(
            lambda: labelled(running.metrics()["detector_cursor_timestamp_seconds"]) > cursor + 2,
            "ticks to go on",
            PATIENCE,
        )
        assert running.metrics()["detector_notification_oldest_unsent_timestamp_seconds"]
        _use(tmp_path, 50.0, "a")
        _use(tmp_path, 99.0, "b")
        until(lambda: _alerts(running) == ({"b"}, 2), "a to close and b to open", PATIENCE)
        receiver.answer = accept
        until(lambda: _is_all_sent(running), "nothing to be left", PATIENCE)
        time.sleep(6)  # another look
        listed = subprocess.run(
            [*DETECTOR, "alerts", "list", "--json", "--config", config], capture_output=True, text=True, check=True
        )
        log = running.log

    changes = [(message["alert"]["entity"], message["event"]["change"]) for message in receiver.messages]
    assert changes.count(("a", "opened")) == 1
    assert changes.index(("a", "opened")) < changes.index(("a", "closed"))
    assert ("b", "opened") in changes
    assert max(Counter(receiver.events).values()) == 1
    with sqlite3.connect(tmp_path / "detector.db") as connection:
        stored = connection.execute("SELECT event_id, state FROM detector_delivery ORDER BY event_id").fetchall()
    connection.close()
    assert sorted(receiver.events) == [event for event, _ in stored]
    assert {state for _, state in stored} == {"sent"}
    assert {row["notified"] for row in json.loads(listed.stdout)} == {"sent"}
    assert "hush" not in log
    headers, body = receiver.taken[0]
    signed = webhook.signature("hush", headers["X-Detector-Timestamp"], body)
    assert headers["X-Detector-Signature"] == f"sha256={signed}"
    assert abs(int(headers["X-Detector-Timestamp"]) - time.time()) < 300


@pytest.mark.slow
def test_a_daemon_killed_between_sending_and_noting_it_sends_again(tmp_path: Path, receiver: Receiver) -> None:
    config = _configure(tmp_path, _webhook(receiver.url), {"a": 99.0, "fine": 50.0})
    process: list[int] = []

    def kill(request: BaseHTTPRequestHandler, over: threading.Event) -> None:
        os.kill(process[0], signal.SIGKILL)
        _status(204)(request, over)

    receiver.answer = kill
    with daemon(config) as running:
        process.append(running.process.pid)
        assert running.process.wait(timeout=PATIENCE) == -signal.SIGKILL
    receiver.answer = accept
    with daemon(config) as running:
        until(lambda: receiver.taken, "the event to be sent again", PATIENCE)
        until(lambda: _notified(running, "sent") == 1, "it to be counted", PATIENCE)

    keys = {headers["Idempotency-Key"] for headers, body in receiver.seen if b'"opened"' in body}
    assert len(receiver.seen) >= 2
    assert len(keys) == 1  # a target that was sent it twice can recognise it


@pytest.mark.slow
def test_a_stop_while_a_target_hangs_is_quick_and_loses_nothing(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answer = _hang
    config = _configure(tmp_path, _webhook(receiver.url, timeout="12s"), {"a": 99.0})

    with daemon(config) as running:
        until(lambda: receiver.seen, "an attempt", PATIENCE)
        status, seconds = running.end(signal.SIGTERM)
    receiver.answer = accept
    with daemon(config):
        until(lambda: receiver.taken, "the event to be sent by the next process", 2 * PATIENCE)

    assert (status, seconds < 12.0) == (0, True)  # it does not wait until the target is given up
    assert receiver.messages[0]["event"]["change"] == "opened"


@pytest.mark.slow
def test_five_hundred_entities_that_turn_red_at_once_are_at_most_five_messages(
    tmp_path: Path, receiver: Receiver
) -> None:
    config = _configure(tmp_path, _webhook(receiver.url), {f"disk-{n:03}": 50.0 for n in range(500)})

    def told() -> int:
        return sum(message["changes"].get("opened", 0) for message in receiver.messages)

    with daemon(config) as running:
        until(lambda: running.metrics().get("detector_cursor_timestamp_seconds"), "a first tick", PATIENCE)
        _use(tmp_path, 99.0, ahead=8, seconds=4)
        until(lambda: told() == 500, "all of them", PATIENCE)
        until(lambda: _alerts(running) == (set(), 500), "them to close again", PATIENCE)
        until(lambda: _notified(running, "sent") == len(receiver.taken), "all messages to be counted", PATIENCE)

    assert 1 <= len(receiver.taken) <= 5
    summaries = [message for message in receiver.messages if message["kind"] == "summary"]
    assert summaries == receiver.messages
    assert summaries[0]["severities"] == {"critical": summaries[0]["alerts"]}
    assert len(summaries[0]["worst"]) == 10
    assert summaries[0]["incidents"][0]["alerts"] == summaries[0]["alerts"]


@pytest.mark.parametrize(
    ("url", "problem"),
    [("http://127.0.0.1:1", r"http://127\.0\.0\.1:1 does not answer: .*refused.*is the URL right"), (None, None)],
    ids=["absent", "there"],
)
def test_a_check_says_whether_a_notifier_is_there(
    tmp_path: Path, receiver: Receiver, url: str | None, problem: str | None
) -> None:
    config = _configure(tmp_path, _webhook(url or receiver.url), {"a": 50.0})

    done = subprocess.run(
        [*DETECTOR, "check", "--config", config, "--json"], capture_output=True, text=True, check=False
    )

    (row,) = [row for row in json.loads(done.stdout) if row.get("notifier") == "chat"]
    assert "hush" not in done.stdout + done.stderr
    assert receiver.taken == []  # a check alarms nobody
    if problem is None:
        assert (done.returncode, row["daemon"]) == (0, "would notify it of the alerts of disks")
    else:
        assert done.returncode == 1
        assert re.search(problem, row["problem"])


# a test message


def _test_notify(config: Path, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*DETECTOR, "test-notify", name, "--config", str(config), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _stored_rows(folder: Path) -> list[int]:
    """Rows in the tables of alerts, events and deliveries."""
    with contextlib.closing(sqlite3.connect(folder / "detector.db")) as connection:
        tables = ("detector_alert", "detector_alert_event", "detector_delivery")
        return [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]


def test_a_test_message_arrives_signed_and_marked_and_is_not_stored(tmp_path: Path, receiver: Receiver) -> None:
    config = _configure(tmp_path, _webhook(receiver.url), {"a": 50.0})
    subprocess.run([*DETECTOR, "db", "upgrade", "--config", config], check=True, capture_output=True)

    done = _test_notify(config, "chat")

    said = "notifier chat: the test message was taken (204 No Content); look whether it arrived\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    ((headers, body),) = receiver.taken
    message = json.loads(body)
    assert (message["kind"], message["monitor"]) == ("test", "disks")
    assert message["text"].startswith("TEST of detector: ")
    signed = webhook.signature("hush", headers["X-Detector-Timestamp"], body)
    assert headers["X-Detector-Signature"] == f"sha256={signed}"
    assert headers["Idempotency-Key"].startswith("test-")
    assert _stored_rows(tmp_path) == [0, 0, 0]


def test_what_a_target_answers_to_a_test_is_told_in_a_line(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answer = _status(403)
    config = _configure(tmp_path, _webhook(receiver.url), {"a": 50.0})

    refused, unknown = _test_notify(config, "chat"), _test_notify(config, "chap")

    assert (refused.returncode, refused.stderr) == (1, f"detector: {receiver.url} must answer 2xx; received 403\n")
    assert (unknown.returncode, "there is: chat" in unknown.stderr) == (2, True)


# Alertmanager


@contextmanager
def _alertmanager(folder: Path, receiver: Receiver, port: int) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """An Alertmanager with the shipped route, only faster; gives a function that lists its firing alerts."""
    text = (DEPLOY / "alertmanager/alertmanager.yml").read_text()
    changes = {"30s": "1s", "5m": "2s", "http://127.0.0.1:5001/alerts": receiver.url}
    for shipped, wanted in changes.items():
        assert shipped in text
        text = text.replace(shipped, wanted)
    (folder / "alertmanager.yml").write_text(text)
    assert alertmanager is not None
    command = [alertmanager, f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/alertmanager"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]

    def firing() -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/alerts", timeout=5) as answer:
            return list(json.load(answer))

    def is_ready() -> bool:
        with contextlib.suppress(OSError):
            return firing() == []
        return False

    with (
        (folder / "alertmanager.log").open("ab") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            until(is_ready, "Alertmanager to be ready")
            yield firing
        finally:
            process.terminate()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _oncall(port: int, **options: object) -> Table:
    return {"type": "alertmanager", "name": "oncall", "url": f"http://127.0.0.1:{port}", **options}


def test_amtool_accepts_the_shipped_route() -> None:
    amtool = shutil.which("amtool")
    if amtool is None:
        pytest.skip("no amtool: sh tests/services.sh")
    done = subprocess.run(
        [amtool, "check-config", DEPLOY / "alertmanager/alertmanager.yml"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "SUCCESS" in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.slow
@needs_alertmanager
def test_alertmanager_has_what_is_open_though_it_was_away_when_it_opened(
    tmp_path: Path, receiver: Receiver, port: int
) -> None:
    config = _configure(tmp_path, _oncall(port), {"a": 99.0, "fine": 50.0})

    with daemon(config) as running:
        until(lambda: _notified(running, "failed", "oncall") >= 1, "an attempt without an Alertmanager", PATIENCE)
        with _alertmanager(tmp_path, receiver, port) as firing:
            (alert,) = until(firing, "the alert to fire", PATIENCE)
            _use(tmp_path, 50.0)
            assert alert["labels"] == {
                "alertname": "DetectorAnomaly",
                "monitor": "disks",
                "entity": "a",
                "severity": "critical",
            }
            assert alert["annotations"]["description"].startswith("Outside its valid range: used_percent 99")
            until(lambda: not firing(), "it to be resolved", PATIENCE)
            until(lambda: len(receiver.taken) >= 2, "the receiver to know", PATIENCE)
        check = subprocess.run([*DETECTOR, "check", "--config", config], capture_output=True, text=True, check=False)

    assert [message["status"] for message in receiver.messages] == ["firing", "resolved"]
    assert check.returncode == 1
    assert f"http://127.0.0.1:{port} did not answer" in check.stdout


@pytest.mark.slow
@needs_alertmanager
def test_a_test_alert_goes_through_alertmanager_to_its_receiver(tmp_path: Path, receiver: Receiver, port: int) -> None:
    config = _configure(tmp_path, _oncall(port), {"a": 50.0})

    with _alertmanager(tmp_path, receiver, port) as firing:
        done = _test_notify(config, "oncall", "--json")
        (alert,) = firing()
        until(lambda: receiver.taken, "the receiver to be told", PATIENCE)

    assert json.loads(done.stdout) == {"notifier": "oncall", "type": "alertmanager", "answer": "200 OK"}
    assert alert["labels"] == {"alertname": "DetectorTest", "monitor": "disks", "severity": "warning"}
    assert alert["annotations"]["summary"].startswith("TEST of detector: ")
    ends, starts = (datetime.fromisoformat(alert[name]) for name in ("endsAt", "startsAt"))
    assert ends - starts == timedelta(minutes=5)
    assert receiver.messages[0]["alerts"][0]["labels"]["alertname"] == "DetectorTest"


@pytest.mark.slow
@needs_alertmanager
def test_alertmanager_gets_a_summary_of_what_is_beyond_the_cap(tmp_path: Path, receiver: Receiver, port: int) -> None:
    config = _configure(tmp_path, _oncall(port, max_alerts=20), {f"disk-{n:03}": 99.0 for n in range(500)})

    def names() -> Counter[str]:
        return Counter(alert["labels"]["alertname"] for alert in firing())

    with _alertmanager(tmp_path, receiver, port) as firing, daemon(config):
        until(lambda: names() == {"DetectorAnomaly": 20, "DetectorManyAlerts": 1}, "alerts", PATIENCE)
        (many,) = [alert for alert in firing() if alert["labels"]["alertname"] == "DetectorManyAlerts"]
        _use(tmp_path, 50.0)
        until(lambda: not firing(), "all to be resolved", PATIENCE)
        until(lambda: {message["status"] for message in receiver.messages[-2:]} == {"resolved"}, "both told", PATIENCE)

    assert many["labels"] == {"alertname": "DetectorManyAlerts", "monitor": "disks", "severity": "critical"}
    assert many["annotations"]["summary"] == "480 more alerts are open (disks)"
    # Alertmanager may flush a group while it still takes the alerts of one post, so each change is told once or twice:
    # what counts is that messages are of groups, not one an alert.
    assert len(receiver.taken) < 20, [(m["status"], len(m["alerts"])) for m in receiver.messages]
    grouped = {message["groupLabels"]["alertname"] for message in receiver.messages}
    assert grouped == {"DetectorAnomaly", "DetectorManyAlerts"}
