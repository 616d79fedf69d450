"""The API of a production site as a process: its database, its rules, its server."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.backend import Backend
from absurd_contimg.errors import AwayError, SettingError
from absurd_contimg.execution.host_scratch import host_name
from absurd_contimg.operations.api.access import LOOPBACK_HOSTS, AccessRules, is_loopback
from absurd_contimg.operations.api.app import make_api
from absurd_contimg.operations.api.server import address, open_socket, run_server
from absurd_contimg.operations.api.token import read_token
from absurd_contimg.operations.overview import Site
from absurd_contimg.operations.services import (
    Actions,
    LoopState,
    ServiceIdentity,
    ServiceManager,
    ServiceReporter,
    SiteTables,
    open_backend,
    operator_name,
    reported,
    require_own_state,
    require_registry_of_site,
)
from absurd_contimg.registry.service_records import ServiceKind
from absurd_contimg.settings import Settings

_log = logging.getLogger(__name__)


def access_rules(settings: Settings, host: str, allowed_hosts: tuple[str, ...] = ()) -> AccessRules:
    """The rules of a server that listens on `host`; `SettingError` where it needs a token."""
    token = read_token(settings)
    if not is_loopback(host) and token is None:
        raise SettingError(
            f"An API on {host} can be reached from other machines and has no token.",
            "Set CONTIMG_API_TOKEN or CONTIMG_API_TOKEN_FILE, or listen on 127.0.0.1.",
        )
    own = (host, socket.gethostname(), socket.getfqdn()) if not is_loopback(host) else (host,)
    names = (*LOOPBACK_HOSTS, *own, *allowed_hosts)
    hosts = tuple(dict.fromkeys(name.lower() for name in names))
    return AccessRules(token, protects_reads=not is_loopback(host), hosts=hosts)


@asynccontextmanager
async def open_production(settings: Settings) -> AsyncIterator[tuple[Site, Actions]]:
    """The site of these settings and what can be done to it, also while its database is away.

    Raises `SettingError` if the site of the output folder has another registry, or its state folder
    is not its own.
    """
    require_own_state(settings)
    await asyncio.to_thread(require_registry_of_site, settings)
    with closing(SiteTables(settings)) as tables:
        try:
            await asyncio.to_thread(tables.made)
        except AwayError as error:
            _log.warning("the registry is away: %s", error)
        async with _open_database(settings) as backend:
            source = f"production, queue {settings.queue_name}"
            site = Site(source, backend, None, settings)
            try:
                yield site, Actions(backend, tables, f"API of {operator_name()}", "api")
            finally:
                if site.database is not None:
                    site.database.close()


@asynccontextmanager
async def _open_database(settings: Settings) -> AsyncIterator[Backend]:
    if settings.database_url is None:
        async with open_backend(settings, leave_running=True) as embedded:
            yield embedded
        return
    backend = PostgresBackend(settings.database_url)  # connects when it is first asked
    try:
        yield backend
    finally:
        await backend.close()


@asynccontextmanager
async def reported_server(
    settings: Settings, site: Site, kind: ServiceKind, listener: socket.socket
) -> AsyncIterator[Callable[[], None]]:
    """A server among the site's processes and for its service manager; yields what it calls when
    it serves.
    """
    with closing(SiteTables(settings)) as tables:
        state = LoopState()
        name = f"{host_name()}:{listener.getsockname()[1]}"
        now = site.inspection.current_time
        reporter = ServiceReporter(ServiceIdentity(kind, name), state, tables.made, now)
        async with reported(reporter, ServiceManager.from_environment()):
            yield lambda: state.wait("serves requests")


async def serve_api(
    settings: Settings, host: str, port: int, allowed_hosts: tuple[str, ...] = ()
) -> None:
    """Serve until a signal stops it."""
    rules = access_rules(settings, host, allowed_hosts)
    listener = open_socket(host, port)
    try:
        async with open_production(settings) as (site, actions):
            app = make_api(site, actions, rules)
            control = "with a token" if rules.token else "off, no token is configured"
            _log.info("API on %s; control is %s", address(listener), control)
            async with reported_server(settings, site, ServiceKind.API, listener) as on_ready:
                await run_server(app, listener, on_ready)
            _log.info("the API has stopped")
    finally:
        listener.close()
