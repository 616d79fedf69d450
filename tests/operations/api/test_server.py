"""The API on a real socket: slow clients, outages, the end of its process."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from api_sites import AUTHORISED, TOKEN, api_of
from freezing_proxy import FreezingProxy
from served_api import QUEUE, emulator, served

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.errors import SettingError, UserError
from absurd_contimg.operations.api import AccessRules, Bounds, open_socket
from absurd_contimg.operations.api.server import BoundedProtocol, connections_possible
from absurd_contimg.operations.api.service import access_rules
from absurd_contimg.operations.client import Client
from absurd_contimg.settings import load_settings

LOOPBACK = AccessRules(TOKEN)
TASKS = f"/v1/queues/{QUEUE}/tasks"


class Impatient(BoundedProtocol):
    """Waits for a part of a second."""

    header_seconds = 0.3
    write_seconds = 0.3
    connections_max = 5


class Small(BoundedProtocol):
    """Has room for a few, who keep it for longer than a busy machine takes to connect."""

    connections_max = 5


async def raw(url: str, data: bytes, seconds: float = 10) -> bytes:
    """What the server answers until it closes the connection."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        async with asyncio.timeout(seconds):
            return await reader.read()
    finally:
        writer.close()


async def test_a_body_does_not_wait_for_the_acknowledgement_of_its_headers() -> None:
    """Nagle's algorithm held it back for 40 ms on each connection that is used again."""
    options = []

    class Noting(BoundedProtocol):
        def connection_made(self, transport: Any) -> None:
            connection = transport.get_extra_info("socket")
            options.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            super().connection_made(transport)

    app = api_of(await emulator(), rules=LOOPBACK)
    async with served(app, Noting) as url, httpx.AsyncClient() as client:
        assert (await client.get(f"{url}/health/live")).is_success
    assert options == [1]


async def test_client_that_sends_no_whole_request_is_closed() -> None:
    """Neither one that says nothing, nor one that sends half a header, nor a further half."""
    app = api_of(await emulator(), rules=LOOPBACK)
    async with served(app, Impatient) as url:
        assert await raw(url, b"") == b""
        assert await raw(url, b"GET /health/live HTTP/1.1\r\nHost: 127") == b""
        whole = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        answer = await raw(url, whole + b"GET /he")
        assert answer.count(b"HTTP/1.1 200") == 1


async def test_a_whole_url_is_a_path_of_the_host_it_names() -> None:
    """RFC 9112, 3.2.2: from a client that takes the API for a proxy."""
    app = api_of(await emulator(), rules=LOOPBACK)
    rest = "HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n"
    async with served(app) as url:
        ours = await raw(url, f"GET {url}/v1/queues?limit=1 {rest}".encode())
        root = await raw(url, f"GET {url} {rest}".encode())
        foreign = await raw(url, f"GET http://evil.test/v1/queues {rest}".encode())
    assert ours.startswith(b"HTTP/1.1 200")
    assert QUEUE.encode() in ours
    assert root.startswith(b"HTTP/1.1 404")
    assert foreign.startswith(b"HTTP/1.1 421")


async def test_head_is_get_without_a_body() -> None:
    """As probes of load balancers ask."""
    app = api_of(await emulator(), rules=LOOPBACK)
    async with served(app) as url, httpx.AsyncClient(base_url=url) as client:
        for path in ("/health/live", "/v1/queues", "/nothing"):
            read, head = await client.get(path), await client.head(path)
            assert head.status_code == read.status_code
            assert head.headers["content-length"] == str(len(read.content))
            assert not head.content


async def test_body_that_does_not_arrive_is_a_problem() -> None:
    """And the connection is closed, since the rest of it may still come."""
    app = api_of(await emulator(), rules=LOOPBACK, bounds=Bounds(body_seconds=0.2))
    head = (
        f"POST {TASKS} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    async with served(app) as url:
        answer = await raw(url, head.encode())
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"application/problem+json" in answer


async def test_client_that_reads_nothing_is_closed() -> None:
    """So that its response does not stay in memory."""
    closed = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(640):
            await send({"type": "http.response.body", "body": b"x" * 50_000, "more_body": True})
        closed.set()

    async with served(app, Impatient) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((host, int(port)))
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.setblocking(False)
            loop, count = asyncio.get_running_loop(), 0
            await loop.sock_recv(client, 1)
            async with asyncio.timeout(60):
                await closed.wait()
            with suppress(ConnectionResetError):
                while part := await loop.sock_recv(client, 1_000_000):
                    count += len(part)
    assert count < 30_000_000


async def test_what_is_no_http_and_too_many_connections_are_problems() -> None:
    """Documents, although no application has seen the request."""
    app = api_of(await emulator(), rules=LOOPBACK)
    async with served(app, Small) as url:
        assert b"application/problem+json" in await raw(url, b"no http\r\n\r\n")
        host, port = url.removeprefix("http://").split(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(5)]
        answer = await raw(url, b"")
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after" in answer
        for _, writer in idle:
            writer.close()


async def test_database_that_is_away_is_a_problem_until_it_is_back(database_url: str) -> None:
    """At the start and during the work; nothing has to be started again."""
    folder = Path(tempfile.mkdtemp(prefix="ap-"))
    try:
        with FreezingProxy(database_url, folder / "p") as proxy:
            pass  # its address, where nobody listens
        shutil.rmtree(folder / "p")
        backend = PostgresBackend(proxy.url)
        app = api_of(backend, bounds=Bounds(answer_seconds=2))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://api.test", headers=AUTHORISED
        ) as client:
            for path in ("/v1/queues", "/health/ready", TASKS):
                answer = await client.get(path)
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "5"), path
            assert (await client.get("/health/live")).status_code == 200
            with FreezingProxy(database_url, folder / "p") as proxy:
                assert (await client.get("/health/ready")).status_code == 200
                proxy.freeze()
                answer = await client.post(TASKS, json={"task_name": "t"})
                assert answer.status_code == 503
                proxy.thaw()
                assert (await client.get("/v1/queues")).status_code == 200
        await backend.close()
    finally:
        shutil.rmtree(folder)


