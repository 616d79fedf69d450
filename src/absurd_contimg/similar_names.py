"""What a person may have meant who has misspelt a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_NAMES_MAX = 3


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """A question with at most three known names that are like this one; `otherwise` without any.

    Case counts for nothing, and a name is like each part of it.
    """
    by_key = {each.casefold(): each for each in known if each != name}
    key = name.casefold()
    near = difflib.get_close_matches(key, by_key, _NAMES_MAX)
    near += [each for each in by_key if key and key in each and each not in near]
    names = [by_key[each] for each in near[:_NAMES_MAX]]
    return f"Did you mean {' or '.join(names)}?" if names else otherwise
