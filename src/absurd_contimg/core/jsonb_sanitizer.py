"""Turns any value into one that a jsonb column takes, so that every failure can be recorded.

Postgres refuses NUL (C++ prints it) and lone surrogates (a file name that is not UTF-8), JSON has
no NaN, and errors may carry objects. A failure that is not recorded would come again for ever.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import islice

from absurd_contimg.core.foreign_objects import ask
from absurd_contimg.core.records import Json

_CHARACTERS_MAX = 20_000
_ITEMS_MAX = 1000
_DEPTH_MAX = 20
_BITS_MAX = 900
"""Some 270 digits; Python prints no more than 4,300, and `core.row_values` reads fewer."""
_NAME_BYTES_MAX = 2000
"""With our prefixes it must fit into a row of an index, 2,704 bytes."""
_REFUSED = re.compile("[\0\ud800-\udfff]")


def sanitized(value: object, depth: int = 0) -> Json:
    """The value if jsonb takes it, else the nearest one that it takes; of bounded size.

    Raises nothing, whatever the value's own methods raise.
    """
    return ask(
        lambda: _sanitized(value, depth),
        lambda error: f"<{_sanitized_text(type(value).__name__)}: {type(error).__name__}>",
    )


def _sanitized(value: object, depth: int) -> Json:  # noqa: PLR0911 - one return a kind of value
    match value:
        case None | bool():
            return value
        case int() if type(value) is int and value.bit_length() <= _BITS_MAX:
            return value
        case int():
            return f"<a number of {int.bit_length(value)} bits>"
        case float() if type(value) is float and math.isfinite(value):
            return value
        case str():
            return _sanitized_text(str.__str__(value))
        case Mapping() if depth < _DEPTH_MAX:
            items = list(islice(value.items(), _ITEMS_MAX))
            return {_sanitized_text(str(key)): sanitized(item, depth + 1) for key, item in items}
        case list() | tuple() if depth < _DEPTH_MAX:
            return [sanitized(item, depth + 1) for item in islice(value, _ITEMS_MAX)]
        case _:
            return _sanitized_text(repr(value))


def require_name(kind: str, name: str) -> None:
    """Refuse a name of a step, event or task that the database would refuse, before its use."""
    if not isinstance(name, str) or not name:
        problem = "is no text, or an empty one"
    elif _REFUSED.search(name):
        problem = "holds NUL or characters that UTF-8 cannot encode"
    elif len(name.encode()) > _NAME_BYTES_MAX:
        problem = f"is longer than {_NAME_BYTES_MAX} bytes"
    else:
        return
    raise ValueError(f"{kind} name {shortened(ascii(name), 200)} {problem}. Use another name.")


def shortened(text: str, characters: int = _CHARACTERS_MAX) -> str:
    """The beginning and the end of a long text."""
    if len(text) <= characters:
        return text
    half = characters // 2
    return f"{text[:half]} [{len(text) - 2 * half} characters left out] {text[-half:]}"


def _sanitized_text(text: str) -> str:
    return _REFUSED.sub(lambda match: f"\\x{ord(match.group()):02x}", shortened(text))
