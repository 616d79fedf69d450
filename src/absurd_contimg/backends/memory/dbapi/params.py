"""From a query and Python's parameters to a statement and the engine's values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import psycopg
from psycopg import errors, sql
from psycopg.adapt import PyFormat

from absurd_contimg.backends.memory.session import Session
from absurd_contimg.backends.memory.sql.types import BY_OID, UNKNOWN, SqlType

_PLACEHOLDER = re.compile(r"%(?:%|\(([^)]+)\)([stb])|([stb])|(.)|\Z)", re.DOTALL)
STATEMENTS_KEPT_MAX = 512


class Prepared(NamedTuple):
    """A query with its placeholders replaced; `names` is None where they are positional."""

    text: str
    placeholders: int
    names: tuple[str, ...] | None


@lru_cache(maxsize=STATEMENTS_KEPT_MAX)
def prepare(query: str) -> Prepared:
    """Replace ``%s`` and ``%(name)s`` by names that the SQL layer knows as parameters."""
    names: list[str] = []
    count = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal count
        whole, name = match.group(0), match.group(1)
        if whole == "%%":
            return "%"
        if name is None and match.group(3) is None:
            raise _bad_placeholder(whole)
        if name is None:
            count += 1
            return f"__p{count - 1}__"
        if name not in names:
            names.append(name)
        return f"__p{names.index(name)}__"

    text = _PLACEHOLDER.sub(replace, query)
    if names and count:
        raise psycopg.ProgrammingError("positional and named placeholders cannot be mixed")
    return Prepared(text, count or len(names), tuple(names) if names else None)


def _bad_placeholder(found: str) -> psycopg.ProgrammingError:
    if found in ("%", "% "):
        return psycopg.ProgrammingError(
            "incomplete placeholder: '%'; if you want to use '%' as an operator you can double "
            "it up, i.e. use '%%'"
        )
    if found == "%(":
        return psycopg.ProgrammingError("incomplete placeholder: '%('")
    return psycopg.ProgrammingError(
        f"only '%s', '%b', '%t' are allowed as placeholders, got '{found}'"
    )


def query_text(query: str | bytes | sql.Composable, context: Any) -> str:
    """The query as text."""
    if isinstance(query, sql.Composable):
        return query.as_string(context)
    return query.decode() if isinstance(query, bytes) else query


def ordered(prepared: Prepared, params: Sequence[Any] | Mapping[str, Any]) -> Sequence[Any]:
    """The parameters in the order of their numbers; psycopg's errors where they do not fit."""
    if isinstance(params, Mapping):
        if prepared.names is None:
            if prepared.placeholders:
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
    if len(params) != prepared.placeholders:
        raise psycopg.ProgrammingError(
            f"the query has {prepared.placeholders} placeholders but {len(params)} parameters "
            "were passed"
        )
    if params and prepared.names is not None:
        raise TypeError("named placeholders require a mapping of parameters")
    return params


def dumped(values: Sequence[Any], transformer: Any) -> tuple[tuple[SqlType, ...], list[str | None]]:
    """The types and text forms that psycopg's adapters give the parameters."""
    formats = [PyFormat.TEXT] * len(values)
    data = transformer.dump_sequence(values, formats)
    types = tuple(_type(oid) for oid in transformer.types or ())
    texts = [None if item is None else bytes(item).decode() for item in data]
    for text in texts:
        if text is not None and "\0" in text:
            raise errors.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return types, texts


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


def read(types: Sequence[SqlType], texts: Sequence[str | None], session: Session) -> list[Any]:
    """The engine's values of the parameters."""
    return [
        None if text is None else kind.read(text, session)
        for kind, text in zip(types, texts, strict=True)
    ]
