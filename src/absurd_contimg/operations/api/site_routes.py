"""Operations on the site as a whole: overview, health."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from absurd_contimg.core.errors import BackendError
from absurd_contimg.operations.alerts import count_alerts
from absurd_contimg.operations.api.parameters import read_responses, responses
from absurd_contimg.operations.api.problems import ProblemError
from absurd_contimg.operations.api.responses import read_response
from absurd_contimg.operations.api.shared_read import SharedRead
from absurd_contimg.operations.client import HealthEntry
from absurd_contimg.operations.metrics import read_metrics
from absurd_contimg.operations.overview import Site, SiteOverview

_METRICS_SECONDS = 2.0
"""Scrapes of several servers at once are one read."""


def site_routes(site: Site, read_overview: Callable[[], Awaitable[SiteOverview]]) -> APIRouter:
    """The routes."""

    async def read() -> str:
        return await read_metrics(site, await asyncio.to_thread(count_alerts, site))

    metrics = SharedRead(read, _METRICS_SECONDS)
    router = APIRouter(tags=["site"])

    @router.get("/v1/overview", response_model=SiteOverview, responses=read_responses())
    async def get_overview(request: Request) -> Response:
        """Queues, services, groups, waits, disks, data and quality, at one moment."""
        return read_response(request, await read_overview())

    @router.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses={
            **responses(),
            200: {"description": "Text format of Prometheus.", "content": {"text/plain": {}}},
        },
    )
    async def get_metrics() -> Response:
        """All figures of the site for Prometheus, as contimg metrics writes them."""
        return Response(await metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/health/live", response_model=HealthEntry, responses=responses())
    async def get_live() -> HealthEntry:
        """Whether the process answers; needs no database."""
        return HealthEntry("live")

    @router.get("/health/ready", response_model=HealthEntry, responses=responses())
    async def get_ready() -> HealthEntry:
        """Whether the database answers too; 503 if not."""
        try:
            await site.inspection.current_time()
        except BackendError as error:
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
        return HealthEntry("ready")

    return router
