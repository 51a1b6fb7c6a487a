"""Options, times and tables that all commands share."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.errors import ConfigError, DetectorError
from detector.times import local_zone, utc
from detector.wording import finite, printable

if TYPE_CHECKING:
    from detector.config.sections import Config, MonitorSection
    from detector.wiring import Parts

_GUESSED = "the service's folder /var/lib/detector is missing or closed to this user, and $STATE_DIRECTORY is not set."

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="Configuration file [$DETECTOR_CONFIG, ./config.toml, /etc/detector/config.toml]"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
MonitorOption = Annotated[str | None, typer.Option("--monitor", help="Only this monitor.")]
By = Annotated[str | None, typer.Option("--by", help="The name to record [the current user].", show_default=False)]
Comment = Annotated[str | None, typer.Option("--comment", help="The reason, for those who read it later.")]
EntityOption = Annotated[str | None, typer.Option("--entity", help="Only entities like this, with * and ?.")]


@dataclass
class _Display:
    """How times are printed and taken, and unexpected errors shown."""

    is_utc: bool = False  # --utc
    zone: str = ""  # of [display] timezone; "": the machine's
    wants_traceback: bool = False  # --traceback

    @property
    def named(self) -> str:
        """Its name, "" for the machine's."""
        return "UTC" if self.is_utc else self.zone


display = _Display()


@dataclass(frozen=True)
class Moment:
    """A time in epoch milliseconds: printed as the clocks of the display's zone show it, in JSON as UTC."""

    at: int

    def __str__(self) -> str:
        """ISO 8601 with the zone's offset."""
        from zoneinfo import ZoneInfo

        try:
            moment = datetime.fromtimestamp(self.at / 1000, UTC)
            local = moment.astimezone(ZoneInfo(display.named) if display.named else None)
        except (OverflowError, ValueError, OSError):  # beyond the calendar's end, as a row can be
            return f"{self.at / 1000:.0f} s after 1970"
        return local.isoformat(timespec="seconds").replace("+00:00", "Z")


def zone_name() -> str:
    """Name of the zone in which times are printed and taken, such as Europe/Berlin; UTC if the machine names none."""
    return display.named or local_zone()


def now_ms() -> int:
    """The time now, epoch milliseconds."""
    return int(datetime.now(UTC).timestamp() * 1000)


def user() -> str:
    """Name of the current user."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def one_of(option: str, value: str | None, allowed: Sequence[str]) -> None:
    """Refuses the value of an option that is not among the allowed ones."""
    if value is not None and value not in allowed:
        msg = f"{option} must be one of {', '.join(allowed)}. Received: {value!r}"
        raise ConfigError(msg)


def load(path: Path | None) -> tuple[Path, Config]:
    """The configuration file in use, absolute, and its content; begins to log."""
    from detector.config import loading

    found = loading.find(path)
    settings = loading.load(found)
    log_to_stderr(settings.log_level)
    display.zone = settings.display.timezone
    if loading.is_guessed(found):
        from detector import database

        url = database.redacted(loading.secret(settings.database))
        print(f"detector: {_GUESSED} Using {url}, in {Path.cwd()}", file=sys.stderr)
    return found.resolve(), settings


def assembled(path: Path | None, monitor: str | None) -> Parts:
    """The parts of a configuration, which must have the monitor if one is named."""
    _, settings = load(path)
    if monitor is not None:
        settings.monitor(monitor)
    from detector import wiring

    return wiring.assemble(settings)


class _OneLine(logging.Formatter):
    """Log lines in which no name can break the line or drive the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """The line without a traceback."""
        return printable(super().formatMessage(record))


def log_to_stderr(level: str) -> None:
    """Logs to stderr, without noise from libraries."""
    # journald stamps the time itself
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(f"{stamp}%(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for noisy in ("apscheduler", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # skipped runs are counted and logged by the worker, with the monitor's name
    logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)
    logging.getLogger("apscheduler.executors").setLevel(logging.ERROR)


def time_of(option: str, written: str, zone: str = "", *, or_else: str = "") -> int:
    """Epoch milliseconds of an ISO 8601 time, in the zone unless it names its own.

    zone: by default the one in which times are printed
    or_else: what else may be given
    """
    from zoneinfo import ZoneInfo

    try:
        moment = datetime.fromisoformat(written)
    except ValueError as exc:
        msg = f"{option} must be a time such as 2026-11-23T14:00 or 2026-11-23{or_else}. Received: {written!r}"
        raise ConfigError(msg) from exc
    name = zone or display.named
    try:
        inside = ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError) as exc:
        msg = f"the time zone must be one such as Europe/Berlin or UTC. Received: {zone!r}"
        raise ConfigError(msg) from exc
    try:
        aware = moment if moment.tzinfo else moment.replace(tzinfo=inside) if inside else moment.astimezone()
        return int(aware.timestamp() * 1000)
    except (OverflowError, ValueError) as exc:
        msg = f"{option} must be a time between the years 2 and 9998. Received: {written!r}"
        raise ConfigError(msg) from exc


