"""What jsonb's operators do to its canonical text."""

from __future__ import annotations

import re
from typing import Any

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.errors import EngineError

Path = list[str | None]
_INTEGER = re.compile(r"\s*[+-]?\d+\Z")


def join(a: str, b: str) -> str:
    """``jsonb || jsonb``."""
    left, right = jsonb.tree(a), jsonb.tree(b)
    if isinstance(left, dict) and isinstance(right, dict):
        return jsonb.dumps({**left, **right})
    first = left if isinstance(left, list) else [left]
    return jsonb.dumps([*first, *(right if isinstance(right, list) else [right])])


def step(text: str, key: str | int, *, as_string: bool) -> str | None:
    """``->`` and ``->>``: one step into a jsonb value; None where it leads nowhere."""
    tree = jsonb.tree(text)
    if isinstance(key, str):
        if not isinstance(tree, dict) or key not in tree:
            return None
        found = tree[key]
    elif isinstance(tree, dict):
        return None
    else:
        items = tree if isinstance(tree, list) else [tree]  # jsonb keeps scalars as arrays of one
        if not -len(items) <= key < len(items):
            return None
        found = items[key]
    return jsonb.as_text(found) if as_string else jsonb.dumps(found)


def follow(text: str, path: Path, *, as_string: bool) -> str | None:
    """``#>`` and ``#>>``."""
    current: str | None = text
    for position, key in enumerate(path):
        if current is None or key is None:
            return None
        last = as_string and position == len(path) - 1
        is_array = jsonb.kind(current) == "array"
        if is_array and not _INTEGER.match(key):
            return None
        current = step(current, int(key) if is_array else key, as_string=last)
    if not path and as_string:
        return jsonb.as_text(jsonb.tree(text))
    return current


def contains(a: str, b: str) -> bool:
    """``@>``."""
    return _contains(jsonb.tree(a), jsonb.tree(b), top=True)


def _contains(a: Any, b: Any, *, top: bool = False) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return all(key in a and _contains(a[key], item) for key, item in b.items())
    if isinstance(a, list) and isinstance(b, list):
        return all(any(_contains(mine, item) for mine in a) for item in b)
    if top and isinstance(a, list) and not isinstance(b, dict | list):
        return any(_contains(mine, b) for mine in a)
    return jsonb.equal(jsonb.dumps(a), jsonb.dumps(b))


def without_keys(text: str, keys: Path) -> str:
    """``jsonb - text`` and ``jsonb - text[]``."""
    tree = jsonb.tree(text)
    if not isinstance(tree, dict | list):
        raise EngineError("22023", "cannot delete from scalar")
    if isinstance(tree, dict):
        return jsonb.dumps({key: item for key, item in tree.items() if key not in keys})
    return jsonb.dumps([item for item in tree if not (type(item) is str and item in keys)])


def without_index(text: str, index: int) -> str:
    """``jsonb - integer``."""
    tree = jsonb.tree(text)
    if isinstance(tree, dict):
        raise EngineError("22023", "cannot delete from object using integer index")
    if not isinstance(tree, list):
        raise EngineError("22023", "cannot delete from scalar")
    place = index + len(tree) if index < 0 else index
    return jsonb.dumps([item for position, item in enumerate(tree) if position != place])


def without_path(text: str, path: Path) -> str:
    """``#-``."""
    tree = jsonb.tree(text)
    if not isinstance(tree, dict | list):
        raise EngineError("22023", "cannot delete path in scalar")
    return jsonb.dumps(_changed(tree, path, 1, _remove)) if path and tree else text


def with_path(text: str, path: Path, value: str, *, create: bool) -> str:
    """``jsonb_set``."""
    tree = jsonb.tree(text)
    if not isinstance(tree, dict | list):
        raise EngineError("22023", "cannot set path in scalar")
    if not path or (not tree and not create):
        return text
    new = jsonb.tree(value)

    def put(container: Any, key: Any) -> None:
        if isinstance(container, dict):
            if create or key in container:
                container[key] = new
            return
        size = len(container)
        if -size <= key < size:
            container[key] = new
        elif create:
            container.insert(0 if key < 0 else size, new)

    return jsonb.dumps(_changed(tree, path, 1, put))


def inserted(text: str, path: Path, value: str, *, after: bool) -> str:
    """``jsonb_insert``."""
    tree = jsonb.tree(text)
    if not isinstance(tree, dict | list):
        raise EngineError("22023", "cannot set path in scalar")
    if not path:
        return text
    new = jsonb.tree(value)

    def put(container: Any, key: Any) -> None:
        if isinstance(container, dict):
            if key in container:
                raise EngineError(
                    "22023",
                    "cannot replace existing key",
                    hint="Try using the function jsonb_set to replace key value.",
                )
            container[key] = new
            return
        size = len(container)
        place = key + size if key < 0 else key
        if place < 0:
            container.insert(0, new)
        else:
            container.insert(min(place + (1 if after else 0), size), new)

    return jsonb.dumps(_changed(tree, path, 1, put))


def _remove(container: Any, key: Any) -> None:
    if isinstance(container, dict):
        container.pop(key, None)
    elif -len(container) <= key < len(container):
        del container[key]


def _changed(tree: Any, path: Path, depth: int, change: Any) -> Any:
    """A copy of `tree` in which `change` was applied at the end of the path, if it leads there."""
    key: Any = path[0]
    if key is None:
        raise EngineError("22004", f"path element at position {depth} is null")
    if isinstance(tree, list):
        if not _INTEGER.match(key):
            raise EngineError(
                "22P02", f'path element at position {depth} is not an integer: "{key}"'
            )
        key = int(key)
    elif not isinstance(tree, dict):
        return tree
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    if len(path) == 1:
        change(copy, key)
        return copy
    if isinstance(copy, dict):
        if key in copy:
            copy[key] = _changed(copy[key], path[1:], depth + 1, change)
    elif -len(copy) <= key < len(copy):
        copy[key] = _changed(copy[key], path[1:], depth + 1, change)
    return copy
