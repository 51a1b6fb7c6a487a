"""TLS and client certificates by exporter-toolkit's file, and certificates that are renewed."""

from __future__ import annotations

import http.client
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from detector.web import access
from detector.web.access import Access
from detector.web.guard import Guard
from detector.web.server import Endpoint

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")

SERVER = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n"
CLIENTS = SERVER + "  client_ca_file: ca.pem\n  client_auth_type: RequireAndVerifyClientCert\n"

Serve = Callable[[str], AbstractContextManager[Endpoint]]


def _certificate(folder: Path, name: str, *, san: str, authority: str = "ca") -> None:
    """NAME.pem and NAME.key, signed by the authority."""
    run = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run += ["-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
    if name == authority:
        run += ["-addext", "basicConstraints=critical,CA:TRUE"]
    else:
        run += ["-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-addext", f"subjectAltName={san}"]
        run += ["-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(run, cwd=folder, check=True, capture_output=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _certificate(tmp_path, "ca", san="")
    _certificate(tmp_path, "server", san="IP:127.0.0.1")
    return tmp_path


@pytest.fixture
def serve(folder: Path) -> Serve:
    @contextmanager
    def serving(text: str) -> Iterator[Endpoint]:
        (folder / "web.yml").write_text(text)
        rules = Access(folder / "web.yml")
        app = Starlette(routes=[Route("/", lambda _request: PlainTextResponse("here"))])
        endpoint = Endpoint(("127.0.0.1", 0), Guard(app, rules), rules)
        endpoint.start()
        try:
            yield endpoint
        finally:
            endpoint.stop()

    return serving


def _asked(endpoint: Endpoint, folder: Path, client: str = "") -> tuple[int, int]:
    """Status, and serial number of the server's certificate."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if client:
        context.load_cert_chain(folder / f"{client}.pem", folder / f"{client}.key")
    connection = http.client.HTTPSConnection("127.0.0.1", endpoint.port, timeout=60, context=context)
    try:
        connection.request("GET", "/")
        shown = connection.sock.getpeercert()
        assert shown is not None
        return connection.getresponse().status, int(str(shown["serialNumber"]), 16)
    finally:
        connection.close()


def test_the_endpoint_speaks_tls_only(serve: Serve, folder: Path) -> None:
    with serve(SERVER) as endpoint:
        assert endpoint.url == f"https://127.0.0.1:{endpoint.port}/"
        assert _asked(endpoint, folder)[0] == 200
        with pytest.raises((http.client.HTTPException, OSError)):
            _asked_in_the_clear(endpoint)


def _asked_in_the_clear(endpoint: Endpoint) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=60)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    finally:
        connection.close()


def test_a_renewed_certificate_is_shown_without_a_restart(serve: Serve, folder: Path) -> None:
    with serve(SERVER) as endpoint:
        _, before = _asked(endpoint, folder)
        _certificate(folder, "server", san="IP:127.0.0.1")
        status, after = _asked(endpoint, folder)

    assert status == 200
    assert before != after


def test_a_certificate_that_comes_after_the_file_that_names_it_is_shown(
    serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_RETRY_SECONDS", 0.0)
    with serve(SERVER) as endpoint:
        _, before = _asked(endpoint, folder)
        (folder / "web.yml").write_text(SERVER.replace("server.", "next."))
        _, refused = _asked(endpoint, folder)
        _certificate(folder, "next", san="IP:127.0.0.1")
        _, after = _asked(endpoint, folder)

    assert refused == before != after


def test_only_clients_with_a_certificate_of_the_authority_are_answered(serve: Serve, folder: Path) -> None:
    _certificate(folder, "scraper", san="DNS:prometheus.example")
    _certificate(folder, "ca2", san="", authority="ca2")
    _certificate(folder, "stranger", san="DNS:prometheus.example", authority="ca2")

    with serve(CLIENTS) as endpoint:
        assert _asked(endpoint, folder, "scraper")[0] == 200
        for client in ("", "stranger"):
            with pytest.raises((http.client.HTTPException, OSError)):
                _asked(endpoint, folder, client)


def test_only_clients_that_are_named_are_answered(serve: Serve, folder: Path) -> None:
    _certificate(folder, "scraper", san="DNS:prometheus.example")
    _certificate(folder, "other", san="DNS:other.example")

    with serve(CLIENTS + "  client_allowed_sans: [prometheus.example]\n") as endpoint:
        assert _asked(endpoint, folder, "scraper")[0] == 200
        with pytest.raises((http.client.HTTPException, OSError)):
            _asked(endpoint, folder, "other")


def test_clients_of_an_authority_that_was_replaced_are_not_answered_any_more(serve: Serve, folder: Path) -> None:
    _certificate(folder, "scraper", san="DNS:prometheus.example")
    _certificate(folder, "ca2", san="", authority="ca2")

    shutil.copy(folder / "ca.pem", folder / "clients.pem")

    with serve(CLIENTS.replace("ca.pem", "clients.pem")) as endpoint:
        assert _asked(endpoint, folder, "scraper")[0] == 200
        shutil.copy(folder / "ca2.pem", folder / "clients.pem")
        with pytest.raises((http.client.HTTPException, OSError)):
            _asked(endpoint, folder, "scraper")
