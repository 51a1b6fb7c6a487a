"""What stands before every request: who asks, headers that protect a browser, and tags of what has not changed."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from anyio import CapacityLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from detector.web.access import Access

logger = logging.getLogger(__name__)

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}
_READING = {"GET", "HEAD", "OPTIONS"}
_NOTE_SECONDS = 60.0
_BODY_BYTES, _BODY_SECONDS = 65_536, 10.0
REQUESTED_BY = "X-Detector-Request"
"""A header that a page of another site cannot send without being allowed to, which nobody is."""


class Guard:
    """Answers only whom the web configuration admits; HEAD is answered as GET, without the body."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access
        self._refused, self._noted_at = 0, -math.inf
        self._checks = CapacityLimiter(2)  # of passwords, which are slow on purpose

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        is_admitted, user = await self._admitted(scope)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in (_HEADERS | self._access.rules.http_server_config.headers).items():
                    headers[name] = value
            await send(message)

        if not is_admitted:
            given = Headers(scope=scope).get("authorization", "")
            if given:
                self._note_refused(scope)
            refusal = PlainTextResponse(
                "the user or the password is wrong\n" if given else "user and password are needed\n",
                401,
                {"WWW-Authenticate": 'Basic realm="detector", charset="UTF-8"'},
            )
            await refusal(scope, receive, guarded)
            return
        scope.setdefault("state", {})["user"] = user
        if scope["method"] not in _READING:
            body = None if self._access.is_read_only else await _body(receive)
            if body is None:
                words = (
                    why_not(self._access) or f"the body must come within {_BODY_SECONDS:g} s, and have 64 kB at most"
                )
                refused = JSONResponse({"detail": words}, 403 if self._access.is_read_only else 413)
                await refused(scope, receive, guarded)
                return
            receive = _received(body)
        # HTTP servers leave the body of an answer to HEAD away
        await self._app(dict(scope, method="GET") if scope["method"] == "HEAD" else scope, receive, guarded)

    def _note_refused(self, scope: Scope) -> None:
        """A line for wrong passwords, not for each of them: a guess a line would fill the log."""
        self._refused += 1
        if time.monotonic() - self._noted_at >= _NOTE_SECONDS:
            logger.warning(
                "event=login_refused address=%s times=%d; user or password is wrong",
                (scope.get("client") or ("?",))[0],
                self._refused,
            )
            self._noted_at, self._refused = time.monotonic(), 0

    async def _admitted(self, scope: Scope) -> tuple[bool, str]:
        given = Headers(scope=scope).get("authorization", "")
        if not given or self._access.knows(given):
            return self._access.admits(scope["path"], given)
        # only passwords that are new wait for each other: they take long on purpose
        check = partial(self._access.admits, scope["path"], given)
        return await anyio.to_thread.run_sync(check, limiter=self._checks)


async def _body(receive: Receive) -> bytes | None:
    """The body of a request, None if it is too large or too slow."""
    found = b""
    with anyio.move_on_after(_BODY_SECONDS):
        while len(found) <= _BODY_BYTES:
            message = await receive()
            if message["type"] != "http.request":
                return None
            found += message.get("body", b"")
            if not message.get("more_body"):
                return found if len(found) <= _BODY_BYTES else None
    return None


def _received(body: bytes) -> Receive:
    """What hands out a body that has come, once."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


class Tagged:
    """Gives what is read a tag of its content; whoever has that already gets it no second time."""

    def __init__(self, app: ASGIApp, without: Iterable[str] = ()) -> None:
        """without: paths that are different at every request anyway"""
        self._app = app
        self._without = set(without)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["method"] not in _READING or scope["path"] in self._without:
            await self._app(scope, receive, send)
            return
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)
            if not message.get("more_body") and message["type"] == "http.response.body":
                for ready in _tagged(held, Headers(scope=scope).get("if-none-match", "")):
                    await send(ready)

        await self._app(scope, receive, hold)


def _tagged(held: list[Message], known: str) -> list[Message]:
    start, body = held[0], b"".join(message.get("body", b"") for message in held[1:])
    if start["status"] != 200:
        return held
    headers = MutableHeaders(scope=start)
    tag = headers.setdefault("ETag", f'W/"{hashlib.sha256(body).hexdigest()[:24]}"')
    headers.setdefault("Cache-Control", "no-cache")
    headers["Vary"] = "Accept-Encoding, Authorization"
    if tag.removeprefix("W/") not in {one.strip().removeprefix("W/") for one in known.split(",")}:
        return held
    del headers["Content-Length"]
    return [{**start, "status": 304}, {"type": "http.response.body", "body": b""}]


def actor(request: Request, access: Access) -> str:
    """The user who changes something. Raises: HTTPException 403 for nobody, and for what another site has sent."""
    if not request.state.user:
        raise HTTPException(403, why_not(access) or "user and password are needed to change something")
    headers = request.headers
    origin = headers.get("origin")
    is_other = origin is not None and urlsplit(origin).netloc != headers.get("host")
    if is_other or headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        raise HTTPException(403, "the request comes from a page of another site")
    if REQUESTED_BY not in headers:
        raise HTTPException(403, f"the header {REQUESTED_BY} must be sent, with any value: no other site's page can")
    return str(request.state.user)


def why_not(access: Access) -> str | None:
    """Why nobody can change anything here; None if users can."""
    if not access.is_read_only:
        return None
    return "Read-only, since nobody can be told apart: set export.web_config to a file with basic_auth_users"


def user_of(request: Request) -> str | None:
    """Who asks, None if nobody is told apart."""
    found: Any = request.state.user
    return str(found) or None
