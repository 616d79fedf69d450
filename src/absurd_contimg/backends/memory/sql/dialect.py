"""Postgres as the emulator reads it: sqlglot's parser, held to Postgres' precedence and names.

sqlglot translates between dialects, so it turns calls into classes of its own and forgets how they
were written, and its precedence differs where dialects do. Here a call stays a call by its name,
operators bind as in Postgres, and JSON keys and intervals stay the text they were. `check` refuses
a tree that holds anything the emulator does not compile, so that nothing is ignored in silence.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any

from sqlglot import exp
from sqlglot.dialects.postgres import Postgres

from absurd_contimg.backends.memory.errors import EngineError, Unsupported
from absurd_contimg.backends.memory.sql.scope import Node

PARAMETER = re.compile(r"__absurd_parameter_(\d+)__")
"""What a placeholder has become before the SQL is parsed."""
_OPERATORS = {
    "DPIPE": "||", "ARROW": "->", "DARROW": "->>", "HASH_ARROW": "#>", "DHASH_ARROW": "#>>",
    "PLACEHOLDER": "?", "AT_GT": "@>",
}  # fmt: skip
"""What Postgres calls other operators: one precedence, from the left."""


def _without_operators(parsers: dict[Any, Any]) -> dict[Any, Any]:
    return {token: parse for token, parse in parsers.items() if token.name not in _OPERATORS}


class EmulatedPostgres(Postgres):
    """The dialect."""

    class Parser(Postgres.Parser):  # type: ignore[misc, valid-type]
        """The parser."""

        FUNCTIONS: dict[str, Any] = {}  # noqa: RUF012 - sqlglot's way
        FUNCTION_PARSERS = {  # noqa: RUF012 - sqlglot's way
            name: Postgres.Parser.FUNCTION_PARSERS[name] for name in ("CAST", "EXTRACT")
        }
        NO_PAREN_FUNCTION_PARSERS = {  # noqa: RUF012 - sqlglot's way
            name: Postgres.Parser.NO_PAREN_FUNCTION_PARSERS[name] for name in ("ANY", "CASE")
        }
        LAMBDAS = _without_operators(Postgres.Parser.LAMBDAS)
        JSON_OPERATORS: dict[Any, Any] = {}  # noqa: RUF012 - sqlglot's way
        COLUMN_OPERATORS = _without_operators(Postgres.Parser.COLUMN_OPERATORS)
        RANGE_PARSERS = _without_operators(Postgres.Parser.RANGE_PARSERS)

        def _parse_bitwise(self) -> Any:
            this = self._parse_term()
            while self._curr is not None and self._curr.token_type.name in _OPERATORS:
                symbol = _OPERATORS[self._curr.token_type.name]
                self._advance()
                right = self._parse_term()
                this = exp.Operator(this=this, operator=symbol, expression=right)
            return this

        def _parse_type(self, *arguments: Any, **options: Any) -> Any:
            """``uuid '...'``, which binds more closely than ``::``."""
            index, here = self._index, self._curr
            if here and here.token_type in self.TYPE_TOKENS and here.token_type.name != "INTERVAL":
                kind = self._parse_types(check_func=True, allow_identifiers=False)
                if kind and self._curr is not None and self._curr.token_type.name == "STRING":
                    self._advance()
                    literal = exp.Literal.string(self._prev.text)
                    return self._parse_column_ops(exp.Cast(this=literal, to=kind))
                self._retreat(index)
            return super()._parse_type(*arguments, **options)

        def _parse_interval(self, *_: Any, **__: Any) -> Any:
            """``interval '...'`` with its text as it stands."""
            tokens = (self._curr, self._next)
            if [token and token.token_type.name for token in tokens] != ["INTERVAL", "STRING"]:
                return None
            self._advance(2)
            return exp.Interval(this=exp.Literal.string(self._prev.text))


def name_of(identifier: Node) -> str:
    """An identifier as Postgres folds it: lower case unless quoted."""
    name = str(identifier.name)
    return name if identifier.args.get("quoted") else name.lower()


def part(node: Node, name: str) -> Node | None:
    """A part of a node; some releases of sqlglot add an underscore to its name."""
    value = node.args.get(name)
    return value if value is not None else node.args.get(f"{name}_")


_TYPES = {
    "TEXT": "text", "SMALLINT": "int2", "INT": "int4", "BIGINT": "int8", "DOUBLE": "float8",
    "DECIMAL": "numeric", "BOOLEAN": "bool", "UUID": "uuid", "TIMESTAMPTZ": "timestamptz",
    "JSONB": "jsonb", "INTERVAL": "interval",
}  # fmt: skip


def type_name(node: Node) -> tuple[str, bool]:
    """The name of the type of a cast ("" for one that is not known), and whether it is an array."""
    named, items = node.this, node.expressions
    text = str(getattr(named, "value", named)).upper()
    if text == "ARRAY" and len(items) == 1:
        name, is_nested = type_name(items[0])
        return ("" if is_nested else name), True
    is_interval = isinstance(named, exp.Interval) and not named.args.get("unit")
    return ("interval" if is_interval else "" if items else _TYPES.get(text, "")), False


# -- what is known ------------------------------------------------------------------------------

_KNOWN: dict[str, frozenset[str]] = {
    name: frozenset(parts.split())
    for names, parts in {
        "Select": "expressions from joins where group having distinct locks order limit offset "
        "with",
        "Values": "expressions alias",
        "With Returning Tuple Group Distinct Order": "expressions",
        "Subquery CTE Alias": "this alias",
        "From Where Having Paren Neg Not Exists Any Boolean Var": "this",
        "Table": "this db alias joins",
        "TableAlias": "this columns",
        "Join": "this side kind on using",
        "Ordered": "this desc nulls_first",
        "Limit Offset": "expression",
        "Lock": "update wait key",
        "Insert": "this expression returning",
        "Update": "this expressions from where returning",
        "Delete": "this where returning",
        "Schema Anonymous": "this expressions",
        "Identifier": "this quoted",
        "Star Null CurrentTimestamp": "",
        "Column": "this table",
        "Dot And Or EQ NEQ LT LTE GT GTE Filter Kwarg Add Sub Mul Mod Extract": ("this expression"),
        "Is Like ILike": "this expression negate",
        "Div": "this expression typed safe",
        "Operator": "this operator expression",
        "Literal": "this is_string",
        "Between": "this low high",
        "In": "this expressions query",
        "Case": "this ifs default",
        "If": "this true",
        "Cast": "this to",
        "DataType": "this expressions nested kind",
        "Interval": "this unit",
    }.items()
    for name in names.split()
}
_NAMES = {
    "Window": "window functions", "RegexpLike": "regular expressions", "Bracket": "subscripts",
    "WithinGroup": "ordered sets", "OnConflict": "ON CONFLICT",
}  # fmt: skip
"""What a person calls the syntax of a class of nodes."""


def check(tree: Node, functions: Container[str]) -> None:
    """Refuse a statement with syntax or functions that are not compiled.

    Raises 42601 and 42P02 for what no Postgres takes.
    """
    for node in tree.walk():
        name = type(node).__name__
        is_name = name == "Identifier" and type(node.parent) is not exp.Column
        if is_name and PARAMETER.fullmatch(str(node.this)):
            raise EngineError("42601", "syntax error at a parameter")
        if name == "Parameter":
            raise EngineError("42P02", f"there is no parameter ${node.name}")
        is_call = name == "Anonymous" and not isinstance(node.parent, exp.Dot | exp.Table)
        if is_call and str(node.this).lower() not in functions:
            raise Unsupported(f"the function {node.this}")
        if name not in _KNOWN:
            raise Unsupported(_NAMES.get(name, f"this syntax ({name})"))
        for key, value in node.args.items():
            is_set = value is not None and value is not False and value != []
            if is_set and key.rstrip("_") not in _KNOWN[name]:
                raise Unsupported(f"{key.rstrip('_')} here ({name})")
