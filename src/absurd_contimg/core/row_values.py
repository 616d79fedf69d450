"""Reads the values of Absurd's rows, which other clients write too, for both backends.

A jsonb column may hold what Python cannot: a number of 5,000 digits, 3,000 levels, more bytes than
fit into memory. Such a value becomes an `Unreadable` and the row stays: only what needs the value
fails. Times and spans beyond Python's become the nearest ones that it has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from absurd_contimg.core.errors import ValueRefused

_T = TypeVar("_T")

JSON_BYTES_MAX = 64 * 2**20
"""Longer JSON is not read."""
JSON_STORED_BYTES_MAX = 16 * 2**20
"""Longer JSON is not stored: writing it could take longer than a short lease. Earlier versions
stored all that is read."""
JSON_DEPTH_MAX = 200
"""Python's own limits (1,000 calls; pydantic 255) count what surrounds the value too."""
_DIGITS_MAX = 300
"""Numbers with fewer digits are read by Python and hold their size as floats."""
OVERSIZED_KEY = "$oversized"
"""The only key of what a backend may give instead of JSON that is too long: its bytes."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands in a row for a JSON value that Python cannot hold."""

    unreadable: str
    """Why."""


class UnreadableValueError(ValueError):
    """A value that a task needs is in the database, but this program cannot read it."""


def require_readable(value: Any, owner: str) -> Any:
    """The value; raise `UnreadableValueError` that names its owner if it could not be read."""
    if isinstance(value, Unreadable):
        raise UnreadableValueError(
            f"{owner} cannot be read: {value.unreadable}. Spawn the task again without it."
        )
    return value


def read_json(text: str | bytes | bytearray | memoryview) -> Any:
    """The value of a text that jsonb printed, or `Unreadable`."""
    if len(text) > JSON_BYTES_MAX:
        return oversized(len(text))
    if not isinstance(text, str):
        text = str(text, "utf-8")
    if len(text) <= JSON_DEPTH_MAX:  # then it has no longer number and no more levels
        return _scan(text, 0)[0]
    scan = _scan_of_long_numbers if _has_long_number(text) else _scan
    try:
        value = scan(text, 0)[0]
    except RecursionError:
        return Unreadable(_TOO_DEEP)
    except ValueError as error:
        return Unreadable(str(error))
    return Unreadable(_TOO_DEEP) if _is_too_deep(text, value) else value


def json_text(
    value: _T, encode: Callable[[_T], str], *, encode_refuses_same_keys: bool = False
) -> str:
    """The JSON of a value; refuses what is too long, or what `read_json` would not read.

    Values whose own methods raise what would end the process raise `TypeError`.
    """
    try:
        text = encode(value)
        if not encode_refuses_same_keys and "{" in text:
            _require_distinct_keys(value)
        if len(text) > JSON_DEPTH_MAX:
            _require_readable_text(text, value)
    except BaseException as error:  # noqa: BLE001 - as `ask` does, which costs a call more
        _refuse_value(error)
    return text


def _refuse_value(error: BaseException) -> NoReturn:
    problem = _ENCODING_PROBLEMS.get((type(error), str(error).split(" ")[0]))
    if isinstance(error, RecursionError) or problem:
        raise ValueRefused(f"this JSON cannot be stored: {problem or _TOO_DEEP}.") from error
    if issubclass(type(error), Exception):
        raise error
    raise TypeError(f"a value is no JSON: its methods raise {type(error).__name__}") from error


def _require_distinct_keys(value: object) -> None:
    """Refuse an object of whose members JSON would keep one: with the keys 1 and "1", say."""
    unread: list[Any] = [value]
    for each in unread:  # which grows meanwhile
        kind = type(each)
        if kind in _SCALARS:
            continue
        if kind is not dict and isinstance(each, list | tuple):
            items: Iterable[Any] = each
        elif kind is dict or isinstance(each, Mapping):
            if not _STRINGS.issuperset(map(type, each)):
                require_distinct_members(each)
            items = each.values()
        else:
            continue
        if not _SCALARS.issuperset(map(type, items)):
            unread += items


