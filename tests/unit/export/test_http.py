"""The HTTP endpoint: HEAD, IPv6, and clients that hang up."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge

from detector.errors import DetectorError
from detector.export.http import Endpoint


@pytest.fixture
def registry() -> CollectorRegistry:
    found = CollectorRegistry()
    for number in range(2_000):
        Gauge(f"metric_{number}", "one of very many", registry=found)
    return found


@pytest.fixture(params=["127.0.0.1", "::1"], ids=["IPv4", "IPv6"])
def endpoint(request: pytest.FixtureRequest, registry: CollectorRegistry) -> Iterator[tuple[str, int]]:
    if request.param == "::1" and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    found = Endpoint((request.param, 0), registry, lambda: "database: down")
    found.start()
    yield request.param, found.port
    found.stop()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _asked(address: tuple[str, int], method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(*address, timeout=60)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/nothing"])
def test_head_answers_as_get_without_a_body(endpoint: tuple[str, int], path: str) -> None:
    status, headers, body = _asked(endpoint, "GET", path)

    asked = _asked(endpoint, "HEAD", path)

    assert (asked[0], asked[1]["Content-Length"], asked[2]) == (status, headers["Content-Length"], b"")
    assert int(headers["Content-Length"]) == len(body)


@pytest.mark.slow
def test_a_client_that_hangs_up_is_not_worth_a_line(
    endpoint: tuple[str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
    for _ in range(3):
        with socket.socket(family) as client:
            client.connect(endpoint)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, not closed
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
            client.recv(10)
    time.sleep(0.5)

    assert _asked(endpoint, "GET", "/healthz")[0] == 200
    assert capfd.readouterr().err == ""


def test_an_address_of_another_machine_is_named_with_brackets(registry: CollectorRegistry) -> None:
    with pytest.raises(DetectorError, match=r"cannot listen on \[2001:db8::1\]:9788 \(.*\); is it this machine's"):
        Endpoint(("2001:db8::1", 9788), registry, lambda: None)
