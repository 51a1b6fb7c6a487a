"""A training as a child process: how it ends, and what the daemon then says."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import until

from detector.daemon.training_child import TrainingChildren, TrainingKilled, TrainingStopped, TrainingTimeout
from detector.errors import DetectorError

LONG = 60.0  # seconds; more than any of it takes on a busy machine


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop: threading.Event) -> TrainingChildren:
    """Children of a program that does what the file "program" says instead of training."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\n. {tmp_path}/program\n')
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    return TrainingChildren(tmp_path / "config.toml", stop=stop)


def _program(folder: Path, commands: str) -> None:
    (folder / "program").write_text(commands)


def test_a_child_trains_one_monitor_of_the_daemons_configuration(children: TrainingChildren, tmp_path: Path) -> None:
    _program(tmp_path, "exit 0")

    children.run("web", timeout=LONG)

    called = (tmp_path / "arguments").read_text().strip()
    assert called == f"-m detector retrain web --config {tmp_path}/config.toml"


def test_a_failed_child_is_reported_with_its_last_words(children: TrainingChildren, tmp_path: Path) -> None:
    _program(tmp_path, "echo reading >&2; echo 'detector: too little history' >&2; exit 1")

    with pytest.raises(DetectorError, match=r"^detector: too little history$"):
        children.run("web", timeout=LONG)


def test_a_child_that_says_nothing_is_reported_with_its_status(children: TrainingChildren, tmp_path: Path) -> None:
    _program(tmp_path, "exit 3")

    with pytest.raises(DetectorError, match="ended with status 3"):
        children.run("web", timeout=LONG)


def test_a_child_says_how_far_it_is(children: TrainingChildren, tmp_path: Path) -> None:
    line = "2026-01-01 INFO detector.progress event=progress task='retrain web' percent=%d left_seconds=3 doing='%s'"
    said = [line % (10, "reading history, 2 entities"), "something else", line % (60, "epoch 3 of 15")]
    _program(tmp_path, "".join(f'echo "{one}" >&2; ' for one in said))
    told: list[tuple[float, str]] = []

    children.run("web", timeout=LONG, progress=lambda done, doing: told.append((done, doing)))

    assert told == [(0.1, "reading history, 2 entities"), (0.6, "epoch 3 of 15")]


def test_a_child_that_takes_too_long_is_killed(children: TrainingChildren, tmp_path: Path) -> None:
    _program(tmp_path, f"exec sleep {2 * LONG}")

    with pytest.raises(TrainingTimeout, match=r"training.timeout = 0.2 s"):
        children.run("web", timeout=0.2)


def test_a_stop_of_the_daemon_ends_a_running_child(
    children: TrainingChildren, stop: threading.Event, tmp_path: Path
) -> None:
    _program(tmp_path, f"touch {tmp_path}/started; exec sleep {2 * LONG}")
    ends: list[BaseException | None] = []

    def train() -> None:
        try:
            ends.append(children.run("web", timeout=LONG))  # type: ignore[func-returns-value]  # None: as if it had ended well
        except TrainingStopped as exc:
            ends.append(exc)

    training = threading.Thread(target=train)
    training.start()
    until((tmp_path / "started").exists, "the child to start", LONG)
    stop.set()
    children.terminate()
    training.join(LONG)

    assert not training.is_alive()
    assert [str(end) for end in ends] == ["the daemon stops"]


def test_a_child_that_starts_after_the_stop_is_ended_at_once(
    children: TrainingChildren, stop: threading.Event, tmp_path: Path
) -> None:
    _program(tmp_path, f"exec sleep {2 * LONG}")
    stop.set()

    with pytest.raises(TrainingStopped):
        children.run("web", timeout=LONG)


@pytest.fixture
def _hangups_end_a_program() -> Iterator[None]:
    """As they do unless whoever runs the tests has them ignored, as nohup does; children inherit that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("_hangups_end_a_program")
@pytest.mark.parametrize("program", ["kill -TERM $$; sleep 9", "exit 143", "kill -HUP $$; sleep 9"])
def test_a_child_that_somebody_stopped_is_told_as_stopped(  # x12
    children: TrainingChildren, tmp_path: Path, program: str
) -> None:
    _program(tmp_path, program)

    with pytest.raises(TrainingStopped, match="asked it to end"):
        children.run("web", timeout=LONG)


def test_a_child_that_the_kernel_killed_is_told_with_its_signal(children: TrainingChildren, tmp_path: Path) -> None:
    _program(tmp_path, "kill -KILL $$; sleep 9")

    with pytest.raises(TrainingKilled, match="killed by signal 9") as caught:
        children.run("web", timeout=LONG)

    assert caught.value.signal == 9
