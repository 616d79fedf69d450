"""The socket of a service manager: receives what a service tells it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class NotifySocket:
    """Collects messages, each with the time at which it was read."""

    def __init__(self, receiver: socket.socket, address: str) -> None:
        self._receiver = receiver
        self.address = address
        self.messages: list[str] = []

    def read(self, seconds: float) -> list[str]:
        """The messages of the next `seconds`."""
        return self.read_until(lambda _: False, seconds, required=False)

    def read_until(
        self, condition: Callable[[str], bool], seconds: float = 60.0, *, required: bool = True
    ) -> list[str]:
        """The messages up to the first one that meets the condition."""
        new: list[str] = []
        give_up = time.monotonic() + seconds
        while (left := give_up - time.monotonic()) > 0:
            self._receiver.settimeout(left)
            try:
                message = self._receiver.recv(4096).decode()
            except TimeoutError:
                break
            new.append(message)
            self.messages.append(message)
            if condition(message):
                return new
        assert not required, f"not told in {seconds} s; told: {self.messages}"
        return new


@contextmanager
def notify_socket(folder: Path, *, abstract: bool = False) -> Iterator[NotifySocket]:
    """A socket in a folder, or in the abstract namespace."""
    path = folder / "notify"
    address = f"@{path}" if abstract else str(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + str(path) if abstract else address)
        yield NotifySocket(receiver, address)
