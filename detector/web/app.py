"""The application behind the endpoint: pages, API, /metrics, and what a supervisor asks."""

from __future__ import annotations

from collections.abc import Callable

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse, Response

from detector import __version__
from detector.errors import ConfigError, DetectorError, StaleState
from detector.web import api, pages
from detector.web.access import Access
from detector.web.guard import Guard, Tagged
from detector.web.reader import NotFound, Reader

_DESCRIPTION = """What `detector` knows and does. Times are UTC; a score of 1 is the threshold.

With basic authentication (`export.web_config`) alerts can be answered and exclusions made; such requests carry the
header `X-Detector-Request`."""

Ready = Callable[[], str | None]
"""None if the process does its work, else the reason why not."""


def create(registry: CollectorRegistry, reader: Reader, access: Access) -> Guard:
    """The whole application."""
    app = FastAPI(
        title="detector",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,  # both load scripts of others
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    app.state.access = access
    _supervised(app, registry, reader.problem)
    app.include_router(api.router(reader, access))
    _answer_errors(app, pages.add(app, reader, access))
    app.add_middleware(Tagged, without=("/metrics", "/healthz", "/readyz"))
    app.add_middleware(GZipMiddleware, minimum_size=4096, compresslevel=1)
    return Guard(app, access)


def _supervised(app: FastAPI, registry: CollectorRegistry, ready: Ready) -> None:
    """What machines ask for all the time; threads of its own, so that no page can delay it."""
    threads = CapacityLimiter(4)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        body = await anyio.to_thread.run_sync(generate_latest, registry, limiter=threads)
        return Response(body, media_type=CONTENT_TYPE_LATEST)

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return PlainTextResponse("ok\n")

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        problem = await anyio.to_thread.run_sync(ready, limiter=threads)
        return PlainTextResponse(f"{problem or 'ok'}\n", 503 if problem else 200)


def _answer_errors(app: FastAPI, refuse: pages.Refuse) -> None:
    """Every error is a line that says what is wrong: JSON for the API, a page for people."""

    def told(request: Request, status: int, line: str) -> Response:
        if request.url.path.startswith("/api/"):
            return JSONResponse({"detail": line}, status)
        return refuse(request, status, line)

    def add(kind: type[Exception], status: int) -> None:
        @app.exception_handler(kind)
        async def _(request: Request, exc: Exception) -> Response:
            return await anyio.to_thread.run_sync(told, request, status, str(exc))

    add(NotFound, 404)
    add(api.Conflict, 409)
    add(StaleState, 409)
    add(ConfigError, 422)
    add(DetectorError, 503)

    @app.exception_handler(Exception)
    async def _(request: Request, exc: Exception) -> Response:
        line = f"unexpected {type(exc).__name__}; the log says where"
        return await anyio.to_thread.run_sync(told, request, 500, line)

    @app.exception_handler(HTTPException)
    async def _(request: Request, exc: HTTPException) -> Response:
        line = "there is no such page; begin at /" if exc.status_code == 404 else str(exc.detail)
        return await anyio.to_thread.run_sync(told, request, exc.status_code, line)

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, exc: RequestValidationError) -> Response:
        return await anyio.to_thread.run_sync(told, request, 422, _first(exc))


def _first(exc: RequestValidationError) -> str:
    """The first thing that is wrong in a request."""
    error = exc.errors()[0]
    where = ".".join(str(part) for part in error["loc"][1:]) or "body"
    received = "" if isinstance(error.get("input"), dict) else f". Received: {str(error.get('input'))[:200]!r}"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}{received}"
