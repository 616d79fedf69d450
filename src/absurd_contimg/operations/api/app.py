"""The HTTP API: `make_api` makes the application from what it reads and what it may do.

Nothing here is global: two applications in one process know nothing of each other.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Awaitable, Callable
from typing import Protocol

from fastapi import FastAPI

from absurd_contimg.core.backend import Inspection
from absurd_contimg.operations.api.access import AccessRules
from absurd_contimg.operations.api.guard import Bounds, Guard
from absurd_contimg.operations.api.problems import add_problem_handlers
from absurd_contimg.operations.api.queue_routes import queue_routes
from absurd_contimg.operations.api.site_routes import site_routes
from absurd_contimg.operations.api.task_routes import task_routes
from absurd_contimg.operations.overview import SiteOverview
from absurd_contimg.operations.services import Actions
from absurd_contimg.registry.database import Database


class ReadableSite(Protocol):
    """What the API reads."""

    @property
    def source(self) -> str:
        """``production``, ``emulator`` and so on."""

    @property
    def inspection(self) -> Inspection:
        """The database of the tasks."""

    @property
    def database(self) -> Database | None:
        """The registry's tables; None where there is no registry."""


def make_api(
    site: ReadableSite,
    actions: Actions | None,
    rules: AccessRules | None = None,
    *,
    read_overview: Callable[[], Awaitable[SiteOverview]],
    bounds: Bounds | None = None,
) -> FastAPI:
    """The application. Without `actions` (a finished simulation, say) nothing can be changed.

    By default it can be read on the loopback interface, and nothing can be changed.
    """
    app = FastAPI(
        title="absurd-contimg",
        summary="Tasks, queues, groups and products of the DSA-110 continuum imaging pipeline.",
        version=importlib.metadata.version("absurd-contimg"),
        docs_url=None,  # its page loads scripts from another host
        redoc_url=None,
        redirect_slashes=False,
    )
    add_problem_handlers(app)
    app.include_router(task_routes(site.inspection, actions))
    app.include_router(queue_routes(site.inspection, site.database, actions))
    app.include_router(site_routes(site.inspection, read_overview))
    app.add_middleware(Guard, rules=rules or AccessRules(), bounds=bounds or Bounds())
    return app
