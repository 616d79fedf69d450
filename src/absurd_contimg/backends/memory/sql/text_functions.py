"""Functions of text: cutting, padding, searching, patterns, encodings."""

from __future__ import annotations

import base64
import hashlib
import re
import string
from typing import Any

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.session_state import SessionState as Session
from absurd_contimg.backends.memory.sql import matches, patterns
from absurd_contimg.backends.memory.sql.coercion import as_text, converted, determined
from absurd_contimg.backends.memory.sql.registry import (
    anything,
    builtin,
    polymorphic,
    textual,
)
from absurd_contimg.backends.memory.sql.scope import Env, Expr
from absurd_contimg.backends.memory.sql.types import (
    ARRAYS,
    BOOL,
    BYTEA,
    INT4,
    INT8,
    TEXT,
)

TEXTS = ARRAYS["text"]


def _substring(_: Session, text: Any, start: int, length: int | None = None) -> Any:
    if length is not None and length < 0:
        raise EngineError("22011", "negative substring length not allowed")
    end = None if length is None else max(start + length - 1, 0)
    return text[max(start - 1, 0) : end]


def _substring_similar(_: Session, *__: str) -> str:
    raise unsupported("substring", "substring by a pattern of similar to")


def _substring_match(_: Session, text: str, pattern: str) -> str | None:
    found = matches.first(patterns.regular(pattern, parts=True), text)
    if found is None:
        return None
    return found.group(1) if found.re.groups else found.group()


def _left(_: Session, text: str, count: int) -> str:
    return text[:count] if count >= 0 else text[: max(len(text) + count, 0)]


def _right(_: Session, text: str, count: int) -> str:
    if count < 0:
        return text[-count:]
    return text[len(text) - count :] if count < len(text) else text


def _split_part(_: Session, text: str, delimiter: str, index: int) -> str:
    if index == 0:
        raise EngineError("22023", "field position must not be zero")
    if not text:
        return ""
    parts = text.split(delimiter) if delimiter else [text]
    position = index - 1 if index > 0 else len(parts) + index
    return parts[position] if 0 <= position < len(parts) else ""