@contextmanager
def process(folder: Path, database_url: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``contimg api`` on a free port, and its address."""
    program = shutil.which("contimg", path=f"{Path(os.sys.executable).parent}:{os.environ['PATH']}")  # type: ignore[attr-defined]
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ABSURD_", "PIPELINE_", "CONTIMG_"))
    }
    environment = {
        **clean,
        "ABSURD_DATABASE_URL": database_url,
        "CONTIMG_API_TOKEN": TOKEN,
        "PIPELINE_OUTPUT_DIR": str(folder / "products"),
        "PIPELINE_INPUT_DIR": str(folder),
    }
    log = (folder / "api.log").open("a+")
    before = log.tell()
    running = subprocess.Popen(
        [str(program), "api", "--port", "0"], env=environment, stderr=log, stdout=log, text=True
    )
    try:
        yield running, _address(log, before, running)
    finally:
        running.kill()
        running.wait()
        log.close()


def _address(log: IO[str], before: int, running: subprocess.Popen[str]) -> str:
    for _ in range(600):
        log.seek(before)
        text = log.read()
        if match := re.search(r"API on (http://\S+);", text):
            return match[1]
        try:
            running.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(text)
    raise AssertionError("the API does not start")


def test_killed_and_restarted_api_shows_the_same_and_ends_in_order(
    database_url: str, tmp_path: Path
) -> None:
    """All that it knows is in the database; SIGTERM ends it with exit code 0."""
    asyncio.run(_make_queue(database_url))
    with process(tmp_path, database_url) as (running, url), Client(url, TOKEN) as client:
        task = client.spawn(QUEUE, "pipeline", {"group_id": "G"}, idempotency_key="G")
        detail, actions = client.get_task(QUEUE, task.task_id), client.list_actions()
        assert TOKEN not in Path(f"/proc/{running.pid}/cmdline").read_text()
        running.send_signal(signal.SIGKILL)
        running.wait()
    with process(tmp_path, database_url) as (running, url), Client(url, TOKEN) as client:
        again = client.spawn(QUEUE, "pipeline", {"group_id": "G"}, idempotency_key="G")
        assert (again.task_id, again.created) == (task.task_id, False)
        assert client.get_task(QUEUE, task.task_id) == detail
        assert client.list_actions().items[1:] == actions.items
        assert client.get_overview().queues[0].tasks_by_state["pending"] == 1
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
    log = (tmp_path / "api.log").read_text()
    assert TOKEN not in log
    assert "spawn by" in log


async def _make_queue(database_url: str) -> None:
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue(QUEUE)


def _settings(folder: Path, **variables: str) -> object:
    return load_settings({}, (), {"PIPELINE_OUTPUT_DIR": str(folder), **variables})


def test_other_interfaces_need_a_token(tmp_path: Path) -> None:
    """From a file too, which not everybody may read."""
    with pytest.raises(SettingError, match="has no token"):
        access_rules(_settings(tmp_path), "0.0.0.0")  # type: ignore[arg-type]
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o644)
    settings = _settings(tmp_path, CONTIMG_API_TOKEN_FILE=str(file))
    with pytest.raises(SettingError, match="Every user can read"):
        access_rules(settings, "0.0.0.0")  # type: ignore[arg-type]
    file.chmod(0o600)
    rules = access_rules(settings, "0.0.0.0")  # type: ignore[arg-type]
    assert (rules.token, rules.protects_reads) == (TOKEN, True)
    short = _settings(tmp_path, CONTIMG_API_TOKEN="9f3a1")
    with pytest.raises(SettingError, match="fewer than 16"):
        access_rules(short, "127.0.0.1")  # type: ignore[arg-type]


def test_port_that_is_taken_is_named() -> None:
    """With what to do. It passes, so it is no wrong setting, after which no service starts."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}.*choose another") as refusal:
            open_socket("127.0.0.1", port)
    assert not isinstance(refusal.value, SettingError)
    with pytest.raises(SettingError, match=r"192\.0\.2\.1, port 80.*choose another"):
        open_socket("192.0.2.1", 80)  # an address of no machine


def test_connections_leave_descriptors_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 40 descriptors, 60 clients that sent nothing kept the health from being read."""
    for descriptors, connections in ((40, 20), (1_000_000, 1000), (resource.RLIM_INFINITY, 1000)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=descriptors: (soft, soft))
        assert connections_possible() == connections
