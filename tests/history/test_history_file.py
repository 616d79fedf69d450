"""Histories in a file: read back unchanged, and shown as their database showed them."""

from __future__ import annotations

import asyncio
import gzip
import json
from dataclasses import astuple
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase, jsonb
from absurd_contimg.core.backend import Backend, Inspection
from absurd_contimg.core.errors import BackendError, QueueNotFound
from absurd_contimg.core.records import (
    INFINITY,
    Checkpoint,
    History,
    Run,
    SpawnOptions,
    State,
    Task,
    Wait,
)
from absurd_contimg.core.row_values import Unreadable
from absurd_contimg.core.task_queries import TaskFilter, contains
from absurd_contimg.errors import CorruptInputError, MissingInputError
from absurd_contimg.history import history_file
from absurd_contimg.history.history_file import (
    HistoryFile,
    read_histories_file,
    write_histories,
)
from absurd_contimg.operations.cli.main import app

QUEUE = "dsa110-pipeline"
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "UUID": st.uuids(),
    "str": TEXT,
    "int": st.integers(),
    "datetime": st.datetimes(timezones=st.just(UTC)).map(lambda time: time.replace(fold=0))
    | st.just(INFINITY),
    "State": st.sampled_from(get_args(State)),
    "Json": JSON | st.builds(Unreadable, st.text(max_size=5)),
}


def records(kind: type) -> st.SearchStrategy[Any]:
    """Any values in the columns of a record."""
    columns = {}
    for name, annotation in kind.__annotations__.items():
        column = COLUMNS[annotation.removesuffix(" | None")]
        columns[name] = st.none() | column if annotation.endswith("None") else column
    return st.builds(kind, **columns)


def rows(kind: type) -> st.SearchStrategy[Any]:
    return st.lists(records(kind), max_size=2).map(tuple)


