"""``set_task_checkpoint_state`` and the two ways of reading checkpoints."""

from __future__ import annotations

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.errors import (
    raise_exception,
    run_already_failed,
    shown,
    task_cancelled,
)
from absurd_contimg.backends.memory.locks import ACCESS_SHARE
from absurd_contimg.backends.memory.procedures.runs import named, not_null_violation
from absurd_contimg.backends.memory.rows import CheckpointRow, RunRow, TaskRow, made
from absurd_contimg.backends.memory.tables import Checkpoints, Runs, Tasks
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values.text import uuid_out
from absurd_contimg.backends.memory.values.times import SECOND_US, add_us

Shown = tuple[str, str | None, str, int | None, int]
"""checkpoint_name, state, status, owner_run_id, updated_at."""


def set_task_checkpoint_state(
    tx: Transaction,
    queue: str | None,
    task_id: int | None,
    step_name: str | None,
    state: str | None,
    owner_run: int | None,
    extend_claim_by: int | None = None,
) -> None:
    """``absurd.set_task_checkpoint_state``."""
    now = tx.session.current_time()
    if step_name is None or not step_name.strip(" "):
        raise_exception("step_name must be provided")
    runs = catalog.runs(tx, queue, ACCESS_SHARE)
    tasks = catalog.tasks(tx, queue, ACCESS_SHARE)
    if tx.alone:
        run, task = _owner(tx, runs, tasks, owner_run)
    else:
        run, task = tx.session.read_once(
            ("owner", queue, owner_run), lambda: _owner(tx, runs, tasks, owner_run)
        )
    if run is None or task is None:
        raise_exception(f'Run "{named(owner_run)}" not found for checkpoint')
    if task.state == "cancelled":
        raise task_cancelled()
    if run.state == "failed":
        raise run_already_failed(uuid_out(run.run_id), str(queue))

    if extend_claim_by is not None and extend_claim_by > 0:
        runs = catalog.runs(tx, queue)
        now_there = run if tx.alone else runs.get(tx, run.run_id)
        if (
            now_there is not None
            and now_there.state == "running"
            and now_there.claim_expires_at is not None
        ):
            expires = add_us(now, extend_claim_by * SECOND_US)
            runs.put(tx, run.run_id, now_there._replace(claim_expires_at=expires))

    checkpoints = catalog.checkpoints(tx, queue, ACCESS_SHARE)
    key = (task_id, step_name)
    if tx.alone:
        other = _other_attempt(tx, runs, checkpoints, key)
    else:
        other = tx.session.read_once(
            ("existing", queue, key), lambda: _other_attempt(tx, runs, checkpoints, key)
        )
    if other is not None and run.attempt < other:
        return
    write_checkpoint(tx, queue, task_id, step_name, state, run.run_id, now)


def _owner(
    tx: Transaction, runs: Runs, tasks: Tasks, run_id: int | None
) -> tuple[RunRow | None, TaskRow | None]:
    run = None if run_id is None else runs.get(tx, run_id)
    return run, None if run is None else tasks.get(tx, run.task_id)


def _other_attempt(
    tx: Transaction, runs: Runs, checkpoints: Checkpoints, key: tuple[int | None, str]
) -> int | None:
    """The attempt that wrote the checkpoint last; None without one or without its run."""
    existing = None if key[0] is None else checkpoints.get(tx, (key[0], key[1]))
    if existing is None or existing.owner_run_id is None:
        return None
    owner = runs.get(tx, existing.owner_run_id)
    return None if owner is None else owner.attempt


def write_checkpoint(
    tx: Transaction,
    queue: str | None,
    task_id: int | None,
    step_name: str | None,
    state: str | None,
    owner_run: int,
    now: int,
) -> None:
    """Insert a committed checkpoint or replace the one of the same name."""
    checkpoints = catalog.checkpoints(tx, queue)
    if task_id is None or step_name is None:
        column = "task_id" if task_id is None else "checkpoint_name"
        raise not_null_violation(column, checkpoints.name_for(task_id))
    checkpoints.put(
        tx,
        (task_id, step_name),
        made(CheckpointRow, (task_id, step_name, state, "committed", owner_run, now)),
    )


def _shown(row: CheckpointRow) -> Shown:
    return row.checkpoint_name, row.state, row.status, row.owner_run_id, row.updated_at


def get_task_checkpoint_state(
    tx: Transaction,
    queue: str | None,
    task_id: int | None,
    step_name: str | None,
    include_pending: bool | None = False,
) -> list[Shown]:
    """``absurd.get_task_checkpoint_state``."""
    checkpoints = catalog.checkpoints(tx, queue, ACCESS_SHARE)
    if task_id is None or step_name is None:
        return []
    row = checkpoints.get(tx, (task_id, step_name))
    if row is None or not (include_pending or row.status == "committed"):
        return []
    return [_shown(row)]


def get_task_checkpoint_states(
    tx: Transaction, queue: str | None, task_id: int | None, run_id: int | None
) -> list[Shown]:
    """``absurd.get_task_checkpoint_states``."""
    runs = catalog.runs(tx, queue, ACCESS_SHARE)
    run = None if run_id is None else runs.get(tx, run_id)
    if run is None:
        raise_exception(f'Run "{named(run_id)}" not found in queue "{queue}"')
    if task_id is None:
        return []
    if run.task_id != task_id:
        raise_exception(
            f'Run "{named(run_id)}" does not belong to task "{shown(uuid_out(task_id))}" '
            f'in queue "{queue}"'
        )
    found: list[Shown] = []
    for row in catalog.checkpoints(tx, queue, ACCESS_SHARE).of_task(tx, task_id):
        owner = None if row.owner_run_id is None else runs.get(tx, row.owner_run_id)
        if row.status == "committed" and (owner is None or owner.attempt <= run.attempt):
            found.append(_shown(row))
    found.sort(key=lambda row: row[4])
    return found
