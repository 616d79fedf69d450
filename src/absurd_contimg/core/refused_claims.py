"""What a worker does when its queue refuses claims: end the tasks that block it, or log why."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.blocking_tasks import end_blocking_tasks
from absurd_contimg.core.call_bounds import CallBounds
from absurd_contimg.core.errors import BackendError

_log = logging.getLogger(__name__)

Explain = Callable[[Backend, str], Awaitable[Sequence[object]]]
"""What is wrong with a queue, printable."""


async def unblock(backend: Backend, queue: str, bounded: CallBounds) -> bool:
    """Cancel the tasks whose stored rows make every claim fail; whether there were any."""
    try:
        ended = await bounded(lambda: end_blocking_tasks(backend, queue), calls=4)
    except BackendError as error:
        _log.error("queue %s: what blocks it could not be ended: %s", queue, error)
        return False
    for sentence in ended:
        _log.error("queue %s: %s", queue, sentence)
    return bool(ended)


async def log_refusal(
    backend: Backend, queue: str, bounded: CallBounds, error: BackendError, explain: Explain | None
) -> None:
    """Log what blocks the queue."""
    _log.error("queue %s refuses every claim: %s", queue, error)
    if explain is None:
        return
    try:
        for problem in await bounded(lambda: explain(backend, queue)):
            _log.error("queue %s: %s", queue, problem)
    except BackendError as second:
        _log.error("queue %s cannot be inspected either: %s", queue, second)
