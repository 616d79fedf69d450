"""The text forms of Postgres' simple types: what each accepts and prints, how it refuses."""

from __future__ import annotations

import math
import re
from functools import lru_cache

from absurd_contimg.backends.memory.errors import EngineError, Unsupported, invalid_text

_SPACE = " \t\n\v\f\r"
_INTEGER = re.compile(
    r"[+-]?(?:(0x(?:_?[0-9a-f])+|0o(?:_?[0-7])+|0b(?:_?[01])+)|\d(?:_?\d)*)",
    re.ASCII | re.IGNORECASE,
)
INT_BITS = {"smallint": 16, "integer": 32, "bigint": 64}


def integer_in(text: str, type_name: str = "integer") -> int:
    """An integer type's input: 22P02 if it is none, 22003 if it does not fit."""
    if len(text) < 5 and text.isascii() and text.isdigit():  # which each type holds
        return int(text)
    word = text.strip(_SPACE)
    match = _INTEGER.fullmatch(word)
    if match is None:
        if re.match(r"[+-]?\d\w{4}", word):  # Postgres may see an overflow before what is wrong
            raise Unsupported(f"this form of an integer ({text})")
        raise invalid_text(type_name, text)
    limit = 1 << (INT_BITS[type_name] - 1)
    value = limit  # Python converts no more than 4,300 digits
    if len(word) <= 80 or len(word.lstrip("+-0xXoObB_")) <= 80:
        value = int(word, 0 if match[1] else 10)
    if not -limit <= value < limit:
        raise EngineError("22003", f'value "{text}" is out of range for type {type_name}')
    return value


def double_in(text: str) -> float:
    """``double precision`` input."""
    word = text.strip(_SPACE)
    bare = word.lower().removeprefix("-" if word[:1] == "-" else "+")
    if bare in ("nan", "inf", "infinity"):
        return float(word)
    try:
        value = float.fromhex(word) if bare.startswith("0x") else float(word)
    except OverflowError:
        value = math.inf
    except ValueError:
        raise invalid_text("double precision", text) from None
    if not word.isascii() or "_" in word:
        raise invalid_text("double precision", text)
    significand = re.split("[eEpP]", bare)[0]
    if math.isinf(value) or (
        value == 0 and any(digit in "123456789abcdef" for digit in significand.removeprefix("0x"))
    ):
        raise EngineError("22003", f'"{word}" is out of range for type double precision')
    return value


_BOOLEANS = {
    **dict.fromkeys(["t", "tr", "tru", "true", "y", "ye", "yes", "on", "1"], True),
    **dict.fromkeys(["f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0"], False),
}


def boolean_in(text: str) -> bool:
    """``boolean`` input: any unambiguous beginning of true, false, yes, no, on, off; 1 and 0."""
    value = _BOOLEANS.get(text.strip(_SPACE).lower())
    if value is None:
        raise invalid_text("boolean", text)
    return value


_HEX = re.compile("[0-9a-fA-F]{32}")
_UUID = re.compile(r"(\{)?((?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4})(?(1)\})\Z", re.ASCII)


def uuid_in(text: str) -> int:
    """``uuid`` input: a hyphen may follow each group of four digits, braces may enclose it."""
    if _HEX.fullmatch(text):  # as psycopg sends it
        return int(text, 16)
    match = _UUID.match(text)
    if match is None:
        raise invalid_text("uuid", text)
    return int(match.group(2).replace("-", ""), 16)


def uuid_out(value: int) -> str:
    """``uuid`` output."""
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def is_like(text: str, pattern: str, *, any_case: bool) -> bool:
    """``like`` and ``ilike``: 22025 where a match reaches a backslash that ends the pattern."""
    expression, is_cut = _like_expression(pattern, any_case)
    matches = expression.match(text) is not None
    if matches and is_cut:
        raise EngineError("22025", "LIKE pattern must not end with escape character")
    return matches


@lru_cache(maxsize=256)
def _like_expression(pattern: str, any_case: bool) -> tuple[re.Pattern[str], bool]:
    """A pattern as a regular expression; in the locale C only ASCII has cases.

    True with it: a backslash ends the pattern, and the expression matches what comes that far.
    """
    pieces: list[str] = []
    end, wildcards = r"\Z", ""  # those at the end, so far
    characters = iter(pattern)
    for character in characters:
        if character in "%_":
            pieces.append(".*" if character == "%" else ".")
            wildcards += character
            continue
        literal = next(characters, None) if character == "\\" else character
        if literal is None:  # Postgres looks at it while there is text, behind %_ without any too
            end = "" if "_" in wildcards.partition("%")[2] else "."
            break
        pieces.append(re.escape(literal))
        wildcards = ""
    flags = re.DOTALL | re.ASCII | (re.IGNORECASE if any_case else 0)
    return re.compile("".join(pieces) + end, flags), end != r"\Z"
