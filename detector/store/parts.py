"""Bytes of any size as rows that every server takes: MariaDB and MySQL limit a packet, by default to 16 MB."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, Select

PART = 1 << 20
"""Bytes of a part. It may take twice as many on its way, since they are escaped."""

_AT_ONCE = 4  # parts in memory beside the whole


def split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbered parts, at least one."""
    for number, begin in enumerate(range(0, max(len(data), 1), PART)):
        yield number, data[begin : begin + PART]


def joined(parts: Iterable[bytes]) -> bytes:
    """The whole of its parts in order.

    Raises: TypeError if one of them is no bytes: SQLite stores whatever somebody writes there.
    """
    whole = io.BytesIO()  # unlike `b"".join` it need not have all parts beside the whole
    for part in parts:
        whole.write(part)
    return whole.getvalue()


def read(connection: Connection, query: Select[Any]) -> Iterable[Any]:
    """Rows with parts in them, a few at a time."""
    return connection.execute(query, execution_options={"yield_per": _AT_ONCE})
