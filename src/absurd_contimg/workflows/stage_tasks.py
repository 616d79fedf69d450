"""Each stage of a group as a task of its own, on a queue for the resource that it needs.

A coordinator on the main queue spawns the stage tasks one after another and waits for the event at
the end of each without holding a slot. A stage has its own retries and checkpoints, and its
products are those of the pipeline task. The event says how the stage task ended; a stage task that
can emit none, because it was removed or cancelled, is found by looks at it between waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast
from uuid import UUID

from absurd_sdk import TimeoutError as EventTimeout
from pydantic import BaseModel, ConfigDict, Field

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import TaskCancelled
from absurd_contimg.core.failure_handling import RetryDecision
from absurd_contimg.core.failures import ChildTaskFailed
from absurd_contimg.core.records import ClaimedTask, Json, SpawnOptions, Task, TaskResult
from absurd_contimg.errors import SettingError, StageTaskCancelledError, StageTaskLostError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.runner import StageRunner
from absurd_contimg.execution.stage import PipelineStage, stage_queues
from absurd_contimg.history.stage_tasks import COORDINATOR, STAGE_PREFIX
from absurd_contimg.products.outputs import from_json
from absurd_contimg.workflows.calibration_wait import GroupRegistry
from absurd_contimg.workflows.group import (
    end_group,
    group_context,
    group_task_options,
    note_group_failure,
    parse_params,
    run_stages,
    tracked_stage,
)
from absurd_contimg.workflows.versions import version_headers

VERSION = 1
"""Of coordinator and stage tasks; raise it when steps, events or parameters change."""

_FIRST_LOOK_SECONDS, _LOOKS_SECONDS_MAX = 120, 3600
"""How long the coordinator waits for the event before it looks at the stage task, doubled at each
look: a lost stage task is found within an hour, and a long queue makes few checkpoints."""
_LOST_MAX = 3
"""How many tasks of one stage may vanish before the group fails."""


def spawn_options(group_id: str) -> SpawnOptions:
    """One task for each group, of whatever strategy."""
    return group_task_options(group_id, VERSION)


class Coordinator(BaseModel):
    """Who waits for a stage task, and for which event."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue: str
    task_id: UUID
    event: str


class StageParams(BaseModel):
    """The parameters of a stage task: the context before the stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group_id: str = Field(min_length=1)
    inputs: dict[str, object]
    outputs: dict[str, object]
    metadata: dict[str, object]
    coordinator: Coordinator


def parse_stage_params(params: object, task_name: str) -> StageParams:
    """The parameters of a stage task; raises `SettingError` that names the problems."""
    try:
        return from_json(StageParams, cast(Mapping[str, Json], params))
    except ValueError as error:
        raise SettingError(
            f"The parameters of this {task_name} task are not valid: {error}.",
            f"Spawn a {COORDINATOR} task, which spawns it: contimg spawn --strategy stages",
        ) from error


@dataclass(frozen=True, slots=True)
class StageTask:
    """The handler of the tasks of one stage."""

    stage: PipelineStage
    runner: StageRunner
    backend: Backend

    async def __call__(self, params: Json, ctx: TaskContext) -> Mapping[str, Json]:
        """Run the stage and tell the coordinator; the result is the stage's saved result."""
        parsed = parse_stage_params(params, f"{STAGE_PREFIX}{self.stage.name}")
        coordinator = parsed.coordinator
        parse_params(parsed.inputs, self.runner.config.paths)
        await self._require_coordinator(coordinator, ctx)
        context = PipelineContext(
            self.runner.config,
            cast(Mapping[str, Json], parsed.inputs),
            cast(Mapping[str, Json], parsed.outputs),
            cast(Mapping[str, Json], parsed.metadata),
        )
        saved = await tracked_stage(self.runner, self.stage, context, ctx)
        completed = f"{self.stage.name}.completed:{parsed.group_id}"
        for event, payload in (
            (completed, {"outputs": saved["outputs"]}),
            (coordinator.event, {"state": "completed", "saved": dict(saved)}),
        ):
            await ctx.emit_event(event, cast(Json, payload), coordinator.queue)
        return saved

    async def _require_coordinator(self, coordinator: Coordinator, ctx: TaskContext) -> None:
        """Cancel this task if its coordinator is cancelled or gone: nobody would use its product.

        One that has failed may be retried, and then takes the product.
        """
        outcome = await ctx.task_result(str(coordinator.task_id), coordinator.queue)
        if outcome is None or outcome.state == "cancelled":
            cancel = partial(self.backend.cancel_task, ctx.queue_name, UUID(ctx.task_id))
            await ctx.fence.retry_until_deadline(cancel)
            raise TaskCancelled(f"coordinator {coordinator.task_id} is cancelled or gone")

    async def note_failure(
        self, claimed: ClaimedTask, _decision: RetryDecision, reason: Mapping[str, Json]
    ) -> None:
        """Tell the coordinator, which fails by the same rule."""
        coordinator = parse_stage_params(claimed.params, claimed.task_name).coordinator
        payload: Json = {"state": "failed", "reason": dict(reason)}
        await self.backend.emit_event(coordinator.queue, coordinator.event, payload)


