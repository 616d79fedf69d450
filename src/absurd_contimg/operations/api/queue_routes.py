"""Operations on queues: statistics, pause, resume, events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from absurd_contimg.core.backend import Inspection
from absurd_contimg.operations.api.parameters import (
    QueueName,
    Reason,
    read_responses,
    required,
    responses,
)
from absurd_contimg.operations.api.responses import read_response
from absurd_contimg.operations.api.task_records import pause_entry, queue_entry
from absurd_contimg.operations.client import Message, Page, PauseEntry, QueueEntry
from absurd_contimg.operations.services import Actions
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.queue_pauses import QueuePause, QueuePauses


class PauseRequest(Reason):
    """Why a queue is paused; a reason is necessary."""

    reason: str = Field(min_length=1, max_length=1000, pattern=r"^[^\x00]*[^\x00\s][^\x00]*$")


class EventRequest(Reason):
    """An event."""

    event_name: str = Field(min_length=1, max_length=500)
    payload: Any = Field(None, description="Any JSON.")


def queue_routes(
    inspection: Inspection, tables: Callable[[], Database | None], actions: Actions | None
) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["queues"])

    def read_pauses() -> dict[str, QueuePause]:
        database = tables()
        rows = [] if database is None else QueuePauses(database).pauses()
        return {pause.queue: pause for pause in rows}

    async def pauses() -> dict[str, QueuePause]:
        return await asyncio.to_thread(read_pauses)

    @router.get("/v1/queues", response_model=Page[QueueEntry], responses=read_responses())
    async def list_queues(request: Request) -> Response:
        """All queues; they are few, so they are one page."""
        paused = await pauses()
        names = await inspection.list_queues()
        stats = [await inspection.queue_stats(name) for name in names]
        items = tuple(queue_entry(each, paused.get(each.queue_name)) for each in stats)
        return read_response(request, Page(items, None))

    @router.get("/v1/queues/{queue}", response_model=QueueEntry, responses=read_responses(404))
    async def get_queue(request: Request, queue: QueueName) -> Response:
        """One queue."""
        stats, paused = await inspection.queue_stats(queue), await pauses()
        return read_response(request, queue_entry(stats, paused.get(queue)))

    @router.post(
        "/v1/queues/{queue}/pause", response_model=PauseEntry, responses=responses(404, 409)
    )
    async def pause_queue(queue: QueueName, body: PauseRequest) -> PauseEntry:
        """Let workers claim nothing more from a queue; what is running goes on."""
        return pause_entry(await required(actions).pause_queue(queue, body.reason))

    @router.post(
        "/v1/queues/{queue}/resume", response_model=PauseEntry, responses=responses(404, 409)
    )
    async def resume_queue(queue: QueueName, body: Reason) -> PauseEntry:
        """Let workers claim from a queue again; the pause that has ended."""
        return pause_entry(await required(actions).resume_queue(queue, body.reason))

    @router.post("/v1/queues/{queue}/events", response_model=Message, responses=responses(404))
    async def emit_event(queue: QueueName, body: EventRequest) -> Message:
        """Emit an event; the first payload of a name stays."""
        await required(actions).emit_event(queue, body.event_name, body.payload, body.reason)
        return Message(f"Event {body.event_name} is emitted.")

    return router
