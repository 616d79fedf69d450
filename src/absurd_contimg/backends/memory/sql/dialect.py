"""Postgres as the emulator reads it: sqlglot's parser, held to Postgres' precedence and names.

sqlglot translates between dialects, so it turns calls into classes of its own and forgets how
they were written, and its precedence differs where dialects do. Here a call stays a call by its
name, operators bind as in Postgres, and JSON keys and intervals stay the text they were.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp
from sqlglot.dialects.postgres import Postgres

_SPECIAL_SYNTAX = ("CAST", "EXTRACT", "OVERLAY", "POSITION", "SUBSTRING", "TRIM")
"""Functions whose arguments are not a plain list; `SUBSTRING` and others may be one."""


_OTHER: dict[str, str] = {
    "DPIPE": "||",
    "ARROW": "->",
    "DARROW": "->>",
    "HASH_ARROW": "#>",
    "DHASH_ARROW": "#>>",
    "PLACEHOLDER": "?",
    "QMARK_PIPE": "?|",
    "QMARK_AMP": "?&",
    "AT_GT": "@>",
    "LT_AT": "<@",
    "HASH_DASH": "#-",
    "DAMP": "&&",
    "AT_QMARK": "@?",
    "DAT": "@@",
    "RLIKE": "~",
    "IRLIKE": "~*",
    "AMP": "&",
    "PIPE": "|",
    "HASH": "#",
    "CARET_AT": "^@",
}
"""What Postgres calls other operators: one precedence, from the left."""
_REGULAR = ("RLIKE", "IRLIKE")


class EmulatedPostgres(Postgres):
    """The dialect."""

    INDEX_OFFSET = 0  # sqlglot moves the subscripts that it takes for integers; it misses some

    class Parser(Postgres.Parser):  # type: ignore[misc, valid-type]
        """The parser."""

        FUNCTIONS: dict[str, Any] = {}  # noqa: RUF012 - sqlglot's way
        FUNCTION_PARSERS = {  # noqa: RUF012 - sqlglot's way
            name: Postgres.Parser.FUNCTION_PARSERS[name] for name in _SPECIAL_SYNTAX
        }
        NO_PAREN_FUNCTION_PARSERS = {  # noqa: RUF012 - sqlglot's way
            name: Postgres.Parser.NO_PAREN_FUNCTION_PARSERS[name] for name in ("ANY", "CASE")
        }
        LAMBDAS = {  # noqa: RUF012 - sqlglot's way
            token: parse
            for token, parse in Postgres.Parser.LAMBDAS.items()
            if token.name != "ARROW"
        }
        JSON_OPERATORS: dict[Any, Any] = {}  # noqa: RUF012 - sqlglot's way
        COLUMN_OPERATORS = {  # noqa: RUF012 - sqlglot's way
            token: parse
            for token, parse in Postgres.Parser.COLUMN_OPERATORS.items()
            if token.name not in _OTHER
        }
        RANGE_PARSERS = {  # noqa: RUF012 - sqlglot's way
            token: parse
            for token, parse in Postgres.Parser.RANGE_PARSERS.items()
            if token.name not in _OTHER
        }

        def _parse_bitwise(self) -> Any:
            this = self._parse_term()
            while True:
                symbol = self._other_operator()
                if symbol is None:
                    return this
                right = self._parse_term()
                if this is None or right is None:
                    self.raise_error(f"operator {symbol} without an operand")
                this = exp.Operator(this=this, operator=symbol, expression=right)

        def _other_operator(self) -> str | None:
            """The operator that begins here, which is then behind; None if there is none."""
            here, after = self._curr, self._next
            if here is None:
                return None
            kind, following = here.token_type.name, after.token_type.name if after else ""
            adjacent = after is not None and here.end + 1 == after.start
            if kind == following and kind in ("LT", "GT") and adjacent:  # << and >>
                self._advance(2)
                return "<<" if kind == "LT" else ">>"
            if kind == "NOT" and here.text == "!" and following in _REGULAR:
                self._advance(2)
                return "!" + _OTHER[following]
            if kind not in _OTHER:
                return None
            self._advance()
            return _OTHER[kind]

        def _parse_type(self, *arguments: Any, **options: Any) -> Any:
            """``date '...'``, which binds more closely than ``::``."""
            index = self._index
            here = self._curr
            if here and here.token_type in self.TYPE_TOKENS and here.token_type.name != "INTERVAL":
                kind = self._parse_types(check_func=True, allow_identifiers=False)
                if kind and self._curr is not None and self._curr.token_type.name == "STRING":
                    self._advance()
                    literal = exp.Literal.string(self._prev.text)
                    return self._parse_column_ops(exp.Cast(this=literal, to=kind))
                self._retreat(index)
            return super()._parse_type(*arguments, **options)

        def _parse_interval(self, *_: Any, **__: Any) -> Any:
            """``interval '...'`` with its text as it stands, and a unit if one follows."""
            index = self._index
            if self._curr is None or self._curr.token_type.name != "INTERVAL":
                return None
            self._advance()
            if self._curr is None or self._curr.token_type.name != "STRING":
                self._retreat(index)
                return None
            self._advance()
            text = exp.Literal.string(self._prev.text)
            unit = None
            if self._curr is not None and self._curr.text.lower() in _UNITS:
                unit = exp.var(self._curr.text.lower())
                self._advance()
            return exp.Interval(this=text, unit=unit)


_UNITS = ("year", "month", "day", "hour", "minute", "second")


def sql_of(node: Any) -> str:
    """The node as SQL, for messages."""
    return str(node.sql(dialect=EmulatedPostgres))
