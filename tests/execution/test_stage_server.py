"""The stage server: what happens to stages when it dies, stops or cannot start."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from stage_executors import THREADS, server_in
from toy_stages import request_for

from absurd_contimg.execution import stage_server_process
from absurd_contimg.execution.executor import IsolatedStageExecutor, StageFailed, no_environment
from absurd_contimg.execution.fallback import ONE_THREAD, with_fallbacks
from absurd_contimg.execution.lease_watchdog import living_members
from absurd_contimg.execution.stage_server import StageServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StageServer]:
    with server_in(tmp_path / "server") as running:
        yield running


def executor(server: StageServer) -> IsolatedStageExecutor:
    return IsolatedStageExecutor(no_environment, server=server)


def server_pid(server: StageServer) -> int:
    assert server._process is not None
    return server._process.pid


def children_of(pid: int) -> list[int]:
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


async def test_stages_have_what_the_server_has_imported(
    tmp_path: Path, server: StageServer
) -> None:
    """And nothing of each other: environment, folder, output and module state are their own."""
    for number in range(3):
        request = request_for(tmp_path, "say process")
        report = await executor(server).execute(request)
        assert report.product is not None
        text = request.output_log.read_text()
        assert f"cwd {request.scratch}" in text
        assert f"tmp {request.scratch / 'tmp'}" in text
        assert "calls 1\n" in text, f"stage {number} sees what another has done"
        assert "imported by False" in text
        assert "descriptors 4\n" in text  # the standard ones and the pipe


def test_a_server_that_cannot_import_ends(tmp_path: Path) -> None:
    """CASA waited for its threads at the end of Python, so such servers of dead workers stayed."""
    (tmp_path / "waits_at_exit.py").write_text(
        "import atexit, time\natexit.register(time.sleep, 1e6)\nraise FileNotFoundError('gone')\n"
    )
    ours, its = socket.socketpair()
    with ours, its:
        program = [sys.executable, "-P", "-m", stage_server_process.__name__, str(its.fileno())]
        ended = subprocess.run(
            [*program, json.dumps([str(tmp_path)]), "waits_at_exit"],
            check=False,
            pass_fds=[its.fileno()],
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert ended.returncode == 1
    assert "FileNotFoundError: gone" in ended.stderr


async def test_stages_that_begin_together_have_one_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """CASA's overlay of its data is made once in a folder; a server after it has one of its own."""
    overlays: list[Path] = []

    def environment(folder: Path, log: Path) -> dict[str, str]:
        (folder / "measures").mkdir()
        overlays.append(folder)
        return dict(no_environment(folder, log))

    with StageServer(tmp_path / "server", environment, ["toy_stages"], THREADS) as server:
        for name in ("first", "second"):
            folders = [tmp_path / f"{name} {number}" for number in range(2)]
            for folder in folders:
                folder.mkdir()
            await asyncio.gather(
                *(executor(server).execute(request_for(folder)) for folder in folders)
            )
            os.kill(server_pid(server), signal.SIGKILL)
            await asyncio.to_thread(
                os.waitid, os.P_PID, server_pid(server), os.WEXITED | os.WNOWAIT
            )
    assert "without its server" not in caplog.text
    assert len(overlays) == 2


async def test_many_stages_at_once(tmp_path: Path, server: StageServer) -> None:
    """Each knows its own end."""
    folders = [tmp_path / str(number) for number in range(10)]
    for folder in folders:
        folder.mkdir()
    kinds = ["work", "segfault", "leave helper", "sys.exit", "raise from errno"] * 2
    requests = [request_for(*each) for each in zip(folders, kinds, strict=True)]
    ends = await asyncio.gather(
        *(executor(server).execute(request) for request in requests), return_exceptions=True
    )
    signals = [end.evidence.signal if isinstance(end, StageFailed) else 0 for end in ends]
    assert signals == [0, signal.SIGSEGV, 0, None, None] * 2


