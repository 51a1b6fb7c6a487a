"""Draws the README's picture from a demo's database: the alert on the runaway process.

detector demo --once && python tests/pictures/demo_alert.py detector-demo/detector.db tests/pictures/demo_alert.png
"""

from __future__ import annotations

import json
import sqlite3
import sys
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.dates as mdates
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

FAULT = "runaway_process"
METRICS = {"cpu_percent": ("CPU, %", 1.0), "load_1m": ("load", 1.0)}
MARGIN = 6 * 60_000  # milliseconds shown before and after the fault


def main(database: Path, picture: Path) -> None:
    noted = json.loads((resources.files("detector.demo") / "recording/faults.json").read_text())
    start, end = next((_ms(f["start"]), _ms(f["end"])) for f in noted if f["name"] == FAULT)
    connection = sqlite3.connect(database)
    shown = (start - MARGIN, end + MARGIN)

    def query(sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return connection.execute(sql, parameters).fetchall()

    alerts = query("SELECT opened_slot, closed_slot FROM detector_alert WHERE detected_at BETWEEN ? AND ?", start, end)
    scores = query("SELECT slot, score FROM detector_score WHERE slot BETWEEN ? AND ? ORDER BY slot", *shown)
    mpl.rcParams |= {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    figure, axes = plt.subplots(3, 1, figsize=(9, 4.6), sharex=True, layout="constrained")
    for axis, (metric, (label, unit)) in zip(axes, METRICS.items(), strict=False):
        rows = query(
            "SELECT ts, value FROM detector_sample JOIN detector_series ON id = series_id"
            " WHERE metric = ? AND ts BETWEEN ? AND ? ORDER BY ts",
            metric,
            *shown,
        )
        axis.plot([_moment(ts) for ts, _ in rows], [value / unit for _, value in rows], color="#33658a", linewidth=1)
        axis.set_ylabel(label)
    score = axes[-1]
    score.plot([_moment(slot) for slot, _ in scores], [value for _, value in scores], color="#222222", linewidth=1)
    score.axhline(1.0, color="#c0392b", linewidth=1, linestyle="--")
    score.text(_moment(shown[0]), 1.03, "threshold = 1", color="#c0392b", va="bottom")
    score.set_ylabel("score")
    for axis in axes:
        _shade(axis, start, end, alerts)
    axes[0].legend(loc="upper left", frameon=False)
    axes[-1].xaxis.set_major_formatter(mdates.DateFormatter("%H:%M"))  # type: ignore[no-untyped-call]
    figure.savefig(picture, dpi=110, metadata={"Software": None})
    connection.close()


def _shade(axis: Axes, start: int, end: int, alerts: list[tuple[int, int]]) -> None:
    axis.axvspan(_moment(start), _moment(end), color="#f6ae2d", alpha=0.35, linewidth=0, label="the fault")
    for opened, closed in alerts:
        axis.axvspan(_moment(opened), _moment(closed), ymax=0.04, color="#c0392b", linewidth=0, label="the alert")


def _ms(written: str) -> int:
    return int(datetime.fromisoformat(written).timestamp() * 1000)


def _moment(milliseconds: int) -> Any:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
