"""What the daemon tells systemd (sd_notify(3)): nothing when it was not started by it."""

from __future__ import annotations

import os
import socket
import time

import structlog

log = structlog.get_logger(__name__)

READY, STOPPING = "READY=1", "STOPPING=1"


class Notifier:
    """Sends states to the service manager. Takes NOTIFY_SOCKET out of the environment, so that no child has it."""

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        # "@" stands for the NUL of an abstract socket.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def tell(self, state: str) -> None:
        """Send a state; a manager that does not listen is no error."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.connect(self._address)
                sock.send(state.encode())
        except OSError as error:
            log.warning("notify.failed", error=str(error))

    def reloading(self) -> None:
        """Say that the configuration is being read again; READY ends it."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.tell(f"RELOADING=1\nMONOTONIC_USEC={microseconds}")