@pytest.mark.parametrize("do", ["work", "hang"])
async def test_server_that_is_killed_ends_no_stage(
    tmp_path: Path, server: StageServer, do: str
) -> None:
    """A stage goes on, succeeds or is killed at its deadline; the next has a new server."""
    await executor(server).execute(request_for(tmp_path))
    first = server_pid(server)
    request = request_for(tmp_path, do, seconds=1.0, deadline=30.0 if do == "work" else 3.0)
    running = asyncio.create_task(executor(server).execute(request))
    while not (request.scratch / "product").exists():
        await asyncio.sleep(0.01)
    os.kill(first, signal.SIGKILL)
    if do == "work":
        assert (await running).product is not None
    else:
        with pytest.raises(StageFailed, match="killed at its deadline"):
            await running
    await executor(server).execute(request_for(tmp_path))
    assert server_pid(server) != first


async def test_stage_whose_server_stands_still_ends_at_its_deadline(
    tmp_path: Path, server: StageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are stopped (SIGSTOP), and killed: a server that stands still reaps no stage."""
    monkeypatch.setattr("absurd_contimg.execution.stage_server._REPORT_SECONDS", 0.3)
    await executor(server).execute(request_for(tmp_path))
    first = server_pid(server)
    request = request_for(tmp_path, "hang", deadline=1.0)
    running = asyncio.create_task(executor(server).execute(request))
    while not (request.scratch / "product").exists():
        await asyncio.sleep(0.01)
    os.kill(first, signal.SIGSTOP)
    (stage,) = children_of(first)
    os.kill(stage, signal.SIGSTOP)
    with pytest.raises(StageFailed, match="killed at its deadline"):
        async with asyncio.timeout(10.0):
            await running
    assert living_members(first) == living_members(stage) == []
    assert (await executor(server).execute(request_for(tmp_path))).product is not None
    assert server_pid(server) != first


async def test_stage_starts_by_itself_where_the_server_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that dies while it imports, and one that is stopped."""
    (tmp_path / "dying.py").write_text("import os; os._exit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with StageServer(tmp_path / "server", no_environment, ["dying"], THREADS) as dying:
        assert (await executor(dying).execute(request_for(tmp_path))).product is not None
    assert "starts without its server" in caplog.text
    assert "output.log" in caplog.text
    caplog.clear()
    monkeypatch.setattr("absurd_contimg.execution.stage_server._START_SECONDS", 0.5)
    with server_in(tmp_path / "stopped") as stopped:
        stopped._launch()
        os.kill(server_pid(stopped), signal.SIGSTOP)
        assert (await executor(stopped).execute(request_for(tmp_path))).product is not None
    assert "starts without its server" in caplog.text


async def test_other_threads_have_a_process_of_their_own(
    tmp_path: Path, server: StageServer
) -> None:
    """Libraries read the number when they are imported."""
    request = request_for(tmp_path, "say threads")
    request = replace(request, context=with_fallbacks(request.context, [ONE_THREAD]))
    await executor(server).execute(request)
    assert "threads 1" in request.output_log.read_text()
    assert server._process is None


async def test_old_server_is_replaced_and_finishes_its_stages(
    tmp_path: Path, server: StageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker runs for months; CASA's tables have the date of the server's start."""
    request = request_for(tmp_path, seconds=1.0)
    running = asyncio.create_task(executor(server).execute(request))
    while not (request.scratch / "product").exists():
        await asyncio.sleep(0.01)
    first = server_pid(server)
    monkeypatch.setattr("absurd_contimg.execution.stage_server._RENEWAL_SECONDS", 0.0)
    (tmp_path / "other").mkdir()
    await executor(server).execute(request_for(tmp_path / "other"))
    assert server_pid(server) != first
    assert (await running).product is not None
    give_up = time.monotonic() + 10
    while len(server._retired) and time.monotonic() < give_up:
        server._retire()
        await asyncio.sleep(0.02)
    assert not server._retired
