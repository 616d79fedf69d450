"""Whether an idempotency key that is known comes with the request that it came with first.

With another one it is refused, as the IETF's draft for the header ``Idempotency-Key`` asks: who
sent it would else believe that this request, too, was done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.forks import Fork
from absurd_contimg.core.records import Json, SpawnedTask
from absurd_contimg.core.task_queries import TaskFilter
from absurd_contimg.errors import InputError


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """The task that a request asks for."""

    queue: str
    task_name: str
    params: Json
    fork: Fork | None = None


async def require_same_task(
    inspection: Inspection, key: str | None, request: TaskRequest, spawned: SpawnedTask
) -> None:
    """Raise `InputError` if the key has found a task that another request has spawned."""
    if spawned.created or key is None:
        return
    wanted = TaskFilter(task_ids=[spawned.task_id])
    for task in await inspection.find_tasks(request.queue, wanted, limit=1):
        fork = Fork.of(task.headers)
        differences = {
            f"the name {task.task_name!r}": task.task_name != request.task_name,
            "other parameters": not is_same_json(task.params, request.params),
            f"another origin ({fork or 'no fork'})": fork != request.fork,
        }
        require_no_difference(key, f"task {task.task_id}", differences)


def require_no_difference(key: str, owner: str, differences: Mapping[str, bool]) -> None:
    """Raise `InputError` if what has the key differs from what is asked for, and name in what."""
    if names := [name for name, differs in differences.items() if differs]:
        raise InputError(
            f"The idempotency key {key!r} belongs to {owner}, which has {' and '.join(names)}: "
            "nothing was made for this request.",
            "Give each request a key of its own; repeat a request with what it had at first.",
        )


def is_same_json(left: object, right: object) -> bool:
    """Whether jsonb holds the same of both: numbers by their value, members in any order."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(
            is_same_json(value, right[name]) for name, value in left.items()
        )
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(is_same_json, left, right))
    if _is_number(left) and _is_number(right):
        return Decimal(str(left)) == Decimal(str(right))  # as text, which is what is stored
    return type(left) is type(right) and left == right


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
