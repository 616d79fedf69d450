"""The parts of `operations` (cli, report, services, ...) use one another's packages only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import absurd_contimg.operations

_PACKAGE = "absurd_contimg.operations"
_FOLDER = Path(absurd_contimg.operations.__file__).parent


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def inner_imports(part: str, source: str) -> list[str]:
    """The modules inside other parts that this source, of the named part, imports."""
    modules = [name for name in _imports(ast.parse(source)) if name.startswith(f"{_PACKAGE}.")]
    parts = [name.removeprefix(f"{_PACKAGE}.").split(".") for name in modules]
    return [
        module
        for module, path in zip(modules, parts, strict=True)
        if len(path) > 1 and path[0] != part
    ]


def test_no_part_imports_a_module_inside_another_part() -> None:
    offenders = {
        str(path.relative_to(_FOLDER)): inner
        for path in _FOLDER.rglob("*.py")
        if path.name not in ("__main__.py", "program.py")  # the entry points
        and (inner := inner_imports(path.relative_to(_FOLDER).parts[0], path.read_text()))
    }
    assert offenders == {}


def test_import_of_a_module_inside_another_part_is_recognised() -> None:
    source = f"def f():\n    from {_PACKAGE}.report.quicklook import x\nimport {_PACKAGE}.report\n"
    assert inner_imports("cli", source) == [f"{_PACKAGE}.report.quicklook"]
    assert inner_imports("report", source) == []


def test_what_opens_the_registry_of_a_site_gives_it_the_limits_of_the_settings() -> None:
    """Four commands chose among sets of caltables by the default reach, not that of the site."""
    callers = {
        path.name
        for path in _FOLDER.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Registry"
    }
    assert callers == {"worker_service.py"}
