"""jsonb: which values it takes, and the one text that it gives back for each.

A jsonb value is kept as its canonical text, exactly what Postgres prints: keys ordered by length
and then by bytes, the last of duplicated keys, numbers without exponent. Text is immutable and
compact, and loading it gives each reader a copy of his own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any, Final, NoReturn

from absurd_contimg.backends.memory.errors import EngineError, Unsupported
from absurd_contimg.core.row_values import require_distinct_members

NULL: Final = "null"
EMPTY: Final = "{}"

_WHOLE_DIGITS_MAX = 131_072
"""Digits that Postgres' ``numeric`` has before the point."""

_INTEGER = frozenset({int})


class _Number(str):
    """A number as jsonb prints it."""

    __slots__ = ()


def dumps(value: Any) -> str:
    """The canonical text of a Python value, as if sent by psycopg's ``Jsonb``.

    Raises 22P02 or 22P05 for what jsonb rejects, TypeError for what JSON does not have, and
    `ValueRefused` for members of which JSON would keep one.
    """
    try:
        return _text(value)
    except EngineError:
        _check_tokens(json.dumps(value))
        raise


_STRING_OR_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|NaN|-?Infinity')


def _check_tokens(text: str) -> None:
    """Raise for what jsonb refuses in a text that Python takes: what comes first in the text."""
    for token in _STRING_OR_CONSTANT.findall(text):
        if token[0] != '"':
            raise _refusal(f'Token "{token}" is invalid.')
        _string(json.loads(token, strict=False))


def _refusal(detail: str) -> EngineError:
    return EngineError("22P02", "invalid input syntax for type json", detail=detail)


def _text(value: Any) -> str:  # noqa: PLR0911 - one return a kind of value
    kind = type(value)
    if kind is str:
        return _string(value)
    if kind is dict:
        layout = _layout(tuple(value)) if len(value) <= _LAYOUT_MEMBERS_MAX else None
        if layout is None:
            return _object(value)
        text, names = layout
        texts: list[str] = []
        for name in names:
            item = value[name]
            is_plain = type(item) is str and item.isprintable()  # spares a call for most members
            texts.append(encode_basestring(item) if is_plain else _text(item))
        return text % tuple(texts)
    if kind is list or kind is tuple:
        if _INTEGER.issuperset(map(type, value)):  # channels, subbands: the usual list
            return str(value) if kind is list else str(list(value))
        return "[" + ", ".join([_text(item) for item in value]) + "]"
    if kind is int:
        return str(value)
    if value is None:
        return NULL
    if kind is bool:
        return "true" if value else "false"
    if kind is float:
        return _number(repr(value))
    return _uncommon(value)


def _uncommon(value: object) -> str:
    """Subclasses and other mappings, in the order in which json.dumps asks."""
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, str):
        return _string(str.__str__(value))
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return _number(float.__repr__(value))
    if isinstance(value, Mapping):
        return _object(value)
    if isinstance(value, list | tuple):
        return _text(list(value))
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


_REFUSED_CHARACTER = re.compile(
    "\0|[\ud800-\udbff](?=([\ud800-\udbff\U00010000-\U0010ffff])?)|[\udc00-\udfff]"
)
"""Null, or half a surrogate pair; the group is the first half of the pair that follows."""


def _string(value: str) -> str:
    if value.isprintable():
        return encode_basestring(value)
    if not value.isascii() or "\0" in value:
        value = _joined(value)
        match = _REFUSED_CHARACTER.search(value)
        if match is not None and match[0] == "\0":
            detail = "\\u0000 cannot be converted to text."
            raise EngineError("22P05", "unsupported Unicode escape sequence", detail=detail)
        if match is not None and match[1] is not None:
            raise _refusal("Unicode high surrogate must not follow a high surrogate.")
        if match is not None:
            raise _refusal("Unicode low surrogate must follow a high surrogate.")
    return encode_basestring(value)


_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def _joined(value: str) -> str:
    """The text with one character for each two halves of a pair."""
    return _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), value)


