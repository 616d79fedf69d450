"""Queries on queues with tasks in them: columns, types, rows, errors and hints are the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import psycopg
import pytest

from absurd_contimg.backends.memory import MemoryDatabase
from conformance.arithmetic_queries import arithmetic_queries
from conformance.call_queries import call_queries
from conformance.clause_queries import CLAUSE_QUERIES
from conformance.grouping_queries import GROUPING_QUERIES
from conformance.operator_queries import OPERATOR_QUERIES
from conformance.queries import FILL, QUERIES
from conformance.random_queries import query
from conformance.subscript_queries import SUBSCRIPT_QUERIES
from conformance.test_statements import NOW, answer
from conformance.value_queries import VALUE_QUERIES


@pytest.fixture
def sides(database_url: str) -> Iterator[tuple[Any, Any]]:
    """Postgres and the emulator with the same tasks, some of them running."""
    with (
        psycopg.connect(database_url, autocommit=True, options="-c timezone=Etc/UTC") as real,
        MemoryDatabase().connect(autocommit=True) as mine,
    ):
        for connection in (real, mine):
            connection.execute("select set_config('absurd.fake_now', %s, false)", (NOW,))
            connection.execute("select absurd.create_queue('q')")
            connection.execute("select absurd.create_queue('p', 'partitioned')")
            for statement in FILL:
                connection.execute(statement)
            for queue in ("q", "p"):
                claimed = connection.execute(
                    "select run_id, task_id from absurd.claim_task(%s, 'w', 30, 3)", (queue,)
                ).fetchall()
                for run_id, task_id in claimed:
                    connection.execute(
                        "select absurd.set_task_checkpoint_state(%s, %s, 's1', '1', %s, 60)",
                        (queue, task_id, run_id),
                    )
                connection.execute("select absurd.emit_event(%s, 'e1', '{\"z\": 1}')", (queue,))
        yield real, mine


@pytest.mark.parametrize(
    "queries",
    [QUERIES, OPERATOR_QUERIES, GROUPING_QUERIES, SUBSCRIPT_QUERIES, CLAUSE_QUERIES, VALUE_QUERIES],
    ids=["forms", "operators", "grouping", "subscripts", "clauses", "values"],
)
def test_every_query_is_answered_alike(sides: tuple[Any, Any], queries: tuple[str, ...]) -> None:
    """Some hundreds, in the order of their list."""
    differences: list[str] = []
    for text in queries:
        left, right = (answer(connection, text, None) for connection in sides)
        if left != right:
            differences.append(f"{text}\n  postgres {left}\n  memory   {right}")
    assert not differences, "\n".join(differences)
    assert len(queries) > 30


def test_random_queries_are_answered_alike(sides: tuple[Any, Any]) -> None:
    """Queries from a grammar; `CONFORMANCE_QUERIES` asks for more of them."""
    count = int(os.environ.get("CONFORMANCE_QUERIES", "250"))
    first = int(os.environ.get("CONFORMANCE_FIRST_QUERY", "0"))
    differences: list[str] = []
    answered = 0
    for seed in range(first, first + count):
        text = query(Random(seed))
        left, right = (answer(connection, text, None) for connection in sides)
        answered += left[0] == "rows"
        if left != right:
            differences.append(f"{seed}: {text}\n  postgres {left}\n  memory   {right}")
    assert not differences, f"{len(differences)} of {count}\n" + "\n".join(differences[:20])
    assert answered > count / 2


@pytest.mark.parametrize("queries", [arithmetic_queries, call_queries], ids=["values", "calls"])
def test_every_type_is_taken_alike(
    sides: tuple[Any, Any], queries: Callable[[], list[str]]
) -> None:
    """Some of them, in an order of chance; `CONFORMANCE_TYPES` asks for more."""
    count = int(os.environ.get("CONFORMANCE_TYPES", "2500"))
    found = queries()
    Random(1).shuffle(found)
    del found[count:]
    differences: list[str] = []
    answered = refused = 0
    for text in found:
        left, right = (answer(connection, text, None) for connection in sides)
        answered += left[0] == "rows"
        if right[2] == "0A000" and "in-memory" in right[3]:
            refused += 1
        elif left != right:
            differences.append(f"{text}\n  postgres {left}\n  memory   {right}")
    assert not differences, f"{len(differences)} of {len(found)}\n" + "\n".join(differences[:40])
    assert answered > len(found) / 20
    assert refused < len(found) / 8
