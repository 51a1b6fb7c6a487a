"""Commands on a database of their own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from in_process import Commands


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Commands]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield Commands(tmp_path, monkeypatch, capsys)
    for number, handler in before.items():  # a training has changed them for its process, which is this one
        signal.signal(number, handler)
