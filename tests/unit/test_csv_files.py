"""CSV files to samples: layouts, times, and what happens to lines that cannot be used."""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from detector import csv_files as importing
from detector.csv_files import Outcome
from detector.errors import SourceError, StoreError

NAN = math.nan
T0 = 1_704_067_200_000  # 2024-01-01T00:00:00Z

Sample = tuple[str, str, int, float]


class _Sink:
    """Keeps samples in memory; refuses from the `refuse_from`-th call on."""

    def __init__(self, refuse_from: int | None = None) -> None:
        self.samples: list[Sample] = []
        self._calls_left = refuse_from

    def write(
        self, entity: Sequence[str], metric: Sequence[str], *, time: Sequence[int], value: Sequence[float]
    ) -> None:
        if self._calls_left is not None:
            if not self._calls_left:
                msg = "disk full"
                raise StoreError(msg)
            self._calls_left -= 1
        self.samples += zip(entity, metric, time, value, strict=True)


def _load(path: Path, *metrics: str) -> tuple[Outcome, list[Sample]]:
    sink = _Sink()
    return importing.load(path, metrics, sink), sink.samples


def _file(folder: Path, *lines: str, name: str = "web-1.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_long_file_has_a_row_per_sample(tmp_path: Path) -> None:
    path = _file(tmp_path, "timestamp,entity,metric,value", "2024-01-01T00:00:00Z,a,cpu,1.5", "1704067260,b,load,2")

    outcome, samples = _load(path, "cpu", "load")

    assert samples == [("a", "cpu", T0, 1.5), ("b", "load", T0 + 60_000, 2.0)]
    assert (outcome.rows, outcome.samples, outcome.entities, outcome.bad) == (2, 2, {"a", "b"}, 0)
    assert (outcome.first, outcome.last) == (T0, T0 + 60_000)


def test_a_wide_file_has_a_column_per_metric(tmp_path: Path) -> None:
    path = _file(tmp_path, "time,entity,load,cpu", "2024-01-01,a,1,2", "2024-01-01,b,3,4")

    _, samples = _load(path, "cpu", "load")

    assert samples == [("a", "load", T0, 1), ("a", "cpu", T0, 2), ("b", "load", T0, 3), ("b", "cpu", T0, 4)]


@pytest.mark.parametrize(("name", "entity"), [("web-1.csv", "web-1"), ("web.1.csv.gz", "web.1"), ("data", "data")])
def test_a_file_without_entity_column_is_one_entity_named_like_it(name: str, entity: str) -> None:
    assert importing.entity_name(Path("folder") / name) == entity


def test_rows_without_entity_column_belong_to_the_file(tmp_path: Path) -> None:
    assert _load(_file(tmp_path, "ts,cpu", "1704067200,1"), "cpu")[1] == [("web-1", "cpu", T0, 1.0)]


def test_columns_that_are_no_metric_are_left_out(tmp_path: Path) -> None:
    outcome, samples = _load(_file(tmp_path, "time,label,cpu", "1704067200,whatever,1"), "cpu", "load")

    assert samples == [("web-1", "cpu", T0, 1.0)]
    assert outcome.bad == 0


def test_a_gzipped_file_is_read_like_a_plain_one(tmp_path: Path) -> None:
    path = tmp_path / "web-1.csv.gz"
    path.write_bytes(gzip.compress(b"time,cpu\n1704067200,1\n1704067260,2\n"))

    assert _load(path, "cpu")[1] == [("web-1", "cpu", T0, 1.0), ("web-1", "cpu", T0 + 60_000, 2.0)]


def test_the_bytes_that_excel_puts_first_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "web-1.csv"
    path.write_bytes(b"\xef\xbb\xbftime,cpu\r\n1704067200,1\r\n")

    assert _load(path, "cpu")[1] == [("web-1", "cpu", T0, 1.0)]


def test_quoted_fields_may_hold_commas_and_spaces_around_names_do_not_matter(tmp_path: Path) -> None:
    path = _file(tmp_path, "time, entity ,cpu", '1704067200,"rack 1, host 2",1')

    assert _load(path, "cpu")[1] == [("rack 1, host 2", "cpu", T0, 1.0)]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2024-01-01T00:00:00Z", T0),
        ("2024-01-01 00:00:00", T0),
        (" 2024-01-01 ", T0),
        ("2024-01-01T02:00:00+02:00", T0),
        ("2024-01-01 00:00:00.250", T0 + 250),
        ("1704067200", T0),
        ("1704067200.25", T0 + 250),
        ("1704067200000", T0),
        ("1.7040672e9", T0),
        ("20240101", T0),
        ("202401010001", T0 + 60_000),
        ("20240101000100", T0 + 60_000),
        ("20240101T000100Z", T0 + 60_000),
        ("1704067200000250", T0),
        ("1704067200250000000", T0 + 250),
        ("31536000", 31_536_000_000),
        ("2200-12-31T23:59:59Z", 7_289_654_399_000),
    ],
)
def test_times_are_iso_in_utc_or_counted_from_1970(written: str, expected: int) -> None:
    assert importing.parse_time(written) == expected


