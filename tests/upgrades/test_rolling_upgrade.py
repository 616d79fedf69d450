"""Workers of two releases on one queue: none breaks what the other has begun."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from versioned_worker import QUEUE, STEPS, TASK

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.records import History, SpawnOptions
from absurd_contimg.history.invariants.check import audit
from absurd_contimg.workflows.versions import version_headers

Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def start(database_url: str, tmp_path: Path) -> Iterator[Start]:
    """Starts a worker of a release."""
    script = Path(__file__).with_name("versioned_worker.py")
    started: list[subprocess.Popen[bytes]] = []

    def start_worker(release: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(script), release, database_url, str(tmp_path)]
        with (tmp_path / f"{release}.log").open("ab") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        return started[-1]

    yield start_worker
    for each in started:
        each.kill()
        each.wait()


@pytest.fixture
async def queue(database_url: str) -> AsyncIterator[PostgresBackend]:
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue(QUEUE)
        yield backend


async def spawn(queue: PostgresBackend, group: str, version: int) -> None:
    """As `contimg spawn` of the release with this version."""
    options = SpawnOptions(headers=version_headers(version))
    await queue.spawn_task(QUEUE, TASK, {"group_id": group}, options)


async def history_of(queue: PostgresBackend, group: str) -> History:
    tasks = await queue.list_tasks(QUEUE)
    for history in await queue.histories(QUEUE, [task.task_id for task in tasks]):
        params: Any = history.task.params
        if params["group_id"] == group:
            return history
    raise AssertionError(group)


def until(holds: Callable[[], object], log: Path) -> None:
    give_up = time.monotonic() + 90
    while not holds():
        assert time.monotonic() < give_up, [each.read_text() for each in log.glob("*.log")]
        time.sleep(0.02)


async def until_completed(queue: PostgresBackend, *groups: str) -> None:
    give_up = time.monotonic() + 90
    for group in groups:
        while (history := await history_of(queue, group)).task.state != "completed":
            assert history.task.state != "failed", history.runs[-1].failure_reason
            assert time.monotonic() < give_up, history


async def test_both_releases_side_by_side(
    queue: PostgresBackend, database_url: str, tmp_path: Path, start: Start
) -> None:
    # Begun by the earlier release, whose worker dies in the middle: the later one goes on with it.
    (tmp_path / "hold-old-image").touch()
    await spawn(queue, "old", 1)
    earlier = start("earlier")
    until((tmp_path / "at-old-image").exists, tmp_path)
    earlier.kill()
    earlier.wait()
    later = start("later")
    (tmp_path / "hold-old-image").unlink()
    await until_completed(queue, "old")
    result = (await history_of(queue, "old")).task.completed_payload
    assert result == [
        "convert of version 1 by earlier",
        "solve of version 1 by earlier",
        "image of version 1 by later",
    ]

    # Begun by the later one, which dies: the earlier one takes it up, understands it not, and
    # leaves it, with the reason where an operator looks.
    (tmp_path / "hold-new-image").touch()
    await spawn(queue, "new", 2)
    until((tmp_path / "at-new-image").exists, tmp_path)
    later.kill()
    later.wait()
    earlier = start("earlier")
    until(lambda: "workflow-newer" in (tmp_path / "earlier.log").read_text(), tmp_path)
    texts = (
        "was spawned for version 2 of its workflow; this worker has 1",
        "Update this worker, or start one of the newer release",
    )

    def is_told() -> bool:
        shown = status(database_url, tmp_path)
        return all(text in shown for text in texts)

    until(is_told, tmp_path)  # logged, then stored; not while the worker tries again
    await spawn(queue, "old-again", 1)  # and works on with what it knows
    await until_completed(queue, "old-again")
    assert (await history_of(queue, "new")).task.state in ("sleeping", "running", "pending")
    (tmp_path / "hold-new-image").unlink()
    start("later")
    await until_completed(queue, "new")
    result = (await history_of(queue, "new")).task.completed_payload
    assert result == [f"{name} of version 2 by later" for name in STEPS[2]]
    assert earlier.poll() is None

    expected = Counter(f"{group} {name}" for group in ("old", "old-again") for name in STEPS[1])
    expected += Counter(f"new {name}" for name in STEPS[2])
    assert Counter((tmp_path / "effects").read_text().splitlines()) == expected
    histories = [await history_of(queue, group) for group in ("old", "old-again", "new")]
    assert audit(histories) == []


def status(url: str, folder: Path) -> str:
    """What `contimg status` shows of the tasks, as text in one line."""
    command = [sys.executable, "-m", "absurd_contimg.operations", "--database-url", url]
    folders = ["--output-dir", str(folder / "out"), "--state-dir", str(folder / "state")]
    done = subprocess.run(
        [*command, *folders, "status", "--json"], capture_output=True, text=True, check=True
    )
    return json.dumps(json.loads(done.stdout)["tasks"])
