"""A source that keeps count of the rows that could not be read through it."""

from __future__ import annotations

from detector.core import rejects
from detector.core.rejects import Reject
from detector.core.series import Samples
from detector.errors import SourceError
from detector.ports import Source


class Tally:
    """The port `Source`: passes every question on, and adds up the rejects of all reads.

    Of reads that overlap the one counts that met most, so that a row which several of them meet is one row.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._found: tuple[Reject, ...] = ()
        self._read: list[tuple[int, int]] = []

    def read(self, start: int, end: int) -> Samples:
        """As the source does."""
        samples = self._source.read(start, end)
        is_again = any(start < until and since < end for since, until in self._read)
        self._found = (rejects.greater if is_again else rejects.added)(self._found, samples.rejects)
        self._read.append((start, end))
        return samples

    def extent(self, now: int) -> tuple[int, int] | None:
        """As the source does."""
        return self._source.extent(now)

    def rejects(self, now: int) -> tuple[Reject, ...]:
        """As the source does."""
        return self._source.rejects(now)

    def lines(self, now: int) -> list[str]:
        """One line for each reason: rejects of all reads, and rows that no read comes upon if the source answers."""
        try:
            outside = self._source.rejects(now)
        except SourceError:
            outside = ()  # whoever read from it has met the same error
        return [rejects.in_words(reject) for reject in rejects.added(self._found, outside)]
