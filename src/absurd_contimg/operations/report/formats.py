"""How the report writes numbers and times."""

from __future__ import annotations

import re
from datetime import datetime

_NUMBER = re.compile(r"[-+−]?[\d.,]+(e[-+]?\d+)?\s*(%|Jy|mJy|s|deg|arcsec)?")


def is_numeric(value: object) -> bool:
    """Whether a cell is aligned to the right: a number, or the text of one."""
    if isinstance(value, str):
        return _NUMBER.fullmatch(value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value: object, decimals: int | None = None, scale: float = 1.0) -> str:
    """A number as text, floats with four significant figures; a dash for None."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return "–" if value is None or value == "" else str(value)
    if decimals is not None:
        return f"{value * scale:.{decimals}f}"
    return f"{value * scale:.4g}" if isinstance(value, float) or scale != 1.0 else str(value)


def moment(value: datetime | None) -> str:
    """A time in UTC; a dash for None."""
    return "–" if value is None else f"{value:%Y-%m-%d %H:%M:%S} UTC"
