"""Which handler runs which task: the registry that a worker is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from absurd_contimg.core.context import TaskContext

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
