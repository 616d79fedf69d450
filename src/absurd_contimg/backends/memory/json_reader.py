"""JSON text read as Postgres reads it: whether it is accepted, and if not, why.

Python's decoder is faster, but it does not name the token that Postgres had not expected. This
reads what that decoder refuses.
"""

from __future__ import annotations

import re

from absurd_contimg.backends.memory.errors import EngineError

_TOKEN = re.compile(
    r"""[ \t\n\r]*(?:
        (?P<mark>[{}\[\],:])
      | (?P<string>"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*)
      | (?P<number>(?=[-0-9])-?(?:0|[1-9][0-9]*)?(?:\.[0-9]*)?(?:[eE][+-]?[0-9]*)?
                   [A-Za-z0-9_\x80-\U0010ffff]*)
      | (?P<word>[A-Za-z0-9_\x80-\U0010ffff]+)
      | (?P<other>.)
    )?""",
    re.VERBOSE | re.DOTALL,
)
"""A token, good or bad; of a string the well-formed part, without the quote that ends it."""

_SCALAR = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_CHARACTER = re.compile(r"\\u([0-9a-fA-F]{4})|\\?.", re.DOTALL)
_VALUE, _KEY, _COLON, _NEXT = "JSON value", "string", '":"', "end of input"


def refusal(detail: str) -> EngineError:
    """22P02, with its reason."""
    return EngineError("22P02", "invalid input syntax for type json", detail=detail)


def null_character() -> EngineError:
    """22P05, for a character that jsonb does not hold."""
    return EngineError(
        "22P05",
        "unsupported Unicode escape sequence",
        detail="\\u0000 cannot be converted to text.",
    )


def lone_surrogate(*, high_after_high: bool) -> EngineError:
    """22P02, for half of a surrogate pair."""
    if high_after_high:
        return refusal("Unicode high surrogate must not follow a high surrogate.")
    return refusal("Unicode low surrogate must follow a high surrogate.")


def check(text: str) -> None:
    """Raise Postgres' error if ``jsonb`` does not accept `text`."""
    closing: list[str] = []
    wanted, opened, position = _VALUE, False, 0
    while True:
        kind, token, position = _next(text, position)
        if closing and kind == closing[-1] and (opened or wanted == _NEXT):
            closing.pop()
            wanted = _NEXT
        elif wanted == _VALUE and kind in ("{", "["):
            closing.append("}" if kind == "{" else "]")
            wanted, opened = (_KEY if kind == "{" else _VALUE), True
            continue
        elif wanted == _VALUE and kind in ("string", "scalar"):
            wanted = _NEXT
        elif wanted == _KEY and kind == "string":
            wanted = _COLON
        elif wanted == _COLON and kind == ":":
            wanted = _VALUE
        elif wanted == _NEXT and kind == "," and closing:
            wanted = _KEY if closing[-1] == "}" else _VALUE
        elif wanted == _NEXT and not kind and not closing:
            return
        else:
            if wanted == _KEY and opened:
                wanted = 'string or "}"'
            elif wanted == _NEXT and closing:
                wanted = f'"," or "{closing[-1]}"'
            if not token:
                raise refusal("The input string ended unexpectedly.")
            raise refusal(f'Expected {wanted}, but found "{token}".')
        opened = False


def _next(text: str, position: int) -> tuple[str, str, int]:
    """The kind of the next token ("" at the end of the text), the token, and where it ends."""
    match = _TOKEN.match(text, position)
    assert match is not None  # it matches nothing at all, too
    group = match.lastgroup
    if group is None:
        return "", "", match.end()
    token, end = match[group], match.end()
    if group == "mark":
        return token, token, end
    if group == "string":
        start = match.start(group)
        _check_string(text, start, end)
        return "string", text[start : end + 1], end + 1
    if not _SCALAR.fullmatch(token):
        raise refusal(f'Token "{token}" is invalid.')
    return "scalar", token, end


def _check_string(text: str, start: int, end: int) -> None:
    """Raise unless the string whose well-formed part ends at `end` ends there."""
    rest = text[end : end + 6]
    cut = rest in ("", "\\") or rest.startswith("\\u")
    _check_escapes(text[start + 1 : end], cut=cut)
    if rest.startswith('"'):
        return
    if rest in ("", "\\"):
        raise refusal(f'Token "{text[start:]}" is invalid.')
    if not rest.startswith("\\"):
        raise refusal(f"Character with value 0x{ord(rest[0]):02x} must be escaped.")
    if rest[1] != "u":
        raise refusal(f'Escape sequence "{rest[:2]}" is invalid.')
    if len(rest) < 6 and re.fullmatch("[0-9a-fA-F]*", rest[2:]):
        raise refusal(f'Token "{text[start:]}" is invalid.')
    raise refusal('"\\u" must be followed by four hexadecimal digits.')


def _check_escapes(body: str, *, cut: bool) -> None:
    """Raise for an escaped character that jsonb does not hold; `cut`: a bad escape follows."""
    high = False
    for match in _CHARACTER.finditer(body):
        code = int(match[1], 16) if match[1] else ord(" ")
        is_high = 0xD800 <= code < 0xDC00
        if (0xDC00 <= code < 0xE000) is not high:
            raise lone_surrogate(high_after_high=high and is_high)
        if code == 0:
            raise null_character()
        high = is_high
    if high and not cut:
        raise lone_surrogate(high_after_high=False)
