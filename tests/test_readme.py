"""The table of tests in README.md: every test it names exists, and every cell says something."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LINES = (TESTS / "README.md").read_text(encoding="utf-8").splitlines()
STAGES = ["read", "train", "tick", "catch-up", "restart", "export", "notify"]
SOURCES = ["SQLite", "PostgreSQL", "MariaDB", "Prometheus", "CSV", "host"]


def _rows() -> list[list[str]]:
    """Cells of the table of faults, its head first."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES if line.startswith("|")]
    begin = next(number for number, row in enumerate(rows) if row[0] == "kind")
    return [rows[begin], *rows[begin + 2 :]]


def _named() -> list[str]:
    """Every test that is named, as FILE::FUNCTION; a name without a file is of the file before it."""
    found, file = [], ""
    for path, function in re.findall(r"`([\w/.]*)::(\w+)`", "\n".join(LINES)):
        file = path or file
        found.append(f"{file}::{function}")
    return found


def _words() -> set[str]:
    """What cells may hold."""
    lists = [match[1].split(", ") for line in LINES if (match := re.match(r"- ([a-z\d, -]+): `", line))]
    gaps = [f"? {match[1]}" for line in LINES if (match := re.match(r"(\d+)\. ", line))]
    reasons = re.findall(r"(\([a-z]+\)): ", "\n".join(LINES))
    return {word for words in lists for word in words} | set(gaps) | set(reasons)


@cache
def _functions(file: str) -> set[str]:
    """Names of a file's functions."""
    module = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in module.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", _named())
def test_a_test_that_is_named_exists(name: str) -> None:
    file, function = name.split("::")

    assert function in _functions(file)


def test_there_is_a_row_for_every_kind_and_source() -> None:
    head, *rows = _rows()

    assert head[2:] == STAGES
    assert [row[1] for row in rows] == SOURCES * 11
    assert [int(row[0].split()[0]) for row in rows if row[0]] == list(range(1, 12))


def test_every_cell_is_a_word_that_is_explained_and_every_word_is_used() -> None:
    cells = {cell for row in _rows()[1:] for cell in row[2:]}

    assert cells - {"="} == _words()
    assert all(cell != "=" for row in _rows()[1:] if row[1] == "SQLite" for cell in row)


def test_the_page_stays_readable() -> None:
    assert len(LINES) <= 170
