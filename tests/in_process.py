"""Commands run inside the test's own process, on a SQLite database of their own."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest
import typer
from migrated import migrate

from detector import cli, database

_parsers = cache(typer.main.get_command)  # Typer makes them anew for every command, which takes a tenth of a second


class Ended:
    """A command that has ended."""

    def __init__(self, status: int, output: str, errors: str) -> None:
        self.status, self.output, self.errors = status, output, errors


def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str | Path) -> Ended:
    """Runs the program to its end."""
    monkeypatch.setattr(typer.main, "get_command", _parsers)
    monkeypatch.setattr(sys, "argv", ["detector", *map(str, words)])
    status = 0
    try:
        cli.main()
    except SystemExit as exc:
        status = int(exc.code or 0)
    printed = capsys.readouterr()
    return Ended(status, printed.out, printed.err)


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
