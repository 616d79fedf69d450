"""What a service tells the service manager that started it: systemd's notification protocol.

Each message is one datagram to the socket that ``NOTIFY_SOCKET`` names (sd_notify(3)).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass

_log = logging.getLogger(__name__)

_STATUS_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """The manager of this process; without an address nobody is told anything."""

    address: str = ""
    """The path of a socket; one in the abstract namespace begins with ``@``."""
    watchdog_seconds: float | None = None
    """The process is killed when it sends no `ping` for so long; None: it is not watched."""

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> ServiceManager:
        """The manager that started this process; children are not to speak for it."""
        address = environment.pop("NOTIFY_SOCKET", "")
        pid = environment.pop("WATCHDOG_PID", str(os.getpid()))
        microseconds = environment.pop("WATCHDOG_USEC", "")
        is_watched = pid == str(os.getpid()) and microseconds.isdecimal()
        return cls(address, int(microseconds) / 1e6 if is_watched else None)

    def ready(self) -> None:
        """It does its work from now on."""
        self._send("READY=1")

    def ping(self) -> None:
        """It makes progress."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """What it does, for ``systemctl status``."""
        line = "".join(char if char.isprintable() else " " for char in text)
        self._send(f"STATUS={line[:_STATUS_CHARACTERS_MAX]}")

    def stopping(self) -> None:
        """It ends."""
        self._send("STOPPING=1")

    def needs_seconds(self, seconds: float) -> None:
        """It starts or stops, and says so again within so many seconds, or has ended."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def _send(self, message: str) -> None:
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(message.encode(errors="replace"), address)
        except OSError as error:  # a manager that restarts, or reads too slowly
            _log.debug("the service manager was not told %s: %s", message, error)
