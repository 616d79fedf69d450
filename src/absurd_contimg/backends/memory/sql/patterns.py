"""``like`` and regular expressions, as far as Python's `re` can say the same."""

from __future__ import annotations

import re
from functools import lru_cache

from absurd_contimg.backends.memory.errors import EngineError, unsupported

_CLASSES = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "blank": r" \t", "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9", "graph": r"\x21-\x7e", "lower": "a-z", "print": r"\x20-\x7e",
    "punct": r"\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e", "space": r"\s", "upper": "A-Z",
    "word": r"\w", "xdigit": "0-9A-Fa-f",
}  # fmt: skip
"""As in the locale C, which knows no letters beyond ASCII."""
_BOUNDS = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_BOUND_MAX = 255
_ESCAPES = {
    "y": r"\b",
    "Y": r"\B",
    "m": r"\b(?=\w)",
    "M": r"\b(?<=\w)",
    "A": r"\A",
    "Z": r"\Z",
    "<": None,
    ">": None,
}
_SIMILAR = {"%": ".*", "_": ".", ".": r"\.", "^": r"\^", "$": r"\$"}
_KEPT = frozenset("dDsSwWtnrfv")


@lru_cache(maxsize=256)
def like(pattern: str, escape: str, *, any_case: bool) -> re.Pattern[str]:
    """A LIKE pattern as a regular expression for the whole text."""
    pieces: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character == escape:
            following = next(characters, None)
            if following is None:
                raise EngineError("22025", "LIKE pattern must not end with escape character")
            pieces.append(re.escape(following))
        elif character == "%":
            pieces.append(".*")
        elif character == "_":
            pieces.append(".")
        else:
            pieces.append(re.escape(character))
    flags = re.DOTALL | re.ASCII | (re.IGNORECASE if any_case else 0)
    return re.compile("".join(pieces) + r"\Z", flags)


@lru_cache(maxsize=256)
def similar(pattern: str) -> re.Pattern[str]:
    """A pattern of ``similar to``, for the whole text."""
    pieces: list[str] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        if character == "[":
            end = _end_of_brackets(pattern, position)
            pieces.append(_brackets(pattern[position:end], pattern))
            position = end
            continue
        if character in '\\"':
            raise unsupported(pattern, "an escape in SIMILAR TO")
        if character == "(":
            pieces.append("(?:")
        else:
            pieces.append(_SIMILAR.get(character, character))
        position += 1
    try:
        return re.compile(f"(?:{''.join(pieces)})\\Z", re.DOTALL | re.ASCII)
    except re.error as error:
        raise EngineError("2201B", f"invalid regular expression: {_worded(error.msg)}") from None


@lru_cache(maxsize=256)
def regular(pattern: str, flags: str = "", *, parts: bool = False) -> re.Pattern[str]:
    """An advanced regular expression of Postgres.

    With `parts` it also matters which characters match, see `matches`: then lazy quantifiers are
    refused, and alternatives beside groups that are to be told, for Postgres chooses otherwise.
    """
    wanted = re.DOTALL | re.ASCII
    for flag in flags:
        if flag == "i":
            wanted |= re.IGNORECASE
        elif flag not in "cg":
            raise unsupported(pattern, f"the regular expression flag {flag}")
    if pattern.startswith("(?i)"):
        pattern, wanted = pattern[4:], wanted | re.IGNORECASE
    if pattern.startswith("***"):
        raise unsupported(pattern, "this prefix of a regular expression")
    try:
        found = re.compile(_translated(pattern), wanted)
    except re.error as error:
        raise EngineError("2201B", f"invalid regular expression: {_worded(error.msg)}") from None
    if parts and (re.search(r"[*+?}]\?", pattern) or ("|" in pattern and found.groups)):
        raise unsupported(
            pattern, "lazy quantifiers, and alternatives beside groups, where the match counts"
        )
    return found


def _translated(pattern: str) -> str:
    pieces: list[str] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        if character == "\\":
            following = pattern[position + 1 : position + 2]
            pieces.append(_escaped(pattern, following))
            position += 2
        elif character == "[":
            end = _end_of_brackets(pattern, position)
            pieces.append(_brackets(pattern[position:end], pattern))
            position = end
        elif character == "$":
            pieces.append(r"\Z")
            position += 1
        elif character == "(" and pattern[position + 1 : position + 2] == "?":
            if not re.match(r"\(\?(?::|=|!|<=|<!)", pattern[position:]):
                raise unsupported(pattern, "this group in a regular expression")
            pieces.append(character)
            position += 1
        elif character == "{":
            bounds = _bounds(pattern, position)
            pieces.append(bounds)
            position += len(bounds.removeprefix("\\"))
        elif character in "*+?}" and pattern[position + 1 : position + 2] == "+":
            raise EngineError("2201B", "invalid regular expression: quantifier operand invalid")
        else:
            pieces.append(character)
            position += 1
    return "".join(pieces)


def _bounds(pattern: str, position: int) -> str:
    """``{2}``, ``{2,}`` or ``{2,3}``; before anything but a digit a brace is one."""
    if not pattern[position + 1 : position + 2].isdigit():
        return "\\{"
    found = _BOUNDS.match(pattern, position)
    if found is None:
        rest = re.match(r"\{\d+,?\d*\Z", pattern[position:])
        what = "braces {} not balanced" if rest else "invalid repetition count(s)"
        raise EngineError("2201B", f"invalid regular expression: {what}")
    least = int(found[1])
    most = int(found[2]) if found[2] else least
    if not least <= most <= _BOUND_MAX:
        raise EngineError("2201B", "invalid regular expression: invalid repetition count(s)")
    return found[0]


def _escaped(pattern: str, following: str) -> str:
    if not following:
        raise EngineError("2201B", "invalid regular expression: invalid escape \\ sequence")
    if not following.isalnum() or following in _KEPT or following.isdigit():
        return "\\" + following
    known = _ESCAPES.get(following)
    if known is None:
        raise unsupported(pattern, f"\\{following} in a regular expression")
    return known


def _end_of_brackets(pattern: str, start: int) -> int:
    position = start + 1
    if pattern[position : position + 1] == "^":
        position += 1
    if pattern[position : position + 1] == "]":
        position += 1
    while position < len(pattern) and pattern[position] != "]":
        if pattern[position : position + 2] in ("[:", "[.", "[="):
            close = pattern.find(pattern[position + 1] + "]", position + 2)
            position = len(pattern) if close < 0 else close + 2
        elif pattern[position] == "\\":
            position += 2
        else:
            position += 1
    if position >= len(pattern):
        raise EngineError("2201B", "invalid regular expression: brackets [] not balanced")
    return position + 1


def _brackets(text: str, pattern: str) -> str:
    def named(match: re.Match[str]) -> str:
        found = _CLASSES.get(match.group(1))
        if found is None:
            raise EngineError("2201B", "invalid regular expression: invalid character class")
        return found

    inner = re.sub(r"\[:(\w*):\]", named, text[1:-1])
    if "[." in inner or "[=" in inner:
        raise unsupported(pattern, "this bracket expression")
    inner = inner.replace("[", r"\[")
    for mark in ("&&", "||", "~~"):
        inner = inner.replace(mark, mark[0] + "\\" + mark[1])
    return f"[{inner}]"


def _worded(message: str) -> str:
    if "parenthes" in message or "missing )" in message:
        return "parentheses () not balanced"
    if "repeat" in message:
        return "quantifier operand invalid"
    if "backref" in message or "group reference" in message:
        return "invalid backreference number"
    if "character range" in message:
        return "invalid character range"
    return message
