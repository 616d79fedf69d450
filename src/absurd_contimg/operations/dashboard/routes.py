"""The routes of pages: errors become pages, with a status that says what they are."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from typing_extensions import override

from absurd_contimg.core.errors import BackendError, BackendUnavailable
from absurd_contimg.errors import AwayError, MissingInputError, UserError
from absurd_contimg.operations.dashboard.frame import (
    Frame,
    RefusedError,
    UnusableValueError,
    require_texts,
)


def error_status(error: Exception) -> int:
    """The HTTP status of an error that a page may meet."""
    if isinstance(error, RefusedError):
        return 403
    if isinstance(error, MissingInputError):
        return 404
    if isinstance(error, AwayError | BackendUnavailable):
        return 503
    if isinstance(error, UnusableValueError):
        return 422
    return 409 if isinstance(error, UserError) else 502


_TITLES = {
    403: "Refused",
    404: "Not there",
    409: "Cannot be done now",
    422: "A value cannot be used",
}


def make_router(frame: Frame) -> APIRouter:
    """A router whose pages show errors of users and of the database."""

    class PageRoute(APIRoute):
        @override
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def handle(request: Request) -> Response:
                try:
                    require_texts("address", request.path_params.items())
                    require_texts("address", request.query_params.multi_items())
                    return await handler(request)
                except (UserError, BackendError) as error:
                    status = error_status(error)
                    title = _TITLES.get(status, "The site cannot be read now")
                    return frame.error_page(request, title, str(error), status)

            return handle

    return APIRouter(
        route_class=PageRoute, include_in_schema=False, default_response_class=Response
    )
