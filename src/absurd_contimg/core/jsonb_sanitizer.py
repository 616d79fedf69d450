"""Turns any value into one that a jsonb column takes, so that every failure can be recorded.

Postgres refuses NUL (C++ prints it) and lone surrogates (a file name that is not UTF-8), JSON has
no NaN, and errors may carry objects. A failure that is not recorded would come again for ever.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from absurd_contimg.core.records import Json

_CHARACTERS_MAX = 20_000
_ITEMS_MAX = 1000
_DEPTH_MAX = 20
_REFUSED = re.compile("[\0\ud800-\udfff]")


def sanitized(value: object, depth: int = 0) -> Json:
    """The value if jsonb takes it, else the nearest one that it takes; of bounded size."""
    match value:
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
        case str():
            return _sanitized_text(value)
        case Mapping() if depth < _DEPTH_MAX:
            items = list(value.items())[:_ITEMS_MAX]
            return {_sanitized_text(str(key)): sanitized(item, depth + 1) for key, item in items}
        case list() | tuple() if depth < _DEPTH_MAX:
            return [sanitized(item, depth + 1) for item in value[:_ITEMS_MAX]]
        case _:
            return _sanitized_text(repr(value))


def shortened(text: str, characters: int = _CHARACTERS_MAX) -> str:
    """The beginning and the end of a long text."""
    if len(text) <= characters:
        return text
    half = characters // 2
    return f"{text[:half]} [{len(text) - 2 * half} characters left out] {text[-half:]}"


def _sanitized_text(text: str) -> str:
    return _REFUSED.sub(lambda match: f"\\x{ord(match.group()):02x}", shortened(text))
