"""Errors of the detector's own database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from detector.database import reason, redacted
from detector.errors import StoreError


@contextmanager
def translated(engine: Engine) -> Iterator[None]:
    """Raises a driver's errors as StoreError."""
    try:
        yield
    except DBAPIError as exc:
        msg = f"the detector's database {redacted(engine.url)} refused: {reason(exc)}"
        raise StoreError(msg) from exc
    except NoConnectionFree as exc:
        msg = f"the detector's database {redacted(engine.url)} has no connection free; too much is asked of it at once"
        raise StoreError(msg) from exc
