"""`detector db`: the detector's own tables."""

from __future__ import annotations

from detector.commands.shared import ConfigOption, load, now_ms
from detector.times import milliseconds, utc


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
    print(f"{database.redacted(engine.url)}: {what} schema {after}")


def check_schema(config: ConfigOption = None) -> None:
    """Checks that the tables are those of this version; exit status 3 if not."""
    _, settings = load(config)
    from detector import database
    from detector.config import loading
    from detector.store import schema

    engine = database.connect(loading.secret(settings.database), creates=False)
    schema.check(engine)
    print(f"{database.redacted(engine.url)}: at schema {schema.HEAD}, as this version needs")


def prune(config: ConfigOption = None) -> None:
    """Removes stored scores older than keep_scores, as the daemon does every hour; alerts stay."""
    _, settings = load(config)
    from detector import database
    from detector.config import loading
    from detector.store import schema, scores

    engine = database.connect(loading.secret(settings.database), creates=False)
    schema.check(engine)
    for monitor in settings.monitors:
        before, removed = now_ms() - milliseconds(monitor.keep_scores), 0
        while rows := scores.prune(engine, monitor.name, before):
            removed += rows
        print(f"{monitor.name}: {removed} scores from before {utc(before)} removed")
