"""Notices that a task's steps are no longer those of its earlier attempts.

Checkpoints are found by name: a renamed step runs again, and repeated names (``load``,
``load#2``) in another order read each other's values, both in silence. Sequential steps must be
asked for in the order in which earlier attempts completed them; conditional ones may differ
without harm. So a difference is reported, and is an error only with `WorkerSettings.strict_steps`.
Of concurrent steps (``asyncio.gather``) all that are asked for at the same moment count as asked
in any order. Names that begin with ``$`` (the SDK's and ours) are not compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

from absurd_contimg.core.records import Checkpoint

STEPS_CHANGED = "$stepsChanged"
"""The checkpoint that says how the steps of a task differ from those of earlier attempts."""

_NAMES_SHOWN_MAX = 5
_IDLE_TURNS = 5
"""Of the event loop, in which no other step is asked for: then none is asked at this moment."""


class StepOrderCheck:
    """The steps that earlier attempts have completed, and which of them were asked again."""

    def __init__(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._unread: dict[str, datetime] = {
            saved.checkpoint_name: saved.updated_at
            for saved in checkpoints
            if not saved.checkpoint_name.startswith("$")
        }
        self._reported = False

    async def asked(self, name: str) -> str | None:
        """Note that a step is asked for; how this differs from earlier attempts, if it does."""
        if name.startswith("$"):
            return None
        saved_at = self._unread.pop(name, None)
        skipped = [
            other
            for other, time in self._unread.items()
            if saved_at is None or time < saved_at  # saved at one moment: no order to keep
        ]
        turns = 0
        while skipped and turns < _IDLE_TURNS and not self._reported:
            unread = len(self._unread)
            await asyncio.sleep(0)  # what runs beside this step asks for its own
            turns = turns + 1 if len(self._unread) == unread else 0
            skipped = [other for other in skipped if other in self._unread]
        if saved_at is None:
            return self._once(skipped, f"step {name!r} has no checkpoint, but was not asked for: ")
        return self._once(skipped, f"step {name!r} was completed later, but is asked before: ")

    def ended(self) -> str | None:
        """Note that the handler has returned; how this differs, if it does."""
        return self._once(list(self._unread), "the handler has ended without asking for: ")

    def _once(self, names: list[str], text: str) -> str | None:
        if not names or self._reported:
            return None
        self._reported = True
        more = f" and {len(names) - _NAMES_SHOWN_MAX} more" if len(names) > _NAMES_SHOWN_MAX else ""
        return text + ", ".join(map(repr, names[:_NAMES_SHOWN_MAX])) + more
