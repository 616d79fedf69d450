"""``for update`` and its like: locks on the rows of a query."""

from __future__ import annotations

from collections.abc import Callable

from sqlglot import exp

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.locks import RowLock, TableLock
from absurd_contimg.backends.memory.sql.scope import Env, Row, Scope
from absurd_contimg.backends.memory.transaction import WouldBlock

Pairs = list[tuple[Env, Row]]


def row_locks(node: exp.Select, scope: Scope) -> Callable[[Pairs, int | None], Pairs] | None:
    """What locks the rows in their order, until there are as many as wanted."""
    clauses = node.args.get("locks")
    if not clauses:
        return None

    def lock(pairs: Pairs, most: int | None) -> Pairs:
        found: Pairs = []
        for pair in pairs:
            if most is not None and len(found) >= most:
                break
            if all(_lock_rows(pair[0], scope, clause) for clause in clauses):
                found.append(pair)
        return found

    return lock


def _lock_rows(env: Env, scope: Scope, clause: exp.Lock) -> bool:
    """Lock the current row of each table; False where ``skip locked`` skips it."""
    wait, key_only = clause.args.get("wait"), bool(clause.args.get("key"))
    mode = RowLock.KEY_SHARE if key_only else RowLock.SHARE
    if clause.args.get("update"):
        mode = RowLock.NO_KEY_UPDATE if key_only else RowLock.UPDATE
    for source, row in zip(scope.sources, env.rows, strict=True):
        if source.relation is None or row is None:
            continue
        table = catalog.relation(env.tx, source.relation, TableLock.ROW_SHARE).table
        key = table.key_of(row)
        if wait is False and not table.may_lock(env.tx, key, mode):
            return False
        try:
            table.lock(env.tx, key, mode)
        except WouldBlock:
            if wait is not True:
                raise
            name = table.name_for(row[table.partition_column])
            raise EngineError(
                "55P03", f'could not obtain lock on row in relation "{name}"'
            ) from None
    return True
