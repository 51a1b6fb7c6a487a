"""Who may import whom: a table, held against every import statement there is."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "detector"

# what a part may import of this program; a part is a package or a module of detector/
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "core": {"errors"},
    "ports": {"errors", "core"},
    "config": {"errors"},
    "database": {"errors"},
    "tables": set(),  # the one description of the database, read by all that query it
    "progress": set(),
    # adapters: never each other
    "sources": {"errors", "core", "ports", "database", "tables"},
    "models": {"errors", "core", "ports"},
    "store": {"errors", "core", "ports", "database", "tables"},
    "export": {"errors", "core", "ports", "detector"},
    "notify": {"errors", "core", "ports", "words", "detector"},
    # use cases: ports, never adapters
    "scoring": {"errors", "core", "ports", "config"},
    "reading": {"core", "ports", "config"},
    "exclusions": {"errors", "core", "ports"},
    "remembering": {"core", "ports", "config", "scoring"},
    "explaining": {"core", "ports", "config", "scoring", "remembering"},
    "words": set(),
    "alerting": {"core", "ports", "config", "scoring", "exclusions", "explaining", "remembering"},
    "pipeline": {"errors", "core", "ports", "config", "reading", "scoring", "remembering", "alerting"},
    "lookback": {
        *("errors", "core", "ports", "config", "scoring", "exclusions", "explaining", "remembering", "pipeline"),
    },
    "notifying": {"errors", "ports"},
    "training": {"errors", "core", "ports", "config", "reading", "scoring"},
    "importing": {"errors"},
    "dataset": {"errors", "core", "importing"},
    "backtest": {"errors", "core", "ports", "config", "dataset", "remembering", "pipeline", "reading", "training"},
    "judging": {"core", "config", "backtest"},
    "report": {"core", "ports", "config", "exclusions", "explaining", "words"},
    # what puts the parts together, lowest first
    "worker": {"errors", "core", "ports", "config", "notifying", "remembering", "pipeline", "training", "export"},
    "wiring": {
        *(
            "detector",
            "errors",
            "core",
            "ports",
            "config",
            "database",
            "sources",
            "models",
            "store",
            "export",
            "notify",
        ),
        *("notifying", "pipeline", "reading", "training", "dataset", "backtest", "report", "worker"),
        *("exclusions", "lookback"),
    },
    "capacity": {"core", "ports", "config", "database", "models", "store", "pipeline", "reading", "wiring"},
    "checking": {
        *("errors", "core", "ports", "config", "database", "store", "remembering", "training", "wiring", "capacity"),
    },
    "demo": {"errors", "core", "config", "importing", "store", "export", "worker", "wiring"},  # the daemon, on show
    "cli": {
        *("detector", "errors", "core", "config", "database", "store", "pipeline", "importing", "progress"),
        *("dataset", "backtest", "judging", "report", "wiring", "capacity", "checking", "demo"),
        *("ports", "exclusions", "words"),
    },
    "__main__": {"cli"},
    "detector": set(),  # detector/__init__.py: the version
}

# modules that may import one part more, and why
EXCEPTIONS: dict[str, set[str]] = {
    "sources/host.py": {"config"},  # the names of its metrics, which the configuration must know without psutil
}

# what else a part may import; a part not named here may import any dependency of the program
THIRD_PARTY: dict[str, set[str]] = {
    "errors": set(),
    "core": {"numpy"},
    "ports": set(),
    "config": {"pydantic", "apscheduler"},
    "database": {"sqlalchemy"},
    "tables": {"sqlalchemy"},
    "importing": set(),
    "scoring": {"numpy"},
    "exclusions": {"numpy", "dateutil"},
    "explaining": {"numpy"},
    "lookback": {"numpy"},
    "remembering": {"numpy"},
    "alerting": {"numpy"},
    "notifying": set(),
    "words": set(),
    "notify": set(),
    "pipeline": {"numpy"},
    "training": {"numpy"},
    "dataset": {"numpy"},
    "backtest": {"numpy"},
    "judging": {"numpy"},
    "report": {"numpy", "jinja2"},
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


def _part(path: Path) -> str:
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


def _imported(path: Path) -> set[str]:
    return set(_imports(ast.parse(path.read_text(encoding="utf-8"))))


def _own_parts(path: Path) -> set[str]:
    """Parts of this program that a module imports; `detector` for what stands in detector/__init__.py."""
    seconds = {name.split(".")[1] for name in _imported(path) if name.split(".")[0] == "detector"}
    return {
        second if (PACKAGE / second).is_dir() or (PACKAGE / f"{second}.py").is_file() else "detector"
        for second in seconds
    }


def _others(path: Path) -> set[str]:
    return {name.split(".")[0] for name in _imported(path)} - {"detector"}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_imports_only_what_its_part_may(path: Path) -> None:
    part = _part(path)
    assert part in ALLOWED, f"{part} is new: say in ALLOWED what it may import"

    allowed = ALLOWED[part] | EXCEPTIONS.get(_name(path), set()) | {part}

    assert _own_parts(path) <= allowed


@pytest.mark.parametrize("path", [path for path in MODULES if _part(path) in THIRD_PARTY], ids=_name)
def test_a_lower_part_depends_on_few_packages(path: Path) -> None:
    assert _others(path) - set(sys.stdlib_module_names) <= THIRD_PARTY[_part(path)]


@pytest.mark.parametrize("path", [path for path in MODULES if _part(path) == "core"], ids=_name)
def test_the_core_knows_no_clock_no_luck_no_files_and_no_log(path: Path) -> None:
    assert _others(path) & IMPURE == set()


@pytest.mark.parametrize("path", [path for path in MODULES if _name(path) != "models/network.py"], ids=_name)
def test_only_the_network_imports_keras(path: Path) -> None:
    assert _others(path) & {"keras", "tensorflow"} == set()


def test_no_two_parts_import_each_other() -> None:
    def reachable(part: str) -> set[str]:
        found: set[str] = set()
        todo = {part}
        while todo:
            todo = set().union(*(ALLOWED[name] for name in todo)) - found
            found |= todo
        return found

    assert [part for part in ALLOWED if part in reachable(part)] == []


def test_the_table_has_no_exception_that_is_not_needed() -> None:
    for name, extra in EXCEPTIONS.items():
        assert extra <= _own_parts(PACKAGE / name)


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
