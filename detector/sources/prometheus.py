"""A Prometheus, or what answers like one (VictoriaMetrics, Thanos, Mimir): the values of queries, slot by slot.

The value of a slot is what its query says one millisecond before the slot's end, the last moment that belongs to it,
from the samples of that slot alone (`config.promql`). So values do not depend on how a range is cut, and none is
repeated in a slot that has no sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from detector.config.promql import Expression
from detector.core.rejects import Reject
from detector.core.series import Bool, Int64, Samples
from detector.errors import SourceError, SourceUnavailable
from detector.sources import rows
from detector.sources.prometheus_api import Api, Columns, TooMuch
from detector.times import DAY_MS

_HOUR = 3_600_000
_MOST_SLOTS = 11_000  # of a series in one answer: Prometheus refuses more
_MOST_VALUES = 200_000  # in one answer, all series together: some 5 MB
_MOST_COUNTED = 5_000_000  # series × slots that the server goes through at a time to count: it holds 50 million
_FIRST_SLOTS = 10  # while it is not known how many series there are
_ADJUSTED = (
    60_000  # milliseconds before now in which VictoriaMetrics may repeat values where steps are shorter than that
)
_SMALLER = 8  # times, after an answer that was too much
_SEARCHED = 400 * DAY_MS  # for the oldest sample


@dataclass(frozen=True)
class QuerySpec:
    """What is asked: a query for each metric, with the labels that name an entity."""

    metrics: tuple[str, ...]
    queries: tuple[Expression, ...]  # of each metric
    aggregates: tuple[str, ...]  # of each metric, for queries that are a selector
    entity: tuple[str, ...]  # labels
    step: int  # milliseconds
    only_entity: str = "all"


class PrometheusSource:
    """The port `Source` over range queries in bounded pieces."""

    def __init__(self, api: Api, spec: QuerySpec) -> None:
        self._api = api
        self._spec = spec
        self._series: dict[int, int] = {}  # how many a query has, by metric
        self._fit: dict[tuple[int, bool], int] = {}  # slots that were too many for one answer are never again asked for
        self._is_closed: bool | None = None  # whether a range holds the moment it begins at; not known yet
        self._oldest: dict[int, tuple[int, int]] = {}  # by metric: when it was searched for, and what was found

    def read(self, start: int, end: int) -> Samples:
        """All samples with start ≤ time < end, both in epoch milliseconds; each is of the last moment of its slot.

        Raises: SourceUnavailable if the server does not answer in time, SourceError if it answers something else.
        """
        step = self._spec.step
        first, last = -(-(start + 1) // step) * step, end // step * step
        names, noted = rows.Names(), rows.Noted()
        parts = [
            self._part(metric, found, begin, names, noted)
            for metric in range(len(self._spec.metrics))
            for begin, found in self._pieces(metric, first, last)
        ]
        return rows.compact(rows.samples(names.entities, parts, noted.rejects))

    def extent(self, now: int) -> tuple[int, int] | None:
        """Times of the oldest and the newest sample of the last 400 days, None if there is none; epoch milliseconds.

        What is older than an hour is looked for by the day, then by the hour: a few slots alone may be overlooked.
        now: epoch milliseconds
        """
        last = (now + 1) // self._spec.step * self._spec.step  # end of the newest slot that is over
        found = [self._ends(metric, last) for metric in range(len(self._spec.metrics))]
        ends = [pair for pair in found if pair is not None]
        return (min(pair[0] for pair in ends) - 1, max(pair[1] for pair in ends) - 1) if ends else None

    def rejects(self, now: int) -> tuple[Reject, ...]:
        """None: every sample has a time that a read comes upon."""
        return ()

    def names(self) -> list[str]:
        """Names of all metrics that the server has. Raises: as `read`."""
        return self._api.names()

    # -- questions ----------------------------------------------------------------------------------------------------

    def _pieces(
        self, metric: int, first: int, last: int, *, every: int = 1, counts: bool = False
    ) -> Iterator[tuple[int, Columns]]:
        """Answers about slots by their ends, from the first to the last; each with its first end.

        every: one of so many slots; counts: how many series there are, instead of all of them
        """
        apart, most = self._spec.step * every, _MOST_COUNTED if counts else _MOST_VALUES
        while first <= last:
            known = self._series.get(metric)
            fits = _FIRST_SLOTS if known is None else max(1, most // max(1, known))
            fits = min(fits, self._fit.get((metric, counts), _MOST_SLOTS))
            slots = min(fits, (last - first) // apart + 1)
            if self._is_adjusted(apart, first):
                slots = max(1, min(slots, (last - first - _ADJUSTED) // apart + 1))
            try:
                found = self._asked(metric, first, slots, apart, counts=counts)
            except TooMuch:
                if slots == 1:
                    raise
                self._fit[metric, counts] = max(1, slots // _SMALLER)
                continue
            there = _most_counted(found) if counts else len(found.labels)
            self._series[metric] = max(there, (known or 0) // _SMALLER)  # many may follow where there are none
            yield first, found
            first += slots * apart

    def _asked(self, metric: int, first: int, slots: int, apart: int, *, counts: bool) -> Columns:
        """The answer to a metric's query about the ends of slots."""
        name, aggregate = self._spec.metrics[metric], self._spec.aggregates[metric]
        try:
            span = self._spec.step - self._holds_its_begin(first)
            query = self._spec.queries[metric].within(span, aggregate)
            query = f"count({query})" if counts else query
            start, end = _moment(first), _moment(first + (slots - 1) * apart)
            seconds = max(apart, _ADJUSTED if slots == 1 else 0) / 1000
            return self._api.series(query, name=name, start=start, end=end, step=f"{seconds:.3f}")
        except SourceUnavailable:
            self._is_closed = None  # perhaps another version will be there next
            raise

    def _holds_its_begin(self, at: int) -> bool:
        """Whether a range such as [1s] holds a sample that is exactly as old: up to Prometheus 2 it does.

        Such a sample belongs to the slot before. In VictoriaMetrics and from Prometheus 3 on, ranges are half-open.
        """
        if self._is_closed is None:
            moment = str(at // 1000)
            query = "count_over_time(vector(1)[1s:1s])"  # one, or two with the moment a second ago
            found = self._api.series(query, name="of its version", start=moment, end=moment, step="1")
            self._is_closed = _most_counted(found) > 1
        return self._is_closed

    def _is_adjusted(self, apart: int, at: int) -> bool:
        """Whether the newest slots must be asked for one by one.

        Where steps are shorter than a minute, VictoriaMetrics puts the value before in place of those of its last 30
        seconds (`-search.latencyOffset`, `-search.maxStepForPointsAdjustment`); one slot alone has no such step.
        """
        return apart < _ADJUSTED and not self._holds_its_begin(at)

    # -- answers ------------------------------------------------------------------------------------------------------

    def _part(self, metric: int, found: Columns, first: int, names: rows.Names, noted: rows.Noted) -> rows.Part:
        """An answer as columns, (N,) each; first: end of its first slot."""
        series, time = found.series, found.time
        if ((time + 1 - first) % self._spec.step).any():
            msg = f"source {self._api.shown} answers for other times than it is asked for; is there a cache before it?"
            raise SourceError(msg)
        called = [self._name(one) for one in found.labels]
        entity = names.rows(called)[series]
        noted.note("entity", entity < 0, lambda row: called[series[row]] or _shown(found.labels[series[row]]))
        values = rows.to_values(found.written)
        if not rows.usable(values).all():
            noted.note("value", (entity >= 0) & rows.unreadable(found.written, values), found.written.__getitem__)
        if len(set(called)) < len(called):
            is_shared = (entity >= 0) & _repeated(entity, time)
            noted.note("series", is_shared, lambda row: f"{called[series[row]]}: {_difference(found, entity, row)}")
            values = np.where(is_shared, np.nan, values)
        return entity, np.full(len(time), metric, dtype=np.int32), time, values

    def _name(self, labels: Mapping[str, str]) -> str | None:
        """The entity that a series is of; None if it lacks one of the labels."""
        if not self._spec.entity:
            return self._spec.only_entity
        parts = [labels.get(label, "") for label in self._spec.entity]
        return "/".join(parts) if all(parts) else None

    # -- extent -------------------------------------------------------------------------------------------------------

    def _ends(self, metric: int, last: int) -> tuple[int, int] | None:
        """Ends of a metric's oldest and newest slot up to one, None if there is none; epoch milliseconds."""
        step = self._spec.step
        recent = self._there(metric, last - self._whole(_HOUR) + step, last)
        searched_at, oldest = self._oldest.get(metric, (0, 0))
        if recent.size and 0 <= last - searched_at < DAY_MS:
            return oldest, int(recent[-1])
        first = self._found(metric, last - _SEARCHED, last, side=0)
        if first is None and not recent.size:
            return None
        begin = last if first is None else first
        for apart, before in ((_HOUR, DAY_MS), (step, _HOUR)):
            begin = self._near(metric, begin - self._whole(before) + step, begin, apart=apart, side=0, other=begin)
        if recent.size:
            end = int(recent[-1])
        else:
            end = self._found(metric, begin, last, side=-1) or begin
            for apart, after in ((_HOUR, DAY_MS), (step, _HOUR)):
                beyond = min(end + self._whole(after) - step, last)
                end = self._near(metric, end, beyond, apart=apart, side=-1, other=end)
        self._oldest[metric] = last, begin
        return begin, end

    def _found(self, metric: int, first: int, last: int, *, side: int) -> int | None:
        """The first (side 0) or last (−1) slot with a value, of one a day, by its end; None if none has one."""
        day = self._whole(DAY_MS)
        month = 30 * day
        begins = range(first // day * day, last + 1, month)
        for begin in begins if side == 0 else reversed(begins):
            found = self._there(metric, begin, min(begin + month - day, last), every=day // self._spec.step)
            if found.size:
                return int(found[side])
        return None

    def _near(self, metric: int, first: int, last: int, *, apart: int, side: int, other: int) -> int:
        """The first (side 0) or last (−1) slot with a value, of some so far apart, by its end; another if none has."""
        every = self._whole(apart) // self._spec.step
        begin = last - (last - first) // (every * self._spec.step) * every * self._spec.step
        found = self._there(metric, begin, last, every=every)
        return int(found[side]) if found.size else other

    def _whole(self, span: int) -> int:
        """A span in whole steps, milliseconds."""
        return -(-span // self._spec.step) * self._spec.step

    def _there(self, metric: int, first: int, last: int, every: int = 1) -> Int64:
        """Ends of the slots that have a value, (N,), of some from the first to the last."""
        pieces = self._pieces(metric, first, last, every=every, counts=True)
        return np.concatenate([np.empty(0, np.int64), *(found.time + 1 for _, found in pieces)])


def _moment(end: int) -> str:
    """The last moment of the slot that ends then, as the servers take it: in seconds.

    A fifth of a millisecond later, which Prometheus rounds away and VictoriaMetrics cuts off: seconds with three digits
    are no binary number, and may be a millisecond less when they are cut.
    """
    return f"{(end - 1) // 1000}.{(end - 1) % 1000:03d}2"


def _most_counted(found: Columns) -> int:
    return int(rows.to_values(found.written).max(initial=0.0))


def _repeated(entity: rows.Int32, time: Int64) -> Bool:
    """Where an entity has several values at the same time, (N,)."""
    order = np.lexsort((time, entity))
    same = (np.diff(entity[order]) == 0) & (np.diff(time[order]) == 0)
    found = np.zeros(len(time), dtype=np.bool_)
    found[order[1:]] = same
    found[order[:-1]] |= same
    return found


def _difference(found: Columns, entity: rows.Int32, row: int) -> str:
    """Labels that tell the series apart which an entity has at the time of a value."""
    mine = found.series[(entity == entity[row]) & (found.time == found.time[row])]
    labels = [found.labels[index] for index in mine.tolist()]
    names = sorted({name for one in labels for name in one})
    return ", ".join(name for name in names if len({one.get(name) for one in labels}) > 1)


def _shown(labels: Mapping[str, str]) -> str:
    """Labels as Prometheus writes them."""
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
