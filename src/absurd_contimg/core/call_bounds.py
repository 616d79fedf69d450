"""How long a worker waits for the database outside of its runs, whose calls their leases bound."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from absurd_contimg.core.errors import BackendError, BackendUnavailable

_CALL_SECONDS = 20.0
"""Of one call, at most a third of the lease; doubled while none is answered, up to half of the
lease: with a deep backlog, Absurd needs seconds for a claim."""
_STOP_SECONDS = 2.0
"""How long a stopping worker still waits."""


class CallBounds:
    """Bounds the calls of one worker, one wait at a time."""

    def __init__(self, lease_seconds: int) -> None:
        self._lease_seconds = lease_seconds
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timeout: asyncio.Timeout | None = None
        self._unheard_until = -math.inf
        self.unanswered = 0
        """How many waits in a row had no answer."""

    @asynccontextmanager
    async def __call__(self, calls: int = 1) -> AsyncIterator[None]:
        """Raise `BackendUnavailable` if so many calls take too long, or soon after `stop`."""
        self._loop = asyncio.get_running_loop()
        patience = min(_CALL_SECONDS, self._lease_seconds / 3) * 2 ** min(self.unanswered, 16)
        seconds = calls * min(patience, self._lease_seconds / 2)
        try:
            seconds = min(seconds, _STOP_SECONDS) if self._stopping else seconds
            async with asyncio.timeout(seconds) as self._timeout:
                yield
        except TimeoutError as error:
            raise BackendUnavailable("The database did not answer in time.") from error
        finally:
            self._timeout = None

    def stop(self) -> None:
        """Shorten the wait that goes on, and later ones."""
        self._stopping = True
        if self._loop is not None:
            self._loop.call_soon(self._shorten)

    def _shorten(self) -> None:
        if self._timeout is not None:
            soon = asyncio.get_running_loop().time() + _STOP_SECONDS
            self._timeout.reschedule(min(self._timeout.when() or soon, soon))

    def note(self, error: BackendError) -> None:
        """A wait has ended with this error, which may pass."""
        self.unanswered += 1
        if isinstance(error, BackendUnavailable):
            self._unheard_until = asyncio.get_running_loop().time() + self._lease_seconds

    def may_have_claimed(self) -> bool:
        """Whether a claim may still be carried out, for nobody, that was not answered."""
        return self._unheard_until > asyncio.get_running_loop().time()
