"""Folders of recordings: what is taken from a file and its facts, and what is refused in which words."""

from __future__ import annotations

import gzip
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.errors import ConfigError, SourceError
from detector.replay import recordings as dataset
from detector.replay.recordings import NO_TIME, Failure, Recording

T0 = 1_704_067_200_000  # 2024-01-01T00:00:00Z
MINUTE = 60_000


def _file(folder: Path, *lines: str, name: str = "web-1.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _read(folder: Path, *lines: str, **facts: Any) -> Recording:
    return dataset.read(_file(folder, *lines), facts)


def _read_folder(folder: Path) -> tuple[list[Recording], list[Failure]]:
    return dataset.read_folder(folder, lambda *_: None)


def test_a_file_is_times_metrics_and_labels(tmp_path: Path) -> None:
    recording = _read(
        tmp_path, "timestamp,cpu,load,label", "2024-01-01 00:00:00,1,0.5,0", "2024-01-01 00:01:00,2,1e3,1"
    )

    assert (recording.entity, recording.metrics) == ("web-1", ("cpu", "load"))
    assert recording.written == ["2024-01-01 00:00:00", "2024-01-01 00:01:00"]
    assert recording.time.tolist() == [T0, T0 + MINUTE]
    assert recording.values.tolist() == [[1.0, 0.5], [2.0, 1000.0]]
    assert recording.label is not None
    assert recording.label.tolist() == [False, True]


def test_labels_may_be_missing_and_columns_in_any_order(tmp_path: Path) -> None:
    recording = _read(tmp_path, "cpu,time,load", "1,0,2")

    assert recording.label is None
    assert recording.metrics == ("cpu", "load")
    assert recording.values.tolist() == [[1.0, 2.0]]


def test_half_of_the_rows_are_history_unless_facts_say_otherwise(tmp_path: Path) -> None:
    lines = ("time,cpu", *(f"{60 * minute},1" for minute in range(7)))

    assert _read(tmp_path, *lines).train_rows == 3
    assert _read(tmp_path, *lines, train_rows=5).train_rows == 5
    assert _read(tmp_path, *lines, train_rows=500).train_rows == 7


@pytest.mark.parametrize(
    ("times", "facts", "expected"),
    [
        ([0, 60, 120, 180], {}, 60_000),
        ([0, 300, 600, 600, 300, 900, 1200], {}, 300_000),
        ([0, 1.5, 3, 4.5], {}, 1_500),
        ([0, 59.6, 119.9, 180.1, 240.3], {}, 60_000),  # 59.6, 60.3, 60.2, 60.2: late by less than 2 %
        ([0, 58, 116, 174], {}, 58_000),
        ([0, 3590, 7185, 10781], {}, 3_600_000),
        ([0, 0.1, 0.2], {}, 1_000),
        ([0, 0, 0], {}, 60_000),
        ([180, 120, 60, 0], {}, 60_000),
        ([0, 0, 60, 60, 120, 120], {}, 60_000),
        ([0], {}, 60_000),
        ([0, 60], {"step_seconds": 30}, 30_000),
        ([0, 60], {"step_seconds": 300.0}, 300_000),
        ([0, 60], {"step_seconds": None}, 60_000),
        ([0, 60], {"step_seconds": 0.25}, 1_000),
    ],
)
def test_the_step_is_told_or_what_is_usual(
    tmp_path: Path, times: list[float], facts: dict[str, Any], expected: int
) -> None:
    assert _read(tmp_path, "time,cpu", *(f"{time},1" for time in times), **facts).step_ms == expected


def test_what_is_no_number_is_a_missing_value(tmp_path: Path) -> None:
    values = _read(tmp_path, "time,cpu,load,disk", "0,,n/a,3", "60,4,5,nan").values

    assert np.isnan(values).tolist() == [[True, True, False], [False, False, True]]


def test_a_row_that_does_not_fit_stays_without_time_and_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        recording = _read(tmp_path, "time,cpu,label", "0,1,0", "soon,2,1", "120,3", "180,4,5,6", "", "240,5,0")

    assert recording.written == ["0", "soon", "120", "180", "240"]
    assert recording.time.tolist() == [0, NO_TIME, NO_TIME, NO_TIME, 240_000]
    assert np.isnan(recording.values[:, 0]).tolist() == [False, True, True, True, False]
    assert recording.has_time.tolist() == [True, False, False, False, True]
    assert "rows=3" in caplog.text


@pytest.mark.parametrize(
    "header",
    ["", "date,cpu", "time", "time,label", "time,cpu,cpu", "time,,cpu", "time,entity,cpu", "time,entity,metric,value"],
)
def test_a_header_that_does_not_fit_says_what_was_expected(tmp_path: Path, header: str) -> None:
    with pytest.raises(SourceError, match=r"must be timestamp,<metrics…>\[,label\].*Received: "):
        _read(tmp_path, header, "0,1,2,3")


@pytest.mark.parametrize("facts", [{"train_rows": -1}, {"train_rows": "10"}, {"train_rows": True}])
def test_a_history_that_is_no_number_of_rows_is_refused(tmp_path: Path, facts: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match=r"`train_rows` in meta.json must be a whole number"):
        _read(tmp_path, "time,cpu", "0,1", **facts)


@pytest.mark.parametrize("step", [0, -5, "60", float("inf")])
def test_a_step_that_is_no_time_is_refused(tmp_path: Path, step: object) -> None:
    with pytest.raises(SourceError, match=r"`step_seconds` in meta.json must be a number above 0"):
        _read(tmp_path, "time,cpu", "0,1", step_seconds=step)


@pytest.mark.parametrize("lines", [("time,cpu",), ("time,cpu", "soon,1")], ids=["no rows", "no times"])
def test_a_file_without_any_time_is_refused(tmp_path: Path, lines: tuple[str, ...]) -> None:
    with pytest.raises(SourceError, match="no row has a time that can be read"):
        _read(tmp_path, *lines)


def test_a_folder_is_read_with_its_facts_and_what_is_broken_does_not_stop_the_rest(tmp_path: Path) -> None:
    _file(tmp_path, "time,cpu", "0,1", "60,2", name="a.csv")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"time,cpu\n0,1\n60,2\n"))
    (tmp_path / "c.csv.gz").write_bytes(b"no gzip")
    facts = {"a": {"train_rows": 2}, "b": {"train_rows": 0, "step_seconds": 30}}
    (tmp_path / "meta.json").write_text(json.dumps({"name": "set", "entities": facts}))

    recordings, failures = _read_folder(tmp_path)

    assert [(one.entity, one.train_rows, one.step_ms) for one in recordings] == [("a", 2, 60_000), ("b", 0, 30_000)]
    assert [failure.entity for failure in failures] == ["c"]
    assert "c.csv.gz: cannot be read" in failures[0].reason


