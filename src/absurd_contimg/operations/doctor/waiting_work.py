"""Why work of this site waits though all looks well: notes of workers, stages that lacked space."""

from __future__ import annotations

import asyncio

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.errors import BackendError
from absurd_contimg.execution.host_scratch import host_name, host_scratch
from absurd_contimg.execution.scratch import visible_owners
from absurd_contimg.operations.doctor.software import Finding
from absurd_contimg.operations.overview import read_shortage_problem
from absurd_contimg.operations.services import worker_notes
from absurd_contimg.settings import Settings


def notes_of_workers(settings: Settings) -> list[Finding]:
    """A finding for each worker of this host that notes a problem of its disks."""
    paths = settings.pipeline.paths
    alive = visible_owners(host_scratch(paths.scratch_dir)) or []
    return [
        Finding(
            False,
            "worker",
            f"{note['worker']}, since {note['since']}: {note['reason']}",
            "Do what it names; the worker looks again before each claim: contimg status",
        )
        for note in worker_notes(paths.state_dir)
        if note["reason"] and note.get("host", host_name()) == host_name()
        and note["worker"] in alive
    ]  # fmt: skip


def lack_of_space(url: str) -> list[Finding]:
    """A finding if stages have lacked space in the last hour: their tasks wait and try again."""

    async def ask() -> str:
        async with PostgresBackend(url, pool_max_size=2) as backend:
            return await read_shortage_problem(backend)

    try:
        problem = asyncio.run(ask())
    except BackendError as error:
        return [Finding(False, "tasks", f"They cannot be looked at: {error}", "Try again.")]
    if not problem:
        return []
    text, _, remedy = problem.partition(" They are tried again: ")
    return [Finding(False, "space for stages", text, remedy.capitalize())]
