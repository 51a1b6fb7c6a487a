"""`detector backtest`: recordings replayed as the daemon would, judged by their labels."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.errors import ConfigError

if TYPE_CHECKING:
    pass
from detector.commands.shared import JsonOption, load, log_to_stderr, print_rows


def backtest(
    data: Annotated[Path, typer.Option("--data", help="Folder of ENTITY.csv[.gz]: timestamp,<metrics…>[,label].")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the scores of each entity and all alerts.")],
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Take a monitor's settings from here.")] = None,
    monitor: Annotated[str | None, typer.Option("--monitor", help="Whose settings [the first monitor].")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as training.epochs=5.")
    ] = None,
    per_entity: Annotated[bool, typer.Option("--per-entity", help="A network for each entity.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Trains on the first part of recordings, replays the rest as the daemon would, and judges by their labels."""
    began = time.monotonic()
    if monitor is not None and config is None:
        msg = "--monitor names a monitor of a configuration; add --config FILE"
        raise ConfigError(msg)
    section = None
    if config is None:
        log_to_stderr("info")
    else:
        _, settings = load(config)
        section = settings.monitors[0] if monitor is None else settings.monitor(monitor)
    from detector import wiring
    from detector.progress import shown
    from detector.replay import groups, results
    from detector.replay import recordings as dataset
    from detector.replay import verdicts as judging

    dataset.make_folder(out, data)
    with shown("backtest") as progress:
        recordings, unread = dataset.read_folder(data, lambda done, what: progress(0.05 * done, what))
        metrics = dict.fromkeys(metric for recording in recordings for metric in recording.metrics)
        outcome = wiring.backtest(
            recordings,
            groups.settings(section, changes or [], metrics or ["none"]),
            name=data.resolve().name,
            per_entity=per_entity,
            progress=lambda done, what: progress(0.05 + 0.85 * done, what),
        )
        outcome = replace(outcome, failures=unread + outcome.failures)
        results.write(outcome, out)
        verdicts = []
        for index, replayed in enumerate(outcome.entities):
            progress(0.9 + 0.1 * index / len(outcome.entities), f"judging {replayed.recording.entity}")
            verdicts.append(judging.judge(replayed))
    seconds = {"train": outcome.train_seconds, "replay": outcome.replay_seconds, "total": time.monotonic() - began}
    _print_backtest(judging.report(outcome, verdicts), seconds, as_json=as_json)
    for failure in outcome.failures:
        print(f"detector: {failure.entity}: {failure.reason}", file=sys.stderr)
    if outcome.failures:
        raise typer.Exit(1)


def _print_backtest(report: dict[str, Any], seconds: dict[str, float], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report | {"seconds": {what: round(took, 1) for what, took in seconds.items()}}, indent=2))
        return
    titles = {
        "rows": "rows",
        "alerts": "alerts",
        "alerts_per_week": "a week",
        "unknown_share": "unknown",
        "events": "events",
        "precision": "precision",
        "recall": "recall",
        "median_delay_seconds": "delay s",
        "false_alerts_per_week": "false a week",
        "alerts_per_found_event": "per find",
        "average_precision": "AP",
        "vus_pr": "VUS-PR",
        "vus_pr_baseline": "baseline",
        "vus_pr_random": "random",
        "vus_pr_mean_abs_z": "mean |z|",
        "vus_pr_pca": "PCA",
    }
    rows = [*report["entities"], {"entity": "total"} | report["total"]]
    print_rows(
        [{"entity": row["entity"]} | {title: _short(row.get(name)) for name, title in titles.items()} for row in rows]
    )
    print("\nrates are those of one entity; baseline to PCA are the VUS-PR of scores that need no network")
    print(", ".join(f"{what} {took:.1f} s" for what, took in seconds.items()))


def _short(value: float | None) -> float | str | None:
    """A number as a table shows it: three decimals, fewer for large ones."""
    return value if not isinstance(value, float) else f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
