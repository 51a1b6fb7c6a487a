"""Messages to systemd (sd_notify(3))."""

from __future__ import annotations

import logging
import os
import socket

logger = logging.getLogger(__name__)


def notify_systemd(message: str) -> None:
    """Sends a message to systemd's notification socket; does nothing without one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
        try:
            connection.connect("\0" + address[1:] if address.startswith("@") else address)
            connection.sendall(message.encode())
        except OSError as exc:
            logger.warning("event=sd_notify_failed reason=%r", str(exc))
