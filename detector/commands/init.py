"""`detector init`: from the URL of a database to a configuration that runs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote, urlsplit, urlunsplit

import typer

from detector.commands.shared import now_ms, print_rows, say, zone_name
from detector.errors import ConfigError
from detector.wording import printable

if TYPE_CHECKING:
    from detector.operate.proposal import Proposal
    from detector.operate.propose import Table

_TIMEOUT = timedelta(seconds=20)  # of a question; what takes longer has no index for it
_NAMED = 8
_URL = "A database (postgresql://…, mysql://…, sqlite:///file.db), a file of SQLite, or a Prometheus (http://…)."

_HEAD = """\
# Proposed by `detector init`. Why a value was chosen stands beside it. The config.toml that comes with the program has
# all keys with their defaults. `detector check` says whether all is well.

[database]                            # where alerts, scores and models are kept
url = "sqlite:///${STATE_DIRECTORY:-.}/detector.db"

"""


@dataclass(frozen=True)
class _Address:
    """A URL as it is, and as it is written: with ${…} in place of its secrets."""

    url: str
    written: str
    secrets: Mapping[str, str]  # by the names of their environment variables


@dataclass(frozen=True)
class _Wanted:
    """What the command line says in place of what would be proposed."""

    tables: Sequence[str]
    name: str
    entity: Sequence[str]
    metrics: Sequence[str]
    step: str

    def of(self, found: Proposal) -> Proposal:
        named = replace(found, name=self.name or found.name)
        return named.changed(step=self.step) if self.step else named


def init(
    url: Annotated[str, typer.Argument(help=_URL, show_default=False)],
    table: Annotated[list[str] | None, typer.Option("--table", help="A table to watch; several: repeat it.")] = None,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("config.toml"),
    add: Annotated[bool, typer.Option("--add", help="Add to that file, which exists.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
    name: Annotated[str, typer.Option("--name", help="Name of the monitor.", show_default=False)] = "",
    entity: Annotated[
        list[str] | None, typer.Option("--entity", help="Column or label that names the entity; several: repeat it.")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="A metric to watch; several: repeat it.")] = None,
    step: Annotated[str, typer.Option("--step", help="Length of a slot, such as 60s.", show_default=False)] = "",
    token_file: Annotated[
        str, typer.Option("--token-file", help="File with the token of a Prometheus.", show_default=False)
    ] = "",
    ca_file: Annotated[
        str, typer.Option("--ca-file", help="Certificates of a Prometheus's authority.", show_default=False)
    ] = "",
) -> None:
    """Looks at the tables of a database, or the metrics of a Prometheus, and proposes a configuration.

    It only reads. On a terminal it asks what is unclear; without one, or with --yes, options say it.
    """
    _refuse_to_overwrite(out, add=add)
    wanted = _Wanted(table or (), name, entity or (), metric or (), step)
    asks = sys.stdin.isatty() and not yes
    address = _address(url, _variable(name or next(iter(table or ()), "source"), out))
    if address.url.startswith(("http://", "https://")):
        found = [_of_prometheus(address, wanted, token_file=token_file, ca_file=ca_file)]
    else:
        found = _of_database(address, wanted, asks=asks)
    if len(found) > 1 and (wanted.name or wanted.metrics or wanted.entity):
        raise ConfigError("--name, --metric and --entity are for one table; leave them out, or name one with --table")
    found = [wanted.of(one) for one in found]
    found = [_asked(one) if asks else one for one in found]
    _write(out, found, address.secrets, add=add)
    _verdict(out, found, address)


# -- the URL ----------------------------------------------------------------------------------------------------------


def _variable(name: str, out: Path) -> str:
    """The environment variable for a password, one that the file to add to does not use."""
    plain = re.sub(r"\W", "_", f"{name}_PASSWORD", flags=re.ASCII).upper()
    used = out.read_text(encoding="utf-8") if out.is_file() else ""
    return next(one for one in (plain, *(f"{plain}_{n}" for n in range(2, 1000))) if one not in used)


def _address(url: str, variable: str) -> _Address:
    from detector.config import loading

    if "${" in url:
        return _Address(loading.filled(url), url, {})
    if url.startswith(("http://", "https://")):
        return _http(url, variable)
    if "://" not in url:
        if not os.path.isfile(url):
            msg = f"URL must be one such as postgresql://reader@host/metrics, or a file of SQLite. Received: {url!r}"
            raise ConfigError(printable(msg))
        url = f"sqlite:///{Path(url).absolute()}"
    from detector import database

    parsed = database.parse(url)
    if parsed.get_backend_name() == "sqlite":
        if (missing := database.missing_file(parsed)) is not None:
            raise ConfigError(f"there is no file {missing}; is the path right?")
        whole = parsed.set(database=os.path.abspath(parsed.database)) if parsed.database else parsed
        return _Address(url, whole.render_as_string(hide_password=False), {})
    plain = database.without_secrets(parsed)
    secrets = {}
    written = url.partition("://")[0] + "://" + plain.url.partition("://")[2]  # without the driver that is filled in
    for key, value in plain.secrets.items():
        named = variable if key == "password" else f"{variable}_{key.upper()}"
        secrets[named] = value
        written = written.replace(plain.mark(key), "${" + named + "}")
    return _Address(url, written, secrets)


def _http(url: str, variable: str) -> _Address:
    from detector.config import values

    try:
        values.server_url(url)
    except ValueError as exc:
        raise ConfigError(f"URL {exc}") from None
    parts = urlsplit(url)
    if parts.password is None:
        return _Address(url, url, {})
    host = parts.netloc.rpartition("@")[2]
    written = urlunsplit(parts._replace(netloc=f"{parts.username}:${{{variable}}}@{host}"))
    return _Address(url, written, {variable: unquote(parts.password)})


# -- what is there ----------------------------------------------------------------------------------------------------


def _of_prometheus(address: _Address, wanted: _Wanted, *, token_file: str, ca_file: str) -> Proposal:
    from detector.config.sections import PrometheusSource
    from detector.operate import survey_prometheus

    if wanted.tables or len(wanted.entity) > 1:
        raise ConfigError("a Prometheus has no tables, and one label names its entities: leave out --table")
    connection = {"url": address.written, "token_file": token_file, "ca_file": ca_file}
    section = PrometheusSource(type="prometheus", url=address.url, token_file=token_file, ca_file=ca_file)
    return survey_prometheus.proposal(
        section,
        wanted=wanted.metrics,
        entity=next(iter(wanted.entity), "instance"),
        now=now_ms(),
        connection={"type": "prometheus", **{key: value for key, value in connection.items() if value}},
    )


def _of_database(address: _Address, wanted: _Wanted, *, asks: bool) -> list[Proposal]:
    from detector import database
    from detector.operate import propose
    from detector.operate.survey import Survey

    engine = database.connect(address.url, timeout=_TIMEOUT, reads_only=True)
    try:
        survey = Survey(engine, _TIMEOUT)
        tables = survey.tables()
        columns = {one.name: {column.name for column in one.columns} for one in tables}
        usable = [one for one in tables if propose.may_be_metrics(one)]
        chosen = _named(tables, wanted.tables) if wanted.tables else _chosen(usable, tables, columns, asks=asks)
        connection = {"type": "sql", "url": address.written}
        found = []
        for one in chosen:
            say(f"looking at {one.name}", to_stderr=True)
            found.append(
                survey.proposal(
                    one,
                    columns,
                    now=now_ms(),
                    local=_local_zone(),
                    connection=connection,
                    entity=wanted.entity,
                    metrics=wanted.metrics,
                )
            )
        return found
    finally:
        engine.dispose()


def _named(tables: Sequence[Table], names: Sequence[str]) -> list[Table]:
    import difflib

    by_name = {one.name: one for one in tables}
    found = []
    for name in names:
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.4)
            hint = f"; perhaps {near[0]!r}" if near else ""
            raise ConfigError(printable(f"--table must be a table that there is. Received: {name!r}{hint}"))
        found.append(by_name[name])
    return found


def _chosen(
    usable: Sequence[Table], tables: Sequence[Table], columns: Mapping[str, set[str]], *, asks: bool
) -> list[Table]:
    """The tables to watch: the only one, those that are chosen, or that of a Zabbix."""
    from detector.operate import presets

    if presets.is_zabbix(columns):
        return [one for one in tables if one.name == "history"]
    if not usable:
        names = ", ".join(one.name for one in tables[:_NAMED])
        msg = f"no table has a column of times and one of numbers; there is {names}"
        raise ConfigError(printable(msg))
    if len(usable) == 1:
        return list(usable)
    if not asks:
        more = f" and {len(usable) - _NAMED} more" if len(usable) > _NAMED else ""
        names = ", ".join(one.name for one in usable[:_NAMED])
        raise ConfigError(printable(f"several tables may hold metrics: {names}{more}; name one with --table"))
    for number, one in enumerate(usable, 1):
        say(f"{number:3}  {one.name}: {', '.join(column.name for column in one.columns[:_NAMED])}")
    return [usable[index] for index in _picked("Which of them", len(usable), default="1")]


def _local_zone() -> tuple[str, int]:
    from datetime import datetime

    offset = datetime.now().astimezone().utcoffset() or timedelta(0)
    return zone_name(), round(offset.total_seconds() * 1000)


# -- asking, writing --------------------------------------------------------------------------------------------------


def _asked(found: Proposal) -> Proposal:
    """A proposal as somebody at a terminal wants it."""
    for note in found.notes:
        say(note)
    name = typer.prompt("Name of the monitor", default=found.name)
    metrics = _some_of("Metrics", found.settings["metrics"])
    step = typer.prompt("Step", default=found.settings["step"])
    settings = {"metrics": metrics} if metrics != found.settings["metrics"] else {}
    settings |= {"step": step} if step != found.settings["step"] else {}
    return replace(found.changed(**settings), name=name)


def _some_of(what: str, proposed: Sequence[str]) -> list[str]:
    """Some of the names proposed, as somebody picks them by number."""
    if len(proposed) == 1:
        return list(proposed)
    for number, name in enumerate(proposed, 1):
        say(f"{number:3}  {name}")
    return [proposed[index] for index in _picked(what, len(proposed), default="all")]


def _picked(what: str, count: int, *, default: str) -> list[int]:
    """Places, from 0 on, that somebody picks of so many."""
    while True:
        answer = typer.prompt(f"{what}: numbers, or all", default=default)
        picked = [str(number + 1) for number in range(count)] if answer == "all" else re.split(r"[ ,]+", answer.strip())
        if all(one.isdecimal() and 1 <= int(one) <= count for one in picked):
            return [int(one) - 1 for one in dict.fromkeys(picked)]
        say(f"numbers from 1 to {count}, please")


def _refuse_to_overwrite(out: Path, *, add: bool) -> None:
    if out.exists() and not add:
        msg = f"{out} exists, and is not replaced; add to it with --add, or name another file with --out"
        raise ConfigError(msg)
    if add and not out.is_file():
        raise ConfigError(f"--add needs a configuration to add to, but there is no file {out}")


def _write(out: Path, found: Sequence[Proposal], secrets: Mapping[str, str], *, add: bool) -> None:
    """Writes the file whole or not at all, after it has been read as the daemon would."""
    from detector.config import loading
    from detector.operate import proposal

    for one in found:
        proposal.refuse_unwritable([*one.settings["metrics"], *one.source.get("entity", [])])
    before = out.read_text(encoding="utf-8").rstrip() + "\n\n" if add else _HEAD
    new = out.with_name(f".{out.name}.new")
    try:
        new.write_text(before + "\n".join(map(proposal.written, found)), encoding="utf-8")
        loading.load(new, {**os.environ, **secrets})
        new.replace(out)
    except OSError as exc:
        raise ConfigError(f"--out must be a file that can be written: {exc}") from None
    except ConfigError as exc:
        raise ConfigError(str(exc).replace(str(new), str(out))) from None
    finally:
        new.unlink(missing_ok=True)


def _verdict(out: Path, found: Sequence[Proposal], address: _Address) -> None:
    """What `detector check` says of the file, and what to type next."""
    from detector.commands import check
    from detector.config import loading
    from detector.operate import proposal

    for one in found:
        say(proposal.written(one))
    settings = loading.load(out, {**os.environ, **address.secrets})
    rows, too_much = check.checked(settings)
    print_rows(rows, vertical=True)
    names = " ".join(one.name for one in found)
    option = "" if str(out) == "config.toml" else f" --config {out}"
    say(f"\n{out} is written. Next:")
    for variable in address.secrets:
        say(f"  export {variable}=…    # the password in the URL: it is not in the file; or use url_file")
    say(f"  detector db upgrade{option} && detector retrain {names}{option}\n  detector run{option}")
    if too_much is not None:
        raise too_much
    if any(row.get("problem") for row in rows):
        raise typer.Exit(1)
