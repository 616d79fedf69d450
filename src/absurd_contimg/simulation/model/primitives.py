"""Finds the locks, events and queues that the code of handlers holds, and their contents.

Each process of production makes its own when it imports a module. Simulated processes share one
interpreter, and so the object: what it holds, such as who waits for it, must be each process's own.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import sysconfig
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    GetSetDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
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
_LEAVES = frozenset(
    {
        *(str, bytes, int, float, bool, type(None)),
        *(BuiltinFunctionType, GetSetDescriptorType, WrapperDescriptorType),
    }
)
"""Types that hold nothing: most of all values."""
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
            todo.extend(part for part in _parts(value, packages) if type(part) not in _LEAVES)


def package_of(module: object) -> str:
    """The first part of a module's name."""
    return str(module).partition(".")[0]


def _parts(value: Any, packages: frozenset[str]) -> Iterable[object]:
    """What a value holds; nothing for one of the standard library or of this package."""
    kind = type(value)
    if kind in _PARTS_OF_CODE:
        parts = _PARTS_OF_CODE[kind](value)
        if kind is FunctionType and _is_users(value.__module__, packages):
            return (*parts, value.__globals__)
        return parts
    if issubclass(kind, (ModuleType, type)):
        module = value.__name__ if issubclass(kind, ModuleType) else value.__module__
        return list(vars(value).values()) if _is_users(module, packages) else ()
    if issubclass(kind, (*CONTAINERS, tuple, frozenset)):
        if len(value) > SIZE_MAX:
            return ()
        return list(dict.values(value) if issubclass(kind, dict) else value)
    return _attributes(value, kind)


def _parts_of_function(function: FunctionType) -> Iterable[object]:
    """Its variables of outer functions, its defaults, and what decorators have added."""
    cells, defaults = function.__closure__ or (), function.__defaults__ or ()
    named = (function.__kwdefaults__ or {}).values()
    return (*cells, *defaults, *named, *vars(function).values())


def _attributes(value: object, kind: type) -> Iterator[object]:
    """Those of an object, without a call of its code; and those of its class."""
    package = package_of(kind.__module__)
    if package == "absurd_contimg" or package in sys.stdlib_module_names:
        return
    if kind.__dictoffset__:
        yield from list(object.__getattribute__(value, "__dict__").values())
    for each in kind.__mro__:
        slots = each.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            member: Any = each.__dict__.get(name)
            try:
                yield member.__get__(value, kind)
            except AttributeError:  # nothing is in this slot, or its name is mangled
                continue
    yield kind


def _cell(cell: CellType) -> tuple[object, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # its variable has no value yet
        return ()


_PARTS_OF_CODE: dict[type, Callable[[Any], Iterable[object]]] = {
    FunctionType: _parts_of_function,
    MethodType: lambda method: (method.__self__, method.__func__),
    CellType: _cell,
    partial: lambda call: (call.func, *call.args, *call.keywords.values()),
    staticmethod: lambda method: (method.__func__,),
    classmethod: lambda method: (method.__func__,),
    property: lambda attribute: (attribute.fget,),
}


@lru_cache(maxsize=4096)
def _is_users(module: str | None, packages: frozenset[str]) -> bool:
    """Whether a module is written by the author of the handlers."""
    package = package_of(module)
    if package == "absurd_contimg" or package in sys.stdlib_module_names:
        return False
    if package in packages:
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
