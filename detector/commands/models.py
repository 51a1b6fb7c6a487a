"""`detector models`: trained model versions."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from detector.commands.shared import ConfigOption, JsonOption, Moment, MonitorOption, assembled, print_rows
from detector.errors import ConfigError

if TYPE_CHECKING:
    pass


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
    print_rows([row | header | times | sight], as_json=as_json, vertical=True)
