"""`add_dashboard`: the pages on the application of the API."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from absurd_contimg.operations.api import AccessRules
from absurd_contimg.operations.dashboard.action_pages import LOGIN, add_action_pages
from absurd_contimg.operations.dashboard.charts import FaultMark
from absurd_contimg.operations.dashboard.files import Quicklooks
from absurd_contimg.operations.dashboard.frame import Frame
from absurd_contimg.operations.dashboard.live import LiveFeed, live_router
from absurd_contimg.operations.dashboard.pipeline_pages import add_pipeline_pages
from absurd_contimg.operations.dashboard.report_pages import Reports, add_report_pages
from absurd_contimg.operations.dashboard.routes import make_router
from absurd_contimg.operations.dashboard.schedule_pages import add_schedule_pages
from absurd_contimg.operations.dashboard.science_pages import add_science_pages
from absurd_contimg.operations.dashboard.site_pages import add_site_pages
from absurd_contimg.operations.dashboard.snapshots import Snapshots
from absurd_contimg.operations.dashboard.task_pages import add_task_pages
from absurd_contimg.operations.overview import Site
from absurd_contimg.operations.services import Actions

_STATIC = Path(str(files("absurd_contimg.operations.dashboard"))) / "static"
LOGIN_PATHS = frozenset({LOGIN, *(f"/static/{file.name}" for file in _STATIC.glob("*.*"))})
"""What a reader without the token gets: `AccessRules.open_posts` has them."""


def add_dashboard(
    app: FastAPI,
    site: Site,
    actions: Actions | None = None,
    rules: AccessRules | None = None,
    *,
    faults: Sequence[FaultMark] = (),
    live: bool = True,
) -> Frame:
    """Add all pages. Without `actions`, or without a token in `rules`, nothing can be changed."""
    snapshots = Snapshots(site)
    frame = Frame(
        site,
        snapshots,
        actions,
        rules or AccessRules(),
        faults,
        live,
        Quicklooks(site.settings),
    )
    router = make_router(frame)
    reports = Reports(site.settings)
    add_pipeline_pages(router, frame, reports)
    add_task_pages(router, frame)
    add_site_pages(router, frame)
    add_science_pages(router, frame)
    add_schedule_pages(router, frame)
    add_report_pages(router, frame, reports)
    add_action_pages(router, frame)
    app.include_router(router)
    if live:
        app.state.live_feed = LiveFeed(snapshots)
        app.include_router(live_router(app.state.live_feed))
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    app.add_middleware(LoginRedirect)
    return frame


class LoginRedirect:
    """Sends a browser without the token to the page where it can be given.

    Around the API's `Guard`, which refuses reads where the server can be reached from elsewhere.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request, and instead of 401 the address of the login page."""
        if scope["type"] != "http" or "text/html" not in Headers(scope=scope).get("accept", ""):
            await self._app(scope, receive, send)
            return
        is_refused = False

        async def send_or_redirect(message: Message) -> None:
            nonlocal is_refused
            if message["type"] == "http.response.start":
                is_refused = message["status"] == 401
            if not is_refused:
                await send(message)
            elif message["type"] == "http.response.start":
                address = f"{LOGIN}?next={quote(scope['path'])}"
                await RedirectResponse(address, 303)(scope, receive, send)

        await self._app(scope, receive, send_or_redirect)
