"""What a compiled expression is, which names it may use, and what it is evaluated in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from absurd_contimg.backends.memory.errors import EngineError, Unsupported
from absurd_contimg.backends.memory.session_state import SessionState
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values.types import TEXT, UNKNOWN, ColumnInfo, Row, SqlType

Node = Any
"""A node of sqlglot's trees; the name of their base class differs between its releases."""
Place = tuple[int, int]
"""A column of a query: the number of its source, and its number in the source."""


class Env:
    """What an expression is evaluated in: the transaction, the statement's values, the rows."""

    __slots__ = ("aggregates", "cache", "outer", "rows", "session", "tx", "values")

    def __init__(self, tx: Transaction, values: Sequence[Any], outer: Env | None = None) -> None:
        self.tx = tx
        self.session: SessionState = tx.session
        self.values = values
        """Of the parameters, then of what is read before the statement runs."""
        self.outer = outer
        self.rows: Sequence[Row | None] = ()
        """The current row of each source; None where an outer join finds none."""
        self.aggregates: list[Any] = []
        self.cache: dict[object, Any] = {} if outer is None else outer.cache
        """Answers of queries that are the same for every row of the statement."""

    def with_rows(self, rows: Sequence[Row | None]) -> Env:
        """The same query at other rows."""
        made = Env(self.tx, self.values, self.outer)
        made.rows, made.cache = rows, self.cache
        return made


Evaluate = Callable[[Env], Any]
Fetch = Callable[[Env], list[Row]]


class Literal(NamedTuple):
    """A quoted literal, a null or a parameter whose type depends on where it stands."""

    plan: Plan
    text: str | None
    parameter: int | None = None


class Expr(NamedTuple):
    """A compiled expression."""

    kind: SqlType
    value: Evaluate
    name: str = "?column?"
    weak: bool = False
    """Whether the name gives way to that of a cast or a ``case`` around it."""
    literal: Literal | None = None
    """Set where the type is not known yet."""
    rows: Fetch | None = None
    """For a procedure that returns a set: its rows."""

    @classmethod
    def column(cls, kind: SqlType, place: Place, name: str = "?column?", depth: int = 0) -> Expr:
        """A column of the current row, `depth` queries further out."""
        index, position = place

        def outside(env: Env) -> Any:
            for _ in range(depth):
                assert env.outer is not None
                env = env.outer
            return None if (row := env.rows[index]) is None else row[position]

        def here(env: Env) -> Any:
            return None if (row := env.rows[index]) is None else row[position]

        return cls(kind, outside if depth else here, name)


class Plan:
    """What a statement reads before it runs, needed or not: tables, literals, then parameters."""

    def __init__(self, parameters: Sequence[SqlType]) -> None:
        self.kinds = list(parameters)
        """The types of the parameters; one without a type takes that of its first use."""
        self._steps: list[Evaluate] = []

    def before(self, step: Evaluate) -> Evaluate:
        """Run a step before the statement; what gives its value from then on."""
        self._steps.append(step)
        slot = len(self.kinds) + len(self._steps) - 1
        return lambda env: env.values[slot]

    def literal(self, text: str | None) -> Expr:
        """A quoted literal, or null."""
        return Expr(UNKNOWN, lambda _: text, literal=Literal(self, text))

    def parameter(self, number: int) -> Expr:
        """A parameter; 42P02 if there is none of this number."""
        if number >= len(self.kinds):
            raise EngineError("42P02", f"there is no parameter ${number + 1}")
        kind = self.kinds[number]
        unread = Literal(self, None, number) if kind is UNKNOWN else None
        return Expr(kind, lambda env: env.values[number], literal=unread)

    def check_determined(self) -> None:
        """42P18 for a parameter whose type nothing tells."""
        if UNKNOWN in self.kinds:
            raise undetermined(self.kinds.index(UNKNOWN))

    def values(self, tx: Transaction, parameters: Sequence[str | None]) -> list[Any]:
        """Run the steps and read the parameters, which are given as text."""
        values: list[Any] = [None] * len(parameters)
        if self._steps:
            env = Env(tx, values)
            values += [step(env) for step in self._steps]
        for number, (text, kind) in enumerate(zip(parameters, self.kinds, strict=True)):
            if text is not None:
                values[number] = text if kind is TEXT else kind.read(text, tx.session)
        return values


