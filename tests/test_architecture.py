"""Who may import whom: a table, held against every import statement there is."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "detector"

# Who may import whom: each room, lowest first, and what it may import of this program.
# A room is a package or a module of detector/. It imports only rooms that stand above it in this table.
_LOW = {"errors", "times", "core"}
_USE_CASES = {"detect", "train", "replay"}

ALLOWED: dict[str, set[str]] = {
    "detector": set(),  # detector/__init__.py: the version
    # values and words
    "errors": set(),
    "times": set(),
    "cores": set(),
    "progress": set(),
    "tables": set(),  # the one description of the database, read by all that query it
    "wording": set(),
    "core": {"errors", "times"},
    "database": {"errors"},
    "csv_files": {"errors"},
    "http_client": {"detector"},  # one request: for every adapter that speaks HTTP
    "ports": {*_LOW, "progress"},
    "config": {"errors", "times"},
    # use cases: ports, never adapters
    "detect": {*_LOW, "progress", "ports", "config", "cores"},
    "train": {*_LOW, "progress", "ports", "config", "detect"},
    "replay": {*_LOW, "progress", "ports", "config", "detect", "train", "csv_files"},
    # adapters: never each other
    "sources": {*_LOW, "ports", "config", "database", "tables", "http_client"},
    "models": {*_LOW, "ports", "config", "progress", "cores"},
    "store": {*_LOW, "ports", "database", "tables", "detect"},
    "notify": {*_LOW, "ports", "wording", "detector", "http_client"},
    "export": {*_LOW, "ports", "detect", "detector"},
    "report": {*_LOW, "ports", "config", "detect", "wording"},
    # the daemon's face: what is exported and stored, told as reports tell it
    "web": {*_LOW, "ports", "config", "detect", "wording", "detector", "export", "store", "report"},
    # what puts the parts together
    "operate": {
        *_LOW,
        *_USE_CASES,
        *("progress", "ports", "config", "cores", "database", "tables"),
        *("wording", "csv_files", "sources", "models", "store"),
    },
    "wiring": {
        *_LOW,
        *_USE_CASES,
        *("detector", "progress", "ports", "config", "database"),
        *("sources", "models", "store", "notify", "export", "report"),
    },
    "daemon": {
        *_LOW,
        *_USE_CASES,
        *("progress", "ports", "config", "database", "export", "notify", "sources", "store", "web", "wiring"),
    },
    # the daemon, on show
    "demo": {*_LOW, "config", "csv_files", "wording", "store", "export", "web", "wiring", "daemon"},
    "commands": {
        *_LOW,
        *_USE_CASES,
        *("detector", "progress", "ports", "config", "database", "wording", "csv_files"),
        *("store", "export", "report", "operate", "web", "wiring", "daemon", "demo"),
    },
    "cli": {"detector", "errors", "commands"},
    "__main__": {"cli"},
}

# modules that may import one room more, and why
EXCEPTIONS: dict[str, set[str]] = {}

# what else a room may import; a room not named here may import any dependency of the program
THIRD_PARTY: dict[str, set[str]] = {
    "errors": set(),
    "times": {"tzlocal"},
    "cores": set(),
    "progress": {"rich"},
    "tables": {"sqlalchemy"},
    "wording": set(),
    "core": {"numpy"},
    "database": {"sqlalchemy"},
    "csv_files": set(),
    "http_client": set(),
    "ports": {"numpy"},
    "config": {"pydantic", "cronsim"},
    "detect": {"numpy", "dateutil"},
    "train": {"numpy"},
    "replay": {"numpy"},
    "notify": set(),
    "report": {"numpy", "jinja2"},
    "cli": {"typer"},
}

IMPURE = {
    "time",
    "logging",
    "random",
    "os",
    "io",
    "pathlib",
    "socket",
    "subprocess",
    "threading",
    "datetime",
    "secrets",
}

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "recording" not in path.parts)


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "detector" if first == "__init__" else first


def _imports(node: ast.AST) -> Iterator[str]:
    """Dotted names of all imports, also those inside functions; those for type checkers only are left out."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        assert not node.level, "imports are absolute"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child)


@cache
def _imported(path: Path) -> set[str]:
    return set(_imports(ast.parse(path.read_text(encoding="utf-8"))))


def _own_rooms(path: Path) -> set[str]:
    """Rooms of this program that a module imports; `detector` for what stands in detector/__init__.py."""
    seconds = {name.split(".")[1] for name in _imported(path) if name.split(".")[0] == "detector"}
    return {
        second if (PACKAGE / second).is_dir() or (PACKAGE / f"{second}.py").is_file() else "detector"
        for second in seconds
    }


def _others(path: Path) -> set[str]:
    return {name.split(".")[0] for name in _imported(path)} - {"detector"}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    room = _room(path)
    assert room in ALLOWED, f"{room} is new: say in ALLOWED what it may import"

    allowed = ALLOWED[room] | EXCEPTIONS.get(_name(path), set()) | {room}

    assert _own_rooms(path) <= allowed


@pytest.mark.parametrize("path", [path for path in MODULES if _room(path) in THIRD_PARTY], ids=_name)
def test_a_lower_room_depends_on_few_packages(path: Path) -> None:
    assert _others(path) - set(sys.stdlib_module_names) <= THIRD_PARTY[_room(path)]


@pytest.mark.parametrize("path", [path for path in MODULES if _room(path) == "core"], ids=_name)
def test_the_core_knows_no_clock_no_luck_no_files_and_no_log(path: Path) -> None:
    assert _others(path) & IMPURE == set()


@pytest.mark.parametrize("path", [path for path in MODULES if _name(path) != "models/network.py"], ids=_name)
def test_only_the_network_imports_keras(path: Path) -> None:
    assert _others(path) & {"keras", "tensorflow"} == set()


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_rooms_that_stand_above_it_in_the_table(room: str) -> None:
    order = list(ALLOWED)

    assert ALLOWED[room] <= set(order[: order.index(room)])


def test_the_house_has_at_most_twelve_modules_outside_its_rooms() -> None:
    modules = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py", "__main__.py"}

    assert len(modules) <= 12, modules


def test_the_table_has_no_exception_that_is_not_needed() -> None:
    for name, extra in EXCEPTIONS.items():
        assert extra <= _own_rooms(PACKAGE / name)


def test_imports_inside_functions_count_and_those_for_type_checkers_do_not() -> None:
    source = """
if TYPE_CHECKING:
    import numpy
def f():
    from detector.store import alerts
"""
    assert set(_imports(ast.parse(source))) == {"detector.store.alerts"}


def test_help_loads_no_heavy_package() -> None:
    code = (
        "import sys; from detector.cli import main; sys.argv = ['detector', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'sqlalchemy', 'tensorflow', 'keras', 'onnx', 'onnxruntime', 'pydantic', 'alembic'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
