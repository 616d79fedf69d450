"""Operations on what the registry holds: services, groups, windows, products, actions."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter

from absurd_contimg.errors import MissingInputError
from absurd_contimg.operations.api.parameters import (
    Name,
    Reason,
    Tables,
    read_responses,
    required,
    responses,
)
from absurd_contimg.operations.api.quicklooks import draw_quicklook
from absurd_contimg.operations.api.registry_pages import (
    action_page,
    get_group,
    get_product,
    get_window,
    group_page,
    product_page,
    window_page,
)
from absurd_contimg.operations.api.responses import Cursor, Limit, read_response, tagged
from absurd_contimg.operations.client import (
    ActionEntry,
    GroupEntry,
    Page,
    ProductEntry,
    ServiceEntry,
    WindowEntry,
)
from absurd_contimg.operations.services import Actions
from absurd_contimg.registry.service_records import list_services

_Filter = Annotated[str | None, Query(max_length=200)]
_Key = Annotated[str, PathParameter(pattern="^[0-9a-f]{40}$", description="A product's key.")]


def registry_routes(tables: Tables, actions: Actions | None) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.get(
        "/v1/services", tags=["site"], response_model=Page[ServiceEntry],
        responses=read_responses(),
    )  # fmt: skip
    async def list_service_records(request: Request) -> Response:
        """Workers, daemons and APIs of all hosts, as they last wrote of themselves."""

        def read() -> Page[ServiceEntry]:
            database = tables()
            records = [] if database is None else list_services(database)
            names = ServiceEntry.__slots__
            return Page(
                tuple(
                    ServiceEntry(**{name: getattr(each, name) for name in names})
                    for each in records
                ),
                None,
            )

        return read_response(request, await asyncio.to_thread(read))

    @router.get(
        "/v1/groups", tags=["groups"], response_model=Page[GroupEntry], responses=read_responses()
    )
    async def list_groups(
        request: Request, status: _Filter = None, cursor: Cursor = None, limit: Limit = 100
    ) -> Response:
        """The observation groups, the newest first."""
        page = await asyncio.to_thread(lambda: group_page(tables(), status, cursor, limit))
        return read_response(request, page)

    @router.get(
        "/v1/groups/{group_id}", tags=["groups"], response_model=GroupEntry,
        responses=read_responses(404),
    )  # fmt: skip
    async def read_group(request: Request, group_id: Name) -> Response:
        """A group."""
        return read_response(
            request, await asyncio.to_thread(lambda: get_group(tables(), group_id))
        )

    @router.post(
        "/v1/groups/{group_id}/reopen", tags=["groups"], response_model=GroupEntry,
        responses=responses(404, 409),
    )  # fmt: skip
    async def reopen_group(group_id: Name, body: Reason) -> GroupEntry:
        """Collect the files of a closed group again, late and changed ones too."""
        await required(actions).reopen_group(group_id, body.reason)
        return await asyncio.to_thread(lambda: get_group(tables(), group_id))

    @router.get(
        "/v1/windows", tags=["groups"], response_model=Page[WindowEntry],
        responses=read_responses(),
    )  # fmt: skip
    async def list_windows(request: Request, cursor: Cursor = None, limit: Limit = 100) -> Response:
        """The windows of which mosaics are made."""
        page = await asyncio.to_thread(lambda: window_page(tables(), cursor, limit))
        return read_response(request, page)

    @router.get(
        "/v1/windows/{window_id}", tags=["groups"], response_model=WindowEntry,
        responses=read_responses(404),
    )  # fmt: skip
    async def read_window(request: Request, window_id: Name) -> Response:
        """A window."""
        return read_response(
            request, await asyncio.to_thread(lambda: get_window(tables(), window_id))
        )

    @router.get(
        "/v1/products", tags=["products"], response_model=Page[ProductEntry],
        responses=read_responses(),
    )  # fmt: skip
    async def list_products(
        request: Request,
        stage: _Filter = None,
        group: _Filter = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Response:
        """The committed products, the newest first."""
        page = await asyncio.to_thread(lambda: product_page(tables(), stage, group, cursor, limit))
        return read_response(request, page)

    @router.get(
        "/v1/products/{key}", tags=["products"], response_model=ProductEntry,
        responses=read_responses(404),
    )  # fmt: skip
    async def read_product(request: Request, key: _Key) -> Response:
        """A product."""
        return read_response(request, await asyncio.to_thread(lambda: get_product(tables(), key)))

    @router.get(
        "/v1/products/{key}/quicklook", tags=["products"], response_class=Response,
        responses={
            **read_responses(404, 409),
            200: {"description": "A picture.", "content": {"image/png": {}}},
        },
    )  # fmt: skip
    async def get_quicklook(request: Request, key: _Key) -> Response:
        """The picture of an image or a mosaic (PNG)."""

        def draw() -> bytes:
            database = tables()
            product = get_product(database, key)
            if database is None or database.output_dir is None:
                raise MissingInputError("This site has no output folder.")
            return draw_quicklook(product, Path(database.output_dir))

        return tagged(request, await asyncio.to_thread(draw), "image/png")

    @router.get(
        "/v1/actions", tags=["site"], response_model=Page[ActionEntry], responses=read_responses()
    )
    async def list_operator_actions(
        request: Request, target: _Filter = None, cursor: Cursor = None, limit: Limit = 100
    ) -> Response:
        """What people did, the newest first."""
        page = await asyncio.to_thread(lambda: action_page(tables(), target, cursor, limit))
        return read_response(request, page)

    return router
