"""The mosaic task of each window: spawned when it is closed, cancelled when it is superseded.

A window may be formed again after another one had taken its place, and is processed then.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from absurd_contimg.core.backend import Backend
from absurd_contimg.execution.context import MosaicInputs
from absurd_contimg.ingest.windows import used_members
from absurd_contimg.registry.window_members import NOT_USED
from absurd_contimg.registry.windows import Window, WindowState
from absurd_contimg.workflows import mosaic

_log = logging.getLogger(__name__)


def mosaic_inputs(window: Window, catalog_path: Path) -> MosaicInputs:
    """The parameters of a mosaic task: the groups of the window, and those it leaves out."""
    return MosaicInputs(
        window_id=window.window_id,
        members=tuple(used_members(window)),
        left_out={m.group_id: m.reason or NOT_USED for m in window.members if not m.used},
        catalog_path=catalog_path,
    )


@dataclass(frozen=True, slots=True)
class WindowMosaics:
    """The mosaic tasks of a queue."""

    backend: Backend
    queue_name: str

    async def spawn(self, window: Window, catalog_path: Path) -> str:
        """Spawn the mosaic task of a window, or find it; one that is cancelled counts for none."""
        inputs = mosaic_inputs(window, catalog_path)
        options, number = mosaic.spawn_options(inputs), 1
        first_key = options.idempotency_key
        params = inputs.model_dump(mode="json")
        while True:
            task = await self.backend.spawn_task(self.queue_name, mosaic.TASK_NAME, params, options)
            if task.created or not await self._is_cancelled(task.task_id):
                return str(task.task_id)
            number += 1
            options = replace(options, idempotency_key=f"{first_key}#{number}")

    async def update_task(self, change: Window) -> Window:
        """Cancel or renew the task of a window that changes, before the change is stored.

        A superseded window's mosaic that no worker has begun is cancelled: nobody wants it, and
        it would take an hour from those that count. One that runs ends as it would: its product
        says what it is made of. The cancelled task of a window that is formed again is forgotten,
        so that it gets another one.
        """
        if change.state is WindowState.SUPERSEDED:
            await self._cancel_waiting(change)
            return change
        if change.task_id is None or not await self._is_cancelled(UUID(change.task_id)):
            return change
        return replace(change, task_id=None)

    async def _cancel_waiting(self, window: Window) -> None:
        """By its parameters: a daemon that died may not have noted the task."""
        names = {"window_id": window.window_id, "tier": MosaicInputs.model_fields["tier"].default}
        waiting = await self.backend.list_tasks(
            self.queue_name, states=["pending"], task_name=mosaic.TASK_NAME, params=names
        )
        for task in waiting:
            await self.backend.cancel_task(self.queue_name, task.task_id)
            _log.info(
                "window %s: task %s is cancelled: %s has taken its place",
                window.window_id, task.task_id, window.superseded_by or "another window",
            )  # fmt: skip

    async def _is_cancelled(self, task_id: UUID) -> bool:
        result = await self.backend.get_task_result(self.queue_name, task_id)
        return result is not None and result.state == "cancelled"
