"""Databases with this version's tables, without running the migrations for every test."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from detector import database
from detector.store import schema

_statements: dict[str, list[tuple[str, Any]]] = {}
"""What the migrations execute on an empty database, by dialect."""


def migrate(engine: Engine) -> None:
    """Gives an empty database this version's tables; a file of SQLite must not exist."""
    dialect = engine.dialect.name
    if dialect == "sqlite":
        with Path(str(engine.url.database)).open("xb") as file:
            file.write(_template())
    elif dialect in _statements:
        with engine.begin() as connection:
            for statement, parameters in _statements[dialect]:
                connection.exec_driver_sql(statement, parameters or None)
    else:
        _statements[dialect] = _executed(engine)


def _executed(engine: Engine) -> list[tuple[str, Any]]:
    """Runs the migrations; what they have executed, but for questions."""
    noted: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if not statement.lstrip().startswith(("SELECT", "SHOW", "DESCRIBE")):
            noted.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        schema.upgrade(engine)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    return noted


@cache
def _template() -> bytes:
    """A SQLite file that the migrations have made."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "detector.db"
        engine = database.connect(f"sqlite:///{file}")
        schema.upgrade(engine)
        engine.dispose()
        return file.read_bytes()
