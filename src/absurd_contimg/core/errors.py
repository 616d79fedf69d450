"""What a backend raises, and the control flow that a handler must not swallow.

Absurd's error contract is three SQLSTATEs (AB001 cancelled, AB002 run already failed, AB003
invalid retry strategy) beside Postgres' own. The first two are not errors of the handler: they
tell it to stop. So they derive from `BaseException`, like `asyncio.CancelledError`, and a
handler's ``except Exception`` lets them pass.
"""

from __future__ import annotations

from typing import ClassVar


class ControlFlow(BaseException):
    """Ends a handler early without a failure. Let it pass: the worker knows what to do."""


class RunSuspended(ControlFlow):
    """The run sleeps or waits for an event; it will be claimed again when that is over."""


class TaskCancelled(ControlFlow):
    """The task has been cancelled (AB001); nothing that the handler still does can be kept."""


class RunAlreadyFailed(ControlFlow):
    """The run was failed by somebody else (AB002), usually because its lease had expired."""


class LeaseLost(ControlFlow):
    """The claim on the run is no longer ours, or can no longer be shown to be."""


class RunReleased(BaseException):
    """The worker is stopping: the run goes back to the queue without costing an attempt."""


class BackendError(Exception):
    """A procedure was refused by the database.

    `sqlstate` is Postgres' five-character code, None when the database never answered.
    """

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class InvalidRetryStrategy(BackendError, ValueError):
    """The retry strategy given to ``spawn_task`` is not one that Absurd accepts (AB003)."""

    SQLSTATE: ClassVar[str] = "AB003"


class QueueNotFound(BackendError, LookupError):
    """The queue has no tables (42P01): create it with ``contimg db init`` or `create_queue`."""


class SchemaMissing(BackendError):
    """The database holds no Absurd schema, or another version than this package speaks."""


class BackendUnavailable(BackendError, ConnectionError):
    """The database cannot be reached, or went away before it answered.

    Whether the last procedure took effect is then unknown.
    """
