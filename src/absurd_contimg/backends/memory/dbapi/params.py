"""From a query and Python's parameters to a statement and the engine's values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import psycopg
from psycopg import errors, sql
from psycopg.adapt import PyFormat

from absurd_contimg.backends.memory.sql.types import BY_OID, UNKNOWN, SqlType

_PLACEHOLDER = re.compile(r"%(?:\(([^)]+)\).|.)")
STATEMENTS_KEPT_MAX = 512


class Prepared(NamedTuple):
    """A query with its placeholders replaced; `names` is None where they are positional."""

    text: str
    placeholders: int
    names: tuple[str, ...] | None
    formats: str
    """The letter of each placeholder: s, b or t."""


@lru_cache(maxsize=STATEMENTS_KEPT_MAX)
def prepare(query: str) -> Prepared:
    """Replace ``%s`` and ``%(name)s`` by names that the SQL layer knows as parameters."""
    names: dict[str, tuple[int, str]] = {}
    letters: list[str] = []

    def replace(match: re.Match[str]) -> str:
        whole, name = match.group(0), match.group(1)
        if whole == "%%":
            return "%"
        _check_placeholder(whole, query[match.start() :])
        if (names and name is None) or (letters and name is not None):
            raise psycopg.ProgrammingError("positional and named placeholders cannot be mixed")
        if name is None:
            letters.append(whole[-1])
            return f"__absurd_parameter_{len(letters) - 1}__"
        number, form = names.setdefault(name, (len(names), whole[-1]))
        if form != whole[-1]:
            raise psycopg.ProgrammingError(f"placeholder '{name}' cannot have different formats")
        return f"__absurd_parameter_{number}__"

    text = _PLACEHOLDER.sub(replace, query)
    if (names or letters) and _QUOTE.search(text):
        text = _QUOTED.sub(lambda found: _OURS.sub(_dollar, found[0]), text)
    formats = "".join(letters or [form for _, form in names.values()])
    return Prepared(text, len(formats), tuple(names) if names else None, formats)


_OURS = re.compile(r"__absurd_parameter_(\d+)__")
_QUOTE = re.compile("['\"]")
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\w*)\$.*?\$\1\$|--[^\n]*""", re.DOTALL)


def _dollar(match: re.Match[str]) -> str:
    """A placeholder inside of quotes is none: the server sees the text that psycopg made of it."""
    return f"${int(match[1]) + 1}"


def _check_placeholder(found: str, rest: str) -> None:
    """psycopg's own errors for what is no placeholder."""
    if found == "%(":
        raise psycopg.ProgrammingError(f"incomplete placeholder: '{rest.split(maxsplit=1)[0]}'")
    if found == "% ":
        raise psycopg.ProgrammingError(
            "incomplete placeholder: '%'; if you want to use '%' as an operator you can double "
            "it up, i.e. use '%%'"
        )
    if found[-1] not in "sbt":
        raise psycopg.ProgrammingError(
            f"only '%s', '%b', '%t' are allowed as placeholders, got '{found}'"
        )


def query_text(query: str | bytes | sql.Composable, context: Any) -> str:
    """The query as text."""
    if isinstance(query, sql.Composable):
        return query.as_string(context)
    if isinstance(query, bytes):
        return query.decode()
    if not isinstance(query, str):
        raise TypeError(f"expected bytes, {type(query).__qualname__} found")
    return query


def ordered(prepared: Prepared, params: Sequence[Any] | Mapping[str, Any]) -> Sequence[Any]:
    """The parameters in the order of their numbers; psycopg's errors where they do not fit."""
    length = len(params)
    if isinstance(params, Mapping):
        if prepared.names is None:
            if prepared.placeholders and length:
                raise TypeError("positional placeholders (%s) require a sequence of parameters")
            return ()
        missing = sorted(name for name in prepared.names if name not in params)
        if missing:
            raise psycopg.ProgrammingError(f"query parameter missing: {', '.join(missing)}")
        return [params[name] for name in prepared.names]
    if isinstance(params, str | bytes) or not isinstance(params, Sequence):
        raise TypeError(
            f"query parameters should be a sequence or a mapping, got {type(params).__qualname__}"
        )
    if length != prepared.placeholders:
        raise psycopg.ProgrammingError(
            f"the query has {prepared.placeholders} placeholders but {length} parameters "
            "were passed"
        )
    if params and prepared.names is not None:
        raise TypeError("named placeholders require a mapping of parameters")
    return params


def dumped(
    values: Sequence[Any], formats: str, transformer: Any
) -> tuple[tuple[SqlType, ...], list[str | None]]:
    """The types and text forms that psycopg's adapters give the parameters."""
    try:
        data = transformer.dump_sequence(values, [PyFormat.TEXT] * len(values))
        oids = list(transformer.types or ())
        for place, letter in enumerate(formats if "b" in formats else ""):
            if letter == "b" and values[place] is not None:  # of its type, though text here
                oids[place] = transformer.get_dumper(values[place], PyFormat.BINARY).oid
    except psycopg.ProgrammingError:
        _refuse(values, formats, transformer)
        raise
    types = tuple(map(_type, oids))
    texts = [None if item is None else bytes(item).decode() for item in data]
    for text in texts:
        if text is not None and "\0" in text:
            raise errors.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return types, texts


def _refuse(values: Sequence[Any], formats: str, transformer: Any) -> None:
    """psycopg's error for the first value that it cannot adapt, with the placeholder as written."""
    for value, letter in zip(values, formats, strict=True):
        if value is not None:
            transformer.get_dumper(value, _FORMATS[letter])


_FORMATS = {"s": PyFormat.AUTO, "b": PyFormat.BINARY, "t": PyFormat.TEXT}


def _type(oid: int) -> SqlType:
    if oid == 0:
        return UNKNOWN
    found = BY_OID.get(oid)
    if found is None:
        raise psycopg.NotSupportedError(
            f"the in-memory Absurd does not know parameters of the type with oid {oid}; "
            "pass the value as text"
        )
    return found
