"""A bar on a terminal, one log line per tenth otherwise; always on stderr."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[float, str], None]
"""Called with the share of the work that is done, 0 to 1, and a short text on what is being done."""

logger = logging.getLogger(__name__)


def silent(_done: float, _what: str) -> None:
    """Progress that nobody sees."""


def part(progress: Progress, begin: float, share: float) -> Progress:
    """Progress of a part of the work, which moves the whole from `begin` to `begin + share`, 0 to 1."""
    return lambda done, what: progress(begin + share * done, what)


@contextmanager
def shown(task: str) -> Iterator[Progress]:
    """Shows the progress of a task while the block runs; yields the function to report it with."""
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
    logged_at, share = time.monotonic(), 0.0

    def report(done: float, what: str) -> None:
        nonlocal logged_at, share
        if int(done * 10) > int(share * 10):
            now = time.monotonic()
            # at the pace since the last line: reading goes at another than training
            left = (now - logged_at) / (done - share) * (1.0 - done)
            percent = int(done * 10) * 10
            logger.info("event=progress task=%s percent=%d left_seconds=%.0f doing=%r", task, percent, left, what)
            logged_at, share = now, done

    return report
