"""Databases with this version's tables, without running the migrations for every test."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from sqlalchemy import Engine

from detector import database
from detector.store import schema


def migrate(engine: Engine) -> None:
    """Gives an empty database this version's tables; a SQLite file, which must not exist, is copied from another."""
    if engine.dialect.name == "sqlite":
        with Path(str(engine.url.database)).open("xb") as file:
            file.write(_template())
    else:
        schema.upgrade(engine)


@cache
def _template() -> bytes:
    """A SQLite file that the migrations have made."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "detector.db"
        engine = database.connect(f"sqlite:///{file}")
        schema.upgrade(engine)
        engine.dispose()
        return file.read_bytes()