@pytest.mark.parametrize(
    ("written", "why"),
    [
        *((written, "time expected") for written in ("", "yesterday", "2024-13-01", "01/02/2024", "24.11.2026 10:00")),
        *((written, "day number of a spreadsheet") for written in ("46350.41667", "46350", "60")),
        *((written, "time of the years 1971 to 2200") for written in ("nan", "inf", "-inf", "1e300", "-60", "0")),
        *((written, "time of the years 1971 to 2200") for written in ("255000000000000", "20241301", "12345678901234")),
        *((written, "time of the years 1971 to 2200") for written in ("0001-01-01", "9999-12-31T23:59:59-12:00")),
        *((written, "time of the years 1971 to 2200") for written in ("1969-12-31T23:59:00Z", "2201-01-01")),
    ],
)
def test_what_is_no_time_is_refused(written: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):  # c09, x14
        importing.parse_time(written)


def test_blanks_around_cells_do_not_matter(tmp_path: Path) -> None:
    path = _file(tmp_path, "time, entity, metric, value", "2024-01-01T00:00:00Z, web 1 , cpu , 31 ")  # c09

    assert _load(path, "cpu")[1] == [("web 1", "cpu", T0, 31.0)]


def test_a_stray_quote_costs_one_line(tmp_path: Path) -> None:
    rows = [f'{T0 // 1000},"disk 5"" A",cpu,1', f'{T0 // 1000 + 60},"disk 5,cpu,2']  # c09
    rows += [f"{T0 // 1000 + 60 * n},disk 6,cpu,{n + 1}" for n in (2, 3)]
    rows += [f'{T0 // 1000 + 240},"disk 7",cpu,5', f'{T0 // 1000 + 300},disk 8" B,cpu,6']

    outcome, samples = _load(_file(tmp_path, "time,entity,metric,value", *rows), "cpu")

    assert outcome.bad_lines == ["line 3: a quote is not closed"]
    assert [value for *_, value in samples] == [1, 3, 4, 5, 6]
    assert samples[0][0] == 'disk 5" A'


def test_two_stray_quotes_cost_two_lines(tmp_path: Path) -> None:
    rows = [f"{T0 // 1000 + n},{quote}a,{n}" for n, quote in enumerate(["", '"', "", '"', ""])]

    outcome, samples = _load(_file(tmp_path, "time,entity,cpu", *rows), "cpu")

    assert (outcome.rows, outcome.bad) == (5, 2)
    assert [value for *_, value in samples] == [0, 2, 4]


@pytest.mark.skipif(not Path("/proc").exists(), reason="file names are text there")
def test_a_file_name_that_is_no_text_still_names_an_entity() -> None:
    assert importing.entity_name(Path(os.fsdecode(b"web-\xff.csv.gz"))) == "web-\\xff"  # x14


def test_an_empty_value_is_a_missing_one(tmp_path: Path) -> None:
    outcome, samples = _load(_file(tmp_path, "time,cpu,load", "1704067200,,1"), "cpu", "load")

    assert math.isnan(samples[0][3])
    assert outcome.bad == 0


def test_bad_lines_are_counted_and_named_and_do_not_stop_the_rest(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        "time,entity,cpu,load",
        "1704067200,a,1,2",
        "1704067260,a,1",
        "soon,a,1,2",
        "1704067320,,1,2",
        "",
        "1704067380,a,high,2",
        "1704067440,a,3,4",
    )

    outcome, samples = _load(path, "cpu", "load")

    assert outcome.bad_lines == [
        "line 3: 4 fields expected, 3 received",
        "line 4: time expected, 'soon' received",
        "line 5: entity is empty",
        "line 7: number expected for cpu, 'high' received",
    ]
    assert (outcome.bad, outcome.rows) == (4, 6)
    assert samples == [
        ("a", "cpu", T0, 1),
        ("a", "load", T0, 2),
        ("a", "load", T0 + 180_000, 2),
        ("a", "cpu", T0 + 240_000, 3),
        ("a", "load", T0 + 240_000, 4),
    ]


@pytest.mark.parametrize("written", ["inf", "-Infinity", "1e999"])
def test_an_infinite_number_is_a_bad_line(tmp_path: Path, written: str) -> None:
    path = _file(tmp_path, "time,cpu,load", f"1704067200,{written},2")

    outcome, samples = _load(path, "cpu", "load")

    assert outcome.bad_lines == [f"line 2: number expected for cpu, {written!r} received"]
    assert [(metric, value) for _, metric, _, value in samples] == [("load", 2)]


