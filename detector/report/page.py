"""A report as one HTML file that needs nothing else: no server, no network, no other file."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from detector import wording

_HERE = resources.files("detector.report")


def render(report: dict[str, Any]) -> str:
    """The page of a report that `content.build` made.

    The template engine escapes names, comments and the like. The page's Content-Security-Policy lets only its own
    script and style run, and lets nothing reach out.
    """
    scripts = [_text("vendor/uPlot.iife.min.js"), _text("plots.js")]
    styles = [_text("vendor/uPlot.min.css"), _text("page.css")]
    # only this package's own files are not escaped; the template marks them
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_text("page.html")).render(
        **report,
        scripts=scripts,
        styles=styles,
        script_hashes=[_hash(script) for script in scripts],
        style_hashes=[_hash(style) for style in styles],
        drawn=wording.finite(
            {
                "zone": report["zone"],
                "days": report["overview"] and report["overview"]["days"],
                "alerts": {alert["id"]: alert["plots"] for alert in report["alerts"] if alert["plots"]},
            }
        ),
    )


def _text(name: str) -> str:
    return _HERE.joinpath(name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
