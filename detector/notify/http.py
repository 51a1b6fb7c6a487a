"""One HTTP request with a time limit for all of it, and no redirects."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from detector import __version__
from detector.errors import NotifyError, NotifyUnavailable

_LATER = {408, 425, 429}  # the target means: not now
_ANSWER_BYTES = 300


def redacted(url: str) -> str:
    """Scheme, host and port: a path may be as secret as a password."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}{port}"


@dataclass(frozen=True)
class Answer:
    """A 2xx answer."""

    status: str  # such as 200 OK
    said: bytes  # its beginning; of a post it is not read


def request(url: str, *, timeout: float, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """Posts a body, or gets without one; the answer.

    timeout: seconds for the whole request, after each address of the host's name had as long to take the connection

    Raises: NotifyUnavailable if there is no answer or one that means "later", NotifyError for any other than 2xx.
    """
    address, credentials = _split(url)
    known = {"User-Agent": f"detector/{__version__}", **credentials, **(headers or {})}
    asked = urllib.request.Request(address, data=body, headers=known)  # noqa: S310 - http and https, see config
    with _deadline(timeout) as started:
        try:
            with _opener(started).open(asked, timeout=timeout) as answer:
                status, reason_phrase = answer.status, answer.reason
                is_taken = 200 <= status < 300
                # a message that was taken stays taken, even if the remainder of the answer does not come
                said = b"" if is_taken and body is not None else answer.read(_ANSWER_BYTES)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            reason = getattr(exc, "reason", None) or exc
            is_over = started.is_set() or isinstance(reason, TimeoutError)
            why = f"no answer within {timeout:g} s" if is_over else " ".join(str(reason).split()) or type(exc).__name__
            msg = f"{redacted(url)} did not answer: {why}"
            raise NotifyUnavailable(msg) from None  # the cause may show the URL
    if is_taken:
        return Answer(f"{status} {reason_phrase}".strip(), said)
    words = " ".join(said.decode(errors="replace").split())
    msg = f"{redacted(url)} must answer 2xx; received {status}{f' {words}' if words else ''}"
    raise (NotifyUnavailable if status >= 500 or status in _LATER else NotifyError)(msg)


def reach(url: str, timeout: float) -> None:
    """Connects without a request, or to the proxy a request would go through.

    Raises: NotifyUnavailable if nobody listens.
    """
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = make(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.connect()
    except OSError as exc:
        msg = f"{redacted(url)} does not answer: {exc}; is the URL right, does it run?"
        raise NotifyUnavailable(msg) from None
    finally:
        connection.close()


def _split(url: str) -> tuple[str, dict[str, str]]:
    """The URL without user and password, and the header that carries them."""
    parts = urlsplit(url)
    if parts.username is None:
        return url, {}
    host = parts.netloc.rpartition("@")[2]
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    header = {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
    return urlunsplit(parts._replace(netloc=host)), header


class _Deadline:
    """Ends connections when the time is over: a socket's own timeout starts again with every byte."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._over = threading.Event()

    def is_set(self) -> bool:
        return self._over.is_set()

    def watch(self, connection: socket.socket) -> None:
        self._sockets.append(connection)
        if self._over.is_set():
            self.end()

    def end(self) -> None:
        self._over.set()
        for connection in self._sockets:
            with contextlib.suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[_Deadline]:
    deadline = _Deadline()
    timer = threading.Timer(seconds, deadline.end)
    timer.daemon = True
    timer.start()
    try:
        yield deadline
    finally:
        timer.cancel()


def _opener(deadline: _Deadline) -> urllib.request.OpenerDirector:
    """Follows no redirects, which would turn a POST into a GET; takes proxies from the environment."""

    class Plain(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(partial(_limited, http.client.HTTPConnection, deadline), req)

    class Secure(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(partial(_limited, http.client.HTTPSConnection, deadline), req)

    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), Plain(), Secure()):
        opener.add_handler(handler)
    return opener


def _limited(
    kind: type[http.client.HTTPConnection], deadline: _Deadline, host: str, **options: Any
) -> http.client.HTTPConnection:
    """A connection whose socket is ended at the deadline."""
    connection = kind(host, **options)
    connect = connection.connect

    def connect_until_deadline() -> None:
        connect()
        deadline.watch(connection.sock)

    connection.connect = connect_until_deadline  # type: ignore[method-assign]
    return connection