def test_a_line_number_counts_the_lines_within_quotes(tmp_path: Path) -> None:
    path = _file(tmp_path, "time,note,cpu", '1704067200,"two\nlines",1', "1704067260,one,high")

    assert _load(path, "cpu")[0].bad_lines == ["line 4: number expected for cpu, 'high' received"]


def test_a_metric_the_monitor_does_not_have_is_a_bad_line(tmp_path: Path) -> None:
    path = _file(tmp_path, "time,entity,metric,value", "1704067200,a,disk,1", "1704067200,a,cpu,2")

    outcome, samples = _load(path, "cpu")

    assert outcome.bad_lines == ["line 2: 'disk' is no metric of the monitor"]
    assert samples == [("a", "cpu", T0, 2.0)]


def test_all_bad_lines_are_counted_but_only_the_first_twenty_named(tmp_path: Path) -> None:
    outcome, _ = _load(_file(tmp_path, "time,cpu", *["1704067200,high"] * 50), "cpu")

    assert outcome.bad == 50
    assert len(outcome.bad_lines) == 20


def test_a_long_bad_field_is_cut(tmp_path: Path) -> None:
    outcome, _ = _load(_file(tmp_path, "time,cpu", f"{'x' * 5000},1"), "cpu")

    assert len(outcome.bad_lines[0]) < 100


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("date,cpu", "must have a column named one of timestamp, time, ts, datetime; received date,cpu"),
        ("", "must have a column named one of"),
        ("time,disk", r"has none of the monitor's metrics \(cpu\); received time,disk"),
        ("time,metric,value", "has none of the monitor's metrics"),
    ],
)
def test_a_header_that_does_not_fit_says_what_was_expected(tmp_path: Path, header: str, expected: str) -> None:
    with pytest.raises(SourceError, match=expected):
        _load(_file(tmp_path, header, "1704067200,1"), "cpu")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.touch()

    with pytest.raises(SourceError, match="header"):
        _load(path, "cpu")


@pytest.mark.parametrize(
    "content",
    [
        b"no gzip at all",
        gzip.compress(b"time,cpu\n0,1\n" * 100)[:-12],
        gzip.compress(b"time,cpu\n")[:10] + b"\xff" * 20,
    ],
    ids=["no gzip", "truncated", "damaged"],
)
def test_a_damaged_gzip_is_one_line_and_no_traceback(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "web-1.csv.gz"
    path.write_bytes(content)

    with pytest.raises(SourceError, match="cannot be read"):
        _load(path, "cpu")


def test_a_missing_file_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        _load(tmp_path / "nowhere.csv", "cpu")


def test_bytes_that_are_no_text_make_a_bad_line_only(tmp_path: Path) -> None:
    path = tmp_path / "web-1.csv"
    path.write_bytes(b"time,cpu\n1704067200,\xff\n1704067260,2\n")

    outcome, samples = _load(path, "cpu")

    assert (outcome.bad, samples) == (1, [("web-1", "cpu", T0 + 60_000, 2.0)])


def test_a_store_that_refuses_leads_to_the_advice_that_importing_again_is_safe(tmp_path: Path) -> None:
    path = _file(tmp_path, "time,cpu", "1704067200,1")

    with pytest.raises(SourceError, match="stopped after 0 samples: disk full; importing it again is safe"):
        importing.load(path, ["cpu"], _Sink(refuse_from=0))


def test_a_large_file_is_written_in_batches_and_shows_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "_BATCH", 100)
    path = _file(tmp_path, "time,cpu", *(f"{T0 // 1000 + second},1" for second in range(1000)))
    shown: list[float] = []

    outcome = importing.load(path, ["cpu"], _Sink(), progress=shown.append)

    assert outcome.samples == 1000
    assert (outcome.first, outcome.last) == (T0, T0 + 999_000)
    assert len(shown) == 11
    assert shown == sorted(shown)
    assert shown[-1] == 1.0


def test_a_folder_gives_its_csv_files_in_order(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv.gz", "notes.txt"):
        (tmp_path / name).touch()

    assert [path.name for path in importing.files(tmp_path)] == ["a.csv.gz", "b.csv"]


def test_a_file_named_is_taken_whatever_its_ending(tmp_path: Path) -> None:
    path = _file(tmp_path, "time,cpu", name="export.txt")

    assert importing.files(path) == [path]


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_path_without_csv_files_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match=r"no such file, or no \*.csv or \*.csv.gz in that folder"):
        importing.files(tmp_path / name)
