"""The module-level variables of handlers, which no process inherits from the one before it.

All simulated processes share one interpreter. Before each starts, plain values and containers of
plain values in the handlers' modules are set back to what they were; everything else, such as
functions, modules and objects of classes, is left alone.
"""

from __future__ import annotations

import copy
import inspect
from collections import deque
from collections.abc import Iterable
from typing import Any

_PLAIN = (str, bytes, int, float, complex, bool, type(None))
_CONTAINERS = (dict, list, set, deque, bytearray)
_DEPTH_MAX = 4
_SIZE_MAX = 1000
"""A larger container is a table of constants, and comparing it takes time."""


class ModuleGlobals:
    """The variables of the modules in which functions are defined, as they are now."""

    def __init__(self, functions: Iterable[object]) -> None:
        modules = {id(each): each for function in functions for each in _namespaces(function)}
        self._saved = [
            (module, {name: (value, copy.deepcopy(value)) for name, value in _variables(module)})
            for module in modules.values()
        ]

    def restore(self) -> None:
        """Set every variable back to its value, in the same object."""
        for module, saved in self._saved:
            for name in [name for name, _ in _variables(module) if name not in saved]:
                del module[name]
            for name, (original, value) in saved.items():
                if original != value:
                    _refill(original, copy.deepcopy(value))
                if module.get(name) is not original:
                    module[name] = original


def _namespaces(function: object) -> Iterable[dict[str, Any]]:
    function = inspect.unwrap(function) if callable(function) else function
    function = getattr(function, "__func__", function)
    variables = getattr(function, "__globals__", None)
    if isinstance(variables, dict) and not str(variables.get("__name__")).startswith(
        "absurd_contimg."
    ):
        yield variables


def _variables(module: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        (name, value)
        for name, value in module.items()
        if not name.startswith("__") and _is_plain(value, _DEPTH_MAX)
    ]


def _is_plain(value: object, depth: int) -> bool:
    if isinstance(value, _PLAIN):
        return True
    if depth == 0 or not isinstance(value, (*_CONTAINERS, tuple)) or len(value) > _SIZE_MAX:
        return False
    items = (*value.keys(), *value.values()) if isinstance(value, dict) else value
    return all(_is_plain(item, depth - 1) for item in items)


def _refill(container: Any, value: Any) -> None:
    """Give a container the content of another one."""
    container.clear()
    if isinstance(container, dict | set):
        container.update(value)
    else:
        container.extend(value)
