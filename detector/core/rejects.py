"""Rows of a source that cannot be read: counted by reason, with one example each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

REASONS = ("time", "future", "entity", "metric", "value", "series")
"""Why a row is rejected: its time, entity, metric or value cannot be read, its time is still to come, or several series
are one entity's."""

_LONGEST = 80  # characters of an example


@dataclass(frozen=True)
class Reject:
    """Rows that could not be read for one reason."""

    reason: str  # one of REASONS
    rows: int
    example: str  # one of them, printable


def printable(item: object) -> str:
    r"""What a row held, at most 80 characters, with control characters and bytes that are no UTF-8 shown escaped.

    >>> printable("web\n7"), printable(b"caf\xe9"), printable(None)
    ('web\\n7', 'caf\\xe9', 'NULL')
    """
    if item is None:
        return "NULL"
    text = item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else str(item)
    shown = "".join(map(_shown, text[: _LONGEST + 1]))
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def _shown(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte that Python keeps in this form (PEP 383)
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def added(*found: Iterable[Reject]) -> tuple[Reject, ...]:
    """Rejects of several reads together, one for each reason; the first example stays."""
    total: dict[str, Reject] = {}
    for reject in (reject for some in found for reject in some):
        known = total.get(reject.reason)
        total[reject.reason] = replace(known, rows=known.rows + reject.rows) if known else reject
    return tuple(sorted(total.values(), key=lambda reject: REASONS.index(reject.reason)))


def greater(*found: Iterable[Reject]) -> tuple[Reject, ...]:
    """Rejects of several reads of the same rows: of each reason the read that met most of them."""
    ordered = sorted((reject for some in found for reject in some), key=lambda reject: reject.rows)
    most = {reject.reason: reject for reject in ordered}
    return tuple(sorted(most.values(), key=lambda reject: REASONS.index(reject.reason)))


def in_words(reject: Reject) -> str:
    """One line about rejects of one reason.

    >>> in_words(Reject("time", 1, "n/a"))
    "1 row left out: its time cannot be read, such as 'n/a'"
    """
    if reject.reason == "series":
        return (
            f"{_rows(reject)} counted as missing: several series are of one entity and differ in labels, such as"
            f" '{reject.example}'; add a label to `entity`, or aggregate in the query, as by sum by (…) (…)"
        )
    what = {"future": "lies in the future", "metric": "is none of the monitor's"}.get(reject.reason, "cannot be read")
    name = "time" if reject.reason == "future" else reject.reason
    told = "counted as missing" if reject.reason == "value" else "left out"
    return f"{_rows(reject)} {told}: its {name} {what}, such as '{reject.example}'"


def _rows(reject: Reject) -> str:
    return f"{reject.rows} row" if reject.rows == 1 else f"{reject.rows} rows"
