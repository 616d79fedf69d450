"""JSON text read as Postgres reads it, token by token: whether it is taken, and if not, why.

Python's decoder is faster, but it says where it gave up, and Postgres which token it had not
expected. So this reads what that decoder has refused, and ``json``, for which the decoder is too
strict.
"""

from __future__ import annotations

import re
from typing import NoReturn

from absurd_contimg.backends.memory.errors import EngineError

_MESSAGE = "invalid input syntax for type json"
HIGH_AFTER_HIGH = "Unicode high surrogate must not follow a high surrogate."
LOW_ALONE = "Unicode low surrogate must follow a high surrogate."

_SPACE = re.compile(r"[ \t\n\r]*")
_WORD = re.compile(r"[A-Za-z0-9_\x80-\U0010ffff]+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?\Z")
_BAD_NUMBER = re.compile(
    r"-?(?:0|[1-9][0-9]*)?(?:\.[0-9]*)?(?:[eE][+-]?[0-9]*)?[A-Za-z0-9_\x80-\U0010ffff]*"
)
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_VALUES = "value"
_END = ""


def check(text: str, *, unescapes: bool) -> None:
    """Raise Postgres' error if it would not take `text`.

    ``jsonb`` looks at the characters that are escaped, ``json`` does not: `unescapes`.
    """
    _Reader(text, unescapes=unescapes).read()


def refusal(detail: str) -> EngineError:
    """22P02, with its reason."""
    return EngineError("22P02", _MESSAGE, detail=detail)


class _Reader:
    """One token ahead, as Postgres reads: `kind` is the token, `_VALUES` for a scalar."""

    def __init__(self, text: str, *, unescapes: bool) -> None:
        self.text = text
        self.unescapes = unescapes
        self.start = self.end = 0
        self.kind = _END
        self.is_string = False

    def read(self) -> None:
        """Read all of it; raises at the first thing that is wrong."""
        self.next()
        self.value()
        if self.kind != _END:
            self.unexpected("end of input")

    def value(self) -> None:
        """A value with everything in it; `closing` holds what ends the objects and arrays."""
        closing: list[str] = []
        while True:
            if self.kind in ("{", "["):
                closing.append("}" if self.kind == "{" else "]")
                self.next()
                if self.kind != closing[-1]:
                    if closing[-1] == "}":
                        self.key('string or "}"')
                    continue
            elif self.kind != _VALUES:
                self.unexpected("JSON value")
            else:
                self.next()
            while closing and self.kind == closing[-1]:
                closing.pop()
                self.next()
            if not closing:
                return
            if self.kind != ",":
                self.unexpected(f'"," or "{closing[-1]}"')
            self.next()
            if closing[-1] == "}":
                self.key("string")

    def key(self, wanted: str) -> None:
        """The key of a field and its colon."""
        if not self.is_string:
            self.unexpected(wanted)
        self.next()
        if self.kind != ":":
            self.unexpected('":"')
        self.next()

    def unexpected(self, wanted: str) -> NoReturn:
        """What stands here is not what should."""
        if self.kind == _END:
            raise refusal("The input string ended unexpectedly.")
        raise refusal(f'Expected {wanted}, but found "{self.text[self.start : self.end]}".')

    def next(self) -> None:
        """Go on to the next token."""
        space = _SPACE.match(self.text, self.end)
        assert space is not None
        self.start = self.end = space.end()
        self.is_string = False
        first = self.text[self.start : self.start + 1]
        if first in ("", "{", "}", "[", "]", ",", ":"):
            self.kind, self.end = first, self.start + len(first)
            return
        self.kind = _VALUES
        if first == '"':
            self.string()
        elif first == "-" or first in "0123456789":
            number = _BAD_NUMBER.match(self.text, self.start)
            assert number is not None
            self.end = number.end()
            if _NUMBER.match(number[0]) is None:
                self.invalid()
        else:
            word = _WORD.match(self.text, self.start)
            self.end = self.start + 1 if word is None else word.end()
            if word is None or word[0] not in ("true", "false", "null"):
                self.invalid()

    def invalid(self) -> NoReturn:
        """The token from `start` to `end` is none."""
        raise refusal(f'Token "{self.text[self.start : self.end]}" is invalid.')

    def string(self) -> None:
        """A string, and what it escapes."""
        self.is_string = True
        at, high = self.start + 1, False
        while True:
            char = self.text[at : at + 1]
            if not char:
                self.end = at
                self.invalid()
            if char == "\\":
                at, high = self.escape(at + 1, high=high)
                continue
            if high:
                raise refusal(LOW_ALONE)
            if char == '"':
                self.end = at + 1
                return
            if char < " ":
                raise refusal(f"Character with value 0x{ord(char):02x} must be escaped.")
            at += 1

    def escape(self, at: int, *, high: bool) -> tuple[int, bool]:
        """What follows a backslash; where it ends, and whether it is half of a pair."""
        char = self.text[at : at + 1]
        if not char:
            self.end = at
            self.invalid()
        if char != "u":
            if high:
                raise refusal(LOW_ALONE)
            if char not in '"\\/bfnrt':
                raise refusal(f'Escape sequence "\\{char}" is invalid.')
            return at + 1, False
        digits = _HEX.match(self.text, at + 1)
        if digits is None:
            rest = self.text[at + 1 : at + 5]
            if len(rest) < 4 and re.fullmatch("[0-9a-fA-F]*", rest):
                self.end = len(self.text)
                self.invalid()
            raise refusal('"\\u" must be followed by four hexadecimal digits.')
        if not self.unescapes:
            return at + 5, False
        return at + 5, self.half(int(digits[0], 16), high=high)

    def half(self, code: int, *, high: bool) -> bool:
        """Whether `code` is the first half of a pair; `high` if it follows one."""
        if 0xD800 <= code < 0xDC00:
            if high:
                raise refusal(HIGH_AFTER_HIGH)
            return True
        if (0xDC00 <= code < 0xE000) is not high:
            raise refusal(LOW_ALONE)
        if code == 0:
            raise EngineError(
                "22P05",
                "unsupported Unicode escape sequence",
                detail="\\u0000 cannot be converted to text.",
            )
        return False
