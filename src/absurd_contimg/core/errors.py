"""What a backend raises, and the control flow that a handler must not swallow.

Absurd adds three SQLSTATEs to Postgres' own: AB001 cancelled, AB002 run already failed, AB003
invalid retry strategy. The first two are no failures of the handler but tell it to stop. So they
derive from `BaseException`, like `asyncio.CancelledError`: ``except Exception`` lets them pass.
"""

from __future__ import annotations

import re
import shlex

from absurd_contimg.secrets import mask

_QUEUE_TABLE = re.compile(r"absurd\.[a-z]_(.+?)(?:[\"»“”]|$)")
"""In the quotation marks of the message's language."""


class ControlFlow(BaseException):
    """Ends a handler early without a failure. Let it pass: the worker handles it."""

    meaning = "ended early"
    """What the log says of its run."""


class RunSuspended(ControlFlow):
    """The run sleeps or waits for an event; it will be claimed again when that is over."""

    meaning = "waits, and frees its worker"


class TaskCancelled(ControlFlow):
    """The task is cancelled (AB001); what the handler still does is lost."""

    meaning = "is cancelled"


class RunAlreadyFailed(ControlFlow):
    """Another worker has failed the run (AB002), usually because its lease had expired."""

    meaning = "was failed by another worker"


class LeaseLost(ControlFlow):
    """The claim on the run is lost, or can no longer be confirmed."""

    meaning = "is given up here, for its lease is lost: any worker takes it up"

    stalled = False
    """The worker stood still: its event loop was blocked, or its process stopped."""
    refusal: BackendError | None = None
    """What a database that answers has refused until the deadline, by a rule that may stay."""


class RunReleased(BaseException):
    """The worker is stopping: the run goes back to the queue, which costs no attempt."""


class BackendError(Exception):
    """The database refused a procedure.

    `sqlstate` is Postgres' five-character code, None when the database never answered.
    """

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        super().__init__(mask(message))
        self.sqlstate = sqlstate


REFUSED_VALUE_CLASSES = ("22", "54")
"""Classes of SQLSTATEs: data exceptions, and limits of the program."""


class InvalidRetryStrategy(BackendError, ValueError):
    """The retry strategy given to ``spawn_task`` is not one that Absurd accepts (AB003)."""


class ValueRefused(BackendError, ValueError):
    """A value that the database cannot hold (classes 22 and 54): NaN, NUL, too long.

    The same value is refused again, so a failure with it is permanent.
    """


class CheckpointRefused(BackendError):
    """A checkpoint was refused for as long as that is repeated, and not by Absurd's own rules."""


class QueueNotFound(BackendError, LookupError):
    """A table of the queue is missing (42P01): ``contimg db init`` or `create_queue` makes it."""


def missing_queue(message: str) -> str:
    """What to do about a table of Absurd's that is not there; the message names it."""
    name = _QUEUE_TABLE.search(message)
    option = f" --queue {shlex.quote(name[1])}" if name else ""
    return (
        f"The queue is not there, or not whole ({message}). Correct its name, put its tables back "
        f"from a backup, or make empty ones: contimg{option} db init"
    )


class TaskNotCompleted(RuntimeError):
    """The result was asked for of a task that has none: it goes on, has failed or is cancelled."""


class UnknownQueue(LookupError):
    """A handler names a queue that is not there; unlike other refusals this is never repeated."""

    def __init__(self, queue: str) -> None:
        super().__init__(
            f"there is no queue {queue!r}: create it before, by create_queue of the backend or "
            f"contimg --queue {queue} db init"
        )


class SchemaMissing(BackendError):
    """The database holds no Absurd schema, or not the version that this package uses."""


class UnsuitableDatabase(BackendError):
    """The database cannot hold what this package writes, whatever its schema."""


class BackendUnavailable(BackendError, ConnectionError):
    """The database cannot be reached, or went away before it answered.

    Whether the last procedure took effect is then unknown.
    """
