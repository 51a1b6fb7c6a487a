"""The newest rows of a source: which metrics they lack, and under which names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

import numpy as np
from sqlalchemy import Engine, column, select, table

from detector import database
from detector.config.sections import MonitorSection, SqlSource
from detector.core.series import Samples
from detector.tables import series
from detector.wording import printable

_NAMED = 8  # names in a message
_SEEN = 10_000  # newest rows of a table whose metric names are looked at
_MOST = 1000  # names


def metric_names(engine: Engine, monitor: MonitorSection) -> list[str]:
    """Names of metrics that the source of a monitor has rows of, some of them if there are many; [] if not known.

    Raises: an error of SQLAlchemy.
    """
    source = monitor.source
    if not isinstance(source, SqlSource):
        with engine.connect() as connection:
            query = select(series.c.metric).where(series.c.monitor == monitor.name).distinct().limit(_MOST)
            return [str(row[0]) for row in connection.execute(query)]
    if not (source.table and source.metric):
        return []
    schema, _, name = source.table.rpartition(".")
    rows = table(name, column(source.metric), column(source.time), schema=schema or None)
    newest = select(rows.c[source.metric].label("name")).order_by(rows.c[source.time].desc()).limit(_SEEN).subquery()
    with database.reading(engine, source.timeout) as connection:
        found = connection.execute(select(newest.c.name).distinct().limit(_MOST))
        return [str(row[0]) for row in found if row[0] is not None]


def missing_metrics(monitor: MonitorSection, recent: Samples, names: Callable[[], Sequence[str]]) -> str | None:
    """What to say of metrics without any value in the newest rows; None if there are none.

    names: the source's metrics, asked only if some are missing; [] if not known
    """
    seen = set(recent.metric[np.isfinite(recent.value)].tolist())
    missing = [name for index, name in enumerate(monitor.metrics) if index not in seen]
    if not missing:
        return None
    other = other_names(missing, names())
    return other or f"no value of {_listed(missing)} in the newest window; what is missing is never scored"


def other_names(missing: Sequence[str], known: Sequence[str]) -> str | None:
    """What to say of missing metrics whose names the source does not have; None if it has all, or its are not known."""
    if not known or all(name in known for name in missing):
        return None
    near = {name: difflib.get_close_matches(name, known, n=1, cutoff=0.5) for name in missing if name not in known}
    meant = "; ".join(f"for {name!r} perhaps {found[0]!r}" for name, found in list(near.items())[:_NAMED] if found)
    there = f"the source has {_listed(sorted(known))}"
    return printable(f"no value of {_listed(missing)}; {there}{f'; {meant}' if meant else ''}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
