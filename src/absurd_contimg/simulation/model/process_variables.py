"""The variables of handlers' modules, of which every simulated process has its own.

All simulated processes share one interpreter. Each begins with the variables as they were: plain
values, containers of them, and locks, events and queues. The content of an object of another class
is left alone. When the kernel goes from one process to another, the variables go with it: a paused
process goes on with what it had left, and holds no lock for which another one waits.

After a world the variables are as its last process has left them, for a test to read. What it has
changed is remembered, and set back before the next world: that one begins as this one did. What has
another value by then, somebody else has set, and it stays.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import is_
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

from absurd_contimg.simulation.model.primitives import (
    CONTAINERS,
    SIZE_MAX,
    content_of,
    is_primitive,
    package_of,
    primitives_in,
    refill,
    with_their_parts,
)
from absurd_contimg.simulation.runtime.loop import SimLoop

_PLAIN = (str, bytes, int, float, complex, bool, type(None))
_DEPTH_MAX = 4
_NEARBY_MAX = 200
"""Objects; in how many a lock is looked for at the end of each world."""
_MISSING = object()


class _Values(NamedTuple):
    names: list[dict[str, Any]]
    """Of each module."""
    contents: list[Any]
    """Of each object that processes share."""


class Change(NamedTuple):
    """What a world has changed in a module or in a container."""

    first: Any
    left: Any
    read: Callable[[], Any]
    write: Callable[[Any], None]


_changes: dict[int, Change] = {}
"""By the id of the module's namespace or of the container, which `read` keeps alive."""


def changes() -> Mapping[int, Change]:
    """What has been changed and is not set back yet."""
    return _changes.copy()


def set_back(kept: Mapping[int, Change] | None = None) -> None:
    """Undo what worlds have changed, except `kept`; what has been set since stays."""
    for key, change in changes().items():
        if kept is None or kept.get(key) is not change:
            del _changes[key]
            change.write(_undone(change.first, change.left, change.read()))


class ProcessVariables:
    """The variables of the modules in which functions are defined, as they were before any world.

    To make one sets back what earlier worlds have changed.
    """

    def __init__(self, functions: Iterable[object]) -> None:
        set_back()
        functions = list(functions)
        modules = {id(each): each for function in functions for each in _namespaces(function)}
        self._modules = list(modules.values())
        self._packages = frozenset(package_of(each.get("__name__")) for each in self._modules)
        values = [value for module in self._modules for value in _names(module).values()]
        primitives = primitives_in([*functions, *values], self._packages)
        self._primitives = with_their_parts(primitives)
        containers: dict[int, Any] = {}
        for value in values:
            if _is_plain(value, _DEPTH_MAX):
                _collect(value, containers)
        for each in self._primitives:
            containers.pop(id(each), None)
        self._containers = list(containers.values())
        self._first = self._read()
        self._kept: WeakKeyDictionary[SimLoop, _Values | None] = WeakKeyDictionary()
        """By process; None of the one whose variables they are now."""
        self._current: ref[SimLoop] | None = None

    def begin(self, process: SimLoop) -> None:
        """Set every variable back to its value, in the same object: a process starts."""
        self._leave()
        self._enter(process, self._first)

    def switch(self, process: SimLoop | None) -> None:
        """Let a process that has begun go on with its variables; None: the world has ended.

        Locks, events and queues are then as they were, and the rest is as the last process left
        it. A process that has not begun, such as that of an external input, sees them as they are.
        """
        if process is None:
            self._end()
        elif (values := self._kept.get(process)) is not None:
            self._leave()
            self._enter(process, values)

    def _leave(self) -> None:
        process = None if self._current is None else self._current()
        if process is not None:
            self._kept[process] = self._read()

    def _enter(self, process: SimLoop, values: _Values) -> None:
        self._kept[process] = None
        self._current = ref(process)
        self._write(values)

    def _end(self) -> None:
        self._current = None
        self._kept.clear()
        names, contents = self._first
        for module, first in zip(self._modules, names, strict=True):
            for name, value in _names(module).items():
                if first.get(name, _MISSING) is not value and self._leads_to_primitive(value):
                    _bind(module, name, first.get(name, _MISSING))
        for each, content in zip(self._containers, contents, strict=False):
            if self._leads_to_primitive(each):
                refill(each, content)
        for each, content in zip(self._primitives, contents[len(self._containers) :], strict=True):
            refill(each, content)
        self._remember_changes()

    def _remember_changes(self) -> None:
        names, contents = self._first
        for module, first in zip(self._modules, names, strict=True):
            _remember(module, first, partial(_names, module), partial(_rebind, module))
        for each, first in zip(self._containers, contents, strict=False):
            _remember(each, first, partial(content_of, each), partial(refill, each))

    def _leads_to_primitive(self, value: object) -> bool:
        return any(True for _ in primitives_in([value], self._packages, _NEARBY_MAX))

    def _read(self) -> _Values:
        contents = [content_of(each) for each in (*self._containers, *self._primitives)]
        return _Values([_names(module) for module in self._modules], contents)

    def _write(self, values: _Values) -> None:
        for module, names in zip(self._modules, values.names, strict=True):
            _rebind(module, names)
        shared = (*self._containers, *self._primitives)
        for each, content in zip(shared, values.contents, strict=True):
            refill(each, content)


