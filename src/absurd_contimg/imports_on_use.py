"""Packages whose names are imported on use: nobody pays for what others need."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Callable
from functools import cache
from typing import Any


def imports_on_use(package: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package that says under ``TYPE_CHECKING`` where its names are.

    Type checkers and this function read the same lines, so that there is no second list of them.
    """

    @cache
    def modules() -> dict[str, str | None]:
        tree = ast.parse(inspect.getsource(sys.modules[package]))
        blocks = [node.body for node in tree.body if isinstance(node, ast.If)]
        imports = [each for body in blocks for each in body if isinstance(each, ast.ImportFrom)]
        return {name.name: each.module for each in imports for name in each.names}

    def import_name(name: str) -> Any:
        module = None if name.startswith("__") else modules().get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(module), name)
        setattr(sys.modules[package], name, value)
        return value

    return import_name