@lru_cache(maxsize=4096)
def _named(key: str) -> tuple[int, str, str]:
    """Where a member's name stands in jsonb's order (bytes, then their values), and its text.

    The order of code points is that of the bytes of UTF-8.
    """
    text = _string(key)
    return len(key) if key.isascii() else len(_joined(key).encode()), _joined(key), text


@lru_cache(maxsize=1024)
def _layout(names: tuple[object, ...]) -> tuple[str, list[str]] | None:
    """The format of an object with these members, and their order in it.

    Programs write objects of the same few shapes, whose order then need not be found again. None
    where a name needs a closer look.
    """
    texts = [name for name in names if type(name) is str and name.isprintable()]
    if len(texts) < len(names):
        return None
    ordered = sorted(map(_named, texts))
    shown = ", ".join([text.replace("%", "%%") + ": %s" for _, _, text in ordered])
    return "{" + shown + "}", [name for _, name, _ in ordered]


_LAYOUT_MEMBERS_MAX = 32


def _object(value: Mapping[Any, object]) -> str:
    members: dict[tuple[int, str, str], str] = {}
    are_texts = True
    for key, item in value.items():
        are_texts = are_texts and type(key) is str
        named = _named(key if type(key) is str else _key(key))
        members[named] = _text(item)
    if not are_texts:
        require_distinct_members(value)
    shown = [f"{text}: {item}" for (_, _, text), item in sorted(members.items())]
    return "{" + ", ".join(shown) + "}"


def _key(key: object) -> str:
    """A key that is no str, as json.dumps turns it into one."""
    if isinstance(key, str):
        return str.__str__(key)
    if key is None or isinstance(key, bool | int | float):
        return json.dumps(key)
    raise TypeError(f"keys must be str, int, float, bool or None, not {type(key).__name__}")


def _constant(text: str) -> NoReturn:
    """Python's decoder knows ``NaN`` and the like, JSON does not."""
    raise _refusal(f'Token "{text}" is invalid.')


def _number(text: str) -> str:
    """A JSON number as ``numeric`` prints it: scale kept, exponent and minus zero gone."""
    if text.lstrip("-").isdigit() and len(text) <= _WHOLE_DIGITS_MAX:
        return "0" if text == "-0" else text
    if text.endswith(("nan", "inf")):
        raise _refusal("a number without end")  # `_check_tokens` names it
    sign, digits, exponent = Decimal(text).as_tuple()
    assert isinstance(exponent, int)
    if (any(digits) and len(digits) + exponent > _WHOLE_DIGITS_MAX) or -exponent > 16_383:
        raise EngineError("22003", "value overflows numeric format")
    shown = format(Decimal((0, digits, exponent)), "f")
    return "-" + shown if sign and any(digits) else shown


def parse(text: str) -> str:
    """The canonical text of a JSON text; 22P02 if Postgres would not take it."""
    try:
        return _text(_decode(text))
    except RecursionError:
        raise EngineError(
            "54001",
            "stack depth limit exceeded",
            hint='Increase the configuration parameter "max_stack_depth" (currently 2048kB), '
            "after ensuring the platform's stack depth limit is adequate.",
        ) from None
    except EngineError as error:
        if not isinstance(error, Unsupported):
            _check_tokens(text)
        raise


def _shown(text: str) -> _Number:
    return _Number(_number(text))


_DECODER = json.JSONDecoder(parse_float=_shown, parse_constant=_constant)
_DECODER_OF_LONG_INTEGERS = json.JSONDecoder(parse_float=_shown, parse_int=_shown)