_STRINGS = frozenset({str})


def require_distinct_members(members: Mapping[Any, object]) -> None:
    """Refuse the object whose members these are if JSON would keep one of two."""
    if problem := key_problem(members):
        raise ValueRefused(f"this JSON cannot be stored: it {problem}.")


def key_problem(members: Mapping[Any, object]) -> str | None:
    """Which keys are the same in JSON; None if all differ."""
    if set(map(type, members)) <= {str}:
        return None
    seen: dict[str, object] = {}
    for key in members:
        text = str.__str__(key) if isinstance(key, str) else json.dumps(key)
        if text in seen:
            return f"has the keys {seen[text]!r:.80} and {key!r:.80}, which are the same in JSON"
        seen[text] = key
    return None


def _require_readable_text(text: str, value: object) -> None:
    problem = ""
    if len(text) > JSON_STORED_BYTES_MAX:
        size, limit = len(text) / 2**20, JSON_STORED_BYTES_MAX // 2**20
        problem = f"it has {size:.1f} MB, at most {limit} MB are stored"
    elif _has_long_number(text) and isinstance(answer := read_json(text), Unreadable):
        problem = answer.unreadable
    elif _is_too_deep(text, value):
        problem = _TOO_DEEP
    if problem:
        raise ValueRefused(f"this JSON cannot be stored: {problem}. Store less, or a file's name.")


def oversized(size_bytes: int) -> Unreadable:
    """For JSON that is too long."""
    limit = JSON_BYTES_MAX / 2**20
    return Unreadable(f"it has {size_bytes / 2**20:.0f} MB, at most {limit:.0f} MB are read")


_TOO_DEEP = f"it has more than {JSON_DEPTH_MAX} levels"


_ENCODING_PROBLEMS: dict[tuple[type[BaseException], str], str] = {
    (ValueError, "Circular"): _TOO_DEEP,
    (ValueError, "Exceeds"): "it holds a number of more than 4300 digits",
}
"""By the class and the first word of what Python's encoder raises."""


def _is_too_deep(text: str, value: object) -> bool:
    marks = text.count("[") + text.count("{")
    return marks > JSON_DEPTH_MAX and depth_of(value) > JSON_DEPTH_MAX


def depth_of(value: object) -> int:
    """The levels of lists and objects, counted no further than just past the limit."""
    level = [value]
    for depth in range(JSON_DEPTH_MAX + 1):
        members: list[object] = []
        is_last = True
        for each in level:
            kind = type(each)
            if kind in _SCALARS:
                continue
            if kind is dict:
                members += each.values()  # type: ignore[attr-defined]
            elif isinstance(each, list | tuple):
                members += each
            elif isinstance(each, Mapping):  # last, as asking for it takes long
                members += each.values()
            else:
                continue
            is_last = False
        if is_last:
            return depth
        level = members
    return JSON_DEPTH_MAX + 1


_SCALARS = frozenset({str, int, float, bool, type(None)})


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"it holds a number of {len(text)} digits")


def _float(text: str) -> float:
    value = float(text)
    return value if abs(value) < float("inf") else _refuse_number(text)


def _int(text: str) -> int:
    _float(text)  # JavaScript's largest numbers have 309 digits; no client means more
    return int(text)


def _has_long_number(text: str) -> bool:
    """Whether so many digits are in a row: then ten are, of every thirtieth character."""
    sample = text[:: _DIGITS_MAX // 10]
    return bool(_TEN_DIGITS.search(sample) and _LONG_NUMBER.search(text))


_TEN_DIGITS = re.compile("[0-9]{10}")
_LONG_NUMBER = re.compile(f"[0-9]{{{_DIGITS_MAX}}}")
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # json.loads less what it looks for around the value
_scan_of_long_numbers = json.JSONDecoder(parse_float=_float, parse_int=_int).scan_once  # type: ignore[attr-defined]  # as above
