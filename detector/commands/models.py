"""`detector models`: trained model versions."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated, Any

import typer

from detector.commands.shared import ConfigOption, JsonOption, Moment, MonitorOption, assembled, print_rows, say
from detector.errors import ConfigError, ModelError
from detector.wording import amount, duration


def list_models(config: ConfigOption = None, monitor: MonitorOption = None, as_json: JsonOption = False) -> None:
    """Lists model versions, newest first."""
    parts = assembled(config, monitor)
    from detector.store import models

    rows = [
        {
            "version": row.version,
            "monitor": row.monitor,
            "live": row.is_live,
            "created": Moment(row.created_at),
            "entities": row.header.get("entities"),
            "trained_until": Moment(row.header["trained_until"]) if "trained_until" in row.header else None,
            "validation_loss": round(row.header.get("validation_loss", float("nan")), 5),
            "kilobytes": row.bytes // 1000,
        }
        for row in models.listing(parts.engine, monitor)
    ]
    print_rows(rows, as_json=as_json, empty="no models yet; the daemon trains one when there is enough history")


def show_model(
    version: Annotated[int, typer.Argument(help="Number of the version; see: detector models list")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Shows one model version: data, training, evaluation."""
    parts = assembled(config, None)
    from detector import wiring
    from detector.store import models

    found = [row for row in models.listing(parts.engine) if row.version == version]
    if not found:
        msg = f"no model version {version}; see: detector models list"
        raise ConfigError(msg)
    row = asdict(found[0])
    header = row.pop("header")
    times = {"created_at": Moment(row["created_at"])} | {
        name: Moment(header[name]) for name in ("trained_from", "trained_until") if name in header
    }
    sight = wiring.sight(parts, row["monitor"], version) if row["is_live"] else {}
    shown = row | header | times | sight
    if as_json:
        print_rows([shown], as_json=True)
    else:
        _print_model(shown)


def _print_model(shown: dict[str, Any]) -> None:
    """A version in words; numbers that only this program reads stay in JSON."""
    loss, deviations, blind = (shown.get(name) for name in ("validation_loss", "deviations_to_alert", "blind_ratio"))
    lines = {
        "version": shown["version"],
        "monitor": shown["monitor"],
        "live": shown["is_live"],
        "kind": shown.get("kind"),
        "created": shown["created_at"],
        "trained on": _span(shown),
        "entities": shown.get("entities"),
        "training": _training(shown),
        "validation loss": None if loss is None or math.isnan(loss) else f"{loss:.4f}",
        "opens an alert": None
        if deviations is None
        else f"a metric that is {deviations:.1f} deviations off for ten minutes",
        "blind": None if blind is None else f"{blind:.0%} of the metrics: no alert can come from them alone",
        "made by": ", ".join(f"{name} {shown[name]}" for name in ("detector", "keras", "numpy") if name in shown),
        "settings": shown.get("fingerprint"),
        "size": f"{shown['bytes'] // 1000} kB",
    }
    print_rows([{name: value for name, value in lines.items() if value is not None}], vertical=True)
    found = shown.get("detectability") or {}
    kinds = list(dict.fromkeys(kind for shares in found.values() for kind in shares))
    if kinds:
        say("\nfaults found, of those put into held-out data to choose the kind of model")
        named = {model: {kind: f"{share:.0%}" for kind, share in shares.items()} for model, shares in found.items()}
        print_rows(
            [
                {"fault": kind.replace("_", " ")} | {model: shares.get(kind, "-") for model, shares in named.items()}
                for kind in kinds
            ]
        )


def _span(shown: dict[str, Any]) -> str | None:
    start, end = shown.get("trained_from"), shown.get("trained_until")
    if not (isinstance(start, Moment) and isinstance(end, Moment)):
        return None
    return f"{start} to {end}, {duration(end.at - start.at)}"


def _training(shown: dict[str, Any]) -> str | None:
    parts = [
        amount(shown[name], what)
        for name, what in (("training_windows", "window"), ("epochs", "epoch"))
        if name in shown
    ]
    took = [duration(round(1000 * shown["seconds"]))] if "seconds" in shown else []
    return ", ".join([*parts, *took]) or None


def promote(
    version: Annotated[int, typer.Argument(help="Number of the version; see: detector models list")],
    config: ConfigOption = None,
) -> None:
    """Makes a stored version the live one, as after a retraining that made it worse."""
    parts = assembled(config, None)
    from detector.store import models

    row = next((row for row in models.listing(parts.engine) if row.version == version), None)
    if row is None:
        msg = f"no model version {version}; see: detector models list"
        raise ConfigError(msg)
    section = parts.config.monitor(row.monitor)
    loaded = parts.versions[row.monitor].load(version)
    if loaded.artifact.provenance["fingerprint"] != section.fingerprint:
        msg = f"model version {version} was trained for other settings than monitor {row.monitor!r} has now"
        raise ModelError(msg)
    before = parts.versions[row.monitor].live_number()
    models.promote(parts.engine, monitor=row.monitor, version=version)
    instead = "" if before in {None, version} else f" instead of {before}"
    until = "" if section.retrain == "off" else f", until the next training ({section.retrain})"
    say(f"model version {version} of monitor {row.monitor} is live{instead}{until}; a daemon takes it at its next tick")
