"""Makes of any text and any JSON what both of the registry's databases hold and give back alike."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_REFUSED = re.compile("[\0\ud800-\udfff]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def column_text(text: str) -> str:
    """The text, with escapes for NUL and for half surrogate pairs."""
    whole = _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
    return _REFUSED.sub(_escape, whole)


def _escape(match: re.Match[str]) -> str:
    return ascii(match.group())[1:-1]


def column_json(value: Any) -> str:
    """The JSON of a value, in ASCII, with null for a float that is no number.

    Escapes of NUL and half surrogate pairs stay: a column of type ``json`` holds them.
    """
    text = json.dumps(value)
    return json.dumps(_numbers(value)) if "NaN" in text or "Infinity" in text else text


def _numbers(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _numbers(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers(part) for part in value]
    return value
