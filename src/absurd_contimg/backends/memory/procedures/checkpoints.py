"""``set_task_checkpoint_state`` and the two ways of reading checkpoints."""

from __future__ import annotations

from typing import NamedTuple

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.errors import (
    raise_exception,
    run_already_failed,
    task_cancelled,
)
from absurd_contimg.backends.memory.locks import READ
from absurd_contimg.backends.memory.procedures.checks import is_blank, refuse_run, shown_id
from absurd_contimg.backends.memory.procedures.signatures import procedure
from absurd_contimg.backends.memory.schema import (
    Bool,
    CheckpointRow,
    Int4,
    Jsonb,
    RunRow,
    TaskRow,
    Text,
    Timestamptz,
    Uuid,
    not_null_violation,
)
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values.times import SECOND_US, add_us


class ShownCheckpoint(NamedTuple):
    """A row of ``get_task_checkpoint_state`` and ``get_task_checkpoint_states``."""

    checkpoint_name: Text
    state: Jsonb | None
    status: Text
    owner_run_id: Uuid | None
    updated_at: Timestamptz


@procedure("9dd08ecfe5480276")
def set_task_checkpoint_state(
    tx: Transaction,
    queue_name: Text | None,
    task_id: Uuid | None,
    step_name: Text | None,
    state: Jsonb | None,
    owner_run: Uuid | None,
    extend_claim_by: Int4 | None = None,
) -> None:
    now = tx.session.current_time()
    if is_blank(step_name):
        raise_exception("step_name must be provided")
    runs = catalog.runs(tx, queue_name, READ)
    tasks = catalog.tasks(tx, queue_name, READ)

    def run_and_task() -> tuple[RunRow | None, TaskRow | None]:
        run = runs.get(tx, owner_run)
        return run, None if run is None else tasks.get(tx, run.task_id)

    run, task = tx.read_once(("owner", queue_name, owner_run), run_and_task)
    if run is None or task is None:
        raise_exception(f'Run "{shown_id(owner_run)}" not found for checkpoint')
    if task.state == "cancelled":
        raise task_cancelled()
    if run.state == "failed":
        raise run_already_failed(shown_id(owner_run), str(queue_name))

    if extend_claim_by is not None and extend_claim_by > 0:
        runs = catalog.runs(tx, queue_name)
        leased = runs.get(tx, owner_run)
        if leased is not None and leased.state == "running" and leased.claim_expires_at is not None:
            expires = add_us(now, extend_claim_by * SECOND_US)
            runs.update(tx, leased, claim_expires_at=expires)

    checkpoints = catalog.checkpoints(tx, queue_name, READ)

    def existing_attempt() -> int | None:
        existing = checkpoints.get(tx, (task_id, step_name))
        owner = None if existing is None else runs.get(tx, existing.owner_run_id)
        return None if owner is None else owner.attempt

    existing = tx.read_once(("existing", queue_name, task_id, step_name), existing_attempt)
    if existing is None or run.attempt >= existing:
        write_checkpoint(tx, queue_name, task_id, step_name, state, run.run_id, now)


def write_checkpoint(
    tx: Transaction,
    queue_name: str | None,
    task_id: int | None,
    step_name: str | None,
    state: str | None,
    owner_run: int,
    now: int,
) -> None:
    """Insert a committed checkpoint or replace the one of the same name."""
    checkpoints = catalog.checkpoints(tx, queue_name)
    if task_id is None or step_name is None:
        column = "task_id" if task_id is None else "checkpoint_name"
        raise not_null_violation(column, checkpoints.relation_of(task_id))
    row = CheckpointRow(task_id, step_name, state, "committed", owner_run, now)
    checkpoints.put(tx, row)


@procedure("a21fa7abcbfc2d1d")
def get_task_checkpoint_state(
    tx: Transaction,
    queue_name: Text | None,
    task_id: Uuid | None,
    step_name: Text | None,
    include_pending: Bool | None = False,
) -> list[ShownCheckpoint]:
    row = catalog.checkpoints(tx, queue_name, READ).get(tx, (task_id, step_name))
    if row is None or not (include_pending or row.status == "committed"):
        return []
    return [ShownCheckpoint(*row[1:])]


@procedure("a870f96176fb4ab9")
def get_task_checkpoint_states(
    tx: Transaction, queue_name: Text | None, task_id: Uuid | None, run_id: Uuid | None
) -> list[ShownCheckpoint]:
    runs = catalog.runs(tx, queue_name, READ)
    run = runs.get(tx, run_id)
    if run is None:
        refuse_run(run_id, "not found", queue_name)
    if task_id is not None and run.task_id != task_id:
        refuse_run(run_id, f'does not belong to task "{shown_id(task_id)}"', queue_name)
    shown: list[ShownCheckpoint] = []
    for row in catalog.checkpoints(tx, queue_name, READ).where(tx, "task_id", task_id):
        owner = runs.get(tx, row.owner_run_id)
        if row.status == "committed" and (owner is None or owner.attempt <= run.attempt):
            shown.append(ShownCheckpoint(*row[1:]))
    return sorted(shown, key=lambda row: row.updated_at)
