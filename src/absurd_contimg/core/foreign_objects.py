"""Asking objects that users brought (errors, their details, results) for texts and attributes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import isawaitable
from typing import TypeVar

_T = TypeVar("_T")


def ask(call: Callable[[], _T], otherwise: Callable[[BaseException], _T]) -> _T:
    """The answer of a call that runs a foreign object's methods, or `otherwise` of what it raised.

    Every exception counts, because such methods raise whatever they like, and one that got through
    would end the worker or leave a failure without record. No cancellation is lost: the event loop
    throws it into a coroutine that waits, and `call` waits for nothing.
    """
    try:
        return call()
    except BaseException as error:  # noqa: BLE001 - as the docstring explains
        return otherwise(error)


def attribute(owner: object, name: str, kind: type[_T]) -> _T | None:
    """What an object has of this kind under this name; None if it has or gives nothing such."""

    def read() -> _T | None:
        value = getattr(owner, name, None)
        return value if isinstance(value, kind) else None

    return ask(read, lambda _: None)


def class_names(owner: object) -> tuple[str, ...]:
    """The qualified names of its classes, subclass first, without `object`."""
    return tuple(ask(partial(_name, kind), _no_name) for kind in type.mro(type(owner))[:-1])


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _no_name(_error: BaseException) -> str:
    return "<a class without a name>"


def require_awaitable(work: object, owner: str) -> None:
    """Raise `TypeError` if a function of a handler's author is no asynchronous one."""
    if not isawaitable(work):
        raise TypeError(
            f"{owner} must be an async function (async def): it returned a value of type "
            f"{type(work).__name__}, which cannot be awaited"
        )
