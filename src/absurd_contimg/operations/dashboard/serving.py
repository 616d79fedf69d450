"""The server of API and pages: one process, until a signal ends it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI
from typing_extensions import override

from absurd_contimg.errors import SettingError
from absurd_contimg.operations.api import AccessRules, make_api
from absurd_contimg.operations.dashboard.app import add_dashboard
from absurd_contimg.operations.dashboard.live import LiveFeed
from absurd_contimg.operations.dashboard.sources import Source
from absurd_contimg.operations.overview import read_site

_GRACE_SECONDS = 3
"""For requests that are under way when the server is to stop."""


class Server(uvicorn.Server):
    """A server that ends the streams of live pages before it waits for its connections."""

    def __init__(self, app: FastAPI, **options: Any) -> None:
        self._application = app
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            **options,
        )
        super().__init__(config)

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        feed: LiveFeed | None = getattr(self._application.state, "live_feed", None)
        if feed is not None:
            await feed.end()
        await super().shutdown(sockets)


def make_app(source: Source, rules: AccessRules) -> FastAPI:
    """API and dashboard over a source."""
    site = source.site
    app = make_api(site, source.actions, rules, read_overview=partial(read_site, site))
    add_dashboard(app, site, source.actions, rules, faults=source.faults, live=source.live)
    return app


async def serve(app: FastAPI, host: str, port: int, on_start: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `on_start` gets the URL once it can be reached.

    Raises `SettingError` if the address cannot be had. Port 0 is any that is free.
    """
    try:
        listener = socket.create_server((host, port), reuse_port=False)
    except (OSError, OverflowError) as error:
        raise SettingError(
            f"Nothing can listen at {host}, port {port}: {error}.", "Choose another with --port."
        ) from error
    name = f"[{host}]" if ":" in host else host
    with listener:
        on_start(f"http://{name}:{listener.getsockname()[1]}/")
        await Server(app).serve([listener])