def _decode(text: str) -> Any:
    """The value, with numbers as `_Number`; integers as int, but very long ones."""
    try:
        try:
            return _DECODER.decode(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # Python's int() takes some 4,000 digits
            return _DECODER_OF_LONG_INTEGERS.decode(text)
    except json.JSONDecodeError as error:
        if "\\" in text:  # an escape before the error may be another one
            raise Unsupported(f"this JSON ({error})") from None
        is_cut = error.pos == len(text)
        detail = "The input string ended unexpectedly." if is_cut else f"{error}."
        raise _refusal(detail) from None


@lru_cache(maxsize=1024)
def tree(text: str) -> Any:
    """The parsed value, shared and never handed out."""
    return _decode(text)


def kind(text: str) -> str:
    """``jsonb_typeof``."""
    first = text[0]
    names = {"{": "object", "[": "array", '"': "string", "t": "boolean", "f": "boolean"}
    return names.get(first) or ("null" if first == "n" else "number")


_NOWHERE = object()


def _step(value: Any, key: str | int) -> Any:
    """The member or the item of a parsed value, `_NOWHERE` if there is none."""
    if isinstance(value, dict):
        return value.get(key, _NOWHERE)
    if isinstance(key, str):
        return _NOWHERE
    items = value if isinstance(value, list) else [value]  # a scalar is kept as an array of one
    return items[key] if -len(items) <= key < len(items) else _NOWHERE


def _follow(value: Any, path: list[str | None]) -> Any:
    for key in path:
        if key is None or not isinstance(value, dict | list):
            return _NOWHERE
        place: str | int = key
        if isinstance(value, list) and re.fullmatch(r"\s*[+-]?\d+", key, re.ASCII):
            place = int(key)
        value = _step(value, place)
    return value


def _as_jsonb(value: Any) -> str | None:
    return None if value is _NOWHERE else dumps(value)


def field(text: str | None, key: str | int) -> str | None:
    """``value -> key``, of a name or a place; None where it leads nowhere."""
    return None if text is None else _as_jsonb(_step(tree(text), key))


def field_text(text: str | None, key: str | int) -> str | None:
    """``value ->> key``: text, None where it leads nowhere or to JSON null."""
    return None if text is None else as_text(_step(tree(text), key))


def follow(text: str, path: list[str | None]) -> str | None:
    """``value #> path``."""
    return _as_jsonb(_follow(tree(text), path))


def follow_text(text: str, path: list[str | None]) -> str | None:
    """``value #>> path``."""
    return as_text(_follow(tree(text), path))


def as_text(value: Any) -> str | None:
    """A parsed member as ``->>`` shows it."""
    if value is None or value is _NOWHERE:
        return None
    return value if type(value) is str else dumps(value)


def has_key(text: str, key: str) -> bool:
    """``value ? key``: also an element of an array, or the string itself."""
    value = tree(text)
    if isinstance(value, dict):
        return key in value
    items = value if isinstance(value, list) else [value]
    return any(type(item) is str and item == key for item in items)


def keys(text: str) -> list[str]:
    """``jsonb_object_keys`` of an object, in jsonb's order."""
    return list(tree(text))


def build_without_nulls(**members: str | None) -> str:
    """``jsonb_strip_nulls(jsonb_build_object(...))`` of members that are already jsonb.

    Nulls go inside objects at every depth; in arrays they stay.
    """
    present = {key: tree(value) for key, value in members.items() if value is not None}
    return dumps(_strip(present))


def _strip(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strip(item) for key, item in value.items() if item is not None}
    return [_strip(item) for item in value] if isinstance(value, list) else value


def equal(left: str, right: str) -> bool:
    """``jsonb = jsonb``: numbers by value, 1.0 as 1."""
    return left == right or _comparable(tree(left)) == _comparable(tree(right))


def _comparable(value: Any) -> Any:
    if isinstance(value, _Number) or type(value) is int:
        return ("n", Decimal(value))
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    return (type(value).__name__, value)


def contains(whole: str, part: str) -> bool:
    """``whole @> part``; an array contains a scalar that is its item."""
    a, b = tree(whole), tree(part)
    return _contains(a, [b] if isinstance(a, list) and not isinstance(b, dict | list) else b)


def _contains(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return all(key in a and _contains(a[key], item) for key, item in b.items())
    if isinstance(a, list) and isinstance(b, list):
        return all(any(_contains(other, item) for other in a) for item in b)
    return equal(dumps(a), dumps(b))
