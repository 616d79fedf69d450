"""Names of stations: ``103``, ``DSA103`` and ``DSA-103`` are one station."""

from __future__ import annotations

import re

_NAME = re.compile(r"(?:DSA[-_ ]?)?0*(\d{1,3})", re.IGNORECASE)


def station_name(name: str) -> str:
    """``DSA103`` for any way to write station 103; another name stays as it is."""
    match = _NAME.fullmatch(name.strip())
    return f"DSA{int(match[1]):03d}" if match else name
