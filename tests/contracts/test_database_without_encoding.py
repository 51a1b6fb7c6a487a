"""A PostgreSQL database without an encoding, as `initdb` makes them where no language is set."""

from __future__ import annotations

import pytest
from commits import change, commit
from sqlalchemy import create_engine, make_url, text

from detector import database
from detector.core.decide import Change
from detector.store import alerts, schema
from detector.store.state import StateStore

pytestmark = pytest.mark.slow


def test_names_are_stored_and_read_back(postgres_url: str) -> None:
    server = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text("CREATE DATABASE without_encoding ENCODING 'SQL_ASCII' TEMPLATE template0"))
    url = make_url(postgres_url).set(database="without_encoding").render_as_string(hide_password=False)
    engine = database.connect(url)
    try:
        schema.upgrade(engine)
        StateStore(engine).commit(commit(changes=[change(Change.OPENED, entity="Zürich-1")]))

        assert [row.entity for row in alerts.listing(engine)] == ["Zürich-1"]
    finally:
        engine.dispose()
        with server.connect() as connection:
            connection.execute(text("DROP DATABASE without_encoding WITH (FORCE)"))
        server.dispose()
