"""Which syntax the emulator understands: every node and every part of a node.

sqlglot parses far more than is compiled here, and a part that nobody looks at would be ignored in
silence: ``tablesample``, ``with ties``, ``numeric(4, 1)``. So a statement is refused whole if its
tree holds anything that is not listed.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.expressions import PARAMETER

_QUERY = "with with_ order limit offset"
_KNOWN: dict[str, frozenset[str]] = {
    name: frozenset(parts.split())
    for names, parts in {
        "Select": "expressions from from_ joins where group having distinct locks windows "
        f"{_QUERY}",
        "Union Intersect Except": f"this expression distinct {_QUERY}",
        "Values": f"expressions alias {_QUERY}",
        "Subquery": f"this alias {_QUERY}",
        "With": "expressions recursive",
        "CTE": "this alias materialized",
        "From Where Having Paren Alias Returning": "this expressions alias",
        "Table": "this db alias joins ordinality",
        "TableAlias": "this columns",
        "ColumnDef": "this kind",
        "Join": "this side kind on using method",
        "Lateral": "this alias ordinality",
        "Unnest": "expressions alias offset",
        "Tuple Rollup Cube GroupingSets": "expressions",
        "Group": "expressions all",
        "Order": "this expressions",
        "Ordered": "this desc nulls_first",
        "Limit Offset": "expression",
        "Fetch": "count direction limit_options",
        "LimitOptions": "rows",
        "Distinct": "expressions on",
        "Lock": "update expressions wait key",
        "Insert": "this expression conflict returning default with with_",
        "OnConflict": "expressions action conflict_keys where constraint",
        "Update": "this expressions from from_ where returning with with_",
        "Delete": "this using where returning with with_",
        "Schema": "this expressions",
        "Identifier": "this quoted",
        "Star Null CurrentDate CurrentTimestamp Localtimestamp CurrentUser SessionUser "
        "CurrentSchema CurrentCatalog": "",
        "Column": "this table db",
        "Dot And Or EQ NEQ LT LTE GT GTE NullSafeEQ NullSafeNEQ Escape Collate SimilarTo Filter "
        "WithinGroup Kwarg PropertyEQ Slice Add Sub Mul Mod Pow Extract": "this expression",
        "Div": "this expression typed safe",
        "Operator": "this operator expression",
        "Literal": "this is_string",
        "Boolean Var Neg BitwiseNot Not Exists Any All ByteString RawString DataTypeParam": "this",
        "Is": "this expression negate",
        "Between": "this low high symmetric",
        "In": "this expressions query",
        "Like ILike": "this expression negate",
        "Case": "this ifs default",
        "If": "this true",
        "Cast": "this to",
        "DataType": "this expressions nested kind",
        "ObjectIdentifier": "this",
        "Interval": "this unit",
        "Array": "expressions",
        "Bracket": "this expressions",
        "AtTimeZone": "this zone",
        "Anonymous": "this expressions",
        "Window": "this partition_by order spec over alias",
        "WindowSpec": "kind start start_side end end_side",
        "Substring": "this start length",
        "Trim": "this position expression",
        "StrPosition": "this substr",
        "Overlay": "this expression from_ from for_ for",
        "Parameter": "this",
    }.items()
    for name in names.split()
}


def check(tree: Any, text: str) -> None:
    """42601 for what no Postgres takes, 0A000 for syntax that is not compiled here."""
    for node in tree.walk():
        name = type(node).__name__
        known = _KNOWN.get(name)
        if name == "Identifier" and _is_placeholder(node) and type(node.parent) is not exp.Column:
            raise EngineError("42601", f"syntax error at a parameter in: {text.strip()}")
        if name == "Concat":
            raise EngineError("42601", f"syntax error in: {text.strip()}")
        if known is None:
            raise unsupported(sql_of(node), f"this syntax ({name})")
        for part, value in node.args.items():
            if part not in known and _is_set(value):
                raise unsupported(sql_of(node), f"{part.rstrip('_')} here ({name})")


def _is_placeholder(node: Any) -> bool:
    return not node.args.get("quoted") and PARAMETER.fullmatch(str(node.this)) is not None


def _is_set(value: Any) -> bool:
    return value is not None and value is not False and value != []
