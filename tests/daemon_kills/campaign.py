"""A night of small files, a daemon process that is killed by SIGKILL, and what must come of it.

The files are valid but small, and a worker is only imitated: it claims tasks and notes that their
groups ended. The rules are quick ones, so that a night lasts seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arriving_groups import QUEUE, file_name, group_id, write_subband

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.models import FileState, IngestState

SUBBANDS = range(4)
GROUPS = range(9)
INCOMPLETE, REJECTED, TRUNCATED, DUPLICATED = 1, 4, 6, 7
SETTINGS = {
    "conversion.expected_subbands": 4,
    "conversion.subbands_min": 3,
    "streaming.poll_seconds": 0.1,
    "streaming.stable_seconds": 0.3,
    "streaming.group_wait_seconds": 3,
    "streaming.next_group_grace_seconds": 3,
    "streaming.arriving_wait_seconds": 3,
    "streaming.window_size": 3,
    "streaming.window_stride": 2,
    "streaming.window_min": 2,
    "streaming.confirm_groups": 2,
    "streaming.night_end_seconds": 6,
}
_FILE_SECONDS = 0.08
_READY_SECONDS_MAX = 60.0
_END_SECONDS_MAX = 120.0


@dataclass
class NightRun:
    """A site on a database of its own."""

    root: Path
    database_url: str
    kills: int
    seed: int
    killed_at_work: int = 0
    """Kills of a daemon that had begun to poll."""
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    async def run(self) -> dict[str, Any]:
        """What is known at the end; raises `AssertionError` if it does not come."""
        (self.root / "incoming").mkdir(parents=True)
        (self.root / "incoming" / "catalog.csv").write_text("name\n")
        (self.root / "state").mkdir()
        async with PostgresBackend(self.database_url) as backend:
            await backend.create_queue(QUEUE)
            with closing(Registry(self.root / "state" / "registry.sqlite3")) as registry:
                writing = asyncio.create_task(self._write(registry))
                working = asyncio.create_task(self._work(backend, registry))
                try:
                    await self._kill_daemons()
                    await self._finish(backend, registry, writing)
                    return await state_of(backend, registry)
                finally:
                    for task in (writing, working):
                        task.cancel()
                        with suppress(asyncio.CancelledError):
                            await task
                    for process in self._processes:
                        process.kill()
                        process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        folders = [f"--{name}-dir={self.root / name}" for name in ("scratch", "state")]
        folders += [f"--input-dir={self.root / 'incoming'}", f"--output-dir={self.root / 'out'}"]
        assignments = [f"--set={name}={value}" for name, value in SETTINGS.items()]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("ABSURD_", "PIPELINE_"))}
        with (self.root / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "absurd_contimg.operations", *folders, *assignments,
                 "daemon"],
                stderr=log,
                env={**clean, "ABSURD_DATABASE_URL": self.database_url},
            )  # fmt: skip
        self._processes.append(process)
        return process

    async def _kill_daemons(self) -> None:
        chance = random.Random(self.seed)
        for _ in range(self.kills):
            begun = self._log().count("daemon on queue")
            process = self._start()
            give_up = time.monotonic() + _READY_SECONDS_MAX
            if chance.random() < 0.1:  # now and then while it starts
                await asyncio.sleep(chance.uniform(0.0, 1.0))
            else:
                while self._log().count("daemon on queue") == begun:
                    assert process.poll() is None, self._log()[-2000:]
                    assert time.monotonic() < give_up, "the daemon does not start"
                    await asyncio.sleep(0.02)
                await asyncio.sleep(chance.uniform(0.0, 0.6))
                self.killed_at_work += 1
            process.send_signal(signal.SIGKILL)
            process.wait()

    def _log(self) -> str:
        path = self.root / "log"
        return path.read_text() if path.exists() else ""

    async def _finish(
        self, backend: PostgresBackend, registry: Registry, writing: asyncio.Task[None]
    ) -> None:
        """Let a last daemon end the night, and stop it by SIGTERM."""
        process = self._start()
        give_up = time.monotonic() + _END_SECONDS_MAX
        await writing
        while not await self._has_ended(backend, registry):
            assert process.poll() is None, self._log()[-2000:]
            assert time.monotonic() < give_up, json.dumps(await state_of(backend, registry))
            await asyncio.sleep(0.2)
        process.terminate()
        assert await asyncio.to_thread(process.wait, 30) == 0, self._log()[-2000:]

    async def _has_ended(self, backend: PostgresBackend, registry: Registry) -> bool:
        windows = IngestionTables(registry.database).windows()
        stats = await backend.queue_stats(QUEUE)
        waiting = sum(stats.tasks_by_state.get(state, 0) for state in ("pending", "running"))
        return (
            len(windows) >= len(expected_state()["windows"])
            and all(window.state != "open" for window in windows)
            and all(window.task_id is not None for window in windows)
            and not waiting
        )

    async def _write(self, registry: Registry) -> None:
        """Files at a steady pace; one that is late comes when its group is closed."""
        incoming = self.root / "incoming"
        tables = IngestionTables(registry.database)
        long_ago = time.time() - 7200
        for number in GROUPS:
            for subband in SUBBANDS:
                missing = number == INCOMPLETE and subband == 2
                if missing or (number == REJECTED and subband > 1):
                    continue
                path = write_subband(incoming, number, subband)
                if number == TRUNCATED and subband == 1:
                    with path.open("r+b") as file:
                        file.truncate(path.stat().st_size // 2)
                    os.utime(path, (long_ago, long_ago))
                if number == DUPLICATED and subband == 0:
                    write_subband(incoming, number, subband, late_seconds=1)
                await asyncio.sleep(_FILE_SECONDS)
        while True:
            groups = await asyncio.to_thread(tables.groups, [IngestState.CLOSED])
            if group_id(INCOMPLETE) in {group.group_id for group in groups}:
                break
            await asyncio.sleep(0.1)
        write_subband(incoming, INCOMPLETE, 2)

    async def _work(self, backend: PostgresBackend, registry: Registry) -> None:
        """End tasks as a worker does."""
        while True:
            for claimed in await backend.claim_task(QUEUE, "worker", 60, 10):
                params = claimed.params
                assert isinstance(params, dict)
                if claimed.task_name == "pipeline":
                    await asyncio.to_thread(
                        registry.set_group_status, str(params["group_id"]), GroupStatus.DONE
                    )
                await backend.complete_run(QUEUE, claimed.run_id, {})
            await asyncio.sleep(0.1)


async def state_of(backend: PostgresBackend, registry: Registry) -> dict[str, Any]:
    """Groups with their files, windows that count, and the tasks, without times and ids."""
    tables = IngestionTables(registry.database)
    tasks = await backend.list_tasks(QUEUE, limit=1000)
    return {
        "groups": {
            group.group_id: [
                str(group.ingest_state),
                group.n_subbands,
                sorted(f"{file.path.name} {file.state}" for file in group.files
                       if file.state is not FileState.WHOLE),
            ]
            for group in tables.groups()
        },
        "windows": [
            [member.group_id for member in window.members]
            for window in tables.windows()
            if window.state == "closed"
        ],
        "tasks": sorted(str(task.idempotency_key).split("-dsa")[0] for task in tasks),
        "inputs": {
            str(task.params["group_id"]): len(task.params["input_files"])
            for task in tasks
            if task.task_name == "pipeline" and isinstance(task.params, dict)
        },
    }  # fmt: skip


def expected_state() -> dict[str, Any]:
    """What the night must come to, however often its daemon was killed."""
    from absurd_contimg.ingest.windows import window_id  # noqa: PLC0415 - beside its use

    others: dict[int, list[str]] = {
        INCOMPLETE: [f"{file_name(INCOMPLETE, 2)} late"],
        TRUNCATED: [f"{file_name(TRUNCATED, 1)} refused"],
        DUPLICATED: [f"{file_name(DUPLICATED, 0, 1)} refused"],
    }
    counts = dict.fromkeys(GROUPS, 4) | {INCOMPLETE: 3, REJECTED: 2, TRUNCATED: 3}
    accepted = [number for number in GROUPS if number != REJECTED]
    windows = [
        [group_id(number) for number in span] for span in ([0, 1, 2], [2, 3], [5, 6, 7], [7, 8])
    ]
    return {
        "groups": {
            group_id(n): [
                "rejected" if n == REJECTED else "closed", counts[n], others.get(n, [])
            ]
            for n in GROUPS
        },
        "windows": windows,
        "tasks": sorted(
            [f"pipeline:{group_id(n)}" for n in accepted]
            + [f"photometry:{group_id(n)}" for n in accepted]
            + [f"mosaic:{window_id(window)}" for window in windows]
        ),
        "inputs": {group_id(n): counts[n] for n in accepted},
    }  # fmt: skip
