"""`detector replay`: what the live model would have alerted in stored history, at one budget or several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.commands.alerts import alert_row
from detector.commands.shared import (
    ConfigOption,
    JsonOption,
    Moment,
    assembled,
    moment_of,
    now_ms,
    print_json,
    print_rows,
    refuse_unless_file,
    say,
    write_file,
    zone_name,
)
from detector.errors import ConfigError, ModelError, SourceError

if TYPE_CHECKING:
    from detector.config.sections import MonitorSection
    from detector.ports import ModelVersion
    from detector.store.alerts import AlertRow
    from detector.store.replayed import ReplayedHistory
    from detector.wiring import Parts


def replay(
    monitor: Annotated[str, typer.Argument(help="The monitor.")],
    from_: Annotated[str, typer.Option("--from", help="Replay from a time on, or from this long ago.")] = "7d",
    to: Annotated[str | None, typer.Option("--to", help="Replay up to a time, or this long ago [now].")] = None,
    budgets: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            metavar="N",
            help="Alerts a week, instead of the configured budget; several (1,5,20) are compared.",
        ),
    ] = None,
    version: Annotated[int | None, typer.Option("--model", help="A model version [the live one].")] = None,
    out: Annotated[Path | None, typer.Option("--report", help="Write an HTML report as well.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tells what would have been alerted in stored history, at one budget or several; stores and sends nothing.

    The source is read and judged as the daemon does it. Rows that came late count as if they had come in time.
    """
    parts, now = assembled(config, monitor), now_ms()
    section = parts.config.monitor(monitor)
    wanted = _budgets(budgets) or [section.threshold.alert_budget_per_week]
    if out is not None and len(wanted) > 1:
        msg = "--report is of one budget; give one --budget"
        raise ConfigError(msg)
    if out is not None:
        refuse_unless_file("--report", out)
    start, end = moment_of("--from", from_), now if to is None else moment_of("--to", to)
    start, end = _period(section, start, end, now)
    model = _model(parts, monitor, version, start)
    from detector import progress, wiring
    from detector.core.rejects import in_words

    found = []
    with progress.shown("replay") as whole:
        for index, budget in enumerate(wanted):
            at_budget = _with_budget(section, budget)
            share = progress.part(whole, index / len(wanted), 1 / len(wanted))
            history, judged = wiring.replayed(parts, at_budget, model, start=start, end=end, progress=share)
            found.append((at_budget, history))
    for reject in judged.rejects:
        say(f"monitor {monitor}: {in_words(reject)}", to_stderr=True)
    scored = history.store.judged_slots(start)
    if not scored:
        msg = f"monitor {monitor!r}: nothing from {Moment(start)} to {Moment(end)} could be judged; see: detector check"
        raise SourceError(msg)
    if out is not None:
        _write_report(*found[0], version=model.version, out=out, now=now)
    told = {
        "monitor": monitor,
        "from": Moment(start),
        "to": Moment(end),
        "model_version": model.version,
        "trained_until": Moment(model.trained_until),
        "entities": len(scored),
        "judged_share": round(sum(scored.values()) * section.step_ms / (len(scored) * (end - start)), 4),
        "budgets": [_told(at_budget, history, start, end) for at_budget, history in found],
        "stored_alerts": _stored(parts, monitor, start, end),
    }
    print_json(told) if as_json else _print(told)


def _budgets(written: list[str] | None) -> list[float]:
    """The budgets in options, each a number or several with commas between them."""
    found = []
    for word in ",".join(written or []).split(","):
        try:
            budget = float(word) if word.strip() else None
        except ValueError:
            budget = -1.0
        if budget is not None and not 0.0 < budget < float("inf"):
            msg = f"--budget must be a number of alerts a week above 0, or several such as 1,5,20. Received: {word!r}"
            raise ConfigError(msg)
        found += [] if budget is None else [budget]
    return list(dict.fromkeys(found))


def _with_budget(section: MonitorSection, budget: float) -> MonitorSection:
    threshold = section.threshold.model_copy(update={"alert_budget_per_week": budget})
    return section.model_copy(update={"threshold": threshold})


def _period(section: MonitorSection, start: int, end: int, now: int) -> tuple[int, int]:
    """First slot and end of the last complete one, epoch milliseconds."""
    from detector.core import grid
    from detector.times import milliseconds

    if end > now:
        msg = f"--to must not be later than now, {Moment(now)}. Received: {Moment(end)}"
        raise ConfigError(msg)
    step = section.step_ms
    first = grid.floor(start, step)
    last = min(grid.floor(end, step), grid.complete_until(now, step, milliseconds(section.delay)))
    if first >= last:
        msg = f"--from must be at least a slot before --to. Received: {Moment(start)} to {Moment(end)}"
        raise ConfigError(msg)
    return first, last


