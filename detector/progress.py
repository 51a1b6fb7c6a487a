"""A bar on a terminal, one log line per tenth otherwise; always on stderr."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[float, str], None]
"""Told the share that is done, 0 to 1, and what is being done."""

logger = logging.getLogger(__name__)


@contextmanager
def shown(task: str) -> Iterator[Progress]:
    """A function to call with the share done, 0 to 1, and what is being done."""
    if sys.stderr.isatty():
        yield from _bar(task)
    else:
        yield _log_lines(task)


def _bar(task: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.fields[name]}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    console = Console(stderr=True)
    with Bar(*columns, TimeRemainingColumn(), TextColumn("{task.description}"), console=console) as bar:
        row = bar.add_task("", total=1.0, name=task)
        yield lambda done, what: bar.update(row, completed=done, description=what)


def _log_lines(task: str) -> Progress:
    told, share = time.monotonic(), 0.0

    def report(done: float, what: str) -> None:
        nonlocal told, share
        if int(done * 10) > int(share * 10):
            now = time.monotonic()
            # at the pace since the last line: reading goes at another than training
            left = (now - told) / (done - share) * (1.0 - done)
            percent = int(done * 10) * 10
            logger.info("event=progress task=%s percent=%d left_seconds=%.0f doing=%r", task, percent, left, what)
            told, share = now, done

    return report
