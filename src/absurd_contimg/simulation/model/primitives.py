"""Finds the locks, events and queues that the code of handlers holds, and their contents.

Each process of production makes its own when it imports a module. Simulated processes share one
interpreter, and so the object: what it holds, such as who waits for it, must be each process's own.
"""

from __future__ import annotations

import asyncio
import gc
import queue
import sys
import sysconfig
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

CONTAINERS = (dict, list, set, deque, bytearray)
SIZE_MAX = 1000
"""A larger container is a table of constants, and comparing it takes time."""
_PLAIN_LOCK = type(threading.Lock())
_PRIMITIVES: tuple[type, ...] = (
    *(asyncio.Lock, asyncio.Event, asyncio.Condition, asyncio.Semaphore, asyncio.Queue),
    *(asyncio.Barrier, threading.Event, threading.Condition, threading.Semaphore),
    *(threading.Barrier, queue.Queue, _PLAIN_LOCK),
)
OBJECTS_MAX = 20_000
"""So many are looked at; a library's client may lead to all of its library."""
_CODE = frozenset(
    {FunctionType, MethodType, CellType, partial, staticmethod, classmethod, property}
)
"""Types of the standard library whose objects hold what a module's author has written."""
_STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()
_OF_PACKAGES = frozenset({"site-packages", "dist-packages"})
"""Folders of installed packages, of whichever environment; the second is Debian's."""


def is_primitive(value: object) -> bool:
    """Whether a value is a lock, an event, a queue or the like, of asyncio or of threads.

    A lock that its own thread may take again keeps nobody out: all processes are one thread.
    """
    return issubclass(type(value), _PRIMITIVES)


def primitives_in(
    values: Iterable[object], packages: frozenset[str], objects_max: int = OBJECTS_MAX
) -> Iterator[object]:
    """Every lock, event and queue to which values lead.

    By attributes, containers, closures and defaults of functions, and by the variables of modules
    that are of `packages` or are not installed.
    """
    todo = deque(values)
    seen: dict[int, object] = {}
    while todo and len(seen) < objects_max:
        value = todo.popleft()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if is_primitive(value):
            yield value
        else:
            todo.extend(part for part in _parts(value, packages) if gc.is_tracked(part))


def package_of(module: object) -> str:
    """The first part of a module's name."""
    return str(module).partition(".")[0]


def _parts(value: Any, packages: frozenset[str]) -> Iterable[object]:
    """What a value holds; nothing for one of the standard library or of this package."""
    kind = type(value)
    if issubclass(kind, (ModuleType, type)):
        module = value.__name__ if issubclass(kind, ModuleType) else value.__module__
        return list(vars(value).values()) if _is_users(module, packages) else ()
    if issubclass(kind, (*CONTAINERS, tuple, frozenset)):
        return gc.get_referents(value) if len(value) <= SIZE_MAX else ()
    if kind is FunctionType and not _is_users(value.__module__, packages):
        variables = {id(value.__globals__), id(value.__builtins__)}
        return [part for part in gc.get_referents(value) if id(part) not in variables]
    if kind in _CODE or not _is_given(kind.__module__):
        return gc.get_referents(value)
    return ()


def _is_given(module: object) -> bool:
    """Whether it is of the standard library or of this package."""
    package = package_of(module)
    return package == "absurd_contimg" or package in sys.stdlib_module_names


@lru_cache(maxsize=4096)
def _is_users(module: str | None, packages: frozenset[str]) -> bool:
    """Whether a module is written by the author of the handlers."""
    if _is_given(module):
        return False
    if package_of(module) in packages:
        return True
    file = getattr(sys.modules.get(str(module)), "__file__", None)
    if not isinstance(file, str):
        return False
    path = Path(file)
    return _OF_PACKAGES.isdisjoint(path.parts) and not path.is_relative_to(_STANDARD_LIBRARY)


def with_their_parts(primitives: Iterable[object]) -> list[Any]:
    """Locks, events and queues with the containers and further locks of which they are made."""
    todo, parts = list(primitives), dict[int, Any]()
    while todo:
        value = todo.pop()
        if id(value) in parts or not (is_primitive(value) or type(value) in CONTAINERS):
            continue
        parts[id(value)] = value
        if is_primitive(value) and type(value) is not _PLAIN_LOCK:
            todo += vars(value).values()
    return list(parts.values())


def content_of(value: Any) -> Any:
    """What a container or a primitive holds now, as `refill` takes it."""
    kind = type(value)
    if kind is _PLAIN_LOCK:
        return value.locked()
    if is_primitive(value):
        return vars(value).copy()
    return _copier(kind)(value)


def _copier(kind: type) -> Callable[[Any], Any]:
    if issubclass(kind, dict):
        return dict
    if issubclass(kind, set):
        return set
    return bytes if issubclass(kind, bytearray) else list


def refill(value: Any, content: Any) -> None:
    """Give a container or a primitive this content."""
    kind = type(value)
    if kind is _PLAIN_LOCK:
        if content and not value.locked():
            value.acquire()
        elif not content and value.locked():
            value.release()
        return
    target = vars(value) if is_primitive(value) else value
    target.clear()
    if issubclass(type(target), dict | set):
        target.update(content)
    else:
        target.extend(content)
