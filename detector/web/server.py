"""The HTTP endpoint: a server on a thread of its own, with a limit for every client that says nothing."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from detector.errors import DetectorError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from detector.web.access import Access

_SILENT_SECONDS = 10.0
"""Time for a request's first lines; a client that takes longer is gone, or holds connections on purpose."""

_BACKLOG = 2048
_START_SECONDS = 30.0


class Endpoint:
    """An HTTP server; it listens from the start, so that what asks before it answers waits in the kernel."""

    def __init__(self, address: tuple[str, int], app: ASGIApp, access: Access) -> None:
        """Binds the address.

        Raises: DetectorError if it is taken or not this machine's: both may pass.
        """
        self._socket = _bound(address)
        self._host = address[0]
        self._is_tls = access.is_tls
        config = uvicorn.Config(
            app,
            http=type("Protocol", (_Protocol,), {"access": access}),
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,  # longer than the usual time between two scrapes
            timeout_graceful_shutdown=1,
            backlog=_BACKLOG,
        )
        config.load()
        if access.is_tls:
            config.ssl = access.context()
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)

    @property
    def port(self) -> int:
        """The port that is bound: the configured one, or a free one if that is 0."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Its address for a browser on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104 - named, not bound
        return f"http{'s' if self._is_tls else ''}://{f'[{host}]' if ':' in host else host}:{self.port}/"

    def start(self) -> None:
        """Starts to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stops answering, at the latest after some seconds."""
        self._server.should_exit = True
        self._thread.join(_START_SECONDS)
        self._socket.close()

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))


def _bound(address: tuple[str, int]) -> socket.socket:
    host, port = address
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, where = min(found, key=lambda one: one[0] != socket.AF_INET)  # a name may have both
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(where)
            made.listen(_BACKLOG)
        except OSError:
            made.close()
            raise
    except OSError as exc:
        shown = f"[{host}]" if ":" in host else host
        hint = "is another detector running?" if exc.errno == errno.EADDRINUSE else "is it this machine's address?"
        msg = f"export.listen: cannot listen on {shown}:{port} ({exc.strerror or exc}); {hint}"
        raise DetectorError(msg) from exc
    return made


class _Protocol(H11Protocol):
    """One connection. uvicorn itself waits without a limit for a request to be complete."""

    access: Access
    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        encrypted = transport.get_extra_info("ssl_object")
        if encrypted is not None and not self.access.allows(encrypted.getpeercert()):
            transport.close()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()

    def _watch(self) -> None:
        """Starts the clock of a request whose first lines are not complete; more of them do not set it back."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._limit is None and not self.transport.is_closing():
            self._limit = self.loop.call_later(_SILENT_SECONDS, self._give_up)

    def _unwatch(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _give_up(self) -> None:
        self._limit = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
