"""Whatever a server answers to a query, it is one clear line."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest

from detector.config import promql
from detector.errors import ConfigError, SourceError, SourceUnavailable
from detector.sources import prometheus_api
from detector.sources.prometheus import PrometheusSource, QuerySpec
from detector.sources.prometheus_api import Api

MINUTE = 60_000
HIDDEN = "hunter2"
Asked = dict[str, str]
Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def server(answer: Callable[[Asked], Answer]) -> Iterator[str]:
    """URL of a server with one answer to everything; a request is its fields and headers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            fields = {name: values[0] for name, values in parse_qs(body).items()}
            status, headers, said = answer({**fields, **self.headers})
            self.send_response(status)
            for name, value in {"Content-Length": str(len(said)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://user:{HIDDEN}@127.0.0.1:{running.server_port}/{HIDDEN}"
        finally:
            running.shutdown()
            thread.join()


def _json(code: int, **content: object) -> Answer:
    return code, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _matrix(asked: Asked, *series: tuple[dict[str, str], str]) -> Answer:
    """Every series has its value at every time asked for."""
    start, end, step = (float(asked[name]) for name in ("start", "end", "step"))
    times = [round(start, 3) + step * n for n in range(round((end - start) / step) + 1)]
    result = [{"metric": labels, "values": [[time, value] for time in times]} for labels, value in series]
    return _json(200, status="success", data={"resultType": "matrix", "result": result})


def _source(url: str, timeout: float = 5.0, token: str = "") -> PrometheusSource:
    spec = QuerySpec(("cpu",), (promql.parsed("cpu"),), ("mean",), ("instance",), MINUTE)
    return PrometheusSource(Api(url, timeout, lambda: token), spec)


REFUSALS: dict[str, tuple[Answer, type[SourceError], str]] = {
    "bad query": (
        _json(422, status="error", errorType="execution", error="expanding\nseries"),
        SourceError,
        r"refused query 'of its version' \(422\): expanding series",
    ),
    "no token": (_json(401, status="error", error="no"), SourceError, r"does not let this program in \(401\).*token"),
    "expired": ((403, {}, b"<h1>Forbidden"), SourceError, r"does not let this program in \(403\).*expired"),
    "down": ((503, {}, b"<h1>Unavailable"), SourceUnavailable, r"does not answer queries now \(503\)"),
    "later": ((429, {}, b""), SourceUnavailable, r"does not answer queries now \(429\)"),
    "a page": ((200, {"Content-Type": "text/html"}, b"<html>"), SourceError, r"JSON; received 200 text/html.*/api/v1"),
    "not found": ((404, {"Content-Type": "text/plain"}, b"404"), SourceError, r"JSON; received 404 text/plain"),
    "sent on": (
        (302, {"Location": f"https://sso.example/?t={HIDDEN}"}, b""), SourceError, r"to https://sso.example \(302\)"
    ),
    "no series": (_json(200, status="success", data={"result": "x"}), SourceError, "must answer query .* with series"),
    "odd series": (
        _json(200, status="success", data={"result": [{"values": [1]}]}), SourceError, "received something else"
    ),
    "a part": (_json(200, status="success", isPartial=True, data={"result": []}), SourceUnavailable, "in part only"),
    "deep": ((200, {}, b"[" * 100_000), SourceError, "must answer with JSON"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_is_no_answer_to_a_query_is_one_line(kind: str) -> None:
    answer, error, said = REFUSALS[kind]

    with server(lambda _asked: answer) as url, pytest.raises(SourceError, match=said) as caught:
        _source(url).read(0, MINUTE)

    assert type(caught.value) is error
    assert len(str(caught.value).splitlines()) == 1
    assert HIDDEN not in str(caught.value)


def test_a_server_that_hangs_is_given_up() -> None:
    over = threading.Event()

    def hang(_asked: Asked) -> Answer:
        over.wait(60.0)
        return _json(200)

    with server(hang) as url:
        with pytest.raises(SourceUnavailable, match="no answer within"):
            _source(url, timeout=0.2).read(0, MINUTE)
        over.set()


def test_nobody_there_is_said_without_secrets() -> None:
    with pytest.raises(SourceUnavailable, match=r"source http://127\.0\.0\.1:1 did not answer: .*refused") as caught:
        _source(f"http://user:{HIDDEN}@127.0.0.1:1/{HIDDEN}").read(0, MINUTE)

    assert HIDDEN not in str(caught.value)


def test_an_answer_that_is_too_large_is_asked_for_in_smaller_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus_api, "_MOST_BYTES", 2_000)
    pieces: list[int] = []

    def answer(asked: Asked) -> Answer:
        pieces.append(round((float(asked["end"]) - float(asked["start"])) / float(asked["step"])) + 1)
        return _matrix(asked, *(({"instance": f"web-{n}"}, "1") for n in range(10)))

    with server(answer) as url:
        samples = _source(url).read(0, 20 * MINUTE)

    assert len(samples) == 200
    assert pieces[1:] == [10, *[1] * 20]  # after that of the version; too large once


def test_one_slot_that_is_too_large_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(lambda asked: _matrix(asked, *(({"instance": f"web-{n}"}, "1") for n in range(99)))) as url:
        source = _source(url)
        source.read(0, MINUTE)
        monkeypatch.setattr(prometheus_api, "_MOST_BYTES", 2_000)

        with pytest.raises(SourceError, match=r"query 'cpu' with more than .* MB at a time") as caught:
            source.read(0, 5 * MINUTE)

    assert len(str(caught.value).splitlines()) == 1


def test_a_server_that_refuses_many_samples_is_asked_for_fewer() -> None:
    def answer(asked: Asked) -> Answer:
        if float(asked["end"]) > float(asked["start"]):
            return _json(422, status="error", error="query processing would load too many samples into memory")
        return _matrix(asked, ({"instance": "a"}, "1"))

    with server(answer) as url:
        source = _source(url)
        assert len(source.read(0, 3 * MINUTE)) == 3


def test_answers_for_other_times_are_refused() -> None:
    with (
        server(lambda asked: _matrix({**asked, "start": "60.0", "end": "60.0"}, ({"instance": "a"}, "1"))) as url,
        pytest.raises(SourceError, match="other times than it is asked for"),
    ):
        _source(url).read(0, MINUTE)


def test_histograms_are_refused_with_what_to_do() -> None:
    result = [{"metric": {}, "histograms": [[59.999, {}]]}]

    def answer(asked: Asked) -> Answer:
        if "vector" in asked["query"]:
            return _matrix(asked, ({}, "1"))
        return _json(200, status="success", data={"resultType": "matrix", "result": result})

    with server(answer) as url, pytest.raises(SourceError, match="histogram_quantile"):
        _source(url).read(0, MINUTE)


@pytest.mark.parametrize(
    ("closed", "span"), [("1", "60000ms"), ("2", "59999ms")], ids=["Prometheus 3, VictoriaMetrics", "Prometheus 2"]
)
def test_a_range_holds_exactly_its_slot_in_every_version(closed: str, span: str) -> None:
    asked_for: list[Asked] = []

    def answer(asked: Asked) -> Answer:
        asked_for.append(asked)
        return _matrix(asked, ({"instance": "a"}, closed))

    with server(answer) as url:
        _source(url).read(0, MINUTE)

    assert asked_for[-1]["query"] == f"avg_over_time(cpu[{span}])"
    assert asked_for[-1]["start"] == "59.9992"


def test_user_password_and_token_go_into_the_header() -> None:
    seen: list[str] = []

    def answer(asked: Asked) -> Answer:
        seen.append(asked["Authorization"])
        return _matrix(asked, ({"instance": "a"}, "1"))

    with server(answer) as url:
        _source(url).read(0, MINUTE)
        _source(url, token="t0ken").read(0, MINUTE)

    assert set(seen) == {"Basic dXNlcjpodW50ZXIy", "Bearer t0ken"}


def test_a_token_is_asked_for_with_every_request() -> None:
    seen, tokens = [], iter(["old", "old", "new"])

    def answer(asked: Asked) -> Answer:
        seen.append(asked["Authorization"])
        return _matrix(asked, ({"instance": "a"}, "1"))

    with server(answer) as url:
        source = _source(url)
        source._api = replace(source._api, token=lambda: next(tokens))
        source.read(0, MINUTE)
        source.read(0, MINUTE)

    assert seen == ["Bearer old", "Bearer old", "Bearer new"]


def test_a_token_of_several_lines_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="token must be one line") as caught:
        _source("http://127.0.0.1:1", token=f"a\n{HIDDEN}").read(0, MINUTE)

    assert HIDDEN not in str(caught.value)
