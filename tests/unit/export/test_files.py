"""Tables as files: CSV that reads back as it was, Parquet with timestamps, and nothing half written."""

from __future__ import annotations

import csv
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from detector.errors import ConfigError
from detector.export import files
from detector.export.files import Kind

COLUMNS: dict[str, Kind] = {"slot": "time", "entity": "text", "score": "number", "id": "integer", "muted": "boolean"}
NAMES = ['say "hi"', "two\nlines", "comma, semicolon;", "carriage\rreturn", "\u202eright to left", "=1+1", "\udc80"]
AT = 1_795_089_600_250  # 2026-11-19T12:00:00.250Z


def test_hostile_names_read_back_from_csv_as_they_were(tmp_path: Path) -> None:
    with files.writer(tmp_path / "t.csv", COLUMNS) as write:
        write([(AT, name, 0.5, 3, True) for name in NAMES])
        write([(None, None, None, None, False)])

    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == list(COLUMNS)
    assert [row[1] for row in rows[:-1]] == [*NAMES[:-1], "\\udc80"]
    assert rows[0] == ["2026-11-19T12:00:00.250Z", NAMES[0], "0.5", "3", "true"]
    assert rows[-1] == ["", "", "", "", "false"]


def test_parquet_has_types_and_timestamps_in_utc(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    with files.writer(tmp_path / "t.parquet", COLUMNS) as write:
        write([(AT, name, 0.5, 3, True) for name in NAMES])
        write([(None, None, None, None, None)])

    table = parquet.read_table(tmp_path / "t.parquet")

    types = ["timestamp[ms, tz=UTC]", "string", "double", "int64", "bool"]
    assert [str(field.type) for field in table.schema] == types
    rows = table.to_pylist()
    assert rows[0] == {
        "slot": datetime(2026, 11, 19, 12, 0, 0, 250_000, UTC),
        "entity": NAMES[0],
        "score": 0.5,
        "id": 3,
        "muted": True,
    }
    assert [row["entity"] for row in rows] == [*NAMES[:-1], "\\udc80", None]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_file_that_could_not_be_finished_leaves_the_old_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("old")

    def fail() -> None:
        with files.writer(tmp_path / name, COLUMNS) as write:
            write([(AT, "a", 0.5, 3, True)])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert (tmp_path / name).read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(ConfigError, match=r"needs pyarrow; pip install 'detector\[parquet\]'"):
        files.writer(tmp_path / "t.parquet", COLUMNS).__enter__()


@pytest.mark.parametrize(("path", "told"), [("t.xlsx", "must end with .csv or .parquet"), ("no/t.csv", "No such file")])
def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path, path: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        files.writer(tmp_path / path, COLUMNS).__enter__()
