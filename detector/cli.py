"""The `detector` command. Every command imports its own part when run, so `detector --help` loads none of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from detector.commands import (
    alerts,
    answers,
    backtest,
    bench,
    check,
    database,
    exclude,
    explain,
    export,
    import_,
    incident,
    init,
    models,
    notify,
    replay,
    report,
    run,
    scores,
    shared,
    train,
    watch,
)
from detector.errors import DetectorError

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
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
export_app = typer.Typer(help="Stored scores and alerts as CSV or Parquet files.", no_args_is_help=True)
app.add_typer(export_app, name="export")


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


def _add(to: typer.Typer, command: Callable[..., None], name: str | None = None) -> None:
    """Adds a command. The first line of its help is given as its summary, or it would be cut off in a list."""
    to.command(name, short_help=(command.__doc__ or "").partition("\n")[0])(command)


_add(app, run.run)
_add(app, run.demo)
_add(app, train.retrain)
_add(app, run.score)
_add(app, backtest.backtest)
_add(app, replay.replay)
_add(app, init.init)
_add(app, check.check)
_add(app, bench.bench)
_add(app, import_.import_, "import")
_add(app, report.report)
_add(app, incident.incident)
_add(app, explain.explain)
_add(app, scores.scores)
_add(export_app, export.export_scores, "scores")
_add(export_app, export.export_alerts, "alerts")
_add(app, notify.send_test, "test-notify")
_add(alerts_app, alerts.list_alerts, "list")
_add(alerts_app, alerts.show_alert, "show")
_add(alerts_app, answers.acknowledge, "ack")
_add(alerts_app, answers.unacknowledge, "unack")
_add(alerts_app, answers.close_alert, "close")
_add(alerts_app, answers.comment_on, "comment")
_add(alerts_app, watch.watch)
_add(exclude_app, exclude.add, "add")
_add(exclude_app, exclude.list_exclusions, "list")
_add(exclude_app, exclude.remove, "remove")
_add(models_app, models.list_models, "list")
_add(models_app, models.show_model, "show")
_add(models_app, models.promote, "promote")
_add(db_app, database.upgrade, "upgrade")
_add(db_app, database.check_schema, "check")
_add(db_app, database.backup, "backup")
_add(db_app, database.prune, "prune")
_add(db_app, database.rewind, "rewind")
