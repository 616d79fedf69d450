"""Token, Host header and addresses of the dashboard: the rules of the API, and a page to log in."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from dashboard_sites import QUEUE, TOKEN
from typer.testing import CliRunner

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.config import PathsConfig
from absurd_contimg.errors import SettingError
from absurd_contimg.operations.api import address, open_socket
from absurd_contimg.operations.cli.main import app as command_line
from absurd_contimg.operations.dashboard import Source, dashboard_rules, make_app, serve
from absurd_contimg.operations.overview import Site
from absurd_contimg.operations.services import Actions, GivenTables
from absurd_contimg.settings import Settings, load_settings

PAGE = {"Accept": "text/html"}
FORM = {**PAGE, "Sec-Fetch-Site": "same-origin"}


def settings_of(folder: Path, **environment: str) -> Settings:
    return load_settings(PathsConfig.below(folder).model_dump(), environment=environment)


@asynccontextmanager
async def client_of(settings: Settings, host: str) -> AsyncIterator[httpx.AsyncClient]:
    """A browser that reaches a dashboard on `host` by the address 192.0.2.7."""
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    site = Site("emulator", backend, None, settings)
    actions = Actions(backend, GivenTables(None), "tester@here", "api")
    app = make_app(Source(site, actions), dashboard_rules(settings, host, ("site.test",)))
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://192.0.2.7") as client:
        yield client


def test_no_server_for_other_machines_without_a_token(tmp_path: Path) -> None:
    """The command refuses before it reads anything."""
    with pytest.raises(SettingError, match="has no token"):
        dashboard_rules(settings_of(tmp_path), "0.0.0.0")
    result = CliRunner(env={"CONTIMG_API_TOKEN": ""}).invoke(
        command_line, ["--state-dir", str(tmp_path), "dashboard", "--host", "0.0.0.0"]
    )
    assert result.exit_code != 0
    assert "has no token" in str(result.exception)


async def test_other_machines_read_with_the_token_alone(tmp_path: Path) -> None:
    """A browser is sent to the page to log in, which has its style; a program gets 401."""
    settings = settings_of(tmp_path, CONTIMG_API_TOKEN=TOKEN)
    async with client_of(settings, "0.0.0.0") as client:
        for page in ("/", "/tasks", "/waiting", "/live"):
            refused = await client.get(page, headers=PAGE)
            assert (refused.status_code, refused.headers["location"]) == (
                303,
                f"/login?next={page}",
            )
        assert (await client.get("/v1/overview")).status_code == 401
        assert (await client.get("/live")).status_code == 401
        for page in ("/login", "/static/site.css", "/static/site.js"):
            assert (await client.get(page)).status_code == 200, page
        form = {"token": TOKEN, "next": "/tasks"}
        assert (await client.post("/login", data=form, headers=FORM)).status_code == 303
        page = await client.get("/tasks", headers=PAGE)
        assert (page.status_code, "Control is on" in page.text) == (200, True)
        assert (await client.get("/v1/overview")).status_code == 200


async def test_names_of_other_sites_are_refused(tmp_path: Path) -> None:
    """A page of another site, whose name leads to this machine, reads nothing."""
    async with client_of(settings_of(tmp_path), "127.0.0.1") as client:
        for name, status in (("evil.test", 421), ("site.test", 200), ("localhost:8110", 200)):
            response = await client.get("/", headers={"Host": name})
            assert response.status_code == status, name
        assert "Control is off" in (await client.get("/")).text


async def test_open_pages_do_not_delay_the_end_of_the_server(tmp_path: Path) -> None:
    """Their streams are ended, and not cut off after the grace of other requests."""
    backend = MemoryBackend(MemoryDatabase())
    app = make_app(
        Source(Site("emulator", backend)), dashboard_rules(settings_of(tmp_path), "127.0.0.1")
    )
    ready = asyncio.Event()
    with open_socket("127.0.0.1", 0) as listener:
        signals = (signal.SIGUSR1,)
        serving = asyncio.create_task(serve(app, listener, ready.set, signals))
        await asyncio.wait_for(ready.wait(), 60)
        async with (
            httpx.AsyncClient(base_url=address(listener), timeout=60) as client,
            client.stream("GET", "/live") as stream,
        ):
            parts = stream.aiter_text()
            assert "retry: 3000" in await anext(parts)
            os.kill(os.getpid(), signal.SIGUSR1)
            async for _ in parts:
                pass  # a stream that is cut off raises
        await asyncio.wait_for(serving, 60)
