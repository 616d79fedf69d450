"""Any value as one that a jsonb column takes: what failed must be recorded, whatever it says.

Postgres refuses NUL and lone surrogates in text (C++ prints the first, a file name that is no
UTF-8 has the second), JSON has no NaN, and a user's error may carry objects. A failure that could
not be recorded would leave its run to its lease, and the same would happen again for ever.
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
    """The value where jsonb takes it, else the nearest that it takes; of bounded size."""
    match value:
        case None | bool() | int():
            found: Json = value
        case float() if math.isfinite(value):
            found = value
        case str():
            found = _sanitized_text(value)
        case Mapping() if depth < _DEPTH_MAX:
            items = list(value.items())[:_ITEMS_MAX]
            found = {_sanitized_text(str(key)): sanitized(one, depth + 1) for key, one in items}
        case list() | tuple() if depth < _DEPTH_MAX:
            found = [sanitized(one, depth + 1) for one in value[:_ITEMS_MAX]]
        case _:
            found = _sanitized_text(repr(value))
    return found


def shortened(text: str, characters: int = _CHARACTERS_MAX) -> str:
    """The beginning and the end of a long text."""
    if len(text) <= characters:
        return text
    half = characters // 2
    return f"{text[:half]} [{len(text) - 2 * half} characters left out] {text[-half:]}"


def _sanitized_text(text: str) -> str:
    return _REFUSED.sub(lambda found: f"\\x{ord(found.group()):02x}", shortened(text))
