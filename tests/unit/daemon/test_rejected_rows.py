"""How rejects become counts and log lines."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from detector.core.rejects import Reject
from detector.daemon.rejected_rows import RejectedRows
from detector.errors import SourceUnavailable
from detector.sources.memory import MemorySource

HOUR = 3600.0


class _Watched:
    def __init__(self) -> None:
        self.now = 0.0
        self.counts: Counter[str] = Counter()
        self.rows = RejectedRows("web", lambda reason, rows: self.counts.update({reason: rows}), lambda: self.now)


class _Source(MemorySource):
    """A source with rows that no read comes upon."""

    outside: tuple[Reject, ...] | None = ()
    asked = 0

    def rejects(self, now: int) -> tuple[Reject, ...]:
        type(self).asked += 1
        if self.outside is None:
            msg = "too slow"
            raise SourceUnavailable(msg)
        return self.outside


@pytest.fixture
def watched() -> _Watched:
    return _Watched()


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> type[_Source]:
    monkeypatch.setattr(_Source, "asked", 0)
    return _Source


def _lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_all_rejects_are_counted_and_told_of_once_an_hour(watched: _Watched, caplog: pytest.LogCaptureFixture) -> None:
    for watched.now in (0.0, 60.0, HOUR - 1, HOUR):
        watched.rows.note([Reject("time", 2, "n/a"), Reject("entity", 1, "a\\x00")])

    assert watched.counts == {"time": 8, "entity": 4}
    assert _lines(caplog) == [
        "event=rows_rejected monitor=web reason=time rows=2 example='n/a'",
        "event=rows_rejected monitor=web reason=entity rows=1 example='a\\\\x00'",
        "event=rows_rejected monitor=web reason=time rows=6 example='n/a'",
        "event=rows_rejected monitor=web reason=entity rows=3 example='a\\\\x00'",
    ]


def test_rows_that_stand_outside_all_reads_are_counted_once(
    watched: _Watched, source: type[_Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = object.__new__(source)
    for hour, rows in enumerate([3, 3, 5, 1, 2]):
        watched.now = hour * HOUR
        monkeypatch.setattr(source, "outside", (Reject("time", rows, "n/a"),))
        watched.rows.look_outside(made, 0)
        watched.rows.look_outside(made, 0)

    assert watched.counts == {"time": 3 + 2 + 1}
    assert source.asked == 5


def test_a_look_that_fails_costs_nothing_but_itself(
    watched: _Watched, source: type[_Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "outside", None)

    watched.rows.look_outside(object.__new__(source), 0)

    assert watched.counts == {}
