"""The gate before claims: a worker claims nothing from a queue that an operator has paused, and
gives back what it runs when the queue is stopped.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from absurd_contimg.errors import AwayError
from absurd_contimg.registry.queue_pauses import QueuePause, QueuePauses
from absurd_contimg.registry.stop_notes import StopNotes

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class QueueGate:
    """Asks the registry whether a queue is paused; what is running goes on.

    A stop that the registry could not hold is in the output folder, and counts as well.
    """

    pauses: QueuePauses
    queue: str
    notes: StopNotes | None = None
    _noted: str = field(default="", init=False)

    def problem(self) -> str:
        """Why nothing is claimed; empty if the queue is not paused."""
        return self._noted

    async def ready_to_claim(self) -> bool:
        """For `Worker.ready_to_claim`; logs each change.

        False also while the registry is away: nothing that is claimed then could be worked on.
        """
        try:
            pause = await asyncio.to_thread(self._pause)
            reason = "" if pause is None else f"{pause}"
        except AwayError as error:
            reason = str(error)
        if reason != self._noted:
            self._noted = reason
            if reason:
                _log.warning("nothing is claimed: %s", reason)
            else:
                _log.info("queue %s is claimed from again", self.queue)
        return not reason

    async def may_run(self) -> bool:
        """For `RunControl.may_run`; a registry that is away stops nothing.

        A stop in the output folder counts at once: to enter it into a registry that does not answer
        takes longer than a stage has to end.
        """
        notes = self.notes
        stop = None if notes is None else await asyncio.to_thread(notes.of_queue, self.queue)
        if stop is not None:
            return False
        try:
            pause = await asyncio.to_thread(self.pauses.of_queue, self.queue)
        except AwayError:
            return True
        return pause is None or not pause.ends_running

    def _pause(self) -> QueuePause | None:
        """What holds the queue; a stop in the output folder is entered into the registry."""
        stop = None if self.notes is None else self.notes.of_queue(self.queue)
        if stop is None or self.notes is None:
            return self.pauses.of_queue(self.queue)
        try:
            self.notes.enter(self.pauses, stop)
        except (AwayError, OSError) as error:
            _log.debug("the registry does not hold the stop yet: %s", error)
        return stop
