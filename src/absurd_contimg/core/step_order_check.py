"""Notices that a task's steps are no longer those of its earlier attempts.

Checkpoints are found by name: a renamed step runs again, and repeated names (``load``,
``load#2``) in another order read each other's values, both in silence. Sequential steps must be
asked for in the order in which earlier attempts completed them; concurrent or conditional ones
may differ without harm. So a difference is reported, and is an error only with
`WorkerSettings.strict_steps`. Names that begin with ``$`` (the SDK's and ours) are not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from absurd_contimg.core.records import Checkpoint

STEPS_CHANGED = "$stepsChanged"
"""The checkpoint that says how the steps of a task differ from those of earlier attempts."""

_NAMES_SHOWN_MAX = 5


class StepOrderCheck:
    """The steps that earlier attempts have completed, and which of them were asked again."""

    def __init__(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._unread: dict[str, datetime] = {
            saved.checkpoint_name: saved.updated_at
            for saved in checkpoints
            if not saved.checkpoint_name.startswith("$")
        }
        self._reported = False

    def asked(self, name: str) -> str | None:
        """Note that a step is asked for; how this differs from earlier attempts, if it does."""
        if name.startswith("$"):
            return None
        saved_at = self._unread.pop(name, None)
        skipped = [
            other
            for other, time in self._unread.items()
            if saved_at is None or time < saved_at  # saved at one moment: no order to keep
        ]
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
