"""How a procedure is declared: by the Python function that does what its SQL body does.

The function's annotations are the SQL types (see `schema`), its defaults the SQL defaults, and a
parameter ``queue_name`` is the SQL function's ``p_queue_name``. The SQL layer resolves calls by
`PROCEDURES`, and the drift report compares them with the schema of the installed ``absurdctl``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from absurd_contimg.backends.memory.schema import column, columns_of

SCHEMA_VERSION = "0.5.1"
F = TypeVar("F", bound=Callable[..., Any])
_NO_DEFAULT = inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of an SQL function."""

    name: str
    type_name: str
    value: Any = _NO_DEFAULT
    """Its default."""

    @property
    def has_default(self) -> bool:
        """Whether a call may leave it out."""
        return self.value is not _NO_DEFAULT


@dataclass(frozen=True, slots=True)
class Procedure:
    """A function of the schema ``absurd``: one value of type `returns`, or rows of `columns`."""

    name: str
    parameters: tuple[Parameter, ...]
    returns: str
    columns: tuple[tuple[str, str], ...]
    run: Callable[..., Any]
    many: bool
    """Whether it returns a list of rows; otherwise one row or value."""
    attributes: str
    body: str

    @property
    def strict(self) -> bool:
        """Whether a null argument makes the answer null."""
        return "strict" in self.attributes


PROCEDURES: dict[str, list[Procedure]] = {}
"""By name; two functions may share a name."""


def procedure(body: str, *, name: str = "", attributes: str = "") -> Callable[[F], F]:
    """Declare a procedure.

    `body` is the digest of the SQL body that the function follows, as the drift report computes it
    (``tests/conformance/drift.py``). When a release changes one, read the change, follow it in the
    function, let the comparison with Postgres pass, and only then change the digest. `attributes`
    is what Postgres may assume of the SQL function.
    """

    def declare(function: F) -> F:
        hints = get_type_hints(function, include_extras=True)
        result = hints.pop("return")
        many = get_origin(result) is list
        row = get_args(result)[0] if many else result
        columns: tuple[tuple[str, str], ...] = ()
        returns = "void" if row is type(None) else "record"
        if isinstance(row, type) and issubclass(row, tuple):
            columns = tuple((known.name, known.type_name) for known in columns_of(row))
        elif returns == "record":
            returns = column("", row).type_name
        parameters = tuple(
            Parameter(
                f"p_{parameter.name.strip('_')}",
                column("", hints[parameter.name]).type_name,
                parameter.default,
            )
            for parameter in list(inspect.signature(function).parameters.values())[1:]
        )
        label = name or function.__name__
        declared = Procedure(label, parameters, returns, columns, function, many, attributes, body)
        PROCEDURES.setdefault(label, []).append(declared)
        return function

    return declare
