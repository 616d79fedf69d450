"""A proxy before Postgres that can lose the reply to a committed call."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

_READY_FOR_QUERY = b"Z\x00\x00\x00\x05"


class LossyProxy:
    """Listens on a Unix socket in `folder` and forwards to the server of a database URL."""

    def __init__(self, folder: Path, url: str) -> None:
        host = urlsplit(url).query.partition("host=")[2].partition("&")[0]
        self._server = unquote(host) + "/.s.PGSQL.5432"
        folder.mkdir(parents=True, exist_ok=True)
        self.url = url.replace(f"host={host}", f"host={folder}")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.fspath(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self._lose: list[bytes] = []
        self._lock = threading.Lock()
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_reply_to(self, *procedures: str) -> None:
        """Lose the next reply to a call of each procedure, and cut that connection."""
        with self._lock:
            self._lose += [name.encode() for name in procedures]

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        losing = threading.Event()
        with client, server, suppress(OSError):
            server.connect(self._server)
            back = threading.Thread(target=self._back, args=(server, client, losing), daemon=True)
            back.start()
            while data := client.recv(1 << 16):
                with self._lock:
                    for name in [item for item in self._lose if item in data]:
                        self._lose.remove(name)
                        losing.set()
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
            back.join()

    def _back(self, server: socket.socket, client: socket.socket, losing: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if losing.is_set():
                    if _READY_FOR_QUERY in data:  # it is committed
                        self.lost += 1
                        client.shutdown(socket.SHUT_RDWR)
                        return
                    continue
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
