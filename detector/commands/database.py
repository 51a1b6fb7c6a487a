"""`detector db`: the detector's own tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detector.commands.shared import ConfigOption, Moment, assembled, load, moment_of, now_ms, say
from detector.errors import ConfigError
from detector.times import milliseconds


def upgrade(config: ConfigOption = None) -> None:
    """Creates the tables, or brings them to this version."""
    _, settings = load(config)
    from detector import database
    from detector.config import loading
    from detector.store import schema

    engine = database.connect(loading.secret(settings.database))
    before = schema.current(engine)
    schema.upgrade(engine)
    after = schema.current(engine)
    what = "already at" if before == after else f"upgraded from {before or 'nothing'} to"
    say(f"{database.redacted(engine.url)}: {what} schema {after}")


def check_schema(config: ConfigOption = None) -> None:
    """Checks that the tables are those of this version; exit status 3 if not."""
    _, settings = load(config)
    from detector import database
    from detector.config import loading
    from detector.store import schema

    engine = database.connect(loading.secret(settings.database), creates=False)
    schema.check(engine)
    say(f"{database.redacted(engine.url)}: at schema {schema.HEAD}, as this version needs")


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write, which must not exist yet.")],
    config: ConfigOption = None,
) -> None:
    """Copies the detector's SQLite database into a file, while the daemon runs."""
    _, settings = load(config)
    from detector import database
    from detector.config import loading
    from detector.store import backup as copying
    from detector.store import schema

    engine = database.connect(loading.secret(settings.database), creates=False)
    if (instead := copying.INSTEAD.get(engine.dialect.name)) is not None:
        msg = f"db backup copies SQLite databases; for {database.redacted(engine.url)} use: {instead}"
        raise ConfigError(msg)
    if file.exists():
        msg = f"{file} exists already, and a back-up is never overwritten; give another name"
        raise ConfigError(msg)
    schema.check(engine)
    try:
        size = copying.copy(engine, file)
    except OSError as exc:
        msg = f"{file} cannot be written: {exc.strerror}"
        raise ConfigError(msg) from exc
    say(f"{file}: {-(-size // 1000)} kB, checked")


def prune(config: ConfigOption = None) -> None:
    """Removes scores and what was judged, older than keep_scores, as the daemon does every hour; alerts stay."""
    _, settings = load(config)
    from detector import database
    from detector.config import loading
    from detector.detect.horizon import Horizon
    from detector.store import judged, schema, scores

    engine = database.connect(loading.secret(settings.database), creates=False)
    schema.check(engine)
    for monitor in settings.monitors:
        before, removed = now_ms() - milliseconds(monitor.keep_scores), 0
        while rows := scores.prune(engine, monitor.name, before):
            removed += rows
        ranges, look_back = 0, Horizon.of(monitor).look_back  # the record is compared with what memory is rebuilt from
        while rows := judged.prune(engine, monitor.name, before - look_back):
            ranges += rows
        more = f" and {ranges} ranges of judged slots" if ranges else ""
        say(f"{monitor.name}: {removed} scores{more} from before {Moment(before)} removed")


def rewind(
    monitor: Annotated[str, typer.Argument(help="The monitor whose cursor moves back.")],
    to: Annotated[
        str,
        typer.Option(
            "--to", help="Where to: judge again from this time on, in this machine's zone, or this long ago (2h)."
        ),
    ],
    config: ConfigOption = None,
) -> None:
    """Moves a monitor's cursor back: its slots from there on are judged again with the next tick."""
    parts = assembled(config, monitor)
    from detector.detect import rewind as rewinding
    from detector.detect.horizon import Horizon

    moment, horizon = moment_of("--to", to), Horizon.of(parts.config.monitor(monitor))
    cursor = parts.store.cursor(monitor)
    if cursor is None:
        msg = f"monitor {monitor!r} has no cursor yet: nothing of it was ever judged"
        raise ConfigError(msg)
    if moment is None or moment >= cursor:
        msg = f"--to must be earlier than the cursor, {Moment(cursor)}. Received: {to}"
        raise ConfigError(msg)
    if moment < cursor - horizon.max_catch_up:
        earliest = Moment(cursor - horizon.max_catch_up)
        msg = (
            f"--to must not be further back than max_catch_up of monitor {monitor!r}, {earliest}:"
            f" what is older would be skipped, and its scores and alerts lost; raise max_catch_up first. Received: {to}"
        )
        raise ConfigError(msg)
    rewinding.rewind(horizon, parts.store, to=moment, now=now_ms())
    again = parts.store.cursor(monitor) or moment
    say(
        f"monitor {monitor}: the cursor moved from {Moment(cursor)} back to {Moment(again)};"
        " the next tick judges from there"
    )