histories = st.builds(History, TEXT, records(Task), rows(Run), rows(Checkpoint), rows(Wait))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(written=st.lists(histories, max_size=3))
def test_histories_are_read_as_they_were_written(
    written: list[History], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("file") / "histories.jsonl.gz"
    assert write_histories(path, written) == len(written)
    read = read_histories_file(path)
    assert repr(list(map(astuple, read))) == repr(list(map(astuple, written)))
    path.write_bytes(gzip.decompress(path.read_bytes()))  # decompressed by hand, it is read too
    assert read_histories_file(path) == read


async def mixture(backend: Backend, choices: list[int]) -> None:
    """Tasks in every state on two queues, a step of each by one of the choices."""
    await backend.create_queue("second")
    for number, choice in enumerate(choices):
        queue = QUEUE if choice % 3 else "second"
        params = {"group_id": f"g{number % 4}", "n": [number, {"a": number % 2}]}
        options = SpawnOptions(max_attempts=1 + choice % 2)
        task = await backend.spawn_task(queue, "ab"[choice % 2], params, options)
        for run in await backend.claim_task(queue, f"w{choice % 2}", choice % 4, 1):
            here = (queue, run.task_id, run.run_id)
            await backend.set_task_checkpoint_state(*here[:2], "step", number, here[2])
            if choice % 7 == 0:
                await backend.fail_run(queue, run.run_id, {"name": "Error"})
            elif choice % 7 == 1:
                wake_at = await backend.current_time() + timedelta(seconds=choice)
                await backend.schedule_run(queue, run.run_id, wake_at)
            elif choice % 7 == 2:
                await backend.await_event(*here, "$wait", "event")
            elif choice % 7 == 3:
                await backend.complete_run(queue, run.run_id, {"done": number})
            elif choice % 7 == 4:
                await backend.cancel_task(queue, task.task_id)


async def reads(inspection: Inspection, queues: dict[str, list[UUID]]) -> list[Any]:
    """The answers of the calls that change nothing."""
    answers: list[Any] = [await inspection.list_queues()]
    for queue, ids in queues.items():
        answers += [
            await inspection.list_tasks(queue),
            await inspection.list_tasks(queue, states=["failed", "pending"], limit=3),
            await inspection.list_tasks(queue, task_name="a"),
            await inspection.list_tasks(queue, id_suffix=str(ids[0])[-9:]),
            await inspection.list_tasks(queue, params={"group_id": "g1"}),
            await inspection.list_tasks(queue, params={"n": [{"a": 1}]}),
            await inspection.find_tasks(queue, TaskFilter(), before=ids[len(ids) // 2], limit=2),
            await inspection.list_runs(queue),
            await inspection.list_runs(queue, states=["running"], claimed_by="w1", limit=2),
            await inspection.histories(queue, [ids[-1], UUID(int=5), *ids]),
            await inspection.history(queue, ids[0]),
        ]
        for task_id in ids:
            history = await inspection.history(queue, task_id)
            assert history is not None
            answers += [
                await inspection.get_task_result(queue, task_id),
                await inspection.get_task_checkpoint_state(queue, task_id, "step"),
                await inspection.get_task_checkpoint_state(queue, task_id, "other"),
            ]
            for run in history.runs:
                seen = await inspection.get_task_checkpoint_states(queue, task_id, run.run_id)
                answers.append(seen)
    return answers


async def compare(backend: Backend, choices: list[int], path: Path) -> None:
    """Whether all reads of the file give what those of the database give."""
    await mixture(backend, choices)
    queues = {
        queue: [task.task_id for task in await backend.list_tasks(queue)]
        for queue in await backend.list_queues()
    }
    kept = [each for queue in queues for each in await backend.histories(queue, queues[queue])]
    now = await backend.current_time()
    stats = [await backend.queue_stats(queue) for queue in queues]
    write_histories(path, kept, read_at=now)
    file = HistoryFile(path)
    assert await reads(file, queues) == await reads(backend, queues)
    assert await file.current_time() == now
    for stat in stats:
        shown = await file.queue_stats(stat.queue_name)
        assert shown.tasks_by_state == stat.tasks_by_state
        assert (shown.claimable, shown.expired_leases) == (stat.claimable, stat.expired_leases)


async def test_every_read_of_a_file_gives_what_the_database_gave(
    backend: Backend, tmp_path: Path
) -> None:
    await compare(backend, [*range(1, 22), 3, 0, 14], tmp_path / "file")


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(choices=st.lists(st.integers(0, 41), min_size=1, max_size=12))
async def test_a_file_of_any_tasks_reads_as_their_database(
    choices: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    memory = MemoryBackend(MemoryDatabase())
    await memory.create_queue(QUEUE)
    await compare(memory, [1, 3, *choices], tmp_path_factory.mktemp("file") / "file")


@settings(max_examples=60, deadline=None)
@given(JSON, st.dictionaries(TEXT, JSON, max_size=2))
def test_containment_is_that_of_jsonb(whole: Any, part: Any) -> None:
    assert contains(whole, part) == jsonb.contains(jsonb.dumps(whole), jsonb.dumps(part))
    if isinstance(whole, dict):
        assert contains(whole, dict(list(whole.items())[:1]))


async def test_a_file_without_tasks_has_no_queues(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_histories(path, [])
    file = HistoryFile(path)
    assert await file.list_queues() == []
    await file.current_time()
    with pytest.raises(QueueNotFound, match="absent"):
        await file.list_tasks("absent")
    with pytest.raises(MissingInputError, match="other"):
        HistoryFile(tmp_path / "other")


async def test_a_run_that_is_not_of_the_task_is_refused(tmp_path: Path) -> None:
    memory = MemoryBackend(MemoryDatabase())
    await memory.create_queue(QUEUE)
    task = await memory.spawn_task(QUEUE, "task", {})
    write_histories(tmp_path / "file", await memory.histories(QUEUE, [task.task_id]))
    file = HistoryFile(tmp_path / "file")
    with pytest.raises(BackendError, match="no run"):
        await file.get_task_checkpoint_states(QUEUE, task.task_id, task.task_id)


HEADER = b'{"format":"contimg histories 1","read_at":null}\n'
NO_HISTORIES = {
    "empty": b"",
    "text": b"hello",
    "list": b"[]\n",
    "other format": b'{"format": "contimg histories 2"}\n',
    "no format": b"{}\n",
    "number": HEADER + b"5\n",
    "NaN": HEADER + b"NaN\n",
    "deep": HEADER + b"[" * 5000,
    "half": gzip.compress(HEADER * 9)[:-9],
    "half of a mark": b"\x1f\x8b",
    "damaged": gzip.compress(HEADER)[:20] + b"xxxxxxxxxxxxx",
    "no row": HEADER + b'{"queue_name":"q","task":{},"runs":[],"checkpoints":[],"waits":[]}\n',
}


@pytest.mark.parametrize("content", NO_HISTORIES.values(), ids=NO_HISTORIES)
def test_other_files_are_refused_with_the_number_of_the_line(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CorruptInputError, match=r"no file of histories: line \d"):
        read_histories_file(path)


async def test_a_small_file_with_endless_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few compressed megabytes may hold so many histories that they fill the memory."""
    memory = MemoryBackend(MemoryDatabase())
    await memory.create_queue(QUEUE)
    task = await memory.spawn_task(QUEUE, "task", {})
    path = tmp_path / "file"
    write_histories(path, await memory.histories(QUEUE, [task.task_id]))
    header, history = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(header + history * 100))
    assert len(read_histories_file(path)) == 100
    monkeypatch.setattr(history_file, "_TEXT_BYTES_MAX", 50 * len(history))
    with pytest.raises(CorruptInputError, match=r"line 5[01]: it holds more than"):
        read_histories_file(path)


async def test_a_value_of_another_type_is_refused(tmp_path: Path) -> None:
    memory = MemoryBackend(MemoryDatabase())
    await memory.create_queue(QUEUE)
    task = await memory.spawn_task(QUEUE, "task", {})
    path = tmp_path / "file"
    write_histories(path, await memory.histories(QUEUE, [task.task_id]))
    lines = gzip.decompress(path.read_bytes()).splitlines()
    history = json.loads(lines[1])
    changes = {"task_id": "x", "task_name": 5, "state": "gone", "attempts": True, "enqueue_at": "1"}
    for column, value in changes.items():
        changed = {**history, "task": {**history["task"], column: value}}
        path.write_bytes(lines[0] + b"\n" + json.dumps(changed).encode())
        with pytest.raises(CorruptInputError, match="line 2"):
            read_histories_file(path)


def test_a_file_that_is_not_written_to_its_end_is_not_there(tmp_path: Path) -> None:
    """And what was there before stays."""
    path = tmp_path / "file"
    write_histories(path, [])
    before = path.read_bytes()

    def broken() -> Any:
        raise OSError("no more")
        yield

    with pytest.raises(OSError, match="no more"):
        write_histories(path, broken())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


async def test_advice_about_a_file_names_the_file(tmp_path: Path) -> None:
    """It named the list of the database's tasks, where there may be no database at all."""
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G"})
    path = tmp_path / "of a night.gz"
    (task,) = await backend.list_tasks(QUEUE)
    write_histories(path, await backend.histories(QUEUE, [task.task_id]))
    options = ["--folder", str(tmp_path), "history", "other", "--from", str(path)]
    shown = await asyncio.to_thread(CliRunner().invoke, app, options)
    assert f"contimg status --from '{path}' lists the tasks." in str(shown.exception)
