"""Copies of a SQLite database that is in use."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from sqlalchemy import Engine

from detector.errors import StoreError
from detector.store.errors import translated

INSTEAD = {
    "postgresql": "pg_dump --table='detector_*' NAME >detector.sql",
    "mysql": "mariadb-dump --single-transaction NAME >detector.sql",
    "mariadb": "mariadb-dump --single-transaction NAME >detector.sql",
}
"""What copies other databases."""


def copy(engine: Engine, file: Path) -> int:
    """Writes the database as it is now into a file that only this user can read; its size in bytes.

    SQLite's online backup: others go on reading and writing meanwhile. There is no file unless the copy is whole.

    Raises: OSError if the file cannot be written, StoreError if the database, or the copy of it, cannot be read.
    """
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # a new one, that only this user can read
    os.close(handle)
    unfinished = Path(name)
    try:
        with translated(engine), engine.connect() as connection, closing(sqlite3.connect(unfinished)) as target:
            source = connection.connection.driver_connection
            assert isinstance(source, sqlite3.Connection)
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
            found = target.execute("PRAGMA quick_check").fetchone()[0]
        if found != "ok":
            msg = f"the copy is damaged, and so is the database it was made of: {found}"
            raise StoreError(msg)
        os.replace(unfinished, file)
    except sqlite3.Error as exc:  # of the copy
        raise OSError(0, str(exc)) from exc
    finally:
        unfinished.unlink(missing_ok=True)
    return file.stat().st_size
