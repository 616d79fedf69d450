"""Versions of workflows: a task is finished by the version that it was spawned for.

The version of a workflow is raised by hand when its steps get other names, another order or other
results. The number is in the headers of each task. As long as tasks of an earlier version may be in
flight, `VersionedWorkflow` keeps its handler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.failure_handling import RetryDecision
from absurd_contimg.core.records import ClaimedTask, Json
from absurd_contimg.errors import NewerWorkflowError, WorkflowVersionError

VERSION_HEADER = "workflow_version"
_FIRST = 1
"""Of tasks without the header: those of releases before there were versions."""


class Workflow(Protocol):
    """The handler of the tasks of one name."""

    async def __call__(self, params: Json, ctx: TaskContext) -> Json:
        """Run the task to its result."""

    async def note_failure(
        self, claimed: ClaimedTask, decision: RetryDecision, reason: Mapping[str, Json]
    ) -> None:
        """Enter the failure elsewhere too, before a task fails for good."""


def version_headers(version: int) -> dict[str, Json]:
    """The headers of a task that is spawned for this version of its workflow."""
    return {VERSION_HEADER: version}


def version_of(headers: Json) -> int:
    """The version that a task was spawned for; `WorkflowVersionError` if it is no number."""
    version = headers.get(VERSION_HEADER, _FIRST) if isinstance(headers, Mapping) else _FIRST
    if not isinstance(version, int) or isinstance(version, bool):
        raise WorkflowVersionError(
            f"The header {VERSION_HEADER} of this task is {version!r}, which is no version.",
            "Spawn its group again: contimg spawn --group GROUP --respawn",
        )
    return version


@dataclass(frozen=True, slots=True)
class VersionedWorkflow:
    """Gives each task to the version of the workflow that it was spawned for."""

    task_name: str
    versions: Mapping[int, Workflow]

    async def __call__(self, params: Json, ctx: TaskContext) -> Json:
        """Run the task; raises `WorkflowVersionError`, or `NewerWorkflowError` to wait."""
        return await self._version(ctx.headers)(params, ctx)

    async def note_failure(
        self, claimed: ClaimedTask, decision: RetryDecision, reason: Mapping[str, Json]
    ) -> None:
        """Let the task's version note it; the newest one for a version that is not there."""
        try:
            workflow = self._version(claimed.headers)
        except WorkflowVersionError:
            workflow = self.versions[max(self.versions)]
        await workflow.note_failure(claimed, decision, reason)

    def _version(self, headers: Json) -> Workflow:
        version = version_of(headers)
        if workflow := self.versions.get(version):
            return workflow
        known = ", ".join(map(str, sorted(self.versions)))
        text = (
            f"This {self.task_name} task was spawned for version {version} of its workflow; "
            f"this worker has {known}."
        )
        if version > max(self.versions):
            raise NewerWorkflowError(text, "Update this worker, or start one of the newer release.")
        raise WorkflowVersionError(
            text,
            "Retry it with a worker of the release that spawned it, or spawn its group again, "
            "which takes the finished products as they are: contimg spawn --group GROUP --respawn",
        )
