"""Arrays as text, as they are stored in explanations."""

from __future__ import annotations

import base64
import zlib

import numpy as np

from detector.core.series import Float32


def pack(values: Float32) -> str:
    """Values of any shape, such as (K, F), as text: float32, little-endian, compressed."""
    return base64.b64encode(zlib.compress(values.astype("<f4").tobytes(), 9)).decode()


def unpack(text: str, columns: int = 0) -> Float32:
    """Values of `pack`, (N,), or (N, columns)."""
    values = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<f4")
    return values.reshape(-1, columns) if columns else values
