"""What a person may have meant who has misspelt a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_NAMES_MAX = 3
_LESS_SIMILAR = 0.05
"""A name that is so much less similar than the best one is not proposed beside it."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """A question with at most three known names that are like this one; `otherwise` without any.

    Case counts for nothing, and a name is like each part of it.
    """
    by_key = {each.casefold(): each for each in known if each != name}
    key = name.casefold()
    near = difflib.get_close_matches(key, by_key, _NAMES_MAX)
    best = max((_similarity(key, each) for each in near), default=0.0)
    near = [each for each in near if _similarity(key, each) >= best - _LESS_SIMILAR]
    if not near and key:
        near = [each for each in by_key if key in each]
    names = [by_key[each] for each in near[:_NAMES_MAX]]
    return f"Did you mean {' or '.join(names)}?" if names else otherwise


def _similarity(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, other, name).ratio()
