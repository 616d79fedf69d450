"""Notices that a task's steps are no longer those of its earlier attempts.

Checkpoints are found by name, so a renamed step runs again, and a repeated name (``load``,
``load#2``) that is asked in another order reads another step's value, both in silence. What can
be known is the order in which earlier attempts *completed* their steps. For steps one after the
other that is the order in which they must be asked again; steps that run side by side, or that
are asked only sometimes, may differ without harm. So a difference is a report, and an error only
where the user says that his steps never run side by side (`WorkerSettings.strict_steps`).

The names that the SDK and we make ourselves (they begin with ``$``) are not compared: waiting
for an event may be needed in one attempt and not in the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from absurd_contimg.core.records import Checkpoint

_NAMES_SHOWN_MAX = 5


class StepOrderCheck:
    """The steps that earlier attempts have completed, and which of them were asked again."""

    def __init__(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._unread: dict[str, datetime] = {
            one.checkpoint_name: one.updated_at
            for one in checkpoints
            if not one.checkpoint_name.startswith("$")
        }
        self._reported = False

    def asked(self, name: str) -> str | None:
        """Note that a step is asked for; what is different from before, None if nothing is."""
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
        """The handler has returned: what it no longer asked for."""
        return self._once(list(self._unread), "the handler has ended without asking for: ")

    def _once(self, names: list[str], text: str) -> str | None:
        if not names or self._reported:
            return None
        self._reported = True
        more = f" and {len(names) - _NAMES_SHOWN_MAX} more" if len(names) > _NAMES_SHOWN_MAX else ""
        return text + ", ".join(repr(one) for one in names[:_NAMES_SHOWN_MAX]) + more
