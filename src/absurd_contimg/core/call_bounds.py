"""How long a worker waits for the database: bounds of calls."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Generator
from types import coroutine
from typing import Any, TypeVar

from absurd_contimg.core.errors import BackendError, BackendUnavailable

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

_CALL_SECONDS = 20.0
"""Of one call, at most a third of the lease; doubled while none is answered, up to half of the
lease: with a deep backlog, Absurd needs seconds for a claim."""
_LACKS_RIGHT = "42501"
_STOP_SECONDS = 2.0
"""How long a stopping worker still waits."""


class CallBounds:
    """Bounds the calls of one worker, one wait at a time; those of its runs, their leases bound."""

    def __init__(self, lease_seconds: int) -> None:
        self._lease_seconds = lease_seconds
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timeout: asyncio.Timeout | None = None
        self._unheard_until = -math.inf
        self.unanswered = 0
        """How many waits in a row had no answer."""
        self._unanswered_since = 0.0
        self._lacks_right_since: float | None = None

    async def __call__(self, call: Callable[[], Awaitable[_T]], calls: int = 1) -> _T:
        """Raise `BackendUnavailable` if so many calls take too long, or soon after `stop`."""
        loop = self._loop = asyncio.get_running_loop()
        patience = min(_CALL_SECONDS, self._lease_seconds / 3) * 2 ** min(self.unanswered, 16)
        seconds = calls * min(patience, self._lease_seconds / 2)
        try:
            seconds = min(seconds, _STOP_SECONDS) if self._stopping else seconds
            self._timeout = asyncio.timeout_at(loop.time() + seconds)
            return await wait_under(self._timeout, call)
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
        now = asyncio.get_running_loop().time()
        if not self.unanswered:
            self._unanswered_since = now
        self.unanswered += 1
        if error.sqlstate != _LACKS_RIGHT:
            self._lacks_right_since = None
        elif self._lacks_right_since is None:
            self._lacks_right_since = now
        if isinstance(error, BackendUnavailable):
            self._unheard_until = now + self._lease_seconds

    def seconds_without_right(self) -> float:
        """How long every wait has ended because the database's user lacks a right."""
        since = self._lacks_right_since
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    def note_answer(self) -> None:
        """The database answers; logs the end of an outage."""
        if self.unanswered:
            seconds = asyncio.get_running_loop().time() - self._unanswered_since
            _log.info("the database answers again, after %.0f s", seconds)
        self.unanswered = 0
        self._lacks_right_since = None

    def may_have_claimed(self) -> bool:
        """Whether a claim may still be carried out, for nobody, that was not answered."""
        return self._unheard_until > asyncio.get_running_loop().time()


async def wait_under(timeout: asyncio.Timeout, call: Callable[[], Awaitable[_T]]) -> _T:
    """The result of a call, or `TimeoutError`, as by `async with timeout`.

    The timer is made when the call begins to wait: many are answered at once.
    """
    work = call().__await__()
    try:
        waits_for = next(work)
    except StopIteration as end:
        result: _T = end.value
        return result
    async with timeout:
        return await _continue(work, waits_for)


@coroutine
def _continue(work: Generator[Any, Any, _T], waits_for: Any) -> Generator[Any, Any, _T]:
    """Hand on what the work waits for, and what it is sent or thrown, until it has ended."""
    while True:
        try:
            try:
                answer = yield waits_for
            except BaseException as error:  # noqa: BLE001 - the work's own, cancellation included
                waits_for = work.throw(error)
            else:
                waits_for = work.send(answer)
        except StopIteration as end:
            result: _T = end.value
            return result
