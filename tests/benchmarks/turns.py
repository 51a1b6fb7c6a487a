"""Ticks of two versions of the program in turns: seconds by stage, and how many times as long the later one takes.

    git archive COMMIT | tar x -C BEFORE
    python tests/benchmarks/turns.py --before BEFORE --after . --database sqlite --out turns.json

Two processes, each with its own version and its own `tick.py`, hold the fleet that `tick.py` describes and tick one
after the other, so that a machine that grows slower or faster does so for both. The first two ticks are not counted.
A ratio is the median over the pairs of ticks, after / before. Prints JSON, progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

WARM_UP = 2


def tick_in_turns(folder: str, url: str, entities: int, ticks: int) -> None:
    """The process of one version: a tick for each line read, its seconds by stage as a line of JSON."""
    sys.path[:0] = [folder, f"{folder}/tests/benchmarks"]
    tick: Any = import_module("tick")

    fleet, clock, exporter = tick.start(url, entities, ticks + 1), tick.Clock(), tick.Exporter(entities)
    monitor = fleet.monitor.horizon.monitor
    exporter.show(tick.MonitorView(monitor, tick.NAMES, tick.STEP, 1.0))
    timed = {
        "read": (fleet.monitor.source, "read"),
        "grid": (tick.history, "gridded"),
        "network": (fleet.model.network, "residuals"),
        "windows": (tick.residuals, "errors"),
        "score": (tick.scores, _there(tick.scores, "scores_by_mechanism", "scores_by_span")),
        "decide": (tick.decide, "decide"),
        "commit": (fleet.monitor.store, "commit"),
    }
    with ExitStack() as stack:
        for stage, (target, name) in timed.items():
            stack.enter_context(patch.object(target, name, clock.timed(stage, getattr(target, name))))
        print(json.dumps({"start": round(fleet.recalled, 1)}), flush=True)
        for n, _ in zip(range(1, ticks + 1), sys.stdin, strict=False):
            clock.seconds.clear()
            began, began_cpu = time.perf_counter(), time.process_time()
            seen = fleet.tick(tick.TIMESTEPS + n).snapshot
            shown = ("entities", "score", "reason", "states", "is_silent", "share")
            exporter.update(monitor, **{name: getattr(seen, name) for name in shown})
            took = {"tick": time.perf_counter() - began, "cpu": time.process_time() - began_cpu}
            clock.timed("export", tick.generate_latest)(exporter.registry)
            clock.seconds["windows"] -= clock.seconds["network"]
            print(json.dumps(took | clock.seconds), flush=True)


def _there(module: Any, *names: str) -> str:
    """The first name that a version's module has."""
    return next(name for name in names if hasattr(module, name))


def version(folder: Path, url: str, asked: argparse.Namespace) -> subprocess.Popen[str]:
    """A process of one version, not started up yet."""
    command = [sys.executable, __file__, "--tick", str(folder), url]
    command += ["--entities", str(asked.entities), "--ticks", str(asked.ticks)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )


def answer(process: subprocess.Popen[str]) -> dict[str, float]:
    """What a process says next."""
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        sys.exit(f"turns: {' '.join(map(str, process.args))} ended early")  # type: ignore[arg-type]
    found: dict[str, float] = json.loads(line)
    return found


def measured(asked: argparse.Namespace, urls: tuple[str, str]) -> dict[str, Any]:
    """Seconds of both versions by stage, and their ratios."""
    started, pair = [], []
    for folder, url in zip((asked.before, asked.after), urls, strict=True):
        pair.append(version(folder.resolve(), url, asked))
        started.append(answer(pair[-1])["start"])
        print(f"{folder}: recalled in {started[-1]} s", file=sys.stderr, flush=True)
    took: list[list[dict[str, float]]] = [[], []]
    for n in range(asked.ticks):
        for which in ((0, 1), (1, 0))[n % 2]:
            process = pair[which]
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
            took[which].append(answer(process))
    for process in pair:
        process.communicate()
    before, after = (ticks[WARM_UP:] for ticks in took)
    stages = {stage: compared([one[stage] for one in before], [one[stage] for one in after]) for stage in before[0]}
    return {"database": asked.database, "entities": asked.entities, "recall_seconds": started, "stages": stages}


def compared(before: list[float], after: list[float]) -> dict[str, float]:
    """Medians of both versions' seconds, and of the ratio over the pairs."""
    ratio = statistics.median(two / one for one, two in zip(before, after, strict=True))
    return {
        "before": round(statistics.median(before), 4),
        "after": round(statistics.median(after), 4),
        "ratio": round(ratio, 3),
    }


def databases(kind: str, stack: ExitStack) -> tuple[str, str]:
    """URLs of a new database for each version."""
    if kind == "sqlite":
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        return f"sqlite:///{folder}/before.db", f"sqlite:///{folder}/after.db"
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import conftest

    return stack.enter_context(conftest.postgres_server()), stack.enter_context(conftest.postgres_server())


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="folder of the earlier version")
    parser.add_argument("--after", type=Path, default=Path(), help="folder of the later version, here unless told")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--entities", type=int, default=10_000)
    parser.add_argument("--ticks", type=int, default=42)
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    parser.add_argument("--tick", nargs=2, metavar=("FOLDER", "URL"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.tick:
        folder, url = asked.tick
        tick_in_turns(folder, url, asked.entities, asked.ticks)
        return
    if not asked.before:
        parser.error("--before is needed")
    with ExitStack() as stack:
        written = json.dumps(measured(asked, databases(asked.database, stack)), indent=1)
    print(written)
    if asked.out:
        asked.out.write_text(f"{written}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
