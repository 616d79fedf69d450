"""Operations on tasks: list, show, spawn, cancel, retry, fork."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.records import History, State
from absurd_contimg.core.task_queries import TaskFilter
from absurd_contimg.errors import MissingInputError
from absurd_contimg.operations.api.parameters import (
    IdempotencyKey,
    QueueName,
    Reason,
    TaskId,
    Time,
    read_responses,
    required,
    responses,
)
from absurd_contimg.operations.api.responses import (
    Cursor,
    Limit,
    decode_cursor,
    encode_cursor,
    no_cursor,
    read_response,
)
from absurd_contimg.operations.api.shared_read import SharedRead
from absurd_contimg.operations.api.task_records import (
    history_entry,
    spawned_entry,
    task_detail,
    task_entry,
    wait_entry,
)
from absurd_contimg.operations.client import (
    HistoryEntry,
    Message,
    Page,
    SpawnedEntry,
    TaskDetail,
    TaskEntry,
    WaitEntry,
)
from absurd_contimg.operations.overview import Site, read_context
from absurd_contimg.operations.services import Actions

_CONTEXT_SECONDS = 5.0
"""How old what is known of workers and pauses may be in the answer why a task waits."""

_TASK = "/v1/queues/{queue}/tasks/{task_id}"


class SpawnRequest(Reason):
    """A task to be spawned."""

    task_name: str = Field(min_length=1, max_length=200)
    params: dict[str, Any] = Field(default_factory=dict, description="As the workflow reads them.")


class ForkRequest(Reason):
    """Where the new task begins."""

    step: str = Field(min_length=1, max_length=500, description="One of `fork_points`.")


def task_routes(site: Site, actions: Actions | None) -> APIRouter:
    """The routes."""
    inspection = site.inspection
    context = SharedRead(partial(read_context, site), _CONTEXT_SECONDS)
    router = APIRouter(tags=["tasks"])

    @router.get(
        "/v1/queues/{queue}/tasks", response_model=Page[TaskEntry], responses=read_responses(404)
    )
    async def list_tasks(
        request: Request,
        queue: QueueName,
        state: Annotated[list[State] | None, Query(max_length=6)] = None,
        task_name: Annotated[str | None, Query(max_length=200)] = None,
        group: Annotated[str | None, Query(max_length=200)] = None,
        id_suffix: Annotated[
            str | None, Query(max_length=36, description="The end of the id.")
        ] = None,
        failure: Annotated[
            str | None, Query(max_length=200, description="Kind or rule of a failed run.")
        ] = None,
        enqueued_from: Time = None,
        enqueued_before: Time = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Response:
        """The tasks of a queue for which everything holds that is given, the newest first."""
        wanted = TaskFilter(
            states=state,
            task_name=task_name,
            id_suffix=id_suffix,
            params=None if group is None else {"group_id": group},
            failure=failure,
            enqueued_from=enqueued_from,
            enqueued_before=enqueued_before,
        )
        of_list = f"tasks of {queue}"
        before = _task_id(decode_cursor(of_list, cursor))
        tasks = await inspection.find_tasks(queue, wanted, before=before, limit=limit + 1)
        more = len(tasks) > limit
        items = tuple(task_entry(queue, task) for task in tasks[:limit])
        next_cursor = encode_cursor(of_list, str(items[-1].task_id)) if more else None
        return read_response(request, Page(items, next_cursor))

    @router.get(_TASK, response_model=TaskDetail, responses=read_responses(404))
    async def get_task(request: Request, queue: QueueName, task_id: TaskId) -> Response:
        """A task with what it has done."""
        return read_response(request, task_detail(await _history(inspection, queue, task_id)))

    @router.get(f"{_TASK}/history", response_model=HistoryEntry, responses=read_responses(404))
    async def get_history(request: Request, queue: QueueName, task_id: TaskId) -> Response:
        """Everything that the database knows of a task: runs and checkpoints."""
        return read_response(request, history_entry(await _history(inspection, queue, task_id)))

    @router.get(f"{_TASK}/wait", response_model=WaitEntry, responses=read_responses(404))
    async def get_wait(request: Request, queue: QueueName, task_id: TaskId) -> Response:
        """Why a task does nothing now, until when, and what to do."""
        history = await _history(inspection, queue, task_id)
        return read_response(request, wait_entry(history, await context()))

    @router.post(
        "/v1/queues/{queue}/tasks", response_model=SpawnedEntry, responses=responses(404, 409)
    )
    async def spawn_task(
        queue: QueueName, body: SpawnRequest, idempotency_key: IdempotencyKey = None
    ) -> SpawnedEntry:
        """Spawn a task, or find the one that the same request with the same key has spawned."""
        task = await required(actions).spawn(
            queue,
            body.task_name,
            body.params,
            idempotency_key=idempotency_key,
            reason=body.reason,
        )
        return spawned_entry(queue, task)

    @router.post(f"{_TASK}/cancel", response_model=Message, responses=responses(404, 409))
    async def cancel_task(queue: QueueName, task_id: TaskId, body: Reason) -> Message:
        """Cancel a task, with its stage tasks; committed products stay."""
        return Message(await required(actions).cancel(queue, task_id, body.reason))

    @router.post(f"{_TASK}/retry", response_model=SpawnedEntry, responses=responses(404, 409))
    async def retry_task(queue: QueueName, task_id: TaskId, body: Reason) -> SpawnedEntry:
        """Run a failed task again, from its last checkpoint."""
        return spawned_entry(queue, await required(actions).retry(queue, task_id, body.reason))

    @router.post(f"{_TASK}/fork", response_model=SpawnedEntry, responses=responses(404, 409))
    async def fork_task(
        queue: QueueName,
        task_id: TaskId,
        body: ForkRequest,
        idempotency_key: IdempotencyKey = None,
    ) -> SpawnedEntry:
        """A new task that begins at a step of one that has ended."""
        task = await required(actions).fork(queue, task_id, body.step, body.reason, idempotency_key)
        return spawned_entry(queue, task)

    return router


async def _history(inspection: Inspection, queue: str, task_id: UUID) -> History:
    history = await inspection.history(queue, task_id)
    if history is None:
        raise MissingInputError(f"There is no task {task_id} on queue {queue}.")
    return history


def _task_id(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        raise no_cursor() from None
