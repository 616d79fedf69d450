"""A proxy before a Postgres server whose connections can fall silent; none is closed before it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlencode, urlsplit

_SOCKET = ".s.PGSQL.5432"


class FreezingProxy:
    """Forwards to the server of `url`; `self.url` leads through it, by TCP or a Unix socket."""

    def __init__(self, url: str, folder: Path, *, tcp: bool = False) -> None:
        parts = urlsplit(url)
        query = dict(parse_qs(parts.query))
        self._server = str(Path(query.pop("host")[0]) / _SOCKET)
        self._thawed, self._closed = threading.Event(), threading.Event()
        self._thawed.set()
        self._generation = 0
        self._sockets: list[socket.socket] = []
        self.connections = 0
        """How many were made through it."""
        if tcp:
            self._listener = socket.create_server(("127.0.0.1", 0))
            query |= {"host": ["127.0.0.1"], "port": [str(self._listener.getsockname()[1])]}
        else:
            folder.mkdir(parents=True)
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(folder / _SOCKET))
            self._listener.listen(50)
            query |= {"host": [str(folder)]}
        self.url = parts._replace(query=urlencode(query, doseq=True)).geturl()
        self._in_thread(self._accept)

    def freeze(self) -> None:
        """Forward nothing until `thaw`, which delivers what was held back; accept connections."""
        self._thawed.clear()

    def thaw(self) -> None:
        """End of `freeze`."""
        self._thawed.set()

    def silence(self) -> None:
        """Let the present connections be silent for ever; new ones work."""
        self._generation += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Accept no more connections, close those that are there, and let the threads end."""
        self._closed.set()
        self._thawed.set()
        self._listener.close()
        for each in self._sockets:
            with suppress(OSError):  # it was closed at the other end
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _in_thread(self, function: object, *arguments: object) -> None:
        threading.Thread(target=function, args=arguments, daemon=True).start()  # type: ignore[arg-type]  # any callable

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            self.connections += 1
            server = socket.socket(socket.AF_UNIX)
            self._sockets += [client, server]
            server.connect(self._server)
            for pair in ((client, server), (server, client)):
                self._in_thread(self._forward, *pair, self._generation)

    def _forward(self, source: socket.socket, target: socket.socket, generation: int) -> None:
        try:
            while data := source.recv(1 << 16):
                self._thawed.wait()
                if generation < self._generation:
                    self._closed.wait()
                target.sendall(data)
            self._thawed.wait()
            if generation == self._generation:
                target.shutdown(socket.SHUT_WR)
        except OSError:
            return  # one side has closed it
