"""The HTTP endpoint: HEAD, IPv6, and clients that hang up, say nothing or take their time."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from watched import Site

from detector.errors import DetectorError
from detector.web import server
from detector.web.access import Access
from detector.web.guard import Guard
from detector.web.server import Endpoint


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _large(_request: object) -> PlainTextResponse:
    return PlainTextResponse("a line of many\n" * 10_000)


def _app() -> Guard:
    return Guard(Starlette(routes=[Route("/large", _large)]), Access())


@pytest.fixture(params=["127.0.0.1", "::1"], ids=["IPv4", "IPv6"])
def address(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    if request.param == "::1" and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    found = Endpoint((request.param, 0), _app(), Access())
    found.start()
    yield request.param, found.port
    found.stop()


def _asked(address: tuple[str, int], method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(*address, timeout=60)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/nothing", "/", "/api/v1/monitors"])
def test_head_answers_as_get_without_a_body(site: Site, path: str) -> None:
    found, asked = site.ask(path), site.ask(path, "HEAD")

    assert (asked.status, asked.body) == (found.status, b"")
    assert int(found.headers["content-length"]) == len(found.body) > 0
    if path != "/metrics":  # which is another one every time
        assert asked.headers["content-length"] == found.headers["content-length"]


def test_a_client_that_hangs_up_is_not_worth_a_line(
    address: tuple[str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    for _ in range(3):
        with socket.socket(family) as client:
            client.connect(address)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, not closed
            client.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n")
            client.recv(10)

    assert _asked(address, "GET", "/large")[0] == 200
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_clients_that_say_half_of_a_request_delay_nobody_and_are_sent_away(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_SILENT_SECONDS", 1.0)
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(200)]
        for client in clients:
            client.sendall(b"GET /large HTTP/1.1\r\nHost:")
            client.settimeout(30)

        began = time.monotonic()
        assert _asked(address, "GET", "/large")[0] == 200
        assert time.monotonic() - began < 10

        assert [client.recv(1) for client in clients] == [b""] * 200  # sent away: that is the end of the stream


@pytest.mark.slow
def test_a_client_that_sends_a_letter_at_a_time_is_sent_away_all_the_same(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_SILENT_SECONDS", 0.5)
    with socket.create_connection(address) as client, pytest.raises(OSError, match=r"reset|[Bb]roken"):
        _trickle(client)


def _trickle(client: socket.socket) -> None:
    for letter in b"GET /large HTTP/1.1\r\n" + b"x" * 1000:
        client.sendall(bytes([letter]))
        time.sleep(0.05)


def test_an_address_of_another_machine_is_named_with_brackets() -> None:
    with pytest.raises(DetectorError, match=r"cannot listen on \[2001:db8::1\]:9788 \(.*\); is it this machine's"):
        Endpoint(("2001:db8::1", 9788), _app(), Access())


def test_the_address_for_a_browser_is_one_it_can_open() -> None:
    found = Endpoint(("0.0.0.0", 0), _app(), Access())
    assert found.url == f"http://127.0.0.1:{found.port}/"
    found._socket.close()
