"""A pooler in transaction mode, as PgBouncer is: no session of a client outlives its transaction.

Each transaction of a client goes to the server connection that was used least recently, so two in
sequence never meet the same session. Speaks Postgres' wire protocol between an accepted client and
server connections that libpq has opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

_INVENTED_PROCESS = 424242
"""What the client is told as the process of its server; PgBouncer tells a random number."""
_REPORTED = (
    *("client_encoding", "DateStyle", "IntervalStyle", "TimeZone", "server_encoding"),
    *("server_version", "standard_conforming_strings", "integer_datetimes"),
)
_SSL_REQUEST, _GSS_REQUEST, _CANCEL = 80877103, 80877104, 80877102


@dataclass(slots=True)
class TransactionPooler:
    """Listens in `folder`; `server_url` is the database behind it."""

    server_url: str
    folder: Path
    size: int = 2
    transactions: int = 0
    prepared: list[bytes] = field(default_factory=list)
    """The statements that clients have prepared under a name."""
    _servers: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(
        default_factory=asyncio.Queue, init=False
    )
    _owners: list[psycopg.Connection] = field(default_factory=list, init=False)
    _clients: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    @property
    def url(self) -> str:
        """The URL of the same database through the pooler."""
        return f"postgresql://anybody@/any?host={self.folder}&port=6432"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[TransactionPooler]:
        """Accepts clients until the end of the context."""
        for _ in range(self.size):
            owner = await asyncio.to_thread(psycopg.connect, self.server_url, autocommit=True)
            self._owners.append(owner)
            copy = socket.socket(fileno=os.dup(owner.fileno()))
            copy.setblocking(False)
            self._servers.put_nowait(await asyncio.open_unix_connection(sock=copy))
        listener = await asyncio.start_unix_server(self._accept, self.folder / ".s.PGSQL.6432")
        try:
            yield self
        finally:
            listener.close()
            for client in self._clients:
                client.cancel()
            await asyncio.gather(*self._clients, return_exceptions=True)
            while not self._servers.empty():
                self._servers.get_nowait()[1].close()
            for owner in self._owners:
                owner.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if await self._greet(reader, writer):
                await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has gone, or the pooler ends
        finally:
            self._clients.discard(task)
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        while True:
            length, code = struct.unpack("!ii", await reader.readexactly(8))
            startup = await reader.readexactly(length - 8)
            if code not in (_SSL_REQUEST, _GSS_REQUEST):
                break
            writer.write(b"N")
        if code == _CANCEL:
            return False
        names = startup.split(b"\0")[:-2:2]
        if b"options" in names:  # as PgBouncer answers unless it is told to ignore them
            text = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0"
            writer.write(_message(b"E", text))
            return False
        writer.write(_message(b"R", struct.pack("!i", 0)))
        for name in _REPORTED:
            value = self._owners[0].info.parameter_status(name) or ""
            writer.write(_message(b"S", f"{name}\0{value}\0".encode()))
        writer.write(_message(b"K", struct.pack("!ii", _INVENTED_PROCESS, 1)))
        writer.write(_message(b"Z", b"I"))
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            message = await _read(reader)
            if message[:1] == b"X":
                return
            server = await self._servers.get()
            self.transactions += 1
            try:
                await self._transact(message, reader, writer, *server)
            finally:
                self._servers.put_nowait(server)

    async def _transact(
        self,
        message: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        from_server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        """Carry messages until the server says that it is in no transaction."""
        while True:
            to_server.write(message)
            if message[:1] == b"P" and message[5:6] != b"\0":
                self.prepared.append(message)
            if message[:1] in b"QS":
                answer = b""
                while answer[:1] != b"Z":
                    answer = await _read(from_server)
                    writer.write(answer)
                await writer.drain()
                if answer[-1:] == b"I":
                    return
            message = await _read(reader)


async def _read(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)


def _message(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("!i", len(content) + 4) + content
