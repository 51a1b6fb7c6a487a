"""Cores of this machine."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores this process may run on, which in a container or under systemd may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
