"""Migrations: brings the database to this version's tables, and checks that it has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine, column, inspect, select, table
from sqlalchemy.exc import DBAPIError

from detector.database import missing_file, reason, redacted
from detector.errors import SchemaOutdated, StoreError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0006"
"""The revision this version of the program needs; a test holds it equal to the newest migration."""

VERSION_TABLE = "detector_alembic_version"

_PACKAGE = Path(__file__).resolve().parents[1]


def _scripts() -> Path:
    """The migrations: beside this package in an installed wheel, at the top level in a checkout."""
    installed = _PACKAGE / "migrations"
    return installed if installed.is_dir() else _PACKAGE.parent / "migrations"


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    return config


def current(engine: Engine) -> str | None:
    """The revision of the database, None for an empty or missing one; never creates its file.

    Raises: StoreError if the database does not answer.
    """
    if missing_file(engine.url) is not None:
        return None
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table(VERSION_TABLE):
                return None
            return connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))
    except DBAPIError as exc:
        msg = f"cannot reach {redacted(engine.url)}: {reason(exc)}"
        raise StoreError(msg) from exc


def upgrade(engine: Engine) -> None:
    """Runs the migrations that the database has not seen yet.

    Raises: SchemaOutdated if a newer version of the program has made the tables; StoreError if the database refuses.
    """
    _refuse_newer(engine, current(engine))
    from alembic import command

    config = _config()
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except DBAPIError as exc:
        msg = f"cannot upgrade {redacted(engine.url)}: {reason(exc)}"
        raise StoreError(msg) from exc


def check(engine: Engine) -> None:
    """Returns if the database is at this version's revision.

    Raises: SchemaOutdated saying what to do.
    """
    missing = missing_file(engine.url)
    if missing is not None:
        received = f"Received: {redacted(engine.url)}, but this user sees no file {missing}"
        todo = "name the configuration of the running detector with --config, or create it: detector db upgrade"
        msg = f"the detector's database must exist. {received}; {todo}"
        raise SchemaOutdated(msg)
    found = current(engine)
    _refuse_newer(engine, found)
    if found != HEAD:
        at = f"{redacted(engine.url)} is at schema {found or 'none'}"
        msg = f"{at}, this version needs {HEAD}; run: detector db upgrade"
        raise SchemaOutdated(msg)


def _refuse_newer(engine: Engine, found: str | None) -> None:
    """Refuses a revision that this version does not know: revisions are numbered."""
    if found is not None and found > HEAD:
        at = f"{redacted(engine.url)} is at schema {found}"
        msg = f"{at}, newer than this program, which knows {HEAD}; install the version that made it, or a later one"
        raise SchemaOutdated(msg)
