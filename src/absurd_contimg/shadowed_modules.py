"""Modules that PYTHONPATH puts before those of this installation.

Imports nothing that could be one of them.
"""

from __future__ import annotations

import os
import pkgutil
import sys
from importlib.machinery import PathFinder

_MEANT = ("sitecustomize", "usercustomize")
"""Who sets PYTHONPATH means them to count; some distributions have such modules, too."""


def shadowing_modules() -> dict[str, str]:
    """The file of each module in a folder of PYTHONPATH that this Python has elsewhere as well."""
    folders = [os.path.abspath(each) for each in _pythonpath().split(os.pathsep) if each]
    rest = [each for each in sys.path if os.path.abspath(each) not in folders]
    shadowing: dict[str, str] = {}
    for module in pkgutil.iter_modules(folders):
        spec = PathFinder.find_spec(module.name, folders)
        is_twice = module.name not in _MEANT and _is_elsewhere(module.name, rest)
        if spec is not None and spec.origin is not None and is_twice:
            shadowing[module.name] = spec.origin
    return shadowing


def pythonpath_problem() -> tuple[str, str] | None:
    """What is wrong with PYTHONPATH, and what to do; None if it shadows no module."""
    shadowing = shadowing_modules()
    if not shadowing:
        return None
    names = [f"{name} ({origin})" for name, origin in list(shadowing.items())[:3]]
    more = f" and {len(shadowing) - len(names)} more" if len(shadowing) > len(names) else ""
    return (
        f"PYTHONPATH={_pythonpath()} puts another {', '.join(names)}{more} before that of this "
        "installation.",
        "Unset it where contimg and its services are started: unset PYTHONPATH",
    )


def _pythonpath() -> str:
    return os.environ.get("PYTHONPATH", "")


def _is_elsewhere(name: str, folders: list[str]) -> bool:
    spec = PathFinder.find_spec(name, folders)
    return name in sys.builtin_module_names or (spec is not None and spec.origin is not None)


def shadow_behind(error: BaseException) -> tuple[str, str] | None:
    """`pythonpath_problem` where it may be the cause of an error, with the error's text."""
    problem = pythonpath_problem()
    is_of_modules = isinstance(error, ImportError | AttributeError | SyntaxError)
    if problem is None or not (is_of_modules or _passes_through_shadow(error)):
        return None
    return f"{problem[0]} {type(error).__name__}: {' '.join(str(error).split())[:300]}", problem[1]


def _passes_through_shadow(error: BaseException) -> bool:
    places = tuple(
        os.path.join(os.path.dirname(origin), "") if _is_package(origin) else origin
        for origin in shadowing_modules().values()
    )
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith(places):
            return True
        trace = trace.tb_next
    return False


def _is_package(origin: str) -> bool:
    return os.path.basename(origin).startswith("__init__.")
