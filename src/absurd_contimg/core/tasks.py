"""Handlers by task name, and the call of a handler."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import absurd_sdk

from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import ControlFlow, RunReleased
from absurd_contimg.core.foreign_objects import ask, require_awaitable
from absurd_contimg.core.records import ClaimedTask, Json
from absurd_contimg.core.row_values import UnreadableValueError, require_readable

Handler = Callable[[Any, TaskContext], Awaitable[Any]]
"""``async def handler(params, ctx)``, as in absurd-sdk; returns the task's result as JSON."""


class TaskRegistry:
    """Handlers by task name."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def register_task(self, name: str) -> Callable[[Handler], Handler]:
        """Decorator: the handler for tasks of this name. A name can be taken once."""

        def decorate(handler: Handler) -> Handler:
            self.add(name, handler)
            return handler

        return decorate

    def add(self, name: str, handler: Callable[[Any, Any], Awaitable[Any]]) -> None:
        """Register a handler, ours or one written for absurd-sdk's asynchronous context."""
        if name in self._handlers:
            raise ValueError(f"task {name!r} already has a handler")
        self._handlers[name] = handler

    def find(self, name: str) -> Handler | None:
        """The handler for tasks of this name, None if there is none."""
        return self._handlers.get(name)


class HandlerEndedProcess(RuntimeError):
    """A handler raised what would end the process, such as the SystemExit of a script it called."""

    @classmethod
    def by(cls, error: BaseException) -> HandlerEndedProcess:
        """Of the exception that was raised, which says what it is if it can."""
        return cls(f"the handler raised {ask(lambda: repr(error), lambda _: type(error).__name__)}")


def require_task(claimed: ClaimedTask) -> None:
    """Raise `UnreadableValueError` for what another client stored and no handler can be given."""
    for name in ("params", "retry_strategy", "headers"):
        require_readable(getattr(claimed, name), f"{name} of task {claimed.task_id}")
    if not isinstance(claimed.headers, Mapping | None):
        kind = type(claimed.headers).__name__
        raise UnreadableValueError(
            f"headers of task {claimed.task_id} are of type {kind}: spawn it with an object."
        )


async def call(handler: Handler, claimed: ClaimedTask, ctx: TaskContext) -> Json:
    """Call the handler, with the context where absurd-sdk's `get_current_context` finds it.

    Raises control flow (also out of the group in which a `TaskGroup` raises it) or an `Exception`
    and nothing else, so that no handler ends its worker. A KeyboardInterrupt is the handler's own
    too: Ctrl-C reaches a worker through its signal handlers.
    """
    absurd_sdk._current_task_context.set(cast(Any, ctx))
    try:
        work = handler(claimed.params, ctx)
        require_awaitable(work, f"the handler of task {claimed.task_name!r}")
        return cast(Json, await work)
    except (Exception, ControlFlow, RunReleased, asyncio.CancelledError):
        raise
    except BaseExceptionGroup as group:
        first: BaseException | None = group.subgroup((ControlFlow, RunReleased))
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        # Control flow counts more than the failures beside it.
        raise first or HandlerEndedProcess.by(group) from group
    except BaseException as error:
        raise HandlerEndedProcess.by(error) from error
