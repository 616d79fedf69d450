"""A site for the API: any backend, a registry or none."""

from __future__ import annotations

import httpx
from fastapi import FastAPI

from absurd_contimg.core.backend import Backend
from absurd_contimg.operations.api import AccessRules, Bounds, make_api
from absurd_contimg.operations.overview import Site
from absurd_contimg.operations.services import Actions, GivenTables
from absurd_contimg.registry.database import Database
from absurd_contimg.settings import Settings

TOKEN = "a-token-of-the-tests-0123456789"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}


def api_of(
    backend: Backend,
    database: Database | None = None,
    rules: AccessRules | None = None,
    *,
    bounds: Bounds | None = None,
    settings: Settings | None = None,
) -> FastAPI:
    """An application with the token of the tests."""
    site = Site("emulator", backend, database, settings)
    actions = Actions(backend, GivenTables(database), "tester@here", "api")
    return make_api(site, actions, rules or AccessRules(TOKEN, hosts=("api.test",)), bounds=bounds)


def client_of(app: FastAPI, **headers: str) -> httpx.AsyncClient:
    """A client without a socket."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    return httpx.AsyncClient(transport=transport, base_url="http://api.test", headers=headers)
