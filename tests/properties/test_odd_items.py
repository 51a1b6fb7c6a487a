"""One odd item in a source changes nothing for any other entity: scores, alerts, events and explanations stay.

An ordinary source is watched twice, with and without one odd item, by the same model version. CI tries some hundred
items; for more of them: DETECTOR_EXAMPLES=10000 pytest tests/properties/test_odd_items.py -k memory --timeout 7200
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from functools import cached_property
from itertools import groupby
from typing import Any

import made_versions
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from migrated import migrate
from sqlalchemy import Connection, Engine, event, select, text

from detector import database
from detector.config.sections import DecisionSection, EmbeddedSource, MonitorSection
from detector.detect import history
from detector.detect.horizon import Horizon
from detector.detect.recall import recall, stored_state
from detector.detect.tick import Monitor, tick
from detector.ports import Store
from detector.sources.sql import SqlSource, TableSpec
from detector.store import alerts as stored_alerts
from detector.store.alerts import AlertRow
from detector.store.memory import MemoryStore
from detector.store.state import StateStore
from detector.tables import alert_event, metadata, score

pytestmark = pytest.mark.slow

STEP, START = 60_000, 1_767_225_600_000  # 2026-01-01
SLOTS, LATENESS = 24, 4
FLEET = ("web-1", "web-2", "w\u00e9b-3")  # the model knows two of them
METRICS = ("cpu", "mem")
EXAMPLES = int(os.environ.get("DETECTOR_EXAMPLES", "0"))


def _few(examples: int, *, of: float = 1.0) -> settings:
    """Settings of a test: the same examples every time, unless so many are asked for; of: share of those."""
    asked = int(EXAMPLES * of)
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=asked or examples,
        derandomize=not asked,
        database=None,
        suppress_health_check=checks,
    )


# -- sources ----


class Latin(bytes):
    """Text that is no UTF-8, as only SQLite holds it."""


@dataclass(frozen=True, repr=False)
class Columns:
    """Types of a table, and the odd items that they can hold."""

    time: str
    name: str
    value: str
    times: Sequence[Any]
    names: Sequence[Any]
    values: Sequence[Any]
    metrics: Sequence[Any] = ()
    right: Sequence[str] = ()  # other forms of a right time, for strftime

    def __repr__(self) -> str:
        return f"{self.time}, {self.name}, {self.value}"

    @property
    def is_epoch(self) -> bool:
        """Whether times are seconds."""
        return self.time in {"INTEGER", "BIGINT"}

    def written(self, slot: float) -> Any:
        """Time of a slot as ordinary rows have it."""
        at = _moment(slot)
        return int(at.timestamp()) if self.is_epoch else at.strftime("%Y-%m-%d %H:%M:%S")


def _moment(slot: float) -> datetime:
    return datetime.fromtimestamp((START + slot * STEP) / 1000, UTC)


_EVERY_NAME = ["", "n" * 192, "WEB-1", "web-1 ", "web-1\t", " web-1", "\x1b[31m", "we\u0301b-3", "WÉB-3", "web-1\u200b"]
_EVERY_TEXT = ["n/a", "12,5", "", " ", "NaN", "-inf", "1e400", "\u0661\u0662", "1_0", "0x10", "true"]
_HUGE = [math.inf, -math.inf, 1e308, -1e308, 3e38, -3e38, 1e20, 5e-324]
_BYTES = [b"\xff\xfe", b"\x01", b"", b"web-1", b"cpu", Latin(b"caf\xe9"), Latin(b"\xed\xa0\x80"), "a\0b", "web-1\0"]
_METRICS = [None, "", "CPU", "cpu ", " cpu", "c\u0301pu", "n" * 192, "disk"]
_NUMBERS = [0, -1, 12, START, START * 1000, 2**62, -(2**62)]
_TEXT_FORMS = [
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%d %H:%M:%S.250",
    "%Y-%m-%d %H:%M",
    "%Y%m%dT%H%M%S",
    "%Y-%m-%dT%H:%M:%S+00:00",
]
_TEXT_TIMES = [
    *("", "n/a", "infinity", "-infinity", "0044-03-15 BC", "20000-01-01 00:00:00", "0000-00-00 00:00:00"),
    *("2026-01-01 00:05:61", "2026-01-01 0x:05", "2026-01-01", "1970-01-01 00:00:00", "9999-12-31 23:59:59"),
    *("2026-01-01T00:05:00+26:00", "2026-01-01\x0000:05:00", "2150-01-01 00:00:00", "2026-01-01 00:05:00 Z"),
    *(None, b"\xff\x00", b"2026-01-01 00:05:00", Latin(b"2026-01-01 00:0\xe9"), START, START // 1000, 0, 5.5),
]
SQLITE = [
    Columns("TEXT", "TEXT", "REAL", _TEXT_TIMES, [None, *_EVERY_NAME, *_BYTES, 5], [*_EVERY_TEXT, *_HUGE, *_BYTES],
            [*_METRICS, *_BYTES], _TEXT_FORMS),
    Columns("INTEGER", "TEXT", "TEXT", [*_NUMBERS, *_TEXT_TIMES, math.inf, 1e308], [None, *_EVERY_NAME, *_BYTES],
            [*_EVERY_TEXT, *_HUGE, *_BYTES], [*_METRICS, *_BYTES]),
]  # fmt: skip


_SERVER_TIMES = ["1970-01-01", "9999-12-31 23:59:59", "2150-01-01 00:00:00", None]
_POSTGRES_TIMES = ["infinity", "-infinity", "0044-03-15 BC", "20000-01-01", *_SERVER_TIMES]
_NAMES = [None, *_EVERY_NAME]
_BINARY = [*_NAMES, *(item for item in _BYTES if not isinstance(item, Latin))]
UTF8 = "CHARACTER SET utf8mb4"
SERVERS = {
    "postgresql": [
        Columns("TIMESTAMPTZ", "TEXT", "DOUBLE PRECISION", _POSTGRES_TIMES, _NAMES, [None, math.nan, *_HUGE], _METRICS),
        Columns("TIMESTAMP", "CHAR(200)", "REAL", _POSTGRES_TIMES, _NAMES, [None, math.nan, math.inf, 3e38], _METRICS),
        Columns("BIGINT", "TEXT", "TEXT", [*_NUMBERS, None], _NAMES, _EVERY_TEXT, _METRICS),
    ],
    "mysql": [
        Columns(
            "DATETIME",
            f"VARCHAR(300) {UTF8}",
            "DOUBLE",
            ["0000-00-00", *_SERVER_TIMES],
            _NAMES,
            [None, 1e308],
            _METRICS,
        ),
        Columns("BIGINT", "VARBINARY(300)", "BIT(16)", [*_NUMBERS, None], _BINARY, [None, 65535], _METRICS),
        Columns("DATETIME(3)", f"CHAR(200) {UTF8}", "VARCHAR(40)", _SERVER_TIMES, _NAMES, _EVERY_TEXT, _METRICS),
    ],
}


def _empty(engine: Engine, kinds: Columns, layout: str) -> SqlSource:
    """A source over the empty table s of a database."""
    is_long = layout == "long"
    parts = f"name {kinds.name}, value {kinds.value}" if is_long else ", ".join(f"{m} {kinds.value}" for m in METRICS)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS s"))
        connection.execute(text(f"CREATE TABLE s (time {kinds.time}, host {kinds.name}, {parts})"))
    spec = TableSpec(
        metrics=METRICS,
        table="" if layout == "query" else "s",
        query="SELECT * FROM s WHERE :start < :end" if layout == "query" else "",
        entity=("host",),
        time_format="epoch_seconds" if kinds.is_epoch else "timestamp",
        metric="name" if is_long else "",
        value="value" if is_long else "",
    )
    return SqlSource(engine, spec)


@dataclass(frozen=True)
class Row:
    """A row of a wide table, two of a long one."""

    arrives: float  # slot from which on it is there
    time: Any
    entity: Any
    values: tuple[Any, Any]
    names: tuple[Any, Any] = METRICS

    def lines(self) -> list[tuple[Any, ...]]:
        """Its rows in a long table."""
        named = zip(self.names, self.values, strict=True)
        return [(self.time, self.entity, name, value) for name, value in named if value is not None]


def _insert(connection: Connection, rows: Sequence[Row], *, is_long: bool) -> None:
    lines = [line for row in rows for line in (row.lines() if is_long else [(row.time, row.entity, *row.values)])]
    for is_latin, group in groupby(lines, key=lambda line: [isinstance(item, Latin) for item in line]):
        marks = ", ".join(
            f"CAST(:{n} AS TEXT)" if latin else f":{n}" for n, latin in zip("abcd", is_latin, strict=True)
        )
        given = [
            dict(zip("abcd", (bytes(i) if isinstance(i, Latin) else i for i in line), strict=True)) for line in group
        ]
        connection.execute(text(f"INSERT INTO s VALUES ({marks})"), given)


# -- cases ----


@dataclass(frozen=True)
class Case:
    """An ordinary source, an odd item, and how the source is watched with and without it."""

    kinds: Columns
    layout: str  # wide, long, query
    seed: int  # of the ordinary source
    item: str
    added: list[Row]  # the odd item
    at: int  # its place
    gone: tuple[str, int]  # an entity without rows from a slot on
    backwards: str  # an entity whose rows come newest first
    touched: str  # the entity that the item may change
    ticks: list[int]  # slots after which there is one
    restarts: frozenset[int]  # before these of them
    cells: int  # read at a time
    silent_minutes: int | None
    freeze_limit: int | None

    @cached_property
    def ordinary(self) -> list[Row]:
        """Rows without the odd item, slot by slot."""
        rng = np.random.default_rng(self.seed)
        values = rng.choice([0.0, 0.0, 0.0, 5.0, 11.0, 60.0, 400.0], size=(SLOTS, len(FLEET), 2)).tolist()
        is_there = rng.random((SLOTS, len(FLEET))) < 0.9
        for e, first in enumerate(rng.integers(0, 2 * SLOTS, len(FLEET)).tolist()):
            is_there[first : first + LATENESS + 3, e] = False  # some are away for longer
        return [
            Row(slot + 1, self.kinds.written(slot), FLEET[e], (values[slot][e][0], values[slot][e][1]))
            for slot, e in np.argwhere(is_there).tolist()
        ]

    @cached_property
    def odd(self) -> list[Row]:
        """Rows with the odd item."""
        entity, end = self.gone
        rows = [row for row in self.ordinary if row.entity != entity or row.arrives <= end]
        last = [row for row in reversed(rows) if row.entity == self.backwards]
        rows = [*(row for row in rows if row.entity != self.backwards), *last]
        return [*rows[: self.at], *self.added, *rows[self.at :]]


_VALUE = st.sampled_from([0.0, 7.0, 60.0, 400.0])
_SLOT = st.integers(0, SLOTS - 1)
_WHO = st.sampled_from(["web-1", "w\u00e9b-3", "new"])


def _row(draw: st.DrawFn, kinds: Columns, entity: Any, slot: float) -> Row:
    return Row(math.ceil(slot + 1), kinds.written(slot), entity, (draw(_VALUE), draw(_VALUE)))


def _text_of(name: Any) -> str:
    """The entity that a name may be taken for."""
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


Odd = tuple[Any, list[Row]]
"""Name of the odd item's entity, and rows to add."""


