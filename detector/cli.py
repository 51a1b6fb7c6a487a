"""The `detector` command. Every command imports its own part when run, so `detector --help` loads none of them."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from detector.commands import (
    alerts,
    backtest,
    bench,
    check,
    database,
    exclude,
    explain,
    import_,
    incident,
    init,
    models,
    report,
    run,
    shared,
    train,
)
from detector.errors import DetectorError

app = typer.Typer(
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


_GLOBAL = ("--utc", "--traceback")
"""Options of the program that may also stand after the command."""


def main() -> None:
    """Runs the command line; an error is one line on stderr, never a traceback that nobody has asked for."""
    arguments = _global_first(sys.argv[1:])
    try:
        app(args=arguments, standalone_mode=True)
    except DetectorError as exc:
        shared.say(f"detector: {exc}", to_stderr=True)
        sys.exit(exc.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `detector alerts list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as exc:
        if "--traceback" in arguments:
            raise
        shared.say(f"detector: unexpected {shared.told(exc)}; to see where, add --traceback", to_stderr=True)
        sys.exit(1)


def _global_first(arguments: list[str]) -> list[str]:
    """The arguments with the options of the program before the command."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    first = [option for option in _GLOBAL if option in arguments[:end]]
    return [*first, *(word for word in arguments[:end] if word not in _GLOBAL), *arguments[end:]]


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
    utc: Annotated[bool, typer.Option("--utc", help="Print and take times in UTC.")] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an unexpected error happened.")] = False,
) -> None:
    """Watches metrics in a database with an LSTM autoencoder; stores alerts and exports them to Prometheus.

    Times are printed and taken in the zone of this machine, with its offset; --utc, or [display] timezone in the
    configuration, changes both. A time with an offset of its own means that. In JSON all times are UTC.
    """
    del version
    shared.display.wants_traceback = traceback
    shared.display.is_utc, shared.display.zone = utc, ""


app.command()(run.run)
app.command()(run.demo)
app.command()(train.retrain)
app.command()(run.score)
app.command()(backtest.backtest)
app.command()(init.init)
app.command()(check.check)
app.command()(bench.bench)
app.command("import")(import_.import_)
app.command()(report.report)
app.command()(incident.incident)
app.command()(explain.explain)
alerts_app.command("list")(alerts.list_alerts)
alerts_app.command("show")(alerts.show_alert)
alerts_app.command("ack")(alerts.acknowledge)
alerts_app.command("close")(alerts.close_alert)
exclude_app.command("add")(exclude.add)
exclude_app.command("list")(exclude.list_exclusions)
exclude_app.command("remove")(exclude.remove)
models_app.command("list")(models.list_models)
models_app.command("show")(models.show_model)
db_app.command("upgrade")(database.upgrade)
db_app.command("check")(database.check_schema)
db_app.command("prune")(database.prune)
db_app.command("rewind")(database.rewind)