def undetermined(parameter: int) -> EngineError:
    """42P18."""
    return EngineError("42P18", f"could not determine data type of parameter ${parameter + 1}")


class Query(NamedTuple):
    """A compiled query: its columns, and what gives its rows."""

    columns: tuple[ColumnInfo, ...]
    rows: Fetch

    def rows_once(self, env: Env, inside: Env) -> Any:
        """Its rows, found once a statement, in `inside`."""
        if self.rows not in env.cache:
            env.cache[self.rows] = self.rows(inside)
        return env.cache[self.rows]


@dataclass(slots=True)
class Source:
    """One entry of a ``from``: how its columns are called and how its rows come."""

    alias: str
    columns: tuple[ColumnInfo, ...]
    fetch: Fetch
    relation: str | None = None
    primary_key: tuple[str, ...] = ("",)
    lateral: bool = False
    """Whether its rows depend on those of the sources before it."""


@dataclass(slots=True)
class Grouping:
    """What a ``group by`` allows outside of aggregates."""

    keys: list[Node]
    places: set[Place] = field(default_factory=set)


@dataclass(slots=True)
class Scope:
    """The names of one query, and the query around it."""

    plan: Plan
    parent: Scope | None = None
    sources: list[Source] = field(default_factory=list)
    tables: dict[str, Query] = field(default_factory=dict)
    """The queries of a ``with``."""
    hidden: set[Place] = field(default_factory=set)
    """Right-hand columns of ``using``, which are found only by their table."""
    grouping: Grouping | None = None
    correlated: bool = False
    """Whether the query uses columns of the queries around it."""

    def find(self, table: str | None, name: str) -> Expr:
        """The column of this name, or what Postgres raises."""
        scope, depth = self, 0
        while (place := scope.place_of(table, name)) is None:
            scope.correlated = True
            if scope.parent is None:
                raise self._missing(table, name)
            scope, depth = scope.parent, depth + 1
        scope.check_grouped(place, depth)
        kind = scope.sources[place[0]].columns[place[1]].kind
        return Expr.column(kind, place, name, depth)

    def place_of(self, table: str | None, name: str) -> Place | None:
        """Where a column of the query itself is; 42702 if the name is not unique."""
        places = [
            (index, position)
            for index, source in enumerate(self.sources)
            if table is None or source.alias == table
            for position, column in enumerate(source.columns)
            if column.name == name and (table is not None or (index, position) not in self.hidden)
        ]
        if len(places) > 1:
            raise EngineError("42702", f'column reference "{name}" is ambiguous')
        return places[0] if places else None

    def places_of(self, table: str) -> list[Place]:
        """The columns of ``table.*``; 42P01 if there is no such table here."""
        for index, source in enumerate(self.sources):
            if source.alias == table:
                return [(index, position) for position in range(len(source.columns))]
        raise EngineError("42P01", f'missing FROM-clause entry for table "{table}"')

    def check_grouped(self, place: Place, depth: int = 0) -> None:
        """42803 for a column that is neither grouped by nor in an aggregate."""
        grouping = self.grouping
        if grouping is None or place in grouping.places:
            return
        source = self.sources[place[0]]
        shown = f'"{source.alias}.{source.columns[place[1]].name}"'
        raise EngineError(
            "42803",
            f"subquery uses ungrouped column {shown} from outer query"
            if depth
            else f"column {shown} must appear in the GROUP BY clause or be used in an aggregate "
            "function",
        )

    def _missing(self, table: str | None, name: str) -> EngineError:
        scope: Scope | None = self
        known = set[str | None]()
        while scope is not None:
            known |= {source.alias for source in scope.sources}
            scope = scope.parent
        is_row = table is None and name in known
        if is_row or name in _SYSTEM_COLUMNS or table in ("old", "new"):
            return Unsupported("whole rows and system columns")
        if table is None:
            return EngineError("42703", f'column "{name}" does not exist')
        if table in known:
            return EngineError("42703", f"column {table}.{name} does not exist")
        return EngineError("42P01", f'missing FROM-clause entry for table "{table}"')


_SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})
