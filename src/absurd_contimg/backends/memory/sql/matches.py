"""What a regular expression matches: of all that begins first, the longest, as POSIX has it.

Python takes what its first choices lead to, so a longer match is looked for wherever it can be: at
every end that the text allows, for patterns that have a choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_CONTEXT = re.compile(r"\\[ZbB]|\(\?[=!]")


def first(pattern: re.Pattern[str], text: str, start: int = 0) -> re.Match[str] | None:
    """The first match at `start` or after; None if there is none."""
    found = pattern.search(text, start)
    if found is None or not _has_choices(pattern.pattern):
        return found
    for end in range(len(text), found.end(), -1):
        longer = _ending(pattern, text, found.start(), end)
        if longer is not None:
            return longer
    return found


def every(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """One match after the other; where one is empty, the next search begins a character on."""
    position = 0
    while position <= len(text):
        found = first(pattern, text, position)
        if found is None:
            return
        yield found
        position = found.end() + (found.start() == found.end())


def split(pattern: re.Pattern[str], text: str) -> list[str]:
    """The parts between matches, but for empty ones at an end or right behind another match."""
    parts: list[str] = []
    begin = last = 0
    for match in every(pattern, text):
        if match.start() < len(text) and match.end() > last:
            parts.append(text[begin : match.start()])
            begin = match.end()
        last = match.end()
    return [*parts, text[begin:]]


def replaced(pattern: re.Pattern[str], text: str, new: str, *, everywhere: bool) -> str:
    r"""The text with its matches replaced; `new` may hold ``\1``, ``\&`` and ``\\``."""
    pieces: list[str] = []
    begin = 0
    for match in every(pattern, text):
        pieces += [text[begin : match.start()], _filled(new, match)]
        begin = match.end()
        if not everywhere:
            break
    return "".join(pieces) + text[begin:]


def _filled(new: str, match: re.Match[str]) -> str:
    def piece(found: re.Match[str]) -> str:
        mark = found.group(1)
        if mark == "&":
            return match.group()
        if mark == "\\":
            return mark
        return (match.group(int(mark)) or "") if int(mark) <= match.re.groups else ""

    return re.sub(r"\\([1-9&\\])", piece, new)


def _has_choices(source: str) -> bool:
    """Whether a match can be had in several ways: one quantifier alone takes the most it can."""
    bare = re.sub(r"\\.|\(\?", "", source, flags=re.DOTALL)
    return "|" in bare or sum(character in "*+?{" for character in bare) > 1


def _ending(pattern: re.Pattern[str], text: str, start: int, end: int) -> re.Match[str] | None:
    """The match of exactly this part of the text, if there is one."""
    if not _CONTEXT.search(pattern.pattern):
        return pattern.fullmatch(text, start, end)
    behind = f"(?=.{{{len(text) - end}}}\\Z)"
    return re.compile(f"(?:{pattern.pattern}){behind}", pattern.flags).match(text, start)
