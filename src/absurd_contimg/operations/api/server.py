"""The server process: its socket, its signals, and limits against clients that are slow or many."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import uvicorn
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from absurd_contimg.errors import SettingError, UserError
from absurd_contimg.operations.api.problems import problem, problem_response
from absurd_contimg.operations.services import stop_signals

_log = logging.getLogger(__name__)

_HEADER_BYTES_MAX = 32_000
_KEEP_ALIVE_SECONDS = 10
_GRACE_SECONDS = 5
"""How long requests, streams too, may go on after SIGTERM."""


def connections_possible() -> int:
    """Half of the descriptors are left for the database, the registry and files."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1000 if descriptors == resource.RLIM_INFINITY else min(1000, descriptors // 2)


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol, with bounds that it has not.

    It waits for ever for the headers of a request, and for a client that reads nothing.
    """

    header_seconds = 10.0
    """For all headers of the next request to arrive."""
    write_seconds = 30.0
    """How long a client may read nothing of a response."""
    connections_max = connections_possible()

    _header_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        if len(self.connections) >= self.connections_max:
            _log.warning("a connection is refused: %d are open", len(self.connections))
            transport.write(_raw_problem(503, "Too many connections are open."))
            transport.close()
            return
        super().connection_made(transport)
        self._watch_header()

    @override
    def data_received(self, data: bytes) -> None:
        if self.transport is None:
            return  # refused
        super().data_received(data)
        self._watch_header()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._header_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        if self.transport is not None:
            super().connection_lost(exc)

    @override
    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_header()

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.write_seconds, self._abort, "reads nothing")

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    @override
    def send_400_response(self, msg: str) -> None:
        self.transport.write(_raw_problem(400, msg))
        self.transport.close()

    def _watch_header(self) -> None:
        """Count the time while no request is under way and its headers are awaited."""
        is_awaited = self.cycle is None or self.cycle.response_complete
        if is_awaited and self._header_timer is None:
            self._header_timer = self.loop.call_later(
                self.header_seconds, self._abort, "sends no request"
            )
        elif not is_awaited and self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _abort(self, why: str) -> None:
        _log.info("a connection is closed: its client %s", why)
        self.transport.abort()


def _raw_problem(status: int, detail: str) -> bytes:
    """A whole response, for where there is no application yet."""
    response = problem_response(problem(status, detail), {"Connection": "close"})
    lines = [f"HTTP/1.1 {status} ".encode()]
    lines += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(response.body)])


class _Server(uvicorn.Server):
    """Stops by our own signals, and ends with exit code 0."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_ready: Callable[[], None],
        end_streams: Callable[[], Awaitable[None]] | None,
    ) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._end_streams = end_streams

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._end_streams is not None:
            await self._end_streams()
        await super().shutdown(sockets)

    @contextmanager
    @override
    def capture_signals(self) -> Iterator[None]:
        yield


def open_socket(host: str, port: int) -> socket.socket:
    """The listening socket. Port 0 takes a free one.

    Raises `UserError` while another process listens there, and `SettingError` where it never can.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host.strip("[]"), port), family=family, backlog=512)
    except OSError as error:
        is_taken = error.errno == errno.EADDRINUSE  # it passes, so a service is to be started again
        raise (UserError if is_taken else SettingError)(
            f"Nothing can listen on {host}, port {port}: {error.strerror or error}.",
            "Stop what does, or choose another: --port, --host.",
        ) from error
    # Its connections inherit it. uvicorn writes headers and body apart, and asyncio sets it only
    # where the socket names its protocol: each answer would wait 40 ms for the client's ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def run_server(
    app: Any,
    listener: socket.socket,
    on_ready: Callable[[], None] = lambda: None,
    protocol: type[BoundedProtocol] = BoundedProtocol,
    signals: Sequence[signal.Signals] | None = None,
    end_streams: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve an application until a signal; what is under way ends within some seconds.

    By default the signals of `stop_signals`. `end_streams` ends responses that would go on.
    """
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        h11_max_incomplete_event_size=_HEADER_BYTES_MAX,
    )
    server = _Server(config, on_ready, end_streams)
    loop = asyncio.get_running_loop()
    numbers = stop_signals() if signals is None else signals
    for number in numbers:
        loop.add_signal_handler(number, setattr, server, "should_exit", True)
    try:
        await server.serve(sockets=[listener])
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def address(listener: socket.socket) -> str:
    """The address of a listening socket as a browser takes it."""
    host, port = cast(tuple[str, int], listener.getsockname()[:2])
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
