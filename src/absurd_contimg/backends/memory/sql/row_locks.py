"""``for update`` and its like: locks on the rows of a query."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlglot import exp

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.locks import RowLock, TableLock
from absurd_contimg.backends.memory.sql.expressions import name_of
from absurd_contimg.backends.memory.sql.scope import Env, Scope
from absurd_contimg.backends.memory.transaction import WouldBlock


def row_locks(
    node: exp.Select, scope: Scope
) -> Callable[[list[Env], Any, Any, Env], list[Env]] | None:
    """``for update`` and its like: locks rows in order until the limit is reached."""
    clauses = node.args.get("locks")
    if not clauses:
        return None
    for clause in clauses:
        _check_names(clause, scope)
    wanted = [(lock_mode(clause), clause.args.get("wait"), clause) for clause in clauses]

    def lock(envs: list[Env], limit: Any, offset: Any, env: Env) -> list[Env]:
        most = None if limit is None else limit(env)
        start = 0 if offset is None else (offset(env) or 0)
        found: list[Env] = []
        for item in envs:
            if most is not None and len(found) >= most + start:
                break
            if all(_lock_rows(item, scope, *each) for each in wanted):
                found.append(item)
        return found

    return lock


def _check_names(clause: exp.Lock, scope: Scope) -> None:
    """42P01 for a table that is not in the ``from``."""
    known = {source.alias for source in scope.sources}
    for table in clause.expressions:
        name = name_of(table.this)
        if name not in known:
            word = lock_mode(clause).name.replace("_", " ")
            raise EngineError(
                "42P01", f'relation "{name}" in FOR {word} clause not found in FROM clause'
            )


def lock_mode(clause: exp.Lock) -> RowLock:
    """How strongly a clause locks."""
    update, key = bool(clause.args.get("update")), bool(clause.args.get("key"))
    if update:
        return RowLock.NO_KEY_UPDATE if key else RowLock.UPDATE
    return RowLock.KEY_SHARE if key else RowLock.SHARE


def _lock_rows(item: Env, scope: Scope, mode: RowLock, wait: Any, clause: exp.Lock) -> bool:
    """Lock the current row of each table; False where ``skip locked`` skips it."""
    named = {name_of(table.this) for table in clause.expressions}
    for index, source in enumerate(scope.sources):
        row = item.rows[index]
        if source.relation is None or row is None or (named and source.alias not in named):
            continue
        table = catalog.relation(item.tx, source.relation, TableLock.ROW_SHARE).table
        key = table.key_of(row)
        if wait is False and not table.may_lock(item.tx, key, mode):
            return False
        try:
            table.lock(item.tx, key, mode)
        except WouldBlock:
            if wait is not True:
                raise
            name = table.name_for(row[table.partition_column])
            raise EngineError(
                "55P03", f'could not obtain lock on row in relation "{name}"'
            ) from None
    return True