def test_two_files_of_one_entity_and_one_named_alerts_are_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "a.csv.gz", "alerts.csv"):
        content = b"time,cpu\n0,1\n"
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    recordings, failures = _read_folder(tmp_path)

    assert [one.entity for one in recordings] == ["a"]
    assert [failure.entity for failure in failures] == ["a", "alerts"]


@pytest.mark.parametrize("facts", ["{", "[]", '{"entities": []}', '{"entities": {"a": 5}}'])
def test_facts_that_cannot_be_used_are_refused(tmp_path: Path, facts: str) -> None:
    _file(tmp_path, "time,cpu", "0,1")
    (tmp_path / "meta.json").write_text(facts)

    with pytest.raises(SourceError, match=r"meta.json: (cannot be read as JSON|must be like)"):
        _read_folder(tmp_path)


MINUTES = [f"2024-01-01 00:{minute:02}:00" for minute in range(6)]


@pytest.mark.parametrize("order", [[5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]], ids=["newest first", "shuffled"])
def test_rows_in_any_order_are_the_same_recording(
    tmp_path: Path, order: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    recording = _read(tmp_path, "time,cpu,label", *(f"{MINUTES[n]},{n},{n % 2}" for n in order))  # c11

    assert recording.written == MINUTES
    assert recording.time.tolist() == [T0 + n * MINUTE for n in range(6)]
    assert recording.values[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert recording.label is not None
    assert recording.label.tolist() == [False, True] * 3
    assert (recording.train_rows, recording.step_ms) == (3, MINUTE)
    assert "event=rows_sorted" in caplog.text


def test_doubled_rows_do_not_change_the_step(tmp_path: Path) -> None:
    recording = _read(tmp_path, "time,cpu", *(f"{minute},1" for minute in MINUTES for _ in range(2)))  # c11

    assert recording.step_ms == MINUTE


def test_a_row_without_a_time_stays_behind_the_row_before_it(tmp_path: Path) -> None:
    recording = _read(tmp_path, "time,cpu", f"{MINUTES[2]},2", "soon,9", f"{MINUTES[0]},0")

    assert recording.written == [MINUTES[0], MINUTES[2], "soon"]
    assert recording.time.tolist() == [T0, T0 + 2 * MINUTE, NO_TIME]


@pytest.mark.parametrize("name", ["label", "Label", "is_anomaly", "anomaly", "Anomaly", "attack", "ground_truth"])
@pytest.mark.parametrize("marks", ["01", ["0.0", "1.0"], ["False", "True"]])
def test_a_column_of_0_and_1_called_like_a_label_is_the_label(
    tmp_path: Path, name: str, marks: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    rows = (f"{minute},{n},{marks[n == 4]}" for n, minute in enumerate(MINUTES))  # c12
    recording = _read(tmp_path, f"time,cpu,{name}", *rows)

    assert recording.metrics == ("cpu",)
    assert recording.label is not None
    assert np.flatnonzero(recording.label).tolist() == [4]
    assert name == "label" or f"column={name}; taken for the label" in caplog.text


def test_a_second_label_is_no_metric_that_finds_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = (f"{minute},{n},{n % 2},{n // 5}" for n, minute in enumerate(MINUTES))
    recording = _read(tmp_path, "time,cpu,anomaly,changepoint", *rows)

    assert recording.metrics == ("cpu",)
    assert recording.label is not None
    assert recording.label.tolist() == [False, True] * 3
    assert "column=changepoint; left out" in caplog.text


def test_a_column_called_like_a_label_that_holds_more_is_a_metric_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recording = _read(tmp_path, "time,cpu,anomaly", *(f"{minute},1,{n / 2}" for n, minute in enumerate(MINUTES)))

    assert (recording.metrics, recording.label) == (("cpu", "anomaly"), None)
    assert "event=label_not_taken" in caplog.text


def test_days_as_a_spreadsheet_counts_them_are_no_times(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no row has a time that can be read"):
        _read(tmp_path, "time,cpu", "46350.41667,1", "46350.41736,2")


def test_a_file_name_that_is_no_text_spoils_nothing(tmp_path: Path) -> None:
    for name in (b"good.csv", b"web-\xff.csv", b"zz.csv"):  # x14
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text("time,cpu\n0,1\n60,2\n")

    found, failures = _read_folder(tmp_path)

    assert [one.entity for one in found] == ["good", "web-\\xff", "zz"]
    assert failures == []


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        _read_folder(tmp_path)


def test_what_is_written_must_not_replace_the_data(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--out must be another folder than --data"):
        dataset.make_folder(tmp_path / "x" / "..", tmp_path)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match="choose another folder with --out"):
        dataset.make_folder(tmp_path / "file" / "out", tmp_path)
