"""Model versions: saved, loaded, listed; and the lease that lets one training run at a time."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, and_, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from detector.errors import ArtifactError
from detector.store import parts
from detector.store.errors import translated
from detector.store.state import new_id
from detector.tables import lease, model, model_part


@dataclass(frozen=True)
class ModelRow:
    """A stored model version without its weights."""

    version: int
    monitor: str
    created_at: int
    is_live: bool
    bytes: int
    header: dict[str, Any]


def save(engine: Engine, *, monitor: str, artifact: bytes, header: dict[str, Any], now: int) -> int:
    """Stores a model version, makes it the live one of its monitor, and returns its number."""
    with translated(engine), engine.begin() as connection:
        connection.execute(update(model).where(model.c.monitor == monitor).values(is_live=0))
        result = connection.execute(
            insert(model).values(
                monitor=monitor,
                created_at=now,
                is_live=1,
                sha256=hashlib.sha256(artifact).hexdigest(),
                header=json.dumps(header),
            )
        )
        version = new_id(result)
        for number, data in parts.split(artifact):
            connection.execute(insert(model_part).values(version=version, part=number, data=data))
    return version


def promote(engine: Engine, *, monitor: str, version: int) -> None:
    """Makes a stored version the live one of its monitor."""
    mine = model.c.monitor == monitor
    with translated(engine), engine.begin() as connection:
        connection.execute(update(model).where(mine, model.c.version != version).values(is_live=0))
        connection.execute(update(model).where(mine, model.c.version == version).values(is_live=1))


def live_version(engine: Engine, monitor: str) -> int | None:
    """Number of the monitor's live model version, None if it has none."""
    query = select(model.c.version).where(model.c.monitor == monitor, model.c.is_live == 1)
    with translated(engine), engine.connect() as connection:
        return connection.scalar(query.order_by(model.c.version.desc()).limit(1))


def newest_version(engine: Engine, monitor: str) -> int | None:
    """Number of the monitor's newest model version, live or not; None if it has none."""
    with translated(engine), engine.connect() as connection:
        newest: int | None = connection.scalar(select(func.max(model.c.version)).where(model.c.monitor == monitor))
        return newest


def load(engine: Engine, version: int) -> bytes:
    """The bytes of a model version.

    Raises: ArtifactError if there is no such version or its bytes are not those that were saved.
    """
    stored = select(model_part.c.data).where(model_part.c.version == version).order_by(model_part.c.part)
    with translated(engine), engine.connect() as connection:
        sha256 = connection.scalar(select(model.c.sha256).where(model.c.version == version))
        try:
            artifact = parts.joined(row.data for row in parts.read(connection, stored))
        except TypeError:
            artifact = b""
    if sha256 is None:
        msg = f"no model version {version}; see: detector models list"
        raise ArtifactError(msg)
    if hashlib.sha256(artifact).hexdigest() != sha256:
        msg = f"model version {version} is damaged in the database (SHA-256 differs); run: detector retrain"
        raise ArtifactError(msg)
    return artifact


def listing(engine: Engine, monitor: str | None = None) -> list[ModelRow]:
    """All model versions, newest first."""
    columns = (model.c.version, model.c.monitor, model.c.created_at, model.c.is_live, model.c.header)
    size = select(func.sum(func.length(model_part.c.data))).where(model_part.c.version == model.c.version)
    query = select(*columns, size.scalar_subquery()).order_by(model.c.version.desc())
    if monitor is not None:
        query = query.where(model.c.monitor == monitor)
    with translated(engine), engine.connect() as connection:
        return [
            ModelRow(version, name, created_at, bool(is_live), int(size or 0), _header(header))
            for version, name, created_at, is_live, header, size in connection.execute(query)
        ]


def _header(stored: str) -> dict[str, Any]:
    """A version's header; empty if it is damaged, so that the others can be listed."""
    try:
        header = json.loads(stored)
    except (ValueError, TypeError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def acquire_lease(engine: Engine, name: str, holder: str, *, now: int, expires_at: int) -> bool:
    """Takes a lease if it is free, expired or already the holder's; whether it did. Times: epoch milliseconds."""
    is_free = and_(lease.c.name == name, or_(lease.c.expires_at <= now, lease.c.holder == holder))
    known = select(lease.c.holder, lease.c.expires_at).where(lease.c.name == name)
    with translated(engine):
        # one that will be refused does not write: on SQLite the holder itself would have to wait for that write
        with engine.connect() as connection:
            row = connection.execute(known).first()
        if row is not None and row.holder != holder and row.expires_at > now:
            return False
        try:
            with engine.begin() as connection:
                if row is None:
                    connection.execute(insert(lease).values(name=name, holder=holder, expires_at=expires_at))
                    return True
                taken = connection.execute(update(lease).where(is_free).values(holder=holder, expires_at=expires_at))
                return taken.rowcount == 1
        except IntegrityError:  # another one has just inserted it
            return False


def release_lease(engine: Engine, name: str, holder: str) -> None:
    """Gives a lease back."""
    is_mine = and_(lease.c.name == name, lease.c.holder == holder)
    with translated(engine), engine.begin() as connection:
        # its row stays: MariaDB's gap locks deadlock when several processes delete and insert it all the time
        connection.execute(update(lease).where(is_mine).values(expires_at=0))
