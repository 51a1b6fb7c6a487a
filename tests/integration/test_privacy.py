"""Nothing is told to anybody who is not named in the configuration, by no library either."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import detector

pytestmark = pytest.mark.slow

CHECKOUT = Path(detector.__file__).parents[1]
PATIENCE = 15  # seconds; ONNX Runtime 1.32 looks up its host after nine

SCORE_A_WINDOW = """
import sys
import time

import numpy as np

from detector.core.series import Windows
from detector.models.artifact import NetworkSpec
from detector.models.inference import Autoencoder, weight_shapes

spec = NetworkSpec(timesteps=5, metrics=2, units=4)
network = Autoencoder(spec, {name: np.zeros(shape, dtype=np.float32) for name, shape in weight_shapes(spec).items()})
window, first = np.ones((1, 5, 2), dtype=np.float32), np.zeros(1, dtype=np.int64)
print(network.residuals(Windows(window, rows=first, slots=first)).tolist())
time.sleep(float(sys.argv[1]))
"""


def _score_a_window(home: Path, seconds: float, *before: str) -> None:
    """Scores in a process of its own and lets it live on for some seconds; `before`: a command that runs it.

    Its environment is empty but for this: libraries keep quiet where a variable tells them that they are being tested.
    """
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(CHECKOUT)}
    command = [*before, sys.executable, "-c", SCORE_A_WINDOW, str(seconds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[[1.0, 1.0]]"), done.stderr


def test_scoring_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    _score_a_window(tmp_path, 0)

    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace: sh tests/services.sh")
def test_scoring_speaks_to_no_host(tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    _score_a_window(tmp_path, PATIENCE, "strace", "-f", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(trace))

    # a name is looked up at port 53 of a server, or at a socket of systemd-resolved
    assert "exited with 0" in trace.read_text()
    assert re.findall(r".*AF_INET.*|.*systemd/resolve.*", trace.read_text()) == []
