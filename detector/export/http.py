"""/metrics for Prometheus, /healthz and /readyz for a supervisor."""

from __future__ import annotations

import errno
import gzip
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from detector.errors import DetectorError

Ready = Callable[[], str | None]
"""None if the process does its work, else the reason why not."""


class Endpoint:
    """An HTTP server on its own threads."""

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry, ready: Ready) -> None:
        """Binds the address.

        Raises: DetectorError if it is taken or not this machine's: both may pass.
        """
        handler = type("Handler", (_Handler,), {"registry": registry, "ready": staticmethod(ready)})
        try:
            self._server = _Server(address, handler)
        except OSError as exc:
            host = f"[{address[0]}]" if ":" in address[0] else address[0]
            hint = "is another detector running?" if exc.errno == errno.EADDRINUSE else "is it this machine's address?"
            msg = f"export.listen: cannot listen on {host}:{address[1]} ({exc.strerror or exc}); {hint}"
            raise DetectorError(msg) from exc
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)

    @property
    def port(self) -> int:
        """The port that is bound: the configured one, or a free one if that is 0."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Starts to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stops answering."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        host, port = address
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        families = [family for family, *_ in found]
        self.address_family = socket.AF_INET if socket.AF_INET in families else families[0]  # a name may have both
        super().__init__(address, handler)


class _Handler(BaseHTTPRequestHandler):
    registry: CollectorRegistry
    ready: Ready
    timeout = 10  # seconds, after which a client that sends nothing releases its thread
    server_version = "detector"
    sys_version = ""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(200, generate_latest(self.registry), CONTENT_TYPE_LATEST)
        elif path == "/healthz":
            self._answer(200, b"ok\n")
        elif path == "/readyz":
            problem = type(self).ready()
            self._answer(503 if problem else 200, f"{problem or 'ok'}\n".encode())
        else:
            self._answer(404, b"there is /metrics, /healthz and /readyz\n")

    def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        if len(body) > 4096 and "gzip" in self.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, compresslevel=1)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # a client that hung up is not worth a line
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it overrides
        """Logs nothing: a scrape comes every few seconds."""
