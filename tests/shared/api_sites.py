"""A site for the API: any backend, a registry or none, and an overview that is counted here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx
from fastapi import FastAPI

from absurd_contimg.core.backend import Backend
from absurd_contimg.operations.api import AccessRules, make_api
from absurd_contimg.operations.overview import SiteOverview
from absurd_contimg.operations.services import Actions
from absurd_contimg.registry.database import Database

TOKEN = "a-token-of-the-tests-0123456789"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}


@dataclass(frozen=True)
class TestedSite:
    """What an API reads."""

    __test__ = False
    inspection: Backend
    database: Database | None = None
    source: str = "emulator"


def overview_of(site: TestedSite) -> Callable[[], Awaitable[SiteOverview]]:
    """An overview without content."""

    async def read() -> SiteOverview:
        now = await site.inspection.current_time()
        return SiteOverview(now, site.source, (), (), (), (), (), None, (), ())

    return read


def api_of(
    backend: Backend, database: Database | None = None, rules: AccessRules | None = None
) -> FastAPI:
    """An application with the token of the tests."""
    site = TestedSite(backend, database)
    return make_api(
        site,
        Actions(backend, database, "tester@here", "api"),
        rules or AccessRules(TOKEN, hosts=("api.test",)),
        read_overview=overview_of(site),
    )


def client_of(app: FastAPI, **headers: str) -> httpx.AsyncClient:
    """A client without a socket."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    return httpx.AsyncClient(transport=transport, base_url="http://api.test", headers=headers)