@dataclass(frozen=True, slots=True)
class StageCoordinator:
    """The handler of coordinators."""

    stages: Sequence[PipelineStage]
    """In order of their dependencies."""
    runner: StageRunner
    registry: GroupRegistry

    async def __call__(self, params: Json, ctx: TaskContext) -> dict[str, Json]:
        """Have the group's stages run; the result is that of a pipeline task."""
        context = group_context(params, self.runner, ctx, COORDINATOR)
        queues = stage_queues(ctx.queue_name)

        async def run_stage(stage: PipelineStage, context: PipelineContext) -> Mapping[str, Json]:
            return await _run_as_task(stage, context, queues[stage.resource], ctx)

        context = await run_stages(self.stages, self.runner, self.registry, context, ctx, run_stage)
        return await end_group(self.registry, context)

    async def note_failure(
        self, claimed: ClaimedTask, decision: RetryDecision, reason: Mapping[str, Json]
    ) -> None:
        """Quarantine a group with poor data, else note its failure."""
        await note_group_failure(self.registry, claimed, decision, reason)


async def _run_as_task(
    stage: PipelineStage, context: PipelineContext, queue: str, ctx: TaskContext
) -> Mapping[str, Json]:
    """Spawn the stage's task and wait for its end; again if it vanished or the group is retried.

    Raises `ChildTaskFailed` with the verdict on the stage, `StageTaskCancelledError`, or
    `StageTaskLostError`.
    """
    number = lost = 0
    while lost < _LOST_MAX:
        number += 1
        event = f"{stage.name}.ended:{context.group_id}:{ctx.task_id[-12:]}:{number}"
        coordinator = {"queue": ctx.queue_name, "task_id": ctx.task_id, "event": event}
        params: dict[str, Json] = {
            "group_id": context.group_id,
            "inputs": dict(context.inputs),
            "outputs": dict(context.outputs),
            "metadata": dict(context.metadata),
            "coordinator": coordinator,
        }
        options = SpawnOptions(headers=version_headers(VERSION))
        task_name = f"{STAGE_PREFIX}{stage.name}"
        child = await ctx.spawn(task_name, params, queue=queue, options=options)
        ending = await _ending(child, queue, event, ctx)
        if ending is None:
            lost += 1
            continue
        if ending["state"] == "completed":
            return cast(Mapping[str, Json], ending["saved"])
        # Only an operator's retry makes a later attempt: then the stage gets a new task.
        failed_in = await ctx.step(f"{task_name} {ending['state']}", partial(_return, ctx.attempt))
        if failed_in == ctx.attempt:
            raise _failure(stage, context, child, queue, ending)
    raise StageTaskLostError(
        f"{lost} tasks of stage {stage.name!r} of group {context.group_id} have vanished from "
        f"queue {queue} before they could say how they ended.",
        "Look for what removes tasks (a retention that is too short, another database), then: "
        "contimg retry GROUP",
    )


async def _return(value: int) -> int:
    return value


def _failure(
    stage: PipelineStage,
    context: PipelineContext,
    child: str,
    queue: str,
    ending: Mapping[str, Json],
) -> Exception:
    place = f"task {child} on queue {queue}"
    if ending["state"] == "cancelled":
        return StageTaskCancelledError(
            f"Stage {stage.name!r} of group {context.group_id} was cancelled: {place}.",
            "To go on with the group: contimg retry GROUP",
        )
    reason = {**cast(Mapping[str, Json], ending["reason"] or {}), "child": place}
    text = f"Stage {stage.name!r} of group {context.group_id} has failed in {place}"
    return ChildTaskFailed.of_reason(text, reason)


async def _ending(
    child: str, queue: str, event: str, ctx: TaskContext
) -> Mapping[str, Json] | None:
    """How the stage task ended: by its event, or by looks at it; None if there is no such task."""
    seconds = _FIRST_LOOK_SECONDS
    while True:
        try:
            return cast(Mapping[str, Json], await ctx.await_event(event, timeout=seconds))
        except EventTimeout:
            outcome = await ctx.task_result(child, queue)
            if outcome is None:
                return None
            if (ending := ending_of(outcome)) is not None:
                return ending
        seconds = min(seconds * 2, _LOOKS_SECONDS_MAX)


def ending_of(outcome: TaskResult) -> dict[str, Json] | None:
    """The payload of the event of a stage task that has ended so; None while it goes on."""
    match outcome.state:
        case "completed":
            return {"state": "completed", "saved": outcome.result}
        case "failed":
            return {"state": "failed", "reason": outcome.failure_reason}
        case "cancelled":
            return {"state": "cancelled"}
        case _:
            return None


async def announce_cancelled(backend: Backend, task: Task) -> None:
    """Tell the coordinator of a stage task that was cancelled by itself."""
    coordinator = parse_stage_params(task.params, task.task_name).coordinator
    await backend.emit_event(coordinator.queue, coordinator.event, {"state": "cancelled"})


async def cancel_stage_tasks(backend: Backend, queue_name: str, spawned: Sequence[UUID]) -> int:
    """Cancel the stage tasks of a cancelled coordinator that have not ended; how many."""
    count = 0
    queues = set(stage_queues(queue_name).values()) & set(await backend.list_queues())
    for queue in sorted(queues):
        for history in await backend.histories(queue, spawned):
            if history.task.state in ("pending", "running", "sleeping"):
                await backend.cancel_task(queue, history.task.task_id)
                count += 1
    return count
