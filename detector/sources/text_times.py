"""Times that SQLite keeps as text: ranges of them, however each row is spelled."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Connection, TableClause, and_, func, literal, literal_column, not_, or_, select
from sqlalchemy.exc import OperationalError

from detector.sources import rows

_SPELLINGS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y%m%dT%H%M%S")
_WIDEST_OFFSET = timedelta(hours=26)  # from UTC−12 to UTC+14
_WIDEST_DST_CHANGE = timedelta(hours=1)
_ENDS = 100  # rows looked at for one that can be read, before all are


class TextTimes:
    """The time column of one table of SQLite that holds ISO 8601 text.

    Text sorts as time does only among rows spelled alike, so a range of times is one range of text for each spelling.
    Rows with an offset other than the zone's may stand up to 26 hours from where they belong. Whether there are any is
    looked up once for the times around a range, and from then on among new rows only.
    """

    def __init__(self, table: TableClause, time: str, zone: ZoneInfo) -> None:
        self._table = table
        self._time = table.c[time]
        self._zone = zone
        self._has_offsets = False
        self._without: tuple[datetime, datetime] | None = None  # no row there has an offset ...
        self._newest_row: int | None = None  # ... up to this rowid

    def within(self, connection: Connection, start: int, end: int) -> ColumnElement[bool]:
        """Holds for all rows with start ≤ time < end (epoch milliseconds), and for some not far from them."""
        first, last = self._local(start, -1), self._local(end, 1)
        close = or_(*(self._between(first, last, spelling) for spelling in _SPELLINGS))
        if not self._offsets_near(connection, first, last):
            return close
        around = self._between(first - _WIDEST_OFFSET, last + _WIDEST_OFFSET, _SPELLINGS[0], _SPELLINGS[1])
        basic = self._between(first - _WIDEST_OFFSET, last + _WIDEST_OFFSET, _SPELLINGS[2])
        return or_(close, and_(or_(around, basic), self._has_offset()))

    def end(
        self, connection: Connection, now: int, *, is_newest: bool, also: Sequence[ColumnElement[bool]]
    ) -> int | None:
        """Time of the newest or the oldest row from 1971 until now that can be read, None if there is none.

        also: what else must hold for a row
        """
        first, last = self._local(rows.FIRST, -1), self._local(now, 1)
        usual = self._between(first, last, _SPELLINGS[0], _SPELLINGS[1])
        ranges = [usual, self._between(first, last, _SPELLINGS[2])]
        found = [at for part in ranges for at in self._nearest(connection, [part, *also], now, is_newest=is_newest)]
        if not found or not is_newest:
            return min(found, default=None)
        newest = max(found)
        # rows of the same day with a blank sort before those with a T; rows with another offset stand elsewhere
        day = self._local(newest, 1).strftime("%Y-%m-%d")
        blank = and_(self._time >= f"{day} ", self._time < f"{day}T")
        found += self._nearest(connection, [blank, *also], now, is_newest=True)
        moment = self._local(newest, 0)
        if self._offsets_near(connection, moment, moment):
            around = self._between(moment - _WIDEST_OFFSET, moment + _WIDEST_OFFSET, _SPELLINGS[0], _SPELLINGS[1])
            query = select(self._time).where(around, self._has_offset(), *also)
            found += self._readable(list(connection.scalars(query)), now)
        return max(found)

    def outside(self, now: int) -> ColumnElement[bool]:
        """Holds for all rows whose text is no time from 1971 until now, and for some that are."""
        time, first, last = self._time, self._local(rows.FIRST, -1), self._local(now, 0)
        blank = and_(time >= last.strftime(_SPELLINGS[0]), time < last.strftime("%Y-%m-%dT"))
        # 20261128T10 sorts behind all of 2026-11-28: rows spelled so are compared with their own kind
        is_basic_before = and_(time.op("GLOB")("????[0-9]*"), self._between(first, last, _SPELLINGS[2]))
        after = and_(time >= last.strftime(_SPELLINGS[1]), not_(is_basic_before))
        return or_(time.is_(None), time < first.strftime(_SPELLINGS[0]), blank, after)

    def _nearest(
        self, connection: Connection, where: Sequence[ColumnElement[bool]], now: int, *, is_newest: bool
    ) -> list[int]:
        """Times of some rows at one end that can be read."""
        order = self._time.desc() if is_newest else self._time.asc()
        query = select(self._time).where(*where).order_by(order)
        found = self._readable(list(connection.scalars(query.limit(_ENDS))), now)
        if found:
            return found
        with connection.execute(query) as result:
            for part in result.scalars().partitions(10_000):
                if found := self._readable(part, now):
                    return found
        return []

    def _readable(self, column: Sequence[Any], now: int) -> list[int]:
        times = rows.to_milliseconds(column, "timestamp", self._zone)
        return times[(times != rows.BAD_TIME) & (times < now)].tolist()  # type: ignore[no-any-return]  # numpy's tolist

    def _local(self, time: int, outward: int) -> datetime:
        """A time in the column's zone, moved outward by what clocks may be set back."""
        moment = datetime.fromtimestamp(time / 1000, UTC)
        if self._zone.key != "UTC":
            moment = (moment + outward * _WIDEST_DST_CHANGE).astimezone(self._zone)
        return moment

    def _between(self, first: datetime, last: datetime, spelling: str, until: str = "") -> ColumnElement[bool]:
        return and_(self._time >= lowest(first, spelling), self._time < highest(last, until or spelling))

    def _has_offset(self) -> ColumnElement[bool]:
        """Holds for text with an offset other than the zone's."""
        clock = func.substr(self._time, 12)
        if self._zone.key == "UTC":
            return and_(clock.op("GLOB")("*[-+][0-9]*"), not_(clock.op("GLOB")("*[-+]00*")))
        return clock.op("GLOB")("*[-+Zz]*")

    def _offsets_near(self, connection: Connection, first: datetime, last: datetime) -> bool:
        """Whether any row that may belong between two times has such an offset."""
        if self._has_offsets:
            return True
        low, high = first - _WIDEST_OFFSET, last + _WIDEST_OFFSET
        newest_row = self.last_rowid(connection)
        parts = [(low, high)]
        if self._without is not None and self._newest_row is not None and newest_row is not None:
            is_new = literal_column("rowid") > self._newest_row
            known_low, known_high = self._without
            if self._finds_offset(connection, is_new):
                self._has_offsets = True
            elif low <= known_high and known_low <= high:
                parts = [part for part in ((low, known_low), (known_high, high)) if part[0] < part[1]]
                low, high = min(low, known_low), max(high, known_high)
        for part in parts:
            extended = self._between(*part, _SPELLINGS[0], _SPELLINGS[1])
            basic = self._between(*part, _SPELLINGS[2])
            self._has_offsets = self._has_offsets or self._finds_offset(connection, or_(extended, basic))
        self._without, self._newest_row = (low, high), newest_row
        return self._has_offsets

    def _finds_offset(self, connection: Connection, where: ColumnElement[bool]) -> bool:
        query = select(literal(1)).select_from(self._table).where(where, self._has_offset()).limit(1)
        return connection.scalar(query) is not None

    def last_rowid(self, connection: Connection) -> int | None:
        """None for a view and for a table without rowid, whose new rows cannot be told."""
        try:
            return connection.scalar(select(func.max(literal_column("rowid"))).select_from(self._table))
        except OperationalError:
            return None


def lowest(moment: datetime, spelling: str) -> str:
    """A text that no row of this time or a later one sorts before; a row may leave out seconds, minutes or hours."""
    written = moment.strftime(spelling)
    for zero in (":00", ":00", " 00", "T00"):
        written = written.removesuffix(zero)
    return written


def highest(moment: datetime, spelling: str) -> str:
    """A text that every row before this time sorts before: without fraction and zone it sorts before those with."""
    return (moment + timedelta(microseconds=999_999)).strftime(spelling)  # the next full second
