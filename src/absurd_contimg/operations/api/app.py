"""The HTTP API: `make_api` makes the application from what it reads and what it may do.

Nothing here is global: two applications in one process know nothing of each other.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Awaitable, Callable
from functools import partial

from fastapi import FastAPI

from absurd_contimg.operations.api.access import AccessRules
from absurd_contimg.operations.api.batch_routes import batch_routes
from absurd_contimg.operations.api.guard import Bounds, Guard
from absurd_contimg.operations.api.problems import add_problem_handlers
from absurd_contimg.operations.api.queue_routes import queue_routes
from absurd_contimg.operations.api.registry_routes import registry_routes
from absurd_contimg.operations.api.shared_read import SharedRead
from absurd_contimg.operations.api.site_routes import site_routes
from absurd_contimg.operations.api.task_routes import task_routes
from absurd_contimg.operations.overview import Site, SiteOverview, read_site
from absurd_contimg.operations.services import Actions

_OVERVIEW_SECONDS = 2.0


def make_api(
    site: Site,
    actions: Actions | None,
    rules: AccessRules | None = None,
    *,
    read_overview: Callable[[], Awaitable[SiteOverview]] | None = None,
    bounds: Bounds | None = None,
) -> FastAPI:
    """The application. Without `actions` (a finished simulation, say) nothing can be changed.

    By default it can be read on the loopback interface, and nothing can be changed. An overview is
    at most 2 s old, however many clients ask; `read_overview` reads it in another way.
    """
    overview = read_overview or SharedRead(partial(read_site, site), _OVERVIEW_SECONDS)
    app = FastAPI(
        title="absurd-contimg",
        summary="Tasks, queues, groups and products of the DSA-110 continuum imaging pipeline.",
        version=importlib.metadata.version("absurd-contimg"),
        docs_url=None,  # its page loads scripts from another host
        redoc_url=None,
        redirect_slashes=False,
    )
    add_problem_handlers(app)
    app.include_router(task_routes(site, actions))
    app.include_router(queue_routes(site.inspection, site.registry, actions))
    app.include_router(batch_routes(site.registry, site.settings, actions))
    app.include_router(registry_routes(site.registry, actions))
    app.include_router(site_routes(site, overview))
    app.add_middleware(Guard, rules=rules or AccessRules(), bounds=bounds or Bounds())
    return app
