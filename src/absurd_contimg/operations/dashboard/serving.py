"""API and pages in one process, until a signal ends it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from fastapi import FastAPI

from absurd_contimg.operations.api import AccessRules, access_rules, make_api, run_server
from absurd_contimg.operations.dashboard.app import LOGIN_PATHS, add_dashboard
from absurd_contimg.operations.dashboard.live import LiveFeed
from absurd_contimg.operations.dashboard.sources import Source
from absurd_contimg.operations.overview import read_site
from absurd_contimg.settings import Settings


def dashboard_rules(
    settings: Settings, host: str, allowed_hosts: tuple[str, ...] = ()
) -> AccessRules:
    """The API's rules, with a page to log in; raises `SettingError` as `access_rules` does."""
    return replace(access_rules(settings, host, allowed_hosts), open_posts=LOGIN_PATHS)


def make_app(source: Source, rules: AccessRules) -> FastAPI:
    """API and dashboard over a source."""
    site = source.site
    app = make_api(site, source.actions, rules, read_overview=partial(read_site, site))
    add_dashboard(app, site, source.actions, rules, faults=source.faults, live=source.live)
    return app


async def serve(
    app: FastAPI,
    listener: socket.socket,
    on_ready: Callable[[], None],
    signals: Sequence[signal.Signals] | None = None,
) -> None:
    """Serve what `make_app` made, by `run_server`; ends the streams of open pages first."""
    feed: LiveFeed | None = getattr(app.state, "live_feed", None)
    end = None if feed is None else feed.end
    await run_server(app, listener, on_ready, signals=signals, end_streams=end)
