"""The command line itself: help that is short and whole, and completion in a real shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from detector import cli

ROOT = typer.main.get_command(cli.app)


def _commands(group: object = ROOT, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and group."""
    yield words
    for name, command in getattr(group, "commands", {}).items():
        yield from _commands(command, (*words, name))


@pytest.mark.parametrize("words", list(_commands()), ids=" ".join)
def test_h_is_help_everywhere_and_nothing_is_cut_off(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typer.testing, "_get_command", lambda _app: ROOT)  # or it is made anew for each call
    runner = CliRunner()

    short, long = (runner.invoke(cli.app, [*words, option], env={"COLUMNS": "80"}) for option in ("-h", "--help"))

    assert short.exit_code == 0
    assert short.output == long.output
    lines = short.output.partition("\n\n")[2].splitlines()  # after the usage
    assert [line for line in lines if line.endswith("...") or len(line) > 80] == []


@pytest.mark.slow
def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    program = tmp_path / "detector"
    program.write_text(f"#!{sys.executable}\nfrom detector.cli import main\nmain()\n")
    program.chmod(0o755)
    script = """
    source <(detector --show-completion)
    COMP_WORDS=(detector aler); COMP_CWORD=1; _detector_completion detector; echo "${COMPREPLY[@]}"
    COMP_WORDS=(detector alerts list --sev); COMP_CWORD=3; _detector_completion detector; echo "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=environment)

    assert done.stdout.splitlines() == ["alerts", "--severity"]
