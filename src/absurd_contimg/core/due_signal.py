"""What ends the pause of a worker between two polls: word that a run of its queue may be due."""

from __future__ import annotations

import asyncio
import random

_FIRST_SECONDS = 0.0025
_LONGEST_SECONDS = 0.16
"""The spread of many idle workers after a signal: doubled by each claim in vain, up to this."""


class DueSignal:
    """Belongs to one worker, and to the event loop that it runs in.

    All idle workers of a queue hear of a run, and one gets it. So a worker whose claims were in
    vain waits a while by chance, longer each time: then those who come late find nothing to ask
    for, and many workers claim at most a few times a second each.
    """

    def __init__(self) -> None:
        self._due: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._in_vain = 0

    def ring(self) -> None:
        """A run of the queue may be due."""
        if self._due is None or self._due.done() or self._timer is not None:
            return
        if not self._in_vain:
            self._due.set_result(None)
            return
        spread = min(_FIRST_SECONDS * 2**self._in_vain, _LONGEST_SECONDS)
        delay = random.uniform(0.0, spread)
        self._timer = self._due.get_loop().call_later(delay, self._due.set_result, None)

    def before_claim(self) -> None:
        """What was signalled until now, the claim that follows will find."""
        was_rung = self._due is not None and (self._due.done() or self._timer is not None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due is None or was_rung:
            self._due = asyncio.get_running_loop().create_future()
        self._in_vain = min(self._in_vain + 1, 16) if was_rung else self._in_vain

    def has_claimed(self) -> None:
        """The claim was not in vain."""
        self._in_vain = 0

    @property
    def due(self) -> asyncio.Future[None]:
        """Done when the next claim may find something."""
        assert self._due is not None, "there was no claim yet"
        return self._due
