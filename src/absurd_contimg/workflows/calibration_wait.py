"""The wait of a group for the calibration of another one, and who wakes it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Protocol

from absurd_sdk import TimeoutError as EventTimeout

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.errors import NoCalibrationError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.fallback import DISTANT_CALIBRATION, fallbacks_of, with_fallbacks
from absurd_contimg.history.wait_reason import CALIBRATION_EVENT
from absurd_contimg.products.outputs import CalibrateSolveOutputs, SolvedCaltables
from absurd_contimg.registry import Group, GroupStatus


class GroupRegistry(Protocol):
    """The part of the registry that the workflow uses; called in a thread."""

    def set_group_status(
        self, group_id: str, status: GroupStatus, reason: str | None = None
    ) -> None:
        """Set the status of a group, with the reason if it did not end well."""

    def groups(self, status: GroupStatus | None = None) -> Sequence[Group]:
        """All groups, or those of one status."""

    def calibration_exists(self, group_id: str) -> bool:
        """Whether a set of caltables may serve the group."""


async def wait_for_calibration(
    registry: GroupRegistry, context: PipelineContext, ctx: TaskContext
) -> PipelineContext:
    """Suspend until a calibration may serve this group; the context for its selection.

    After the deadline of the settings it raises `NoCalibrationError`, or returns a context in
    which a set from any distance in time is taken, as the settings say. No wake-up is missed: the
    group gets its waiting status before the second query, and a group that solves registers its
    tables before it reads which groups wait.
    """
    group_id = context.group_id
    if await asyncio.to_thread(registry.calibration_exists, group_id):
        return context
    waiting = GroupStatus.WAITING_FOR_CALIBRATION
    await asyncio.to_thread(registry.set_group_status, group_id, waiting)
    if await asyncio.to_thread(registry.calibration_exists, group_id):
        return context
    settings = context.config.execution
    try:
        await ctx.await_event(
            calibration_event(group_id), timeout=settings.calibration_wait_seconds
        )
    except EventTimeout:
        return await _after_deadline(registry, context)
    return context


async def _after_deadline(registry: GroupRegistry, context: PipelineContext) -> PipelineContext:
    """What the settings say; a calibration that has come since goes before."""
    settings = context.config.execution
    if await asyncio.to_thread(registry.calibration_exists, context.group_id):
        return context
    if settings.calibration_wait_policy == "degraded":
        return with_fallbacks(context, (*fallbacks_of(context), DISTANT_CALIBRATION))
    raise NoCalibrationError(
        f"No calibration for group {context.group_id} came within "
        f"{settings.calibration_wait_seconds} s (execution.calibration_wait_seconds).",
        "Process a group of its strip in which a calibrator transits, then: contimg retry GROUP.",
    )


async def announce_calibration(
    registry: GroupRegistry, context: PipelineContext, ctx: TaskContext
) -> None:
    """Wake the groups that wait for the solutions of this one, if it has any.

    This is no step, because a repeated emit is harmless.
    """
    caltables = context.outputs_of(CalibrateSolveOutputs).caltables
    if not isinstance(caltables, SolvedCaltables):
        return
    for group_id in await asyncio.to_thread(served_groups, registry):
        await ctx.emit_event(calibration_event(group_id), {"set_name": caltables.set_name})


async def wake_served_groups(
    registry: GroupRegistry, backend: Backend, queue_names: Collection[str]
) -> None:
    """Wake the groups that wait on any of these queues although there is a calibration.

    A task that solves wakes those on its own queue only: Absurd keeps events by queue.
    """
    for group_id in await asyncio.to_thread(served_groups, registry):
        for queue_name in queue_names:
            await backend.emit_event(queue_name, calibration_event(group_id), {})


def served_groups(registry: GroupRegistry) -> list[str]:
    """The groups that wait for a calibration although there is one."""
    waiting = registry.groups(GroupStatus.WAITING_FOR_CALIBRATION)
    return [group.group_id for group in waiting if registry.calibration_exists(group.group_id)]


def calibration_event(group_id: str) -> str:
    """The event that a group waits for."""
    return f"{CALIBRATION_EVENT}:{group_id}"