def _bad_time(draw: st.DrawFn, kinds: Columns) -> Odd:
    who, slot, odd = draw(_WHO), draw(_SLOT), draw(st.sampled_from(list(kinds.times)))
    return who, [replace(_row(draw, kinds, who, slot), time=odd)]


def _other_form(draw: st.DrawFn, kinds: Columns) -> Odd:
    who, slot = draw(_WHO), draw(_SLOT)
    forms = [_moment(slot).strftime(form) for form in kinds.right]
    zones = [timezone(timedelta(minutes=minutes)) for minutes in (330, -300, 840)]
    forms += [_moment(slot).astimezone(zone).isoformat() for zone in zones if kinds.right]
    time = draw(st.sampled_from(forms or [kinds.written(slot)]))
    return who, [replace(_row(draw, kinds, who, slot), time=time)]


def _future(draw: st.DrawFn, kinds: Columns) -> Odd:
    who, ahead = draw(_WHO), draw(st.sampled_from([0.5, 2, SLOTS // 2, SLOTS + 2, SLOTS + 40, 60 * 24 * 400]))
    return who, [replace(_row(draw, kinds, who, ahead), arrives=draw(st.integers(0, SLOTS)))]


def _bad_value(draw: st.DrawFn, kinds: Columns) -> Odd:
    who, slot, odd = draw(_WHO), draw(_SLOT), draw(st.sampled_from(list(kinds.values)))
    other = draw(st.sampled_from([0.0, None, odd]))
    return who, [replace(_row(draw, kinds, who, slot), values=(odd, other) if draw(st.booleans()) else (other, odd))]


def _bad_name(draw: st.DrawFn, kinds: Columns) -> Odd:
    name = draw(st.sampled_from(list(kinds.names)))
    first, slots = draw(_SLOT), draw(st.integers(1, SLOTS))
    return name, [_row(draw, kinds, name, slot) for slot in range(first, min(SLOTS, first + slots))]


def _bad_metric(draw: st.DrawFn, kinds: Columns) -> Odd:
    who, slot, name = draw(_WHO), draw(_SLOT), draw(st.sampled_from(list(kinds.metrics) or ["disk"]))
    return who, [replace(_row(draw, kinds, who, slot), names=(name, "mem"))]


def _doubled(draw: st.DrawFn, kinds: Columns) -> Odd:
    who, slot = draw(_WHO), draw(_SLOT)
    return who, [_row(draw, kinds, who, slot) for _ in range(draw(st.integers(1, 3)))]


def _comes_and_goes(draw: st.DrawFn, kinds: Columns) -> Odd:
    first, last = sorted((draw(_SLOT), draw(_SLOT)))
    hole = draw(_SLOT)
    return "new", [_row(draw, kinds, "new", slot) for slot in range(first, last + 1) if slot != hole]


def _half(draw: st.DrawFn, kinds: Columns) -> Odd:
    rows = [_row(draw, kinds, "new", slot) for slot in range(draw(_SLOT), SLOTS)]
    return "new", [replace(row, values=(row.values[0], None)) for row in rows]


def _late(draw: st.DrawFn, kinds: Columns) -> Odd:
    who, slots = draw(_WHO), draw(st.lists(_SLOT, min_size=1, max_size=5))
    late = st.integers(1, LATENESS + 3)
    return who, [replace(_row(draw, kinds, who, slot), arrives=slot + 1 + draw(late)) for slot in slots]


KINDS = (
    *(_bad_time, _other_form, _future, _bad_value, _bad_name, _bad_metric),
    *(_doubled, _comes_and_goes, _half, _late),
)


@st.composite
def cases(draw: st.DrawFn, every: Sequence[Columns]) -> Case:
    """Ordinary sources with an odd item at a random place."""
    kinds, make = draw(st.sampled_from(list(every))), draw(st.sampled_from(KINDS))
    name, added = make(draw, kinds)
    touched = _text_of(name)
    if kinds.name.startswith("CHAR"):  # where blanks at the end say nothing
        touched = touched.rstrip(" ")
    is_changed = draw(st.integers(0, 3)) == 0  # the rows of the same entity are, too
    ticks = sorted(draw(st.sets(st.integers(1, SLOTS + LATENESS + 2), max_size=6)) | {SLOTS + 14})
    return Case(
        kinds=kinds,
        layout="long" if make is _bad_metric else draw(st.sampled_from(["wide", "wide", "long", "query"])),
        seed=draw(st.integers(0, 2**32 - 1)),
        item=make.__name__,
        added=added,
        at=draw(st.integers(0, len(FLEET) * SLOTS)),
        gone=(touched, draw(_SLOT)) if is_changed else ("", 0),
        backwards=touched if draw(st.booleans()) else "",
        touched=touched,
        ticks=ticks,
        restarts=frozenset(draw(st.sets(st.sampled_from(ticks), max_size=2))),
        cells=draw(st.sampled_from([4_000_000, 60])),
        silent_minutes=draw(st.sampled_from([None, None, 5])),
        freeze_limit=draw(st.sampled_from([None, 3])),
    )


# -- watching ----


def _section(case: Case) -> MonitorSection:
    silent = case.silent_minutes
    return MonitorSection(
        name="web",
        source=EmbeddedSource(type="embedded"),
        metrics=METRICS,
        timesteps=2,
        delay=timedelta(0),
        lateness=timedelta(minutes=LATENESS),
        no_data_alert_after=None if silent is None else timedelta(minutes=silent),
        decision=DecisionSection(close_slots=2, reopen_slots=3, critical_slots=10, close_unknown_slots=6),
    )


def _watch(case: Case, rows: list[Row], engine: Engine, store: Store) -> None:
    """Ticks over what has arrived; before some of the ticks the process is another one."""
    horizon, source = Horizon.of(_section(case)), _empty(engine, case.kinds, case.layout)
    model = made_versions.by_size(FLEET[:2], 2, threshold=[10.0, 30.0], since=START, freeze_limit=case.freeze_limit)
    memory = recall(horizon, source, model, stored=stored_state(horizon, store, version=model.version), now=START)
    waiting = rows
    for slot in case.ticks:
        now = START + slot * STEP
        with engine.begin() as connection:
            _insert(connection, [row for row in waiting if row.arrives <= slot], is_long=case.layout == "long")
        waiting = [row for row in waiting if row.arrives > slot]
        if slot in case.restarts:
            memory = recall(horizon, source, model, stored=stored_state(horizon, store, version=model.version), now=now)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(history, "_CELLS", case.cells)
            memory, _ = tick(Monitor(horizon, source, store, ("pager",)), memory, now)


Outcome = dict[str, list[Any]]
"""Scores, alerts with explanations, and events of each entity; without ids and counts of writes, and without incidents,
which are of all entities together."""


def _outcome(alerts: Sequence[AlertRow], scores: Iterable[Sequence[Any]], events: Iterable[Sequence[Any]]) -> Outcome:
    """scores: entity and the rest of each; events: alert and the rest of each, in order."""
    found: Outcome = {}
    for entity, *rest in scores:
        found.setdefault(entity, []).append(rest)
    for row in sorted(alerts, key=lambda row: row.id):
        found.setdefault(row.entity, []).append(replace(row, id=0, incident=None, incident_size=0, revision=0))
    by_id = {row.id: row for row in alerts}
    for alert, *rest in events:
        found.setdefault(by_id[alert].entity, []).append((by_id[alert].episode, rest))
    return found


def _in_memory(case: Case, rows: list[Row], engine: Engine) -> Outcome:
    store = MemoryStore()
    _watch(case, rows, engine, store)
    events = [(told.alert, told.change, told.slot, told.notifiers) for told in store.events()]
    return _outcome(store.alerts(), [row[1:] for row in store.scores()], events)


def _in_database(case: Case, rows: list[Row], engine: Engine) -> Outcome:
    with engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
    _watch(case, rows, engine, StateStore(engine))
    of_event = [column for column in alert_event.c if column.name not in {"id", "alert_id"}]
    with engine.connect() as connection:
        scores = list(connection.execute(select(score.c.entity, score.c.slot, score.c.score).order_by(score.c.slot)))
        events = list(connection.execute(select(alert_event.c.alert_id, *of_event).order_by(alert_event.c.id)))
    return _outcome(stored_alerts.listing(engine), scores, events)


def _others(found: Outcome, case: Case) -> Outcome:
    return {entity: what for entity, what in found.items() if entity != case.touched}


def _holds(case: Case, watch: Callable[[Case, list[Row], Engine], Outcome], engine: Engine) -> None:
    without, found = watch(case, case.ordinary, engine), watch(case, case.odd, engine)

    assert _others(found, case) == _others(without, case)


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = database.connect(f"sqlite:///{tmp_path_factory.mktemp('odd')}/detector.db")
    migrate(engine)
    yield engine
    engine.dispose()


@_few(160)
@given(case=cases(SQLITE))
def test_one_odd_item_changes_nothing_for_the_others_in_memory(sqlite: Engine, case: Case) -> None:
    _holds(case, _in_memory, sqlite)


@_few(40, of=0.1)
@given(case=cases(SQLITE))
def test_one_odd_item_changes_nothing_for_the_others_in_a_database(sqlite: Engine, case: Case) -> None:
    _holds(case, _in_database, sqlite)


@pytest.fixture(params=["postgres", pytest.param("mariadb", marks=pytest.mark.mysql)])
def server(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = database.connect(str(request.getfixturevalue(f"{request.param}_database")))
    if request.param == "mariadb":  # which else holds no zero date
        event.listen(engine, "connect", lambda connection, _: connection.query("SET sql_mode = ''"))
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.mark.slow
@_few(20, of=0.01)
@given(data=st.data())
def test_one_odd_item_changes_nothing_for_the_others_on_a_server(server: Engine, data: st.DataObject) -> None:
    _holds(data.draw(cases(SERVERS[server.dialect.name])), _in_database, server)
