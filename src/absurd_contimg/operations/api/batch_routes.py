"""Operations on batches: list, show, create, cancel, pause, resume."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from absurd_contimg.errors import MissingInputError
from absurd_contimg.operations.api.parameters import (
    IdempotencyKey,
    Name,
    Reason,
    Tables,
    read_responses,
    required,
    responses,
)
from absurd_contimg.operations.api.problems import ProblemError
from absurd_contimg.operations.api.responses import Cursor, Limit, page_of, read_response
from absurd_contimg.operations.client import BatchEntry, BatchItemEntry, Page
from absurd_contimg.operations.services import Actions, BatchActions, BatchSummary
from absurd_contimg.registry.batches import Batches, BatchState
from absurd_contimg.registry.database import Database
from absurd_contimg.settings import Settings


class BatchRequest(Reason):
    """A batch of groups (``pipeline``) or windows (``mosaic``)."""

    kind: Literal["pipeline", "mosaic"]
    names: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        min_length=1, max_length=5000
    )
    ahead: int = Field(20, ge=1, le=1000, description="Tasks that wait in the queue.")
    cap: int = Field(200, ge=1, le=10_000, description="Tasks that have not ended.")


def batch_routes(tables: Tables, settings: Settings | None, actions: Actions | None) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["batches"])

    def batch_actions() -> BatchActions:
        able = required(actions)
        if settings is None:
            raise ProblemError(HTTPStatus.CONFLICT, "This site has no settings to make tasks with.")
        return BatchActions(able, settings)

    @router.get(
        "/v1/batches", response_model=Page[BatchEntry],
        responses=read_responses(),
    )  # fmt: skip
    async def list_batches(request: Request, cursor: Cursor = None, limit: Limit = 100) -> Response:
        """The batches, the newest first; their items as the daemon noted them at its last poll."""

        def read() -> Page[BatchEntry]:
            database = tables()
            batches = None if database is None else Batches(database)
            known = [] if batches is None else batches.batches()[::-1]
            page = page_of("batches", known, lambda batch: batch.batch_id, cursor, limit)
            return Page(
                tuple(
                    _batch_entry(BatchSummary(batch, batches.counts(batch.batch_id)))
                    for batch in page.items
                    if batches is not None
                ),
                page.next_cursor,
            )

        return read_response(request, await asyncio.to_thread(read))

    @router.get(
        "/v1/batches/{batch_id}", response_model=BatchEntry,
        responses=read_responses(404),
    )  # fmt: skip
    async def get_batch(request: Request, batch_id: Name) -> Response:
        """A batch; its items as the daemon noted them at its last poll."""

        def read() -> BatchEntry:
            batches = _batches(tables())
            return _batch_entry(BatchSummary(batches.batch(batch_id), batches.counts(batch_id)))

        return read_response(request, await asyncio.to_thread(read))

    @router.get(
        "/v1/batches/{batch_id}/items", response_model=Page[BatchItemEntry],
        responses=read_responses(404),
    )  # fmt: skip
    async def list_batch_items(
        request: Request, batch_id: Name, cursor: Cursor = None, limit: Limit = 100
    ) -> Response:
        """The items of a batch, in their order."""

        def read() -> Page[BatchItemEntry]:
            batches = _batches(tables())
            batches.batch(batch_id)
            items = [
                BatchItemEntry(item.position, item.name, item.state, item.task_id)
                for item in batches.items(batch_id)
            ]
            return page_of(
                f"items of {batch_id}", items, lambda item: str(item.position), cursor, limit
            )

        return read_response(request, await asyncio.to_thread(read))

    @router.post("/v1/batches", response_model=BatchEntry, responses=responses(404, 409))
    async def create_batch(
        body: BatchRequest, idempotency_key: IdempotencyKey = None
    ) -> BatchEntry:
        """Make a batch; the daemon spawns its tasks. The idempotency key becomes its id."""
        summary = await batch_actions().create_named(
            body.kind,
            body.names,
            ahead=body.ahead,
            cap=body.cap,
            batch_id=idempotency_key,
            reason=body.reason,
        )
        return _batch_entry(summary)

    @router.post(
        "/v1/batches/{batch_id}/cancel", response_model=BatchEntry,
        responses=responses(404, 409),
    )  # fmt: skip
    async def cancel_batch(batch_id: Name, body: Reason) -> BatchEntry:
        """Cancel a batch with its tasks, the running ones too."""
        change = batch_actions().change(batch_id, BatchState.CANCELLED, body.reason)
        return _batch_entry(await change)

    @router.post(
        "/v1/batches/{batch_id}/pause", response_model=BatchEntry,
        responses=responses(404, 409),
    )  # fmt: skip
    async def pause_batch(batch_id: Name, body: Reason) -> BatchEntry:
        """Spawn nothing more of a batch; needs a reason."""
        change = batch_actions().change(batch_id, BatchState.PAUSED, body.reason)
        return _batch_entry(await change)

    @router.post(
        "/v1/batches/{batch_id}/resume", response_model=BatchEntry,
        responses=responses(404, 409),
    )  # fmt: skip
    async def resume_batch(batch_id: Name, body: Reason) -> BatchEntry:
        """Go on with a paused batch."""
        change = batch_actions().change(batch_id, BatchState.ACTIVE, body.reason)
        return _batch_entry(await change)

    return router


def _batches(database: Database | None) -> Batches:
    if database is None:
        raise MissingInputError("There is no registry yet.", "Check --output-dir and --state-dir.")
    return Batches(database)


def _batch_entry(summary: BatchSummary) -> BatchEntry:
    batch = summary.batch
    return BatchEntry(
        batch_id=batch.batch_id,
        kind=batch.kind,
        state=batch.state,
        queue=batch.queue,
        created_at=batch.created_at,
        reason=batch.reason,
        items_by_state={state.value: count for state, count in summary.items.items()},
    )
