"""Trainings in processes of their own, so that TensorFlow never enters the daemon's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import IO

from detector.errors import DetectorError
from detector.progress import Progress, silent

_LISTEN_SECONDS = 5.0  # after a child's end, for its last words
_PROGRESS = re.compile(r"event=progress .*percent=(?P<percent>\d+) .*doing=['\"](?P<doing>.*)['\"]$")
"""A line of `progress.shown`."""


class TrainingTimeout(Exception):
    """The training took longer than `training.timeout` and was killed."""


class TrainingStopped(Exception):
    """The training was asked to end: the daemon stops, or somebody sent a signal."""


class TrainingKilled(Exception):
    """The training was killed, by the kernel if it was out of memory."""

    def __init__(self, number: int) -> None:
        super().__init__(f"the training was killed by signal {number}{_WHY.get(number, '')}")
        self.signal = number


_WHY: dict[int, str] = {
    signal.SIGKILL: " (out of memory? journalctl -k tells; lower training.max_windows or training.span)"
}
_SIGNALLED = 128  # exit status of a process that ended in order because of signal 0, and so on
_ASKED: set[int] = {signal.SIGTERM, signal.SIGHUP, signal.SIGINT}


class TrainingChildren:
    """Runs `detector retrain` as child processes; from any thread."""

    def __init__(self, config_path: Path, *, stop: threading.Event) -> None:
        """stop: set when the daemon stops; from then on a child that fails was stopped."""
        self._config_path = config_path
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stop = stop

    def run(self, monitor: str, *, timeout: float, progress: Progress = silent) -> None:
        """Trains a monitor and waits for the end, at most `timeout` seconds.

        Raises: TrainingTimeout, TrainingStopped, TrainingKilled; DetectorError with the child's last line on stderr.
        """
        command = [sys.executable, "-m", "detector", "retrain", monitor, "--config", str(self._config_path)]
        # a session of its own: what it starts itself can be killed with it
        with subprocess.Popen(  # noqa: S603 - own command
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        ) as child:
            self._add(child)
            lines: deque[str] = deque(maxlen=1)
            listener = threading.Thread(target=_listen, args=(child.stderr, lines, progress), daemon=True)
            listener.start()
            try:
                child.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                msg = f"training ended after training.timeout = {timeout:g} s; raise it or lower training.max_windows"
                raise TrainingTimeout(msg) from None
            finally:
                self._remove(child)
                listener.join(_LISTEN_SECONDS)
        if child.returncode == 0:
            return
        if self._stop.is_set():
            msg = "the daemon stops"
            raise TrainingStopped(msg)
        number = -child.returncode if child.returncode < 0 else child.returncode - _SIGNALLED
        if number in _ASKED:
            msg = f"signal {number} asked it to end"
            raise TrainingStopped(msg)
        if number > 0:
            raise TrainingKilled(number)
        raise DetectorError(lines[-1] if lines else f"the training process ended with status {child.returncode}")

    def terminate(self) -> None:
        """Ends all children with SIGTERM; call it once the daemon stops."""
        with self._lock:
            for child in self._running:
                child.terminate()

    def _add(self, child: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.add(child)
            if self._stop.is_set():  # it started while `terminate` went through the others
                child.terminate()

    def _remove(self, child: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.discard(child)


def _listen(errors: IO[bytes], lines: deque[str], progress: Progress) -> None:
    """Keeps the last line that a child says on stderr, and passes on how far it is."""
    for said in errors:
        line = said.decode(errors="replace").strip()
        told = _PROGRESS.search(line)
        if told:
            progress(int(told["percent"]) / 100, told["doing"])
        if line:
            lines.append(line)
