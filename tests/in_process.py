"""Commands run inside the test's own process, on a SQLite database of their own."""

from __future__ import annotations

import io
import logging
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from migrated import migrate
from sqlalchemy import Engine

from detector import cli, database
from detector.commands import shared

_parsers = cache(typer.main.get_command)  # Typer makes them anew for every command, which takes a tenth of a second


class Ended:
    """A command that has ended."""

    def __init__(self, status: int, output: str, errors: str) -> None:
        self.status, self.output, self.errors = status, output, errors


def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str | Path) -> Ended:
    """Runs the program to its end."""
    status = _status(monkeypatch, words)
    printed = capsys.readouterr()
    return Ended(status, printed.out, printed.err)


def ended_in(folder: Path, *words: str | Path, environment: Mapping[str, str] | None = None) -> Ended:
    """Runs the program to its end in a folder, as somebody does who is at no terminal."""
    with (
        own_signals(),
        pytest.MonkeyPatch.context() as patched,
        redirect_stdout(io.StringIO()) as output,
        redirect_stderr(io.StringIO()) as errors,
    ):
        for name, value in vars(shared.display).items():
            patched.setattr(shared.display, name, value)
        connected = _noted(patched)
        patched.setattr(sys, "stdin", io.StringIO())
        patched.chdir(folder)
        for name, value in (environment or {}).items():
            patched.setenv(name, value)
        try:
            status = _status(patched, words)
        finally:
            for engine in connected:  # a process that ends closes its connections
                engine.dispose()
    return Ended(status, output.getvalue(), errors.getvalue())


@contextmanager
def own_signals() -> Iterator[None]:
    """A training changes what signals do in its process: not in this one."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def detector(*words: str | Path, cwd: Path | None = None) -> Ended:
    """Runs a command to its good end, as `running.detector` does in a process of its own."""
    done = ended_in(cwd or Path.cwd(), *words)
    assert done.status == 0, done.errors[-3000:]
    return done


def _noted(patched: pytest.MonkeyPatch) -> list[Engine]:
    """The engines that the program makes from now on."""
    connect, noted = database.connect, list[Engine]()

    def noting(*arguments: Any, **named: Any) -> Engine:
        noted.append(connect(*arguments, **named))
        return noted[-1]

    patched.setattr(database, "connect", noting)
    return noted


def _status(monkeypatch: pytest.MonkeyPatch, words: Sequence[str | Path]) -> int:
    monkeypatch.setattr(typer.main, "get_command", _parsers)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's, beside which the program would set up no own
    monkeypatch.setattr(sys, "argv", ["detector", *map(str, words)])
    try:
        cli.main()
    except SystemExit as exc:
        return int(exc.code or 0)
    return 0


class Commands:
    """The program with a configuration and an empty database."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys
        self.url = f"sqlite:///{folder}/detector.db"
        self.config = folder / "config.toml"
        self.config.write_text(
            f'[database]\nurl = "{self.url}"\n'
            '[[monitors]]\nname = "web"\nmetrics = ["cpu", "memory"]\nsource = { type = "embedded" }\n'
            '[[monitors]]\nname = "db"\nmetrics = ["cpu"]\nsource = { type = "embedded" }\n'
        )
        self.engine = database.connect(self.url)
        migrate(self.engine)

    def __call__(self, *words: str | Path) -> Ended:
        """Runs a command."""
        return ended(self._monkeypatch, self._capsys, *words, "--config", self.config)