def _bind(module: dict[str, Any], name: str, value: object) -> None:
    if value is _MISSING:
        del module[name]
    else:
        module[name] = value


def _rebind(module: dict[str, Any], names: dict[str, Any]) -> None:
    for name in _names(module).keys() - names.keys():
        del module[name]
    for name, value in names.items():
        if module.get(name, _MISSING) is not value:
            module[name] = value


def _remember(
    shared: object, first: Any, read: Callable[[], Any], write: Callable[[Any], None]
) -> None:
    left = read()
    if _is_same(first, left):
        _changes.pop(id(shared), None)
    else:
        _changes[id(shared)] = Change(first, left, read, write)


def _undone(first: Any, left: Any, now: Any) -> Any:
    """A content without what was changed from `first` to `left`; a dict's keys each for itself."""
    if _is_same(left, now):
        return first
    if not isinstance(now, dict):
        return now
    content = {
        key: first.get(key, _MISSING) if left.get(key, _MISSING) is value else value
        for key, value in now.items()
    }
    content |= {key: first[key] for key in first if key not in left and key not in now}
    return {key: value for key, value in content.items() if value is not _MISSING}


def _is_same(content: Any, other: Any) -> bool:
    """By identity: what users' values say of `==` may be no truth value."""
    if len(content) != len(other):
        return False
    if isinstance(content, dict):
        return all(other.get(key, _MISSING) is value for key, value in content.items())
    if isinstance(content, list):
        return all(map(is_, content, other))
    return bool(content == other)


def _namespaces(function: object) -> Iterable[dict[str, Any]]:
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function) if callable(function) else function
    function = getattr(function, "__func__", function)
    variables = getattr(function, "__globals__", None)
    if variables is None:  # of an object that is called, those of its class
        variables = getattr(vars(type(function)).get("__call__"), "__globals__", None)
    if isinstance(variables, dict) and not str(variables.get("__name__")).startswith(
        "absurd_contimg."
    ):
        yield variables


def _names(module: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in module.items() if not name.startswith("__")}


def _is_plain(value: object, depth: int) -> bool:
    if isinstance(value, _PLAIN) or is_primitive(value):
        return True
    if depth == 0 or not isinstance(value, (*CONTAINERS, tuple)) or len(value) > SIZE_MAX:
        return False
    items = (*value.keys(), *value.values()) if isinstance(value, dict) else value
    return all(_is_plain(item, depth - 1) for item in items)


def _collect(value: object, containers: dict[int, Any]) -> None:
    """Note a container and those in it."""
    if not isinstance(value, (*CONTAINERS, tuple)) or id(value) in containers:
        return
    if not isinstance(value, tuple):
        containers[id(value)] = value
    for item in value.values() if isinstance(value, dict) else value:
        _collect(item, containers)