def _model(parts: Parts, monitor: str, number: int | None, start: int) -> ModelVersion:
    """The model version to judge by; says so if it has learned of what it is to judge."""
    from detector.store import models

    versions, section = parts.versions[monitor], parts.config.monitor(monitor)
    if number is not None and number not in {row.version for row in models.listing(parts.engine, monitor)}:
        msg = f"monitor {monitor!r} has no model version {number}; see: detector models list --monitor {monitor}"
        raise ModelError(msg)
    model = versions.live() if number is None else versions.load(number)
    if model is None:
        msg = f"monitor {monitor!r} has no model yet; run: detector retrain {monitor}"
        raise ModelError(msg)
    if model.artifact.provenance["fingerprint"] != section.fingerprint:
        msg = f"model version {number} was trained for other settings than monitor {monitor!r} has now"
        raise ModelError(msg)
    if model.trained_until > start:
        older = _trained_before(parts, section, start)
        hint = "" if older is None else f"; version {older} has not: --model {older}"
        say(
            f"detector: model version {model.version} has learned from data up to {Moment(model.trained_until)}; "
            f"what is strange before that is partly no news to it{hint}",
            to_stderr=True,
        )
    return model


def _trained_before(parts: Parts, section: MonitorSection, start: int) -> int | None:
    """The newest version whose training ended before a time, epoch milliseconds; None if there is none."""
    from detector.store import models

    for row in models.listing(parts.engine, section.name):
        if row.header.get("fingerprint") == section.fingerprint and row.header.get("trained_until", start + 1) <= start:
            return row.version
    return None


def _told(section: MonitorSection, history: ReplayedHistory, start: int, end: int) -> dict[str, Any]:
    """Alerts at one budget, in numbers and one by one."""
    from detector.times import WEEK_MS

    rows = [row for row in history.alerts(since=start) if row.state != "withdrawn"]
    told = [row for row in rows if not row.is_muted]
    budget = section.threshold.alert_budget_per_week
    return {
        "budget_per_week": budget,
        "budget_in_this_time": round(budget * (end - start) / WEEK_MS, 2),
        "alerts": len(told),
        "critical": sum(row.episode.severity == "critical" for row in told),
        "muted": len(rows) - len(told),
        "entities": len({row.entity for row in told}),
        "incidents": len({row.incident for row in told}),
        "found": [_found(row) for row in rows],
    }


def _found(row: AlertRow) -> dict[str, Any]:
    from detector import wording

    hidden = {"monitor", "verdict"}
    shown = {name: value for name, value in alert_row(row).items() if name not in hidden}
    return shown | {"what": wording.sentence(row.explanation)}


def _stored(parts: Parts, monitor: str, start: int, end: int) -> int:
    """Number of stored alerts that opened in this time."""
    from detector.store import alerts

    rows = alerts.listing(parts.engine, monitor=monitor, since=start, until=end, most=1 << 30)
    return sum(row.state != "withdrawn" for row in rows)


def _print(told: dict[str, Any]) -> None:
    say(f"{told['monitor']}, {told['from']} to {told['to']}, by model version {told['model_version']}")
    entities, share = told["entities"], told["judged_share"]
    say(f"{entities} entit{'y' if entities == 1 else 'ies'}, {share:.1%} of their slots could be judged\n")
    budgets = told["budgets"]
    if len(budgets) == 1:
        columns = ("id", "entity", "severity", "opened", "detected", "closed", "peak_score", "incident", "top_metrics")
        rows = [{name: row[name] for name in columns} for row in budgets[0]["found"]]
        print_rows(rows, empty="no alerts")
        say()
    titles = {
        "budget_per_week": "budget a week",
        "budget_in_this_time": "in this time",
        "alerts": "alerts",
        "critical": "critical",
        "muted": "muted",
        "entities": "entities",
        "incidents": "incidents",
    }
    print_rows([{title: _number(row[name]) for name, title in titles.items()} for row in budgets])
    count = told["stored_alerts"]
    say(f"\nstored of this time: {count} alert{'' if count == 1 else 's'}. Of this replay nothing is stored.")


def _number(value: float) -> str:
    return f"{value:g}"


def _write_report(section: MonitorSection, history: ReplayedHistory, *, version: int, out: Path, now: int) -> None:
    from detector.report import content, page, rows

    read = rows.read(section, history, history.store, since=history.start, now=now)
    built = content.build([read], now=now, zone=zone_name())
    budget = section.threshold.alert_budget_per_week
    title = f"Replay of {section.name} by model version {version}: what {budget:g} a week would have alerted"
    written = page.render(built | {"title": title}).encode()
    write_file("--report", out, written)
    say(f"{out}: {-(-len(written) // 1000)} kB", to_stderr=True)
