"""The pages, rendered from what the API answers; scripts only keep them fresh and draw."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import FastAPI, Query, Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from detector import wording
from detector.report import content
from detector.store.alerts import Wanted
from detector.times import HOUR_MS
from detector.web import answers, stages
from detector.web.access import Access
from detector.web.api import health_of
from detector.web.guard import user_of
from detector.web.reader import Reader

_ROWS = 50  # of a table's page
_SPANS = {"3h": 3 * HOUR_MS, "1d": 24 * HOUR_MS, "7d": 7 * 24 * HOUR_MS, "30d": 30 * 24 * HOUR_MS}
_FILES = {
    "uPlot.js": ("detector.report", "vendor/uPlot.iife.min.js"),
    "plots.js": ("detector.report", "plots.js"),
    "app.js": ("detector.web", "static/app.js"),
    "uPlot.css": ("detector.report", "vendor/uPlot.min.css"),
    "page.css": ("detector.report", "page.css"),
    "app.css": ("detector.web", "static/app.css"),
    "icon.svg": ("detector.web", "static/icon.svg"),
}
_TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}

Refuse = Callable[[Request, int, str], Response]
"""A page for a request, a status and a line."""

PageNumber = Annotated[int, Query(ge=1, le=10**7)]


def add(app: FastAPI, reader: Reader, access: Access) -> Refuse:
    """Adds all pages to an application; what makes a page that says why there is none."""
    show = _Shown(reader, access)
    _add_files(app)
    _add_fleet(app, reader, show)
    _add_alerts(app, reader, show)
    _add_models(app, reader, show)
    return lambda request, status, line: show(
        request, "refusal.html", status=status, title="Not to be shown", line=line
    )


class _Shown:
    """Renders templates; the engine escapes every name, comment and the like."""

    def __init__(self, reader: Reader, access: Access) -> None:
        self._reader = reader
        self._access = access
        self._environment = Environment(
            loader=PackageLoader("detector.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        clock = content.Clock(reader.zone, has_seconds=any(s.step_ms % 60_000 for s in reader.config.monitors))
        self._environment.filters |= {
            "time": lambda at: "–" if at is None else clock.time(_epoch(at)),
            "age": lambda at: "–" if at is None else stages.age(reader.now - _epoch(at)),
            "until": lambda at: "–" if at is None else stages.age(_epoch(at) - reader.now),
            "number": lambda value: "–" if value is None else wording.number(value),
            "percent": lambda value: "–" if value is None else f"{value:.0%}",
            "printable": wording.printable,
            "name": lambda text: Markup("<bdi>{}</bdi>").format(wording.printable(str(text))),
            "amount": wording.amount,
            "lasted": _lasted,
            "pair": lambda value: (value, value),
        }
        self._environment.globals |= {"at": _at, "url": _url, "file": _file_url, "zone": reader.zone}

    def __call__(self, request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
        health = health_of(self._reader, self._access, user_of(request))
        made = self._environment.get_template(template).render(
            health=health,
            here=request.url.path,
            query=dict(request.query_params),
            drawn={"zone": self._reader.zone, "days": None, "alerts": {}} | values.pop("drawn", {}),
            **values,
        )
        return HTMLResponse(made, status)


def _add_files(app: FastAPI) -> None:
    stored = {name: resources.files(package).joinpath(path).read_bytes() for name, (package, path) in _FILES.items()}

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        if name not in stored:
            return Response(status_code=404)
        kept = {"Cache-Control": "private, max-age=31536000, immutable"}  # links name the version
        return Response(stored[name], media_type=_TYPES[name.rpartition(".")[2]], headers=kept)

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(stored["icon.svg"], media_type=_TYPES["svg"])


def _add_fleet(app: FastAPI, reader: Reader, show: _Shown) -> None:
    @app.get("/", include_in_schema=False)
    def fleet(request: Request) -> Response:
        return show(
            request,
            "fleet.html",
            title="Fleet",
            monitors=reader.monitors(),
            alerts=reader.alerts(Wanted(only_open=True), limit=_ROWS),
            incidents=reader.incidents(monitor=None, only_open=True, limit=0),
            latest=reader.alerts(Wanted(state="closed"), limit=10),
        )

    @app.get("/monitor", include_in_schema=False)
    def monitor(
        request: Request,
        name: str,
        state: answers.State | Literal[""] = "",
        text: Annotated[str, Query(max_length=191)] = "",
        order: Literal["score", "surprise", "entity", "state"] = "score",
        page: PageNumber = 1,
    ) -> Response:
        entities = reader.entities(
            name, state=state or None, text=text, order=order, limit=_ROWS, offset=(page - 1) * _ROWS
        )
        return show(
            request,
            "monitor.html",
            title=name,
            monitor=reader.monitor(name),
            entities=entities,
            pages=_pages(entities, page),
            wanted={"name": name, "state": state, "text": text, "order": order},
            alerts=reader.alerts(Wanted(monitor=name, only_open=True), limit=_ROWS),
            models=reader.models(name)[:5],
            exclusions=reader.exclusions(name),
        )

    @app.get("/entity", include_in_schema=False)
    def entity(request: Request, monitor: str, entity: str, span: Literal["3h", "1d", "7d", "30d"] = "1d") -> Response:
        found = reader.entity(monitor, entity)
        until = reader.now
        scores = reader.scores(monitor, entity, start=until - _SPANS[span], end=until)
        return show(
            request,
            "entity.html",
            title=entity,
            monitor=reader.monitor(monitor),
            entity=found,
            scores=scores,
            span=span,
            spans=list(_SPANS),
            alerts=reader.alerts(Wanted(monitor=monitor, entity=entity, is_glob=False), limit=_ROWS),
            exclusions=reader.exclusions(monitor, entity),
            drawn={"alerts": {"entity": _drawn(scores, found)}},
        )


def _add_models(app: FastAPI, reader: Reader, show: _Shown) -> None:
    @app.get("/models", include_in_schema=False)
    def models(request: Request, monitor: str | None = None) -> Response:
        return show(request, "models.html", title="Models", models=reader.models(monitor), monitor=monitor)

    @app.get("/models/{version}", include_in_schema=False)
    def model(request: Request, version: int) -> Response:
        return show(request, "model.html", title=f"Model version {version}", model=reader.model(version))


def _add_alerts(app: FastAPI, reader: Reader, show: _Shown) -> None:
    @app.get("/alerts", include_in_schema=False)
    def alerts(
        request: Request,
        monitor: str = "",
        entity: Annotated[str, Query(max_length=400)] = "",
        state: Literal["", "waiting", "open", "acknowledged", "closed", "withdrawn"] = "",
        severity: Literal["", "warning", "critical"] = "",
        page: PageNumber = 1,
    ) -> Response:
        wanted = Wanted(
            monitor=monitor or None,
            entity=entity or None,
            state=None if state in {"", "waiting"} else state,
            severity=severity or None,
            only_open=state == "waiting",
        )
        found = reader.alerts(wanted, limit=_ROWS, offset=(page - 1) * _ROWS)
        return show(
            request,
            "alerts.html",
            title="Alerts",
            alerts=found,
            pages=_pages(found, page),
            monitors=[section.name for section in reader.config.monitors],
            wanted={"monitor": monitor, "entity": entity, "state": state, "severity": severity},
        )

    @app.get("/alerts/{identity}", include_in_schema=False)
    def alert(request: Request, identity: int) -> Response:
        report = reader.report(identity)
        told = report["alerts"][0]
        plots = {str(identity): told["plots"]} if told["plots"] else {}
        return show(
            request,
            "alert.html",
            title=f"Alert {identity}",
            alert=reader.alert(identity),
            told=told,
            drawn={"alerts": wording.finite(plots)},
        )

    @app.get("/incidents", include_in_schema=False)
    def incidents(request: Request, page: PageNumber = 1) -> Response:
        found = reader.incidents(monitor=None, only_open=False, limit=_ROWS, offset=(page - 1) * _ROWS)
        return show(request, "incidents.html", title="Incidents", incidents=found, pages=_pages(found, page))


def _drawn(scores: answers.Scores, entity: answers.EntityDetail) -> dict[str, Any]:
    """The plots of an entity."""
    return {
        "score": {"start": scores.start, "step": scores.step, "values": scores.scores},
        "alerts": [[span.start, span.end] for span in scores.alerts],
        "excluded": [[span.start, span.end] for span in scores.excluded],
        "unknown": [[span.start, span.end] for span in scores.unknown],
        "metrics": entity.window,
    }


def _pages(found: answers.Page[Any], page: int) -> dict[str, int]:
    return {"this": page, "last": max(1, -(-found.total // found.limit))}


def _at(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _epoch(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def _lasted(alert: answers.Alert) -> str:
    if alert.closed is None:
        return "still open"
    return wording.duration(_epoch(alert.closed) - _epoch(alert.opened))


def _url(path: str, values: Mapping[str, Any] | None = None, **more: Any) -> str:
    """A link; what is empty is left out."""
    query = {name: value for name, value in ({**(values or {}), **more}).items() if value not in (None, "")}
    return f"{path}?{urlencode(query)}" if query else path


@cache
def _file_url(name: str) -> str:
    """A link to a file, another one when it has changed."""
    package, path = _FILES[name]
    digest = hashlib.sha256(resources.files(package).joinpath(path).read_bytes()).hexdigest()
    return f"/static/{name}?{digest[:8]}"