def _pad(text: str, size: int, fill: str, *, left: bool) -> str:
    if len(text) >= size:
        return text[: max(size, 0)]
    if not fill:
        return text
    missing = size - len(text)
    padding = (fill * (missing // len(fill) + 1))[:missing]
    return padding + text if left else text + padding


def _initcap(text: str) -> str:
    return "".join(
        lower(character) if index and _is_word(text[index - 1]) else upper(character)
        for index, character in enumerate(text)
    )


def _is_word(character: str) -> bool:
    return character.isascii() and character.isalnum()


def upper(text: str) -> str:
    """In upper case; as in the locale C, only letters of ASCII change."""
    return text.translate(_UPPER)


def lower(text: str) -> str:
    """In lower case; as in the locale C, only letters of ASCII change."""
    return text.translate(_LOWER)


_UPPER = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def _chr(_: Session, code: int) -> str:
    if code == 0:
        raise EngineError("54000", "null character not permitted")
    if code < 0:
        raise EngineError("22023", "character number must be positive")
    if not 0 < code < 0x110000 or 0xD800 <= code < 0xE000:
        raise EngineError(
            "54000",
            f"requested character not valid for encoding: {code}"
            if code < 0x110000
            else f"requested character too large for encoding: {code}",
        )
    return chr(code)


def _translate(_: Session, text: str, source: str, target: str) -> str:
    table: dict[int, str | None] = {}
    for index, character in enumerate(source):
        table.setdefault(ord(character), target[index] if index < len(target) else None)
    return text.translate(table)


def _overlay(_: Session, text: str, new: str, start: int, count: int | None = None) -> str:
    if start <= 0:
        raise EngineError("22011", "negative substring length not allowed")
    size = len(new) if count is None else count
    return text[: start - 1] + new + text[max(start - 1 + size, 0) :]


def _string_to_array(values: list[Expr], name: str) -> Expr:
    parts = [converted(value, TEXT).value for value in values]

    def value(env: Env) -> list[str | None] | None:
        text, delimiter, *rest = (part(env) for part in parts)
        if text is None:
            return None
        null = rest[0] if rest else None
        if not text:
            return []
        found = list(text) if delimiter is None else text.split(delimiter) if delimiter else [text]
        return [None if item == null and null is not None else item for item in found]

    return Expr(TEXTS, value, name)


def _regexp_replace(_: Session, text: str, pattern: str, replacement: str, flags: str = "") -> str:
    found = patterns.regular(pattern, flags, parts=True)
    return matches.replaced(found, text, replacement, everywhere="g" in flags)


def _regexp_match(_: Session, text: str, pattern: str, flags: str = "") -> list[str | None] | None:
    if "g" in flags:
        raise EngineError(
            "22023",
            'regexp_match() does not support the "global" option',
            hint="Use the regexp_matches function instead.",
        )
    found = matches.first(patterns.regular(pattern, flags, parts=True), text)
    if found is None:
        return None
    return list(found.groups()) if found.re.groups else [found.group()]


def _encode(_: Session, data: bytes, form: str) -> str:
    if form.lower() == "hex":
        return data.hex()
    if form.lower() == "base64":
        text = base64.b64encode(data).decode()
        return "\n".join(text[start : start + 76] for start in range(0, len(text), 76))
    raise unsupported(form, "encode in this form")


def _decode(_: Session, text: str, form: str) -> bytes:
    try:
        if form.lower() == "hex":
            return bytes.fromhex(text)
        if form.lower() == "base64":
            return base64.b64decode(re.sub(r"\s", "", text), validate=True)
    except ValueError as error:
        raise EngineError("22023", f"invalid {form.lower()} data: {error}") from None
    raise unsupported(form, "decode in this form")


@polymorphic("concat", takes=(anything,), more=anything)
def concat(arguments: list[Expr], name: str) -> Expr:
    """``concat``: nulls count as empty."""
    parts = [as_text(determined(expr)).value for expr in arguments]
    return Expr(TEXT, lambda env: "".join(part(env) or "" for part in parts), name)


@polymorphic("concat_ws", takes=(textual, anything), more=anything)
def _concat_ws(arguments: list[Expr], name: str) -> Expr:
    first, *others = arguments
    parts = [as_text(first).value, *(as_text(determined(expr)).value for expr in others)]

    def value(env: Env) -> str | None:
        separator, *found = (part(env) for part in parts)
        if separator is None:
            return None
        return str(separator).join([item for item in found if item is not None])

    return Expr(TEXT, value, name)


@polymorphic("regexp_split_to_array", takes=(textual, textual, textual), optional=1)
def split_by_pattern(arguments: list[Expr], name: str) -> Expr:
    """The parts of a text between what a pattern matches."""
    values = [converted(item, TEXT).value for item in arguments]

    def value(env: Env) -> list[str] | None:
        found = [one(env) for one in values]
        if None in found:
            return None
        pattern = patterns.regular(found[1], *found[2:], parts=True)
        return matches.split(pattern, found[0])

    return Expr(TEXTS, value, name)


polymorphic("string_to_array", takes=(textual, textual, textual), optional=1)(_string_to_array)
builtin("lower", (TEXT,), TEXT, lambda _, a: lower(a))
builtin("upper", (TEXT,), TEXT, lambda _, a: upper(a))
builtin("initcap", (TEXT,), TEXT, lambda _, a: _initcap(a))
for _name in ("length", "char_length", "character_length"):
    builtin(_name, (TEXT,), INT4, lambda _, a: len(a))
builtin("length", (BYTEA,), INT4, lambda _, a: len(a))
builtin("octet_length", (TEXT,), INT4, lambda _, a: len(a.encode()))
builtin("octet_length", (BYTEA,), INT4, lambda _, a: len(a))
builtin("btrim", (TEXT, TEXT), TEXT, lambda _, a, b=" ": a.strip(b) if b else a, 1)
builtin("ltrim", (TEXT, TEXT), TEXT, lambda _, a, b=" ": a.lstrip(b) if b else a, 1)
builtin("rtrim", (TEXT, TEXT), TEXT, lambda _, a, b=" ": a.rstrip(b) if b else a, 1)
builtin("substring", (TEXT, TEXT, TEXT), TEXT, _substring_similar)
for _name in ("substring", "substr"):
    builtin(_name, (TEXT, INT4, INT4), TEXT, _substring, 1)
    builtin(_name, (BYTEA, INT4, INT4), BYTEA, _substring, 1)
builtin("substring", (TEXT, TEXT), TEXT, _substring_match)
builtin("left", (TEXT, INT4), TEXT, _left)
builtin("right", (TEXT, INT4), TEXT, _right)
for _name in ("position", "strpos"):
    builtin(_name, (TEXT, TEXT), INT4, lambda _, a, b: a.find(b) + 1)
builtin("split_part", (TEXT, TEXT, INT4), TEXT, _split_part)
builtin("replace", (TEXT, TEXT, TEXT), TEXT, lambda _, a, b, c: a.replace(b, c) if b else a)
builtin("repeat", (TEXT, INT4), TEXT, lambda _, a, b: a * max(b, 0))
builtin("reverse", (TEXT,), TEXT, lambda _, a: a[::-1])
builtin("lpad", (TEXT, INT4, TEXT), TEXT, lambda _, a, b, c=" ": _pad(a, b, c, left=True), 1)
builtin("rpad", (TEXT, INT4, TEXT), TEXT, lambda _, a, b, c=" ": _pad(a, b, c, left=False), 1)
builtin("starts_with", (TEXT, TEXT), BOOL, lambda _, a, b: a.startswith(b))
builtin("ascii", (TEXT,), INT4, lambda _, a: ord(a[0]) if a else 0)
builtin("chr", (INT4,), TEXT, _chr)
builtin("translate", (TEXT, TEXT, TEXT), TEXT, _translate)
builtin("overlay", (TEXT, TEXT, INT4, INT4), TEXT, _overlay, 1)
builtin("to_hex", (INT4,), TEXT, lambda _, a: format(a % (1 << 32), "x"))
builtin("to_hex", (INT8,), TEXT, lambda _, a: format(a % (1 << 64), "x"))
builtin("regexp_replace", (TEXT, TEXT, TEXT, TEXT), TEXT, _regexp_replace, 1)
builtin("regexp_match", (TEXT, TEXT, TEXT), TEXTS, _regexp_match, 1)
builtin(
    "regexp_like",
    (TEXT, TEXT, TEXT),
    BOOL,
    lambda _, a, b, c="": patterns.regular(b, c).search(a) is not None,
    1,
)
builtin(
    "md5", (TEXT,), TEXT, lambda _, a: hashlib.md5(a.encode(), usedforsecurity=False).hexdigest()
)
builtin("md5", (BYTEA,), TEXT, lambda _, a: hashlib.md5(a, usedforsecurity=False).hexdigest())
builtin("sha256", (BYTEA,), BYTEA, lambda _, a: hashlib.sha256(a).digest())
builtin("encode", (BYTEA, TEXT), TEXT, _encode)
builtin("decode", (TEXT, TEXT), BYTEA, _decode)
builtin("hashtext", (TEXT,), INT4, lambda _, a: _no_hash(a))


def _no_hash(text: str) -> int:
    raise unsupported(text, "hashtext, whose value is Postgres' own")
