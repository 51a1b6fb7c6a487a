"""`detector backtest`: recordings replayed as the daemon would, judged by their labels."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.commands.shared import JsonOption, load, log_to_stderr, print_json, print_rows, say
from detector.errors import ConfigError

if TYPE_CHECKING:
    from detector.config.sections import MonitorSection
    from detector.progress import Progress
    from detector.replay.results import Outcome
    from detector.replay.verdicts import Verdict

_TITLES = {
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
"""Columns of the table, by their name in the report."""


def backtest(
    data: Annotated[Path, typer.Option("--data", help="Folder of ENTITY.csv[.gz]: timestamp,<metrics…>[,label].")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the scores of each entity and all alerts.")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Take the settings of a monitor from this file.")
    ] = None,
    monitor: Annotated[
        str | None, typer.Option("--monitor", help="The monitor to take them from [the first one].")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as training.epochs=5."),
    ] = None,
    per_entity: Annotated[bool, typer.Option("--per-entity", help="Train a network for each entity.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Trains on the first part of recordings, replays the second as the daemon would, and judges it by labels."""
    began = time.monotonic()
    section = _section(config, monitor)
    from detector.progress import part, shown
    from detector.replay import recordings, verdicts

    recordings.make_folder(out, data)
    with shown("backtest") as progress:
        outcome = _replayed(data, section, changes or [], per_entity=per_entity, progress=part(progress, 0.0, 0.9))
        judged = _judged(outcome, out, part(progress, 0.9, 0.1))
    seconds = {"train": outcome.train_seconds, "replay": outcome.replay_seconds, "total": time.monotonic() - began}
    _print_backtest(verdicts.report(outcome, judged), seconds, as_json=as_json)
    for failure in outcome.failures:
        say(f"detector: {failure.entity}: {failure.reason}", to_stderr=True)
    if outcome.failures:
        raise typer.Exit(1)


def _section(config: Path | None, monitor: str | None) -> MonitorSection | None:
    """The monitor whose settings are taken, None without a configuration."""
    if config is not None:
        _, settings = load(config)
        return settings.monitors[0] if monitor is None else settings.monitor(monitor)
    if monitor is not None:
        msg = "--monitor names a monitor of a configuration; add --config FILE"
        raise ConfigError(msg)
    log_to_stderr("info")
    return None


def _replayed(
    data: Path, section: MonitorSection | None, changes: list[str], *, per_entity: bool, progress: Progress
) -> Outcome:
    """The outcome of replaying the recordings of a folder, with those that cannot be read among its failures."""
    from detector import wiring
    from detector.progress import part
    from detector.replay import groups, recordings

    read, unread = recordings.read_folder(data, part(progress, 0.0, 0.05))
    metrics = dict.fromkeys(metric for recording in read for metric in recording.metrics)
    outcome = wiring.backtest(
        read,
        groups.settings(section, changes, metrics or ["none"]),
        name=data.resolve().name,
        per_entity=per_entity,
        progress=part(progress, 0.05, 0.95),
    )
    return replace(outcome, failures=unread + outcome.failures)


def _judged(outcome: Outcome, out: Path, progress: Progress) -> list[Verdict]:
    """Verdicts on all entities, after writing the results."""
    from detector.replay import results, verdicts

    results.write(outcome, out)
    judged = []
    for index, replayed in enumerate(outcome.entities):
        progress(index / len(outcome.entities), f"judging {replayed.recording.entity}")
        judged.append(verdicts.judge(replayed))
    return judged


def _print_backtest(report: dict[str, Any], seconds: dict[str, float], *, as_json: bool) -> None:
    if as_json:
        print_json(report | {"seconds": {what: round(took, 1) for what, took in seconds.items()}})
        return
    rows = [*report["entities"], {"entity": "total"} | report["total"]]
    print_rows(
        [{"entity": row["entity"]} | {title: _short(row.get(name)) for name, title in _TITLES.items()} for row in rows]
    )
    say("\nrates are per entity; baseline to PCA are the VUS-PR of scores that need no network")
    say(", ".join(f"{what} {took:.1f} s" for what, took in seconds.items()))


def _short(value: float | None) -> float | str | None:
    """A number for a table: three decimals, or none from 100 on."""
    return value if not isinstance(value, float) else f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
