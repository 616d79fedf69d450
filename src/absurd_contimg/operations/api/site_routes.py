"""Operations on the site as a whole: overview, health."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.errors import BackendError
from absurd_contimg.operations.api.parameters import read_responses, responses
from absurd_contimg.operations.api.problems import ProblemError
from absurd_contimg.operations.api.responses import read_response
from absurd_contimg.operations.client import HealthEntry
from absurd_contimg.operations.metrics import metrics_text
from absurd_contimg.operations.overview import SiteOverview


def site_routes(
    inspection: Inspection, read_overview: Callable[[], Awaitable[SiteOverview]]
) -> APIRouter:
    """The routes."""
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
        """All figures of the overview for Prometheus."""
        text = metrics_text(await read_overview())
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/health/live", response_model=HealthEntry, responses=responses())
    async def get_live() -> HealthEntry:
        """Whether the process answers; needs no database."""
        return HealthEntry("live")

    @router.get("/health/ready", response_model=HealthEntry, responses=responses())
    async def get_ready() -> HealthEntry:
        """Whether the database answers too; 503 if not."""
        try:
            await inspection.current_time()
        except BackendError as error:
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
        return HealthEntry("ready")

    return router