def moment_of(option: str, written: str) -> int:
    """Epoch milliseconds of a time, or of an age before now."""
    from detector.config import values

    try:
        age = values.duration(written)
    except ValueError:
        return time_of(option, written, or_else=", or an age such as 2h or 7d")
    try:
        return int((datetime.now(UTC) - age).timestamp() * 1000)
    except OverflowError as exc:
        msg = f"{option} must not reach back before the year 1. Received: {written!r}"
        raise ConfigError(msg) from exc


def if_given(read: Callable[[str, str], int], option: str, written: str | None) -> int | None:
    """The value that `read` makes of an option; None if the option is not given."""
    return None if written is None else read(option, written)


def refuse_unless_file(option: str, path: Path) -> None:
    """Refuses a path to write to that is no file."""
    if path.exists() and not path.is_file():
        msg = f"{option} must be a file to write. Received: {str(path)!r}, which is something else"
        raise ConfigError(msg)


def write_file(option: str, path: Path, content: bytes) -> None:
    """Writes a file that an option names."""
    try:
        path.write_bytes(content)
    except OSError as exc:
        msg = f"{option} {path} cannot be written: {exc.strerror}"
        raise ConfigError(msg) from exc


def unknown_entity(monitor: str, entity: str, known: Sequence[str]) -> str:
    """Says that an entity is not among those on record of a monitor, with the nearest name."""
    import difflib

    near = difflib.get_close_matches(entity, known, n=1)
    return (
        f"no entity {entity!r} is on record of monitor {monitor!r}{f'; the nearest one is {near[0]!r}' if near else ''}"
    )


def say(text: str = "", *, to_stderr: bool = False) -> None:
    """Prints text; control characters in it, but for ends of lines, are escaped."""
    print(printable(text, keep="\n"), file=sys.stderr if to_stderr else sys.stdout)


def told(exc: Exception) -> str:
    """An error that nobody expected, in one line without secrets."""
    from detector.database import without_passwords

    words = without_passwords(" ".join(str(getattr(exc, "orig", None) or exc).split()))[:300]
    return printable(f"{type(exc).__name__}{f': {words}' if words else ''}")


def for_each(
    sections: Sequence[MonitorSection],
    work: Callable[[MonitorSection], None],
    *,
    then: Callable[[], None] | None = None,
) -> None:
    """Does the work for every monitor, also after one that fails: each failure is a line, and the status is not 0.

    then: what follows the last monitor

    Raises: the error of a single monitor as it is.
    """
    failed = 0
    for section in sections:
        try:
            work(section)
        except Exception as exc:
            if len(sections) == 1 or display.wants_traceback:
                raise
            failed += 1
            words = str(exc) if isinstance(exc, DetectorError) else f"unexpected {told(exc)}"
            named = "" if repr(section.name) in words else f"monitor {section.name!r}: "
            say(f"detector: {named}{words}", to_stderr=True)
    if then is not None:
        then()
    if failed:
        raise typer.Exit(1)


def print_json(value: object) -> None:
    """Prints strict JSON: a number that is not finite is null, a time is UTC."""

    print(json.dumps(finite(value), indent=2, allow_nan=False, default=_utc_of))


def _utc_of(value: object) -> str:
    if isinstance(value, Moment):
        return utc(value.at)
    raise TypeError(f"{type(value).__name__} is not for JSON")


def print_rows(
    rows: Sequence[dict[str, Any]],
    *,
    as_json: bool = False,
    empty: str = "",
    vertical: bool = False,
    width: int | None = None,
) -> None:
    """Prints rows as a table, one below the other with `vertical`, or as JSON; `empty` if there are none.

    width: characters after which the lines of a table are cut [they are not]
    """
    if as_json:
        print_json(rows)
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
            whole = "  ".join(_padded(zip(line, widths, strict=True))).rstrip()
            print(whole if width is None or len(whole) <= width else f"{whole[: width - 1]}…")


def _padded(cells: Iterable[tuple[str, int]]) -> list[str]:
    return [f"{text:<{width}}" for text, width in cells]


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return printable(", ".join(map(str, value))) or "-"
    return printable(str(value))
