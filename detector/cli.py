"""The `detector` command. Every command imports its own part when run, so `detector --help` loads none of them."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.errors import ConfigError, DetectorError, StaleState

if TYPE_CHECKING:
    from detector.config import Config, MonitorSection
    from detector.store.alerts import AlertRow
    from detector.wiring import Parts

app = typer.Typer(
    help="Watches metrics in a database with an LSTM autoencoder; stores alerts and exports them to Prometheus.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
alerts_app = typer.Typer(help="Stored alerts.", no_args_is_help=True)
models_app = typer.Typer(help="Trained model versions.", no_args_is_help=True)
db_app = typer.Typer(help="The detector's own tables.", no_args_is_help=True)
exclude_app = typer.Typer(help="Times that mute alerts or are kept out of training.", no_args_is_help=True)
app.add_typer(alerts_app, name="alerts")
app.add_typer(exclude_app, name="exclude")
app.add_typer(models_app, name="models")
app.add_typer(db_app, name="db")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="Configuration file [$DETECTOR_CONFIG, ./config.toml, /etc/detector/config.toml]"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
MonitorOption = Annotated[str | None, typer.Option("--monitor", help="Only this monitor.")]

OPEN_ALERTS = 3
"""Exit status of `alerts list --open` when there are any, for scripts."""


def main() -> None:
    """Runs the command line; an operator's mistake is one line on stderr, never a traceback."""
    try:
        app(standalone_mode=True)
    except DetectorError as exc:
        print(f"detector: {exc}", file=sys.stderr)
        sys.exit(exc.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `detector alerts list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _version(value: bool) -> None:
    if value:
        from detector import __version__

        print(f"detector {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


# -- the daemon -------------------------------------------------------------------------------------------------------


@app.command()
def run(config: ConfigOption = None) -> None:
    """The daemon: scores every monitor on schedule and serves /metrics until stopped."""
    path, settings = _load(config)
    from detector import wiring

    wiring.serve(path, settings)


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="End after the table instead of serving /metrics.")] = False,
    as_json: JsonOption = False,
    folder: Annotated[Path, typer.Option(help="Where the demo keeps its database and configuration.")] = Path(
        "detector-demo"
    ),
    listen: Annotated[str, typer.Option(help="Where it serves /metrics.")] = "127.0.0.1:9788",
) -> None:
    """Everything in one go: replays a recording of a real machine with five faults and shows the alerts."""
    _log_to_stderr("warning")
    from detector.demo import show

    show.run(folder, listen=listen, once=once, as_json=as_json)


@app.command()
def retrain(
    monitors: Annotated[list[str] | None, typer.Argument(help="Monitors to train [all].", show_default=False)] = None,
    config: ConfigOption = None,
    from_: Annotated[str | None, typer.Option("--from", help="Train on data from this time on.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Train on data up to this time.")] = None,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Keep the network; fit the threshold to recent data.")
    ] = False,
) -> None:
    """Trains monitors on their history and makes the new model version the live one."""
    if recalibrate and (from_ or to):
        msg = "--recalibrate takes the newest data; leave out --from and --to"
        raise ConfigError(msg)
    _, settings = _load(config)
    start, end = _time("--from", from_), _time("--to", to)
    sections = [settings.monitor(name) for name in monitors or [m.name for m in settings.monitors]]
    from detector import wiring
    from detector.progress import shown

    parts = wiring.assemble(settings)
    for section in sections:
        if recalibrate:
            with shown(f"recalibrate {section.name}") as progress:
                version, drift = wiring.recalibrate(parts, section, wiring.now_ms(), progress)
            usual = f"usual errors are {drift:.2f} × those at training"
            print(f"monitor {section.name}: model version {version} is live; {usual}")
            continue
        with shown(f"retrain {section.name}") as progress:
            version, facts = wiring.retrain(parts, section, wiring.now_ms(), start, end, progress)
        print(
            f"monitor {section.name}: model version {version} is live;"
            f" {facts['entities']} entities, {_training(facts)}, data {_utc(facts['trained_from'])} to"
            f" {_utc(facts['trained_until'])}, {facts['seconds']:.0f} s"
        )


def _training(facts: dict[str, Any]) -> str:
    """What was trained, in words."""
    found = {kind: f"{shares['all']:.0%}" for kind, shares in facts["detectability"].items()}
    compared = ", finds " + ", ".join(f"{share} ({kind})" for kind, share in found.items()) if found else ""
    if facts["kind"] == "baseline":
        return f"a baseline with {facts['phases']} phases{compared} of injected faults" if found else "a baseline"
    trained = f"a network from {facts['training_windows']} windows in {facts['epochs']} epochs"
    return (
        f"{trained}, validation loss {facts['validation_loss']:.4f}{compared}{' of injected faults' if found else ''}"
    )


@app.command()
def score(
    monitors: Annotated[list[str] | None, typer.Argument(help="Monitors to score [all].", show_default=False)] = None,
    config: ConfigOption = None,
    once: Annotated[bool, typer.Option("--once", help="One tick per monitor, then end (the only mode).")] = True,
    at: Annotated[str | None, typer.Option("--at", help="As if it were this time [now].")] = None,
    as_json: JsonOption = False,
) -> None:
    """Scores and commits everything since the cursor, as one tick of the daemon would."""
    del once
    _, settings = _load(config)
    now = _time("--at", at)
    names = monitors or [m.name for m in settings.monitors]
    from detector import pipeline, wiring
    from detector.core.series import Reason

    parts = wiring.assemble(settings)
    now = wiring.now_ms() if now is None else now
    rows: list[dict[str, Any]] = []
    for section in [settings.monitor(name) for name in names]:
        source = parts.sources[section.name]
        live = wiring.live_model(parts.engine, section)
        if live is None:
            report = pipeline.observe(section, source, now)
        else:
            memory = pipeline.recall(section, source, parts.store, live[0], now)
            told = settings.told(section.name)
            _, report = pipeline.tick(section, source, parts.store, memory, now, notifiers=told)
        snapshot = report.snapshot
        rows.extend(
            {
                "monitor": section.name,
                "entity": entity,
                "score": None if reason else round(float(value), 4),
                "state": f"unknown ({Reason(reason).label})" if reason else "anomalous" if value >= 1.0 else "normal",
                "alert": bool(is_open),
                "slot_end": None if report.cursor is None else _utc(report.cursor),
            }
            for entity, value, reason, is_open in zip(
                snapshot.entities,
                snapshot.score.tolist(),
                snapshot.reason.tolist(),
                snapshot.states.is_open.tolist(),
                strict=True,
            )
        )
    _print(rows, as_json=as_json, empty="no entity has data in the newest window; see: detector check")


@app.command()
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
        _log_to_stderr("info")
    else:
        _, settings = _load(config)
        section = settings.monitors[0] if monitor is None else settings.monitor(monitor)
    from detector import backtest as backtesting
    from detector import dataset, judging, wiring
    from detector.progress import shown

    dataset.make_folder(out, data)
    with shown("backtest") as progress:
        recordings, unread = dataset.read_folder(data, lambda done, what: progress(0.05 * done, what))
        metrics = dict.fromkeys(metric for recording in recordings for metric in recording.metrics)
        outcome = wiring.backtest(
            recordings,
            backtesting.settings(section, changes or [], metrics or ["none"]),
            name=data.resolve().name,
            per_entity=per_entity,
            progress=lambda done, what: progress(0.05 + 0.85 * done, what),
        )
        outcome = replace(outcome, failures=unread + outcome.failures)
        backtesting.write(outcome, out)
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
    _print(
        [{"entity": row["entity"]} | {title: _short(row.get(name)) for name, title in titles.items()} for row in rows]
    )
    print("\nrates are those of one entity; baseline to PCA are the VUS-PR of scores that need no network")
    print(", ".join(f"{what} {took:.1f} s" for what, took in seconds.items()))


def _short(value: float | None) -> float | str | None:
    """A number as a table shows it: three decimals, fewer for large ones."""
    return value if not isinstance(value, float) else f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"


@app.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Dry run: validates, connects, counts, measures, and says what the daemon would do."""
    path, settings = _load(config)
    from detector import checking

    rows, too_much = checking.check(settings)
    if not as_json:
        print(f"{path}: valid, {len(settings.monitors)} monitors; /metrics on http://{settings.export.listen}/metrics")
    _print(rows, as_json=as_json, empty="", vertical=True)
    if too_much is not None:
        raise too_much
    if any(row.get("problem") for row in rows):
        raise typer.Exit(1)


@app.command()
def bench(
    config: ConfigOption = None,
    monitor: Annotated[str | None, typer.Option("--monitor", help="Whose settings [the first monitor].")] = None,
    entities: Annotated[int, typer.Option(min=1, help="Entities of the synthetic fleet, at most.")] = 10_000,
    metrics: Annotated[int | None, typer.Option(min=1, help="Metrics of each [the monitor's, or 8].")] = None,
    timesteps: Annotated[int | None, typer.Option(min=2, help="Slots in a window [the monitor's].")] = None,
    units: Annotated[int | None, typer.Option(min=1, help="Units of the network [the monitor's].")] = None,
    as_json: JsonOption = False,
) -> None:
    """Cost card: what a monitor takes on this machine, and how many entities it can watch here."""
    section = _monitor_to_measure(config, monitor)
    from detector import config as configuration

    table = section.model_dump(exclude_unset=True)
    if metrics is not None:
        # the fleet is synthetic, so its source need not have them
        source = {"type": "embedded"}
        table |= {"metrics": tuple(f"m{n}" for n in range(metrics)), "rules": (), "source": source}
    asked = {"timesteps": timesteps, "model.units": units}
    changes = [f"{key}={value}" for key, value in asked.items() if value is not None]
    section = configuration.monitor(table, changes)
    from detector import capacity
    from detector.progress import shown

    with shown("bench") as progress:
        found = capacity.card(section, entities, progress)
    if not as_json:
        found = {name: f"{value:,}" if isinstance(value, int | float) else value for name, value in found.items()}
    _print([found], as_json=as_json, vertical=True)


def _monitor_to_measure(config: Path | None, monitor: str | None) -> MonitorSection:
    """A monitor of the configuration; without one, a monitor of defaults with eight metrics."""
    from detector import config as configuration

    try:
        configuration.find(config)
    except ConfigError:
        if config is not None or monitor is not None:
            raise
        _log_to_stderr("info")
        table = {"name": "defaults", "source": {"type": "embedded"}, "metrics": tuple(f"m{n}" for n in range(8))}
        return configuration.monitor(table)
    _, settings = _load(config)
    return settings.monitors[0] if monitor is None else settings.monitor(monitor)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="A CSV file, gzipped or not, or a folder of them.")],
    monitor: Annotated[str, typer.Option("--monitor", help="Monitor whose source is `embedded` or `host`.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Brings CSV files into the embedded sample store, long (timestamp,entity,metric,value) or wide."""
    _, settings = _load(config)
    section = settings.monitor(monitor)
    if section.source.type == "sql":
        msg = f'monitor {monitor!r} reads its own database; import needs a monitor with source.type = "embedded"'
        raise ConfigError(msg)
    from detector import importing, wiring
    from detector.progress import shown

    parts = wiring.assemble(settings, upgrade=True)
    sink = wiring.embedded(section, parts.engine)
    found = importing.files(path)
    outcomes = []
    with shown("import") as progress:
        for index, file in enumerate(found):
            outcomes.append(
                importing.load(
                    file,
                    section.metrics,
                    sink,
                    lambda done, i=index, f=file: progress((i + done) / len(found), f.name),  # type: ignore[misc]
                )
            )
    for outcome in outcomes:
        for line in outcome.bad_lines:
            print(f"{outcome.file}: {line}", file=sys.stderr)
        if outcome.bad > len(outcome.bad_lines):
            print(f"{outcome.file}: … and {outcome.bad - len(outcome.bad_lines)} more bad lines", file=sys.stderr)
    rows = [
        {
            "file": Path(outcome.file).name,
            "rows": outcome.rows,
            "samples": outcome.samples,
            "entities": len(outcome.entities),
            "from": None if outcome.first is None else _utc(outcome.first),
            "to": None if outcome.last is None else _utc(outcome.last),
            "bad_lines": outcome.bad,
        }
        for outcome in outcomes
    ]
    _print(rows, as_json=as_json, empty="")


@app.command()
def report(
    out: Annotated[Path, typer.Option("--out", help="The HTML file to write.")],
    monitor: Annotated[str | None, typer.Argument(help="Only this monitor [all].", show_default=False)] = None,
    alert: Annotated[int | None, typer.Option("--alert", metavar="ID", help="Only this alert.")] = None,
    since: Annotated[str | None, typer.Option(help="Alerts since a time, or this long ago (24h, 30d) [7d].")] = None,
    config: ConfigOption = None,
) -> None:
    """Writes what happened, with plots, into one HTML file that needs no network: to read, print and pass on."""
    if alert is not None and (monitor or since):
        msg = "--alert tells of one alert; leave out MONITOR and --since"
        raise ConfigError(msg)
    if out.exists() and not out.is_file():
        msg = f"--out must be a file to write. Received: {str(out)!r}, which is something else"
        raise ConfigError(msg)
    parts = _parts(config, monitor)
    from detector import wiring
    from detector.report import content, page
    from detector.store import alerts

    now = wiring.now_ms()
    if alert is None:
        earliest = _since("--since", since or "7d") or 0
        sections = [m for m in parts.config.monitors if monitor in {None, m.name}]
        rows = [wiring.report_rows(parts, section, since=earliest, now=now) for section in sections]
    else:
        found = alerts.show(parts.engine, alert)
        if found is None:
            msg = f"no alert {alert}; see: detector alerts list"
            raise ConfigError(msg)
        row, _ = found
        rows = [wiring.report_rows(parts, parts.config.monitor(row.monitor), since=0, now=now, only=row)]
    told = content.build(rows, now=now, is_whole=alert is None)
    written = page.render(told).encode()
    try:
        out.write_bytes(written)
    except OSError as exc:
        msg = f"--out {out} cannot be written: {exc.strerror}"
        raise ConfigError(msg) from exc
    count = len(told["alerts"]) + told["untold"]
    of = f"{len(rows)} monitor{'s' if len(rows) != 1 else ''}"
    print(f"{out}: {count} alert{'s' if count != 1 else ''} of {of}, {-(-len(written) // 1000)} kB")


# -- alerts and models ------------------------------------------------------------------------------------------------


@alerts_app.command("list")
def alerts_list(
    config: ConfigOption = None,
    monitor: MonitorOption = None,
    entity: Annotated[str | None, typer.Option(help="Only entities like this, with * and ?.")] = None,
    state: Annotated[
        str | None, typer.Option(help="Only those that are open, acknowledged, closed or withdrawn.")
    ] = None,
    severity: Annotated[str | None, typer.Option(help="Only those of this severity: warning, critical.")] = None,
    only_open: Annotated[
        bool, typer.Option("--open", help="Only open or acknowledged ones; exit status 3 if there are any.")
    ] = False,
    since: Annotated[str | None, typer.Option(help="Opened since a time, or this long ago (24h, 7d).")] = None,
    until: Annotated[str | None, typer.Option(help="Opened before a time, or this long ago.")] = None,
    most: Annotated[int, typer.Option("--limit", min=1, help="At most so many, the newest.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Alerts, newest first."""
    parts = _parts(config, monitor)
    from detector.store import alerts, outbox

    _one_of("--state", state, ("open", "acknowledged", "closed", "withdrawn"))
    _one_of("--severity", severity, ("warning", "critical"))
    found = alerts.listing(
        parts.engine,
        monitor=monitor,
        entity=entity,
        state=state,
        severity=severity,
        only_open=only_open,
        since=_since("--since", since),
        until=_since("--until", until),
        most=most,
    )
    notified = outbox.summary(parts.engine, [row.id for row in found])
    rows = [_alert_row(row) | {"notified": notified[row.id]} for row in found]
    _print(rows, as_json=as_json, empty="no alerts")
    if only_open and found:
        raise typer.Exit(OPEN_ALERTS)


AlertId = Annotated[int, typer.Argument(metavar="ID", help="Number of the alert; see: detector alerts list")]
By = Annotated[str | None, typer.Option("--by", help="Who says so [the user at the keyboard].", show_default=False)]
Comment = Annotated[str | None, typer.Option("--comment", help="Why, for those who read it later.")]


@alerts_app.command("show")
def alerts_show(identity: AlertId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """One alert in plain words: what, since when, how bad, why, and what became of it."""
    parts = _parts(config, None)
    row, events = _alert(parts, identity)
    from detector import words
    from detector.store import outbox

    shown = _alert_row(row) | {
        "notified": outbox.summary(parts.engine, [row.id])[row.id],
        "peak": _utc(row.peak_slot),
        "model_version": row.model_version,
        "metrics": row.explanation.get("metrics", []),
        "part": row.explanation.get("part"),
        "window": row.explanation.get("window"),
        "events": [event | {"slot": _utc(event["slot"]), "created_at": _utc(event["created_at"])} for event in events],
    }
    if as_json:
        print(json.dumps(shown, indent=2))
        return
    print(f"{row.entity} ({row.monitor}): {words.sentence(row.explanation)}\n")
    hidden = {"metrics", "part", "window", "events", "top_metrics"}
    _print([{k: v for k, v in shown.items() if k not in hidden and v not in (None, False, "")}], vertical=True)
    if shown["metrics"]:
        print("\nwhat is strange")
        for metric in shown["metrics"]:
            print(f"  {words.metric_line(metric)}")
    print("\nhistory")
    _print([{k: v for k, v in event.items() if k not in {"peak_score", "severity"}} for event in shown["events"]])


@alerts_app.command("ack")
def alerts_ack(identity: AlertId, config: ConfigOption = None, by: By = None, comment: Comment = None) -> None:
    """Says that somebody looks after an alert; it stays open."""
    parts = _parts(config, None)
    row, _ = _alert(parts, identity)
    if row.state != "open":
        msg = f"alert {identity} is {row.state}; only an open one can be acknowledged"
        raise ConfigError(msg)
    from detector import wiring
    from detector.store import alerts

    told = parts.config.told(row.monitor)
    alerts.acknowledge(parts.engine, row, by=by or _user(), comment=comment, now=wiring.now_ms(), notifiers=told)
    print(f"alert {identity} is acknowledged by {by or _user()}")


@alerts_app.command("close")
def alerts_close(identity: AlertId, config: ConfigOption = None, by: By = None, comment: Comment = None) -> None:
    """Closes an alert; while its entity stays strange no other one opens."""
    parts = _parts(config, None)
    row, _ = _alert(parts, identity)
    if row.state not in {"open", "acknowledged"}:
        msg = f"alert {identity} is {row.state} already"
        raise ConfigError(msg)
    from detector import wiring
    from detector.store import alerts

    told = parts.config.told(row.monitor)
    alerts.close(parts.engine, row, by=by or _user(), comment=comment, now=wiring.now_ms(), notifiers=told)
    print(f"alert {identity} is closed; a new one opens only after {row.entity} was normal again")


def _alert(parts: Parts, identity: int) -> tuple[AlertRow, list[dict[str, Any]]]:
    from detector.store import alerts

    found = alerts.show(parts.engine, identity)
    if found is None:
        msg = f"no alert {identity}; see: detector alerts list"
        raise ConfigError(msg)
    return found


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _one_of(option: str, value: str | None, allowed: Sequence[str]) -> None:
    if value is not None and value not in allowed:
        msg = f"{option} must be one of {', '.join(allowed)}. Received: {value!r}"
        raise ConfigError(msg)


@app.command()
def incident(
    identity: Annotated[int | None, typer.Argument(metavar="[ALERT]", help="The alert that is judged.")] = None,
    config: ConfigOption = None,
    verdict: Annotated[
        bool | None, typer.Option("--real/--false", help="Was something wrong, or was the alert?")
    ] = None,
    monitor: MonitorOption = None,
    entity: Annotated[str | None, typer.Option(help="With --from: only entities like this, with * and ?.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="A real incident began at this time …")] = None,
    to: Annotated[str | None, typer.Option("--to", help="… and ended at this time.")] = None,
    by: By = None,
    comment: Comment = None,
) -> None:
    """Says whether an alert was real, or when a real incident was: training and thresholds learn from it."""
    if (identity is None) == (from_ is None or to is None) or (identity is not None and verdict is None):
        msg = "name an ALERT and --real or --false, or a time range with --monitor, --from and --to"
        raise ConfigError(msg)
    if identity is None and verdict is False:
        msg = "a time range is that of a real incident; say of each alert that it was --false"
        raise ConfigError(msg)
    parts = _parts(config, monitor)
    from detector import wiring
    from detector.store import alerts

    now, who = wiring.now_ms(), by or _user()
    if identity is not None:
        row, _ = _alert(parts, identity)
        word = "real" if verdict else "false"
        alerts.judge(parts.engine, row, verdict=word, by=who, comment=comment, now=now)
        what = "its time is kept out of training" if verdict else "its scores count as normal"
        print(f"alert {identity} is marked {word}: {what} from the next calibration on")
        section = parts.config.monitor(row.monitor)
    else:
        if monitor is None:
            msg = "--from and --to need --monitor NAME: whose incident was it?"
            raise ConfigError(msg)
        section = parts.config.monitor(monitor)
        start, end = _time("--from", from_), _time("--to", to)
        _add_exclusion(parts, section, entity, None, start, end, "mask", None, comment or "real incident", who)
        marked = 0
        for row in alerts.listing(parts.engine, monitor=monitor, entity=entity, until=end, most=1 << 30):
            if row.state == "withdrawn" or (row.closed_slot is not None and row.closed_slot < (start or 0)):
                continue
            try:
                alerts.judge(parts.engine, row, verdict="real", by=who, comment=comment, now=now)
            except StaleState as exc:
                print(f"detector: {exc}", file=sys.stderr)
            else:
                marked += 1
        alerts_are = "alert is" if marked == 1 else "alerts are"
        print(f"{_utc(start or 0)} to {_utc(end or 0)} is kept out of training; {marked} {alerts_are} marked real")
    _print_reconsidered(parts, section, now)


def _print_reconsidered(parts: Parts, section: MonitorSection, now: int) -> None:
    """Which alerts of the last thirty days the next recalibration would see otherwise."""
    from detector import wiring
    from detector.errors import ModelError
    from detector.progress import shown

    try:
        with shown(f"calibrate {section.name}") as progress:
            since = now - int(timedelta(days=30).total_seconds() * 1000)
            found = wiring.reconsidered(parts, section, now, since, progress)
    except ModelError as exc:
        print(f"what the next recalibration would change cannot be told: {exc}")
        return
    gone = [str(number) for number, peak in found.judged if peak < 1.0]
    others = f" ({found.unjudged} others are of earlier models or of rules)" if found.unjudged else ""
    if not found.judged:
        print(f"this model has raised no alert in the last 30 days that a recalibration could change{others}")
        return
    print(
        f"with the next recalibration {len(gone)} of the {len(found.judged)} alerts that this model has raised in"
        f" the last 30 days would not have opened{others}"
    )
    if gone:
        print(f"these are {', '.join(gone)}; to have it now: detector retrain --recalibrate {section.name}")


@app.command()
def explain(
    monitor: Annotated[str, typer.Argument(help="The monitor.")],
    entity: Annotated[str, typer.Argument(help="The entity.")],
    at: Annotated[str, typer.Option("--at", help="The time, such as 2026-11-23T14:00, or this long ago (2h).")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Why there was an alert at a time, or none: score, parts, metrics and rules as the live model sees them."""
    parts = _parts(config, monitor)
    from detector import wiring, words

    moment = _since("--at", at)
    assert moment is not None
    answer = wiring.explain(parts, parts.config.monitor(monitor), entity, moment)
    if as_json:
        print(json.dumps(asdict(answer) | {"slot": _utc(answer.slot)}, indent=2))
        return
    head = "unknown" if answer.score is None else f"score {answer.score:.2f}"
    print(f"{entity} ({monitor}) at {_utc(answer.slot)}: {head}")
    for why in answer.why:
        print(f"  {why}")
    metrics = answer.explanation.get("metrics", [])
    if metrics and answer.score is not None:
        print("\nmetrics by their share of the score")
        for metric in metrics:
            print(f"  {words.metric_line(metric)}")


# -- exclusions -------------------------------------------------------------------------------------------------------


@exclude_app.command("add")
def exclude_add(
    monitor: Annotated[str, typer.Option("--monitor", help="Whose alerts or data.")],
    config: ConfigOption = None,
    entity: Annotated[str | None, typer.Option(help="Only entities like this, with * and ?.")] = None,
    metric: Annotated[str | None, typer.Option(help="Only metrics like this, with * and ?.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="From this time on [now].", show_default=False)] = None,
    to: Annotated[str | None, typer.Option("--to", help="Up to this time [open-ended].", show_default=False)] = None,
    duration: Annotated[str | None, typer.Option("--for", help="In place of --to: for so long (2h).")] = None,
    effect: Annotated[str, typer.Option(help="mute: no notifications; mask: kept out of training; both.")] = "mute",
    rule: Annotated[
        str | None, typer.Option(help="How it recurs, RFC 5545: FREQ=WEEKLY;BYDAY=SU. Needs --to or --for.")
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option(help="Whose clock the times and the rule follow [the monitor's].", show_default=False)
    ] = None,
    by: By = None,
    comment: Comment = None,
) -> None:
    """Mutes alerts or keeps data out of training for a time, once or again and again."""
    parts = _parts(config, monitor)
    from detector import wiring
    from detector.config import parse_duration

    section = parts.config.monitor(monitor)
    _one_of("--effect", effect, ("mute", "mask", "both"))
    if to and duration:
        msg = "--to and --for say the same; leave one out"
        raise ConfigError(msg)
    zone = time_zone or section.time_zone
    start = wiring.now_ms() if from_ is None else _time("--from", from_, zone)
    end = _time("--to", to, zone)
    if duration is not None and start is not None:
        try:
            length = parse_duration(duration)
        except ValueError as exc:
            msg = f"--for {exc}. Received: {duration!r}"
            raise ConfigError(msg) from exc
        assert isinstance(length, timedelta)
        end = start + int(length.total_seconds() * 1000)
    number = _add_exclusion(parts, section, entity, metric, start, end, effect, rule, comment, by or _user(), zone)
    print(f"exclusion {number} of monitor {monitor} is in force{_times(parts, section, number)}")


def _add_exclusion(
    parts: Parts,
    section: MonitorSection,
    entity: str | None,
    metric: str | None,
    start: int | None,
    end: int | None,
    effect: str,
    rule: str | None,
    comment: str | None,
    by: str,
    zone: str | None = None,
) -> int:
    from detector import exclusions, wiring
    from detector.ports import Exclusion
    from detector.store import exclusions as stored

    new = Exclusion(
        id=0,
        monitor=section.name,
        entity=entity,
        metric=metric,
        start=start or 0,
        end=end,
        effect=effect,
        rule=rule,
        time_zone=zone or section.time_zone,
        comment=comment,
        created_at=wiring.now_ms(),
        created_by=by,
    )
    exclusions.check(new, section.metrics)
    return stored.add(parts.engine, new)


def _times(parts: Parts, section: MonitorSection, number: int) -> str:
    """When an exclusion is next in force, in words."""
    from detector import exclusions, wiring
    from detector.store import exclusions as stored

    found = next(e for e in stored.listing(parts.engine, [section.name]) if e.id == number)
    now = wiring.now_ms()
    if found.rule is None:
        return f" from {_utc(found.start)} to {'whenever it is removed' if found.end is None else _utc(found.end)}"
    begin, end = next(exclusions.ranges(found, now, now + 400 * 86_400_000), (None, None))
    return "" if begin is None or end is None else f", next from {_utc(begin)} to {_utc(end)}"


@exclude_app.command("list")
def exclude_list(config: ConfigOption = None, monitor: MonitorOption = None, as_json: JsonOption = False) -> None:
    """Exclusions, oldest first."""
    parts = _parts(config, monitor)
    from detector import exclusions, wiring
    from detector.store import exclusions as stored

    now = wiring.now_ms()
    rows = [
        {
            "id": found.id,
            "monitor": found.monitor,
            "entity": found.entity or "*",
            "metric": found.metric or "*",
            "effect": found.effect,
            "from": _utc(found.start),
            "to": None if found.end is None else _utc(found.end),
            "rule": found.rule,
            "time_zone": found.time_zone,
            "now": exclusions.in_force(found, now),
            "by": found.created_by,
            "comment": found.comment,
        }
        for found in stored.listing(parts.engine, [monitor] if monitor else [m.name for m in parts.config.monitors])
    ]
    _print(rows, as_json=as_json, empty="no exclusions")


@exclude_app.command("remove")
def exclude_remove(identity: Annotated[int, typer.Argument(metavar="ID")], config: ConfigOption = None) -> None:
    """Removes an exclusion; alerts it mutes that are still open are told of with the next tick."""
    parts = _parts(config, None)
    from detector.store import exclusions as stored

    if not stored.remove(parts.engine, identity):
        msg = f"no exclusion {identity}; see: detector exclude list"
        raise ConfigError(msg)
    print(f"exclusion {identity} is removed")


@models_app.command("list")
def models_list(config: ConfigOption = None, monitor: MonitorOption = None, as_json: JsonOption = False) -> None:
    """Model versions, newest first."""
    parts = _parts(config, monitor)
    from detector.store import models

    rows = [
        {
            "version": row.version,
            "monitor": row.monitor,
            "live": row.is_live,
            "created": _utc(row.created_at),
            "entities": row.header.get("entities"),
            "validation_loss": round(row.header.get("validation_loss", float("nan")), 5),
            "kilobytes": row.bytes // 1000,
        }
        for row in models.listing(parts.engine, monitor)
    ]
    _print(rows, as_json=as_json, empty="no models yet; the daemon trains one when there is enough history")


@models_app.command("show")
def models_show(
    version: Annotated[int, typer.Argument()], config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """What is known of one model version."""
    parts = _parts(config, None)
    from detector.store import models

    found = [row for row in models.listing(parts.engine) if row.version == version]
    if not found:
        msg = f"no model version {version}; see: detector models list"
        raise ConfigError(msg)
    row = asdict(found[0])
    header = row.pop("header")
    times = {"created_at": _utc(row["created_at"])} | {
        name: _utc(header[name]) for name in ("trained_from", "trained_until") if name in header
    }
    _print([row | header | times], as_json=as_json, vertical=True)


# -- the database -----------------------------------------------------------------------------------------------------


@db_app.command("upgrade")
def db_upgrade(config: ConfigOption = None) -> None:
    """Creates the tables or brings them to this version."""
    _, settings = _load(config)
    from detector import config as configuration
    from detector import database
    from detector.store import schema

    engine = database.connect(configuration.secret(settings.database))
    before = schema.current(engine)
    schema.upgrade(engine)
    after = schema.current(engine)
    what = "already at" if before == after else f"upgraded from {before or 'nothing'} to"
    print(f"{database.redacted(engine.url)}: {what} schema {after}")


@db_app.command("check")
def db_check(config: ConfigOption = None) -> None:
    """Tells whether the tables are those of this version; exit status 3 if not."""
    _, settings = _load(config)
    from detector import config as configuration
    from detector import database
    from detector.store import schema

    engine = database.connect(configuration.secret(settings.database))
    schema.check(engine)
    print(f"{database.redacted(engine.url)}: at schema {schema.HEAD}, as this version needs")


@db_app.command("prune")
def db_prune(config: ConfigOption = None) -> None:
    """Removes stored scores that are older than keep_scores, as the daemon does every hour; alerts stay."""
    _, settings = _load(config)
    from detector import config as configuration
    from detector import database, wiring
    from detector.store import schema, scores

    engine = database.connect(configuration.secret(settings.database))
    schema.check(engine)
    for monitor in settings.monitors:
        before, removed = wiring.now_ms() - configuration.milliseconds(monitor.keep_scores), 0
        while rows := scores.prune(engine, monitor.name, before):
            removed += rows
        print(f"{monitor.name}: {removed} scores from before {_utc(before)} removed")


# -- shared -----------------------------------------------------------------------------------------------------------


def _load(path: Path | None) -> tuple[Path, Config]:
    from detector import config

    found = config.find(path)
    settings = config.load(found)
    _log_to_stderr(settings.log_level)
    return found.resolve(), settings


def _parts(path: Path | None, monitor: str | None) -> Parts:
    _, settings = _load(path)
    if monitor is not None:
        settings.monitor(monitor)
    from detector import wiring

    return wiring.assemble(settings)


def _log_to_stderr(level: str) -> None:
    # journald stamps the time itself
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    logging.basicConfig(level=level.upper(), format=f"{stamp}%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    for noisy in ("apscheduler", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # skipped runs are counted and logged by the worker, with the monitor's name
    logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)
    logging.getLogger("apscheduler.executors").setLevel(logging.ERROR)


def _time(option: str, written: str | None, zone: str = "UTC", *, or_else: str = "") -> int | None:
    """Epoch milliseconds of an ISO 8601 time, of the zone unless it names its own; or_else: what else may be given."""
    if written is None:
        return None
    from zoneinfo import ZoneInfo

    try:
        moment = datetime.fromisoformat(written)
    except ValueError as exc:
        msg = f"{option} must be a time such as 2026-11-23T14:00 or 2026-11-23{or_else}. Received: {written!r}"
        raise ConfigError(msg) from exc
    try:
        return int((moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone))).timestamp() * 1000)
    except (KeyError, ValueError) as exc:
        msg = f"the time zone must be one such as Europe/Berlin or UTC. Received: {zone!r}"
        raise ConfigError(msg) from exc


def _since(option: str, written: str | None) -> int | None:
    """Epoch milliseconds of a time, or of so long ago."""
    if written is None:
        return None
    from detector.config import parse_duration

    try:
        age = parse_duration(written)
    except ValueError:
        return _time(option, written, or_else=", or an age such as 2h or 7d")
    assert isinstance(age, timedelta)  # what is no time and no duration has been refused
    try:
        return int((datetime.now(UTC) - age).timestamp() * 1000)
    except OverflowError as exc:
        msg = f"{option} reaches back before there were dates. Received: {written!r}"
        raise ConfigError(msg) from exc


def _utc(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _alert_row(row: AlertRow) -> dict[str, Any]:
    metrics = row.explanation.get("metrics", [])
    return {
        "id": row.id,
        "monitor": row.monitor,
        "entity": row.entity,
        "state": row.state,
        "severity": row.severity,
        "opened": _utc(row.opened_slot),
        "detected": _utc(row.detected_at),
        "closed": _closed(row),
        "peak_score": round(row.peak_score, 2),
        "incident": None if row.incident is None else f"{row.incident} ({row.incident_size})",
        "reopened": row.reopenings,
        "muted": row.is_muted,
        "verdict": row.verdict,
        "top_metrics": [metric["metric"] for metric in metrics[:3]],
    }


def _closed(row: AlertRow) -> str | None:
    """When an alert closed, for people: by somebody's hand or by itself."""
    closed = row.closed_slot if row.closed_at is None else row.closed_at
    return None if closed is None else _utc(closed)


def _print(rows: Sequence[dict[str, Any]], *, as_json: bool = False, empty: str = "", vertical: bool = False) -> None:
    """Rows as a table, one below the other with `vertical`, or as JSON."""
    if as_json:
        print(json.dumps(rows, indent=2))
    elif not rows:
        print(empty)
    elif vertical:
        width = max(len(name) for row in rows for name in row)
        print("\n\n".join("\n".join(f"{k:<{width}}  {_cell(v)}" for k, v in row.items()) for row in rows))
    else:
        names = list(rows[0])
        cells = [[_cell(row[name]) for name in names] for row in rows]
        widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]
        for line in [names, *cells]:
            print("  ".join(_padded(zip(line, widths, strict=True))).rstrip())


def _padded(cells: Iterable[tuple[str, int]]) -> list[str]:
    return [f"{text:<{width}}" for text, width in cells]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return str(value)
