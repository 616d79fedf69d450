"""The emulated world and real Postgres: the same calls at the same times, row for row the same."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from absurd_contimg.backends.memory import MemoryBackend
from absurd_contimg.backends.memory.values.times import to_datetime
from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.backend import READS
from absurd_contimg.core.errors import BackendError, ControlFlow
from absurd_contimg.core.records import ClaimedTask, History
from absurd_contimg.simulation.campaign.campaign import QUEUE, Campaign
from absurd_contimg.simulation.campaign.scenario import load_scenario
from absurd_contimg.simulation.model import world as world_module


class Recorded(MemoryBackend):
    """The emulator, with every call that changes something written down."""

    calls: list[tuple[datetime, str, tuple[Any, ...], dict[str, Any], Any]]

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if name.startswith("_") or name in READS or not asyncio.iscoroutinefunction(method):
            return method

        async def call(*args: Any, **options: Any) -> Any:
            now = to_datetime(self.db.now())
            try:
                answer = await method(*args, **options)
            except (BackendError, ControlFlow) as error:
                Recorded.calls.append((now, name, args, options, type(error)))
                raise
            Recorded.calls.append((now, name, args, options, answer))
            return answer

        return call


async def _play(url: str, calls: list[Any]) -> list[History]:
    """The recorded calls on real Postgres, each at its time; the histories that come of them."""
    ids: dict[UUID, UUID] = {}
    spawned: dict[UUID, None] = {}
    async with PostgresBackend(url, pool_max_size=1) as backend:
        for now, name, args, options, expected in calls:
            async with backend._database.connection() as connection:
                await connection.execute(
                    "select set_config('absurd.fake_now', %s, false)", (now.isoformat(),)
                )
            mapped = [ids.get(arg, arg) if isinstance(arg, UUID) else arg for arg in args]
            try:
                answer = await getattr(backend, name)(*mapped, **options)
            except (BackendError, ControlFlow) as error:
                answer = type(error)
            if isinstance(answer, type) or isinstance(expected, type):
                assert answer is expected, (now, name, args)
            elif name == "spawn_task":
                ids[expected.task_id], ids[expected.run_id] = answer.task_id, answer.run_id
                spawned[answer.task_id] = None
            elif name == "claim_task":
                assert len(answer) == len(expected), (now, args)
                for ours, theirs in zip(answer, expected, strict=True):
                    ids[theirs.run_id] = ours.run_id
                    assert _shown(ours) == _shown(theirs), now
        return [h for task in spawned if (h := await backend.history(QUEUE, task)) is not None]


def _shown(claimed: ClaimedTask) -> tuple[Any, ...]:
    return claimed.task_name, claimed.params, claimed.attempt, claimed.wake_event


def _rows(histories: list[History]) -> list[Any]:
    """All rows without ids; a run is named by its attempt."""
    result = []
    for history in sorted(histories, key=lambda item: str(item.task.idempotency_key)):
        task, numbers = history.task, {run.run_id: run.attempt for run in history.runs}
        result.append((task.idempotency_key, task.state, task.attempts, task.completed_payload))
        result += [task.enqueue_at, task.first_started_at, task.max_attempts]
        for run in history.runs:
            result.append((run.attempt, run.state, run.claimed_by, run.claim_expires_at))
            result += [run.available_at, run.started_at, run.completed_at, run.failed_at]
            result.append(_without_ids(run.failure_reason))
        for checkpoint in history.checkpoints:
            owner = numbers.get(checkpoint.owner_run_id) if checkpoint.owner_run_id else None
            result.append(
                (checkpoint.checkpoint_name, checkpoint.state, checkpoint.updated_at, owner)
            )
        result += [(wait.step_name, wait.event_name, wait.timeout_at) for wait in history.waits]
    return result


def _without_ids(reason: Any) -> Any:
    if isinstance(reason, dict) and reason.get("name") == "$ClaimTimeout":
        return {
            key: first for key, first in reason.items() if key in ("name", "message", "workerId")
        }
    return reason


async def test_emulator_and_postgres_give_the_same_history(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Recorded.calls = []
    monkeypatch.setattr(world_module, "MemoryBackend", Recorded)
    bad = load_scenario("bad_night")
    faults = bad.faults.model_copy(update={"worker_kills_per_day": 60.0})
    short = bad.model_copy(update={"days": 0.06, "faults": faults})
    run = await asyncio.to_thread(Campaign(short, seed=3).run)
    assert len(Recorded.calls) > 500
    histories = await _play(database_url, Recorded.calls)
    ours, theirs = _rows(list(run.histories)), _rows(histories)
    assert len(ours) == len(theirs)
    for first, other in zip(ours, theirs, strict=True):
        assert first == other
